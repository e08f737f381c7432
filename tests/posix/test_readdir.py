"""Reading directories: everything once, also while others create and delete; positions."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix.calls import getdents

MANY = 10_000


@pytest.fixture(scope="module")
def crowd(top: Path) -> Iterator[Path]:
    """A directory with MANY files, made once for this module; tests leave their names alone."""
    directory = top / f"crowd-{os.getpid()}"
    directory.mkdir()
    for index in range(MANY):
        os.close(os.open(directory / f"{index:05d}", os.O_CREAT | os.O_WRONLY))
    yield directory
    for name in os.listdir(directory):
        os.unlink(directory / name)
    directory.rmdir()


def names_from(descriptor: int, size: int = 4096) -> Iterator[bytes]:
    """All further names of an open directory but "." and ".."."""
    while entries := getdents(descriptor, size):
        yield from (entry.name for entry in entries if entry.name not in (b".", b".."))


def test_an_empty_directory_has_itself_and_its_parent(place: Path) -> None:
    (place / "empty").mkdir()
    descriptor = os.open(place / "empty", os.O_RDONLY)
    try:
        entries = getdents(descriptor)
        assert {entry.name: entry.inode for entry in entries} == {
            b".": os.stat(place / "empty").st_ino,
            b"..": os.stat(place).st_ino,
        }
        assert getdents(descriptor) == []
    finally:
        os.close(descriptor)


def test_entries_tell_inode_and_type(place: Path) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "symlink").symlink_to("nowhere")
    os.mkfifo(place / "fifo")
    os.mknod(place / "socket", 0o600 | stat.S_IFSOCK)
    descriptor = os.open(place, os.O_RDONLY)
    found = {entry.name: entry for entry in getdents(descriptor)}
    os.close(descriptor)
    for name in ("file", "directory", "symlink", "fifo", "socket"):
        state = os.lstat(place / name)
        entry = found[name.encode()]
        assert (entry.inode, entry.kind) == (state.st_ino, stat.S_IFMT(state.st_mode) >> 12)


@pytest.mark.parametrize("size", [300, 4096, 65_536])
def test_ten_thousand_entries_come_once_each(crowd: Path, size: int) -> None:
    descriptor = os.open(crowd, os.O_RDONLY)
    found = list(names_from(descriptor, size))
    os.close(descriptor)
    assert len(found) == MANY
    assert set(found) == {b"%05d" % index for index in range(MANY)}


def test_every_position_can_be_sought_again(crowd: Path) -> None:
    descriptor = os.open(crowd, os.O_RDONLY)
    entries = []
    while chunk := getdents(descriptor):
        entries += chunk
    for at in [*range(5), MANY // 3, MANY // 2, MANY - 2, MANY]:
        os.lseek(descriptor, entries[at].offset, os.SEEK_SET)
        following = getdents(descriptor, 300)
        assert following[0].name == entries[at + 1].name
    os.lseek(descriptor, entries[-1].offset, os.SEEK_SET)
    assert getdents(descriptor) == []
    os.close(descriptor)


def test_a_position_outlives_the_removal_of_what_lies_there(place: Path) -> None:
    for index in range(300):
        (place / f"{index:03d}").touch()
    descriptor = os.open(place, os.O_RDONLY)
    entries = []
    while chunk := getdents(descriptor):
        entries += chunk
    kept = entries[150]
    for entry in entries[100:200]:
        if entry.name not in (b".", b".."):
            os.unlink(os.fsencode(place) + b"/" + entry.name)
    os.lseek(descriptor, kept.offset, os.SEEK_SET)
    rest = list(names_from(descriptor))
    assert rest == [entry.name for entry in entries[200:] if entry.name not in (b".", b"..")]
    os.close(descriptor)


def test_rewinding_shows_the_present(place: Path) -> None:
    (place / "old").touch()
    (place / "kept").touch()
    descriptor = os.open(place, os.O_RDONLY)
    assert set(names_from(descriptor)) == {b"old", b"kept"}
    (place / "old").unlink()
    (place / "new").touch()
    os.lseek(descriptor, 0, os.SEEK_SET)
    assert set(names_from(descriptor)) == {b"new", b"kept"}
    os.close(descriptor)


@pytest.mark.parametrize("size", [300, 4096])
def test_removing_what_was_read_empties_the_directory_in_one_pass(place: Path, size: int) -> None:
    for index in range(1500):
        (place / f"{index:04d}").touch()
    descriptor = os.open(place, os.O_RDONLY)
    for name in names_from(descriptor, size):
        os.unlink(os.fsencode(place) + b"/" + name)
    os.close(descriptor)
    assert os.listdir(place) == []


def test_nothing_is_lost_or_repeated_while_others_create_and_delete(place: Path) -> None:
    stable = {b"stable%04d" % index for index in range(1500)}
    for name in sorted(stable):
        (place / name.decode()).touch()
    child = os.fork()
    if child == 0:
        index = 0
        while True:
            passing = place / f"passing{index % 97}-{'x' * (index % 60)}"
            passing.touch()
            os.rename(passing, f"{passing}-renamed")
            os.unlink(f"{passing}-renamed")
            index += 1
    try:
        for _ in range(8):
            descriptor = os.open(place, os.O_RDONLY)
            found = [name for name in names_from(descriptor, 512) if name.startswith(b"stable")]
            os.close(descriptor)
            assert len(found) == len(stable)
            assert set(found) == stable
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_name_that_is_replaced_while_reading_is_never_missed(place: Path) -> None:
    for index in range(400):
        (place / f"{index:03d}").touch()
    (place / "side").mkdir()
    descriptor = os.open(place, os.O_RDONLY)
    reader = names_from(descriptor, 300)
    found = [next(reader)]
    for index in range(400):
        (place / "side" / "new").touch()
        os.rename(place / "side" / "new", place / f"{index:03d}")
    found += reader
    os.close(descriptor)
    assert set(found) == {b"side", *(b"%03d" % index for index in range(400))}


def test_a_listing_after_a_change_shows_it(place: Path) -> None:
    for index in range(50):
        (place / f"entry{index}").touch()
        assert len(os.listdir(place)) == index + 1
    for index in range(50):
        (place / f"entry{index}").unlink()
        assert len(os.listdir(place)) == 49 - index


def test_walk_finds_what_was_made(place: Path) -> None:
    wanted = set()
    for first in range(8):
        for second in range(8):
            directory = place / str(first) / str(second)
            directory.mkdir(parents=True)
            (directory / "file").touch()
            wanted.add(str(directory / "file"))
    found = {os.path.join(root, name) for root, _, names in os.walk(place) for name in names}
    assert found == wanted
