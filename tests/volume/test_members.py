"""Drives join and leave an archive pool: cut off anywhere, they are in or out, and never half."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from shmr.errors import SetupError
from shmr.format.superblock import Superblock
from shmr.testing.drive import World
from shmr.testing.zoned import add_zoned
from shmr.volume.members import join, leave, newest_superblock
from shmr.volume.membership import read_superblock, write_superblock

IDS = tuple(bytes([number]) * 16 for number in range(1, 5))


def pool_of(count: int) -> World:
    """A world with four drives, of which so many are the members of a pool."""
    world = World(0)
    for _ in IDS:
        add_zoned(world, zones=4)
    for index in range(count):
        block = Superblock(
            b"f" * 16, b"tests", b"p" * 16, b"cold", IDS[index], 1, 0, 0, 0, 5, IDS[:count]
        )
        write_superblock(world.drives[index], block)
    return world


def member_ids(world: World) -> tuple[bytes, ...]:
    newest = newest_superblock(world.drives)
    assert newest is not None
    return newest.members


def cut_anywhere(world: World, change: Callable[[World], None]) -> list[World]:
    """What a cut of the power at each operation of a change leaves, or a kill."""
    rng, left = random.Random(3), []
    world.observer = lambda seen: left.extend([seen.reboot(rng), seen.kill()])
    change(world)
    world.observer = None
    return left


def test_a_drive_that_joins_is_in_or_out_wherever_it_is_cut_off() -> None:
    def change(world: World) -> None:
        join(world.drives[3], IDS[3], world.drives[:3], 9)

    world = pool_of(3)
    seen = set()
    for image in cut_anywhere(world, change):
        try:
            there = read_superblock(image.drives[3]) is not None
        except SetupError:
            # Torn: no superblock is on it that verifies.
            there = False
        others = {block.members for d in image.drives[:3] if (block := read_superblock(d))}
        assert there or others == {IDS[:3]}
        seen.add(there)
    assert seen == {True, False}
    assert member_ids(world) == IDS
    for drive, drive_id in zip(world.drives, IDS, strict=True):
        block = read_superblock(drive)
        assert block is not None and (block.drive, block.generation) == (drive_id, 2)


def test_a_drive_that_leaves_is_in_or_out_wherever_it_is_cut_off() -> None:
    def change(world: World) -> None:
        leave(IDS[1], world.drives[1], [world.drives[0], *world.drives[2:]], 9)

    world = pool_of(4)
    rest = (IDS[0], *IDS[2:])
    seen = set()
    for image in cut_anywhere(world, change):
        found = member_ids(image)
        seen.add(found)
        # Blank only when the others know that it is gone.
        assert read_superblock(image.drives[1]) is not None or found == rest
        change(image)
        assert member_ids(image) == rest and read_superblock(image.drives[1]) is None
    assert seen == {IDS, rest}
    for index in (0, 2, 3):
        block = read_superblock(world.drives[index])
        assert block is not None and block.generation == 2 and block.members == rest


def test_a_member_that_was_away_learns_of_changes_at_the_next() -> None:
    world = pool_of(3)
    join(world.drives[3], IDS[3], world.drives[:2], 9)
    assert member_ids(world) == IDS
    leave(IDS[0], None, world.drives[1:], 9)
    assert {read_superblock(drive).members for drive in world.drives[1:]} == {IDS[1:]}  # type: ignore[union-attr]


def test_without_any_member_there_is_nothing_to_join() -> None:
    world = pool_of(0)
    with pytest.raises(SetupError, match="connect"):
        join(world.drives[0], IDS[0], world.drives[1:], 9)
    with pytest.raises(SetupError, match="connect"):
        leave(IDS[0], world.drives[0], world.drives[1:], 9)
