"""A mount of a volume in memory, served in a thread of the test process while a test uses it.

A thread would deadlock with what the test does in the kernel if that held the interpreter lock;
Python's own file functions do not. Tests that need another user or a signal start a program.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from shmr.fuse.operations import Operations
from shmr.fuse.options import MountOptions
from shmr.fuse.session import serve
from tests.fuse.memory import MemoryVolume

LIMIT_S = 30.0


@dataclass
class Served:
    """A mounted volume; `stop` cancels the server and waits for its end."""

    path: Path
    volume: MemoryVolume
    operations: Operations | None = None
    commits: int = 0
    rooms: list[bool] = field(default_factory=list)
    failure: BaseException | None = None
    thread: threading.Thread | None = None
    cancel: Callable[[], None] = lambda: None

    def commit(self, told: Callable[[Exception | None], None]) -> None:
        failure: Exception | None = None
        try:
            self.volume.enter("commit")
            self.commits += 1
        except Exception as error:
            failure = error
        trio.lowlevel.current_trio_token().run_sync_soon(told, failure)

    async def make_room(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.rooms.pop(0) if self.rooms else False

    def wait(self) -> None:
        """Until the server has ended; raises what it raised."""
        assert self.thread is not None
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive(), "the server does not end"
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        self.cancel()
        self.wait()


@contextlib.contextmanager
def served(path: Path, options: MountOptions | None = None) -> Iterator[Served]:
    """Serve a new volume at `path` for the length of a `with`."""
    mount = Served(path, MemoryVolume())
    ready = threading.Event()

    async def run() -> None:
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            mount.cancel = lambda: _from_outside(token, scope.cancel)
            mount.operations = Operations(
                mount.volume, commit=mount.commit, make_room=mount.make_room
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(
                    serve, mount.operations, str(path), "memory", options or MountOptions()
                )
                ready.set()

    def thread() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            mount.failure = error
        finally:
            ready.set()

    mount.thread = threading.Thread(target=thread)
    mount.thread.start()
    assert ready.wait(LIMIT_S), "the server does not begin"
    try:
        if mount.failure is not None:
            raise mount.failure
        yield mount
    finally:
        mount.stop()


def _from_outside(token: trio.lowlevel.TrioToken, call: Callable[[], None]) -> None:
    with contextlib.suppress(trio.RunFinishedError):
        token.run_sync_soon(call)
