"""Shifts on simulated shingled drives: there, back, and from pool to pool."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from shmr.archive.pool import NoPlace, Pool
from shmr.archive.shift import Shift
from shmr.archive.victims import victims
from shmr.format.fragment import Code
from shmr.format.records import Stream
from shmr.testing.trial import scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume
from tests.archive.site import SCHEMES, UNIT, ZONE, Site, drive_id, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("readers", [0, 3])
def test_files_are_read_from_the_archive_whatever_m_drives_are_lost(
    place: Path, scheme: str, readers: int
) -> None:
    pool = pool_of(scheme)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    total = site.bytes_in(volume, None)
    shift = site.shift(volume, pool, readers=readers)
    assert shift.report.moved_bytes == total == site.bytes_in(volume, pool)
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    losses = combinations(pool.drives, pool.m)
    for lost in losses:
        volume = site.open(missing=lost, read_only=True)
        site.assert_files(volume)
        volume.abandon()


def test_emptied_workspace_segments_are_freed(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    before = volume.context.reader.store.free_bytes()
    site.shift(volume, pool)
    store = volume.context.reader.store
    left = store.of_stream(Stream.DATA)
    assert all(volume.log.is_open(segment.number) for segment in left)
    assert store.free_bytes() > before
    volume.close()


@pytest.mark.parametrize("source", ["single", "mirror", "2+1"])
@pytest.mark.parametrize("target", ["mirror", "4+2"])
def test_bytes_move_from_any_pool_to_any(place: Path, source: str, target: str) -> None:
    one, other = pool_of(source, 0), pool_of(target, 1)
    site = Site(place, one, other)
    volume = site.open()
    site.fill(volume)
    site.shift(volume, one)
    site.shift(volume, other, one)
    assert site.bytes_in(volume, one) == 0
    assert all(
        not any(n.startswith("fragment") for n in site.zoned()[d].names()) for d in one.drives
    )
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()


def test_bytes_come_back_to_the_workspace(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    site.shift(volume, pool)
    shift = site.shift(volume, None, pool)
    assert shift.report.moved_bytes == site.bytes_in(volume, None) > 0
    assert list(volume.catalog.archived_segments()) == []
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    volume = site.open(missing=pool.drives)
    site.assert_files(volume)
    volume.close()


def test_what_is_written_or_deleted_while_bytes_move_wins(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.write(volume, b"cut", b"a" * 60_000)
    site.write(volume, b"gone", b"b" * 60_000)
    site.write(volume, b"short", b"c" * 60_000)
    site.write(volume, b"still", b"d" * 60_000)
    volume.commits.now()
    shift = Shift(volume, site.pools)
    work = shift.to_archive(site.lots(volume), pool, flush=True)
    calls = 0
    result = None
    call = next(work)
    try:
        while True:
            result = call()
            calls += 1
            if calls == 3:
                site.write(volume, b"cut", b"new" * 3000, at=10_000)
                site.delete(volume, b"gone")
                volume.data.truncate(site.numbers[b"short"], 777)
                site.files[b"short"] = site.files[b"short"][:777]
                volume.checkpoints.run()
            call = work.send(result)
    except StopIteration:
        pass
    assert calls > 4
    assert site.bytes_in(volume, pool) == 60_000 - 9000 + 777 + 60_000
    site.assert_files(volume)
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()


def test_a_full_pool_is_an_error_that_names_pool_drives_and_zones(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool, zones=4)
    volume = site.open()
    site.fill(volume, count=60)
    with pytest.raises(NoPlace, match=r"pool 'cold0'.*full.*zones? free"):
        site.shift(volume, pool)
    site.assert_files(volume)
    run_inline(Shift(volume, site.pools).recover())
    site.assert_nothing_astray(volume)
    volume.close()


def test_nothing_moves_to_too_few_drives(place: Path) -> None:
    pool = pool_of("4+2")
    site = Site(place, pool)
    volume = site.open(missing=pool.drives[:2])
    site.fill(volume)
    with pytest.raises(NoPlace, match=r"6 different drives are needed, 5 .*missing"):
        site.shift(volume, pool)
    site.assert_files(volume)
    volume.close()


def overwrite_some(site: Site, volume: Volume, share: int) -> None:
    """Make a part of everything dead."""
    for index, name in enumerate(sorted(site.files)):
        if index % share == 0 and site.files[name]:
            site.delete(volume, name)
    while volume.reaper.step():
        pass
    volume.commits.now()


def test_segments_with_many_dead_bytes_are_cleaned(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=80, most=60_000)
    site.shift(volume, pool)
    before = dict(volume.catalog.archived_segments())
    assert len(before) > 3
    overwrite_some(site, volume, 2)
    shift = Shift(volume, site.pools)
    run_inline(shift.recover())
    run_inline(shift.clean(pool, flush=True))
    after = dict(volume.catalog.archived_segments())
    assert len(after) < len(before)
    assert victims(volume.catalog, pool, newest=10**6) == []
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    volume = site.open(missing=pool.drives[:1])
    site.assert_files(volume)
    volume.close()


def test_a_full_pool_can_still_be_cleaned(place: Path) -> None:
    pool = pool_of("2+1", drives=3)
    site = Site(place, pool, zones=10)
    volume = site.open()
    with pytest.raises(NoPlace):
        for seed in range(30):
            site.write(volume, b"more%d" % seed, random.Random(seed).randbytes(200_000))
            site.shift(volume, pool)
    site.assert_files(volume)
    held_before = len(list(volume.catalog.archived_segments()))
    overwrite_some(site, volume, 2)
    shift = Shift(volume, site.pools)
    run_inline(shift.recover())
    run_inline(shift.clean(pool, flush=True))
    site.shift(volume, pool)
    assert len(list(volume.catalog.archived_segments())) <= held_before
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()


@pytest.mark.thorough
def test_every_loss_of_three_drives_of_8_3_is_survived(place: Path) -> None:
    ids = tuple(drive_id(0, index) for index in range(11))
    pool = Pool(b"p" * 16, "cold0", 8, 3, Code.ISA_L_RS_CAUCHY, ZONE, ids, UNIT, clean_at=0.3)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    site.shift(volume, pool)
    volume.close()
    for lost in combinations(pool.drives, 3):
        volume = site.open(missing=lost, read_only=True)
        site.assert_files(volume)
        volume.abandon()
