"""The filesystem without FUSE: its parts put together, opened by recovery, closed cleanly.

Synchronous and in one thread. Each public call of a part is one operation and atomic because
nothing else runs; what has to wait is handed out as jobs.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from shmr.catalog import store as catalog_store
from shmr.catalog.catalog import CatalogFailed
from shmr.core.reserve import reserves, segment_size
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, NoSpace, Refused, SetupError
from shmr.format.records import Stream
from shmr.format.rows import ROOT, Inode
from shmr.log.fragments import FragmentStore
from shmr.log.gather import DEADLINE_S, Gather
from shmr.log.log import JOURNAL_MIN_BYTES, Log, Parallel, in_sequence
from shmr.log.reader import Background, LogReader
from shmr.log.store import SegmentStore
from shmr.volume.archived import Archive
from shmr.volume.attributes import Attributes
from shmr.volume.checkpoint import Checkpoints
from shmr.volume.cleaner import Cleaner
from shmr.volume.commits import Commits
from shmr.volume.context import Context
from shmr.volume.damage import note_damage
from shmr.volume.data import Data
from shmr.volume.handles import Handles
from shmr.volume.holes import Holes
from shmr.volume.namespace import FIRST_COOKIE, Namespace
from shmr.volume.reaper import Reaper
from shmr.volume.recover import Recovered, recover
from shmr.volume.snapshots import Snapshots, Writer, inline_writer
from shmr.volume.space import Space, Usage
from shmr.volume.xattrs import Xattrs

logger = logging.getLogger(__name__)

_NO_DRIVES: Mapping[bytes, Drive] = MappingProxyType({})
MakeWriter = Callable[[SegmentStore], Writer]


def nothing_first(volume: Volume) -> None:
    """Nothing is to be done first."""


class Volume:
    """An open filesystem. Use `open_volume`; each part has its own module."""

    def __init__(
        self,
        context: Context,
        recovered: Recovered,
        make_writer: MakeWriter | None = None,
        scratch: TemporaryDirectory[str] | None = None,
        *,
        taken: int | None = None,
    ) -> None:
        """`scratch`: where the catalog is, if it goes when the volume is closed."""
        self.context = context
        self._scratch = scratch
        self.catalog = context.catalog
        self.report = tuple(recovered.report)
        """What recovery did, in sentences."""
        self.taken = taken
        """Numbers of segments below this were given before it was opened; None when the first shift
        has compared that with the archive drives."""
        self.reaper = Reaper(context)
        self.handles = Handles(context)
        self.xattrs = Xattrs(context)
        self.data = Data(context, self.reaper)
        self.names = Namespace(context, self.handles, self.xattrs)
        self.attributes = Attributes(context, self.data, self.xattrs)
        self.commits = Commits(context)
        self.checkpoints = Checkpoints(context, self.commits)
        self.cleaner = Cleaner(context)
        store = context.reader.store
        writer = make_writer(store) if make_writer else inline_writer(context.catalog, store)
        self.snapshots = Snapshots(context, self.checkpoints, writer)
        self.space = Space(context)
        self.holes = Holes(context, self.reaper, self.space)
        self.archive = Archive(context, self.commits)

    @property
    def read_only(self) -> str | None:
        """Why changes are refused with EROFS, or None."""
        return self.context.read_only

    @property
    def log(self) -> Log:
        return self.context.log

    def usage(self) -> Usage:
        """What statfs tells."""
        return self.space.usage()

    def close(self) -> bool:
        """Make everything durable and let go. False if it was not: read-only, or the log refused.

        Never raises for what a dead log refuses.
        """
        clean = False
        if self.read_only is None:
            try:
                self._free_orphans()
                note_damage(self.context)
                try:
                    self.checkpoints.run()
                except NoSpace:
                    # Others use the disk too, and nobody is left who could be told.
                    self.log.give_back_spares()
                    self.checkpoints.run()
                # One more COMMIT claims the last one durable: no bit of that can look torn then.
                self.commits.now()
                self.log.seal()
                clean = True
            except (CatalogFailed, DriveError, NoSpace, Refused) as error:
                self.context.poison(error)
        self.abandon(clean=clean)
        return clean

    def _free_orphans(self) -> None:
        """What nobody has open any more goes; one bad row is no reason to lose the rest."""
        try:
            self.handles.free_orphans()
        except IntegrityError as error:
            logger.error("an orphan is left for the checker: %s", error)

    def abandon(self, *, clean: bool = False) -> None:
        """Let go of everything without making anything durable, as a crash would."""
        if self.context.has_log:
            try:
                self.log.close()
            except DriveError as error:
                self.context.poison(error)
        self.context.reader.store.close()
        self.context.gather.close()
        self.catalog.close(clean=clean)
        if self._scratch is not None:
            self._scratch.cleanup()


First = Callable[[Volume], None]


def open_volume(
    filesystem: bytes,
    drives: Sequence[Drive],
    catalog: Path,
    *,
    clock: Callable[[], int],
    copies: int = 1,
    segment_bytes: int | None = None,
    read_only: bool = False,
    in_child: bool = True,
    parallel: Parallel = in_sequence,
    make_writer: MakeWriter | None = None,
    background: Background | None = None,
    archive: Mapping[bytes, Drive] = _NO_DRIVES,
    archive_missing: Iterable[bytes] = (),
    deadline_s: float | None = DEADLINE_S,
    first: First = nothing_first,
    cut_log: bool = False,
) -> Volume:
    """Recover the filesystem on `drives` (the workspace pool) and open it.

    `clock` gives nanoseconds since 1970. With `read_only` no drive is written to, nor the catalog:
    a copy of it is. `archive` are the archive drives by their ids, `archive_missing` the ids of
    those that are not there; none of them is touched before archived bytes are read, and
    `deadline_s` is for such reads (see `Gather`). `first` is given the volume when it is recovered
    and may be changed, before orphans and segments in which nothing lives go. `cut_log`: what comes
    after missing frames of the journal is given up (`recover`).

    Raises SetupError (nothing to recover from), DriveError, NoSpace.
    """
    scratch = catalog_store.private_copy(catalog) if read_only else None
    if scratch is not None:
        catalog = Path(scratch.name, catalog.name)
    store = SegmentStore(filesystem, drives, min(copies, len(drives)), 0, clock)
    store.segment_bytes = segment_size(store.total_bytes(), segment_bytes)
    store.scan()
    limits = reserves(store.segment_bytes, max(store.segment_bytes // 4, JOURNAL_MIN_BYTES))
    fragments = FragmentStore(filesystem, archive, archive_missing)
    reader = LogReader(store, background, Gather(fragments, deadline_s=deadline_s))
    recovered = recover(store, catalog, read_only=read_only, in_child=in_child, cut=cut_log)
    reader.archived = recovered.catalog.archived
    # A snapshot may know archived segments that no file on a workspace drive reminds of.
    store.next_number = max(store.next_number, recovered.catalog.archived_end())
    taken = store.next_number
    why = recovered.corrupt or ("mounted read-only" if read_only else None)
    log = None
    try:
        log = None if why else _begin_log(store, recovered, clock, parallel)
        context = Context(recovered.catalog, log, reader, clock, limits)
        context.read_only = why
        if why is not None and context.catalog.inode(ROOT) is None:
            raise SetupError(f"there is nothing to mount: {why}")
        volume = Volume(context, recovered, make_writer, scratch, taken=taken)
        if why is None:
            first(volume)
            if context.catalog.inode(ROOT) is None:
                context.apply([_root(clock()).row()])
            volume._free_orphans()
            volume.checkpoints.run()
            volume.space.measure()
    except BaseException:
        if log is not None:
            log.close()
        store.close()
        reader.gather.close()
        recovered.catalog.close()
        raise
    return volume


def _begin_log(
    store: SegmentStore, recovered: Recovered, clock: Callable[[], int], parallel: Parallel
) -> Log:
    """A log that goes on from where recovery came to, in a new segment.

    What recovery found to hold nothing goes only then, when that segment is durable: until there is
    a higher number, the highest on the drives tells that it was taken. Where there is no room for
    a segment, that goes before it, and data segments in which nothing lives do too: what recovery
    came to is durable in the journal, so nothing will ever point there again. The highest is last.
    """
    place = recovered.place
    sequence = place.sequence if place else 0
    previous = (place.segment, place.end, place.chain) if place else (0, 0, 0)
    live = recovered.catalog.live
    dead = [s.number for s in store.of_stream(Stream.DATA) if live.get(s.number, 0) <= 0]
    unneeded = sorted([*recovered.behind, *dead], reverse=True)
    log = None
    while log is None:
        try:
            log = Log(
                store,
                clock=clock,
                parallel=parallel,
                journal_sequence=sequence,
                previous=previous,
            )
        except NoSpace:
            if not unneeded:
                raise
            store.discard(unneeded.pop())
    try:
        for number in recovered.behind:
            store.discard(number)
    except BaseException:
        log.close()
        raise
    return log


def _root(now: int) -> Inode:
    """The root directory of a new filesystem: part of its very first batch."""
    return Inode(ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, now, now, now, 0, FIRST_COOKIE, ROOT)
