"""One drive of the pool fails at any operation of a shift: the others take what it would have.

Everything moves, reads back equal at once and after a kill, and the next run leaves no stray.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import files_of, lay_down, scratch
from tests.archive.site import Site, pool_of, small_limits

FAULTS = [Fault.EIO, Fault.ENOSPC, Fault.SHORT, Fault.SYNC, Fault.READ, None]
"""None: the drive is gone, for everything."""


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def filled(place: Path, sizes: tuple[int, ...]) -> Site:
    """A site with files of these sizes, closed cleanly."""
    site = Site(place, pool_of("2+1"))
    volume = site.open()
    rng = random.Random(5)
    for index, size in enumerate(sizes):
        site.write(volume, b"file%d" % index, rng.randbytes(size))
    volume.close()
    return site


def lose_at(world: World, index: int, operation: int) -> None:
    """Let a drive be gone from its change `operation` on."""
    drive, seen = world.drives[1 + index], 0
    change = drive.change

    def counted(verb: str, name: str) -> Fault | None:
        nonlocal seen
        seen += 1
        if seen > operation:
            drive.lose()
        return change(verb, name)

    drive.change = counted  # type: ignore[method-assign]


def strike(site: Site, index: int, fault: Fault | None, number: int, readers: int = 0) -> bool:
    """A shift in a copy of the world in which one drive fails, and a run after that.

    Returns whether it failed at all.
    """
    [pool] = site.pools
    world = site.world.kill()
    catalog = site.place / "struck"
    lay_down(files_of(site.catalog), catalog)
    volume = site.open(world, catalog)
    drive, lost = world.drives[1 + index], pool.drives[index]
    if fault is None:
        lose_at(world, index, number)
    else:
        base = world.reads if fault is Fault.READ else world.operations
        world.fail(base + number, fault, persistent=True, drive=drive.label)
    shift = site.shift(volume, pool, readers=readers)
    struck = drive.lost or bool(world.plan.struck)
    assert set(shift.report.failed) <= {drive.label}
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    volume.abandon()
    left = world.kill()
    gone = (lost,) if drive.lost else ()
    volume = site.open(left, catalog, missing=gone)
    site.assert_files(volume)
    site.shift(volume, pool)
    site.assert_files(volume)
    assert volume.archive.strays() == []
    if not gone:
        site.assert_nothing_astray(volume, left)
    volume.close()
    return struck


kinds = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name if fault else "gone")


@kinds
@pytest.mark.parametrize("index", range(4))
def test_a_shift_does_without_a_drive_that_fails_at_any_operation(
    place: Path, fault: Fault | None, index: int
) -> None:
    site = filled(place, (3000, 45_000, 0))
    assert strike(site, index, fault, 0)
    # One operation of three for each drive, another third for each.
    number = 1 + index % 3
    while strike(site, index, fault, number):
        number += 3


@pytest.mark.thorough
@kinds
@pytest.mark.parametrize("index", range(4))
def test_a_shift_does_without_a_drive_that_fails_at_every_operation(
    place: Path, fault: Fault | None, index: int
) -> None:
    site = filled(place, (3000, 45_000, 0))
    number = 0
    while strike(site, index, fault, number):
        number += 1
    assert number > 1


@kinds
def test_a_drive_that_fails_while_several_segments_are_under_way_is_done_without(
    place: Path, fault: Fault | None
) -> None:
    site = filled(place, (150_000,) * 9)
    rng = random.Random(8)
    struck = 0
    for _ in range(12):
        struck += strike(
            site, rng.randrange(4), fault, rng.randrange(60), readers=rng.choice((0, 3))
        )
    assert struck > 4
