"""Every pattern of at most m lost drives, and a flipped unit on a survivor where that leaves room.

What is rebuilt has the units, the table and the sums that were lost, and the tree is the one that
it was. A rebuild that is cut off, or struck by a fault, at any operation is completed by the next,
and at no time is anything lost that could be read before.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from shmr.archive.control import Control
from shmr.archive.exposure import Exposure
from shmr.archive.pool import Pool
from shmr.archive.redistribute import fragments_on, plan_emptying
from shmr.archive.rehouse import Rehousing
from shmr.archive.shift import Shift
from shmr.core.placement import DriveState
from shmr.errors import ShmrError
from shmr.format.archived import Archived
from shmr.format.fragment import BLOCK, Code, decode_header
from shmr.service.drives.rehousing import whole_now
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.holds import held
from shmr.volume.volume import Volume
from tests.archive import site as sites
from tests.archive.site import UNIT, Site, pool_of, small_limits

SEED = 20
Lost = tuple[bytes, ...]
Parts = tuple[bytes, bytes, bytes, bytes]
"""Of a fragment: what its header says of the segment, its units, its table, its sums."""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def wide_pool(k: int, m: int, spare: int) -> Pool:
    ids = tuple(sites.drive_id(0, index) for index in range(k + m + spare))
    return Pool(
        bytes([200]) * 16, "cold", k, m, Code.ISA_L_RS_CAUCHY, sites.ZONE, ids, UNIT, clean_at=0.3
    )


def archived_site(place: Path, pool: Pool) -> Site:
    """A few files in the pool, in two segments of which one has a short last unit."""
    site = Site(place, pool)
    volume = site.open()
    rng = random.Random(SEED)
    site.write(volume, b"large", rng.randbytes(pool.k * 2 * UNIT + 1000))
    site.shift(volume, pool)
    for name, size in ((b"small", 300), (b"middle", pool.k * UNIT + 5000), (b"none", 0)):
        site.write(volume, name, rng.randbytes(size))
    site.shift(volume, pool)
    volume.close()
    return site


def rows_of(volume: Volume) -> dict[int, Archived]:
    return dict(volume.catalog.archived_segments())


def parts(volume: Volume, number: int, archived: Archived, index: int) -> Parts:
    """What a fragment consists of. Raises where it is not whole."""
    fragments = volume.context.fragments
    footer = fragments.footer(number, archived, index)
    file = fragments.drives[archived.fragments[index].drive].open(
        f"fragment-{number:012}-{index:02}-{archived.fragments[index].generation:06}"
    )
    try:
        header = decode_header(file.read(0, BLOCK))
        units = file.read(BLOCK, header.data_bytes)
    finally:
        file.close()
    assert header == footer.header
    for unit, outcome in fragments.read(number, archived, index, range(header.units)).items():
        assert isinstance(outcome, bytes), (number, index, unit)
    same = header._replace(generation=0, drives=(), created_ns=0)
    return repr(same).encode(), units, fragments.table(number, archived, index), footer.sums


def all_parts(volume: Volume) -> dict[tuple[int, int], Parts]:
    return {
        (number, index): parts(volume, number, archived, index)
        for number, archived in rows_of(volume).items()
        for index in range(len(archived.fragments))
    }


def tree(volume: Volume) -> list[object]:
    """Everything of the tree but what an opening may change: nothing."""
    rows: list[object] = []
    for name, inode, _ in volume.names.entries(1, 0):
        extents = volume.catalog.extents(inode.number, 0, inode.size)
        rows.append((bytes(name), inode, list(extents)))
    return rows


def rebuild(volume: Volume, pool: Pool, drive: bytes) -> Rehousing:
    """A whole run, as the command makes it: planned anew where a drive failed."""
    pool = replace(pool, states={drive: DriveState.DRAIN})
    shift = Shift(volume, [pool])
    run_inline(shift.recover())
    whole = whole_now(volume, without=drive)
    exposure = Exposure(rows_of(volume), volume.catalog.live, whole)
    rehousing = Rehousing(shift, Control(), switched=exposure.note)
    failed: set[bytes] | None = None
    while failed != rehousing.failed.keys():
        failed = set(rehousing.failed)
        facts, _ = pool.facts(volume.context.fragments, avoided=rehousing.failed)
        plan = plan_emptying(rows_of(volume), drive, facts, whole=whole)
        assert plan.shortage is None or rehousing.failed
        run_inline(rehousing.run(plan.steps))
    return rehousing


def lost_patterns(pool: Pool) -> list[Lost]:
    drives = pool.drives
    return [lost for count in range(1, pool.m + 1) for lost in combinations(drives, count)]


def flip(site: Site, volume: Volume, world: World, lost: Lost, rng: random.Random) -> int:
    """One bit of a unit on a survivor, in each segment that can do without it; how many."""
    flipped = 0
    for number, archived in rows_of(volume).items():
        there = [i for i, p in enumerate(archived.fragments) if p.drive not in lost]
        if len(there) <= archived.k:
            continue
        index = rng.choice(there)
        placed = archived.fragments[index]
        name = f"fragment-{number:012}-{index:02}-{placed.generation:06}"
        at = BLOCK + rng.randrange(archived.data_bytes)
        site.zoned(world)[placed.drive].flip_bit(name, at, rng.randrange(8))
        flipped += 1
    return flipped


def assert_rebuilt(site: Site, pool: Pool, lost: Lost, number: int) -> int:
    """One pattern: rebuilt drive by drive, in a copy of the world; how many units were flipped."""
    world, catalog = site.world.kill(), site.place / "pattern"
    lay_down(files_of(site.catalog), catalog)
    volume = site.open(world, catalog)
    before, rows, looks = all_parts(volume), rows_of(volume), tree(volume)
    volume.close()
    volume = site.open(world, catalog, missing=lost)
    flipped = flip(site, volume, world, lost, random.Random(number))
    for drive in lost:
        rehousing = rebuild(volume, pool, drive)
        assert not rehousing.lost and not rehousing.failed
        assert list(fragments_on(rows_of(volume), drive)) == []
    site.assert_files(volume)
    assert tree(volume) == looks
    for (segment, index), was in before.items():
        placed = rows_of(volume)[segment].fragments[index]
        moved = rows[segment].fragments[index].drive in lost
        assert moved == (placed != rows[segment].fragments[index])
        if moved:
            assert placed.generation == 2 and placed.drive not in lost
            assert parts(volume, segment, rows_of(volume)[segment], index) == was
    for archived in rows_of(volume).values():
        assert len({placed.drive for placed in archived.fragments}) == pool.width
    assert not held(volume.catalog)
    volume.close()
    return flipped


def assert_all_rebuilt(place: Path, pool: Pool, share: int) -> None:
    """Every `share`th pattern. At least some of them had a flipped unit besides."""
    site = archived_site(place, pool)
    flipped = 0
    patterns = lost_patterns(pool)
    for number in range(0, len(patterns), share):
        flipped += assert_rebuilt(site, pool, patterns[number], number)
    assert flipped > 0


def test_4_2_is_rebuilt_from_any_two_losses(place: Path) -> None:
    assert_all_rebuilt(place, wide_pool(4, 2, spare=2), 1)


def test_8_3_is_rebuilt_from_some_of_all_losses(place: Path) -> None:
    assert_all_rebuilt(place, wide_pool(8, 3, spare=3), 16)


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_8_3_is_rebuilt_from_any_three_losses(place: Path) -> None:
    assert_all_rebuilt(place, wide_pool(8, 3, spare=3), 1)


def test_one_loss_too_many_loses_no_other_byte(place: Path) -> None:
    pool = pool_of("4+2", drives=9)
    site = archived_site(place, pool)
    volume = site.open()
    segments = rows_of(volume)
    first = segments[min(segments)]
    volume.close()
    lost = tuple(placed.drive for placed in first.fragments[:3])
    volume = site.open(missing=lost)
    for drive in lost:
        rehousing = rebuild(volume, pool, drive)
        assert {one.segment for one in rehousing.lost} == {min(segments)} & {
            number for number, _ in fragments_on(rows_of(volume), drive)
        }
    assert rows_of(volume)[min(segments)] == first
    volume.close()
    # The drives come back: nothing of theirs was given up.
    volume = site.open()
    site.assert_files(volume)
    volume.close()


class Cuts:
    """At every operation: the power is cut, or the process killed; then it is run again."""

    def __init__(self, site: Site, pool: Pool, lost: Lost) -> None:
        self.site, self.pool, self.lost = site, pool, lost
        self.count = 0
        self.rng = random.Random(SEED)

    def observe(self, world: World) -> None:
        files = files_of(self.site.catalog)
        for image in (world.reboot(self.rng), world.kill()):
            self.count += 1
            catalog = self.site.place / "image"
            lay_down(None if self.count % 5 == 0 else files, catalog)
            volume = self.site.open(image, catalog, missing=self.lost)
            self.site.assert_files(volume)
            rebuild(volume, self.pool, self.lost[0])
            assert list(fragments_on(rows_of(volume), self.lost[0])) == []
            self.site.assert_files(volume)
            assert volume.archive.strays() == [] and not held(volume.catalog)
            volume.close()


def test_a_rebuild_cut_off_anywhere_is_completed_by_the_next(place: Path) -> None:
    pool = wide_pool(4, 2, spare=2)
    site = archived_site(place, pool)
    volume = site.open()
    lost = tuple(placed.drive for placed in next(iter(rows_of(volume).values())).fragments[1:3])
    volume.close()
    volume = site.open(missing=lost)
    cuts = Cuts(site, pool, lost)
    site.world.observer = cuts.observe
    rebuild(volume, pool, lost[0])
    site.world.observer = None
    volume.close()
    assert cuts.count > 20


def strike(site: Site, pool: Pool, lost: Lost, at: int, fault: Fault, persistent: bool) -> bool:
    """A rebuild in a copy of the world with one fault, and a second one without it."""
    world, catalog = site.world.kill(), site.place / "struck"
    lay_down(files_of(site.catalog), catalog)
    volume = site.open(world, catalog, missing=lost)
    base = world.reads if fault is Fault.READ else world.operations
    world.fail(base + at, fault, persistent=persistent)
    try:
        rebuild(volume, pool, lost[0])
    except ShmrError:
        assert world.plan.struck
    world.plan.heal()
    struck = bool(world.plan.struck)
    site.assert_files(volume)
    volume.abandon()
    left = world.kill()
    volume = site.open(left, catalog, missing=lost)
    site.assert_files(volume)
    assert not rebuild(volume, pool, lost[0]).lost
    assert list(fragments_on(rows_of(volume), lost[0])) == []
    site.assert_files(volume)
    assert volume.archive.strays() == [] and not held(volume.catalog)
    volume.close()
    return struck


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_at_any_operation_of_a_rebuild_loses_nothing(
    place: Path, fault: Fault, persistent: bool
) -> None:
    pool = wide_pool(4, 2, spare=2)
    site = archived_site(place, pool)
    volume = site.open()
    lost = (next(iter(rows_of(volume).values())).fragments[0].drive,)
    volume.close()
    at = 0
    while strike(site, pool, lost, at, fault, persistent=persistent):
        at += 1
    assert at > 3


def test_a_target_that_fails_for_good_is_done_without(place: Path) -> None:
    """Whatever fails of it, at whichever operation, everything is rebuilt in the same run."""
    pool = wide_pool(4, 2, spare=3)
    site = archived_site(place, pool)
    volume = site.open()
    lost = next(iter(rows_of(volume).values())).fragments[0].drive
    volume.close()
    completed = 0
    for at in range(0, 40, 3):
        world, catalog = site.world.kill(), site.place / "failing"
        lay_down(files_of(site.catalog), catalog)
        volume = site.open(world, catalog, missing=(lost,))
        world.fail(world.operations + at, Fault.EIO, persistent=False)
        try:
            rehousing = rebuild(volume, pool, lost)
        except ShmrError:
            volume.abandon()
            continue
        if rehousing.failed:
            assert list(fragments_on(rows_of(volume), lost)) == []
            site.assert_files(volume)
            completed += 1
        volume.close()
    assert completed > 0
