"""Damaged fragments under a real mount: right bytes or EIO with a line that says where, no others.

Each round damages a fragment of every segment (of the coded pool two), in some way that disks and
people have, mounts, and reads every file in small pieces.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.format.fragment import BLOCK, decode_footer, decode_header, encode_footer
from shmr.log.fragments import FragmentName, parse_name
from tests.archive_mount import POOLS, ArchiveMount

pytestmark = pytest.mark.mount

PIECE = 64 * 1024
SIZES = {"large": 5_000_000, "middle": 300_000, "small": 5}
SPARE = {"coded": 2, "twin": 1, "lone": 0}


class Damaged(ArchiveMount):
    """What was archived, as it was written."""

    contents: dict[str, bytes]
    intact: dict[Path, bytes]
    started = 0

    def prepare(self) -> None:
        self.start()
        self.contents = self.fill(5, SIZES)
        self.stop()
        self.archive_all()
        self.intact = {path: path.read_bytes() for path in self.fragments()}

    def fragments(self, pool: str | None = None) -> list[Path]:
        drives = self.all_archive if pool is None else self.archive[pool]
        return sorted(path for drive in drives for path in drive.glob("fragment-*"))

    def restore(self) -> None:
        for path in self.fragments():
            clear(path)
        for path, content in self.intact.items():
            path.write_bytes(content)

    def mount(self) -> str:
        self.started = self.log.stat().st_size
        return super().mount()

    def said(self) -> str:
        """The log since the mount."""
        return self.log.read_bytes()[self.started :].decode()

    def remembered(self) -> set[str]:
        """The drives of which damage is known, while nothing is mounted."""
        words = ("inspect", "overview", "--json", str(self.config))
        told = self.command(*words, limit_s=60.0)
        drives = [d for pool in json.loads(told.stdout)["pools"] for d in pool["drives"]]
        return {drive["path"] for drive in drives if drive["damaged_units"]}

    def failures(self, pool: str) -> int:
        """Read every file of a pool in pieces, all of them right; how many were EIO instead."""
        failed = 0
        for name, content in self.contents.items():
            if not name.startswith(pool):
                continue
            file = os.open(self.path / name, os.O_RDONLY)
            try:
                at = 0
                while at < len(content):
                    try:
                        found = os.pread(file, PIECE, at)
                    except OSError as error:
                        assert error.errno == errno.EIO
                        failed += 1
                        at += PIECE
                        continue
                    # Short where the next page cannot be had.
                    assert found and found == content[at : at + len(found)], (name, at)
                    at += len(found)
            finally:
                os.close(file)
        return failed


@pytest.fixture(scope="module")
def filesystem() -> Iterator[Damaged]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    made = Damaged(base, zone="1MiB")
    try:
        made.prepare()
        yield made
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def named(path: Path) -> FragmentName:
    name = parse_name(path.name)
    assert name is not None
    return name


# -- ways to damage a fragment -------------------------------------------------------------------

Way = Callable[[Path, bytes, Damaged, random.Random], None]


def flip(path: Path, content: bytes, at: int) -> None:
    bent = bytearray(content)
    bent[at] ^= 1 << at % 8
    path.write_bytes(bent)


def header_byte(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    flip(path, content, dice.randrange(BLOCK))


def unit_byte(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    flip(path, content, dice.randrange(BLOCK, decode_header(content[:BLOCK]).table_offset))


def table_byte(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    header = decode_header(content[:BLOCK])
    flip(path, content, dice.randrange(header.table_offset, header.footer_offset))


def footer_byte(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    header = decode_header(content[:BLOCK])
    flip(path, content, dice.randrange(header.footer_offset, header.length))


def zeros(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    at = dice.randrange(len(content) // BLOCK) * BLOCK
    path.write_bytes(content[:at] + bytes(BLOCK) + content[at + BLOCK :])


def truncated(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.write_bytes(content[: dice.randrange(len(content))])


def empty(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.write_bytes(b"")


def longer(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.write_bytes(content + dice.randbytes(dice.choice((1, BLOCK, 100_000))))


def absent(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.unlink()


def symlink(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    aside = path.with_name("aside")
    os.replace(path, aside)
    path.symlink_to(aside)


def fifo(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.unlink()
    path.mkdir()


def socket_file(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def other_index(path: Path, content: bytes, made: Damaged, dice: random.Random) -> None:
    """The content of a sibling."""
    name = named(path)
    siblings = [p for p in made.intact if named(p)[::2] == name[::2] and p != path]
    path.write_bytes(made.intact[dice.choice(siblings)] if siblings else b"")


def other_segment(path: Path, content: bytes, made: Damaged, dice: random.Random) -> None:
    """The content of the fragment of the same index, of another segment of the same drive."""
    others = [p for p in made.intact if p.parent == path.parent and p != path]
    same = [p for p in others if named(p).fragment == named(path).fragment]
    path.write_bytes(made.intact[dice.choice(same or others)])


def other_generation(path: Path, content: bytes, _: Damaged, dice: random.Random) -> None:
    """The same fragment of another time, whole in itself: what a disk put back from a copy has."""
    start = decode_header(content[:BLOCK]).footer_offset
    footer = decode_footer(content[start:])
    header = footer.header._replace(generation=footer.header.generation + 1)
    table = content[header.table_offset :][: header.table_bytes]
    sums = [footer.sums[at : at + 16] for at in range(0, len(footer.sums), 16)]
    again = encode_footer(header, table, sums)
    path.write_bytes(header.encode() + content[BLOCK:start] + again)


SEEN: list[Way] = [
    other_generation, truncated, empty, absent, symlink, fifo, directory, socket_file,
    other_index, other_segment,
]  # fmt: skip
"""What a read of the fragment's bytes cannot miss."""
WAYS: list[Way] = [
    *SEEN, header_byte, unit_byte, unit_byte, table_byte, footer_byte, zeros, longer,
]  # fmt: skip


def told(said: str, path: Path) -> bool:
    """Does the log have the place? Of each drive no more than ten lines are written in a minute."""
    lines = re.findall(rf"drive {path.parent}: segment (\d+), fragment (\d+), ", said)
    segment, fragment, _ = named(path)
    return (str(segment), str(fragment)) in lines or len(lines) >= 10


@pytest.mark.parametrize("seed", range(2))
def test_damage_of_any_kind_on_m_fragments_of_each_segment_costs_nothing(
    filesystem: Damaged, seed: int
) -> None:
    dice = random.Random(seed)
    expected: list[Path] = []
    for pool, spare in SPARE.items():
        segments = {named(path).segment for path in filesystem.fragments(pool)}
        for segment in sorted(segments):
            paths = [p for p in filesystem.fragments(pool) if named(p).segment == segment]
            for path in dice.sample(paths, spare):
                way = dice.choice(WAYS)
                way(path, filesystem.intact[path], filesystem, dice)
                if way in SEEN and named(path).fragment == 0:
                    # Of the others nobody may want a byte.
                    expected.append(path)
    try:
        assert filesystem.mount() == ""
        assert [filesystem.failures(pool) for pool in POOLS] == [0, 0, 0]
        said = filesystem.said()
        assert [path for path in expected if not told(said, path)] == []
        filesystem.stop()
        assert filesystem.remembered() >= {str(path.parent) for path in expected}
    finally:
        filesystem.stop()
        filesystem.restore()


@pytest.mark.parametrize("seed", range(2))
def test_damage_beyond_m_is_an_error_with_its_place_and_never_wrong_bytes(
    filesystem: Damaged, seed: int
) -> None:
    dice = random.Random(100 + seed)
    damaged: dict[str, list[Path]] = {}
    for pool, spare in SPARE.items():
        paths = filesystem.fragments(pool)
        segment = dice.choice(sorted({named(path).segment for path in paths}))
        of_it = [path for path in paths if named(path).segment == segment]
        # Fragment 0 holds bytes of files in any case.
        damaged[pool] = [p for p in of_it if named(p).fragment == 0]
        damaged[pool] += dice.sample([p for p in of_it if named(p).fragment], spare)
        for path in damaged[pool]:
            dice.choice(SEEN)(path, filesystem.intact[path], filesystem, dice)
    try:
        assert filesystem.mount() == ""
        assert all(filesystem.failures(pool) > 0 for pool in POOLS)
        said = filesystem.said()
        for pool in POOLS:
            place = damaged[pool][0]
            where = rf"segment {named(place).segment}, fragment 0 on drive {place.parent}, unit \d+"
            assert re.search(f"answered EIO: .*{where}", said), (pool, where)
    finally:
        filesystem.stop()
        filesystem.restore()


def test_every_single_byte_class_of_a_lone_fragment_is_right_or_an_error(
    filesystem: Damaged,
) -> None:
    """No redundancy at all: a flipped byte of a unit is EIO for that unit, and for no other."""
    dice = random.Random(7)
    paths = filesystem.fragments("lone")
    for index, path in enumerate(paths):
        way = (header_byte, unit_byte, table_byte, unit_byte, footer_byte)[index % 5]
        way(path, filesystem.intact[path], filesystem, dice)
    try:
        filesystem.mount()
        failed = filesystem.failures("lone")
        pieces = sum(-(-size // PIECE) for size in SIZES.values())
        assert 0 < failed < pieces
        assert filesystem.failures("coded") == filesystem.failures("twin") == 0
    finally:
        filesystem.stop()
        filesystem.restore()


# -- whole drives --------------------------------------------------------------------------------


def drive_absent(directory: Path, aside: Path) -> None:
    """The directory is not there."""


def drive_empty(directory: Path, aside: Path) -> None:
    """Its disk is not mounted."""
    directory.mkdir()


def drive_a_file(directory: Path, aside: Path) -> None:
    directory.write_bytes(b"")


def drive_a_fifo(directory: Path, aside: Path) -> None:
    os.mkfifo(directory)


def drive_without_superblock(directory: Path, aside: Path) -> None:
    """All fragments are there, but nothing says whose they are."""
    shutil.copytree(aside, directory, ignore=shutil.ignore_patterns("superblock-*"))


def drive_with_a_bent_superblock(directory: Path, aside: Path) -> None:
    shutil.copytree(aside, directory)
    (block,) = directory.glob("superblock-*")
    flip(block, block.read_bytes(), 70)


def drive_of_another_filesystem(directory: Path, aside: Path) -> None:
    """Its superblock is of another filesystem, its fragments have the right names."""
    drive_without_superblock(directory, aside)
    other = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    try:
        made = ArchiveMount(other)
        assert made.command("create", str(made.config), limit_s=60.0).returncode == 0
        (block,) = made.archive["coded"][0].glob("superblock-*")
        shutil.copy(block, directory)
    finally:
        shutil.rmtree(other)


Loss = Callable[[Path, Path], None]


@pytest.mark.parametrize(
    "ways",
    [
        (drive_absent, drive_empty, drive_a_file, drive_of_another_filesystem),
        (drive_without_superblock, drive_of_another_filesystem, drive_absent, drive_a_fifo),
        (drive_with_a_bent_superblock, drive_a_fifo, drive_empty, drive_without_superblock),
    ],
)
def test_a_drive_that_is_not_itself_is_told_by_name_and_files_are_right_without_it(
    filesystem: Damaged, ways: tuple[Loss, ...]
) -> None:
    dice = random.Random(ways[0].__name__)
    lost = dice.sample(filesystem.archive["coded"], 2)
    lost += [dice.choice(filesystem.archive["twin"]), *filesystem.archive["lone"]]
    aside = {directory: directory.with_name(f"aside-{directory.name}") for directory in lost}
    for way, (directory, other) in zip(ways, aside.items(), strict=True):
        os.rename(directory, other)
        way(directory, other)
    try:
        said = filesystem.mount()
        assert [str(directory) for directory in lost if str(directory) not in said] == []
        assert "2 of 6 drives of archive pool 'coded' are missing" in said
        assert "1 of 2 drives of archive pool 'twin' are missing" in said
        assert "no drive of archive pool 'lone' is there" in said
        assert filesystem.failures("coded") == filesystem.failures("twin") == 0
        pieces = sum(-(-size // PIECE) for size in SIZES.values())
        assert filesystem.failures("lone") == pieces
        assert sorted(os.listdir(filesystem.path / "lone")) == sorted(SIZES)
    finally:
        filesystem.stop()
        for directory, other in aside.items():
            if os.path.lexists(directory):
                clear(directory)
            os.rename(other, directory)
