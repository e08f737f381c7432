"""Bytes read without some of the drives, and compared with what is on these.

Of an archived segment every data unit is read, and those of drives that are taken away are decoded
from what is left; then compared with the unit that lies there. Of the workspace what files have in
it is read from the copies that are left, and compared with the others. All of it is verified by its
checksums besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shmr.archive.rewrite import RUN_BYTES, runs_of
from shmr.core.stripe import UnitPlace
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived
from shmr.format.rows import Extent
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind, Where
from shmr.log.gather import Gather
from shmr.log.reader import LogReader
from shmr.units import MIB

PIECE_BYTES = 4 * MIB
REMEDY = "mend it, and find all that is like it, by `shmr-fsck scrub`"
Pulse = Callable[[int], None]
"""Told how many bytes are going to be read: it may wait, and may raise."""


@dataclass(slots=True)
class Tried:
    """What was read. `decoded_bytes` were not on the drives that are left; `compared_bytes` of all
    are also those that lie on the drives that were taken away."""

    segments: int = 0
    read_bytes: int = 0
    decoded_bytes: int = 0
    compared_bytes: int = 0
    files: int = 0
    damaged: int = 0
    findings: list[Finding] = field(default_factory=list)

    def find(self, kind: Kind, message: str, where: Where) -> None:
        """Something is wrong that a rebuild can do without. All are counted, the first are kept."""
        self.damaged += 1
        if len(self.findings) < KEPT_PER_KIND:
            self.findings.append(Finding(kind, message, where, REMEDY))


class Unlike(IntegrityError):
    """What was decoded is not what is there."""


class Contents:
    """Reads without some drives (`left`) what all of them (`real`) have."""

    def __init__(self, left: Gather, real: Gather, tried: Tried, pulse: Pulse) -> None:
        self._left = left
        self._real = real
        self._tried = tried
        self._pulse = pulse

    def segment(self, number: int, archived: Archived) -> None:
        """All data units of an archived segment. Raises IntegrityError, DriveError."""
        there = self._left.fragments.drives
        data = archived.fragments[: archived.k]
        away = [index for index, placed in enumerate(data) if placed.drive not in there]
        for run in runs_of(archived, RUN_BYTES // archived.k):
            size = self._size(archived, run)
            self._pulse(size * archived.k)
            places = [UnitPlace(index, unit) for unit in run for index in range(archived.k)]
            found = self._left.units(number, archived, places)
            self._tried.read_bytes += size * archived.k
            self._tried.decoded_bytes += size * len(away)
            for index in away:
                self._compare(number, archived, index, run, found)
        self._tried.segments += 1

    def _compare(
        self,
        number: int,
        archived: Archived,
        index: int,
        run: range,
        found: dict[UnitPlace, bytes],
    ) -> None:
        """Decoded units against those on the drive that was taken away, if it is there."""
        if archived.fragments[index].drive not in self._real.fragments.drives:
            return
        self._pulse(self._size(archived, run))
        try:
            real = self._real.fragments.read(number, archived, index, run)
        except (DriveError, IntegrityError) as error:
            where = Where(segment=number, fragment=index)
            what = f"segment {number}, fragment {index}: {error}"
            self._tried.find(Kind.UNIT_DAMAGED, what, where)
            return
        for unit, outcome in real.items():
            if not isinstance(outcome, bytes):
                where = Where(segment=number, fragment=index, unit=unit)
                what = f"segment {number}, fragment {index}, unit {unit}: {outcome}"
                self._tried.find(Kind.UNIT_DAMAGED, what, where)
            elif outcome != found[UnitPlace(index, unit)]:
                raise Unlike(
                    f"segment {number}, fragment {index}, unit {unit}: decoded without its drive "
                    "it is another than the one that lies there"
                )
            else:
                self._tried.compared_bytes += len(outcome)

    @staticmethod
    def _size(archived: Archived, run: range) -> int:
        end = min(run.stop * archived.unit_bytes, archived.data_bytes)
        return max(0, end - run.start * archived.unit_bytes)


class InWorkspace:
    """Reads from the copies that are left what files have in the workspace."""

    def __init__(self, left: LogReader, away: LogReader | None, tried: Tried, pulse: Pulse) -> None:
        """`away` has the copies that were taken away, if there are any."""
        self._left = left
        self._away = away
        self._tried = tried
        self._pulse = pulse

    def extent(self, inode: int, extent: Extent) -> None:
        """Raises IntegrityError, DriveError."""
        for piece in _pieces(extent):
            self._pulse(piece.length)
            found = _fetched(self._left, inode, piece)
            self._tried.read_bytes += piece.length
            address = piece.address
            if self._away is None or address is None:
                continue
            if address.segment not in self._away.store.segments:
                continue
            try:
                other = _fetched(self._away, inode, piece)
            except (DriveError, IntegrityError) as error:
                where = Where(inode=inode, offset=piece.offset, length=piece.length)
                what = f"inode {inode}, offset {piece.offset}: {error}"
                self._tried.find(Kind.BYTES_DAMAGED, what, where)
                continue
            if other != found:
                raise Unlike(f"inode {inode}, offset {piece.offset}: its copies differ")
            self._tried.compared_bytes += piece.length


def _pieces(extent: Extent) -> Iterator[Extent]:
    for start in range(extent.offset, extent.end, PIECE_BYTES):
        piece = extent.clip(start, min(extent.end, start + PIECE_BYTES))
        assert piece is not None, "it is inside"
        yield piece


def _fetched(reader: LogReader, inode: int, piece: Extent) -> bytes:
    plan = reader.plan(inode, [piece])
    try:
        return bytes(plan.fetch())
    finally:
        plan.release()
