"""Shifts that are cut off, or struck by a fault, at every operation of every drive.

What was acknowledged is readable and equal; nothing is freed before a snapshot that knows of the
move is on m+1 archive drives; a second run converges and leaves nothing astray.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.archive.victims import victims
from shmr.errors import ShmrError
from shmr.format.records import Stream
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.holds import held
from shmr.volume.volume import Volume
from tests.archive.site import SCHEMES, Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def filled(place: Path, *pools: Pool) -> Site:
    """A site with a few files, closed cleanly."""
    site = Site(place, *pools)
    volume = site.open()
    rng = random.Random(5)
    for name, size in ((b"small", 3000), (b"large", 70_000), (b"middle", 21_000), (b"none", 0)):
        site.write(volume, name, rng.randbytes(size))
    volume.close()
    return site


def assert_not_freed_too_early(site: Site, world: World, sources: set[str]) -> None:
    """Sources are there, or m+1 drives of the pool have all files of one snapshot."""
    if sources <= set(world.drives[0].names()):
        return
    zoned = site.zoned(world)
    for pool in site.pools:
        kept = [{n for n in zoned[d].names() if n.startswith("snapshot")} for d in pool.drives]
        newest = max(set().union(*kept), default="")
        assert sum(newest in names for names in kept) > pool.m, "freed before it was kept"


def converge(site: Site, volume: Volume, world: World, target: Pool | None, source: Pool | None):
    """A second run does all that is left to do."""
    site.shift(volume, target, source)
    site.assert_files(volume)
    site.assert_nothing_astray(volume, world)
    assert not held(volume.catalog)
    total = sum(len(content) for content in site.files.values())
    assert site.bytes_in(volume, target) == total
    for number, _ in volume.catalog.archived_segments():
        assert volume.catalog.live[number] > 0
    log, store = volume.log, volume.context.reader.store
    for segment in store.of_stream(Stream.DATA):
        assert log.is_open(segment.number) or volume.catalog.live.get(segment.number, 0) > 0
    volume.close()


class Cuts:
    """Looks at what every cut of a shift's power leaves, and every kill.

    `again` is the second run, and looks whether everything is where it belongs.
    """

    def __init__(self, site: Site, sources: set[str], again: Callable[[Volume, World], None]):
        self.site = site
        self.sources = sources
        self.again = again
        self.original = site.catalog
        self.image = site.place / "image"
        self.share = 1.0
        self.count = 0
        self.rng = random.Random(9)

    def observe(self, world: World) -> None:
        if self.rng.random() >= self.share:
            return
        files = files_of(self.original)
        for image in (world.reboot(self.rng), world.kill()):
            self.count += 1
            catalog = self.image
            lay_down(None if self.count % 7 == 0 else files, catalog)
            assert_not_freed_too_early(self.site, image, self.sources)
            volume = self.site.open(image, catalog)
            self.site.assert_files(volume)
            assert_not_freed_too_early(self.site, image, self.sources)
            self.again(volume, image)


def data_segments(site: Site) -> set[str]:
    return {name for name in site.world.drives[0].names() if name.startswith("data")}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_shift_cut_off_anywhere_is_completed_by_the_next(place: Path, scheme: str) -> None:
    pool = pool_of(scheme)
    site = filled(place, pool)
    volume = site.open()
    cuts = Cuts(site, data_segments(site), lambda v, w: converge(site, v, w, pool, None))
    site.world.observer = cuts.observe
    site.shift(volume, pool)
    site.world.observer = None
    site.assert_files(volume)
    volume.close()
    assert cuts.count > 20


def test_a_shift_of_several_segments_side_by_side_cut_off_anywhere_is_completed_by_the_next(
    place: Path,
) -> None:
    pool = pool_of("mirror")
    site = Site(place, pool)
    volume = site.open()
    rng = random.Random(4)
    for index in range(4):
        site.write(volume, b"file%d" % index, rng.randbytes(200_000))
    volume.close()
    volume = site.open()
    cuts = Cuts(site, data_segments(site), lambda v, w: converge(site, v, w, pool, None))
    cuts.share = 0.15
    site.world.observer = cuts.observe
    shift = site.shift(volume, pool)
    site.world.observer = None
    assert shift.report.segments == 4
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    assert cuts.count > 20


@pytest.mark.parametrize("back", [False, True])
def test_a_shift_out_of_an_archive_pool_cut_off_anywhere_is_completed_by_the_next(
    place: Path, back: bool
) -> None:
    one, other = pool_of("2+1", 0), pool_of("mirror", 1)
    site = filled(place, one, other)
    volume = site.open()
    site.shift(volume, one)
    target = None if back else other
    cuts = Cuts(site, set(), lambda v, w: converge(site, v, w, target, one))
    site.world.observer = cuts.observe
    site.shift(volume, target, one)
    site.world.observer = None
    volume.close()
    assert cuts.count > 20


def strike(
    site: Site, pool: Pool, number: int, fault: Fault, persistent: bool, readers: int = 0
) -> bool:
    """A shift in a copy of the world, with one fault, and a second run without it.

    Returns whether the fault struck at all.
    """
    world = site.world.kill()
    catalog = site.place / "struck"
    lay_down(files_of(site.catalog), catalog)
    volume = site.open(world, catalog)
    sources = {n for n in world.drives[0].names() if n.startswith("data")}
    base = world.reads if fault is Fault.READ else world.operations
    world.fail(base + number, fault, persistent=persistent)
    try:
        site.shift(volume, pool, readers=readers)
    except ShmrError:
        assert world.plan.struck
    world.plan.heal()
    struck = bool(world.plan.struck)
    site.assert_files(volume)
    assert_not_freed_too_early(site, world, sources)
    volume.abandon()
    left = world.kill()
    volume = site.open(left, catalog)
    site.assert_files(volume)
    converge(site, volume, left, pool, None)
    return struck


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_at_any_operation_of_a_shift_loses_nothing(
    place: Path, fault: Fault, persistent: bool
) -> None:
    pool = pool_of("2+1")
    site = filled(place, pool)
    number = 0
    while strike(site, pool, number, fault, persistent):
        number += 1
    assert number > 3


def test_cleaning_that_is_cut_off_anywhere_is_completed_by_the_next(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    rng = random.Random(6)
    for index in range(10):
        site.write(volume, b"file%d" % index, rng.randbytes(60_000))
    site.shift(volume, pool)
    for index in (0, 4, 5, 8):
        site.delete(volume, b"file%d" % index)
    volume.commits.now()

    def clean(volume: Volume, world: World) -> None:
        shift = Shift(volume, site.pools)
        run_inline(shift.recover())
        run_inline(shift.clean(pool, flush=True))
        assert victims(volume.catalog, pool, newest=10**6) == []
        site.assert_files(volume)
        site.assert_nothing_astray(volume, world)
        assert not held(volume.catalog)
        if world is not site.world:
            volume.close()

    cuts = Cuts(site, set(), clean)
    assert victims(volume.catalog, pool, newest=10**6) != []
    site.world.observer = cuts.observe
    clean(volume, site.world)
    site.world.observer = None
    volume.close()
    assert cuts.count > 20


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.SHORT, Fault.READ])
def test_one_fault_in_a_shift_with_threads_loses_nothing(place: Path, fault: Fault) -> None:
    pool = pool_of("4+2")
    site = filled(place, pool)
    number = 0
    while strike(site, pool, number, fault, False, readers=3):
        number += 5
    assert number > 5


@pytest.mark.thorough
def test_a_second_run_that_is_cut_off_too_is_completed_by_the_third(place: Path) -> None:
    pool = pool_of("mirror")
    site = filled(place, pool)
    volume = site.open()
    sources = data_segments(site)
    rng = random.Random(11)
    cuts = 0

    def third(volume: Volume, world: World) -> None:
        converge(site, volume, world, pool, None)

    def second(volume: Volume, world: World) -> None:
        nonlocal cuts
        if rng.random() < 0.3:
            # The catalog of the first image stands where this one looks for its own.
            inner = Cuts(site, sources, third)
            inner.original, inner.image = site.place / "image", site.place / "inner"
            inner.share = 0.2
            world.observer = inner.observe
            site.shift(volume, pool)
            world.observer = None
            cuts += inner.count
        third(volume, world)

    outer = Cuts(site, sources, second)
    site.world.observer = outer.observe
    site.shift(volume, pool)
    site.world.observer = None
    volume.close()
    assert cuts > 20
