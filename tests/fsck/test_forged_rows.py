"""Whatever rows say, and whatever bits of drives are bent: a report, and nothing written elsewhere.

Rows are generated, written as a snapshot with right checksums, and decoded in this process; and the
drives of a small filesystem are bent at random places. What a process may take of memory is
`test_hostile`'s business.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmr.errors import IntegrityError, SetupError
from shmr.format.fragment import Code
from shmr.format.records import encode_meta
from shmr.format.rows import ROOT, Row, Table, key_named, key_of, key_pair
from shmr.fsck.decoding.decode import decode, listing
from tests.fsck.forged import POOL, Forged, drive_id
from tests.fsck.rescued import Rescued, tree_at, unprivileged

small = st.sampled_from((0, 1, 1, 2, 3, 4, 5))
number = small | st.sampled_from((2**31, 2**63 - 1, 2**63, 2**64 - 1)) | st.integers(0, 2**64 - 1)
length = st.sampled_from((0, 1, 5, 100, 4096, 2**20, 2**62)) | number
kind = st.sampled_from(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, 0, 0xF000)
)
mode = st.builds(lambda k, bits: k | bits, kind, st.integers(0, 0o7777))
time = st.sampled_from((0, 1, -(2**63), 2**64 - 1)) | st.integers(-(2**63), 2**64 - 1)
name = st.sampled_from(
    (b"a", b"b", b"c", b"..", b".", b"/etc", b"a/b", b"\0", b"a.shmr-incomplete", b"lost+found",
     b"inode-2", b"x" * 255, b"\xff", b"\x1b[2J")
) | st.binary(max_size=20)  # fmt: skip
target = st.sampled_from((b"", b"..", b"/etc/passwd", b"a", b"\0", b"x" * 4096)) | st.binary(
    max_size=9
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | number | st.binary(max_size=9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=9,
)
inode = st.tuples(
    mode, number, number, number, number, length, length, time, time, time, number, number, number,
    target,
)  # fmt: skip
directory = st.builds(
    lambda bits: (stat.S_IFDIR | bits, 2, 0, 0, 0, 0, 0, 1, 1, 1, 0, 8, 1, b""),
    st.integers(0, 0o7777),
)
drive = st.sampled_from([drive_id(at) for at in range(4)])
archived = st.tuples(
    st.just(POOL), small, small, st.sampled_from([int(code) for code in Code]),
    st.sampled_from((4096, 8192, 2**21)), st.sampled_from((4096, 2**20, 2**32)), length, length,
    number, st.lists(st.tuples(drive, small), max_size=4),
)  # fmt: skip


def row(table: Table, key: st.SearchStrategy[bytes], value: st.SearchStrategy[Any]) -> Any:
    packed = st.one_of(value, value, value, anything).map(msgpack.packb)
    return st.builds(Row, st.just(int(table)), key, packed | st.binary(max_size=12))


rows = st.lists(
    st.one_of(
        row(Table.INODE, number.map(key_of), st.one_of(inode, directory)),
        row(Table.INODE, small.map(key_of), st.one_of(inode, directory)),
        row(Table.DENTRY, st.builds(key_named, small, name), st.tuples(small, kind, number)),
        row(Table.DENTRY, st.builds(key_named, number, name), st.tuples(number, kind, number)),
        row(
            Table.EXTENT,
            st.builds(key_pair, small, length.filter(lambda n: n < 2**64)),
            st.one_of(st.tuples(length), st.tuples(length, small, length, length, length)),
        ),
        row(Table.XATTR, st.builds(key_named, small, name), st.tuples(st.binary(max_size=50))),
        row(Table.ARCHIVE, small.map(key_of), archived),
        row(Table.ORPHAN, small.map(key_of), st.just(())),
        row(Table.REAP, small.map(key_of), st.tuples(length, length)),
        row(Table.STATE, st.binary(min_size=1, max_size=9), st.tuples(number)),
    ).filter(lambda one: 0 < len(one.key) <= 263),
    max_size=40,
)
ROOT_ROW = Row(
    Table.INODE,
    key_of(ROOT),
    msgpack.packb((stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 1, 1, 1, 0, 8, 1, b"")),
)


def attempt(base: Path, drives: Sequence[str], *, special: bool) -> None:
    """List and decode: it ends with a report or with a sentence, and writes nothing elsewhere."""
    out = base / "out"
    around = set(os.listdir(base))
    try:
        listed = listing(drives, lambda one: None)
        assert listed.report.exit_code in (0, 4)
    except (SetupError, IntegrityError) as refused:
        assert str(refused)
    try:
        done = decode(drives, str(out), special=special)
        assert done.report.exit_code in (0, 4)
        for finding in done.report.findings:
            assert finding.message.isprintable(), finding
    except (SetupError, IntegrityError) as refused:
        assert str(refused)
    assert set(os.listdir(base)) <= around | {"out"}
    assert not [one for one in os.listdir(out) if one.startswith(".shmr-decode")]
    _assert_harmless(out, special=special)


def _assert_harmless(out: Path, *, special: bool) -> None:
    for place, directories, files in os.walk(out):
        for one in (*directories, *files):
            facts = os.lstat(os.path.join(place, one))
            if not special and not stat.S_ISLNK(facts.st_mode):
                assert stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)
                assert not facts.st_mode & 0o6000
    taken = sum(os.lstat(os.path.join(p, f)).st_blocks for p, _, fs in os.walk(out) for f in fs)
    assert taken * 512 < 64 << 20


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=rows, special=st.booleans(), journal=st.booleans())
def test_rows_may_say_anything(rows: list[Row], special: bool, journal: bool) -> None:
    base = Path(tempfile.mkdtemp(prefix="shmr-forged-"))
    try:
        forged = Forged(base / "drive")
        if journal:
            forged.journal([encode_meta((), [ROOT_ROW, *rows])])
        else:
            forged.snapshot([ROOT_ROW, *rows])
        attempt(base, [str(forged.path)], special=special)
    finally:
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory) -> Rescued:
    made = Rescued(tmp_path_factory.mktemp("drives"), "2+1")
    made.fill(later=True)
    return made


@pytest.mark.root
@pytest.mark.parametrize("seed", range(25))
def test_bent_drives_give_right_bytes_or_none(rescued: Rescued, tmp_path: Path, seed: int) -> None:
    """Bits flipped, blocks overwritten, files cut, swapped and renamed: on all drives at once."""
    rng = random.Random(seed)
    drives = []
    for path in (rescued.work, *rescued.cold):
        copy = tmp_path / Path(path).name
        shutil.copytree(path, copy)
        drives.append(str(copy))
        for _ in range(rng.randrange(3)):
            bend(copy, rng)
    if rng.random() < 0.4:
        drives.remove(rng.choice(drives))
    attempt(tmp_path, drives, special=False)
    expected = unprivileged(rescued.tree)
    for path, shown in tree_at(tmp_path / "out").items():
        if path.startswith(b"/lost+found") or path.endswith(b".shmr-incomplete"):
            continue
        # Checksums hold for what is written under its name: it is what it was, links aside.
        assert (*shown[:2], *shown[3:]) == (*expected[path][:2], *expected[path][3:]), path


def bend(drive: Path, rng: random.Random) -> None:
    """One change of a drive's files, as rot or a careless hand makes it."""
    files = [path for path in sorted(drive.iterdir()) if path.is_file() and path.stat().st_size]
    chosen = rng.choice(files)
    content = bytearray(chosen.read_bytes())
    used = len(bytes(content).rstrip(b"\0")) or 1
    at = rng.randrange(used)
    how = rng.randrange(6)
    if how == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        content[at : at + 512] = rng.randbytes(min(512, len(content) - at))
    elif how == 2:
        del content[at:]
    elif how == 3:
        other = rng.choice(files).read_bytes()
        content[at : at + 4096] = other[at : at + 4096]
    elif how == 4:
        chosen.unlink()
        return
    else:
        chosen.rename(drive / rng.choice(files).name)
        return
    chosen.write_bytes(bytes(content))
