"""The catalog out of drives alone: what comes back, what does not, and what is said of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.catalog.reading import open_reading
from shmr.errors import IntegrityError, SetupError
from shmr.format import fragment
from shmr.format.rows import (
    ROOT,
    TRUTH,
    Place,
)
from shmr.fsck.salvaging.footers import Footers
from shmr.fsck.salvaging.foreign import footer_of
from shmr.fsck.salvaging.losses import Loss
from shmr.fsck.salvaging.salvage import AHEAD, Salvaged
from shmr.fsck.salvaging.sources import Source
from shmr.log.fragments import parse_name
from shmr.testing.audit import audit
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import FILESYSTEM, scratch
from shmr.volume.volume import Volume
from tests.archive.site import ME, pool_of, small_limits
from tests.fsck.remains import Remains, anew, content_of, much_done, put


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def only_looked_at(site: Remains, catalog: Path, missing: tuple[bytes, ...] = ()) -> Tree:
    volume = site.open(catalog=catalog, read_only=True, missing=missing)
    try:
        assert audit(volume) == []
        return tree_of(volume)
    finally:
        volume.abandon()


# -- with the journal -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_the_catalog_comes_back_from_the_journal(place: Path, seed: int) -> None:
    site, volume = much_done(place, seed)
    if seed % 2:
        site.work(volume, 40)
    before = tree_of(volume)
    volume.abandon()
    if seed % 3:
        site.crash()
    salvaged = site.salvaged(place / "into")
    assert salvaged.source is Source.JOURNAL and salvaged.is_whole
    assert differences(before, only_looked_at(site, place / "into")) == []


def test_it_stops_at_a_place_before_the_end(place: Path) -> None:
    site, volume = much_done(place, 3)
    volume.checkpoints.run()
    before, until = tree_of(volume), volume.catalog.place()
    site.work(volume, 50)
    after = tree_of(volume)
    volume.abandon()
    assert before != after
    salvaged = site.salvaged(place / "then", until=until)
    assert salvaged.place == until and salvaged.is_whole
    site.salvaged(place / "now")
    assert differences(after, only_looked_at(site, place / "now")) == []
    # To open it brings it to the end of the journal: what it was before, rows tell.
    assert truth_of(place / "then") == truth_of(site.catalog)


def truth_of(catalog: Path) -> list[list[tuple[bytes, bytes]]]:
    with open_reading(catalog, live=False) as reading:
        return [list(reading.rows(table, b"")) for table in TRUTH]


def test_a_place_that_cannot_be_reached_is_refused(place: Path) -> None:
    site, volume = much_done(place, 4)
    volume.abandon()
    with pytest.raises(SetupError, match="cannot be replayed to frame"):
        site.salvaged(place / "into", until=Place(1, 0, 112, 10**9, 5))
    assert not (place / "into").exists()


# -- without the workspace ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_what_was_archived_comes_back_without_the_workspace(place: Path, seed: int) -> None:
    site, volume = much_done(place, seed)
    site.shift(volume, site.pools[seed % 2])
    before = tree_of(volume)
    volume.abandon()
    salvaged = site.salvaged(place / "into", gone=True)
    assert salvaged.source is Source.SNAPSHOT
    assert (salvaged.found_inodes, salvaged.gone_extents, salvaged.left_out) == (0, 0, {})
    again = anew(site, salvaged)
    assert differences(before, tree_of(again)) == []
    assert audit(again) == []
    # It is a filesystem as any other: it goes on.
    site.work(again, 40)
    site.shift(again, site.pools[1])
    before = tree_of(again)
    again.close()
    later = site.open(catalog=place / "anew")
    assert differences(before, tree_of(later)) == []
    site.assert_nothing_astray(later)
    later.close()


@pytest.mark.parametrize("index", range(4))
def test_as_many_archive_drives_may_be_missing_as_the_pool_can_spare(
    place: Path, index: int
) -> None:
    site, volume = much_done(place, 5)
    site.shift(volume, site.pools[0])
    before = tree_of(volume)
    volume.abandon()
    missing = site.pools[0].drives[index], site.pools[1].drives[index % 3]
    salvaged = site.salvaged(place / "into", gone=True, missing=missing)
    assert salvaged.source is Source.SNAPSHOT and not salvaged.gone
    again = anew(site, salvaged, missing)
    assert differences(before, tree_of(again)) == []
    again.close()


class Story:
    """Before the snapshot that counts: `old` is archived, `late` is not, `deleted` was archived and
    deleted. Behind it `late` and `new` were archived, and `last` was not."""

    def __init__(self, place: Path) -> None:
        pool = pool_of("2+1", 0)
        self.site = site = Remains(place, pool, seed=1)
        self.pool, rng = pool, random.Random(8)
        self.contents = {
            name: rng.randbytes(size)
            for name, size in (
                (b"old", 90_000), (b"deleted", 50_000), (b"late", 70_000), (b"new", 60_001),
                (b"last", 30_000),
            )
        }  # fmt: skip
        self.numbers: dict[bytes, int] = {}
        volume = site.open()
        self.write(volume, b"old", b"deleted", b"late")
        site.stay = {self.numbers[b"late"]}
        site.shift(volume, pool)
        volume.names.unlink(ROOT, b"deleted")
        volume.handles.forgotten(self.numbers[b"deleted"])
        volume.commits.now()
        self.write(volume, b"other")
        site.shift(volume, pool)
        self.copies = site.snapshots()
        site.stay = set()
        self.write(volume, b"new")
        site.shift(volume, pool)
        self.write(volume, b"last")
        volume.abandon()

    def write(self, volume: Volume, *names: bytes) -> None:
        for name in names:
            number = volume.names.create(ROOT, name, 0o100640, ME).number
            volume.data.write(number, 0, self.contents.get(name, b"else"))
            self.numbers[name] = number
        volume.commits.now()

    def salvaged(self) -> Salvaged:
        return self.site.salvaged(self.site.place / "into", gone=True)


def read(volume: Volume, *path: bytes) -> bytes:
    number = ROOT
    for name in path:
        number = volume.names.lookup(number, name).number
    inode = volume.attributes.get(number)
    plan = volume.data.plan_read(number, 0, inode.size)
    try:
        return bytes(plan.fetch())
    finally:
        plan.release()


def test_what_was_archived_behind_the_snapshot_is_found_by_footers(place: Path) -> None:
    story = Story(place)
    story.site.put_back(story.copies)
    salvaged = story.salvaged()
    contents = story.contents
    assert salvaged.source is Source.SNAPSHOT
    assert (salvaged.found_inodes, salvaged.found_bytes) == (1, len(contents[b"new"]))
    assert salvaged.filled_bytes == len(contents[b"late"])
    assert not salvaged.gone and not salvaged.strays
    volume = anew(story.site, salvaged)
    names = {name for name, _, _ in volume.names.entries(ROOT, 0)}
    assert names == {b"old", b"late", b"other", b"lost+found"}, "what was deleted stays so"
    found = b"inode-%d" % story.numbers[b"new"]
    assert read(volume, b"old") == contents[b"old"]
    assert read(volume, b"late") == contents[b"late"]
    assert read(volume, b"lost+found", found) == contents[b"new"]
    directory = volume.names.lookup(ROOT, b"lost+found")
    assert directory.mode == 0o040700
    assert [name for name, _, _ in volume.names.entries(directory.number, 0)] == [found]
    assert audit(volume) == []
    # The next shift keeps a snapshot that knows of them: footers are not needed again.
    story.site.shift(volume, story.pool)
    before = tree_of(volume)
    volume.abandon()
    again = story.site.salvaged(place / "again", gone=True)
    assert (again.found_inodes, again.filled_bytes, again.gone_bytes) == (0, 0, 0)
    later = Remains.open(story.site, catalog=place / "anew")
    assert differences(before, tree_of(later)) == []
    later.close()


def test_bytes_that_were_in_the_workspace_only_are_told_file_by_file(place: Path) -> None:
    story = Story(place)
    # Without the fragments that were written behind the snapshot nothing tells of these.
    newest = max(name for names in story.copies.values() for name in names)
    above = int(newest.split("-")[1])
    story.site.put_back(story.copies)
    for drive in story.site.zoned().values():
        for name in drive.names():
            found = parse_name(name)
            if found is not None and found.segment > above:
                drive.discard(name)
    salvaged = story.salvaged()
    late = len(story.contents[b"late"])
    assert (salvaged.gone_inodes, salvaged.gone_bytes) == (1, late)
    with salvaged.losses() as losses:
        assert list(losses.all()) == [
            Loss(story.numbers[b"late"], b"late", salvaged.gone_extents, late)
        ]
    volume = anew(story.site, salvaged)
    assert read(volume, b"old") == story.contents[b"old"]
    with pytest.raises(IntegrityError):
        read(volume, b"late")
    assert volume.attributes.get(story.numbers[b"late"]).size == late
    volume.close()


def test_footers_alone_give_all_that_was_archived(place: Path) -> None:
    story = Story(place)
    story.site.put_back({})
    salvaged = story.salvaged()
    assert salvaged.source is Source.FOOTERS and salvaged.snapshot_ns is None
    volume = anew(story.site, salvaged)
    found = {read(volume, b"lost+found", b"inode-%d" % n) for n in _lost_and_found(volume)}
    expected = {story.contents[name] for name in (b"old", b"late", b"new")}
    assert expected <= found
    assert story.contents[b"last"] not in found
    assert audit(volume) == []
    volume.close()


def _lost_and_found(volume: Volume) -> list[int]:
    directory = volume.names.lookup(ROOT, b"lost+found")
    entries = list(volume.names.entries(directory.number, 0))
    assert all(name == b"inode-%d" % inode.number for name, inode, _ in entries)
    return [inode.number for _, inode, _ in entries]


def test_fragments_that_were_written_anew_behind_the_snapshot_count(place: Path) -> None:
    story = Story(place)
    site = story.site
    drive_id = story.pool.drives[0]
    drive = site.zoned()[drive_id]
    name = min(n for n in drive.names() if n.startswith("fragment"))
    content, header = content_of(drive, name), footer_of(drive, name).header
    free = next(d for d in story.pool.drives if d not in header.drives)
    drives = tuple(free if d == drive_id else d for d in header.drives)
    moved = header._replace(generation=header.generation + 1, drives=drives)
    footer = fragment.decode_footer(content[header.footer_offset :])
    table = content[header.table_offset : header.footer_offset]
    sums = [footer.sums[at : at + 16] for at in range(0, len(footer.sums), 16)]
    anew_bytes = (
        moved.encode()
        + content[fragment.BLOCK : header.footer_offset]
        + fragment.encode_footer(moved, table, sums)
    )
    file_name = fragment.file_name(moved.segment, moved.fragment, moved.generation)
    put(site.zoned()[free], file_name, anew_bytes)
    drive.discard(name)
    salvaged = site.salvaged(place / "into", gone=True)
    with open_reading(place / "into", live=False) as reading:
        row = reading.archived(header.segment)
        assert row is not None
        assert row.fragments[header.fragment] == (free, header.generation + 1)
        assert Footers(FILESYSTEM, site.zoned()).there(header.segment, row) == row.k + row.m
    assert salvaged.gone_bytes == 0


# -- numbers --------------------------------------------------------------------------------------


def test_numbers_are_never_used_again(place: Path) -> None:
    story = Story(place)
    site = story.site
    used = numbers_on(site)
    used |= {f.segment for d in site.zoned().values() for n in d.names() if (f := parse_name(n))}
    site.put_back(story.copies)
    salvaged = story.salvaged()
    assert salvaged.next_segment > max(used) + AHEAD - 1000
    assert salvaged.next_inode > max(story.numbers.values())
    volume = anew(site, salvaged)
    number = volume.names.create(ROOT, b"fresh", 0o100600, ME).number
    assert number not in story.numbers.values() and number >= salvaged.next_inode
    volume.data.write(number, 0, b"x")
    volume.close()
    after = numbers_on(site)
    assert min(after) >= salvaged.next_segment
    # A workspace that is lost again, with nothing archived: the one after it is above it all.
    site.clock.now += 10**12
    second = site.salvaged(place / "second", gone=True)
    site.lose_workspace()
    site.made_anew(second, catalog=place / "third", seed=2)
    assert min(numbers_on(site)) > max(after)


def numbers_on(site: Remains) -> set[int]:
    """Of the segments in the workspace."""
    names = site.world.drives[0].names()
    return {int(name.split("-")[1]) for name in names if not name.startswith("superblock")}


# -- what cannot be, and what is not there ---------------------------------------------------------


def test_nothing_at_all_is_refused(place: Path) -> None:
    site = Remains(place, pool_of("mirror"), seed=0)
    with pytest.raises(SetupError, match="neither a journal nor a snapshot nor a fragment"):
        site.salvaged(place / "into", gone=True)
    assert list(place.iterdir()) == []


def test_drives_are_only_read(place: Path) -> None:
    story = Story(place)
    before = story.site.world.operations
    story.salvaged()
    story.site.salvaged(place / "whole")
    assert story.site.world.operations == before
