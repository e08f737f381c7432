"""What is left on archive drives for who finds them: never in the way of anything else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive import leave
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import scratch
from shmr.testing.zoned import add_zoned
from shmr.units import KIB, MIB
from tests.archive.site import Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def shifted(place: Path) -> Site:
    site = Site(place, pool_of("2+1", drives=6))
    volume = site.open()
    site.write(volume, b"file", random.Random(1).randbytes(50_000))
    site.shift(volume, site.pools[0])
    volume.close()
    return site


def test_only_drives_that_were_written_to_are_asked(place: Path) -> None:
    site = shifted(place)
    for drive in site.zoned().values():
        written = any(name.startswith(("fragment", "snapshot")) for name in drive.names())
        assert (set(drive.names()) >= leave.NAMES) == written
    pool = site.pools[0]
    for drive in site.zoned().values():
        drive.activity.clear()
    volume = site.open()
    site.write(volume, b"more", random.Random(2).randbytes(50_000))
    site.shift(volume, pool)
    volume.close()
    for drive in site.zoned().values():
        looked = {name for name in leave.NAMES if drive.activity.reads[name]}
        assert not looked or looked == leave.NAMES
        assert not looked or any(n.startswith(("fragment", "snapshot")) for n in drive.names())


def test_a_power_cut_that_tears_them_is_mended_by_the_next_run() -> None:
    world = World(3)
    drive = add_zoned(world, zones=8, zone_bytes=MIB)
    leave.leave_on(drive, spare_bytes=0)
    for name in leave.NAMES:
        drive.plant(name, 10, bytes(100))
    leave.leave_on(drive, spare_bytes=0)
    for name, content in leave.contents().items():
        assert drive.open(name).read(0, drive.size(name)) == content


def test_nothing_is_left_where_the_room_is_wanted() -> None:
    world = World(4)
    drive = world.add("full", capacity_bytes=MIB)
    leave.leave_on(drive, spare_bytes=MIB)
    assert drive.names() == []
    leave.leave_on(drive, spare_bytes=MIB // 2)
    assert set(drive.names()) == leave.NAMES
    leave.take_from(drive)
    leave.take_from(drive)
    assert drive.names() == [] and drive.capacity().free_bytes == MIB


@pytest.mark.parametrize("fault", list(Fault))
def test_a_drive_that_fails_is_no_reason_to_fail(fault: Fault) -> None:
    for operation in range(12):
        world = World(5)
        drive = world.add("sick", capacity_bytes=4 * MIB)
        base = world.reads if fault is Fault.READ else world.operations
        world.fail(base + operation, fault)
        for _ in range(4):
            leave.leave_on(drive, spare_bytes=64 * KIB)
        for name in leave.NAMES.intersection(drive.names()):
            assert drive.open(name).read(0, 2 * MIB) == leave.contents()[name]
        assert set(drive.names()) == leave.NAMES
