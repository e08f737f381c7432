"""Timestamps: nanoseconds, the whole range of ext4, who may set them, which call changes which."""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.calls import (
    OTHER,
    OWNER,
    STRANGER,
    UTIME_NOW,
    UTIME_OMIT,
    as_user,
    is_fuse,
    let_clock_tick,
    refused,
    utimens,
    write_file,
)

SECOND_NS = 1_000_000_000
FIRST_OF_EXT4_S = -(1 << 31)
LAST_OF_EXT4_S = (1 << 34) - (1 << 31) - 1
OLD_NS = 1_000_000_000 * SECOND_NS


@pytest.mark.parametrize(
    "ns",
    [
        0,
        1,
        -1,
        -SECOND_NS,
        -1_500_000_001,
        (FIRST_OF_EXT4_S + 1) * SECOND_NS + 1,
        999_999_999,
        1_234_567_890_123_456_789,
        ((1 << 31) - 1) * SECOND_NS + 999_999_999,
        (1 << 31) * SECOND_NS,
        (1 << 32) * SECOND_NS + 1,
        (LAST_OF_EXT4_S - 1) * SECOND_NS + 999_999_999,
    ],
)
@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_any_time_is_kept_to_the_nanosecond(place: Path, kind: str, ns: int) -> None:
    path = place / "node"
    makers: dict[str, Callable[[], None]] = {
        "file": path.touch,
        "directory": path.mkdir,
        "symlink": lambda: path.symlink_to("nowhere"),
        "fifo": lambda: os.mkfifo(path),
    }
    makers[kind]()
    os.utime(path, ns=(ns, ns ^ 1), follow_symlinks=False)
    state = os.lstat(path)
    assert (state.st_atime_ns, state.st_mtime_ns) == (ns, ns ^ 1)


def test_setting_times_changes_only_ctime_besides(place: Path) -> None:
    path = write_file(place / "file", b"content")
    let_clock_tick(path)
    before = os.stat(path)
    os.utime(path, ns=(5, 6))
    after = os.stat(path)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_size, after.st_mode, after.st_nlink) == (7, before.st_mode, 1)


def test_now_and_omit_work_for_each_time_alone(place: Path) -> None:
    path = write_file(place / "file")
    lower = time.time_ns() - SECOND_NS
    os.utime(path, ns=(5, 6))
    utimens(path, (0, UTIME_OMIT), (0, UTIME_OMIT))
    assert (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) == (5, 6)
    utimens(path, (0, UTIME_NOW), (0, UTIME_OMIT))
    assert lower < os.stat(path).st_atime_ns < lower + 60 * SECOND_NS
    assert os.stat(path).st_mtime_ns == 6
    utimens(path, (0, UTIME_OMIT), (0, UTIME_NOW))
    assert lower < os.stat(path).st_mtime_ns < lower + 60 * SECOND_NS
    utimens(path, (7, 8), (0, UTIME_OMIT))
    assert os.stat(path).st_atime_ns == 7 * SECOND_NS + 8
    with refused(errno.EINVAL):
        utimens(path, (0, SECOND_NS), (0, 0))
    with refused(errno.EINVAL):
        utimens(path, (0, 0), (0, -1))


@pytest.mark.root
def test_now_is_for_who_may_write_and_other_times_for_the_owner(place: Path) -> None:
    path = write_file(place / "file", mode=0o646)
    os.chown(path, OWNER, OWNER)
    let_clock_tick(path)
    os.utime(path, ns=(5, 6))
    as_user(STRANGER, lambda: os.utime(path))
    assert os.stat(path).st_mtime_ns > 6
    as_user(STRANGER, lambda: utimens(path, (0, UTIME_NOW), (0, UTIME_NOW)))
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: os.utime(path, ns=(1, 2)))
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: utimens(path, (0, UTIME_NOW), (0, UTIME_OMIT)))
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.utime(path), groups=[OWNER])
    path.chmod(0)
    as_user(OWNER, lambda: os.utime(path))
    as_user(OWNER, lambda: os.utime(path, ns=(1, 2)))
    assert os.stat(path).st_mtime_ns == 2


def _write(path: Path) -> None:
    with open(path, "r+b", buffering=0) as stream:
        stream.write(b"new")


def _map(path: Path) -> None:
    with open(path, "r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        memory[:3] = b"new"
        memory.flush()
        os.fsync(stream.fileno())


def _xattr(path: Path) -> None:
    os.setxattr(path, "user.name", b"value")


def _chown(path: Path) -> None:
    os.chown(path, os.geteuid(), os.getegid())


@pytest.mark.parametrize(
    ("change", "mtime_too"),
    [
        pytest.param(_write, True, id="write"),
        pytest.param(_map, True, id="mmap"),
        pytest.param(lambda path: os.truncate(path, 2), True, id="shrink"),
        pytest.param(lambda path: os.truncate(path, 20_000), True, id="grow"),
        pytest.param(lambda path: path.write_bytes(b""), True, id="rewrite"),
        pytest.param(_xattr, False, id="xattr"),
        pytest.param(_chown, False, id="chown"),
        pytest.param(lambda path: path.chmod(0o600), False, id="chmod"),
        pytest.param(lambda path: os.link(path, f"{path}-link"), False, id="link"),
        pytest.param(lambda path: os.rename(path, f"{path}-2"), False, id="rename"),
    ],
)
def test_a_change_stamps_ctime_and_a_change_of_content_mtime(
    place: Path, change: Callable[[Path], None], mtime_too: bool
) -> None:
    path = write_file(place / "file", b"content")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    let_clock_tick(path)
    before = os.stat(path)
    with open(path, "rb") as held:
        change(path)
        after = os.fstat(held.fileno())
    assert after.st_ctime_ns > before.st_ctime_ns
    assert (after.st_mtime_ns > before.st_mtime_ns) == mtime_too


def test_truncate_to_the_same_size_stamps_the_file(place: Path) -> None:
    path = write_file(place / "file", b"content")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    os.truncate(path, 7)
    after = os.stat(path)
    assert after.st_ctime_ns > OLD_NS
    # With FUSE's writeback cache mtime is the kernel's own, and it moves it only with the size.
    assert (after.st_mtime_ns > OLD_NS) or is_fuse(place)


def test_a_time_set_after_a_write_stays_through_fsync_and_close(place: Path) -> None:
    path = place / "file"
    with open(path, "wb") as stream:
        stream.write(b"x" * 100_000)
        stream.flush()
        os.utime(stream.fileno(), ns=(7, 8))
        os.fsync(stream.fileno())
        assert os.fstat(stream.fileno()).st_mtime_ns == 8
    assert os.stat(path).st_mtime_ns == 8
    with open(path, "rb") as stream:
        stream.read()
    assert os.stat(path).st_mtime_ns == 8


def test_the_time_of_a_write_is_seen_at_once_by_stat(place: Path) -> None:
    path = write_file(place / "file", b"content")
    os.utime(path, ns=(OLD_NS, OLD_NS))
    with open(path, "r+b", buffering=0) as stream:
        stream.write(b"new")
        seen = os.stat(path).st_mtime_ns
        os.fsync(stream.fileno())
    assert seen > OLD_NS
    assert os.stat(path).st_mtime_ns == seen


def test_reading_never_stamps_mtime_or_ctime(place: Path) -> None:
    path = write_file(place / "file", b"content")
    (place / "link").symlink_to("file")
    before = os.stat(path)
    let_clock_tick(path)
    path.read_bytes()
    os.readlink(place / "link")
    os.listdir(place)
    os.access(path, os.R_OK)
    after = os.stat(path)
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_first_read_stamps_atime_unless_mounted_noatime(place: Path, kind: str) -> None:
    noatime = 1024  # ST_NOATIME of statvfs(3)
    path = place / "node"
    if kind == "file":
        path.write_bytes(b"content")
    else:
        path.mkdir()
        (path / "entry").touch()
    os.utime(path, ns=(OLD_NS, OLD_NS))
    if kind == "file":
        path.read_bytes()
    else:
        os.listdir(path)
    seen = os.stat(path).st_atime_ns
    if os.statvfs(place).f_flag & noatime:
        assert seen == OLD_NS
    else:
        assert seen > OLD_NS


def test_refused_calls_stamp_nothing(place: Path) -> None:
    path = write_file(place / "file")
    (place / "directory").mkdir()
    (place / "directory" / "entry").touch()
    let_clock_tick(place, path, place / "directory")
    before = [os.stat(each) for each in (place, path, place / "directory")]
    with refused(errno.ENOTEMPTY):
        os.rmdir(place / "directory")
    with refused(errno.EEXIST):
        os.mkdir(path)
    with refused(errno.ENOENT):
        os.unlink(place / "missing")
    with refused(errno.EEXIST):
        os.link(place / "directory" / "entry", path)
    after = [os.stat(each) for each in (place, path, place / "directory")]
    for old, new in zip(before, after, strict=True):
        assert (old.st_mtime_ns, old.st_ctime_ns) == (new.st_mtime_ns, new.st_ctime_ns)
