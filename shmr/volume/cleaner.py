"""The cleaner: rewrites what lives in the least-live data segments, so that they can go.

One victim at a time, in bounded steps, each of three beats: the reading of headers or bytes is
handed out as a job, then on the volume's thread the extents that still point there are appended
anew and switched, all in one operation. A write that came in between wins, because the extent
then no longer points there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from typing import Any, TypeVar

from shmr.core.victim import SegmentUse, choose
from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import Kind
from shmr.format.records import Stream
from shmr.format.rows import Extent, Row
from shmr.log import walk
from shmr.units import MIB
from shmr.volume.context import Context

logger = logging.getLogger(__name__)

R = TypeVar("R")
Work = Generator[Callable[[], Any], Any, R]
"""A job in pieces: yields callables that may wait, is sent their results. All else it does
between is on the volume's thread."""

STEP_BYTES = 1 * MIB
STEP_FRAMES = 256
DEAD_SHARE = 0.5
"""Without need, only victims of which at least this share is dead are cleaned."""
DEAD_SHARE_PRESSED = 0.02
"""When space is short, anything that wins a little."""


class Cleaner:
    """Chooses victims and moves what lives in them."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failed = False
        self._skip: set[int] = set()
        """Segments that cannot be cleaned: a frame of theirs is damaged on every copy."""

    def victim(self, *, pressed: bool) -> int | None:
        """The next segment to clean, or None: nothing is worth it."""
        context = self._context
        store, live = context.reader.store, context.catalog.live
        for number in list(store.damaged):
            if context.log.is_open(number):
                continue
            if number not in self._skip and live.get(number, 0) > 0 and store.copies > 1:
                return number
        closed = [
            s
            for s in store.segments.values()
            if s.stream == Stream.DATA
            and not context.log.is_open(s.number)
            and s.number not in self._skip
        ]
        if not pressed:
            # Moving them takes more space than it gives back.
            for segment in closed:
                if store.lacks_copies(segment) and live.get(segment.number, 0) > 0:
                    return segment.number
        uses = (SegmentUse(s.number, s.size_bytes, live.get(s.number, 0)) for s in closed)
        share = DEAD_SHARE_PRESSED if pressed else DEAD_SHARE
        return choose(uses, newest=store.next_number, dead_share_min=share)

    def clean(self, number: int) -> Work[int]:
        """Move everything that lives in segment `number`; returns the bytes moved.

        Raises NoSpace, DriveError. The segment goes at the next checkpoint.
        """
        context = self._context
        store = context.reader.store
        store.pin(number)
        moved = 0
        self._failed = False
        try:
            files = store.copies_of(number)
            headers = self._headers(files, number)
            while context.catalog.live.get(number, 0) > 0:
                some = yield lambda: list(islice(headers, STEP_FRAMES))
                if not some:
                    break
                for found in some:
                    if found.header.kind == Kind.DATA:
                        moved += yield from self._move(number, found)
        except DriveError as error:
            logger.error("segment %d: %s", number, error)
            self._failed = True
        finally:
            store.unpin(number)
        if self._failed:
            logger.error("segment %d cannot be cleaned: something in it cannot be read", number)
            self._skip.add(number)
        return moved

    def _headers(self, files: tuple[DriveFile, ...], number: int) -> Iterator[walk.Found]:
        store = self._context.reader.store
        opening = walk.opening_of(files, store.filesystem, number)
        if opening is not None:
            first = opening[0]
            yield from walk.walk(files, first.end, first.header.checksum, first.header)

    def _move(self, number: int, found: walk.Found) -> Work[int]:
        """Append anew what still points into one frame."""
        header = found.header
        start, end = header.position, header.position + header.length
        living = self._living(header.owner, start, end, number, found.at)
        if not living:
            return 0
        plan = self._context.reader.plan(header.owner, living)
        try:
            payload = yield plan.fetch
        except (IntegrityError, DriveError):
            # Reported by the reader. What is damaged stays where it is, for a better copy.
            self._failed = True
            return 0
        finally:
            plan.release()
        moved, at = 0, 0
        rows: list[Row] = []
        for extent in living:
            part = memoryview(payload)[at : at + extent.length]
            at += extent.length
            # Only what still is where it was when it was read.
            if extent not in self._living(header.owner, start, end, number, found.at):
                continue
            new = self._context.append_data(
                header.owner,
                extent.offset,
                part,
                reserve_bytes=self._context.reserves.clean_bytes,
                moving=True,
            )
            rows += (piece.row(header.owner) for piece in new)
            moved += extent.length
        self._context.apply(rows)
        return moved

    def _living(self, inode: int, start: int, end: int, segment: int, frame: int) -> list[Extent]:
        """Extents of `inode` in [start, end) that are in that frame."""
        return [
            extent
            for extent in self._context.catalog.extents(inode, start, end)
            if extent.address is not None
            and (extent.address.segment, extent.address.frame) == (segment, frame)
        ]


def run_inline(work: Work[R]) -> R:
    """Do all of the work on this thread: for tools and simulations.

    When this ends the work has, too, and all it had begun: also when it was interrupted.
    """
    result: Any = None
    try:
        call = next(work)
        while True:
            try:
                result = call()
            except Exception as error:
                call = work.throw(error)
            else:
                call = work.send(result)
    except StopIteration as stop:
        value: R = stop.value
        return value
    finally:
        work.close()
