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
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from shmr.catalog.catalog import Catalog
from shmr.catalog import store as catalog_store
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError, ShmrError
from shmr.format.records import Stream
from shmr.format.rows import ROOT, Place
from shmr.fsck.untrusted import OnlyRead, Sifter, SnapshotCopies
from shmr.log import snapshot, walk
from shmr.log.store import SegmentStore
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
    drive, of `gone_inodes` files: reading them is an error (`losses` names them).

    `strays` are fragments that nothing refers to. `left_out` counts rows that do not hold, by
    table. `notes` say in sentences what was found and what was done.
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
            and not self.gone_extents
            and not self.left_out
        )


def salvage(
    filesystem: bytes,
    workspace: Sequence[Drive],
    archive: Mapping[bytes, Drive],
    into: Path,
    *,
    until: Place | None = None,
) -> Salvaged:
    """Make a catalog in the directory `into`, which is not there yet, from drives alone.

    `workspace` are the drives with segments, `archive` the others by their ids. With `until` the
    journal is replayed up to that place, which is known durable, and no further.

    Raises SetupError where nothing is found, or `until` cannot be reached; DriveError. Nothing is
    at `into` then.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{into.name}.", dir=into.parent))
    try:
        salvaged = _Salvage(filesystem, workspace, archive, work).run(into, until)
        os.rename(work / _CATALOG, into)
        return salvaged
    finally:
        shutil.rmtree(work, ignore_errors=True)


_CATALOG = "catalog"
_NOWHERE = Place(0, 0, 0, 0, 0)


class _Salvage:
    """One run."""

    def __init__(
        self,
        filesystem: bytes,
        workspace: Sequence[Drive],
        archive: Mapping[bytes, Drive],
        work: Path,
    ) -> None:
        self._filesystem = filesystem
        self._workspace = [OnlyRead(drive) for drive in workspace]
        self._archive = {key: OnlyRead(drive) for key, drive in archive.items()}
        self._copies = [SnapshotCopies(drive) for drive in archive.values()]
        self._path = work / _CATALOG
        self._notes: list[str] = []
        self._sifter = Sifter()

    def run(self, into: Path, until: Place | None) -> Salvaged:
        store = SegmentStore(
            self._filesystem, [*self._workspace, *self._copies], 1, 0, lambda: 0
        )
        try:
            store.scan()
            found = self._from_journal(store, until) or self._from_snapshot(store)
        finally:
            store.close()
        if found is None:
            raise SetupError(
                "neither a journal nor a snapshot of this filesystem is on the drives; check that "
                "all of them are there"
            )
        catalog, source, place, snapshot_ns, corrupt = found
        next_segment = max(store.next_number, catalog.archived_end()) + AHEAD
        catalog.checkpoint(self._filesystem, place, next_segment)
        next_inode = catalog.state(b"next_inode", 2)
        catalog.close(clean=True)
        return Salvaged(
            self._filesystem,
            into,
            source,
            place,
            snapshot_ns,
            next_segment,
            next_inode,
            corrupt,
            left_out=dict(self._sifter.left_out),
            notes=tuple(self._notes),
        )

    def _from_journal(self, store, until):
        if not store.of_stream(Stream.JOURNAL):
            return None
        try:
            recovered = recover(
                store, self._path, read_only=True, in_child=False, sift=self._sifter, until=until
            )
        except SetupError:
            return None
        return recovered.catalog, Source.JOURNAL, recovered.place or _NOWHERE, None, recovered.corrupt

    def _from_snapshot(self, store):
        for found in snapshot.find(store):
            catalog = Catalog(self._path)
            try:
                for rows in snapshot.rows_of(store, found):
                    catalog.replay(self._sifter(rows))
            except IntegrityError as error:
                catalog.close()
                shutil.rmtree(self._path)
                self._notes.append(str(error))
                continue
            opening = walk.opening_of(
                store.copies_of(found.segments[0].number),
                self._filesystem,
                found.segments[0].number,
            )
            return catalog, Source.SNAPSHOT, found.place, opening[1].created_ns, None
        return None
