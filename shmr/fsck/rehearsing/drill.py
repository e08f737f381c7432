"""`drill`: a loss rehearsed. Nothing is written but a scratch directory, which goes at the end.

    look       the real catalog: as it is, or the last checkpoint of a mounted filesystem
    rebuild    without it and without some drives of each pool: from journal and snapshot
    compare    every row of both: paths, modes, owners, times, attributes, links, sizes, places
    alone      the archive drives that are left, and nothing else: how much would the workspace take
               with it now?
    read       bytes of files without those drives, decoded where they have to be, and compared

Which drives are taken away is decided by a seed (`rehearsal.choice`); those that are missing in
fact are among them. What would have hurt a real rebuild is a finding.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from shmr.archive.control import Stopped
from shmr.catalog import store as catalog_store
from shmr.catalog.reading import Reading, open_reading
from shmr.config import Config, load
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError, ShmrError
from shmr.format.archived import Archived
from shmr.format.rows import TRUTH, Extent, Place, Table, segment_of, split_key
from shmr.fsck.findings import NOWHERE, Finding, Kind, Report, Where
from shmr.fsck.naming import names_of
from shmr.fsck.opening import View, opened
from shmr.fsck.rehearsing.choice import chosen, is_sampled
from shmr.fsck.rehearsing.contents import Contents, InWorkspace, Tried
from shmr.fsck.rehearsing.tree import Compared, compare, merged
from shmr.fsck.salvaging.salvage import Salvaged, salvage
from shmr.fsck.salvaging.scratch import scratch_in
from shmr.fsck.salvaging.sources import Source
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.log.reader import LogReader
from shmr.log.store import SegmentStore
from shmr.service.following import Stop, Watcher, nobody_stops, pace
from shmr.units import NS_PER_S

SHARE = 0.02
"""Of the contents, unless somebody says how much."""
TRIES = 3
"""So often a mounted filesystem is looked at anew, whose journal went on under our hands."""
DAY_S = 86_400
REMEDY = "find the damage and mend it: `shmr-fsck scrub`, and `shmr-fsck repair`"


class NoScratch(ShmrError):
    """The scratch directory is full, or fails: nothing was learned."""


@dataclass(slots=True)
class Unarchived:
    """What would be lost with the workspace now: `files` of which `size_bytes` are in no archive.

    `unknown` inodes the archive drives do not know of: they were made since the last snapshot
    there. None where there is no archive pool.
    """

    files: int = 0
    size_bytes: int = 0
    unknown: int | None = None


@dataclass(slots=True)
class Drill:
    """What came of it: `report` has what would have hurt.

    `away` are the drives that were taken away, by pool: their paths, or ids. `share` of the
    contents were read. `seconds` each phase took.
    """

    report: Report
    seed: int
    share: float
    away: dict[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    compared: Compared = field(default_factory=Compared)
    tried: Tried = field(default_factory=Tried)
    unarchived: Unarchived = field(default_factory=Unarchived)
    seconds: dict[str, float] = field(default_factory=dict)


def drill(
    config_path: str | os.PathLike[str],
    *,
    share: float = SHARE,
    seed: int | None = None,
    scratch: str | os.PathLike[str] | None = None,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Drill:
    """Rehearse the loss of the catalog and of as many drives of each pool as it may lose.

    `share` of the contents are read, 1 is all of them. `seed` decides which drives and which
    contents; the day, if it is not given. The scratch directory is made inside `scratch`; it takes
    about as much as the catalog does, twice. `limit_rate` is in bytes per second.
    Raises SetupError, DriveError and IntegrityError where it cannot be looked at, NoScratch.
    """
    config = load(config_path)
    day = int(time.time()) // DAY_S
    with ExitStack() as stack:
        within = tempfile.gettempdir() if scratch is None else os.fspath(scratch)
        # Inside it, by the name that nobody can put anything in the place of.
        place = stack.enter_context(scratch_in(within, "drill", "--scratch")).catalog.parent
        view = stack.enter_context(opened(config))
        terms = _Terms(watcher, stop, pace(limit_rate, stop))
        running = _Drill(config, view, place, day if seed is None else seed, share, terms)
        with suppress(Stopped, KeyboardInterrupt):
            running.run()
            return running.done
        if not stop():
            raise KeyboardInterrupt
        running.done.report.stopped = True
        return running.done


@dataclass(slots=True)
class _Terms:
    """Tells how far a phase is, and stops."""

    watcher: Watcher | None
    stop: Stop
    pace: Callable[[int], None]
    phase: str = ""
    done: int = 0
    total: int = 0

    def begin(self, phase: str, total: int) -> None:
        self.phase, self.done, self.total = phase, 0, total
        self.advance(0)

    def advance(self, size: int) -> None:
        """Raises Stopped."""
        if self.stop():
            raise Stopped()
        self.done += size
        if self.watcher is not None:
            self.watcher(self.phase, min(self.done, self.total), self.total)

    def read(self, size: int) -> None:
        """So many bytes are about to be read: no faster than is allowed. Raises Stopped."""
        self.pace(size)
        self.advance(size)


class _Drill:
    def __init__(
        self, config: Config, view: View, scratch: Path, seed: int, share: float, terms: _Terms
    ) -> None:
        self._config = config
        self._view = view
        self._scratch = scratch
        self._terms = terms
        report = Report("drill", view.filesystem.hex(), view.mounted, view.as_of_ns, name=view.name)
        self.done = Drill(report, seed, share)
        self._report = report
        self._archive, self._workspace = self._left()

    def run(self) -> None:
        """Raises Stopped."""
        report = self._report
        report.notes += self._view.notes
        for doubt in self._view.doubts:
            report.find(doubt)
        if self._view.rebuilt:
            report.notes.append("the real catalog is itself rebuilt: nothing else is to compare to")
        with ExitStack() as stack:
            with self._phase("rebuild"):
                real, salvaged = self._rebuilt(stack)
            if salvaged is not None:
                with self._phase("compare"):
                    self._compare(real, salvaged)
            with self._phase("alone"):
                self._alone(real)
            with self._phase("read"):
                self._read(real)
        for finding in self.done.tried.findings:
            report.find(finding)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.done.seconds[name] = round(time.monotonic() - began, 3)

    # -- what is taken away -----------------------------------------------------------------

    def _left(self) -> tuple[dict[bytes, Drive], list[Drive]]:
        """The drives that are left, of archives and of the workspace."""
        view, done = self._view, self.done
        archive = dict(view.fragments.drives)
        entries = {pool.name: pool for pool in self._config.pools}
        for pool in view.archives:
            members = sorted(pool.members)
            spare = entries[pool.name].scheme.m
            away = chosen(members, spare, done.seed, gone=pool.missing)
            for drive in away:
                del archive[drive]
            gone = (*away, *pool.missing)
            done.away[pool.name] = tuple(sorted(view.fragments.label(drive) for drive in gone))
            if len(pool.missing) > spare:
                self._report.notes.append(
                    f"pool {pool.name!r} lacks {len(pool.missing)} drives and can do without "
                    f"{spare}: no more are taken away"
                )
        workspace = list(view.store.drives)
        named = self._config.workspace
        missing = len(named.drives) - len(workspace)
        labels = [drive.label for drive in workspace]
        lost = chosen(labels, named.scheme.m - missing, done.seed)
        done.away[named.name] = lost
        return archive, [drive for drive in workspace if drive.label not in lost]

    # -- the tree ---------------------------------------------------------------------------

    def _rebuilt(self, stack: ExitStack) -> tuple[Reading, Salvaged | None]:
        """The real catalog, and the one that was made without it, of the same place."""
        view, problem = self._view, ""
        real = view.reading
        for number in range(TRIES):
            if number and view.fresh is None:
                break
            if number and view.fresh is not None:
                # A new snapshot has let go of the journal that the place is in.
                real = stack.enter_context(view.fresh())
            try:
                salvaged = self._salvage(f"rebuilt{number}", self._workspace, until=real.place())
            except (SetupError, DriveError, IntegrityError) as error:
                problem = str(error)
                continue
            self.done.source = str(salvaged.source)
            return real, salvaged
        self._find(
            Kind.REBUILD_FAILED,
            f"the tree could not be rebuilt without the catalog and these drives: {problem}",
        )
        return real, None

    def _salvage(
        self, name: str, workspace: Sequence[Drive], until: Place | None = None
    ) -> Salvaged:
        try:
            return salvage(
                self._view.filesystem,
                workspace,
                self._archive,
                self._scratch / name,
                until=until,
                watcher=self._terms.watcher,
                stop=self._terms.stop,
            )
        except IntegrityError:
            raise
        except catalog_store.DOUBTS as error:
            raise NoScratch(
                f"the scratch directory cannot be written to: {error}; with --scratch give one "
                "with room for twice the catalog"
            ) from error

    def _compare(self, real: Reading, salvaged: Salvaged) -> None:
        """Every row of both."""
        total = sum(map(real.size_bytes, TRUTH))
        self._terms.begin("comparing rows", total)
        with open_reading(salvaged.catalog, live=False) as rebuilt:
            found = self.done.compared = compare(real, rebuilt, self._terms.advance)
            inodes = {one.inode for one in found.differences if one.inode is not None}
            names = names_of(rebuilt, inodes) | names_of(real, inodes)
        for one in found.differences:
            path = None if one.inode is None else names.get(one.inode)
            what = path or (f"inode {one.inode}" if one.inode is not None else "")
            self._find(
                Kind.REBUILD_DIFFERS,
                f"{what}: " * bool(what)
                + f"a row of table {one.table.name.lower()} {one.what} in the rebuilt catalog",
                Where(inode=one.inode, path=path),
            )
        for message in found.unreadable:
            self._find(Kind.REBUILD_DIFFERS, f"rows cannot be compared: {message}")
        told, count = len(found.differences), found.differing
        if count > told:
            self._report.notes.append(f"of {count} rows that differ {told} are told")

    # -- without the workspace --------------------------------------------------------------

    def _alone(self, real: Reading) -> None:
        """What the archive drives that are left know by themselves."""
        lost = self.done.unarchived
        segments = {number for number, n in real.live().items() if n > 0}
        archived = {number for number, _ in real.archived_segments()}
        before = -1
        for inode, segment, length in _places(real):
            if segment not in archived:
                lost.files += inode != before
                lost.size_bytes += length
                before = inode
        if not self._view.archives or not segments & archived:
            return
        try:
            salvaged = self._salvage("alone", ())
        except (SetupError, DriveError, IntegrityError) as error:
            self._find(
                Kind.REBUILD_ALONE,
                f"the archive drives that are left tell nothing without the workspace: {error}",
            )
            return
        if salvaged.source is not Source.SNAPSHOT:
            self._find(
                Kind.REBUILD_ALONE,
                "without the workspace and these drives no whole copy of a snapshot is left: names "
                "would be lost",
            )
        with open_reading(salvaged.catalog, live=False) as alone:
            lost.unknown = sum(
                theirs is None
                for ours, theirs in merged(real.rows(Table.INODE), alone.rows(Table.INODE))
                if ours is not None
            )

    # -- bytes ------------------------------------------------------------------------------

    def _read(self, real: Reading) -> None:
        """Contents, as many as are wanted."""
        done, view, terms = self.done, self._view, self._terms
        live = real.live()
        taken = self._sampled(real, live)
        inside = sum(n for number, n in live.items() if real.archived(number) is None)
        total = sum(archived.k * archived.data_bytes for _, archived in taken)
        terms.begin("reading", total + int(inside * done.share))
        fragments = FragmentStore(
            view.filesystem, self._archive, view.fragments.drives.keys() - self._archive.keys()
        )
        deadline_s = self._config.read_deadline_ns / NS_PER_S
        left = Gather(fragments, deadline_s=deadline_s, cache_bytes=0)
        whole = Gather(view.fragments, deadline_s=deadline_s, cache_bytes=0)
        try:
            contents = Contents(left, whole, done.tried, terms.read)
            for number, archived in taken:
                self._try(
                    partial(contents.segment, number, archived),
                    partial(_is_archived, number, archived),
                    Where(segment=number),
                )
            self._read_workspace(real)
        finally:
            left.close()

    def _sampled(self, real: Reading, live: Mapping[int, int]) -> list[tuple[int, Archived]]:
        """Archived segments in which something lives: a share of them, one of each pool at least.

        In the order in which drives have them.
        """
        done, pools = self.done, set[bytes]()
        taken = []
        for number, archived in real.archived_segments():
            if live.get(number, 0) <= 0:
                continue
            if is_sampled(number, done.share, done.seed):
                taken.append((number, archived))
                pools.add(archived.pool)
        for number, archived in real.archived_segments():
            if archived.pool not in pools and live.get(number, 0) > 0:
                taken.append((number, archived))
                pools.add(archived.pool)
        return sorted(taken)

    def _read_workspace(self, real: Reading) -> None:
        done, view = self.done, self._view
        away = [drive for drive in view.store.drives if drive not in self._workspace]
        with ExitStack() as stack:
            readers = [stack.enter_context(self._reader(d)) for d in (self._workspace, away) if d]
            if not self._workspace:
                return
            reader = InWorkspace(
                readers[0], readers[1] if away else None, done.tried, self._terms.read
            )
            before = -1
            for inode, extent in real.all_extents():
                address = extent.address
                if address is None or not is_sampled(inode, done.share, done.seed):
                    continue
                if real.archived(address.segment) is not None:
                    continue
                done.tried.files += inode != before
                before = inode
                self._try(
                    partial(reader.extent, inode, extent),
                    partial(_is_extent, inode, extent),
                    Where(inode=inode, segment=address.segment, offset=extent.offset),
                )

    @contextmanager
    def _reader(self, drives: Sequence[Drive]) -> Iterator[LogReader]:
        store = SegmentStore(self._view.filesystem, drives, 1, 0, lambda: 0)
        try:
            store.scan()
            yield LogReader(store)
        finally:
            store.close()

    def _try(
        self, call: Callable[[], None], still: Callable[[Reading], bool], where: Where
    ) -> None:
        """What cannot be read is a finding, unless it is not `still` there."""
        try:
            call()
        except (IntegrityError, DriveError) as error:
            if self._view.fresh is not None:
                with self._view.fresh() as now:
                    if not still(now):
                        return
            self._find(
                Kind.REBUILD_UNREADABLE,
                f"without these drives it could not be read: {error}",
                where,
            )

    def _find(self, kind: Kind, message: str, where: Where = NOWHERE) -> None:
        self._report.find(Finding(kind, message, where, REMEDY))


def _places(real: Reading) -> Iterator[tuple[int, int, int]]:
    """Inode, segment and bytes of every extent that has bytes, by inode."""
    for key, value in real.rows(Table.EXTENT):
        data = segment_of(value)
        if data is not None:
            yield split_key(key), data[0], data[1]


def _is_archived(number: int, archived: Archived, now: Reading) -> bool:
    return now.archived(number) == archived


def _is_extent(inode: int, extent: Extent, now: Reading) -> bool:
    return extent in now.extents(inode)
