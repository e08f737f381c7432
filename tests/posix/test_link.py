"""link(2): one inode under several names, counted exactly."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.calls import OWNER, as_user, let_clock_tick, link_followed, refused, write_file


def test_every_name_is_counted_and_shows_the_same_file(place: Path) -> None:
    path = write_file(place / "0", b"content")
    (place / "directory").mkdir()
    for index in range(1, 100):
        parent = place / "directory" if index % 2 else place
        os.link(path, parent / str(index))
        assert os.stat(path).st_nlink == index + 1
    (place / "directory" / "1").write_bytes(b"changed")
    assert (place / "98").read_bytes() == b"changed"
    assert os.stat(place / "98").st_ino == os.stat(place / "directory" / "99").st_ino
    for index in range(1, 100):
        os.unlink((place / "directory" if index % 2 else place) / str(index))
        assert os.stat(path).st_nlink == 100 - index


def test_a_file_outlives_its_first_name(place: Path) -> None:
    write_file(place / "one", b"content")
    os.link(place / "one", place / "two")
    os.unlink(place / "one")
    assert (place / "two").read_bytes() == b"content"
    assert os.stat(place / "two").st_nlink == 1


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFSOCK])
def test_special_files_can_be_linked(place: Path, kind: int) -> None:
    os.mknod(place / "one", kind | 0o600)
    os.link(place / "one", place / "two")
    assert os.lstat(place / "two").st_nlink == 2


def test_a_symlink_is_linked_itself_unless_it_is_to_be_followed(place: Path) -> None:
    write_file(place / "file")
    (place / "symlink").symlink_to("file")
    os.link(place / "symlink", place / "itself", follow_symlinks=False)
    assert stat.S_ISLNK(os.lstat(place / "itself").st_mode)
    assert os.lstat(place / "symlink").st_nlink == 2
    link_followed(place / "symlink", place / "followed")
    assert os.stat(place / "file").st_nlink == 2


@pytest.mark.parametrize(
    ("source", "target", "number"),
    [
        ("missing", "new", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("file", "file/new", errno.ENOTDIR),
        ("file/below", "new", errno.ENOTDIR),
        ("file", "other", errno.EEXIST),
        ("file", "file", errno.EEXIST),
        ("file", "directory", errno.EEXIST),
        ("file", "dangling", errno.EEXIST),
        ("directory", "new", errno.EPERM),
        ("file", "x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_link_refuses(place: Path, source: str, target: str, number: int) -> None:
    write_file(place / "file")
    write_file(place / "other")
    (place / "directory").mkdir()
    (place / "dangling").symlink_to("nowhere")
    with refused(number):
        os.link(place / source, place / target)
    assert os.stat(place / "file").st_nlink == 1


def test_a_link_stamps_the_file_and_the_directory(place: Path) -> None:
    path = write_file(place / "file")
    let_clock_tick(path, place)
    file, directory = os.stat(path), os.stat(place)
    os.link(path, place / "link")
    assert os.stat(path).st_ctime_ns > file.st_ctime_ns
    assert os.stat(path).st_mtime_ns == file.st_mtime_ns
    assert os.stat(place).st_mtime_ns > directory.st_mtime_ns
    assert os.stat(place).st_ctime_ns > directory.st_ctime_ns


@pytest.mark.root
def test_a_link_needs_write_permission_on_the_directory(place: Path) -> None:
    path = write_file(place / "file")
    os.chown(path, OWNER, OWNER)
    with refused(errno.EACCES):
        as_user(OWNER, lambda: os.link(path, place / "new"))
