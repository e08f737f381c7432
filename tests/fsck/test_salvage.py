"""The catalog out of drives alone: what comes back, what does not, and what is said of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path

import pytest

from shmr.catalog.reading import Reading, open_reading
from shmr.drive.seam import Drive
from shmr.errors import IntegrityError, SetupError
from shmr.format import fragment, frame
from shmr.format.frame import Kind
from shmr.format.rows import (
    ROOT,
    TRUTH,
    Dentry,
    Extent,
    Inode,
    Place,
    Row,
    Table,
    encode_bytes,
    extent_key,
    key_named,
    key_of,
)
from shmr.fsck.footers import Footers
from shmr.fsck.foreign import footer_of
from shmr.fsck.losses import Loss
from shmr.fsck.salvage import AHEAD, Salvaged
from shmr.fsck.sources import Source
from shmr.log import snapshot, walk
from shmr.log.fragments import FragmentStore, parse_name
from shmr.log.gather import Gather
from shmr.log.store import SegmentStore
from shmr.testing.audit import audit
from shmr.testing.drive import World
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import FILESYSTEM, scratch
from shmr.units import KIB
from shmr.volume.attributes import AttributeChange
from shmr.volume.volume import Volume
from tests.archive.site import ME, pool_of, small_limits
from tests.fsck.remains import Remains, content_of, put


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def much_done(place: Path, seed: int) -> tuple[Remains, Volume]:
    """Files of all kinds made, changed, moved, deleted, archived and cleaned."""
    site = Remains(place, pool_of("2+1", 0), pool_of("mirror", 1), seed=seed)
    volume = site.open()
    for turn in range(4):
        site.work(volume, 60)
        there, back = site.pools[turn % 2], site.pools[(turn + 1) % 2]
        site.shift(volume, there, back if turn > 1 else None)
    return site, volume


def only_looked_at(site: Remains, catalog: Path, missing: tuple[bytes, ...] = ()) -> Tree:
    volume = site.open(catalog=catalog, read_only=True, missing=missing)
    try:
        assert audit(volume) == []
        return tree_of(volume)
    finally:
        volume.abandon()


def anew(site: Remains, salvaged: Salvaged, missing: tuple[bytes, ...] = ()) -> Volume:
    """The volume of the new workspace that takes the place of the old one."""
    site.lose_workspace()
    site.made_anew(salvaged, catalog=site.place / "anew")
    return site.open(catalog=site.place / "anew", missing=missing)


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


class Versions:
    """Files, and every content that each of them ever had."""

    def __init__(self, site: Remains, volume: Volume) -> None:
        self.site, self.volume, self.rng = site, volume, site.rng
        self.numbers: dict[bytes, int] = {}
        self.of: dict[int, list[bytes]] = {}
        """By inode."""
        self.deleted: set[int] = set()

    def step(self) -> None:
        rng, volume = self.rng, self.volume
        name = b"f%d" % rng.randrange(12)
        verb = rng.choice(("write", "write", "patch", "cut", "delete"))
        self.site.clock.tick()
        if name not in self.numbers:
            self.numbers[name] = volume.names.create(ROOT, name, 0o100600, ME).number
            self.of[self.numbers[name]] = [b""]
            verb = "write"
        number = self.numbers[name]
        now = self.of[number][-1]
        if verb == "delete":
            volume.names.unlink(ROOT, name)
            volume.handles.forgotten(number)
            del self.numbers[name]
            self.deleted.add(number)
        elif verb == "cut":
            size = rng.randrange(len(now) + 1)
            volume.attributes.set(number, AttributeChange(size=size))
            self.of[number].append(now[:size])
        else:
            at = 0 if verb == "write" else rng.randrange(len(now) + 1)
            content = rng.randbytes(rng.choice((1, 4096, 30_000, 90_000)))
            volume.data.write(number, at, content)
            self.of[number].append(now[:at] + content + now[at + len(content) :])
        while volume.reaper.step():
            pass
        volume.commits.now()


@pytest.mark.parametrize("seed", range(14))
def test_every_byte_is_one_that_the_file_had_since_the_snapshot(place: Path, seed: int) -> None:
    """The workspace is lost while a shift runs: at any of its operations."""
    site = Remains(place, pool_of("2+1", 0), seed=seed)
    volume = site.open()
    files = Versions(site, volume)
    for _ in range(30):
        files.step()
    site.stay = {number for number in files.numbers.values() if site.rng.random() < 0.4}
    site.shift(volume, site.pools[0])
    there, gone_by_then = dict(files.numbers), set(files.deleted)
    since = {number: len(files.of[number]) - 1 for number in there.values()}
    whole = set(there.values()) - site.stay
    for _ in range(15):
        files.step()
    site.stay = set()
    images: list[World] = []

    def observe(world: World) -> None:
        world.observer = None
        if site.rng.random() < 0.04:
            images.append(world.kill())
        world.observer = observe

    site.world.observer = observe
    site.shift(volume, site.pools[0])
    site.world.observer = None
    volume.abandon()
    for index, image in enumerate([*images, site.world]):
        into = place / f"into{index}"
        salvaged = site.salvaged(into, image, gone=True)
        assert salvaged.source is Source.SNAPSHOT
        gather = Gather(FragmentStore(FILESYSTEM, site.zoned(image)), deadline_s=None)
        with open_reading(into, live=False) as reading:
            for name, number in [*there.items(), *files.numbers.items()]:
                if reading.find(name) == number:
                    versions = files.of[number][since.get(number, 0) :]
                    found = pieces(reading, gather, number, salvaged)
                    assert_had(found, versions)
                    if number in whole:
                        assert b"".join(piece for _, piece in found) in versions
            for number, versions in files.of.items():
                if reading.find(b"lost+found/inode-%d" % number) is not None:
                    assert number not in gone_by_then, "what was deleted comes back"
                    assert_had(pieces(reading, gather, number, salvaged), versions)
        gather.close()


def pieces(
    reading: Reading, gather: Gather, number: int, salvaged: Salvaged
) -> list[tuple[int, bytes]]:
    """What can be read of a file, extent by extent, with its offset."""
    found = []
    for extent in reading.extents(number):
        at = extent.address
        if at is None:
            found.append((extent.offset, bytes(extent.length)))
        elif at.segment not in salvaged.gone:
            row = reading.archived(at.segment)
            assert row is not None
            with suppress(IntegrityError):
                found.append((extent.offset, gather.read(at.segment, row, at.skip, extent.length)))
    return found


def assert_had(found: list[tuple[int, bytes]], versions: list[bytes]) -> None:
    for offset, piece in found:
        assert any(version[offset : offset + len(piece)] == piece for version in versions)


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


# -- copies of snapshots --------------------------------------------------------------------------


def frames_of(drive: Drive, name: str) -> list[int]:
    """Where the payloads of a snapshot's frames with rows begin."""
    file = drive.open(name)
    opening = walk.opening_of((file,), FILESYSTEM, int(name.split("-")[1]))
    assert opening is not None
    first = opening[0]
    found = walk.walk((file,), first.end, first.header.checksum, first.header)
    with_rows = [one for one in found if one.header.kind == Kind.META]
    places = [one.at + frame.header_size(one.header.length) for one in with_rows]
    file.close()
    return places


def kept(site: Remains) -> list[tuple[Drive, str]]:
    return [(d, n) for d in site.zoned().values() for n in d.names() if n.startswith("snapshot")]


def test_each_frame_of_a_snapshot_may_come_from_another_copy(place: Path) -> None:
    site, volume = much_done(place, 6)
    for index in range(600):
        made = volume.names.create(ROOT, b"many%d" % index + b"x" * 200, 0o100600, ME)
    volume.data.write(made.number, 0, b"something to move")
    volume.commits.now()
    site.shift(volume, site.pools[0])
    before = tree_of(volume)
    volume.abandon()
    newest = max(name for _, name in kept(site))
    drives = [drive for drive, name in kept(site) if name == newest]
    assert len(drives) == 2
    places = frames_of(drives[0], newest)
    assert len(places) >= 2
    for index, at in enumerate(places):
        drives[index % 2].flip_bit(newest, at, 3)  # type: ignore[attr-defined]
    salvaged = site.salvaged(place / "into", gone=True)
    assert salvaged.source is Source.SNAPSHOT
    again = anew(site, salvaged)
    assert differences(before, tree_of(again)) == []
    again.close()


def test_where_the_newest_snapshot_is_on_no_drive_whole_the_one_before_counts(place: Path) -> None:
    site, volume = much_done(place, 7)
    site.shift(volume, site.pools[0])
    before = tree_of(volume)
    older = site.snapshots()
    volume.names.create(ROOT, b"later", 0o100600, ME)
    number = volume.names.lookup(ROOT, b"later").number
    volume.data.write(number, 0, b"later" * 5000)
    volume.commits.now()
    site.shift(volume, site.pools[0])
    volume.abandon()
    newest = max(name for _, name in kept(site))
    for drive, name in kept(site):
        if name == newest:
            drive.flip_bit(name, frames_of(drive, name)[0], 1)  # type: ignore[attr-defined]
    for key, copies in older.items():
        for name, content in copies.items():
            if name not in site.zoned()[key].names():
                put(site.zoned()[key], name, content)
    salvaged = site.salvaged(place / "into", gone=True)
    assert salvaged.source is Source.SNAPSHOT and salvaged.found_inodes == 1
    assert any("is on no drive whole" in note for note in salvaged.notes)
    again = anew(site, salvaged)
    tree = tree_of(again)
    found = b"/lost+found/inode-%d" % number
    assert tree[found].size == 25_000
    told = {path: one for path, one in tree.items() if not path.startswith(b"/lost+found")}
    assert [d for d in differences(before, told) if not d.startswith("b'/':")] == []
    again.close()


def test_of_a_damaged_snapshot_every_other_frame_counts(place: Path) -> None:
    """Whichever frame is lost: what comes back is right, and what does not is an error."""
    site = Remains(place, pool_of("2+1", 0), seed=2)
    volume = site.open()
    contents = {}
    for index in range(120):
        name = b"%03d" % index + b"x" * 200
        contents[name] = b"%d;" % index * 40
        site.write(volume, name, contents[name])
        for number in range(40):
            value = bytes([number]) * 60
            volume.xattrs.set(site.numbers[name], b"user.%d" % number, value)
    volume.commits.now()
    site.shift(volume, site.pools[0])
    volume.abandon()
    drive = kept(site)[0][0]
    for other, name in kept(site):
        if other is not drive:
            other.discard(name)
    places = [
        (name, at)
        for _, name in sorted(kept(site), key=itemgetter(1))
        for at in frames_of(drive, name)
    ]
    assert len(places) >= 4
    come_back = []
    for index, (name, at) in enumerate(places):
        drive.flip_bit(name, at, 1)  # type: ignore[attr-defined]
        salvaged = site.salvaged(place / f"into{index}", gone=True)
        drive.flip_bit(name, at, 1)  # type: ignore[attr-defined]
        # All inodes are in the first frame. Without one, what footers tell is worth more.
        expected = (Source.DAMAGED, 1) if index else (Source.FOOTERS, 0)
        assert (salvaged.source, salvaged.lost_frames) == expected
        come_back.append(right_or_refused(site, place / f"into{index}", contents))
    assert site.salvaged(place / "whole", gone=True).source is Source.SNAPSHOT
    # Attributes are most of it: without one of their frames every file is there whole.
    assert come_back == [0] + [len(contents)] * (len(places) - 1)


def right_or_refused(site: Remains, catalog: Path, contents: dict[bytes, bytes]) -> int:
    """How many files read as they were; of the others none reads otherwise."""
    gather = Gather(FragmentStore(FILESYSTEM, site.zoned()), deadline_s=None)
    count = 0
    with open_reading(catalog, live=False) as reading:
        for name, content in contents.items():
            number = reading.find(name)
            extents = [] if number is None else list(reading.extents(number))
            found = b""
            for extent in extents:
                assert extent.address is not None
                row = reading.archived(extent.address.segment)
                assert row is not None, "rows of archived segments come back from footers"
                found += gather.read(
                    extent.address.segment, row, extent.address.skip, extent.length
                )
            assert found in (content, b"")
            count += found == content
    return count


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


IMPOSSIBLE: dict[str, Callable[[], Row]] = {
    "dot": lambda: Dentry(5, 0o100000, 9).row(1, b".."),
    "slash": lambda: Dentry(5, 0o100000, 9).row(1, b"../etc/x"),
    "nul": lambda: Dentry(5, 0o100000, 9).row(1, b"a\0b"),
    "bomb": lambda: Row(Table.INODE, key_of(9), b"\x91" * 1000),
    "no inode": lambda: Row(Table.INODE, key_of(0), b"\x90"),
    "far extent": lambda: Row(Table.EXTENT, extent_key(5, 2**63), b"\x91\x05"),
    "short key": lambda: Row(Table.EXTENT, b"abc", b"\x91\x05"),
    "large xattr": lambda: Row(Table.XATTR, key_named(5, b"user.a"), encode_bytes(bytes(70_000))),
    "archive": lambda: Row(Table.ARCHIVE, key_of(7), b"\x9a" + b"\x00" * 10),
    "orphan": lambda: Row(Table.ORPHAN, key_of(7), b"\x91\x01"),
    "state": lambda: Row(Table.STATE, b"x", b"\x91\xc0"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_rows_that_cannot_be_are_counted_and_left_out(place: Path, what: str) -> None:
    site = Remains(place, pool_of("mirror"), seed=0)
    now = 10**18
    good = [
        Inode(ROOT, 0o040755, 2, 0, 0, 0, 0, 0, now, now, now, 1, 9, ROOT).row(),
        Inode(5, 0o100644, 1, 0, 0, 0, 3, 0, now, now, now).row(),
        Dentry(5, 0o100000, 8).row(ROOT, b"good"),
        Extent(0, 3, None).row(5),
    ]
    bad = IMPOSSIBLE[what]()
    forge(site, [*good, bad])
    salvaged = site.salvaged(place / "into", gone=True)
    assert salvaged.left_out == {Table(bad.table).name.lower(): 1}
    with open_reading(place / "into", live=False) as reading:
        assert reading.find(b"good") == 5


def test_directories_in_a_circle_are_survived(place: Path) -> None:
    site = Remains(place, pool_of("mirror"), seed=0)
    now = 10**18
    rows = [
        Inode(ROOT, 0o040755, 3, 0, 0, 0, 0, 0, now, now, now, 1, 9, ROOT).row(),
        Inode(5, 0o040755, 2, 0, 0, 0, 0, 0, now, now, now, 2, 10, ROOT).row(),
        Inode(6, 0o100644, 1, 0, 0, 0, 3, 3, now, now, now).row(),
        Dentry(5, 0o040000, 8).row(ROOT, b"down"),
        Dentry(ROOT, 0o040000, 8).row(5, b"up"),
        Dentry(6, 0o100000, 9).row(5, b"file"),
        Row(Table.EXTENT, extent_key(6, 0), b"\x95\x03\x09\x70\x03\x00"),
    ]
    forge(site, rows)
    salvaged = site.salvaged(place / "into", gone=True)
    with salvaged.losses() as losses:
        assert list(losses.all()) == [Loss(6, b"down/file", 1, 3)]


def forge(site: Remains, rows: list[Row]) -> None:
    """A snapshot with these rows, on an archive drive."""
    drive = site.zoned()[site.pools[0].drives[0]]
    store = SegmentStore(FILESYSTEM, [drive], 1, 0, site.clock)
    snapshot.write(store, rows, Place(1, 112, 200, 9, 7), iter((40, 41)), 200 * KIB)
    store.close()
