"""What only the real drive promises: how it meets the operating system."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shmr.drive.directory import DirectoryDrive
from shmr.errors import DriveError
from shmr.testing.contract import fails_with, pattern
from shmr.units import MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    path.mkdir(mode=0o755)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_and_directory_are_private_from_the_first_claim_on(path: Path) -> None:
    drive = DirectoryDrive(path)
    drive.names()
    assert mode(path) == 0o755, "a directory that is only looked at is not changed"
    before = os.umask(0)
    try:
        drive.claim("a", 4096)
    finally:
        os.umask(before)
    assert (mode(path), mode(path / "a")) == (0o700, 0o600)


def test_a_claim_allocates_every_block(path: Path) -> None:
    DirectoryDrive(path).claim("a", MIB)
    assert (path / "a").stat().st_blocks * 512 >= MIB


@pytest.mark.parametrize("unsupported", [errno.EOPNOTSUPP, errno.EINVAL])
def test_zeros_are_written_where_nothing_can_be_allocated(
    path: Path, monkeypatch: pytest.MonkeyPatch, unsupported: int
) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(unsupported, os.strerror(unsupported))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    size = 2 * MIB + 4096
    file = DirectoryDrive(path).claim("a", size)
    facts = (path / "a").stat()
    assert facts.st_size == size
    assert facts.st_blocks * 512 >= size
    assert file.read(0, size) == bytes(size)


def test_short_writes_are_finished(path: Path) -> None:
    def short(fd: int, buffers: list[memoryview], offset: int) -> int:
        return os.pwritev(fd, [buffers[0][:7]], offset)

    file = DirectoryDrive(path, pwritev=short).claim("a", 4096)
    content = pattern(1000)
    file.append([content[:3], content[3:500], content[500:]])
    assert file.end == 1000
    assert file.read(0, 1000) == content


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_the_end_stays_where_a_failed_append_began(path: Path, number: int) -> None:
    calls = 0

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(number, os.strerror(number))
        return os.pwritev(fd, [buffers[0][:7]], offset)

    file = DirectoryDrive(path, pwritev=failing).claim("a", 4096)
    fails_with(number, "append", lambda: file.append([b"0123456789"]))
    assert file.end == 0
    fails_with(errno.EIO, "sync", file.sync)
    assert calls == 2


def test_a_write_without_progress_is_an_error(path: Path) -> None:
    file = DirectoryDrive(path, pwritev=lambda fd, buffers, offset: 0).claim("a", 4096)
    fails_with(errno.EIO, "append", lambda: file.append([b"x"]))


def test_a_failed_sync_is_not_tried_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DirectoryDrive(path).claim("a", 4096)
    file.append([b"x"])

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        fails_with(errno.EIO, "sync", file.sync)
    fails_with(errno.EIO, "sync", file.sync)
    fails_with(errno.EIO, "append", lambda: file.append([b"y"]))


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync"])
def test_a_claim_that_fails_at_any_call_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    drive = DirectoryDrive(path, limit_bytes=MIB)

    def fail(*arguments: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        fails_with(errno.EIO, "claim", lambda: drive.claim("a", 4096))
    assert os.listdir(path) == []
    assert drive.capacity().free_bytes == MIB


def test_only_regular_files_are_listed_and_opened(path: Path) -> None:
    (path / "directory").mkdir()
    os.mkfifo(path / "fifo")
    (path / "real").write_bytes(b"content")
    (path / "link").symlink_to("real")
    drive = DirectoryDrive(path)
    assert drive.names() == ["real"]
    fails_with(errno.EINVAL, "open", lambda: drive.open("fifo"))
    fails_with(errno.ELOOP, "open", lambda: drive.open("link"))
    fails_with(errno.EISDIR, "open", lambda: drive.open("directory"))
    for name in ("directory", "fifo", "link"):
        with pytest.raises(DriveError):
            drive.size(name)
    fails_with(errno.EEXIST, "claim", lambda: drive.claim("link", 4096))
    assert not drive.is_empty()


def test_what_is_no_regular_file_is_not_even_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(path / "fifo")
    drive = DirectoryDrive(path)
    opened: list[object] = []
    before = os.open

    def noted(name: str, flags: int, **options: int) -> int:
        opened.append(name)
        return before(name, flags, **options)

    monkeypatch.setattr(os, "open", noted)
    fails_with(errno.EINVAL, "open", lambda: drive.open("fifo"))
    fails_with(errno.EINVAL, "open", lambda: drive.get("fifo"))
    assert opened == []


def test_a_drive_that_is_only_read_is_never_changed(path: Path) -> None:
    DirectoryDrive(path).put("a", b"content")
    os.chmod(path, 0o755)
    drive = DirectoryDrive(path, read_only=True)
    fails_with(errno.EROFS, "claim", lambda: drive.claim("b", 4096))
    fails_with(errno.EROFS, "claim", lambda: drive.put("b", b""))
    fails_with(errno.EROFS, "discard", lambda: drive.discard("a"))
    assert drive.get("a") == b"content"
    file = drive.open("a", end=3)
    fails_with(errno.EBADF, "append", lambda: file.append([b"d"]))
    file.close()
    assert drive.lock()
    assert not DirectoryDrive(path).lock()
    drive.close()
    assert os.listdir(path) == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert (path / "a").read_bytes() == b"content"


def test_a_drive_is_a_directory_and_no_link_to_one(path: Path) -> None:
    link = path.parent / "link"
    link.symlink_to(path)
    fails_with(errno.ENOTDIR, "open", lambda: DirectoryDrive(link))
    fails_with(errno.ENOENT, "open", lambda: DirectoryDrive(path / "absent"))


def test_a_renamed_directory_is_still_the_drive(path: Path) -> None:
    drive = DirectoryDrive(path)
    drive.put("a", b"content")
    path.rename(path.parent / "elsewhere")
    path.mkdir()
    assert drive.get("a") == b"content"


def test_the_limit_counts_what_our_files_take(path: Path) -> None:
    DirectoryDrive(path).claim("old", MIB).close()
    drive = DirectoryDrive(path, limit_bytes=4 * MIB)
    assert drive.capacity().total_bytes == 4 * MIB
    assert drive.capacity().free_bytes == 3 * MIB
    file = drive.claim("new", 2 * MIB)
    assert drive.capacity().free_bytes == MIB
    fails_with(errno.ENOSPC, "claim", lambda: drive.claim("more", 2 * MIB))
    file.append([bytes(4096)])
    file.seal()
    assert drive.capacity().free_bytes == 3 * MIB - 4096
    drive.discard("old")
    assert drive.capacity().free_bytes == 4 * MIB - 4096


def test_a_limit_that_is_overdrawn_leaves_nothing_free(path: Path) -> None:
    DirectoryDrive(path).claim("old", 2 * MIB).close()
    assert DirectoryDrive(path, limit_bytes=MIB).capacity().free_bytes == 0


def test_the_lock_is_held_once_and_is_no_name(path: Path) -> None:
    first, second = DirectoryDrive(path), DirectoryDrive(path)
    assert first.lock()
    assert first.lock(), "who holds it holds it"
    assert not second.lock()
    assert first.names() == []
    assert second.is_empty()
    first.close()
    assert second.lock()


def test_a_discarded_file_is_freed_by_whom_is_asked_to(path: Path) -> None:
    """To free 64 MiB took 35 ms, in which a mount answered nobody."""
    drive = DirectoryDrive(path)
    waiting: list[Callable[[], None]] = []
    drive.let_go = waiting.append
    drive.claim("a", MIB).close()
    drive.discard("a")
    assert drive.names() == [] and len(waiting) == 1
    assert len(_held_open(path)) == 1
    waiting.pop()()
    assert not _held_open(path)
    fails_with(errno.ENOENT, "discard", lambda: drive.discard("a"))
    assert not waiting


def test_space_that_is_short_is_given_back_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = DirectoryDrive(path)
    waiting: list[Callable[[], None]] = []
    drive.let_go = waiting.append
    drive.claim("a", MIB).close()
    facts = os.statvfs(path)
    nearly_full = os.statvfs_result((*facts[:4], facts.f_blocks // 9, *facts[5:]))
    monkeypatch.setattr(os, "fstatvfs", lambda fd: nearly_full)
    drive.discard("a")
    assert not waiting and not _held_open(path)


def _held_open(path: Path) -> list[str]:
    """Deleted files of the directory that this process has open."""
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if os.path.lexists(link)]
    return [one for one in targets if one.startswith(str(path)) and one.endswith(" (deleted)")]


def test_a_directory_that_was_only_locked_is_left_as_it_was(path: Path) -> None:
    """Where no disk is mounted, a file would stay hidden under the mount to come."""
    drive = DirectoryDrive(path)
    assert drive.lock() and (path / "lock").exists()
    drive.close()
    assert not os.listdir(path)
    (path / "photo").touch()
    drive = DirectoryDrive(path)
    assert drive.lock()
    drive.close()
    assert os.listdir(path) == ["photo"]


def test_the_lock_file_of_a_drive_in_use_stays(path: Path) -> None:
    drive = DirectoryDrive(path)
    assert drive.lock()
    drive.put("superblock", b"content")
    drive.close()
    assert sorted(os.listdir(path)) == ["lock", "superblock"]
    drive = DirectoryDrive(path)
    assert drive.lock()
    drive.close()
    assert sorted(os.listdir(path)) == ["lock", "superblock"]


def test_a_lock_file_that_somebody_removed_lets_no_other_in(path: Path) -> None:
    first, second = DirectoryDrive(path), DirectoryDrive(path)
    assert first.lock()
    (path / "lock").unlink()
    assert not second.lock()
    first.close()
    assert second.lock()


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK])
def test_the_lock_holds_where_directories_cannot_be_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    flock = fcntl.flock

    def as_on_nfs(fd: int, how: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(number, os.strerror(number))
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    first, second = DirectoryDrive(path), DirectoryDrive(path)
    assert first.lock()
    assert not second.lock()
    first.close()
    assert second.lock()


def test_the_lock_keeps_out_another_process(path: Path) -> None:
    drive = DirectoryDrive(path)
    assert drive.lock()
    program = (
        "import sys; from shmr.drive.directory import DirectoryDrive;"
        "print(DirectoryDrive(sys.argv[1]).lock())"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"


def test_lost_and_found_does_not_make_a_drive_used(path: Path) -> None:
    drive = DirectoryDrive(path)
    (path / "lost+found").mkdir()
    assert drive.is_empty()
    (path / "stranger").mkdir()
    assert not drive.is_empty()


def test_a_plain_directory_is_no_mount_point_and_the_root_is(path: Path) -> None:
    assert not DirectoryDrive(path).is_mount_point()
    assert DirectoryDrive("/").is_mount_point()


def test_a_bind_mount_of_the_same_disk_is_a_mount_point(path: Path) -> None:
    source = path.parent / "source"
    source.mkdir()
    done = subprocess.run(["mount", "--bind", source, path], capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip("needs the right to mount")
    try:
        drive = DirectoryDrive(path)
        assert drive.is_mount_point()
        drive.close()
    finally:
        subprocess.run(["umount", path], check=True, timeout=60)


def test_written_bytes_are_read_from_the_cache(path: Path) -> None:
    drive = DirectoryDrive(path)
    file = drive.claim("a", MIB)
    file.append([pattern(8192)])
    if not drive.reads_nowait or file.read_cached(0, 8192) is None:
        pytest.skip("this filesystem does not read without waiting")
    assert file.read_cached(4096, 4096) == pattern(4096, 4096)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EAGAIN])
def test_a_cached_read_that_cannot_be_had_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls = []

    def refuse(*arguments: object) -> int:
        calls.append(arguments)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", refuse)
    drive = DirectoryDrive(path)
    file = drive.claim("a", 4096)
    assert file.read_cached(0, 10) is None
    assert file.read_cached(0, 10) is None
    assert len(calls) == (1 if number == errno.EOPNOTSUPP else 2), "unsupported is for ever"
    assert file.read(0, 10) == bytes(10)


def test_a_partly_cached_read_is_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset, flags: 5)
    file = DirectoryDrive(path).claim("a", 4096)
    assert file.read_cached(0, 10) is None


def test_a_forgotten_drive_and_file_give_their_descriptors_back(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        DirectoryDrive(path).claim(str(number), 4096)
    assert len(os.listdir("/proc/self/fd")) == before
