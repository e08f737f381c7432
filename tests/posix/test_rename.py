"""rename(2) and renameat2(2): what moves, what is replaced, what is refused."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.calls import (
    EXCHANGE,
    NOREPLACE,
    OTHER,
    OWNER,
    STRANGER,
    as_user,
    let_clock_tick,
    refused,
    rename2,
    write_file,
)

Maker = Callable[[Path], None]


def _file(path: Path) -> None:
    write_file(path, b"content of " + os.fsencode(path.name))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _symlink(path: Path) -> None:
    path.symlink_to("dangling")


def _socket(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFSOCK)


NOT_DIRECTORIES: list[Maker] = [_file, _fifo, _symlink, _socket]


@pytest.mark.parametrize("make", [*NOT_DIRECTORIES, Path.mkdir])
def test_anything_moves_to_a_free_name_and_stays_itself(place: Path, make: Maker) -> None:
    (place / "target").mkdir()
    make(place / "one")
    before = os.lstat(place / "one")
    os.rename(place / "one", place / "two")
    os.rename(place / "two", place / "target" / "three")
    after = os.lstat(place / "target" / "three")
    assert (after.st_ino, after.st_mode, after.st_nlink) == (
        before.st_ino,
        before.st_mode,
        before.st_nlink,
    )
    assert sorted(os.listdir(place)) == ["target"]


@pytest.mark.parametrize("old", NOT_DIRECTORIES)
@pytest.mark.parametrize("new", NOT_DIRECTORIES)
def test_a_non_directory_replaces_any_other(place: Path, old: Maker, new: Maker) -> None:
    old(place / "old")
    new(place / "new")
    wanted = os.lstat(place / "old").st_ino
    os.rename(place / "old", place / "new")
    assert os.listdir(place) == ["new"]
    assert os.lstat(place / "new").st_ino == wanted


def test_a_directory_replaces_an_empty_one_only(place: Path) -> None:
    (place / "old").mkdir()
    _file(place / "old" / "kept")
    (place / "empty").mkdir()
    (place / "full").mkdir()
    _file(place / "full" / "file")
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(place / "old", place / "full")
    os.rename(place / "old", place / "empty")
    assert os.listdir(place / "empty") == ["kept"]
    assert sorted(os.listdir(place)) == ["empty", "full"]
    assert os.stat(place).st_nlink == 4


@pytest.mark.parametrize("make", NOT_DIRECTORIES)
def test_directories_and_others_do_not_replace_each_other(place: Path, make: Maker) -> None:
    make(place / "other")
    (place / "directory").mkdir()
    with refused(errno.EISDIR):
        os.rename(place / "other", place / "directory")
    with refused(errno.ENOTDIR):
        os.rename(place / "directory", place / "other")


def test_a_directory_cannot_move_into_itself(place: Path) -> None:
    (place / "a" / "b" / "c").mkdir(parents=True)
    for target in ("a/new", "a/b/new", "a/b/c/new", "a/b/c"):
        with refused(errno.EINVAL):
            os.rename(place / "a", place / target)
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rename(place / "a" / "b" / "c", place / "a")


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("missing", "new", errno.ENOENT),
        ("file", "missing/new", errno.ENOENT),
        ("missing/file", "new", errno.ENOENT),
        ("file/below", "new", errno.ENOTDIR),
        ("file", "file/below", errno.ENOTDIR),
        ("directory/.", "new", errno.EBUSY),
        ("directory/..", "new", errno.EBUSY),
        ("directory", "directory/.", errno.EBUSY),
        ("file", "directory/..", errno.EBUSY),
        ("file/", "new", errno.ENOTDIR),
        ("file", "new/", errno.ENOTDIR),
        ("file", "x" * 256, errno.ENAMETOOLONG),
        ("x" * 256, "new", errno.ENAMETOOLONG),
        ("file", "", errno.ENOENT),
    ],
)
def test_rename_refuses(place: Path, old: str, new: str, number: int) -> None:
    _file(place / "file")
    (place / "directory").mkdir()
    with refused(number):
        os.rename(f"{place}/{old}", f"{place}/{new}" if new else "")
    assert sorted(os.listdir(place)) == ["directory", "file"]


@pytest.mark.root
def test_rename_to_another_filesystem_and_over_a_mount_point_is_refused(place: Path) -> None:
    _file(place / "file")
    (place / "point").mkdir()
    (place / "directory").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "point")], check=True)
    try:
        with refused(errno.EXDEV):
            os.rename(place / "file", place / "point" / "file")
        with refused(errno.EXDEV):
            os.link(place / "file", place / "point" / "file")
        with refused(errno.EBUSY):
            os.rename(place / "point", place / "elsewhere")
        with refused(errno.EBUSY):
            os.rename(place / "directory", place / "point")
        with refused(errno.EBUSY):
            os.rmdir(place / "point")
    finally:
        subprocess.run(["umount", str(place / "point")], check=True)


def test_renaming_one_link_over_another_of_the_same_file_does_nothing(place: Path) -> None:
    _file(place / "one")
    os.link(place / "one", place / "two")
    os.rename(place / "one", place / "two")
    os.rename(place / "one", place / "one")
    assert sorted(os.listdir(place)) == ["one", "two"]
    assert os.stat(place / "one").st_nlink == 2


def test_the_replaced_file_loses_a_link_and_lives_on_while_open(place: Path) -> None:
    _file(place / "new")
    _file(place / "old")
    os.link(place / "new", place / "second")
    with open(place / "new", "rb") as held:
        os.rename(place / "old", place / "new")
        assert os.fstat(held.fileno()).st_nlink == 1
        os.unlink(place / "second")
        assert os.fstat(held.fileno()).st_nlink == 0
        assert held.read() == b"content of new"
    assert (place / "new").read_bytes() == b"content of old"


def test_a_replaced_directory_stays_usable_while_open(place: Path) -> None:
    (place / "old").mkdir()
    (place / "new").mkdir()
    held = os.open(place / "new", os.O_RDONLY)
    try:
        os.rename(place / "old", place / "new")
        assert os.fstat(held).st_nlink == 0
        assert os.listdir(held) == []
        with refused(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=held)
    finally:
        os.close(held)


def test_a_moved_directory_has_its_new_parent(place: Path) -> None:
    (place / "from" / "moved").mkdir(parents=True)
    (place / "to").mkdir()
    os.rename(place / "from" / "moved", place / "to" / "moved")
    assert os.stat(place / "to" / "moved" / "..").st_ino == os.stat(place / "to").st_ino
    assert os.stat(place / "from").st_nlink == 2
    assert os.stat(place / "to").st_nlink == 3


def test_rename_stamps_both_directories_and_the_moved_inode(place: Path) -> None:
    (place / "from").mkdir()
    (place / "to").mkdir()
    _file(place / "from" / "file")
    let_clock_tick(place / "from", place / "to", place / "from" / "file")
    marks = [os.stat(place / name) for name in ("from", "to", "from/file")]
    os.rename(place / "from" / "file", place / "to" / "file")
    source, target, moved = (os.stat(place / name) for name in ("from", "to", "to/file"))
    assert source.st_mtime_ns > marks[0].st_mtime_ns
    assert target.st_mtime_ns > marks[1].st_mtime_ns
    assert source.st_ctime_ns > marks[0].st_ctime_ns
    assert target.st_ctime_ns > marks[1].st_ctime_ns
    assert moved.st_ctime_ns > marks[2].st_ctime_ns
    assert moved.st_mtime_ns == marks[2].st_mtime_ns


@pytest.mark.parametrize("make", [*NOT_DIRECTORIES, Path.mkdir])
def test_noreplace_moves_to_a_free_name_only(place: Path, make: Maker) -> None:
    _file(place / "file")
    make(place / "taken")
    with refused(errno.EEXIST):
        rename2(place / "file", place / "taken", NOREPLACE)
    with refused(errno.EEXIST):
        rename2(place / "file", place / "file", NOREPLACE)
    rename2(place / "file", place / "free", NOREPLACE)
    assert sorted(os.listdir(place)) == ["free", "taken"]


@pytest.mark.parametrize("one", [*NOT_DIRECTORIES, Path.mkdir])
@pytest.mark.parametrize("two", [*NOT_DIRECTORIES, Path.mkdir])
def test_exchange_swaps_any_two(place: Path, one: Maker, two: Maker) -> None:
    (place / "left").mkdir()
    (place / "right").mkdir()
    one(place / "left" / "a")
    two(place / "right" / "b")
    numbers = os.lstat(place / "left" / "a").st_ino, os.lstat(place / "right" / "b").st_ino
    rename2(place / "left" / "a", place / "right" / "b", EXCHANGE)
    assert os.lstat(place / "right" / "b").st_ino == numbers[0]
    assert os.lstat(place / "left" / "a").st_ino == numbers[1]
    assert os.stat(place / "left").st_nlink == (3 if two is Path.mkdir else 2)
    assert os.stat(place / "right").st_nlink == (3 if one is Path.mkdir else 2)


def test_exchange_takes_full_directories_and_their_parents_follow(place: Path) -> None:
    for side in ("left", "right"):
        (place / side / "directory").mkdir(parents=True)
        _file(place / side / "directory" / side)
    rename2(place / "left" / "directory", place / "right" / "directory", EXCHANGE)
    for side, other in (("left", "right"), ("right", "left")):
        assert os.listdir(place / side / "directory") == [other]
        parent = os.stat(place / side / "directory" / "..")
        assert parent.st_ino == os.stat(place / side).st_ino


def test_exchange_refuses(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    with refused(errno.ENOENT):
        rename2(place / "a", place / "missing", EXCHANGE)
    with refused(errno.ENOENT):
        rename2(place / "missing", place / "a", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(place / "a", place / "a" / "b", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(place / "a" / "b", place / "a", EXCHANGE)


@pytest.mark.parametrize("flags", [NOREPLACE | EXCHANGE, 8, 1 << 31])
def test_unknown_flags_are_invalid(place: Path, flags: int) -> None:
    _file(place / "file")
    with refused(errno.EINVAL):
        rename2(place / "file", place / "new", flags)


@pytest.mark.root
def test_rename_needs_write_permission_on_both_directories(place: Path) -> None:
    for name, mode in (("open", 0o777), ("closed", 0o755)):
        (place / name).mkdir()
        (place / name).chmod(mode)
        _file(place / name / name)
    with refused(errno.EACCES):
        as_user(OWNER, lambda: os.rename(place / "open" / "open", place / "closed" / "new"))
    with refused(errno.EACCES):
        as_user(OWNER, lambda: os.rename(place / "closed" / "closed", place / "open" / "new"))
    as_user(OWNER, lambda: os.rename(place / "open" / "open", place / "open" / "new"))


@pytest.mark.root
def test_moving_a_directory_elsewhere_needs_write_permission_on_it(place: Path) -> None:
    place.chmod(0o777)
    (place / "to").mkdir()
    (place / "to").chmod(0o777)
    (place / "foreign").mkdir()
    with refused(errno.EACCES):
        as_user(OWNER, lambda: os.rename(place / "foreign", place / "to" / "foreign"))
    as_user(OWNER, lambda: os.rename(place / "foreign", place / "renamed"))


@pytest.mark.root
def test_in_a_sticky_directory_only_the_owners_rename_or_replace(place: Path) -> None:
    sticky = place / "sticky"
    sticky.mkdir()
    os.chown(sticky, OWNER, OWNER)
    sticky.chmod(0o1777)
    for name in ("victim", "second"):
        _file(sticky / name)
        os.chown(sticky / name, OTHER, OTHER)
    as_user(STRANGER, (sticky / "mine").touch)
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: os.rename(sticky / "victim", sticky / "stolen"))
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: os.rename(sticky / "mine", sticky / "victim"))
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: rename2(sticky / "mine", sticky / "victim", EXCHANGE))
    as_user(OTHER, lambda: os.rename(sticky / "victim", sticky / "moved"))  # owns the file
    as_user(OWNER, lambda: os.rename(sticky / "second", sticky / "again"))  # owns the directory
