"""Snapshots whose copies on archive drives are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pytest

from shmr.catalog.reading import open_reading
from shmr.drive.seam import Drive
from shmr.format import frame
from shmr.format.frame import Kind
from shmr.format.rows import (
    ROOT,
)
from shmr.fsck.salvaging.sources import Source
from shmr.log import walk
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.testing.tree import differences, tree_of
from shmr.testing.trial import FILESYSTEM, scratch
from tests.archive.site import ME, pool_of, small_limits
from tests.fsck.remains import Remains, anew, much_done, put


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


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
