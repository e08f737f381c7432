"""All handlers of a mount: which request is answered where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shmr.fuse.known import Known
from shmr.fuse.loop import Handler, Reply
from shmr.fuse.protocol import Head, Opcode
from shmr.fuse.reads import ReadTimes
from shmr.fuse.requests.attributes import AttributeRequests
from shmr.fuse.requests.directories import DirectoryRequests
from shmr.fuse.requests.files import FileRequests
from shmr.fuse.requests.names import NameRequests
from shmr.fuse.requests.xattrs import XattrRequests
from shmr.fuse.seam import Commit, Volume


class Operations:
    """The handlers by opcode. `commit` makes everything so far durable; `make_room` frees space."""

    def __init__(
        self,
        volume: Volume,
        *,
        commit: Commit,
        make_room: Callable[[], Awaitable[bool]],
        count_reads: bool = True,
    ) -> None:
        """`count_reads`: whether reading moves atime (relatime)."""
        self.make_room = make_room
        self.idle_calls: list[Callable[[], None]] = []
        """What is to be called when the requests at hand are answered."""
        self.known = Known(volume.handles)
        times = ReadTimes(volume.attributes, counts=count_reads)
        attributes = AttributeRequests(volume.attributes, self.known, times, volume.usage)
        parts = (
            NameRequests(volume.names, self.known),
            attributes,
            DirectoryRequests(volume.names, volume.attributes, self.known, times, commit),
            FileRequests(
                volume.names,
                volume.data,
                volume.holes,
                volume.attributes,
                attributes,
                self.known,
                times,
                commit,
            ),
            XattrRequests(volume.xattrs, volume.attributes),
        )
        self.handlers: dict[int, Handler] = {
            Opcode.INTERRUPT: _ignored,
            Opcode.DESTROY: _done,
        }
        for part in parts:
            self.handlers.update(part.handlers)

    def when_idle(self, call: Callable[[], None]) -> None:
        """Have `call` called once, when the requests at hand are answered. Only in a handler."""
        self.idle_calls.append(call)


def _ignored(node: int, body: memoryview, head: Head) -> Reply:
    return None


def _done(node: int, body: memoryview, head: Head) -> Reply:
    return 0
