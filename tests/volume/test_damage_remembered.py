"""Damage that a read finds is remembered across restarts, and until its fragment is another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.catalog import store as catalog_store
from shmr.errors import IntegrityError
from shmr.format.fragment import BLOCK, file_name
from shmr.format.rows import Row, Table, encode_number
from shmr.volume import damage
from shmr.volume.damage import PREFIX, DamagedFragment, damaged, damaged_in, note_damage
from shmr.volume.volume import Volume
from tests.archive.site import UNIT, Site, pool_of, small_limits


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Files in one archived segment of 4+2."""
    with small_limits():
        made = Site(tmp_path, pool_of("4+2"))
        volume = made.open()
        made.fill(volume, count=6)
        made.shift(volume, made.pools[0])
        volume.close()
        yield made


def flip(site: Site, volume: Volume, fragment: int, *units: int) -> DamagedFragment:
    """Damage these units of a fragment."""
    ((number, archived),) = volume.catalog.archived_segments()
    drive, generation = archived.fragments[fragment]
    for unit in units:
        name = file_name(number, fragment, generation)
        site.zoned()[drive].flip_bit(name, BLOCK + unit * UNIT + 5, 3)
    return DamagedFragment(drive, number, fragment, generation)


def test_what_was_found_is_known_after_a_restart_and_without_the_catalog(site: Site) -> None:
    volume = site.open()
    one, other = flip(site, volume, 0, 0, 1), flip(site, volume, 1, 0)
    site.assert_files(volume)
    volume.close()
    for _ in range(2):
        volume = site.open()
        assert volume.context.gather.findings.all() == []
        assert damaged_in(volume.catalog) == {one: 2, other: 1}
        volume.close()
    catalog_store.set_aside(site.catalog)
    volume = site.open()
    assert damaged_in(volume.catalog) == {one: 2, other: 1}
    volume.close()


def test_what_was_noted_and_committed_survives_a_crash(site: Site) -> None:
    volume = site.open()
    one = flip(site, volume, 0, 0)
    site.assert_files(volume)
    note_damage(volume.context)
    volume.commits.now()
    volume.abandon()
    volume = site.open()
    assert damaged_in(volume.catalog) == {one: 1}
    volume.close()


def test_finding_less_of_it_again_is_no_news_and_finding_more_is(site: Site) -> None:
    volume = site.open()
    one = flip(site, volume, 0, 0)
    site.assert_files(volume)
    volume.close()
    volume = site.open()
    note_damage(volume.context)
    assert not volume.catalog.epoch_rows
    flip(site, volume, 0, 1)
    site.assert_files(volume)
    note_damage(volume.context)
    assert damaged_in(volume.catalog) == {one: 2}
    volume.close()


def test_a_fragment_that_is_no_longer_meant_is_forgotten(site: Site) -> None:
    volume = site.open()
    flip(site, volume, 0, 0)
    site.assert_files(volume)
    volume.close()
    volume = site.open()
    assert damaged_in(volume.catalog)
    site.shift(volume, None, site.pools[0])
    assert list(volume.catalog.archived_segments()) == []
    volume.close()
    volume = site.open()
    assert damaged_in(volume.catalog) == {}
    volume.close()


def test_only_so_many_are_remembered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "DAMAGED_MAX", 2)
    volume = site.open()
    for fragment in range(4):
        flip(site, volume, fragment, *range(fragment, fragment + 1))
    site.assert_files(volume)
    assert len({f.fragment for f in volume.context.gather.findings.all()}) > 2
    volume.close()
    volume = site.open()
    assert len(damaged_in(volume.catalog)) == 2
    volume.close()


def test_a_volume_that_may_not_change_remembers_nothing(site: Site) -> None:
    volume = site.open(read_only=True)
    flip(site, volume, 0, 0)
    site.assert_files(volume)
    assert volume.context.gather.findings.all()
    note_damage(volume.context)
    volume.close()
    volume = site.open()
    assert damaged_in(volume.catalog) == {}
    volume.close()


@pytest.mark.parametrize("name", [b"", b"00", b"zz 1 2 3", b"00 1 2", b"00 1 2 x", b"00 1 2 3 4"])
def test_a_row_that_means_no_fragment_is_an_error_and_ends_nothing(site: Site, name: bytes) -> None:
    with pytest.raises(IntegrityError, match="no fragment is meant"):
        damaged([(PREFIX + name, 1)])
    volume = site.open()
    volume.context.apply([Row(Table.STATE, PREFIX + name, encode_number(1))])
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()
