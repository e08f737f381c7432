"""The shingled disk refuses what a shingled disk refuses, and knows what it was asked for."""

from __future__ import annotations

import errno
import random

import pytest

from shmr.drive.seam import DriveFile
from shmr.testing.contract import fails_with, pattern
from shmr.testing.drive import World
from shmr.testing.faults import Fault, PowerCut
from shmr.testing.zoned import ZonedDrive, add_zoned
from shmr.units import KIB, MIB


def small(zones: int = 4) -> ZonedDrive:
    return add_zoned(World(), zones=zones, zone_bytes=MIB)


def refuses(drive: ZonedDrive, file: DriveFile) -> None:
    before = drive.other_writes
    fails_with(errno.EIO, "append", lambda: file.append([b"x"]))
    assert drive.other_writes == before + 1


def test_a_file_has_one_zone_whatever_its_size() -> None:
    drive = small()
    for number in range(4):
        assert drive.capacity().free_bytes == (4 - number) * MIB
        drive.claim(f"a{number}", 4 * KIB if number % 2 else MIB)
    fails_with(errno.ENOSPC, "claim", lambda: drive.claim("b", 4 * KIB))
    drive.discard("a1")
    drive.claim("b", MIB)
    assert drive.capacity().free_bytes == 0


def test_no_file_is_larger_than_a_zone() -> None:
    drive = small()
    fails_with(errno.ENOSPC, "claim", lambda: drive.claim("a", MIB + 1))
    assert (drive.names(), drive.capacity().free_bytes) == ([], 4 * MIB)


def test_records_take_no_zone() -> None:
    drive = small(zones=1)
    drive.put("record", b"content")
    assert drive.capacity().free_bytes == MIB
    drive.claim("a", MIB)
    drive.put("another", b"one")
    assert drive.get("another") == b"one"
    drive.discard("record")
    fails_with(errno.ENOSPC, "claim", lambda: drive.claim("record", MIB))
    drive.discard("a")
    drive.claim("record", MIB)
    assert drive.capacity().free_bytes == 0


@pytest.mark.parametrize("end", [0, 4 * KIB - 1, 4 * KIB + 1, 8 * KIB])
def test_an_append_anywhere_but_where_the_zone_goes_on_is_refused(end: int) -> None:
    drive = small()
    file = drive.claim("a", MIB)
    file.append([pattern(4 * KIB)])
    refuses(drive, drive.open("a", end=end))
    assert file.read(0, 8 * KIB) == pattern(4 * KIB) + bytes(4 * KIB)
    drive.open("a", end=4 * KIB).append([b"goes on"])
    refuses(drive, file)
    assert drive.other_writes == 2


def test_nothing_and_a_whole_zone_can_be_appended() -> None:
    drive = small()
    file = drive.claim("a", MIB)
    drive.open("a", end=100).append([b"", b""])
    file.append([pattern(MIB)])
    fails_with(errno.EFBIG, "append", lambda: file.append([b"x"]))
    assert drive.other_writes == 0


def test_a_reset_zone_is_written_from_its_beginning() -> None:
    drive = small()
    drive.claim("a", MIB).append([b"old"])
    drive.discard("a")
    file = drive.claim("a", MIB)
    file.append([b"new one"])
    assert file.read(0, 10) == b"new one" + bytes(3)


def test_it_knows_what_it_was_asked_for() -> None:
    drive = small()
    assert drive.activity.asleep
    drive.capacity()
    drive.device()
    assert drive.activity.asleep
    file = drive.claim("a", MIB)
    file.append([bytes(100)])
    file.append([bytes(28)])
    file.seal()
    assert drive.activity.operations == {"claim": 1, "append": 2, "seal": 1}
    drive.activity.clear()
    drive.open("a")
    file.read(0, 60)
    file.read_cached(64, 1000)
    drive.cached = False
    assert file.read_cached(0, 10) is None
    assert drive.activity.operations == {"open": 1, "read": 1}
    assert drive.activity.reads == {"a": 2}
    assert drive.activity.read_bytes == {"a": 60 + 64}
    for look in (drive.names, lambda: drive.size("a")):
        drive.activity.clear()
        look()
        assert not drive.activity.asleep


def test_a_power_cut_leaves_a_zoned_drive() -> None:
    world = World(3)
    add_zoned(world, "smr", zones=4, zone_bytes=MIB)
    drive = world.drives[0]
    drive.put("record", b"kept")
    file = drive.claim("a", MIB)
    file.append([pattern(64 * KIB)])
    file.sync()
    file.append([pattern(64 * KIB)])
    world.cut_at(world.operations)
    with pytest.raises(PowerCut):
        file.sync()
    for seed in range(20):
        after = world.reboot(random.Random(seed)).drives[0]
        assert isinstance(after, ZonedDrive)
        assert (after.label, after.zone_bytes) == ("smr", MIB)
        assert after.capacity().free_bytes == 3 * MIB
        assert after.get("record") == b"kept"
        again = after.open("a", end=64 * KIB)
        assert again.read(0, 64 * KIB) == pattern(64 * KIB)
        # What was written and not synced is in the way of going on.
        refuses(after, again)
        after.discard("a")
        after.claim("a", MIB).append([b"again"])


def test_a_killed_program_leaves_a_zoned_drive() -> None:
    world = World()
    add_zoned(world, zone_bytes=MIB)
    world.drives[0].claim("a", MIB).append([b"there"])
    after = world.kill().drives[0]
    assert isinstance(after, ZonedDrive)
    assert after.open("a").read(0, 5) == b"there"


def test_plain_and_zoned_drives_share_a_world() -> None:
    world = World()
    world.add("ssd")
    add_zoned(world, "smr")
    after = world.reboot(random.Random(1))
    assert [(drive.label, type(drive).__name__) for drive in after.drives] == [
        ("ssd", "SimulatedDrive"),
        ("smr", "ZonedDrive"),
    ]
    assert len({drive.device() for drive in after.drives}) == 2


def test_a_failed_sync_shows_in_what_is_read_back_after_eviction() -> None:
    seen = set()
    for seed in range(30):
        world = World(seed)
        drive = add_zoned(world)
        file = drive.claim("a", MIB)
        file.append([pattern(64 * KIB)])
        world.fail(world.operations, Fault.SYNC)
        fails_with(errno.EIO, "sync", file.sync)
        before = file.read(0, 64 * KIB)
        file.evict()
        after = file.read(0, 64 * KIB)
        seen.add((before == pattern(64 * KIB), after == pattern(64 * KIB)))
    assert (True, False) in seen
