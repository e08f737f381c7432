"""A small filesystem in which everything of FORMAT.md occurs, at rest, to be damaged in copies.

On simulated drives: a workspace (single, or a mirror of two), an archive pool of 2+1 and one of
4+2. It was left cleanly, or by a crash with an orphan, a mark and a batch nobody vouches for. It is
built once; each case is a copy that shares what it does not change.

`judge` is what any damage must pass: reading the tree gives what was written or an error, never
anything else. Where there is redundancy it must give what was written.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.archive.sources import in_workspace, lots_of
from shmr.catalog import examine
from shmr.core import acl
from shmr.core.placement import DriveState
from shmr.drive.seam import Buffer
from shmr.errors import DriveError, IntegrityError, Refused, SetupError
from shmr.format.fragment import Code
from shmr.format.rows import ROOT
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import Clock, Files, files_of, lay_down
from shmr.testing.zoned import add_zoned
from shmr.units import KIB, MIB
from shmr.volume import data, handles, reaper
from shmr.volume.attributes import AttributeChange
from shmr.volume.cleaner import run_inline
from shmr.volume.context import Caller
from shmr.volume.drive_states import state_row
from shmr.volume.known_pools import reconcile
from shmr.volume.membership import Membership, PoolDrives, identify
from shmr.volume.volume import Volume, open_volume
from tests.archive.site import UNIT, ZONE, small_limits

NAME = "subject"
ME = Caller(0, 0)
SCHEMES = (("cold", 2, 1), ("deep", 4, 2))
SEGMENT_BYTES = 128 * KIB
REFUSED = b"(refused)"


@dataclass(slots=True)
class Subject:
    """The filesystem at rest. `world` and `files` (of its catalog) are copied, never opened.

    `legal` are the trees to which a mount may come; `earlier` those that a mount which says that
    durable frames are missing may show besides.
    """

    copies: int
    clean: bool
    world: World
    files: Files
    legal: list[Tree]
    earlier: list[Tree]
    clock: Clock
    orphan: int = 0
    marked: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        workspace = "mirror" if self.copies > 1 else "single"
        return f"{workspace}, left {'cleanly' if self.clean else 'by a crash'}"


@contextmanager
def limits() -> Iterator[None]:
    """Small segments, so that every structure is there more than once; a forked examiner."""
    with small_limits(), mock.patch.multiple(handles, ROWS_MAX=8), \
            mock.patch.multiple(reaper, STEP_ROWS=3), \
            mock.patch.multiple(data, TOUCHED_MAX=4), \
            mock.patch.multiple(examine, subprocess=_Forking):  # fmt: skip
        yield


class _Forking:
    """`subprocess` as the examiner of catalogs knows it: a fork is a hundred times faster."""

    @dataclass(frozen=True, slots=True)
    class Ended:
        returncode: int

    @staticmethod
    def run(command: Sequence[str], *, timeout: float, check: bool) -> Ended:
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if examine.copy_and_check(Path(command[-2]), Path(command[-1])) else 1
            finally:
                os._exit(code)
        return _Forking.Ended(os.waitpid(child, 0)[1])


# -- opening --------------------------------------------------------------------------------


def pool_drives(world: World, copies: int) -> tuple[PoolDrives, ...]:
    """The drives of `world`, pool by pool, as a configuration names them."""
    drives = world.drives
    pools = [PoolDrives("work", tuple(drives[:copies]), copies - 1)]
    at = copies
    for name, k, m in SCHEMES:
        pools.append(PoolDrives(name, tuple(drives[at : at + k + m + 1]), m))
        at += k + m + 1
    return tuple(pools)


def membership_of(
    world: World, copies: int, clock: Clock, *, may_create: bool = False, read_only: bool = False
) -> Membership:
    return identify(
        NAME,
        pool_drives(world, copies),
        catalog_exists=not may_create,
        degraded=False,
        read_only=read_only,
        may_create=may_create,
        random_bytes=random.Random(1).randbytes,
        clock=clock,
    )


def open_on(
    world: World,
    catalog: Path,
    copies: int,
    clock: Clock,
    *,
    may_create: bool = False,
    read_only: bool = False,
    in_child: bool = False,
) -> Volume:
    """Identify the drives and open the volume, as the daemon does.

    `in_child`: pages of the catalog may be damaged, so whoever examines it may die of it.
    """
    found = membership_of(world, copies, clock, may_create=may_create, read_only=read_only)
    volume = open_volume(
        found.filesystem,
        found.workspace,
        catalog,
        clock=clock,
        copies=copies,
        segment_bytes=SEGMENT_BYTES,
        read_only=read_only,
        in_child=in_child,
        archive=found.archive,
        archive_missing=found.archive_missing,
        deadline_s=None,
    )
    try:
        reconcile(volume, found.archives.values())
    except BaseException:
        volume.abandon()
        raise
    return volume


def archive_pools(world: World, copies: int, clock: Clock) -> list[Pool]:
    """The archive pools as whoever moves bytes knows them."""
    found = membership_of(world, copies, clock).archives
    return [
        Pool(found[name].pool, name, k, m, Code.ISA_L_RS_CAUCHY, ZONE, found[name].members, UNIT,
             clean_at=0.3)
        for name, k, m in SCHEMES if name in found
    ]  # fmt: skip


# -- building -------------------------------------------------------------------------------


def build(place: Path, *, copies: int = 1, clean: bool = True, seed: int = 0) -> Subject:
    """Make the filesystem in the scratch directory `place`. Within `limits`."""
    return _Builder(place, copies, clean, seed).build()


class _Builder:
    def __init__(self, place: Path, copies: int, clean: bool, seed: int) -> None:
        self.copies, self.clean = copies, clean
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.world = World(seed)
        for index in range(copies):
            self.world.add(f"work{index}", capacity_bytes=64 * MIB)
        for name, k, m in SCHEMES:
            for index in range(k + m + 1):
                add_zoned(self.world, f"{name}{index}", zones=24, zone_bytes=ZONE)
        self.catalog = place / f"built-{copies}-{clean}"
        self.trees: list[Tree] = []
        self.volume: Volume

    def build(self) -> Subject:
        self.volume = open_on(self.world, self.catalog, self.copies, self.clock, may_create=True)
        self._look()
        self._things()
        self._files()
        self._shift("cold", [b"cold0", b"cold1", b"cold2", b"over"])
        self._again()
        self._shift("deep", [b"deep0", b"deep1", b"gone"])
        self._reopen()
        self._change()
        return self._left_cleanly() if self.clean else self._left_by_a_crash()

    # -- what is in it ----------------------------------------------------------------------

    def _things(self) -> None:
        """Inodes of all kinds, with everything that an inode can have."""
        names, xattrs = self.volume.names, self.volume.xattrs
        directory = names.create(ROOT, b"directory", stat.S_IFDIR | 0o750, ME).number
        names.create(directory, b"empty", stat.S_IFDIR | 0o700, ME)
        below = names.create(directory, b"below", stat.S_IFDIR | 0o2755, ME).number
        names.create(below, "ä ".encode() * 80, stat.S_IFREG | 0o600, ME)
        names.create(ROOT, b"symlink", stat.S_IFLNK | 0o777, ME, target=b"directory/below")
        names.create(ROOT, b"fifo", stat.S_IFIFO | 0o644, ME)
        names.create(ROOT, b"socket", stat.S_IFSOCK | 0o644, ME)
        names.create(ROOT, b"device", stat.S_IFBLK | 0o600, ME, rdev=0x0801)
        named = names.create(ROOT, b"suid", stat.S_IFREG | 0o4755, ME)
        names.link(named.number, directory, b"other name")
        xattrs.set(named.number, b"user.colour", b"green" * 40)
        xattrs.set(named.number, b"user.empty", b"")
        # More than a page of the catalog takes.
        xattrs.set(named.number, b"user.long", self.rng.randbytes(9_000))
        for index in range(40):
            names.link(named.number, below, b"%03d" % index + b"-" * 200)
        entries = (
            acl.Entry(acl.Tag.OWNER, 7), acl.Entry(acl.Tag.USER, 5, 1234),
            acl.Entry(acl.Tag.GROUP, 5), acl.Entry(acl.Tag.MASK, 5), acl.Entry(acl.Tag.OTHER, 4),
        )  # fmt: skip
        value = acl.encode(acl.Acl(entries))
        xattrs.set(directory, acl.ACCESS, value)
        xattrs.set(directory, acl.DEFAULT, value)
        self._commit()

    def _files(self) -> None:
        for name, size in ((b"small", 5), (b"large", 50_000), (b"none", 0), (b"over", 30_000)):
            self._write(name, 0, size)
        for index in range(3):
            self._write(b"cold%d" % index, 0, 9_000 + 20_000 * index)
        sparse = self._write(b"sparse", 40_000, 3_000)
        self.volume.attributes.set(sparse, AttributeChange(size=90_000))
        self._commit()

    def _again(self) -> None:
        for index in range(2):
            self._write(b"deep%d" % index, 0, 30_000 + 20_000 * index)
        self._write(b"gone", 0, 20_000)
        # Part of what is archived is written over, part stays.
        self._write(b"over", 4_000, 9_000)
        self._commit()

    def _change(self) -> None:
        names, attributes = self.volume.names, self.volume.attributes
        self.volume.context.apply([state_row(self._pool("deep").drives[-1], DriveState.PREFER)])
        names.rename(ROOT, b"small", self._number(b"directory"), b"moved", 0)
        gone = self._number(b"gone")
        names.unlink(ROOT, b"gone")
        self.volume.handles.forgotten(gone)
        attributes.set(self._number(b"large"), AttributeChange(uid=1000, gid=100, mtime_ns=-5))
        self._write(b"large", 10_000, 100)
        self.clock.tick()
        self.volume.checkpoints.run()
        self._look()
        self._write(b"late", 0, 20_000)
        self._commit()

    def _pool(self, name: str) -> Pool:
        pools = archive_pools(self.world, self.copies, self.clock)
        return next(pool for pool in pools if pool.name == name)

    def _number(self, name: bytes) -> int:
        return self.volume.names.lookup(ROOT, name).number

    def _write(self, name: bytes, at: int, size: int) -> int:
        self.clock.tick()
        try:
            number = self._number(name)
        except Refused:
            number = self.volume.names.create(ROOT, name, stat.S_IFREG | 0o644, ME).number
        if size:
            self.volume.data.write(number, at, self.rng.randbytes(size))
        return number

    def _shift(self, pool: str, names: Sequence[bytes]) -> None:
        volume = self.volume
        shift = Shift(volume, archive_pools(self.world, self.copies, self.clock))
        belongs = in_workspace(volume.catalog)
        lots = lots_of(volume.catalog, sorted(map(self._number, names)), belongs)
        run_inline(shift.to_archive(lots, self._pool(pool), flush=True))
        self._look()

    def _commit(self) -> None:
        self.volume.commits.now()
        self._look()

    def _look(self) -> None:
        tree = tree_of(self.volume)
        if not self.trees or self.trees[-1] != tree:
            self.trees.append(tree)

    def _reopen(self) -> None:
        """The journal goes on in another segment."""
        self.volume.close()
        self.volume = open_on(self.world, self.catalog, self.copies, self.clock)

    # -- how it is left ---------------------------------------------------------------------

    def _left_cleanly(self) -> Subject:
        # A mark that is not worked off, in a file that is still there.
        marked = self._many_extents(b"marked")
        self.volume.attributes.set(marked, AttributeChange(size=1_000))
        self._look()
        self.volume.close()
        return self._at_rest([self.trees[-1]], marked=marked)

    def _left_by_a_crash(self) -> Subject:
        marked = self._many_extents(b"marked")
        self.volume.attributes.set(marked, AttributeChange(size=1_000))
        orphan = self._write(b"orphan", 0, 5_000)
        self.volume.xattrs.set(orphan, b"user.orphan", b"x")
        self.volume.handles.opened(orphan)
        self.volume.names.unlink(ROOT, b"orphan")
        self._commit()
        self.volume.checkpoints.run()
        self._write(b"claimed", 0, 12_000)
        self._commit()
        # Of all before the next COMMIT is known that it was durable, of what this one brings not.
        self._write(b"torn", 0, 10_000)
        self._commit()
        # And frames without a COMMIT, which nobody was promised.
        self._write(b"uncommitted", 0, 7_000)
        legal = self.trees[-2:]
        self.volume.abandon()
        return self._at_rest(legal, marked=marked, orphan=orphan)

    def _many_extents(self, name: bytes) -> int:
        number = 0
        for index in range(12):
            number = self._write(name, index * 5_000, 1_000 + index)
        self._commit()
        return number

    def _at_rest(self, legal: list[Tree], *, marked: int, orphan: int = 0) -> Subject:
        files = files_of(self.catalog)
        assert files is not None and self.clean == ("digest" in files)
        world = self.world.kill()
        for drive in world.drives:
            for name in drive.names():
                if drive.size(name):
                    drive.plant(name, 0, drive.open(name).read(0, 1))
        earlier = [tree for tree in self.trees if tree not in legal]
        return Subject(
            self.copies, self.clean, world, files, legal, earlier, self.clock, orphan, marked
        )


# -- judging --------------------------------------------------------------------------------


class Wrong(AssertionError):
    """Something was read that was never written, or is gone though it need not be."""


class Tolerant:
    """A volume whose unreadable files can be looked at, and which of them these are."""

    def __init__(self, volume: Volume) -> None:
        self.names, self.attributes, self.xattrs = volume.names, volume.attributes, volume.xattrs
        self.data = self
        self.refused: set[int] = set()
        self._data = volume.data

    def plan_read(self, number: int, offset: int, size: int) -> _Plan:
        return _Plan(self, number, self._data.plan_read(number, offset, size))


class _Plan:
    def __init__(self, seen: Tolerant, number: int, plan: Any) -> None:
        self._seen, self._number, self._plan = seen, number, plan

    def fetch_cached(self) -> Buffer | None:
        return None

    def fetch(self) -> Buffer:
        try:
            fetched: Buffer = self._plan.fetch()
            return fetched
        except (IntegrityError, DriveError):
            self._seen.refused.add(self._number)
            return REFUSED

    def release(self) -> None:
        self._plan.release()


@dataclass(frozen=True, slots=True)
class Seen:
    """What opening and reading a damaged copy came to: an error that was told, or a tree.

    `refused` counts the files that could not be read.
    """

    error: str = ""
    refused: int = 0
    read_only: str = ""

    @property
    def is_whole(self) -> bool:
        return not (self.error or self.refused or self.read_only)


def look(
    subject: Subject,
    world: World,
    catalog: Path,
    *,
    read_only: bool = False,
    in_child: bool = False,
) -> Seen:
    """Open a copy, read everything, compare; `catalog` is where its catalog lies.

    Raises Wrong where anything is read that is not what was written.
    """
    try:
        volume = open_on(
            world, catalog, subject.copies, subject.clock, read_only=read_only, in_child=in_child
        )
    except (SetupError, DriveError, IntegrityError) as error:
        return Seen(error=f"{type(error).__name__}: {error}")
    try:
        why = volume.read_only or ""
        if why == "mounted read-only":
            why = ""
        tolerant = Tolerant(volume)
        try:
            found = tree_of(tolerant)
            _look_up(volume)
        except (IntegrityError, DriveError) as error:
            return Seen(error=f"{type(error).__name__}: {error}", read_only=why)
        _compare(subject, volume, found, tolerant.refused, told=bool(why))
        return Seen(refused=len(tolerant.refused), read_only=why)
    finally:
        volume.abandon()


def _compare(
    subject: Subject, volume: Volume, found: Tree, refused: set[int], *, told: bool
) -> None:
    nearest: list[str] = []
    for tree in [*subject.legal, *(subject.earlier if told else ())]:
        wrong = differences(tree, found)
        if not wrong:
            return
        if tree.keys() == found.keys() and all(
            tree[path] == found[path]
            or (
                tree[path]._replace(content=b"") == found[path]._replace(content=b"")
                and _number_of(volume, path) in refused
            )
            for path in tree
        ):
            return
        if not nearest or len(wrong) < len(nearest):
            nearest = wrong
    raise Wrong("\n".join(nearest[:10]))


def _look_up(volume: Volume) -> None:
    """What a listing shows is found by its name too. Raises Wrong, IntegrityError."""
    waiting = [ROOT]
    while waiting:
        directory = waiting.pop()
        for name, inode, _ in volume.names.entries(directory, 0):
            try:
                found = volume.names.lookup(directory, name)
            except Refused as refused:
                raise Wrong(f"{name!r} is listed in inode {directory}: {refused}") from refused
            if found != inode or volume.attributes.get(inode.number) != inode:
                raise Wrong(f"{name!r} in inode {directory} is {found}, listed as {inode}")
            if stat.S_ISDIR(inode.mode):
                waiting.append(inode.number)


def path_numbers(volume: Volume) -> dict[bytes, int]:
    """The inode number of every path; the root is b"/"."""
    found, waiting = {b"/": ROOT}, [(ROOT, b"")]
    while waiting:
        directory, path = waiting.pop()
        for name, inode, _ in volume.names.entries(directory, 0):
            found[path + b"/" + name] = inode.number
            if stat.S_ISDIR(inode.mode):
                waiting.append((inode.number, path + b"/" + name))
    return found


def _number_of(volume: Volume, path: bytes) -> int:
    number = ROOT
    for name in path.split(b"/"):
        if name:
            number = volume.names.lookup(number, name).number
    return number


@contextmanager
def copy_of(subject: Subject, place: Path) -> Iterator[tuple[World, Path]]:
    """A copy of the drives, and the path of a copy of the catalog within `place`."""
    catalog = place / "catalog"
    for aside in place.glob("catalog*"):
        if aside.is_dir():
            lay_down(None, aside)
        else:
            aside.unlink()
    lay_down(subject.files, catalog)
    yield subject.world.kill(), catalog


def drive_of(world: World, label: str) -> SimulatedDrive:
    return next(drive for drive in world.drives if drive.label == label)
