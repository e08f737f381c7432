"""The catalog made out of drives alone, and out of nothing else: none of them is written to.

    salvaged = salvage(filesystem, workspace, archive, into)
    with open_reading(into, live=False) as reading: ...

What is there decides how:

1. a journal on the workspace drives, from its beginning or from a snapshot: all that was ever
   acknowledged is there, and nothing is missing but what drives have lost since;
2. else the newest snapshot of which every frame verifies on some drive, each frame on any, or
   what is left of a damaged one: what was there when it was made. What came later is not known,
   but for the bytes that were archived since: the footers of fragments tell of which file they
   are, and nothing more;
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
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from shmr.catalog.catalog import Catalog
from shmr.catalog.reading import open_reading
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.archived import archived_removed, decode_archived
from shmr.format.rows import (
    ROOT,
    Inode,
    Place,
    Row,
    Table,
    decode_dentry,
    encode_number,
    key_of,
    split_key,
)
from shmr.fsck.salvaging import lost_and_found
from shmr.fsck.salvaging.filling import INODE_MAX, Filling
from shmr.fsck.salvaging.footers import SEGMENT_MAX, Footers
from shmr.fsck.salvaging.losses import Losses
from shmr.fsck.salvaging.sources import Rows, Sources
from shmr.fsck.salvaging.sources import Source as Source
from shmr.fsck.salvaging.untrusted import OnlyRead
from shmr.service.following import Stop, Watcher, nobody_stops
from shmr.volume.holds import hold_rows, release_rows
from shmr.volume.namespace import FIRST_COOKIE

logger = logging.getLogger(__name__)

AHEAD = 1 << 20
"""Numbers of segments and inodes that are passed over: what drives that are lost for good had taken
behind what is known must not be taken again."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What came of it. `catalog` is the directory that holds the catalog.

    `place` is where in the journal it stands (all 0: it is from footers alone), and `snapshot_ns`
    when the snapshot was made that it is from: what came later is missing, and how much that is
    cannot be known. `corrupt` says what of the journal is missing although it was durable.

    `next_segment` and `next_inode` are above every number that anybody had, as far as drives tell,
    and far above where some are lost.

    Segments above the number `known_to` are newer than the rows: but for those that rows name now,
    nothing is known of them.

    `found_inodes` files that no row knew, and `found_bytes` of them, come from footers: they are in
    lost+found. `filled_bytes` belong to files that rows know, and were found by footers where the
    rows lead to what is gone. `gone_extents` and `gone_bytes` lead to segments that are on no
    drive (`gone`), or of which too few fragments are, of `gone_inodes` files: reading them is an
    error (`losses` names them).

    `strays` are fragments that nothing refers to; `unused_bytes` of them were archived behind the
    snapshot, of files that it knows whole: as what it leads to is there, it counts. `lost_frames`
    of a damaged snapshot are nowhere, and what they had is not known. `left_out` counts rows that
    do not hold, by table. `notes` say in sentences what was found and done.
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
    lost_frames: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    known_to: int = 0

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
    snapshot: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Salvaged:
    """Make a catalog in the directory `into`, which is not there yet, from drives alone.

    `workspace` are the drives with segments, `archive` the others by their ids. With `until` the
    journal is replayed up to that place, which is known durable, and no further; nothing else than
    the journal is taken then. With `snapshot` it is from the one whose first segment has this
    number, and from what is newer, but from no journal and no other snapshot.

    Raises SetupError where nothing is found, or what was asked for is not there; DriveError; and
    KeyboardInterrupt where somebody wants it to `stop`. Nothing is at `into` then.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{into.name}.", dir=into.parent))
    try:
        progress = _Progress(watcher, stop)
        made, salvaged = _Salvage(filesystem, workspace, archive, work, progress).run(
            into, until, snapshot
        )
        os.rename(made, into)
        return salvaged
    finally:
        shutil.rmtree(work, ignore_errors=True)


_NEXT_INODE = b"next_inode"


@dataclass(slots=True)
class _Progress:
    """Tells whoever watches, and stops where somebody wants that."""

    watcher: Watcher | None
    stop: Stop
    phase: str = ""
    total: int = 0

    def begin(self, phase: str, total: int) -> Callable[[int], None]:
        self.phase, self.total = phase, total
        return self

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
        self._sources = Sources(filesystem, workspace, archive.values(), work, progress.begin)
        self._store, self._notes = self._sources.store, self._sources.notes
        self._footers = Footers(
            filesystem, {key: OnlyRead(drive) for key, drive in archive.items()}
        )

    def run(self, into: Path, until: Place | None, snapshot: int | None) -> tuple[Path, Salvaged]:
        """Where the catalog is, and what came of it."""
        try:
            if snapshot is not None:
                found: Rows | None = self._sources.of(snapshot)
            else:
                found = self._sources.best() if until is None else self._sources.until(until)
            if found is None:
                self._require_footers()
                found = self._sources.nothing()
                self._notes.append("from footers alone: no name is known")
            catalog = found.catalog
            try:
                return catalog.path, self._completed(into, found)
            finally:
                catalog.close(clean=True)
        finally:
            self._sources.close()

    def _require_footers(self) -> None:
        if not self._footers:
            why = "".join(f"; {note}" for note in self._notes)
            raise SetupError(
                "neither a journal nor a snapshot nor a fragment of this filesystem is on the "
                f"drives; check that the right ones are there{why}"
            )

    # -- what rows do not know --------------------------------------------------------------

    def _completed(self, into: Path, found: Rows) -> Salvaged:
        catalog, footers = found.catalog, self._footers
        highest = max(self._store.next_number, catalog.archived_end())
        filling = Filling(catalog, lru_cache(maxsize=1 << 16)(self._is_gone_from(catalog)))
        adopted = array("Q")
        next_segment, next_inode = highest, catalog.state(_NEXT_INODE, 2)
        if found.source is not Source.JOURNAL:
            highest = max(highest, footers.highest() + 1, max(catalog.live, default=0) + 1)
            next_segment = min(highest + AHEAD, SEGMENT_MAX)
            if found.source is Source.DAMAGED:
                self._restore(catalog)
            self._adopt(catalog)
            adopted = self._fill(filling, found.above)
            next_inode = self._name(catalog, filling, found.highest)
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
            sum(catalog.live.get(number, 0) for number in adopted) - found_bytes,
            filling.unused_bytes,
            gone,
            losses.inodes if losses else 0,
            losses.extents if losses else 0,
            losses.length if losses else 0,
            strays,
            found.lost_frames,
            found.left_out,
            tuple(self._notes),
            next_segment - 1 if found.source is Source.JOURNAL else found.above,
        )

    def _is_gone_from(self, catalog: Catalog) -> Callable[[int], bool]:
        def is_gone(segment: int) -> bool:
            if segment in self._store.segments:
                return False
            row = catalog.archived(segment)
            return row is None or self._footers.there(segment, row) < row.k

        return is_gone

    def _restore(self, catalog: Catalog) -> None:
        """Rows of archived segments that extents lead to, and that were in a frame that is lost."""
        for number in sorted(catalog.live):
            if number not in self._store.segments and catalog.archived(number) is None:
                told = self._footers.tell(number)
                if told is not None:
                    catalog.replay([told.row.row(number), *hold_rows([number])])

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

    def _fill(self, filling: Filling, above: int) -> array[int]:
        """What was archived since, oldest first: what is newer counts. In which segments it is."""
        catalog, footers = filling.catalog, self._footers
        newer = [number for number in footers.segments() if number > above]
        self._progress.begin("footers", 2 * len(newer))
        order = []
        for done, number in enumerate(newer):
            self._progress(done)
            told = footers.tell(number)
            if told is not None:
                order.append(told.order)
        for done, (_, number) in enumerate(sorted(order), len(newer)):
            self._progress(done)
            told = footers.tell(number)
            if told is None:
                continue
            # Held, so that the next shift keeps a snapshot that knows of it.
            catalog.replay([told.row.row(number), *hold_rows([number])])
            try:
                filling.take(footers, told)
            except (DriveError, IntegrityError) as error:
                self._notes.append(f"segment {number}: {error}")
        adopted = array("Q")
        for number in newer:
            if catalog.live.get(number, 0) > 0:
                adopted.append(number)
            elif catalog.archived(number) is not None:
                catalog.replay([archived_removed(number), *release_rows([number])])
        return adopted

    def _name(self, catalog: Catalog, filling: Filling, highest: int) -> int:
        """The top is there, and files without a name get one; which inode number is next.

        `highest` is that of an inode that rows know.
        """
        now = filling.newest_ns
        root = catalog.inode(ROOT)
        if root is None or not stat.S_ISDIR(root.mode):
            catalog.replay([_top(catalog, now).row()])
        highest = max(highest, max(filling.made, default=0))
        number = max(catalog.state(_NEXT_INODE, 2), highest + 1)
        number = min(number + AHEAD, INODE_MAX)
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


def _top(catalog: Catalog, now: int) -> Inode:
    """A directory at the top, for the names that are there."""
    entries, cookie, links = 0, FIRST_COOKIE, 2
    for _, value in catalog.scan(Table.DENTRY, key_of(ROOT), key_of(ROOT)):
        dentry = decode_dentry(value)
        entries, cookie = entries + 1, max(cookie, dentry.cookie + 1)
        links += stat.S_ISDIR(dentry.kind)
    mode = stat.S_IFDIR | 0o755
    return Inode(ROOT, mode, links, 0, 0, 0, 0, 0, now, now, now, entries, cookie, ROOT)


_STEP = 1000
