"""The catalog made out of drives alone, and out of nothing else: none of them is written to.

    salvaged = salvage(filesystem, workspace, archive, into)
    with open_reading(into, live=False) as reading: ...

What is there decides how:

1. a journal on the workspace drives, from its beginning or from a snapshot: all that was ever
   acknowledged is there, and nothing is missing but what drives have lost since;
2. else the newest snapshot of which every frame verifies on some drive, each frame on any: what
   was there when it was made. What came later is not known, but for the bytes that were archived
   since: the footers of fragments tell of which file they are, and nothing more;
3. else these footers alone.

What only footers know has neither name nor owner: it is linked into /lost+found. Files that were
deleted before the snapshot do not come back: fragments of lower numbers that no row names are
strays.

Written by somebody else, drives may say anything, with checksums that hold: see `untrusted`.
Memory does not grow with what they say.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from shmr.catalog.catalog import Catalog
from shmr.catalog.reading import open_reading
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.archived import archived_removed, decode_archived
from shmr.format.records import Stream
from shmr.format.rows import ROOT, Inode, Place, Row, Table, encode_number, key_of, split_key
from shmr.fsck import lost_and_found
from shmr.fsck.filling import INODE_MAX, Filling
from shmr.fsck.footers import SEGMENT_MAX, Footers
from shmr.fsck.losses import Losses
from shmr.fsck.untrusted import OnlyRead, Sifter, SnapshotCopies
from shmr.log import snapshot, walk
from shmr.log.store import Segment, SegmentStore
from shmr.service.following import Stop, Watcher, nobody_stops
from shmr.volume.holds import hold_rows, release_rows
from shmr.volume.namespace import FIRST_COOKIE
from shmr.volume.recover import recover

logger = logging.getLogger(__name__)

AHEAD = 1 << 20
"""Numbers of segments and inodes that are passed over: what drives that are lost for good had taken
behind what is known must not be taken again."""


class Source(StrEnum):
    """What a catalog was made from."""

    JOURNAL = "journal"
    SNAPSHOT = "snapshot"
    FOOTERS = "footers"


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What came of it. `catalog` is the directory that holds the catalog.

    `place` is where in the journal it stands (all 0: it is from footers alone), and `snapshot_ns`
    when the snapshot was made that it is from: what came later is missing, and how much that is
    cannot be known. `corrupt` says what of the journal is missing although it was durable.

    `next_segment` and `next_inode` are above every number that anybody had, as far as drives tell,
    and far above where some are lost.

    `found_inodes` files that no row knew, and `found_bytes` of them, come from footers: they are in
    lost+found. `filled_bytes` belong to files that rows know, and were found by footers where the
    rows lead to what is gone. `gone_extents` and `gone_bytes` lead to segments that are on no
    drive (`gone`), or of which too few fragments are, of `gone_inodes` files: reading them is an
    error (`losses` names them).

    `strays` are fragments that nothing refers to; `unused_bytes` of them were archived behind the
    snapshot, of files that it knows whole: as what it leads to is there, it counts. `left_out`
    counts rows that do not hold, by table. `notes` say in sentences what was found and done.
    """

    filesystem: bytes
    catalog: Path
    source: Source
    place: Place
    snapshot_ns: int | None
    next_segment: int
    next_inode: int
    corrupt: str | None = None
    found_inodes: int = 0
    found_bytes: int = 0
    filled_bytes: int = 0
    unused_bytes: int = 0
    gone: frozenset[int] = frozenset()
    gone_inodes: int = 0
    gone_extents: int = 0
    gone_bytes: int = 0
    strays: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Is it all that was ever acknowledged?"""
        return (
            self.source is Source.JOURNAL
            and self.corrupt is None
            and not self.gone
            and not self.left_out
        )

    @contextmanager
    def losses(self) -> Iterator[Losses]:
        """The files of which bytes are gone. Raises IntegrityError."""
        with open_reading(self.catalog, live=False) as reading:
            yield Losses(reading, self.gone)


def salvage(
    filesystem: bytes,
    workspace: Sequence[Drive],
    archive: Mapping[bytes, Drive],
    into: Path,
    *,
    until: Place | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Salvaged:
    """Make a catalog in the directory `into`, which is not there yet, from drives alone.

    `workspace` are the drives with segments, `archive` the others by their ids. With `until` the
    journal is replayed up to that place, which is known durable, and no further; nothing else than
    the journal is taken then.

    Raises SetupError where nothing is found, or `until` cannot be reached; DriveError; and
    KeyboardInterrupt where somebody wants it to `stop`. Nothing is at `into` then.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{into.name}.", dir=into.parent))
    try:
        progress = _Progress(watcher, stop)
        salvaged = _Salvage(filesystem, workspace, archive, work, progress).run(into, until)
        os.rename(work / _CATALOG, into)
        return salvaged
    finally:
        shutil.rmtree(work, ignore_errors=True)


_CATALOG = "catalog"
_NOWHERE = Place(0, 0, 0, 0, 0)
_NEXT_INODE = b"next_inode"


class _Found(NamedTuple):
    """Where the rows came from."""

    catalog: Catalog
    source: Source
    place: Place
    snapshot_ns: int | None = None
    corrupt: str | None = None
    above: int = 0
    """Segments above this number are newer than the rows."""


@dataclass(slots=True)
class _Progress:
    """Tells whoever watches, and stops where somebody wants that."""

    watcher: Watcher | None
    stop: Stop
    phase: str = ""
    total: int = 0

    def begin(self, phase: str, total: int) -> None:
        self.phase, self.total = phase, total

    def __call__(self, done: int) -> None:
        """Raises KeyboardInterrupt."""
        if self.stop():
            raise KeyboardInterrupt
        if self.watcher is not None:
            self.watcher(self.phase, min(done, self.total), self.total)


class _Salvage:
    """One run. The catalog is made in the directory `work`."""

    def __init__(
        self,
        filesystem: bytes,
        workspace: Sequence[Drive],
        archive: Mapping[bytes, Drive],
        work: Path,
        progress: _Progress,
    ) -> None:
        self._progress = progress
        self._filesystem = filesystem
        drives = [
            *(OnlyRead(drive) for drive in workspace),
            *(SnapshotCopies(drive) for drive in archive.values()),
        ]
        self._store = SegmentStore(filesystem, drives, 1, 0, lambda: 0)
        self._footers = Footers(
            filesystem, {key: OnlyRead(drive) for key, drive in archive.items()}
        )
        self._path = work / _CATALOG
        self._notes: list[str] = []
        self._left_out: Mapping[str, int] = {}

    def run(self, into: Path, until: Place | None) -> Salvaged:
        try:
            self._store.scan()
            found = self._rows(until)
        finally:
            self._store.close()
        catalog = found.catalog
        try:
            return self._completed(into, found)
        finally:
            catalog.close(clean=True)

    # -- rows -------------------------------------------------------------------------------

    def _rows(self, until: Place | None) -> _Found:
        """From the best source there is. Raises SetupError, DriveError."""
        found = self._from_journal(until)
        if until is not None and found is not None and found.corrupt is None:
            return found
        if until is not None:
            if found is not None:
                found.catalog.close()
            raise SetupError(f"the journal cannot be replayed to frame {until.sequence}")
        if found is None or found.corrupt is not None:
            # A snapshot of a later place is better than a journal with a gap before it.
            snapshots = snapshot.find(self._store)
            if found is not None and snapshots:
                if snapshots[0].place.sequence <= found.place.sequence:
                    return found
                found.catalog.close()
                shutil.rmtree(self._path)
                self._notes.append(str(found.corrupt))
                found = None
            for one in snapshots:
                found = found or self._from_snapshot(one)
        return found or self._from_nothing()

    def _from_journal(self, until: Place | None) -> _Found | None:
        if not self._store.of_stream(Stream.JOURNAL):
            return None
        sifter = self._sifter("journal", self._store.segments.values())
        try:
            recovered = recover(
                self._store, self._path, read_only=True, in_child=False, sift=sifter, until=until
            )
        except (SetupError, IntegrityError, DriveError) as error:
            self._notes.append(f"the journal: {error}")
            shutil.rmtree(self._path, ignore_errors=True)
            return None
        catalog = recovered.catalog
        if recovered.place is None or catalog.inode(ROOT) is None:
            catalog.close()
            shutil.rmtree(self._path)
            return None
        self._left_out = sifter.left_out
        self._notes += recovered.report
        return _Found(catalog, Source.JOURNAL, recovered.place, corrupt=recovered.corrupt)

    def _sifter(self, phase: str, segments: Iterable[Segment]) -> Sifter:
        of_rows = (segment for segment in segments if segment.stream != Stream.DATA)
        self._progress.begin(phase, sum(segment.size_bytes for segment in of_rows))
        return Sifter(self._progress)

    def _from_snapshot(self, one: snapshot.Snapshot) -> _Found | None:
        """All rows of a snapshot; None where a frame verifies on no drive."""
        sifter = self._sifter("snapshot", one.segments)
        first = one.segments[0].number
        opening = walk.opening_of(self._store.copies_of(first), self._filesystem, first)
        if opening is None:
            return None
        catalog = Catalog(self._path)
        try:
            for rows in snapshot.rows_of(self._store, one):
                catalog.replay(sifter(rows))
        except (IntegrityError, DriveError) as error:
            catalog.close()
            shutil.rmtree(self._path)
            self._notes.append(f"snapshot {first} is on no drive whole: {error}")
            return None
        except BaseException:
            catalog.close()
            raise
        self._left_out = sifter.left_out
        self._notes.append(
            f"from snapshot {first}, of {catalog.count(Table.INODE)} inodes; what came later is "
            "not known"
        )
        last = one.segments[-1].number
        return _Found(catalog, Source.SNAPSHOT, one.place, opening[1].created_ns, above=last)

    def _from_nothing(self) -> _Found:
        """No rows at all: what footers tell."""
        if not self._footers:
            why = "".join(f"; {note}" for note in self._notes)
            raise SetupError(
                "neither a journal nor a snapshot nor a fragment of this filesystem is on the "
                f"drives; check that the right ones are there{why}"
            )
        self._notes.append("from footers alone: no name is known")
        return _Found(Catalog(self._path), Source.FOOTERS, _NOWHERE)

    # -- what rows do not know --------------------------------------------------------------

    def _completed(self, into: Path, found: _Found) -> Salvaged:
        catalog, footers = found.catalog, self._footers
        highest = max(self._store.next_number, catalog.archived_end())
        filling = Filling(catalog, lru_cache(maxsize=1 << 16)(self._is_gone_from(catalog)))
        next_segment, next_inode = highest, catalog.state(_NEXT_INODE, 2)
        if found.source is not Source.JOURNAL:
            highest = max(highest, footers.highest() + 1, max(catalog.live, default=0) + 1)
            next_segment = min(highest + AHEAD, SEGMENT_MAX)
            self._adopt(catalog)
            self._fill(filling, found.above)
            next_inode = self._name(catalog, filling)
        is_gone = self._is_gone_from(catalog)
        gone = frozenset(number for number, n in catalog.live.items() if n > 0 and is_gone(number))
        strays = sum(self._strays(catalog))
        found_bytes = sum(self._allocated(catalog, number) for number in filling.made)
        catalog.checkpoint(self._filesystem, found.place, next_segment)
        losses = Losses(catalog.reading(), gone) if gone else None
        return Salvaged(
            self._filesystem,
            into,
            found.source,
            found.place,
            found.snapshot_ns,
            next_segment,
            next_inode,
            found.corrupt,
            len(filling.made),
            found_bytes,
            filling.filled_bytes,
            filling.unused_bytes,
            gone,
            losses.inodes if losses else 0,
            losses.extents if losses else 0,
            losses.length if losses else 0,
            strays,
            dict(self._left_out),
            tuple(self._notes),
        )

    def _is_gone_from(self, catalog: Catalog) -> Callable[[int], bool]:
        def is_gone(segment: int) -> bool:
            if segment in self._store.segments:
                return False
            row = catalog.archived(segment)
            return row is None or self._footers.there(segment, row) < row.k

        return is_gone

    def _adopt(self, catalog: Catalog) -> None:
        """Fragments that were written anew since count where those that rows name are gone."""
        start = 0
        while True:
            some = list(islice(catalog.scan(Table.ARCHIVE, key_of(start)), _STEP))
            for key, value in some:
                number, row = split_key(key), decode_archived(value)
                start = number + 1
                now = self._footers.written_anew(number, row)
                if now != row:
                    catalog.replay([now.row(number), *hold_rows([number])])
                    self._notes.append(f"segment {number}: fragments that were written anew count")
            if len(some) < _STEP:
                return

    def _fill(self, filling: Filling, above: int) -> None:
        """What was archived since, oldest first: what is newer counts."""
        newer = [number for number in self._footers.segments() if number > above]
        self._progress.begin("footers", 2 * len(newer))
        order = []
        for done, number in enumerate(newer):
            self._progress(done)
            told = self._footers.tell(number)
            if told is not None:
                order.append(told.order)
        for done, (_, number) in enumerate(sorted(order), len(newer)):
            self._progress(done)
            told = self._footers.tell(number)
            if told is None:
                continue
            # Held, so that the next shift keeps a snapshot that knows of it.
            filling.catalog.replay([told.row.row(number), *hold_rows([number])])
            try:
                wanted = filling.take(self._footers, told)
            except (DriveError, IntegrityError) as error:
                self._notes.append(f"segment {number}: {error}")
                continue
            if not wanted:
                filling.catalog.replay([archived_removed(number), *release_rows([number])])

    def _name(self, catalog: Catalog, filling: Filling) -> int:
        """The top is there, and files without a name get one; which inode number is next."""
        now = filling.newest_ns
        root = catalog.inode(ROOT)
        if root is None or not stat.S_ISDIR(root.mode):
            mode = stat.S_IFDIR | 0o755
            made = Inode(ROOT, mode, 2, 0, 0, 0, 0, 0, now, now, now, 0, FIRST_COOKIE, ROOT)
            catalog.replay([made.row()])
        number = catalog.state(_NEXT_INODE, 2)
        number = min(max(number, max(filling.made, default=0) + 1) + AHEAD, INODE_MAX)
        catalog.replay([Row(Table.STATE, _NEXT_INODE, encode_number(number + 1))])
        if filling.made:
            place = lost_and_found.prepared(catalog, lambda: number, now, catalog.replay)
            for inode in filling.made:
                lost_and_found.link(catalog, place, inode, catalog.replay)
        return number + 1

    def _strays(self, catalog: Catalog) -> Iterator[int]:
        """Of each segment how many fragments are there that no row names."""
        for segment in self._footers.segments():
            row = catalog.archived(segment)
            named = self._footers.of(segment)
            yield len(named) - (self._footers.there(segment, row) if row is not None else 0)

    @staticmethod
    def _allocated(catalog: Catalog, number: int) -> int:
        inode = catalog.inode(number)
        return inode.allocated if inode is not None else 0


_STEP = 1000
