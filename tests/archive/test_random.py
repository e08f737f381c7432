"""Writes, deletions, shifts, cleaning, crashes and lost drives in any order, against bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive.shift import Shift
from shmr.testing.trial import scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume
from tests.archive.site import Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


class Walk:
    """A site with three pools, and one step after the other."""

    def __init__(self, place: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        pools = pool_of("mirror", 0), pool_of("2+1", 1), pool_of("4+2", 2)
        self.site = Site(place, *pools, zones=40, seed=seed)
        self.volume: Volume = self.site.open()
        self.done: list[str] = []

    def step(self) -> None:
        steps = (
            self.write,
            self.write,
            self.patch,
            self.delete,
            self.shift,
            self.clean,
            self.crash,
        )
        chosen = self.rng.choice(steps)
        self.done.append(chosen.__name__)
        self.site.clock.tick()
        chosen()

    def write(self) -> None:
        name = b"file%d" % self.rng.randrange(12)
        size = self.rng.choice((1, 5000, 40_000, 130_000))
        at = self.rng.choice((0, 0, 3000))
        self.site.write(self.volume, name, self.rng.randbytes(size), at=at)
        self.volume.commits.now()

    def patch(self) -> None:
        """Bytes in the middle, as often as not of something archived."""
        large = [name for name, content in self.site.files.items() if len(content) > 1000]
        if large:
            name = self.rng.choice(sorted(large))
            at = self.rng.randrange(len(self.site.files[name]))
            self.site.write(self.volume, name, self.rng.randbytes(500), at=at)
            self.volume.commits.now()

    def delete(self) -> None:
        if self.site.files:
            self.site.delete(self.volume, self.rng.choice(sorted(self.site.files)))
            while self.volume.reaper.step():
                pass
            self.volume.commits.now()

    def shift(self) -> None:
        ends = [None, *self.site.pools]
        source, target = self.rng.sample(ends, 2)
        readers = self.rng.choice((0, 0, 2))
        before = self.site.bytes_in(self.volume, source)
        there = self.site.bytes_in(self.volume, target)
        self.site.shift(self.volume, target, source, readers=readers)
        assert self.site.bytes_in(self.volume, source) == 0
        assert self.site.bytes_in(self.volume, target) == before + there
        self.site.assert_nothing_astray(self.volume)

    def clean(self) -> None:
        shift = Shift(self.volume, self.site.pools)
        run_inline(shift.recover())
        run_inline(shift.clean(self.rng.choice(self.site.pools), flush=True))
        self.site.assert_nothing_astray(self.volume)

    def crash(self) -> None:
        """A power cut; then the volume is there again, also without m drives of each pool."""
        self.volume.abandon()
        self.site.world = self.site.world.reboot(random.Random(self.rng.getrandbits(32)))
        lost = tuple(d for pool in self.site.pools for d in self.rng.sample(pool.drives, pool.m))
        self.volume = self.site.open(missing=lost, read_only=True)
        self.site.assert_files(self.volume)
        self.volume.abandon()
        self.volume = self.site.open()


@pytest.mark.parametrize("seed", range(6))
def test_files_stay_what_they_are_whatever_moves_them(place: Path, seed: int) -> None:
    walk = Walk(place, seed)
    for _ in range(60):
        walk.step()
        walk.site.assert_files(walk.volume)
    walk.volume.close()
