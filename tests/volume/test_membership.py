"""Who belongs to a filesystem: what is made, what is refused, and what a crash leaves."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from shmr.drive.seam import Drive
from shmr.errors import SetupError
from shmr.format import superblock
from shmr.format.superblock import Superblock
from shmr.testing.drive import World
from shmr.testing.faults import PowerCut
from shmr.volume.membership import (
    Membership,
    PoolDrives,
    identify,
    read_superblock,
    write_superblock,
)


def found(
    drives: Sequence[Drive],
    *,
    name: str = "media",
    spare: int = 1,
    degraded: bool = False,
    read_only: bool = False,
    may_create: bool = True,
) -> Membership:
    dice = random.Random(1)
    return identify(
        name,
        [PoolDrives("ssd0", tuple(drives), spare)],
        catalog_exists=False,
        degraded=degraded,
        read_only=read_only,
        may_create=may_create,
        random_bytes=dice.randbytes,
        clock=lambda: 5,
    )


def mirror(count: int = 2) -> World:
    world = World(1)
    for _ in range(count):
        world.add()
    return world


def superblock_of(drive: Drive) -> Superblock:
    block = read_superblock(drive)
    assert block is not None
    return block


def change(drive: Drive, **fields: int) -> None:
    block = superblock_of(drive)
    newer = block._replace(generation=block.generation + 1, **fields)  # type: ignore[arg-type]
    write_superblock(drive, newer)


def test_what_was_made_is_found_again_in_any_order() -> None:
    world = mirror()
    made = found(world.drives)
    again = found(list(reversed(world.drives)))
    assert made.created and not again.created
    assert made.filesystem == again.filesystem


def test_nothing_is_made_where_it_may_not() -> None:
    with pytest.raises(SetupError, match="shmr create"):
        found(mirror().drives, may_create=False)


@pytest.mark.parametrize("operation", range(8))
def test_a_making_that_was_cut_off_is_begun_anew(operation: int) -> None:
    world = mirror()
    world.cut_at(operation)
    try:
        found(world.drives)
    except PowerCut:
        world = world.reboot(random.Random(operation))
    again = found(world.drives)
    assert found(world.drives).filesystem == again.filesystem


def test_a_bare_drive_among_others_that_hold_data_is_refused() -> None:
    world = mirror()
    found(world.drives)
    world.drives[0].put("data-000000000001", b"something")
    stranger = World(2).add()
    with pytest.raises(SetupError, match="no superblock"):
        found([world.drives[0], stranger])


def test_a_missing_drive_is_done_without_only_when_asked() -> None:
    world = mirror()
    found(world.drives)
    world.drives[0].put("data-000000000001", b"something")
    with pytest.raises(SetupError, match="--degraded"):
        found(world.drives[:1])
    assert len(found(world.drives[:1], degraded=True).missing) == 1
    with pytest.raises(SetupError, match="left behind"):
        found(world.drives)


def test_a_degraded_mount_cut_off_between_two_survivors_goes_on() -> None:
    world = mirror(3)
    found(world.drives)
    for drive in world.drives:
        drive.put("data-000000000001", b"something")
    survivors = world.drives[:2]
    ids = tuple(superblock_of(drive).drive for drive in survivors)
    block = superblock_of(survivors[0])
    write_superblock(survivors[0], block._replace(generation=2, members=ids))
    membership = found(survivors)
    assert [superblock_of(d).generation for d in membership.workspace] == [2, 2]


@pytest.mark.parametrize("field", ["incompat", "ro_compat"])
def test_what_a_newer_shmr_wrote_is_refused(field: str) -> None:
    assert superblock.INCOMPAT == superblock.RO_COMPAT == 0
    world = mirror(1)
    found(world.drives, spare=0)
    change(world.drives[0], **{field: 1})
    with pytest.raises(SetupError, match="newer shmr"):
        found(world.drives, spare=0)
    if field == "ro_compat":
        assert not found(world.drives, spare=0, read_only=True).created


def test_another_filesystem_s_drive_is_named() -> None:
    world, other = mirror(), mirror(1)
    found(world.drives)
    found(other.drives, name="other", spare=0)
    other.drives[0].put("data-000000000001", b"something")
    with pytest.raises(SetupError, match="other"):
        found([world.drives[0], other.drives[0]])


def test_a_bare_workspace_beside_archive_drives_is_no_beginning() -> None:
    world = mirror(3)
    pools = [
        PoolDrives("ssd0", tuple(world.drives[:1])),
        PoolDrives("smr0", tuple(world.drives[1:])),
    ]
    arguments = {
        "catalog_exists": False,
        "degraded": False,
        "read_only": False,
        "may_create": True,
        "random_bytes": random.Random(1).randbytes,
        "clock": lambda: 5,
    }
    identify("media", pools, **arguments)  # type: ignore[arg-type]
    unmounted = [PoolDrives("ssd0", (World(2).add(),)), pools[1]]
    with pytest.raises(SetupError, match="no superblock"):
        identify("media", unmounted, **arguments)  # type: ignore[arg-type]


# -- archive drives ------------------------------------------------------------------------------


def pools_of(world: World, *, archive: Sequence[Drive] | None = None) -> list[PoolDrives]:
    """A workspace of one drive, and a pool of the others that can do without two."""
    others = world.drives[1:] if archive is None else archive
    return [PoolDrives("ssd0", tuple(world.drives[:1])), PoolDrives("smr0", tuple(others), 2)]


def found_all(
    pools: Sequence[PoolDrives], *, may_create: bool = False, name: str = "media", seed: int = 1
) -> Membership:
    return identify(
        name,
        pools,
        catalog_exists=not may_create,
        degraded=False,
        read_only=False,
        may_create=may_create,
        random_bytes=random.Random(seed).randbytes,
        clock=lambda: 5,
    )


@pytest.fixture
def archive() -> World:
    """A filesystem with a workspace drive and six archive drives."""
    world = mirror(7)
    made = found_all(pools_of(world), may_create=True)
    assert len(made.archive) == 6 and not made.archive_missing
    world.drives[0].put("data-000000000001", b"something")
    return world


def test_archive_drives_are_known_by_their_ids_wherever_they_are(archive: World) -> None:
    again = found_all(pools_of(archive, archive=archive.drives[:0:-1]))
    assert again.archive == {superblock_of(d).drive: d for d in archive.drives[1:]}
    pool = again.archives["smr0"]
    assert pool.pool == superblock_of(archive.drives[1]).pool
    assert (pool.missing, again.archive_missing, again.warnings) == ((), (), ())


def absent(world: World) -> list[Drive]:
    return [*world.drives[1:3], *world.drives[4:]]


def empty(world: World) -> list[Drive]:
    return [*world.drives[1:3], World(2).add("other"), *world.drives[4:]]


def unreadable(world: World) -> list[Drive]:
    world.drives[3].lose()
    return list(world.drives[1:])


def damaged(world: World) -> list[Drive]:
    world.drives[3].flip_bit("superblock-000001", 50, 2)
    return list(world.drives[1:])


def of_another_filesystem(world: World, name: str = "other") -> list[Drive]:
    other = mirror(2)
    found_all(pools_of(other), may_create=True, name=name, seed=9)
    return [*world.drives[1:3], other.drives[1], *world.drives[4:]]


def of_a_namesake(world: World) -> list[Drive]:
    return of_another_filesystem(world, "media")


def of_a_newer_shmr(world: World) -> list[Drive]:
    change(world.drives[3], incompat=1)
    return list(world.drives[1:])


WAYS = [
    (absent, "1 of 6 drives"),
    (empty, "no superblock"),
    (unreadable, "lost"),
    (damaged, "checksum"),
    (of_another_filesystem, "another filesystem, 'other'"),
    (of_a_namesake, "another filesystem, 'media'"),
    (of_a_newer_shmr, "newer shmr"),
]


@pytest.mark.parametrize(("way", "said"), WAYS, ids=lambda way: getattr(way, "__name__", ""))
def test_an_archive_drive_that_is_no_use_only_counts_as_missing(
    archive: World, way: Callable[[World], list[Drive]], said: str
) -> None:
    lost = superblock_of(archive.drives[3]).drive
    membership = found_all(pools_of(archive, archive=way(archive)))
    assert membership.archive_missing == (lost,)
    assert len(membership.archive) == 5
    everything = " ".join(membership.warnings)
    assert said in everything and lost.hex() in everything and "'smr0'" in everything


def test_a_pool_without_any_drive_is_told(archive: World) -> None:
    for gone in ([], [World(2).add()]):
        membership = found_all(pools_of(archive, archive=gone))
        assert membership.archives == {} and membership.archive == {}
        assert any("no drive of archive pool 'smr0'" in said for said in membership.warnings)


def test_an_archive_drive_in_another_pool_of_the_config_is_a_mistake(archive: World) -> None:
    pools = [pools_of(archive)[0], PoolDrives("cold", tuple(archive.drives[1:]))]
    with pytest.raises(SetupError, match=r"'smr0'.*'cold'"):
        found_all(pools)


def test_a_making_that_an_archive_drive_ends_is_begun_anew() -> None:
    world = mirror(3)
    world.cut_at(5)
    with pytest.raises(PowerCut):
        found_all(pools_of(world), may_create=True)
    world = world.reboot(random.Random(1))
    assert len(found_all(pools_of(world), may_create=True).archive) == 2
