"""Space comes back: zones are won, never wasted, and a pool that is full can be worked on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive.pool import NoPlace, Pool
from shmr.archive.shift import Shift
from shmr.archive.sources import in_workspace, lots_of
from shmr.archive.victims import DEAD_SHARE_PRESSED, victims
from shmr.format.rows import ROOT
from shmr.log import log
from shmr.units import KIB
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume
from tests.archive.site import ME, ZONE, Site, pool_of, small_limits


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    with small_limits():
        yield tmp_path


def archived(volume: Volume) -> int:
    return len(list(volume.catalog.archived_segments()))


def free_zones(site: Site, pool: Pool) -> list[int]:
    zoned = site.zoned()
    return [zoned[drive].capacity().free_bytes // ZONE for drive in pool.drives]


def clean(site: Site, volume: Volume, pool: Pool, **options: object) -> Shift:
    shift = Shift(volume, site.pools)
    run_inline(shift.recover())
    run_inline(shift.clean(pool, **options))  # type: ignore[arg-type]
    return shift


def short_segments(site: Site, volume: Volume, pool: Pool, count: int, size: int) -> None:
    for index in range(count):
        site.write(volume, b"short%d" % index, random.Random(index).randbytes(size))
        site.shift(volume, pool)
    assert archived(volume) == count


def test_short_segments_become_few_and_then_nothing_is_left_to_do(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    short_segments(site, volume, pool, 7, 60_000)
    before = sum(free_zones(site, pool))
    clean(site, volume, pool)
    assert archived(volume) == 1
    assert sum(free_zones(site, pool)) == before + 6 * pool.width
    # What would win no zone is left alone, whatever is asked.
    for flush in (False, True):
        assert clean(site, volume, pool, flush=flush).report.segments == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()


def test_a_lone_segment_is_not_written_anew_for_nothing(place: Path) -> None:
    """Six tenths of it live: a new one would take its zones again."""
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    for index in range(10):
        site.write(volume, b"file%d" % index, random.Random(index).randbytes(48_000))
    site.shift(volume, pool)
    assert archived(volume) == 1
    for index in range(4):
        site.delete(volume, b"file%d" % index)
    volume.commits.now()
    assert clean(site, volume, pool).report.segments == 0
    # Where bytes count it may be, once.
    assert clean(site, volume, pool, flush=True).report.segments == 1
    assert clean(site, volume, pool, flush=True).report.segments == 0
    volume.close()


def test_what_does_not_fill_a_segment_stays_in_the_last_victim(place: Path) -> None:
    """Files of all victims are mixed by number: all victims but the last are emptied."""
    pool = pool_of("mirror")
    site = Site(place, pool)
    volume = site.open()
    for index in range(60):
        site.write(volume, b"file%d" % index, random.Random(index).randbytes(20_000))
    names = sorted(site.files)
    random.Random(1).shuffle(names)
    numbers = [site.numbers[name] for name in names]
    shift = Shift(volume, site.pools)
    lots = lots_of(volume.catalog, numbers, in_workspace(volume.catalog))
    run_inline(shift.to_archive(lots, pool, flush=True))
    for name in names[::4]:
        site.delete(volume, name)
    volume.commits.now()
    before = archived(volume)
    found = clean(site, volume, pool, dead_share_min=0.1).report
    assert found.retired > found.segments > 0
    assert archived(volume) == before - found.retired + found.segments
    site.assert_files(volume)
    volume.close()


@pytest.mark.parametrize("scheme", ["single", "mirror", "2+1"])
def test_a_pool_that_is_full_to_the_last_zone_gives_space_back(place: Path, scheme: str) -> None:
    k, m = pool_of(scheme).k, pool_of(scheme).m
    pool = pool_of(scheme, drives=k + m)
    site = Site(place, pool, zones=14)
    volume = site.open()
    rng = random.Random(4)
    with pytest.raises(NoPlace):
        for index in range(400):
            site.write(volume, b"file%d" % index, rng.randbytes(50_000))
            if index % 20 == 19:
                site.shift(volume, pool)
    full = archived(volume)
    assert min(free_zones(site, pool)) >= 1
    site.assert_files(volume)
    # Everywhere a little is deleted: far less than a zone of any segment.
    for name in sorted(site.files)[::8]:
        site.delete(volume, name)
    volume.commits.now()
    for _ in range(30):
        done = clean(
            site, volume, pool, wanted_bytes=k * ZONE, dead_share_min=DEAD_SHARE_PRESSED
        ).report
        assert min(free_zones(site, pool)) >= 1
        if not done.segments or archived(volume) < full:
            break
    assert archived(volume) < full
    site.assert_files(volume)
    # All that is left goes on until nothing is won.
    while clean(site, volume, pool, dead_share_min=DEAD_SHARE_PRESSED).report.segments:
        pass
    hold_bytes = sum(len(content) for content in site.files.values()) - site.bytes_in(volume, None)
    assert archived(volume) <= hold_bytes / (0.9 * k * (ZONE - 16 * KIB)) + 1
    for name in sorted(site.files):
        site.delete(volume, name)
    while volume.reaper.step():
        pass
    clean(site, volume, pool)
    assert archived(volume) == 0
    site.assert_nothing_astray(volume)
    volume.close()


def test_a_snapshot_is_cut_into_segments_that_fit_a_zone(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workspace's own would be three zones long."""
    monkeypatch.setattr(log, "JOURNAL_MIN_BYTES", 3 * ZONE)
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    for index in range(2000):
        name = b"%d" % index + b"n" * 200
        site.numbers[name] = volume.names.create(ROOT, name, 0o100644, ME).number
        site.files[name] = b""
    site.fill(volume)
    site.shift(volume, pool)
    kept = [
        {name: drive.size(name) for name in drive.names() if name.startswith("snapshot")}
        for drive in site.zoned().values()
    ]
    assert sum(1 for found in kept if sum(found.values()) > ZONE) >= pool.m + 1
    assert all(size <= ZONE for found in kept for size in found.values())
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    assert victims(volume.catalog, pool, newest=10**6) == []
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()
