"""Rows that were forged, with checksums that hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.catalog.reading import open_reading
from shmr.format.rows import (
    ROOT,
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
from shmr.fsck.salvaging.losses import Loss
from shmr.log import snapshot
from shmr.log.store import SegmentStore
from shmr.testing.trial import FILESYSTEM, scratch
from shmr.units import KIB
from tests.archive.site import pool_of, small_limits
from tests.fsck.remains import Remains


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


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
