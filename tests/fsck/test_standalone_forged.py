"""`shmr-decode.py` on drives that somebody forged: it ends, with little memory, and writes nowhere
else."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from shmr.format.rows import ROOT, Row
from shmr.testing.trial import scratch
from shmr.units import MIB
from tests.fsck.forged_drive import DRIVE, POOL, ForgedDrive
from tests.fsck.standalone import FAILED, MEMORY_BYTES, MISSING, WHOLE, Said, decode


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as base:
        yield base


@pytest.fixture
def forged(place: Path) -> ForgedDrive:
    return ForgedDrive(place / "drive")


def run_forged(forged: ForgedDrive, place: Path) -> tuple[Said, Said]:
    """What a listing says, and copying everything out, with little memory."""
    listed = decode("--drives", forged.path, "--list", memory_bytes=MEMORY_BYTES)
    to = ("--to", place / "top" / "out")
    return listed, decode("--drives", forged.path, *to, memory_bytes=MEMORY_BYTES)


def test_names_lead_nowhere_else(forged: ForgedDrive, place: Path) -> None:
    (place / "top").mkdir()
    forged.inode(2, stat.S_IFDIR | 0o755)
    forged.inode(3, stat.S_IFREG | 0o644)
    forged.inode(4, stat.S_IFLNK | 0o777, target=os.fsencode(place))
    forged.name(ROOT, b"a link", 4)
    forged.name(ROOT, b"directory", 2)
    names = [b"..", b".", b"", b"../up", b"/absolute", b"a link/through", b"nul\0"]
    for name in names:
        forged.name(ROOT, name, 3)
        forged.name(2, name, 2)
    forged.name(2, b"fine", 3)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert listed.notes.count("is not a name") == 2 * len(names)
    assert set(os.listdir(place / "top" / "out")) == {"a link", "directory"}
    assert os.listdir(place / "top" / "out" / "directory") == ["fine"]
    assert set(os.listdir(place)) == {"top", "drive"}
    assert os.listdir(place / "top") == ["out"]
    assert copied_out.code in (WHOLE, MISSING)


def test_directories_that_go_in_circles_end(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFDIR | 0o755)
    forged.inode(3, stat.S_IFDIR | 0o755)
    forged.name(ROOT, b"a", 2)
    forged.name(2, b"b", 3)
    forged.name(3, b"a", 2)
    forged.name(3, b"root", ROOT)
    forged.name(ROOT, b"again", 3)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert listed.code == WHOLE and len(listed.out.splitlines()) < 12
    assert copied_out.code == MISSING and "two names" in copied_out.notes


def test_a_deep_tree_is_gone_through(forged: ForgedDrive, place: Path) -> None:
    depth = 2000
    for number in range(2, depth):
        forged.inode(number, stat.S_IFDIR | 0o500)
        forged.name(number - 1, b"d", number)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert len(listed.out.splitlines()) == depth - 1
    assert copied_out.code == WHOLE and f"{depth - 2} directories" in copied_out.out
    # Python's own way of removing trees is a recursion.
    subprocess.run(["rm", "-rf", str(place / "top")], check=True, timeout=60)


def test_paths_end_somewhere(forged: ForgedDrive, place: Path) -> None:
    for number in range(2, 90):
        forged.inode(number, stat.S_IFDIR | 0o700)
        forged.name(number - 1, b"d" * 250, number)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert "too deep" in listed.notes and "too deep" in copied_out.notes
    assert copied_out.code == MISSING


def test_nothing_that_acts_by_itself_is_made(forged: ForgedDrive, place: Path) -> None:
    kinds = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0, 0o170000)
    for number, kind in enumerate(kinds, 10):
        forged.inode(number, kind | 0o666, rdev=1 << 8 | 3)
        forged.name(ROOT, b"node%d" % number, number)
    forged.inode(20, stat.S_IFREG | 0o6755)
    forged.name(ROOT, b"suid", 20)
    forged.inode(21, stat.S_IFDIR | 0o2755)
    forged.name(ROOT, b"sgid", 21)
    for name in (b"security.capability", b"trusted.overlay.opaque", b"user.fine"):
        forged.attribute(20, name, b"\1\0\0\2" + bytes(16))
    forged.snapshot()
    _, said = run_forged(forged, place)
    out = place / "top" / "out"
    assert set(os.listdir(out)) == {"suid", "sgid"} and "6 left out" in said.out
    assert stat.S_IMODE((out / "suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "sgid").stat().st_mode) == 0o755
    assert os.listxattr(out / "suid") == ["user.fine"]


def test_numbers_beyond_all_limits_are_no_more_than_told(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFREG | 0o644, size=2**63 - 1)
    forged.inode(3, stat.S_IFREG | 0o644, size=10, uid=2**40, mtime_ns=2**64 - 1)
    forged.inode(4, stat.S_IFREG | 0o644, size=2**64 - 1)
    forged.inode(5, stat.S_IFREG | 0o644, size=4096)
    forged.inode(6, stat.S_IFREG | 0o644, size=4096)
    forged.inode(7, stat.S_IFREG | 0o644, size=2**62)
    for number in range(2, 9):
        forged.name(ROOT, b"file%d" % number, number)
    forged.extent(2, 0, 2**62)
    forged.extent(3, 0, 10)
    forged.extent(5, 0, 4096, 9, 0, 4096, 0)
    forged.extent(6, 0, 4096, 10, 0, 2**63, 2**63)
    forged.extent(7, 0, 2**62, 9, 0, 2**62, 0)
    forged.archived(9, POOL, 1, 0, 0, 4096, 2**62, 2**62, 1, 1, [[DRIVE, 1]])
    forged.archived(10, POOL, 200, 55, 1, 4096, 4096, 4096, 1, 1, [[DRIVE, 1]] * 255)
    forged.snapshot()
    listed, said = run_forged(forged, place)
    assert listed.code == said.code == MISSING
    assert set(os.listdir(place / "top" / "out")) <= {"file2", "file3"}


@pytest.mark.parametrize(
    "payload",
    [
        b"\x92\x90\xdd\xff\xff\xff\xff",
        b"\x92\x90\xdc\xff\xff" + b"\xc6\x7f\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\x90\x91\x93\x03\xc6\xff\xff\xff\xff",
        b"\x92\x90\x91\x93\x02\xc4\x00\xc0",
        b"\x92\x90\x91\x93\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x01a\xc0",
        b"\xc1",
        b"\x80",
        b"\x92\x91\x93\x01\x02\xd3\x80\x00\x00\x00\x00\x00\x00\x00\x90",
        b"",
        b"\x90" + bytes(MIB),
        b"\x92\x90\xdd\x00\x10\x00\x00" + b"\x93\x02\xa0\xc0" * 262_144,
        b"\x92\x90\xdd\x00\x07\xff\xf0" + b"\x90" * 524_272 + b"\x90",
    ],
)
def test_no_msgpack_takes_memory_or_time(forged: ForgedDrive, place: Path, payload: bytes) -> None:
    forged.snapshot(payloads=[payload])
    listed, _ = run_forged(forged, place)
    assert listed.code in (WHOLE, FAILED)
    assert "cannot be used" in listed.notes or "inode 1 is not there" in listed.notes


def test_snapshots_that_go_on_from_each_other_in_circles_end(forged: ForgedDrive) -> None:
    forged.snapshot(5)
    for number, previous in ((6, 7), (7, 6), (8, 8), (9, 5)):
        forged.snapshot(number, previous=previous)
    listed = decode("--drives", forged.path, "--list")
    assert listed.code == WHOLE and len(listed.out.splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"unit_bytes": 0},
        {"unit_bytes": 2**32 - 4096},
        {"unit_bytes": 5000},
        {"data_bytes": 2**62},
        {"data_bytes": 0},
        {"extents": 2**32 - 1, "length": 2**62},
        {"k": 255, "m": 255},
        {"k": 0},
        {"fragment": 9},
        {"used_bytes": 2**63},
        {"length": 2**64 - 1},
        {"data_bytes": 2**31, "length": 4096 + 2**31 + 4096 + 16 * 2**19 + 8192},
        {},
    ],
)
def test_lengths_of_a_fragment_are_not_believed(
    forged: ForgedDrive, place: Path, fields: dict[str, int]
) -> None:
    forged.fragment("fragment-000000000009-00-000001", **fields)
    listed, said = run_forged(forged, place)
    assert (listed.code, said.code) == (FAILED, FAILED) and not listed.out
    assert "left out: " in listed.notes
    # With a row that says so, too.
    forged.inode(2, stat.S_IFREG | 0o644, size=4096)
    forged.name(ROOT, b"file", 2)
    forged.extent(2, 0, 4096, 9, 0, 4096, 0)
    forged.archived(9, POOL, 1, 0, 0, 4096, 4096, 4096, 1, 1, [[DRIVE, 1]])
    forged.snapshot()
    _, said = run_forged(forged, place)
    assert said.code == MISSING and os.listdir(place / "top" / "out") == []


def test_a_file_of_which_a_row_is_missing_is_incomplete(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFREG | 0o644, size=8192)
    forged.name(ROOT, b"file", 2)
    forged.extent(2, 4096, 4096)
    forged.name(ROOT, b"nothing", 77)
    forged.snapshot()
    listed, said = run_forged(forged, place)
    assert "/file  [4096 bytes are missing]" in listed.out
    assert said.code == MISSING and "no row says where they are" in said.notes
    assert "inode 77 is not there" in said.notes
    assert os.listdir(place / "top" / "out") == []


NUMBERS = (0, 1, 2, 3, 9, 255, 4096, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def anything(rng: random.Random, depth: int = 0) -> object:
    """A value that msgpack can carry."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.choice((0, 1, 16, 300)))
    if kind == 1:
        return None
    if kind == 2 and depth < 3:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(5))]
    return rng.choice(NUMBERS) if kind < 5 else -rng.randrange(2**63)


def bent(rng: random.Random, row: Row) -> Row:
    """A row with another table, key, or value."""
    table, key, value = row
    fields = msgpack.unpackb(value, raw=True)
    how = rng.randrange(4)
    if how == 0:
        fields[rng.randrange(len(fields))] = anything(rng)
        value = msgpack.packb(fields)
    elif how == 1:
        value = rng.randbytes(rng.randrange(40))
    elif how == 2:
        key = rng.choice((key[:8] + rng.randbytes(rng.randrange(20)), key + b"x", b"\xff" * 8))
    else:
        table = rng.randrange(1, 9)
    return Row(table, key, value)


def random_tree(rng: random.Random, forged: ForgedDrive) -> None:
    """Some files and directories, and then some rows that are not right."""
    for number in range(2, 12):
        mode = rng.choice((stat.S_IFDIR, stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK)) | 0o755
        target = rng.choice((b"", b"/x", b"a\0b", b"x" * 4095))
        forged.inode(number, mode, rng.choice((0, 10, 4096, 8192)), target=target)
        name = rng.choice((b"a", b"b", b"..", b"n%d" % number, rng.randbytes(5)))
        forged.name(rng.choice((1, 1, 2, 3, 4)), name, rng.choice((number, number, 1, 77)))
        extents = ((4096,), (4096, 9, 0, 8192, 0), (4096, 9, 0, 8192, 4096), (10, 8, 0, 10, 0))
        forged.extent(number, rng.choice((0, 4096)), *rng.choice(extents))
    drives = [[DRIVE, 1]] * rng.choice((1, 2))
    size = rng.choice((4096, 8192))
    forged.archived(9, POOL, rng.choice((1, 2)), 0, 0, 4096, 4096, size, 1, 1, drives)
    for _ in range(rng.randrange(6)):
        index = rng.randrange(len(forged.rows))
        forged.rows[index] = bent(rng, forged.rows[index])


@pytest.mark.parametrize("seed", range(12))
def test_no_rows_make_it_fail_or_leave_its_directory(place: Path, seed: int) -> None:
    rng = random.Random(seed)
    forged = ForgedDrive(place / "drive")
    random_tree(rng, forged)
    forged.snapshot()
    forged.fragment("fragment-000000000009-00-000001")
    for said in (*run_forged(forged, place), *run_forged(forged, place)):
        assert said.code in (WHOLE, MISSING, FAILED)
    assert set(os.listdir(place)) <= {"drive", "top"}
    assert not (place / "top").exists() or os.listdir(place / "top") == ["out"]
