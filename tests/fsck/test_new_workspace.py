"""A new workspace: its making cut off anywhere, and on drives that fail."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.errors import ShmrError
from shmr.fsck.rebuilding.new_workspace import Layout, NewWorkspace, Stage, stage_of
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import FILESYSTEM, scratch
from shmr.units import KIB
from tests.archive.site import pool_of, small_limits
from tests.fsck.remains import Remains


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def archived(place: Path) -> tuple[Remains, Tree]:
    """Everything is archived, and the workspace is gone."""
    site = Remains(place, pool_of("2+1", 0), seed=4)
    volume = site.open()
    site.work(volume, 60)
    site.shift(volume, site.pools[0])
    before = tree_of(volume)
    volume.abandon()
    site.lose_workspace()
    return site, before


class Attempts:
    """Runs of the command on one state of the drives after another."""

    def __init__(self, site: Remains, before: Tree) -> None:
        self.site = site
        self.before = before
        self.count = 0

    def run(self, world: World) -> None:
        """As the command does it."""
        self.count += 1
        stage = stage_of(world.drives[:1])
        if stage is Stage.THERE:
            return
        salvaged = None
        into = self.site.place / f"into{self.count}"
        if stage is not Stage.PROVED:
            salvaged = self.site.salvaged(into, world, gone=True)
        try:
            self.site.made_anew(salvaged, world, self.catalog, seed=self.count)
        finally:
            shutil.rmtree(into, ignore_errors=True)

    @property
    def catalog(self) -> Path:
        return self.site.place / f"anew{self.count}"

    def inspect(self, world: World, catalog: Path) -> None:
        """A mount finds everything."""
        assert stage_of(world.drives[:1]) is Stage.THERE
        volume = self.site.open(world, catalog)
        assert volume.read_only is None
        assert differences(self.before, tree_of(volume)) == []
        volume.abandon()
        shutil.rmtree(catalog, ignore_errors=True)


def test_cut_off_anywhere_the_next_run_comes_to_the_same(place: Path) -> None:
    site, before = archived(place)
    attempts = Attempts(site, before)
    images: list[World] = []
    dice = random.Random(3)
    written = changes(site)

    def observe(world: World) -> None:
        world.observer = None
        images.extend((world.kill(), world.reboot(dice)))
        world.observer = observe

    site.world.observer = observe
    attempts.run(site.world)
    site.world.observer = None
    attempts.inspect(site.world, attempts.catalog)
    stages = set()
    assert len(images) > 30
    for image in images:
        stages.add(stage_of(image.drives[:1]))
        # No catalog of an attempt that was cut off is believed: none is there.
        attempts.run(image)
        attempts.inspect(image, attempts.catalog)
    assert {Stage.EMPTY, Stage.BEGUN} <= stages
    assert changes(site) == written


def changes(site: Remains) -> list[int]:
    """Of each archive drive, how often it was asked to change something."""
    verbs = ("claim", "append", "sync", "seal", "discard", "put")
    drives = site.zoned().values()
    return [sum(drive.activity.operations[verb] for verb in verbs) for drive in drives]


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SYNC], ids=lambda f: f.title)
def test_a_drive_that_fails_anywhere_costs_a_second_run(place: Path, fault: Fault) -> None:
    site, before = archived(place)
    attempts = Attempts(site, before)
    failed = 0
    for number in range(200):
        world = site.world.kill()
        world.fail(world.operations + number, fault)
        try:
            attempts.run(world)
        except (ShmrError, AssertionError) as error:
            assert isinstance(error, ShmrError), repr(error)
            failed += 1
        else:
            break
        attempts.run(world.kill())
        assert site.zoned(world).keys() == site.zoned().keys()
    assert failed > (3 if fault is Fault.ENOSPC else 10)


@pytest.mark.parametrize("drives", [2, 3])
def test_a_mirror_begins_with_all_its_copies(place: Path, drives: int) -> None:
    site, _ = archived(place)
    salvaged = site.salvaged(place / "into", gone=True)
    world = World(1)
    new = [world.add(capacity_bytes=1 << 26) for _ in range(drives)]
    layout = Layout(FILESYSTEM, b"remains", b"work", drives, 128 * KIB)
    images = []

    def observe(world: World) -> None:
        world.observer = None
        images.append(world.kill())
        world.observer = observe

    world.observer = observe
    workspace = NewWorkspace(layout, new, clock=site.clock, random_bytes=random.Random(1).randbytes)
    workspace.make(salvaged, place / "anew")
    names = {frozenset(drive.names()) for drive in new}
    assert len(names) == 1
    stages = [stage_of(image.drives) for image in images]
    assert Stage.PROVED in stages
    for image, stage in zip(images, stages, strict=True):
        if stage is Stage.PROVED:
            finished = NewWorkspace(layout, image.drives, clock=site.clock, random_bytes=bytes)
            finished.finish()
            assert stage_of(image.drives) is Stage.THERE
