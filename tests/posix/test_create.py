"""open(2), creat, mkdir, symlink: what appears, with which mode and owner, and what is refused."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.calls import OWNER, as_user, let_clock_tick, link_followed, refused, write_file


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o777, 0o666, 0o640, 0o000, 0o4755, 0o1777])
def test_a_new_file_has_the_mode_asked_for_less_the_umask(
    place: Path, mode: int, umask: int
) -> None:
    os.umask(umask)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, mode))
    assert stat.S_IMODE(os.stat(place / "file").st_mode) == mode & ~umask


@pytest.mark.parametrize("umask", [0o000, 0o027])
@pytest.mark.parametrize("mode", [0o777, 0o700, 0o1777])
def test_a_new_directory_has_the_mode_asked_for_less_the_umask(
    place: Path, mode: int, umask: int
) -> None:
    os.umask(umask)
    os.mkdir(place / "directory", mode)
    state = os.stat(place / "directory")
    assert stat.S_IMODE(state.st_mode) == mode & ~umask
    assert state.st_nlink == 2


def test_a_new_file_is_empty_with_one_link_and_the_present_time(place: Path) -> None:
    directory = os.stat(place)
    let_clock_tick(place)
    (place / "file").touch()
    state = os.stat(place / "file")
    assert (state.st_size, state.st_nlink, stat.S_ISREG(state.st_mode)) == (0, 1, True)
    assert state.st_mtime_ns > directory.st_mtime_ns
    assert state.st_atime_ns > directory.st_mtime_ns
    assert state.st_ctime_ns > directory.st_mtime_ns
    assert os.stat(place).st_mtime_ns > directory.st_mtime_ns
    assert os.stat(place).st_ctime_ns > directory.st_ctime_ns


@pytest.mark.root
def test_a_new_file_belongs_to_who_made_it(place: Path) -> None:
    place.chmod(0o777)
    as_user(OWNER, (place / "file").touch, gid=OWNER + 7)
    state = os.stat(place / "file")
    assert (state.st_uid, state.st_gid) == (OWNER, OWNER + 7)


def test_exclusive_creation_refuses_what_exists(place: Path) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "dangling").symlink_to("nowhere")
    for name in ("file", "directory", "dangling"):
        with refused(errno.EEXIST):
            os.open(place / name, flags)


def test_creation_through_a_dangling_symlink_makes_its_target(place: Path) -> None:
    (place / "link").symlink_to("target")
    os.close(os.open(place / "link", os.O_CREAT | os.O_WRONLY))
    assert stat.S_ISREG(os.lstat(place / "target").st_mode)


def test_opening_an_existing_file_with_creat_keeps_its_mode_and_content(place: Path) -> None:
    write_file(place / "file", b"content", 0o600)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o777))
    assert (place / "file").read_bytes() == b"content"
    assert stat.S_IMODE(os.stat(place / "file").st_mode) == 0o600


def test_a_read_only_mode_does_not_bind_the_descriptor_that_made_the_file(place: Path) -> None:
    place.chmod(0o777)

    def make() -> int:
        descriptor = os.open(place / "file", os.O_CREAT | os.O_RDWR, 0o000)
        written = os.write(descriptor, b"written")
        os.close(descriptor)
        return written

    assert (as_user(OWNER, make) if os.geteuid() == 0 else make()) == 7


@pytest.mark.parametrize(
    ("path", "flags", "number"),
    [
        ("missing", os.O_RDONLY, errno.ENOENT),
        ("missing/file", os.O_CREAT | os.O_WRONLY, errno.ENOENT),
        ("file/below", os.O_CREAT | os.O_WRONLY, errno.ENOTDIR),
        ("directory", os.O_WRONLY, errno.EISDIR),
        ("directory", os.O_RDWR, errno.EISDIR),
        ("directory", os.O_RDONLY | os.O_TRUNC, errno.EISDIR),
        ("directory", os.O_RDONLY | os.O_CREAT, errno.EISDIR),
        ("file", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
        ("link", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
        ("dirlink", os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, errno.ENOTDIR),
        ("missing/", os.O_CREAT | os.O_WRONLY, errno.EISDIR),
        ("file/", os.O_RDONLY, errno.ENOTDIR),
        ("", os.O_RDONLY, errno.ENOENT),
        ("socket", os.O_RDONLY, errno.ENXIO),
        ("fifo", os.O_WRONLY | os.O_NONBLOCK, errno.ENXIO),
    ],
)
def test_open_refuses(place: Path, path: str, flags: int, number: int) -> None:
    (place / "file").touch()
    (place / "directory").mkdir()
    (place / "link").symlink_to("file")
    (place / "dirlink").symlink_to("directory")
    os.mknod(place / "socket", 0o600 | stat.S_IFSOCK)
    os.mkfifo(place / "fifo")
    target = f"{place}/{path}" if path else ""
    with refused(number):
        os.open(target, flags, 0o644)


def test_mkdir_refuses(place: Path) -> None:
    (place / "file").touch()
    (place / "link").symlink_to("nowhere")
    (place / "made").mkdir()
    for name, number in [
        ("file", errno.EEXIST),
        ("link", errno.EEXIST),
        ("made", errno.EEXIST),
        ("missing/directory", errno.ENOENT),
        ("file/directory", errno.ENOTDIR),
        (".", errno.EEXIST),
        ("..", errno.EEXIST),
    ]:
        with refused(number):
            os.mkdir(f"{place}/{name}")


def test_symlink_refuses_what_exists(place: Path) -> None:
    (place / "file").touch()
    (place / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with refused(errno.EEXIST):
            os.symlink("target", place / name)
    with refused(errno.ENOENT):
        os.symlink("target", place / "missing" / "link")
    with refused(errno.ENOENT):
        os.symlink("", place / "empty")


@pytest.mark.parametrize("length", [1, 59, 60, 255, 1000, 4095])
def test_a_symlink_keeps_any_target(place: Path, length: int) -> None:
    target = (b"/\xff\x01 x" * 1000)[:length]
    os.symlink(target, os.fsencode(place / "link"))
    state = os.lstat(place / "link")
    assert os.readlink(os.fsencode(place / "link")) == target
    assert (state.st_size, state.st_nlink) == (length, 1)
    assert stat.S_IMODE(state.st_mode) == 0o777


def test_readlink_refuses_what_is_no_symlink(place: Path) -> None:
    (place / "file").touch()
    for path in (place, place / "file"):
        with refused(errno.EINVAL):
            os.readlink(path)
    with refused(errno.ENOENT):
        os.readlink(place / "missing")


def test_a_directory_counts_its_subdirectories(place: Path) -> None:
    for index in range(5):
        (place / f"directory{index}").mkdir()
        (place / f"file{index}").touch()
    assert os.stat(place).st_nlink == 7
    (place / "directory0").rmdir()
    assert os.stat(place).st_nlink == 6


def test_inode_numbers_differ_and_names_find_the_same_one_again(place: Path) -> None:
    numbers = {}
    for index in range(200):
        (place / f"file{index}").touch()
        numbers[index] = os.stat(place / f"file{index}").st_ino
    assert len(set(numbers.values())) == 200
    for index, number in numbers.items():
        assert os.stat(place / f"file{index}").st_ino == number


def test_truncating_open_empties_the_file_and_stamps_it(place: Path) -> None:
    path = write_file(place / "file", b"x" * 10_000)
    before = os.stat(path)
    let_clock_tick(path)
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
    after = os.stat(path)
    assert after.st_size == 0
    assert after.st_mtime_ns > before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns


def test_an_open_directory_works_as_a_base(place: Path) -> None:
    (place / "directory").mkdir()
    descriptor = os.open(place / "directory", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.rename(place / "directory", place / "moved")
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        assert os.listdir(descriptor) == ["file"]
        assert (place / "moved" / "file").exists()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_an_unnamed_file_is_made_and_linked_or_refused_as_unsupported(place: Path) -> None:
    try:
        descriptor = os.open(place, os.O_TMPFILE | os.O_RDWR, 0o640)
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP
        return
    os.write(descriptor, b"content")
    assert os.listdir(place) == []
    assert os.fstat(descriptor).st_nlink == 0
    link_followed(f"/proc/self/fd/{descriptor}", place / "file")
    os.close(descriptor)
    assert (place / "file").read_bytes() == b"content"
