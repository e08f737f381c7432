"""Who belongs to an archive pool is in the journal too, which settles what drives disagree on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.drive.directory import DirectoryDrive
from shmr.errors import IntegrityError
from shmr.format.rows import Row, Table, encode_number
from shmr.service.offline import unmounted
from shmr.volume.known_pools import KnownPool, current, known_pools, remember, rows_of_pool
from shmr.volume.membership import read_superblock, write_superblock
from tests.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def known(place: Place) -> KnownPool:
    with unmounted(load(place.config), read_only=False) as (volume, _):
        (found,) = known_pools(volume.catalog).values()
        return found


def members(place: Place) -> int:
    with unmounted(load(place.config), read_only=True) as (_, pools):
        return len(pools[0].drives)


def there(place: Place) -> set[str]:
    with unmounted(load(place.config), read_only=False) as (volume, _):
        return {Path(d.label).name for d in volume.context.fragments.drives.values()}


def test_what_superblocks_say_is_remembered(place: Place) -> None:
    found = known(place)
    assert (found.name, found.generation, len(found.members)) == ("cold", 1, 4)
    (place.base / "e").mkdir()
    place.configure("abcde")
    service.drive_add(place.config, place.path("e"))
    again = known(place)
    assert (again.generation, len(again.members)) == (2, 5)
    assert again.members[:4] == found.members


def test_a_change_is_durable_in_the_journal_before_the_command_ends(place: Place) -> None:
    for name in "ab":
        shutil.copytree(place.base / name, place.base / f"{name}-before")
    service.drive_remove(place.config, place.path("d"))
    # All drives that are left but two were away: these know nothing of it.
    for name in "abc":
        shutil.rmtree(place.base / name)
    for name in "ab":
        (place.base / f"{name}-before").rename(place.base / name)
    place.configure("abc")
    assert members(place) == 3
    assert known(place).generation == 2


def test_a_drive_that_was_removed_while_those_there_were_away_takes_nothing(place: Place) -> None:
    shutil.copytree(place.base / "a", place.base / "a-before")
    shutil.copytree(place.base / "d", place.base / "d-before")
    service.drive_remove(place.config, place.path("d"), force=True)
    for name in "abcd":
        shutil.rmtree(place.base / name)
    for name in "ad":
        (place.base / f"{name}-before").rename(place.base / name)
    assert there(place) == {"a"}
    # The next change goes on from what is remembered.
    (place.base / "e").mkdir()
    place.configure("abcde")
    service.drive_add(place.config, place.path("e"))
    assert known(place).generation == 3 and len(known(place).members) == 4
    block = read_superblock(DirectoryDrive(place.base / "a"))
    assert block is not None and block.generation == 3
    assert there(place) == {"a", "e"}


def test_of_two_changes_that_knew_nothing_of_each_other_the_remembered_one_counts(
    place: Place,
) -> None:
    (place.base / "e").mkdir()
    place.configure("abcde")
    service.drive_add(place.config, place.path("e"))
    before = known(place)
    drive = DirectoryDrive(place.base / "a")
    block = read_superblock(drive)
    assert block is not None
    write_superblock(drive, block._replace(members=block.members[:4]))
    drive.close()
    assert known(place) == before
    assert members(place) == 5
    assert there(place) == set("abcde")


def test_rows_replace_those_before_and_strange_ones_are_errors(place: Place) -> None:
    with unmounted(load(place.config), read_only=False) as (volume, _):
        (pool,) = known_pools(volume.catalog)
        fewer = KnownPool(pool, "cold", 7, (b"x" * 16, b"a" * 16))
        remember(volume, fewer)
        assert known_pools(volume.catalog)[pool] == fewer
        remember(volume, fewer)
        older = KnownPool(pool, "cold", 6, ())
        assert current(volume.catalog, older) == fewer
        newer = KnownPool(pool, "cold", 8, (b"y" * 16,))
        assert current(volume.catalog, newer) == newer
        assert len(rows_of_pool(volume.catalog, newer)) == 4
        for key in (b"member 00", b"member zz zz", b"member " + b"0" * 64):
            volume.context.apply([Row(Table.STATE, key, encode_number(1))])
            with pytest.raises(IntegrityError):
                known_pools(volume.catalog)
            volume.context.apply([Row(Table.STATE, key, None)])
        remember(volume, KnownPool(pool, "cold", 1, fewer.members))
