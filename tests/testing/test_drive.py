"""The simulated drive does what its fault model says: all of it, and nothing else."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shmr.errors import DriveError
from shmr.testing.contract import fails_with, pattern
from shmr.testing.drive import SimulatedDrive, SimulatedFile, World
from shmr.testing.faults import Fault, PowerCut
from shmr.testing.platter import SECTOR, surviving

IMAGES = 300


Seen = TypeVar("Seen", bound=Hashable)


def images(world: World, look: Callable[[SimulatedDrive], Seen]) -> set[Seen]:
    """What `look` sees of the first drive in many images of a power cut now."""
    return {look(world.reboot(random.Random(seed)).drives[0]) for seed in range(IMAGES)}


def content(drive: SimulatedDrive, name: str = "a") -> bytes:
    return drive.open(name).read(0, 1 << 30)


def started(size: int = 4096) -> tuple[World, SimulatedDrive, SimulatedFile]:
    world = World()
    drive = world.add()
    return world, drive, drive.claim("a", size)


def test_synced_bytes_are_in_every_image() -> None:
    world, _, file = started(65_536)
    file.append([pattern(10_000)])
    file.sync()
    file.append([b"\xff" * 20_000])
    assert {seen[:10_000] for seen in images(world, content)} == {pattern(10_000)}


def test_an_unsynced_write_is_kept_dropped_or_garbage() -> None:
    world, _, file = started(512)
    file.append([b"\x01" * 512])
    seen = images(world, content)
    assert {b"\x01" * 512, bytes(512)} < seen
    assert len(seen) > 2, "garbage"


def test_unsynced_writes_are_torn_at_sectors_and_reordered() -> None:
    world, _, file = started(4 * SECTOR)
    for number in range(1, 5):
        file.append([bytes([number]) * SECTOR])
    seen = {
        tuple(image[start] for start in range(0, 4 * SECTOR, SECTOR))
        for image in images(world, content)
        if all(len(set(image[start : start + SECTOR])) == 1 for start in range(0, 2048, SECTOR))
    }
    assert {(1, 2, 3, 4), (0, 0, 0, 0), (1, 2, 0, 0), (1, 0, 3, 4), (0, 0, 0, 4)} <= seen


@given(
    st.integers(0, 3000),
    st.lists(st.integers(1, 1500), max_size=6),
    st.integers(0, 2**32),
)
@example(synced=0, lengths=[1], seed=140)
def test_every_sector_shows_the_file_after_some_number_of_its_writes(
    synced: int, lengths: list[int], seed: int
) -> None:
    states = [b"\xaa" * synced]
    writes = []
    for number, length in enumerate(lengths, 1):
        writes.append((len(states[-1]), bytes([number]) * length))
        states.append(states[-1] + writes[-1][1])
    size = len(states[-1])
    image = bytes(surviving(states[0], writes, random.Random(seed))).ljust(size, b"\0")
    assert image[:synced] == states[0]
    for start in range(0, size, SECTOR):
        sector = image[start : min(start + SECTOR, size)]
        legal = {state[start : start + SECTOR].ljust(len(sector), b"\0") for state in states}
        # Noise has more values than the few of what was written; a short piece of it may not.
        noise = start >= synced and len(set(sector)) > min(10, len(sector) // 8)
        assert sector in legal or noise


def test_the_same_numbers_give_the_same_image() -> None:
    world, _, file = started(65_536)
    file.append([pattern(50_000)])
    first, second = (content(world.reboot(random.Random(7)).drives[0]) for _ in range(2))
    assert first == second


def test_a_cut_operation_raises_and_so_does_everything_after_it() -> None:
    world, drive, file = started()
    world.cut_at(2)
    file.append([b"one"])
    with pytest.raises(PowerCut):
        file.append([b"two"])
    for call in (file.sync, file.seal, drive.names, lambda: drive.claim("b", 1)):
        with pytest.raises(PowerCut):
            call()
    assert not issubclass(PowerCut, Exception)


def test_a_cut_claim_is_absent_empty_or_there() -> None:
    world = World()
    drive = world.add()
    world.cut_at(0)
    with pytest.raises(PowerCut):
        drive.claim("a", 4096)
    assert images(world, lambda drive: drive.size("a") if drive.names() else None) == {
        None,
        0,
        4096,
    }


def test_a_completed_claim_is_always_there() -> None:
    world, *_ = started()
    assert images(world, lambda drive: drive.size("a")) == {4096}


def test_a_cut_seal_did_nothing_or_the_sync_or_all() -> None:
    world, _, file = started()
    file.append([b"x" * 100])
    world.cut_at(2)
    with pytest.raises(PowerCut):
        file.seal()
    seen = images(world, lambda drive: (drive.size("a"), content(drive)[:100]))
    assert {size for size, _ in seen} == {100, 4096}
    assert {kept for size, kept in seen if size == 100} == {b"x" * 100}
    assert (4096, bytes(100)) in seen


def test_a_discarded_file_may_come_back_until_the_next_claim() -> None:
    world, drive, file = started()
    file.append([b"content"])
    file.sync()
    drive.discard("a")
    assert images(world, lambda drive: tuple(drive.names())) == {(), ("a",)}
    drive.claim("b", 4096)
    assert images(world, lambda drive: tuple(drive.names())) == {("b",)}


def test_a_killed_program_loses_nothing_but_may_lose_it_later() -> None:
    world, _, file = started(512)
    file.append([b"x" * 512])
    after = world.kill()
    assert content(after.drives[0]) == b"x" * 512
    assert bytes(512) in images(after, content)


def test_one_world_gives_many_images_and_stays_as_it_is() -> None:
    world, _, file = started(1024)
    file.append([b"x" * 512])
    file.sync()
    one, two = world.reboot(random.Random(1)), world.reboot(random.Random(2))
    again = one.drives[0].open("a", end=512)
    again.append([b"y" * 512])
    again.sync()
    one.drives[0].flip_bit("a", 0, 0)
    assert content(one.drives[0]) == b"y" + b"x" * 511 + b"y" * 512
    assert content(two.drives[0]) == file.read(0, 1024) == b"x" * 512 + bytes(512)


def test_the_observer_sees_every_change_while_it_happens() -> None:
    world = World()
    drive = world.add()
    seen = []
    world.observer = lambda world: seen.append(
        (world.operations, images(world, lambda drive: tuple(drive.names())))
    )
    drive.claim("a", 4096)
    drive.discard("a")
    assert seen == [(1, {(), ("a",)}), (2, {(), ("a",)})]


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SYNC])
def test_a_failed_claim_leaves_nothing(fault: Fault) -> None:
    world = World()
    drive = world.add()
    world.fail(0, fault)
    fails_with(fault.number, "claim", lambda: drive.claim("a", 4096))
    assert drive.names() == []
    assert drive.capacity().free_bytes == drive.capacity().total_bytes
    drive.claim("a", 4096)


def test_a_passing_fault_strikes_once_and_a_persistent_one_stays_on_its_drive() -> None:
    for persistent in (False, True):
        world = World()
        drive, other = world.add(), world.add()
        world.fail(1, Fault.EIO, persistent=persistent)
        drive.claim("a", 4096)
        fails_with(errno.EIO, "claim", partial(drive.claim, "b", 4096))
        other.claim("a", 4096)
        if persistent:
            fails_with(errno.EIO, "claim", partial(drive.claim, "b", 4096))
        else:
            drive.claim("b", 4096)


def test_a_fault_waits_for_an_operation_that_it_can_strike() -> None:
    world, drive, file = started()
    world.fail(0, Fault.SYNC, drive=drive.label)
    file.append([b"x"])
    fails_with(errno.EIO, "sync", file.sync)
    assert [(number, verb) for number, _, verb, _, _ in world.plan.struck] == [(2, "sync")]


def test_a_short_write_leaves_a_part() -> None:
    lengths = set()
    for seed in range(20):
        world = World(seed)
        file = world.add().claim("a", 4096)
        world.fail(1, Fault.SHORT)
        fails_with(errno.EIO, "append", partial(file.append, [b"x" * 1000]))
        assert file.end == 0
        lengths.add(file.read(0, 4096).count(b"x"))
    assert len(lengths) > 10
    assert max(lengths) < 1000


def test_a_failed_sync_loses_pages_that_readers_may_still_see() -> None:
    seen = set()
    for seed in range(50):
        world = World(seed)
        drive = world.add()
        file = drive.claim("a", 512)
        file.append([b"x" * 512])
        world.fail(2, Fault.SYNC)
        fails_with(errno.EIO, "sync", file.sync)
        before = file.read(0, 512)
        drive.open("a", end=512).sync()  # it succeeds, and helps nothing
        after = images(world, content)
        assert len(after) == 1, "whatever is on the platter now, stays"
        seen.add((before == b"x" * 512, after == {b"x" * 512}))
    assert seen == {(True, True), (True, False), (False, False)}


def test_reads_fail_where_they_are_told_to() -> None:
    world, drive, file = started()
    world.fail(world.reads + 1, Fault.READ)
    file.read(0, 1)
    fails_with(errno.EIO, "read", lambda: file.read(0, 1))
    assert file.read(0, 1) == b"\0"
    assert drive.names() == ["a"]


def test_a_lost_drive_fails_everything_also_after_a_reboot() -> None:
    world, drive, file = started()
    drive.lose()
    for call in (file.sync, drive.names, drive.capacity, lambda: drive.open("a")):
        with pytest.raises(DriveError):
            call()
    assert file.read_cached(0, 1) is None
    with pytest.raises(DriveError):
        world.reboot(random.Random(0)).drives[0].names()


def test_damage_is_durable() -> None:
    world, drive, file = started()
    file.append([b"abc"])
    file.sync()
    drive.flip_bit("a", 1, 0)
    assert file.read(0, 3) == b"acc"
    drive.plant("a", 4094, b"1234")
    assert (drive.size("a"), file.read(4094, 4)) == (4098, b"1234")
    drive.shorten("a", 2)
    assert images(world, content) == {b"ac"}


def test_appending_below_what_was_written_is_counted() -> None:
    world, drive, file = started()
    file.append([b"x" * 100])
    file.append([b"x" * 100])
    assert drive.other_writes == 0
    drive.open("a", end=150).append([b"y"])
    assert drive.other_writes == 1
    assert world.operations == 4


def test_a_full_drive_refuses_a_claim_and_gives_space_back_on_discard() -> None:
    drive = World().add(capacity_bytes=8192)
    drive.claim("a", 5000)
    fails_with(errno.ENOSPC, "claim", lambda: drive.claim("b", 1))
    drive.discard("a")
    drive.claim("b", 8192)
