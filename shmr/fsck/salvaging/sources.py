"""Where the rows of a salvaged catalog come from: the best that is left on the drives.

    the journal           whole, from its beginning or from a snapshot
    a snapshot            of which every frame verifies on some drive; the newest such
    a damaged snapshot    the frames of the newest one that verify; what the others had is not known
    nothing               then footers are all there is

A journal that ends in a gap counts as far as it goes, unless a whole snapshot is of a later place.
Each attempt has a catalog of its own, in a directory `work`.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from pathlib import Path

from shmr.catalog.catalog import Catalog
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.frame import Kind
from shmr.format.records import Stream, decode_meta
from shmr.format.rows import ROOT, Place, Table, decode_place
from shmr.fsck.salvaging.tree import Numbers
from shmr.fsck.salvaging.untrusted import OnlyRead, Sifter, SnapshotCopies
from shmr.log import snapshot, walk
from shmr.log.store import Segment, SegmentStore
from shmr.volume.recover import recover

logger = logging.getLogger(__name__)

WAITING_MAX = 300_000
"""Rows that may wait for the COMMIT that makes them durable: a batch has some ten thousand."""
NOWHERE = Place(0, 0, 0, 0, 0)
Begin = Callable[[str, int], Callable[[int], None]]
"""Told what begins, and how many bytes it has; what it returns is told how many are done."""


class Source(StrEnum):
    """What a catalog was made from."""

    JOURNAL = "journal"
    SNAPSHOT = "snapshot"
    DAMAGED = "damaged-snapshot"
    FOOTERS = "footers"


@dataclass(frozen=True, slots=True)
class Rows:
    """A catalog with rows of one source, not committed.

    The fields are those of `salvage.Salvaged`; segments above the number `above` are newer than
    the rows.
    """

    catalog: Catalog
    source: Source
    place: Place = NOWHERE
    snapshot_ns: int | None = None
    corrupt: str | None = None
    above: int = 0
    lost_frames: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    highest: int = 0
    """Inode number."""


class Sources:
    """The drives that are left. `workspace` are those with segments, `archive` the others."""

    def __init__(
        self,
        filesystem: bytes,
        workspace: Sequence[Drive],
        archive: Iterable[Drive],
        work: Path,
        begin: Begin,
    ) -> None:
        self.notes: list[str] = []
        """What was found and done, in sentences."""
        self._filesystem = filesystem
        self._begin = begin
        self._paths = (work / str(number) for number in count(1))
        copies = [SnapshotCopies(drive) for drive in archive]
        answering = list(self._answering(workspace))
        self.store = self._store([*answering, *copies])
        try:
            self.store.scan()
        except SetupError as error:
            self.notes.append(f"the workspace is not looked at: {error}")
            self.store = self._store(copies)
            self.store.scan()

    def _store(self, drives: Sequence[Drive]) -> SegmentStore:
        return SegmentStore(self._filesystem, drives, 1, 0, lambda: 0)

    def _answering(self, drives: Sequence[Drive]) -> Iterator[Drive]:
        for drive in drives:
            try:
                drive.names()
            except DriveError as error:
                self.notes.append(f"a drive is not looked at: {error}")
                continue
            yield OnlyRead(drive)

    def close(self) -> None:
        self.store.close()

    def until(self, place: Place) -> Rows:
        """The journal up to there. Raises SetupError if it cannot be replayed so far."""
        rows = self._journal(place)
        if rows is not None and rows.corrupt is None:
            return rows
        if rows is not None:
            rows.catalog.close()
        raise SetupError(f"the journal cannot be replayed to frame {place.sequence}")

    def of(self, number: int) -> Rows:
        """The snapshot whose first segment has this number. Raises SetupError, DriveError."""
        for one in snapshot.find(self.store):
            if one.segments[0].number == number:
                found = self._snapshot(one)
                if found is not None:
                    return found
        raise SetupError(
            f"snapshot {number} is on none of these drives whole; there are "
            + (", ".join(map(str, sorted(self._firsts()))) or "none")
        )

    def _firsts(self) -> Iterator[int]:
        """The first number of each snapshot."""
        return (one.segments[0].number for one in snapshot.find(self.store))

    def best(self) -> Rows | None:
        """The best there is; None if no row is to be had. Raises DriveError."""
        rows = self._journal(None)
        if rows is not None and rows.corrupt is None:
            return rows
        reached = -1 if rows is None else rows.place.sequence
        for one in snapshot.find(self.store):
            if one.place.sequence > reached:
                found = self._snapshot(one)
                if found is not None:
                    if rows is not None:
                        rows.catalog.close()
                        self.notes.append(f"the journal: {rows.corrupt}")
                    return found
        if rows is not None:
            return rows
        for group in self._groups():
            found = self._damaged(group)
            if found is not None:
                return found
        return None

    def nothing(self) -> Rows:
        """A catalog without any row."""
        return Rows(self._new(), Source.FOOTERS)

    def _new(self) -> Catalog:
        return Catalog(next(self._paths))

    def _sifter(self, phase: str, segments: Iterable[Segment]) -> Sifter:
        of_rows = (segment for segment in segments if segment.stream != Stream.DATA)
        return Sifter(self._begin(phase, sum(segment.size_bytes for segment in of_rows)))

    # -- one source each --------------------------------------------------------------------

    def _journal(self, until: Place | None) -> Rows | None:
        if not self.store.of_stream(Stream.JOURNAL):
            return None
        sifter = self._sifter("journal", self.store.segments.values())
        path = next(self._paths)
        try:
            recovered = recover(
                self.store,
                path,
                read_only=True,
                in_child=False,
                sift=sifter,
                until=until,
                waiting_max=WAITING_MAX,
            )
        except (SetupError, IntegrityError, DriveError) as error:
            self.notes.append(f"the journal: {error}")
            return None
        catalog = recovered.catalog
        if recovered.place is None or catalog.inode(ROOT) is None:
            catalog.close()
            return None
        self.notes += recovered.report
        return Rows(
            catalog,
            Source.JOURNAL,
            recovered.place,
            corrupt=recovered.corrupt,
            left_out=dict(sifter.left_out),
            highest=sifter.highest,
        )

    def _snapshot(self, one: snapshot.Snapshot) -> Rows | None:
        """All rows of a snapshot; None where a frame verifies on no drive."""
        sifter = self._sifter("snapshot", one.segments)
        first = one.segments[0].number
        catalog = self._new()
        try:
            for rows in snapshot.rows_of(self.store, one):
                catalog.replay(sifter(rows))
            made_ns = self._made_ns(first)
        except (IntegrityError, DriveError) as error:
            catalog.close()
            shutil.rmtree(catalog.path)
            self.notes.append(f"snapshot {first} is on no drive whole: {error}")
            return None
        except BaseException:
            catalog.close()
            raise
        self.notes.append(
            f"from snapshot {first}, of {catalog.count(Table.INODE)} inodes; what came later is "
            "not known"
        )
        return Rows(
            catalog,
            Source.SNAPSHOT,
            one.place,
            made_ns,
            above=one.segments[-1].number,
            left_out=dict(sifter.left_out),
            highest=sifter.highest,
        )

    def _made_ns(self, segment: int) -> int | None:
        """When a segment was begun; None where its first frame verifies nowhere."""
        opening = walk.opening_of(self.store.copies_of(segment), self._filesystem, segment)
        return None if opening is None else opening[1].created_ns

    # -- what is left of a damaged snapshot -------------------------------------------------

    def _groups(self) -> list[list[Segment]]:
        """The segments of each snapshot, newest first: their numbers follow each other, and after
        each snapshot some that were set aside are left out."""
        groups: list[list[Segment]] = []
        for segment in self.store.of_stream(Stream.SNAPSHOT):
            if not groups or segment.number != groups[-1][-1].number + 1:
                groups.append([])
            groups[-1].append(segment)
        return groups[::-1]

    def _damaged(self, group: Sequence[Segment]) -> Rows | None:
        """The rows of all frames that verify; None if there are none."""
        sifter = self._sifter("damaged snapshot", group)
        catalog, seen, highest, frames = self._new(), Numbers(), -1, 0
        place = NOWHERE
        try:
            for segment in group:
                for sequence, kind, payload in self._frames(segment, seen):
                    highest, frames = max(highest, sequence), frames + 1
                    if kind == Kind.META:
                        catalog.replay(sifter(decode_meta(payload).rows))
                    elif kind == Kind.COMMIT:
                        place = decode_place(payload)
            empty = catalog.inode(ROOT) is None and not catalog.count(Table.INODE)
        except BaseException:
            catalog.close()
            raise
        first = group[0].number
        if empty:
            catalog.close()
            shutil.rmtree(catalog.path)
            return None
        lost = highest + 1 - frames + (place == NOWHERE)
        self.notes.append(
            f"from snapshot {first}, of which {frames} frames are there and {lost} or more are "
            "not: what they had is not known, nor what came later"
        )
        return Rows(
            catalog,
            Source.DAMAGED,
            place,
            self._made_ns(first),
            above=group[-1].number,
            lost_frames=lost,
            left_out=dict(sifter.left_out),
            highest=sifter.highest,
        )

    def _frames(self, segment: Segment, seen: Numbers) -> Iterator[tuple[int, int, bytes]]:
        """Sequence, kind and payload of every frame that verifies, chained or not, once each."""
        files = self.store.copies_of(segment.number)
        for found in walk.search(files, 0, self.store.short_id, segment.number):
            sequence = found.header.sequence
            if sequence in seen:
                continue
            try:
                payload = walk.payload_of(files, found)
                if payload is None:
                    continue
                if found.header.kind == Kind.META:
                    decode_meta(payload)
                elif found.header.kind == Kind.COMMIT:
                    decode_place(payload)
            except (IntegrityError, DriveError):
                continue
            if seen.add(sequence):
                yield sequence, found.header.kind, payload
