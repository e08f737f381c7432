"""Requests on a real mount of a volume in memory: what the kernel and the volume make of each."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shmr.errors import DriveError, IntegrityError, NoSpace, Refused
from shmr.fuse.requests.directories import LISTED_MAX_BYTES
from tests.fuse.memory import MemoryPlan
from tests.fuse.serving import LIMIT_S, Served
from tests.mounted import wait_until
from tests.posix.calls import ZERO_RANGE, fallocate, getdents

pytestmark = pytest.mark.mount

NOBODY = 65534


def as_nobody(code: str, *arguments: object) -> None:
    """Run Python `code` as an ordinary user; `a` is its list of arguments.

    The program becomes that user by itself: the interpreter may stand where only root can go.
    """
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    program = f"import os, sys; {become}; a = sys.argv[1:]; {code}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    subprocess.run(command, check=True, timeout=LIMIT_S)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- names and attributes -----------------------------------------------------------------


def test_every_type_of_inode_can_be_made_and_told_apart(mount: Served) -> None:
    top = mount.path
    (top / "directory").mkdir()
    (top / "file").write_bytes(b"x")
    (top / "symlink").symlink_to("somewhere/else")
    os.mkfifo(top / "fifo")
    os.mknod(top / "device", stat.S_IFCHR | 0o600, os.makedev(259, 1_000_000))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(top / "socket"))
    kinds = {path.name: stat.S_IFMT(path.lstat().st_mode) for path in top.iterdir()}
    assert kinds == {
        "directory": stat.S_IFDIR,
        "file": stat.S_IFREG,
        "symlink": stat.S_IFLNK,
        "fifo": stat.S_IFIFO,
        "device": stat.S_IFCHR,
        "socket": stat.S_IFSOCK,
    }
    assert os.readlink(top / "symlink") == "somewhere/else"
    assert (top / "device").stat().st_rdev == os.makedev(259, 1_000_000)


def test_the_umask_reaches_the_volume_apart_from_the_mode(mount: Served) -> None:
    seen = []
    create = mount.volume.create

    def watched(parent, name, mode, caller, rdev=0, target=b""):  # type: ignore[no-untyped-def]
        seen.append((name, oct(mode), oct(caller.umask)))
        return create(parent, name, mode, caller, rdev, target)

    assert mount.operations is not None
    mount.volume.create = watched  # type: ignore[method-assign]
    as_nobody_code = "os.umask(0o27); os.mkdir(a[0] + '/d', 0o777); os.open(a[0] + '/f', 65, 0o666)"
    mount.path.chmod(0o777)
    as_nobody(as_nobody_code, mount.path)
    assert seen == [(b"d", "0o40777", "0o27"), (b"f", "0o100666", "0o27")]
    assert mode_of(mount.path / "d") == 0o750


@pytest.mark.parametrize("time_ns", [-1, -(2**31) * 10**9, 2**63 - 1, 15_032_385_535 * 10**9 + 7])
def test_times_before_1970_and_far_away_are_kept(mount: Served, time_ns: int) -> None:
    path = mount.path / "file"
    path.touch()
    os.utime(path, ns=(time_ns, time_ns))
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (time_ns, time_ns)


def test_statfs_tells_what_the_volume_says_and_names_of_255_bytes(mount: Served) -> None:
    told = os.statvfs(mount.path)
    assert (told.f_blocks, told.f_bfree, told.f_bavail) == (1_000_000, 900_000, 800_000)
    assert (told.f_files, told.f_ffree, told.f_namemax) == (500_000, 400_000, 255)
    (mount.path / ("n" * 255)).touch()
    with pytest.raises(OSError, match="too long"):
        (mount.path / ("n" * 256)).touch()


def test_a_missing_name_is_asked_for_once(mount: Served) -> None:
    for _ in range(5):
        assert not (mount.path / "missing").exists()
    assert mount.volume.calls["lookup"] == 1
    (mount.path / "missing").touch()
    assert (mount.path / "missing").exists()


@pytest.mark.parametrize("flags", [4, 8])
def test_rename_flags_that_are_not_supported_are_refused(mount: Served, flags: int) -> None:
    (mount.path / "file").touch()
    old, new = (os.fsencode(mount.path / name) for name in ("file", "other"))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, old, -100, new, flags) == -1
    assert ctypes.get_errno() == errno.EINVAL


def test_an_unlinked_file_lives_until_it_is_closed_and_forgotten(mount: Served) -> None:
    path = mount.path / "file"
    with open(path, "wb+", buffering=0) as file:
        file.write(b"still here")
        number = os.fstat(file.fileno()).st_ino
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.pread(file.fileno(), 100, 0) == b"still here"
        assert mount.volume.known_gone == []
    # What the kernel has still to say when it unmounts, it does not say.
    assert wait_until(lambda: number in mount.volume.known_gone, LIMIT_S)
    assert mount.volume.open_counts.total() == 0


def test_many_files_forgotten_at_once_are_all_freed(mount: Served) -> None:
    for index in range(600):
        (mount.path / f"f{index}").touch()
    holders = [os.open(mount.path / f"f{index}", os.O_RDONLY) for index in range(600)]
    for index in range(600):
        (mount.path / f"f{index}").unlink()
    for holder in holders:
        os.close(holder)
    # What the kernel has still to say when it unmounts, it does not say.
    until = time.monotonic() + LIMIT_S
    while len(mount.volume.known_gone) < 600 and time.monotonic() < until:
        os.statvfs(mount.path)
    assert len(mount.volume.known_gone) == 600


# -- directories --------------------------------------------------------------------------


def test_a_directory_shows_itself_its_parent_and_each_entry_once(mount: Served) -> None:
    directory = mount.path / "d"
    directory.mkdir()
    wanted = {f"{index:04}{'x' * (index % 200)}" for index in range(700)}
    for name in wanted:
        (directory / name).touch()
    assert sorted(os.listdir(directory)) == sorted(wanted)
    listed = subprocess.run(
        ["ls", "-aiU", str(directory)], capture_output=True, text=True, check=True
    ).stdout.split()
    numbers = dict(zip(listed[1::2], map(int, listed[::2]), strict=True))
    assert listed[1::2][:2] == [".", ".."]
    assert numbers["."] == directory.stat().st_ino
    assert numbers[".."] == mount.path.stat().st_ino
    assert len(numbers) == len(wanted) + 2


def test_reading_a_directory_loses_and_repeats_nothing_while_others_delete(mount: Served) -> None:
    directory = mount.path / "d"
    directory.mkdir()
    for index in range(500):
        (directory / f"f{index:03}").touch()
    seen = []
    with os.scandir(directory) as entries:
        for entry in entries:
            seen.append(entry.name)
            (directory / entry.name).unlink()
    assert sorted(seen) == [f"f{index:03}" for index in range(500)]
    assert os.listdir(directory) == []


def test_one_listing_of_a_large_directory_keeps_nobody_waiting_for_long(mount: Served) -> None:
    directory = mount.path / "d"
    directory.mkdir()
    for index in range(2000):
        (directory / f"{index:0100}").touch()
    descriptor = os.open(directory, os.O_RDONLY)
    calls = 0
    while getdents(descriptor, 1 << 20):
        calls += 1
    os.close(descriptor)
    assert calls > 2000 * 128 // LISTED_MAX_BYTES


# -- data ---------------------------------------------------------------------------------


def test_what_is_written_in_any_pieces_is_read_back(mount: Served) -> None:
    content = os.urandom(3_000_001)
    path = mount.path / "file"
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(content), 77_777):
            file.write(content[start : start + 77_777])
    assert path.read_bytes() == content
    assert path.stat().st_size == len(content)
    os.truncate(path, 1_234_567)
    os.truncate(path, 2_000_000)
    assert path.read_bytes() == content[:1_234_567] + bytes(2_000_000 - 1_234_567)


def test_cached_writes_do_not_ask_for_capabilities_each_time(mount: Served) -> None:
    with open(mount.path / "file", "wb", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 4096)
    assert mount.volume.calls["getxattr"] <= 2


def _write_behind(descriptor: int) -> None:
    os.pwrite(descriptor, b"x", 8191)
    os.fsync(descriptor)


GROWS: list[Callable[[int], object]] = [
    lambda descriptor: os.ftruncate(descriptor, 8192),
    _write_behind,
    lambda descriptor: os.posix_fallocate(descriptor, 0, 8192),
    lambda descriptor: fallocate(descriptor, ZERO_RANGE, 0, 8192),
]


@pytest.mark.parametrize("grow", GROWS)
def test_growing_over_what_a_truncation_left_goes_in_steps(
    mount: Served, grow: Callable[[int], object]
) -> None:
    with open(mount.path / "file", "w+b", buffering=0) as stream:
        mount.volume.in_the_way = 10
        before = mount.volume.calls["makes_way"]
        grow(stream.fileno())
        assert mount.volume.calls["makes_way"] - before >= 10
        assert mount.volume.in_the_way == 0
        assert os.fstat(stream.fileno()).st_size == 8192
    assert mount.volume.inode((mount.path / "file").stat().st_ino).size == 8192


def test_a_hole_behind_a_failed_write_reads_as_zeros_after_a_truncation(mount: Served) -> None:
    path = mount.path / "file"
    with open(path, "w+b", buffering=0) as stream:
        mount.volume.failures["write"] = [DriveError("/drive", "append", OSError(errno.EIO, ""))]
        stream.write(b"lost")
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(stream.fileno())
        os.ftruncate(stream.fileno(), 0)
        os.pwrite(stream.fileno(), b"x", 1 << 20)
        assert os.pread(stream.fileno(), 4096, 0) == bytes(4096)


def test_o_trunc_truncates(mount: Served) -> None:
    path = mount.path / "file"
    path.write_bytes(b"long enough")
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_read_that_must_wait_delays_no_other(
    mount: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mount.path / "file"
    path.write_bytes(b"slow")
    os.posix_fadvise(fd := os.open(path, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
    drop_cache(mount.path)
    waiting, go_on = threading.Event(), threading.Event()

    def fetch(plan: MemoryPlan) -> bytes:
        waiting.set()
        assert go_on.wait(LIMIT_S)
        return plan.payload

    monkeypatch.setattr(MemoryPlan, "fetch", fetch)
    mount.volume.uncached = True
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.pread(fd, 10, 0)))
    reader.start()
    assert waiting.wait(LIMIT_S)
    for index in range(200):
        (mount.path / f"other{index}").touch()
    go_on.set()
    reader.join(LIMIT_S)
    os.close(fd)
    assert got == [b"slow"]
    assert all(plan.released == 1 for plan in mount.volume.plans)


def drop_cache(path: Path) -> None:
    """Have the kernel forget what it cached of clean files."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def test_ranges_are_punched_zeroed_and_allocated(mount: Served) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    keep, punch, zero, collapse = 1, 2, 16, 8

    def fallocate(mode: int, offset: int, length: int) -> int:
        done = libc.fallocate(file.fileno(), mode, ctypes.c_long(offset), ctypes.c_long(length))
        return ctypes.get_errno() if done else 0

    with open(mount.path / "file", "wb+", buffering=0) as file:
        file.write(b"x" * 20_000)
        assert fallocate(punch | keep, 1000, 5000) == 0
        assert os.pread(file.fileno(), 6100, 0) == b"x" * 1000 + bytes(5000) + b"x" * 100
        assert fallocate(0, 0, 30_000) == 0
        assert os.fstat(file.fileno()).st_size == 30_000
        assert fallocate(keep, 0, 40_000) == 0
        assert os.fstat(file.fileno()).st_size == 30_000
        assert fallocate(zero, 0, 50_000) == 0
        assert os.pread(file.fileno(), 60_000, 0) == bytes(50_000)
        assert fallocate(collapse, 0, 4096) == errno.EOPNOTSUPP
        assert fallocate(punch | keep, 0, 0) == errno.EINVAL


def test_dirty_pages_are_data_for_who_looks_for_holes(mount: Served) -> None:
    with open(mount.path / "file", "wb+", buffering=0) as file:
        os.pwrite(file.fileno(), b"not yet written back", 1 << 20)
        assert os.lseek(file.fileno(), 1 << 20, os.SEEK_DATA) == 1 << 20


def test_fsync_of_files_and_directories_commits(mount: Served) -> None:
    with open(mount.path / "file", "wb") as file:
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    descriptor = os.open(mount.path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)
    assert mount.commits == 3


def test_files_are_always_ready_for_poll_and_select(mount: Served) -> None:
    with open(mount.path / "file", "wb+") as file:
        assert select.select([file], [file], [], 0)[:2] == ([file], [file])
        poll = select.poll()
        poll.register(file, select.POLLIN | select.POLLOUT)
        assert poll.poll(0) == [(file.fileno(), select.POLLIN | select.POLLOUT)]


# -- privileges ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "f = os.open(a[0], 1); os.write(f, b'x'); assert not os.fstat(f).st_mode & 0o6000",
        "os.close(os.open(a[0], os.O_WRONLY | os.O_TRUNC))",
        "os.truncate(a[0], 1)",
    ],
)
def test_a_change_by_others_clears_suid_and_sgid_at_once(mount: Served, code: str) -> None:
    path = mount.path / "program"
    path.write_bytes(b"content")
    path.chmod(0o6777)
    as_nobody(code, path)
    assert mode_of(path) == 0o777


def test_what_root_writes_keeps_suid_and_what_it_chowns_does_not(mount: Served) -> None:
    path = mount.path / "program"
    path.write_bytes(b"content")
    path.chmod(0o6755)
    path.write_bytes(b"other")
    assert mode_of(path) == 0o6755
    os.chown(path, NOBODY, NOBODY)
    assert mode_of(path) == 0o755
    path.chmod(0o2744)  # sgid without execution: no privilege
    os.chown(path, 0, 0)
    assert mode_of(path) == 0o2744


def test_trusted_attributes_are_listed_for_root_alone(mount: Served) -> None:
    path = mount.path / "file"
    path.touch()
    path.chmod(0o644)
    for name in ("user.one", "trusted.two"):
        os.setxattr(path, name, b"value")
    assert os.listxattr(path) == ["trusted.two", "user.one"]
    as_nobody("assert os.listxattr(a[0]) == ['user.one'], os.listxattr(a[0])", path)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.one", b"", os.XATTR_CREATE)
    with pytest.raises(OSError, match="No data"):
        os.setxattr(path, "user.two", b"", os.XATTR_REPLACE)
    os.removexattr(path, "user.one")
    assert os.listxattr(path) == ["trusted.two"]


# -- failures -----------------------------------------------------------------------------

CAUSES = [
    (IntegrityError("planned"), errno.EIO),
    (DriveError("/drive", "append", OSError(errno.EIO, "planned")), errno.EIO),
    (RuntimeError("planned"), errno.EIO),
    (OverflowError("planned"), errno.EIO),
    (MemoryError("planned"), errno.EIO),
    (Refused(errno.EDQUOT), errno.EDQUOT),
    (Refused(100_000), errno.EIO),
    (Refused(0), errno.EIO),
]


@pytest.mark.parametrize(("cause", "number"), CAUSES)
@pytest.mark.parametrize("call", ["lookup", "create", "set", "entries", "commit", "plan_read"])
def test_whatever_is_raised_the_caller_gets_an_errno_and_the_mount_lives(
    mount: Served, call: str, cause: Exception, number: int
) -> None:
    (mount.path / "file").write_bytes(b"content")
    descriptor = os.open(mount.path / "file", os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)  # aligned, as O_DIRECT wants it
    steps: dict[str, Callable[[], object]] = {
        "lookup": lambda: os.stat(mount.path / "missing"),
        "create": lambda: (mount.path / "made").mkdir(),
        "set": lambda: os.fchmod(descriptor, 0o600),
        "entries": lambda: os.listdir(mount.path),
        "commit": lambda: os.fsync(descriptor),
        "plan_read": lambda: os.preadv(descriptor, [page], 0),
    }
    mount.volume.failures[call] = [cause] * 4
    with pytest.raises(OSError) as caught:
        steps[call]()
    mount.volume.failures.clear()
    assert caught.value.errno == number
    os.close(descriptor)
    assert (mount.path / "file").read_bytes() == b"content"


def test_an_unexpected_failure_is_logged_with_the_request_and_its_traceback(
    mount: Served, caplog: pytest.LogCaptureFixture
) -> None:
    mount.volume.failures["create"] = [ZeroDivisionError("planned")]
    with pytest.raises(OSError, match="Input/output"):
        (mount.path / "made").mkdir()
    assert "MKDIR of inode 1 by pid" in caplog.text and "made" in caplog.text
    assert "ZeroDivisionError: planned" in caplog.text


def test_a_read_that_fails_is_logged_with_its_offset_and_size(
    mount: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with open(mount.path / "file", "wb+", buffering=0) as file:
        file.write(bytes(8192))
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        # The kernel reads ahead, and once more when that fails.
        mount.volume.failures["plan_read"] = [IntegrityError("planned") for _ in range(4)]
        with pytest.raises(OSError, match="Input/output"):
            os.pread(file.fileno(), 4096, 4096)
        mount.volume.failures.clear()
    assert "READ of inode" in caplog.text and "at offset 4096, 4096 bytes, failed" in caplog.text


def test_failures_of_requests_without_an_answer_are_survived(mount: Served) -> None:
    mount.volume.failures["closed"] = [RuntimeError("planned")]
    mount.volume.failures["forgotten"] = [RuntimeError("planned")]
    (mount.path / "file").touch()
    (mount.path / "file").unlink()
    (mount.path / "file").touch()


def test_a_full_volume_makes_room_and_the_write_goes_on(mount: Served) -> None:
    mount.volume.failures["create"] = [NoSpace(), NoSpace()]
    mount.rooms = [True, True]
    (mount.path / "made").mkdir()
    assert mount.volume.calls["create"] == 3


@pytest.mark.parametrize("rooms", [[], [True] * 40])
def test_a_volume_that_stays_full_says_so_after_few_tries(mount: Served, rooms: list[bool]) -> None:
    mount.volume.failures["create"] = [NoSpace() for _ in range(40)]
    mount.rooms = rooms
    with pytest.raises(OSError, match="No space"):
        (mount.path / "made").mkdir()
    assert mount.volume.calls["create"] <= 17
