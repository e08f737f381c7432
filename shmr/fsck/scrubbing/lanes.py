"""A thread for each drive: file after file as they lie there, side by side with the other drives.

Who runs the lanes is told what comes of each file, and alone keeps the note and the report. A call
to a drive that does not come back in time is left behind with its thread, and the drive is read no
further; the others go on.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from shmr.archive.control import Stopped
from shmr.errors import DriveError, IntegrityError
from shmr.format import superblock
from shmr.fsck.scrubbing import fragment, frames
from shmr.fsck.scrubbing.inventory import (
    FragmentItem,
    Holding,
    Item,
    SegmentItem,
    add_what_is_there,
    in_order,
)
from shmr.fsck.scrubbing.reading import (
    READ_BYTES,
    REFUSED_MAX,
    Damage,
    GivenUp,
    Reader,
    Watch,
)

R = TypeVar("R")

POLL_S = 0.2
NEVER = -1
SUPERBLOCK = "superblock-"


@dataclass(frozen=True, slots=True)
class Begun:
    """What the lane is going to read. `earlier` were read before in the same round."""

    lane: Lane
    size_bytes: int
    earlier: int


@dataclass(frozen=True, slots=True)
class Done:
    """A file was read to its end. `gone`: it is not there. `open_ended`: more may be appended."""

    lane: Lane
    item: Item
    read_bytes: int
    damages: Sequence[Damage] = ()
    gone: bool = False
    open_ended: bool = False


@dataclass(frozen=True, slots=True)
class Superblocks:
    """Those of a drive were read; the newest does not verify where `damaged` says why."""

    lane: Lane
    name: str
    read_bytes: int
    damaged: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """The lane has come to its end, or was given up, or `stopped`, or failed as no lane should."""

    lane: Lane
    given_up: str | None = None
    stopped: bool = False
    failure: BaseException | None = None


Event = Begun | Done | Superblocks | Ended


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all lanes. `pace(bytes)` may wait; `patience_s` is for one call to a drive.

    `clock` gives seconds from some moment on. `ahead`: another thread of each lane reads ahead.
    """

    stop: Callable[[], bool]
    pace: Callable[[int], None]
    patience_s: float
    mounted: bool
    ahead: bool = True
    clock: Callable[[], float] = time.monotonic


@dataclass(eq=False, slots=True)
class Lane:
    """One drive. `times` tells when files were verified; those of `since_s` and later are left."""

    holding: Holding
    times: Callable[[Sequence[int]], Mapping[int, int]]
    since_s: int
    terms: Terms
    tell: Callable[[Event], None] = field(init=False)
    left: bool = field(default=False, init=False)
    """Nobody waits for it any more."""
    _asked_s: dict[int, float] = field(default_factory=dict, init=False)
    """Since when each thread waits for the drive."""
    _refused: int = field(default=0, init=False)

    # -- for whoever runs it ----------------------------------------------------------------

    def is_late(self) -> bool:
        """Has the drive not answered for too long?"""
        first = min(self._asked_s.copy().values(), default=None)
        return first is not None and self.terms.clock() - first > self.terms.patience_s

    def run(self) -> None:
        """Everything, in this thread. Tells how it ended, whatever happens."""
        try:
            self._run()
            self.tell(Ended(self))
        except Stopped:
            self.tell(Ended(self, stopped=True))
        except (GivenUp, DriveError) as error:
            self.tell(Ended(self, given_up=str(error)))
        except BaseException as error:
            self.tell(Ended(self, failure=error))

    def _run(self) -> None:
        holding, during = self.holding, self.during
        self._superblocks()
        add_what_is_there(holding, during)
        times = self.times([item.number for item in holding.items])
        todo = [item for item in holding.items if times.get(item.number, NEVER) < self.since_s]
        sizes = sum(item.size_bytes(holding.filesystem) for item in todo)
        self.tell(Begun(self, sizes, len(holding.items) - len(todo)))
        for item in in_order(holding.drive, todo, during):
            self.before(0)
            self.tell(self._file(item))

    def _superblocks(self) -> None:
        """The one of the highest generation counts: does it verify?"""
        drive, read = self.holding.drive, 0
        names = sorted(n for n in self.during(drive.names) if n.startswith(SUPERBLOCK))
        damaged = None
        for name in names:
            damaged = None
            try:
                content = self.during(partial(drive.get, name))
                read += len(content)
                superblock.decode(content)
            except (DriveError, IntegrityError) as error:
                damaged = str(error)
        self.tell(Superblocks(self, names[-1] if names else "", read, damaged))

    def _file(self, item: Item) -> Done:
        drive, during = self.holding.drive, self.during
        try:
            size = during(partial(drive.size, item.file))
            file = during(partial(drive.open, item.file))
        except DriveError as error:
            if error.errno == errno.ENOENT:
                return Done(self, item, 0, gone=True)
            self.refused(error)
            length = item.size_bytes(self.holding.filesystem)
            return Done(self, item, 0, [Damage(0, length, str(error), "file")])
        reader = None
        try:
            first = fragment.FIRST_BYTES if isinstance(item, FragmentItem) else READ_BYTES
            reader = Reader(file, size, self, first_bytes=first, ahead=self.terms.ahead)
            if isinstance(item, SegmentItem):
                found = frames.examine(reader, replace(item.expected, size_bytes=size))
                damages: Sequence[Damage] = found.damages
                open_ended = self.terms.mounted and not item.kept and found.end < size
            else:
                damages, open_ended = self._fragment(reader, item, size), False
        finally:
            if not self.left:
                if reader is not None:
                    reader.close()
                file.close()
        return Done(self, item, reader.read_bytes, damages, open_ended=open_ended)

    def _fragment(self, reader: Reader, item: FragmentItem, size: int) -> list[Damage]:
        name = item.name
        return fragment.examine(
            reader, size, self.holding.filesystem, name.segment, item.archived, name.fragment
        )

    # -- standing by ------------------------------------------------------------------------

    def before(self, length: int) -> None:
        if self.left:
            raise GivenUp("nobody waits for it")
        if self.terms.stop():
            raise Stopped()
        if length:
            self.terms.pace(length)
            if self.terms.stop():
                raise Stopped()

    def during(self, call: Callable[[], R]) -> R:
        thread = threading.get_ident()
        self._asked_s[thread] = self.terms.clock()
        try:
            return call()
        finally:
            del self._asked_s[thread]
            if self.left:
                raise GivenUp("nobody waits for it")

    def refused(self, error: DriveError) -> None:
        self._refused += 1
        if self._refused > REFUSED_MAX:
            raise GivenUp(
                f"it refused to read {REFUSED_MAX} times, the last time: {error}; replace it"
            )


_: type[Watch] = Lane


def run_inline(lanes: Sequence[Lane], handle: Callable[[Event], None]) -> None:
    """One after the other, in this thread: for simulations."""
    for lane in lanes:
        lane.tell = handle
        lane.run()


def run_in_threads(lanes: Sequence[Lane], handle: Callable[[Event], None]) -> None:
    """Side by side; `handle` is called in this thread. A drive that hangs is left behind."""
    events: SimpleQueue[Event] = SimpleQueue()
    going = set(lanes)
    for lane in lanes:
        lane.tell = events.put
        threading.Thread(target=lane.run, name=f"scrub {lane.holding.label}", daemon=True).start()
    while going:
        with suppress(Empty):
            event = events.get(timeout=POLL_S)
            if event.lane.left:
                continue
            if isinstance(event, Ended):
                going.discard(event.lane)
            handle(event)
        for lane in [lane for lane in going if lane.is_late()]:
            lane.left = True
            going.discard(lane)
            handle(Ended(lane, given_up=f"no answer for {lane.terms.patience_s:g} s"))
