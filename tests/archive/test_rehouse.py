"""Fragments written anew: drains and replacements, cut off and struck at every operation."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from shmr.archive.control import Control
from shmr.archive.pool import Pool
from shmr.archive.redistribute import (
    TOLERANCE,
    Fill,
    Plan,
    fragments_on,
    plan_balance,
    plan_emptying,
    plan_parity,
)
from shmr.archive.rehouse import Rehousing, Step
from shmr.archive.shift import Shift
from shmr.core.placement import DriveState
from shmr.errors import ShmrError
from shmr.format.archived import Archived
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.drive_states import state_row, states
from shmr.volume.holds import held
from shmr.volume.volume import Volume
from tests.archive.site import SCHEMES, ZONE, Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def archived_site(place: Path, pool: Pool, *, seed: int = 5) -> Site:
    """A site with a few files, all of them in the pool, closed cleanly."""
    site = Site(place, pool)
    volume = site.open()
    rng = random.Random(seed)
    for name, size in ((b"small", 3000), (b"large", 90_000), (b"middle", 21_000), (b"none", 0)):
        site.write(volume, name, rng.randbytes(size))
    site.shift(volume, pool)
    volume.close()
    return site


def rows_of(volume: Volume) -> dict[int, Archived]:
    return dict(volume.catalog.archived_segments())


def draining(pool: Pool, drive: bytes) -> Pool:
    return replace(pool, states={drive: DriveState.DRAIN})


def empty_drive(
    site: Site, volume: Volume, pool: Pool, drive: bytes, *, onto: bytes | None = None
) -> Rehousing:
    """A whole run, as a command makes it."""
    pool = draining(pool, drive)
    shift = Shift(volume, [pool])
    run_inline(shift.recover())
    fragments = volume.context.fragments
    facts, _ = pool.facts(fragments)
    plan = plan_emptying(rows_of(volume), drive, facts, onto=onto)
    assert plan.shortage is None
    rehousing = Rehousing(shift, Control())
    run_inline(rehousing.run(plan.steps))
    run_inline(rehousing.evacuate(pool, drive))
    return rehousing


def assert_left(site: Site, volume: Volume, world: World, pool: Pool, drive: bytes) -> None:
    """The drive holds nothing, everything else is whole, and nothing is astray."""
    rows = rows_of(volume)
    assert rows and list(fragments_on(rows, drive)) == []
    for archived in rows.values():
        assert len({placed.drive for placed in archived.fragments}) == pool.width
    for number, archived in rows.items():
        for index in range(pool.width):
            units = range(-(-archived.data_bytes // archived.unit_bytes))
            found = volume.context.fragments.read(number, archived, index, units)
            assert all(isinstance(one, bytes) for one in found.values())
    site.assert_files(volume)
    assert not held(volume.catalog)
    there = volume.context.fragments.drives.get(drive)
    if there is None:
        # What it holds is not known to be astray before it comes back.
        assert volume.archive.strays() == []
    else:
        site.assert_nothing_astray(volume, world)
        assert not [name for name in there.names() if name.startswith(("fragment", "snapshot"))]


def used_drive(site: Site, pool: Pool) -> bytes:
    volume = site.open()
    try:
        return next(iter(rows_of(volume).values())).fragments[0].drive
    finally:
        volume.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_drained_drive_is_empty_and_every_file_is_whole(place: Path, scheme: str) -> None:
    pool = pool_of(scheme)
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    volume = site.open()
    rehousing = empty_drive(site, volume, pool, drive)
    assert rehousing.moved > 0 and not rehousing.lost
    assert_left(site, volume, site.world, pool, drive)
    volume.close()
    volume = site.open()
    assert_left(site, volume, site.world, pool, drive)
    volume.close()


@pytest.mark.parametrize("scheme", ["mirror", "2+1", "4+2"])
def test_fragments_of_a_lost_drive_are_decoded_onto_another(place: Path, scheme: str) -> None:
    pool = pool_of(scheme)
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    volume = site.open(missing=(drive,))
    assert not empty_drive(site, volume, pool, drive).lost
    assert_left(site, volume, site.world, pool, drive)
    volume.close()
    # It comes back: what it holds is astray, and goes.
    volume = site.open()
    shift = site.shift(volume, pool)
    assert shift.report.strays > 0
    assert_left(site, volume, site.world, pool, drive)
    volume.close()


class Cuts:
    """Looks at what every cut of the power leaves, and every kill."""

    def __init__(self, site: Site, again: Callable[[Site, Volume, World], None]) -> None:
        self.site, self.again = site, again
        self.count = 0
        self.rng = random.Random(9)

    def observe(self, world: World) -> None:
        files = files_of(self.site.catalog)
        for image in (world.reboot(self.rng), world.kill()):
            self.count += 1
            catalog = self.site.place / "image"
            lay_down(None if self.count % 7 == 0 else files, catalog)
            volume = self.site.open(image, catalog)
            self.site.assert_files(volume)
            self.again(self.site, volume, image)
            volume.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_drain_cut_off_anywhere_is_completed_by_the_next(place: Path, scheme: str) -> None:
    pool = pool_of(scheme)
    site = archived_site(place, pool)
    drive = used_drive(site, pool)

    def again(site: Site, volume: Volume, world: World) -> None:
        empty_drive(site, volume, pool, drive)
        assert_left(site, volume, world, pool, drive)

    volume = site.open()
    cuts = Cuts(site, again)
    site.world.observer = cuts.observe
    empty_drive(site, volume, pool, drive)
    site.world.observer = None
    volume.close()
    assert cuts.count > 20


def test_a_replacement_cut_off_anywhere_is_completed_by_the_next(place: Path) -> None:
    pool = pool_of("2+1")
    site = archived_site(place, pool)
    old = used_drive(site, pool)
    volume = site.open()
    everywhere = {p.drive for archived in rows_of(volume).values() for p in archived.fragments}
    new = next(drive for drive in pool.drives if drive not in everywhere)
    volume.close()
    opened = site.open

    def without(*arguments: object, **named: object) -> Volume:
        return opened(*arguments, **named, missing=(old,))  # type: ignore[arg-type]

    site.open = without  # type: ignore[method-assign]

    def again(site: Site, volume: Volume, world: World) -> None:
        empty_drive(site, volume, pool, old, onto=new)
        assert_left(site, volume, world, pool, old)
        assert list(fragments_on(rows_of(volume), new))

    volume = site.open()
    cuts = Cuts(site, again)
    site.world.observer = cuts.observe
    empty_drive(site, volume, pool, old, onto=new)
    site.world.observer = None
    volume.close()
    assert cuts.count > 20


def strike(
    site: Site,
    pool: Pool,
    drive: bytes,
    number: int,
    fault: Fault,
    persistent: bool,
    missing: tuple[bytes, ...] = (),
) -> bool:
    """A drain in a copy of the world, with one fault, and a second one without it."""
    world = site.world.kill()
    catalog = site.place / "struck"
    lay_down(files_of(site.catalog), catalog)
    volume = site.open(world, catalog, missing=missing)
    base = world.reads if fault is Fault.READ else world.operations
    world.fail(base + number, fault, persistent=persistent)
    try:
        empty_drive(site, volume, pool, drive)
    except (ShmrError, AssertionError):
        # A drive that fails offers no room: the plan is short then.
        assert world.plan.struck
    world.plan.heal()
    struck = bool(world.plan.struck)
    site.assert_files(volume)
    volume.abandon()
    left = world.kill()
    volume = site.open(left, catalog, missing=missing)
    site.assert_files(volume)
    empty_drive(site, volume, pool, drive)
    assert_left(site, volume, left, pool, drive)
    volume.close()
    return struck


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_at_any_operation_of_a_drain_loses_nothing(
    place: Path, fault: Fault, persistent: bool
) -> None:
    pool = pool_of("2+1")
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    number = 0
    while strike(site, pool, drive, number, fault, persistent):
        number += 1
    assert number > 3


@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_at_any_operation_of_a_rebuild_loses_nothing(place: Path, fault: Fault) -> None:
    pool = pool_of("4+2")
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    number = 0
    while strike(site, pool, drive, number, fault, persistent=False, missing=(drive,)):
        number += 1
    assert number > 3


def test_a_drive_is_rebuilt_whichever_other_is_lost_too(place: Path) -> None:
    pool = pool_of("4+2", drives=8)
    site = archived_site(place, pool)
    files = files_of(site.catalog)
    for lost in pool.drives:
        for other in set(pool.drives) - {lost}:
            world, catalog = site.world.kill(), site.place / "image"
            lay_down(files, catalog)
            volume = site.open(world, catalog, missing=(lost, other))
            assert not empty_drive(site, volume, pool, lost).lost
            assert list(fragments_on(rows_of(volume), lost)) == []
            site.assert_files(volume)
            volume.close()


def test_what_cannot_be_decoded_is_told_and_left(place: Path) -> None:
    pool = pool_of("single")
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    volume = site.open(missing=(drive,))
    before = rows_of(volume)
    rehousing = empty_drive(site, volume, pool, drive)
    assert rehousing.lost and rows_of(volume) == before
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()


def test_parity_is_added_and_dropped_without_touching_what_is_there(place: Path) -> None:
    pool = pool_of("2+1", drives=5)
    site = archived_site(place, pool)
    volume = site.open()
    before = rows_of(volume)
    for m in (3, 2, 3):
        shift = Shift(volume, [pool])
        run_inline(shift.recover())
        rehousing = Rehousing(shift, Control())
        facts, _ = pool.facts(volume.context.fragments)
        plan: Plan = plan_parity(rows_of(volume), m, facts)
        assert plan.shortage is None
        run_inline(rehousing.run(plan.steps))
        for number in rows_of(volume):
            run_inline(rehousing.drop(number, pool.k + m))
        run_inline(rehousing.settle())
        for number, archived in rows_of(volume).items():
            assert archived.m == m
            assert archived.fragments[:3] == before[number].fragments
        site.assert_files(volume)
        assert volume.archive.strays() == []
    volume.close()
    # With two of parity more than before, any three drives may be absent.
    volume = site.open(missing=tuple(p.drive for p in before[min(before)].fragments))
    site.assert_files(volume)
    volume.close()


def test_parity_is_not_dropped_where_what_stays_cannot_be_read(place: Path) -> None:
    pool = pool_of("2+1")
    site = archived_site(place, pool)
    drive = used_drive(site, pool)
    volume = site.open(missing=(drive,))
    before = rows_of(volume)
    shift = Shift(volume, [pool])
    run_inline(shift.recover())
    rehousing = Rehousing(shift, Control())
    for number in before:
        run_inline(rehousing.drop(number, pool.k))
    run_inline(rehousing.settle())
    kept = {n: a for n, a in before.items() if drive in {p.drive for p in a.fragments[: pool.k]}}
    assert kept and kept.items() <= rows_of(volume).items()
    assert {one.segment for one in rehousing.lost} == kept.keys()
    site.assert_files(volume)
    volume.close()


def test_too_few_drives_for_more_parity_is_said(place: Path) -> None:
    pool = pool_of("2+1")
    site = archived_site(place, pool)
    volume = site.open()
    facts, _ = pool.facts(volume.context.fragments)
    plan = plan_parity(rows_of(volume), 3, facts)
    assert plan.left > 0 and plan.shortage is not None and "are needed" in plan.shortage
    volume.close()


def fills_of(volume: Volume, pool: Pool) -> dict[bytes, Fill]:
    drives = volume.context.fragments.drives
    capacities = {drive: drives[drive].capacity() for drive in pool.drives}
    return {drive: Fill(c.total_bytes, c.free_bytes) for drive, c in capacities.items()}


def test_drives_are_evened_out(place: Path) -> None:
    few, whole = pool_of("2+1", drives=3), pool_of("2+1", drives=6)
    site = Site(place, whole, zones=40)
    volume = site.open()
    # All goes to three drives; then there are six.
    for number in range(10):
        site.write(volume, b"file%d" % number, random.Random(number).randbytes(300_000))
        site.shift(volume, few)
    shift = Shift(volume, [whole])
    run_inline(shift.recover())
    facts, _ = whole.facts(volume.context.fragments)
    plan = plan_balance(rows_of(volume), facts, fills_of(volume, whole), zone_bytes=ZONE)
    assert plan.steps
    run_inline(Rehousing(shift, Control()).run(plan.steps))
    shares = [fill.share for fill in fills_of(volume, whole).values()]
    # A snapshot has been kept since, on some of them: of a zone or two.
    assert max(shares) - min(shares) <= TOLERANCE + 3 / 40
    counts = [sum(1 for _ in fragments_on(rows_of(volume), drive)) for drive in whole.drives]
    assert max(counts) - min(counts) <= 3
    site.assert_files(volume)
    volume.close()


def test_the_state_of_a_drive_survives(place: Path) -> None:
    pool = pool_of("mirror")
    site = archived_site(place, pool)
    drive, other = pool.drives[:2]
    volume = site.open()
    volume.context.apply([state_row(drive, DriveState.DRAIN)])
    volume.commits.now()
    volume.abandon()
    volume = site.open()
    assert states(volume.catalog, pool.drives)[drive] is DriveState.DRAIN
    assert states(volume.catalog, pool.drives)[other] is DriveState.NORMAL
    volume.context.apply([state_row(drive, DriveState.NORMAL)])
    assert states(volume.catalog, [drive]) == {drive: DriveState.NORMAL}
    volume.close()


def test_a_step_onto_the_drive_of_a_sibling_is_not_taken(place: Path) -> None:
    """As after another step failed that was to take the sibling away from there."""
    pool = pool_of("2+1")
    site = archived_site(place, pool)
    volume = site.open()
    number, archived = next(iter(rows_of(volume).items()))
    shift = Shift(volume, [pool])
    run_inline(shift.recover())
    rehousing = Rehousing(shift, Control())
    step = Step(number, 0, archived.fragments[1].drive, 0)
    run_inline(rehousing.run([step]))
    assert rehousing.undone == [step] and not rehousing.moved
    assert volume.catalog.archived(number) == archived
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
