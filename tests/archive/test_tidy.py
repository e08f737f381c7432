"""Copies of snapshots that a newer one stands for go: only when that is whole on m+1 drives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive.keep import tidy
from shmr.archive.pool import Pool
from shmr.testing.drive import SimulatedDrive
from shmr.testing.trial import scratch
from shmr.testing.zoned import ZonedDrive
from shmr.volume.cleaner import run_inline
from shmr.volume.gaps import Gaps
from tests.archive.site import Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def kept(site: Site, pool: Pool) -> dict[bytes, list[str]]:
    found = {d: [n for n in site.zoned()[d].names() if "snapshot" in n] for d in pool.drives}
    return {drive: names for drive, names in found.items() if names}


def copied(source: SimulatedDrive, name: str, target: ZonedDrive, size: int) -> None:
    file = target.claim(name, size)
    file.append([source.open(name).read(0, size)])
    file.seal()


def test_older_copies_stay_until_the_newer_are_whole(place: Path) -> None:
    pool = pool_of("2+1", drives=5)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=4)
    site.shift(volume, pool)
    older = kept(site, pool)
    assert len(older) == 2
    drives = site.zoned()
    bare = [drive for drive in pool.drives if drive not in older]
    # A newer one, with the same things in it: whole on one drive, cut off on the other.
    run_inline(volume.snapshots.make())
    work = site.world.drives[0]
    (newer,) = (name for name in work.names() if name.startswith("snapshot"))
    size = work.size(newer)
    for drive, length in zip(bare, (size, size - 512), strict=False):
        copied(work, newer, drives[drive], length)
    tidy(volume.context.fragments, pool, Gaps())
    assert kept(site, pool) == older
    # Whole on both: now the older go.
    for drive in bare[:2]:
        copied(work, newer, drives[drive], size)
    tidy(volume.context.fragments, pool, Gaps())
    assert kept(site, pool) == {bare[0]: [newer], bare[1]: [newer]}
    volume.close()
