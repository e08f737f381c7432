"""Looking at the last checkpoint: all of it, nothing after it, and never a damaged row."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from shmr.catalog.catalog import Catalog
from shmr.catalog.reading import open_reading
from shmr.errors import IntegrityError, SetupError
from shmr.format.archived import Archived, Placed
from shmr.format.rows import ROOT, Address, Dentry, Extent, Inode, Place, Table

FILESYSTEM = b"f" * 16
PLACE = Place(3, 100, 200, 7, 99)
DIRECTORY = stat.S_IFDIR | 0o755
FILE = stat.S_IFREG | 0o644
ARCHIVED = Archived(
    b"p" * 16,
    2,
    1,
    1,
    4096,
    8192,
    16384,
    1,
    5,
    tuple(Placed(bytes([i]) * 16, 1) for i in (1, 2, 3)),
)


def inode(number: int, mode: int = FILE) -> Inode:
    return Inode(number, mode, 1, 0, 0, 0, 0, 0, 1, 2, 3)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A directory `a` with a file `b` of three extents in two segments, and a checkpoint."""
    made = Catalog(tmp_path / "catalog")
    made.apply(
        [
            inode(ROOT, DIRECTORY).row(),
            inode(2, DIRECTORY).row(),
            inode(3).row(),
            Dentry(2, stat.S_IFDIR, 3).row(ROOT, b"a"),
            Dentry(3, stat.S_IFREG, 3).row(2, b"b"),
            Extent(0, 100, Address(5, 64, 4096, 0)).row(3),
            Extent(100, 50, None).row(3),
            Extent(150, 70, Address(6, 0, 16384, 9000)).row(3),
            ARCHIVED.row(6),
        ]
    )
    made.checkpoint(FILESYSTEM, PLACE, 7)
    return made


def test_everything_of_the_checkpoint_is_there(catalog: Catalog) -> None:
    catalog.close()
    with open_reading(catalog.path) as reading:
        assert reading.place() == PLACE
        assert reading.filesystem() == FILESYSTEM
        assert [found.number for found in reading.inodes()] == [1, 2, 3]
        assert reading.inode(3) == inode(3)
        assert reading.inode(4) is None
        extents = list(reading.extents(3))
        assert [(e.offset, e.length) for e in extents] == [(0, 100), (100, 50), (150, 70)]
        assert list(reading.all_extents()) == [(3, extent) for extent in extents]
        assert list(reading.extents(2)) == []
        assert reading.archived(6) == ARCHIVED
        assert reading.archived(5) is None
        assert list(reading.archived_segments()) == [(6, ARCHIVED)]
        assert reading.live() == {5: 100, 6: 70}
        assert reading.state(b"nothing", 4) == 4


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"", 1),
        (b"/", 1),
        (b"/a", 2),
        (b"a/b", 3),
        (b"//a/./b", 3),
        (b"/b", None),
        (b"a/b/c", None),
    ],
)
def test_a_path_leads_to_an_inode(catalog: Catalog, path: bytes, number: int | None) -> None:
    catalog.close()
    with open_reading(catalog.path) as reading:
        assert reading.find(path) == number


def test_what_comes_after_the_checkpoint_is_not_seen(catalog: Catalog) -> None:
    """By another process, while this one goes on writing."""
    catalog.apply([inode(4).row()])
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from shmr.catalog.reading import open_reading\n"
        "with open_reading(Path(sys.argv[1])) as reading:\n"
        "    print([inode.number for inode in reading.inodes()])\n"
    )
    command = [sys.executable, "-c", code, str(catalog.path)]

    def seen() -> str:
        root = Path(__file__).parents[2]
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    assert seen() == "[1, 2, 3]\n"
    catalog.checkpoint(FILESYSTEM, PLACE, 7)
    assert seen() == "[1, 2, 3, 4]\n"
    catalog.close()


def test_a_damaged_row_is_an_error(catalog: Catalog) -> None:
    catalog.close()
    file = catalog.path / "data.mdb"
    content = bytearray(file.read_bytes())
    stored = ARCHIVED.encode()
    at = content.index(stored)
    while at >= 0:
        content[at + 20] ^= 1
        at = content.find(stored, at + 1)
    file.write_bytes(content)
    with open_reading(catalog.path) as reading, pytest.raises(IntegrityError, match="ARCHIVE"):
        reading.archived(6)


@pytest.mark.parametrize("size_bytes", [0, 4096, 8192, 20480, 20481])
def test_a_file_that_was_cut_is_an_error_and_no_signal(catalog: Catalog, size_bytes: int) -> None:
    catalog.close()
    os.truncate(catalog.path / "data.mdb", size_bytes)
    with pytest.raises(IntegrityError, match="it was cut"), open_reading(catalog.path):
        pass


def test_no_catalog_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="there is none at"), open_reading(tmp_path / "catalog"):
        pass
    assert not (tmp_path / "catalog").exists()


def test_something_else_than_a_catalog_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(IntegrityError, match="cannot be read"), open_reading(tmp_path):
        pass


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=20, lib_version=0) as environment:
        environment.open_db(Table.INODE.name.lower().encode())
    with open_reading(tmp_path) as reading:
        assert list(reading.inodes()) == list(reading.archived_segments()) == []
        assert reading.archived(1) is None
        with pytest.raises(IntegrityError, match="no checkpoint was ever made"):
            reading.place()
