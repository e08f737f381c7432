"""unlink(2) and rmdir(2): what disappears, what lives on while open, what is refused."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest

from tests.posix.calls import (
    OTHER,
    OWNER,
    STRANGER,
    as_user,
    let_clock_tick,
    link_followed,
    refused,
    write_file,
)


def test_an_unlinked_file_can_be_read_written_and_asked_while_open(place: Path) -> None:
    path = write_file(place / "file", b"before")
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.unlink(path)
        assert os.listdir(place) == []
        assert os.fstat(descriptor).st_nlink == 0
        assert os.read(descriptor, 100) == b"before"
        os.write(descriptor, b" and after" * 10_000)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(descriptor, 12, 0) == b"before and a"
        assert os.fstat(descriptor).st_size == 100_006
        os.ftruncate(descriptor, 3)
        os.fchmod(descriptor, 0o611)
        os.utime(descriptor, ns=(1, 2))
        os.setxattr(descriptor, "user.name", b"value")
        state = os.fstat(descriptor)
        assert (state.st_size, stat.S_IMODE(state.st_mode), state.st_mtime_ns) == (3, 0o611, 2)
        assert os.getxattr(descriptor, "user.name") == b"value"
    finally:
        os.close(descriptor)


def test_an_unlinked_file_stays_while_it_is_mapped(place: Path) -> None:
    path = write_file(place / "file", b"x" * 8192)
    with open(path, "r+b") as stream:
        memory = mmap.mmap(stream.fileno(), 8192)
    os.unlink(path)
    memory[4096:4101] = b"hello"
    memory.flush()
    assert memory[4095:4102] == b"xhellox"
    memory.close()


def test_an_unlinked_file_has_no_way_back_to_a_name(place: Path) -> None:
    path = write_file(place / "file")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.unlink(path)
        with refused(errno.ENOENT):
            link_followed(f"/proc/self/fd/{descriptor}", place / "back")
    finally:
        os.close(descriptor)


def test_a_name_is_free_at_once_while_the_old_file_is_open(place: Path) -> None:
    path = place / "file"
    held = []
    for index in range(20):
        write_file(path, b"%d" % index)
        held.append(os.open(path, os.O_RDONLY))
        os.unlink(path)
    assert [os.read(each, 10) for each in held] == [b"%d" % index for index in range(20)]
    assert len({os.fstat(each).st_ino for each in held}) == 20
    for each in held:
        os.close(each)


def test_a_removed_directory_is_empty_and_takes_nothing_while_open(place: Path) -> None:
    (place / "directory").mkdir()
    held = os.open(place / "directory", os.O_RDONLY)
    try:
        os.rmdir(place / "directory")
        assert os.fstat(held).st_nlink == 0
        assert os.listdir(held) == []
        with refused(errno.ENOENT):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=held)
        with refused(errno.ENOENT):
            os.mkdir("below", dir_fd=held)
        with refused(errno.ENOENT):
            os.symlink("target", "link", dir_fd=held)
    finally:
        os.close(held)


def test_a_removed_working_directory_is_refused_as_a_base(place: Path) -> None:
    (place / "directory").mkdir()
    before = os.getcwd()
    os.chdir(place / "directory")
    try:
        os.rmdir(place / "directory")
        with refused(errno.ENOENT):
            os.getcwd()
        with refused(errno.ENOENT):
            os.mkdir("below")
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing", errno.ENOENT),
        ("missing/file", errno.ENOENT),
        ("file/below", errno.ENOTDIR),
        ("directory", errno.EISDIR),
        ("file/", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_unlink_refuses(place: Path, path: str, number: int) -> None:
    write_file(place / "file")
    (place / "directory").mkdir()
    with refused(number):
        os.unlink(f"{place}/{path}")


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("missing", errno.ENOENT),
        ("file", errno.ENOTDIR),
        ("link", errno.ENOTDIR),
        ("file/below", errno.ENOTDIR),
        ("full", errno.ENOTEMPTY),
        ("full/.", errno.EINVAL),
        ("full/directory/..", errno.ENOTEMPTY),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_rmdir_refuses(place: Path, path: str, number: int) -> None:
    write_file(place / "file")
    (place / "full" / "directory").mkdir(parents=True)
    (place / "link").symlink_to("full")
    with refused(number):
        os.rmdir(f"{place}/{path}")


@pytest.mark.parametrize("make", ["file", "directory", "symlink", "fifo", "socket"])
def test_a_directory_with_any_entry_is_not_empty(place: Path, make: str) -> None:
    (place / "directory").mkdir()
    inside = place / "directory" / "entry"
    {
        "file": lambda: inside.touch(),
        "directory": lambda: inside.mkdir(),
        "symlink": lambda: inside.symlink_to("nowhere"),
        "fifo": lambda: os.mkfifo(inside),
        "socket": lambda: os.mknod(inside, 0o600 | stat.S_IFSOCK),
    }[make]()
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        os.rmdir(place / "directory")
    if make == "directory":
        inside.rmdir()
    else:
        inside.unlink()
    os.rmdir(place / "directory")


def test_unlinking_a_symlink_leaves_its_target(place: Path) -> None:
    write_file(place / "file", b"kept")
    (place / "link").symlink_to("file")
    os.unlink(place / "link")
    assert (place / "file").read_bytes() == b"kept"


def test_removal_stamps_the_directory_and_the_remaining_links(place: Path) -> None:
    write_file(place / "one")
    os.link(place / "one", place / "two")
    (place / "directory").mkdir()
    let_clock_tick(place, place / "one")
    directory, file = os.stat(place), os.stat(place / "one")
    os.unlink(place / "two")
    after = os.stat(place)
    assert after.st_mtime_ns > directory.st_mtime_ns
    assert after.st_ctime_ns > directory.st_ctime_ns
    assert os.stat(place / "one").st_ctime_ns > file.st_ctime_ns
    assert os.stat(place / "one").st_mtime_ns == file.st_mtime_ns
    let_clock_tick(place)
    os.rmdir(place / "directory")
    assert os.stat(place).st_mtime_ns > after.st_mtime_ns


@pytest.mark.root
def test_removal_needs_write_and_search_permission_on_the_directory(place: Path) -> None:
    for mode in (0o755, 0o776, 0o774):
        place.chmod(0o755)
        inside = write_file(place / "file", mode=0o777)
        place.chmod(mode)
        with refused(errno.EACCES):
            as_user(OWNER, inside.unlink)
    place.chmod(0o777)
    as_user(OWNER, lambda: os.unlink(place / "file"))


@pytest.mark.root
def test_in_a_sticky_directory_only_the_owners_remove(place: Path) -> None:
    sticky = place / "sticky"
    sticky.mkdir()
    os.chown(sticky, OWNER, OWNER)
    sticky.chmod(0o1777)
    for name in ("first", "second"):
        write_file(sticky / name, mode=0o666)
        (sticky / f"{name}-directory").mkdir()
        os.chown(sticky / name, OTHER, OTHER)
        os.chown(sticky / f"{name}-directory", OTHER, OTHER)
    with refused(errno.EPERM):
        as_user(STRANGER, (sticky / "first").unlink)
    with refused(errno.EPERM):
        as_user(STRANGER, (sticky / "first-directory").rmdir)
    as_user(OTHER, (sticky / "first").unlink)
    as_user(OTHER, (sticky / "first-directory").rmdir)
    as_user(OWNER, (sticky / "second").unlink)
    as_user(OWNER, (sticky / "second-directory").rmdir)


def test_a_deep_tree_is_made_and_removed(place: Path) -> None:
    held = os.open(place, os.O_RDONLY)
    for index in range(300):
        os.mkdir("d" * 50 + str(index), dir_fd=held)
        below = os.open("d" * 50 + str(index), os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=held))
    assert os.listdir(held) == ["file"]
    os.close(held)
