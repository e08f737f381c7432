"""The bytes of a file, from whatever drives there are: what can be had, and what is lost.

    for part in contents.parts(inode):
        Data     bytes that were verified
        Hole     nothing was ever written there
        Lost     they cannot be had: why, and which drives would be needed

The parts tile [0, size), but where extents overlap: then one that comes later, with a lower offset,
is of a higher segment and counts. Bytes are read in windows; only where a window cannot be read is
it cut into what one checksum covers, and each of these tried.

`standing` tells the same from metadata alone: it reads footers, no units.

Left to others: verifying and decoding (`shmr.log`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple

from shmr.catalog.reading import Reading
from shmr.core.stripe import Geometry
from shmr.drive.seam import Buffer
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.archived import Archived
from shmr.format.frame import GRANULE, LENGTH_MAX
from shmr.format.rows import Address, Extent, Inode, Table, decode_extent, key_of, split_pair
from shmr.log.reader import LogReader
from shmr.units import GIB, MIB

WINDOW_BYTES = MIB
_KNOWN_MAX = 4096
_SPARE_BYTES = 64 * MIB
RANGES_SHOWN = 20
"""Ranges that are listed of a file; the rest is summed up."""
SEGMENT_END = 4 * GIB
"""No segment is longer (FORMAT.md section 10)."""


class Data(NamedTuple):
    offset: int
    content: Buffer


class Hole(NamedTuple):
    offset: int
    length: int


class Lost(NamedTuple):
    """`drives` are the ids of missing drives, any of which brings the bytes nearer."""

    offset: int
    length: int
    why: str
    drives: tuple[bytes, ...] = ()


Part = Data | Hole | Lost


class Losses:
    """What of a file could not be read; ranges that touch are one."""

    def __init__(self) -> None:
        self.bytes = 0
        self.count = 0
        self.ranges: list[tuple[int, int]] = []
        self.reasons: dict[str, None] = {}
        self._end = -1

    def add(self, lost: Lost) -> None:
        end = lost.offset + lost.length
        self.bytes += lost.length
        if lost.offset == self._end and len(self.ranges) == self.count:
            self.ranges[-1] = self.ranges[-1][0], end
        elif lost.offset != self._end:
            self.count += 1
            if self.count <= RANGES_SHOWN:
                self.ranges.append((lost.offset, end))
        self._end = end
        if len(self.reasons) < 4:
            self.reasons[lost.why] = None

    def __str__(self) -> str:
        ranges = ", ".join(f"{start}..{end}" for start, end in self.ranges)
        more = f" and {self.count - len(self.ranges)} more" * (self.count > len(self.ranges))
        return f"bytes {ranges}{more} cannot be had ({'; '.join(self.reasons)})"


class Standing(StrEnum):
    """How much of a file is there, as far as the metadata on the drives tells."""

    WHOLE = "whole"
    PARTLY = "partly"
    LOST = "lost"


class _Segment(NamedTuple):
    """What is known of a segment.

    `present` are the fragments whose footers are those that the row means; of a workspace segment
    that is there, one.
    """

    archived: Archived | None
    present: frozenset[int]
    missing: tuple[bytes, ...]
    why: str


class Contents:
    """Reads files. `held_bytes` is what lies on all drives: nothing can give more than that."""

    def __init__(
        self,
        reading: Reading,
        reader: LogReader,
        label: Callable[[bytes], str],
        held_bytes: int,
    ) -> None:
        self._reading = reading
        self._reader = reader
        self._label = label
        self._left_bytes = 2 * held_bytes + _SPARE_BYTES
        self._known: OrderedDict[int, _Segment] = OrderedDict()
        self._rows: OrderedDict[int, Archived | None] = OrderedDict()
        reader.archived = self._archived

    def parts(self, inode: Inode) -> Iterator[Part]:
        """The whole file. Raises SetupError where more comes out than can be on the drives."""
        for extent in self._tiles(inode):
            if isinstance(extent, Lost):
                yield extent
            elif extent.address is None:
                yield Hole(extent.offset, extent.length)
            else:
                yield from self._read(inode.number, extent, extent.address)

    def standing(self, inode: Inode) -> Standing:
        """Whether the file could be read. Raises DriveError, IntegrityError never."""
        there = gone = False
        for extent in self._tiles(inode):
            if isinstance(extent, Lost):
                gone = True
            elif extent.address is not None:
                for _, readable in self._runs(extent, extent.address):
                    there, gone = there or readable, gone or not readable
            if there and gone:
                return Standing.PARTLY
        return Standing.LOST if gone else Standing.WHOLE

    # -- which bytes there should be ----------------------------------------------------------

    def _tiles(self, inode: Inode) -> Iterator[Extent | Lost]:
        """Extents up to the end of the file, and the gaps between them."""
        at, last = 0, -1
        for extent in self._extents(inode.number):
            part: Extent | None = extent.clip(0, inode.size)
            if part is None:
                continue
            segment = -1 if part.address is None else part.address.segment
            if part.offset > at:
                yield _gap(at, part.offset)
            elif part.offset < at and segment <= last:
                part = part.clip(at, inode.size)
                if part is None:
                    continue
            yield part
            if part.end >= at:
                at, last = part.end, segment
        if at < inode.size:
            yield _gap(at, inode.size)

    def _extents(self, inode: int) -> Iterator[Extent]:
        """The extents of an inode that can be decoded; where one cannot, there is a gap."""
        for key, value in self._reading.rows(Table.EXTENT, key_of(inode)):
            try:
                yield decode_extent(split_pair(key)[1], value)
            except IntegrityError:
                continue

    # -- reading ------------------------------------------------------------------------------

    def _read(self, inode: int, extent: Extent, address: Address) -> Iterator[Part]:
        for run, readable in self._runs(extent, address):
            if not readable:
                yield self._lost(run, "no such place in it")
                continue
            for start in range(run.offset, run.end, WINDOW_BYTES):
                window = run.clip(start, min(run.end, start + WINDOW_BYTES))
                assert window is not None
                found = self._fetch(inode, window)
                if isinstance(found, str):
                    yield from self._grains(inode, window, found)
                else:
                    yield Data(window.offset, found)

    def _runs(self, extent: Extent, address: Address) -> Iterator[tuple[Extent, bool]]:
        """The extent, cut where it can be read and where not, as far as metadata tells."""
        segment = self._segment(address.segment)
        archived = segment.archived
        if not segment.present or not _is_possible(extent, address, archived):
            yield extent, False
        elif archived is None or len(segment.present) >= archived.k:
            yield extent, True
        else:
            # Too few to decode from: what lies in fragments that are there can be read.
            at, end = address.skip, address.skip + extent.length
            while at < end:
                index = at // archived.data_bytes
                until = min(end, (index + 1) * archived.data_bytes)
                start = extent.offset - address.skip
                run = extent.clip(start + at, start + until)
                assert run is not None
                yield run, index in segment.present
                at = until

    def _grains(self, inode: int, window: Extent, failure: str) -> Iterator[Part]:
        """What can be had of a window that cannot be read in one."""
        grains = list(self._cut(window))
        for grain in grains:
            found = self._fetch(inode, grain) if len(grains) > 1 else failure
            if isinstance(found, str):
                yield self._lost(grain, found)
            else:
                yield Data(grain.offset, found)

    def _cut(self, window: Extent) -> Iterator[Extent]:
        """The window, cut where one checksum ends and the next begins."""
        address = window.address
        assert address is not None
        try:
            archived = self._archived(address.segment)
            ends = _ends(archived, address.skip, window.length)
        except (IntegrityError, ValueError):
            ends = [window.length]
        start = 0
        for end in ends:
            grain = window.clip(window.offset + start, window.offset + end)
            if grain is not None:
                yield grain
            start = end

    def _fetch(self, inode: int, window: Extent) -> Buffer | str:
        """The bytes, or why they cannot be had. Raises SetupError where there is no end to them.

        Not the error itself: with it goes all that was in memory where it was raised.
        """
        try:
            plan = self._reader.plan(inode, [window])
            try:
                content = plan.fetch()
            finally:
                plan.release()
        except (IntegrityError, DriveError) as error:
            return str(error)
        except MemoryError:
            return "more memory would be needed than there is"
        # No two files share bytes: whoever says that they do wants a disk to be filled.
        self._left_bytes -= len(content)
        if self._left_bytes < 0:
            raise SetupError(
                "more bytes come out of these drives than lie on them: they were forged. Nothing "
                "more is written; --path gets single files"
            )
        return content

    def _lost(self, grain: Extent, error: str) -> Lost:
        address = grain.address
        assert address is not None
        segment = self._segment(address.segment)
        why = segment.why or f"segment {address.segment}: {error}"
        return Lost(grain.offset, grain.length, why, segment.missing)

    # -- what is known of segments ------------------------------------------------------------

    def _archived(self, number: int) -> Archived | None:
        """The row of an archived segment, a few of which are kept. Raises IntegrityError."""
        if number in self._rows:
            self._rows.move_to_end(number)
            return self._rows[number]
        row = self._rows[number] = self._reading.archived(number)
        if len(self._rows) > _KNOWN_MAX:
            self._rows.popitem(last=False)
        return row

    def _segment(self, number: int) -> _Segment:
        """What there is of a segment, some of which are kept."""
        known = self._known.get(number)
        if known is None:
            known = self._known[number] = self._looked_at(number)
            if len(self._known) > _KNOWN_MAX:
                self._known.popitem(last=False)
        self._known.move_to_end(number)
        return known

    def _looked_at(self, number: int) -> _Segment:
        try:
            archived = self._archived(number)
        except IntegrityError as error:
            return _Segment(None, frozenset(), (), f"segment {number}: {error}")
        if archived is None:
            if number in self._reader.store.segments:
                return _Segment(None, frozenset((0,)), (), "")
            why = f"segment {number} was on a workspace drive that is not there"
            return _Segment(None, frozenset(), (), why)
        fragments = self._reader.gather.fragments
        present, missing, bad = set(), [], []
        for index, placed in enumerate(archived.fragments):
            if placed.drive not in fragments.drives:
                missing.append(placed.drive)
                continue
            try:
                fragments.footer(number, archived, index)
                present.add(index)
            except (IntegrityError, DriveError) as error:
                bad.append(f"fragment {index} on {fragments.label(placed.drive)}: {error}")
        why = ""
        lack = archived.k - len(present)
        if lack > 0:
            why = f"segment {number}: {len(present)} of the {archived.k} fragments that it needs"
            if missing:
                count = "one" if lack == 1 else str(lack)
                labels = ", ".join(map(self._label, missing))
                why += f"; {count} of these drives would do: {labels}"
            why = "; ".join([why, *bad])
        return _Segment(archived, frozenset(present), tuple(missing) if lack > 0 else (), why)


def _gap(start: int, end: int) -> Lost:
    return Lost(start, end - start, "no extent says where these bytes are")


def _geometry(archived: Archived) -> Geometry:
    return Geometry(archived.k, archived.m, archived.data_bytes, archived.unit_bytes)


def _is_possible(extent: Extent, address: Address, archived: Archived | None) -> bool:
    """Can there be such a place? Nothing is asked of a drive that no writer could have meant."""
    if archived is None:
        return address.payload <= LENGTH_MAX and address.frame < SEGMENT_END
    end = address.skip + extent.length
    return (address.frame, address.payload) == (0, archived.used_bytes) and end <= address.payload


def _ends(archived: Archived | None, skip: int, length: int) -> list[int]:
    """Where checksums end in `length` bytes from `skip` on. Raises ValueError."""
    if archived is None:
        first = GRANULE - skip % GRANULE
        return [*range(first, length, GRANULE), length]
    ends, at = [], 0
    for piece in _geometry(archived).pieces(skip, length):
        at += piece.length
        ends.append(at)
    return ends
