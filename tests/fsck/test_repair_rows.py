"""Rows are mended: what was broken is sound afterwards, or told as lost; cut off anywhere, too.

The catalogs here were broken in their rows. A snapshot that was made of them means that the log has
it no better.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.catalog.reading import open_reading
from shmr.format.rows import ROOT, Address, Extent, Table
from shmr.fsck.checking.tables.check import tables
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.mending.repair import look_at
from shmr.fsck.mending.rows import mend_rows, untangled
from shmr.fsck.opening import View
from shmr.log.fragments import FragmentStore
from shmr.log.store import SegmentStore
from shmr.testing.drive import World
from shmr.testing.tree import Tree, tree_of
from shmr.testing.trial import FILESYSTEM, Files, files_of, lay_down, scratch
from shmr.units import KIB
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume, open_volume
from tests.archive.site import Site, small_limits
from tests.fsck import test_tables as damages
from tests.fsck.rows import Rows, rows_of

LOSSES = {Kind.EXTENT_GAP, Kind.EXTENT_ADDRESS}
first = partial(mend_rows, look=look_at)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with scratch() as place, small_limits():
        yield damages.at_rest(place)


def mended(site: Site, world: World, catalog: Path) -> Volume:
    """Opened as a repair does."""
    return open_volume(
        FILESYSTEM,
        world.drives[:1],
        catalog,
        clock=site.clock,
        segment_bytes=128 * KIB,
        in_child=False,
        archive=site.zoned(world),
        deadline_s=None,
        first=first,
    )


def broken(site: Site, place: Path, *breaks: Callable[[Rows], None]) -> Path:
    catalog = place / "catalog"
    lay_down(files_of(site.catalog), catalog)
    with rows_of(catalog) as rows:
        for one in breaks:
            one(rows)
    return catalog


def found(site: Site, world: World, catalog: Path) -> list[Finding]:
    store = SegmentStore(FILESYSTEM, world.drives[:1], 1, 0, site.clock)
    store.scan()
    with open_reading(catalog, live=False) as reading:
        view = View(FILESYSTEM, "", reading, store, FragmentStore(FILESYSTEM, {}))
        return list(tables(replace(view, rebuilt=True)))


MENDED = [
    (damage, kinds)
    for damage, kinds in damages.DAMAGES
    # What no mount opens: such a catalog is rebuilt from the log, which has no such rows.
    if damage.__name__ not in ("_checksum", "_inode_checksum")
]


@pytest.mark.parametrize(
    ("damage", "kinds"), MENDED, ids=lambda value: getattr(value, "__name__", "")
)
def test_what_was_broken_is_sound_afterwards_or_lost(
    site: Site, tmp_path: Path, damage: Callable[[Rows], None], kinds: list[Kind]
) -> None:
    world = site.world.kill()
    catalog = broken(site, tmp_path, damage)
    volume = mended(site, world, catalog)
    run_inline(volume.snapshots.make())
    assert volume.close()
    # What follows from other rows is right in a catalog that is made of the log.
    lay_down(None, catalog)
    assert mended(site, world, catalog).close()
    left = {finding.kind for finding in found(site, world, catalog)}
    assert left == LOSSES & set(kinds)
    assert all(finding.is_loss for finding in found(site, world, catalog))


@pytest.mark.parametrize(("damage", "kinds"), MENDED[::3])
def test_what_was_mended_is_in_the_journal_too(
    site: Site, tmp_path: Path, damage: Callable[[Rows], None], kinds: list[Kind]
) -> None:
    """The log has the damage as well, in a snapshot; the mends are behind it."""
    world = site.world.kill()
    catalog = broken(site, tmp_path, damage)
    unmended = site.open(world, catalog)
    run_inline(unmended.snapshots.make())
    unmended.abandon()
    lay_down(None, catalog)
    assert mended(site, world, catalog).close()
    lay_down(None, catalog)
    assert mended(site, world, catalog).close()
    assert {finding.kind for finding in found(site, world, catalog)} <= LOSSES


@pytest.mark.parametrize("seed", range(30))
def test_several_damages_at_once_are_mended(site: Site, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = site.world.kill()
    catalog = tmp_path / "catalog"
    lay_down(files_of(site.catalog), catalog)
    done = []
    for damage, _ in rng.sample(MENDED, 6):
        with suppress(AssertionError, StopIteration), rows_of(catalog) as rows:
            # One may have taken away what another would break.
            damage(rows)
            done.append(damage.__name__)
    volume = mended(site, world, catalog)
    run_inline(volume.snapshots.make())
    assert volume.close()
    lay_down(None, catalog)
    assert mended(site, world, catalog).close()
    left = found(site, world, catalog)
    assert all(finding.is_loss and finding.kind in LOSSES for finding in left), (done, left)


def test_what_no_name_leads_to_is_in_lost_and_found(site: Site, tmp_path: Path) -> None:
    world = site.world.kill()
    catalog = broken(site, tmp_path, damages._unreachable_directory, damages._no_inode)
    volume = mended(site, world, catalog)
    lost = volume.names.lookup(ROOT, b"lost+found")
    assert lost.mode & 0o7777 == 0o700
    ((name, top, _),) = volume.names.entries(lost.number, 0)
    assert name == b"inode-%d" % top.number
    below = volume.names.lookup(top.number, b"e")
    assert {name for name, _, _ in volume.names.entries(below.number, 0)} >= {b"f", b"again"}
    # Its row was missing, its name and its bytes were not: it is where it was.
    again = volume.names.lookup(ROOT, damages.OTHER)
    plan = volume.data.plan_read(again.number, 0, 10_000)
    assert bytes(plan.fetch()) == site.files[damages.OTHER]
    plan.release()
    assert volume.close()


def test_nothing_in_lost_and_found_is_overwritten(site: Site, tmp_path: Path) -> None:
    world, catalog = site.world.kill(), broken(site, tmp_path)
    volume = site.open(world, catalog)
    number = volume.names.lookup(ROOT, damages.FILE).number
    lost = volume.names.create(ROOT, b"lost+found", 0o40755, damages.ME)
    below = volume.names.create(lost.number, b"inode-%d" % number, 0o100644, damages.ME)
    volume.close()
    with rows_of(catalog) as rows:
        rows.name(ROOT, damages.FILE, None)
        rows.name(rows.find(b"d/e"), b"again", None)
    volume = mended(site, world, catalog)
    entries = {name: inode.number for name, inode, _ in volume.names.entries(lost.number, 0)}
    assert entries == {b"inode-%d" % number: below.number, b"inode-%d-2" % number: number}
    assert volume.close()
    assert found(site, world, catalog) == []


class Cuts:
    """What every cut of a repair's power leaves, and every kill, is repaired by the next."""

    def __init__(self, site: Site, place: Path, catalog: Path) -> None:
        self.site, self.place, self.catalog = site, place, catalog
        self.rng = random.Random(3)
        self.wanted: list[tuple[Files | None, World]] = []

    def observe(self, world: World) -> None:
        if self.rng.random() < 0.4:
            files = files_of(self.catalog)
            self.wanted += [(files, world.reboot(self.rng)), (files, world.kill())]

    def check(self, tree: Tree) -> None:
        for index, (files, world) in enumerate(self.wanted):
            catalog = self.place / "image"
            lay_down(files if index % 5 else None, catalog)
            volume = mended(self.site, world, catalog)
            assert tree_of(volume) == tree
            assert volume.close()
            assert found(self.site, world, catalog) == []


def test_a_repair_cut_off_anywhere_is_completed_by_the_next(site: Site, tmp_path: Path) -> None:
    world = site.world.kill()
    catalog = broken(
        site,
        tmp_path,
        damages._unreachable_directory,
        damages._links,
        damages._no_inode,
        damages._mark,
        damages._orphan,
        damages._stray_xattr,
    )
    # So that the log has it no better, and a catalog made of it is as broken.
    unmended = site.open(world, catalog)
    run_inline(unmended.snapshots.make())
    unmended.commits.now()
    unmended.abandon()
    cuts = Cuts(site, tmp_path, catalog)
    world.observer = cuts.observe
    volume = mended(site, world, catalog)
    world.observer = None
    tree = tree_of(volume)
    volume.close()
    assert len(cuts.wanted) > 10
    cuts.check(tree)


# -- extents that overlap --------------------------------------------------------------------

EXTENTS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(-1, 5)), max_size=12
)


@given(EXTENTS)
def test_of_overlapping_extents_the_newest_segment_wins(
    shapes: list[tuple[int, int, int]],
) -> None:
    # Rows have different offsets; each byte tells of which extent it is.
    extents = [
        Extent(start, size, None if number < 0 else Address(number, start, 1000, start))
        for start, size, number in {shape[0]: shape for shape in shapes}.values()
    ]
    wanted: dict[int, int] = {}
    for extent in extents:
        number = -1 if extent.address is None else extent.address.segment
        for at in range(extent.offset, extent.end):
            wanted[at] = max(number, wanted.get(at, -1))
    got: dict[int, int] = {}
    last = 0
    for extent in untangled(extents):
        assert extent.offset >= last
        last = extent.end
        number = -1 if extent.address is None else extent.address.segment
        for at in range(extent.offset, extent.end):
            got[at] = number
            if extent.address is not None:
                assert extent.address.skip + at - extent.offset == at
    assert got == wanted


def test_a_catalog_that_is_sound_is_not_touched(site: Site, tmp_path: Path) -> None:
    world, catalog = site.world.kill(), broken(site, tmp_path)
    volume = mended(site, world, catalog)
    assert not volume.catalog.batch
    assert not volume.catalog.count(Table.REAP) - 1
    volume.abandon()
