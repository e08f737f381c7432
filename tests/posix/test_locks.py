"""flock(2), fcntl(2) and open-file-description locks between processes."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix.calls import in_child, refused, write_file

WHOLE = (0, 0)
OFD_SETLK = 37


@pytest.fixture
def path(place: Path) -> Path:
    return write_file(place / "file", b"x" * 100)


@pytest.fixture
def held(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def flock_there(path: Path, how: int) -> None:
    """Try a flock in another process."""

    def attempt() -> None:
        fcntl.flock(os.open(path, os.O_RDWR), how | fcntl.LOCK_NB)

    in_child(attempt)


def lock_there(path: Path, how: int, start: int, length: int) -> None:
    """Try a record lock in another process."""

    def attempt() -> None:
        fcntl.lockf(os.open(path, os.O_RDWR), how | fcntl.LOCK_NB, length, start)

    in_child(attempt)


def test_flock_excludes_shares_and_lets_go(path: Path, held: int) -> None:
    fcntl.flock(held, fcntl.LOCK_EX)
    for how in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        with refused(errno.EWOULDBLOCK):
            flock_there(path, how)
    fcntl.flock(held, fcntl.LOCK_SH)
    flock_there(path, fcntl.LOCK_SH)
    with refused(errno.EWOULDBLOCK):
        flock_there(path, fcntl.LOCK_EX)
    fcntl.flock(held, fcntl.LOCK_UN)
    flock_there(path, fcntl.LOCK_EX)


def test_flock_belongs_to_the_open_file_and_ends_with_its_last_descriptor(path: Path) -> None:
    first = os.open(path, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    second = os.dup(first)
    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(first)
    with refused(errno.EWOULDBLOCK):
        flock_there(path, fcntl.LOCK_EX)
    other = os.open(path, os.O_RDONLY)
    with refused(errno.EWOULDBLOCK):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(other)
    os.close(second)
    flock_there(path, fcntl.LOCK_EX)


def test_record_locks_are_for_ranges(path: Path, held: int) -> None:
    fcntl.lockf(held, fcntl.LOCK_EX, 10, 10)
    lock_there(path, fcntl.LOCK_EX, 0, 10)
    lock_there(path, fcntl.LOCK_EX, 20, 0)
    for start, length in [(10, 1), (19, 1), (0, 11), (19, 0), WHOLE]:
        with refused(errno.EAGAIN, errno.EACCES):
            lock_there(path, fcntl.LOCK_SH, start, length)
    fcntl.lockf(held, fcntl.LOCK_UN, 5, 12)
    lock_there(path, fcntl.LOCK_EX, 12, 5)
    with refused(errno.EAGAIN, errno.EACCES):
        lock_there(path, fcntl.LOCK_EX, 11, 1)
    fcntl.lockf(held, fcntl.LOCK_SH, 0, 0)
    lock_there(path, fcntl.LOCK_SH, 0, 0)


def test_record_locks_end_when_any_descriptor_of_the_process_is_closed(
    path: Path, held: int
) -> None:
    fcntl.lockf(held, fcntl.LOCK_EX)
    os.close(os.open(path, os.O_RDONLY))
    lock_there(path, fcntl.LOCK_EX, *WHOLE)


def test_who_holds_a_lock_is_told(path: Path, held: int) -> None:
    fcntl.lockf(held, fcntl.LOCK_EX, 7, 3)

    def ask() -> tuple[int, int, int, int]:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_GETLK, question)
        kind, _, start, length, pid = struct.unpack("hhqqi4x", answer)
        return kind, start, length, pid

    assert in_child(ask) == (fcntl.F_WRLCK, 3, 7, os.getpid())


def test_a_lock_needs_the_right_direction(path: Path) -> None:
    reader = os.open(path, os.O_RDONLY)
    writer = os.open(path, os.O_WRONLY)
    with refused(errno.EBADF):
        fcntl.lockf(reader, fcntl.LOCK_EX)
    with refused(errno.EBADF):
        fcntl.lockf(writer, fcntl.LOCK_SH)
    os.close(reader)
    os.close(writer)


def test_locks_of_open_files_exclude_within_one_process(path: Path, held: int) -> None:
    def record(kind: int, start: int, length: int) -> bytes:
        return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)

    fcntl.fcntl(held, OFD_SETLK, record(fcntl.F_WRLCK, 0, 10))
    other = os.open(path, os.O_RDWR)
    with refused(errno.EAGAIN, errno.EACCES):
        fcntl.fcntl(other, OFD_SETLK, record(fcntl.F_RDLCK, 9, 1))
    fcntl.fcntl(other, OFD_SETLK, record(fcntl.F_WRLCK, 10, 1))
    with refused(errno.EAGAIN, errno.EACCES):
        lock_there(path, fcntl.LOCK_EX, 0, 1)
    os.close(other)
    lock_there(path, fcntl.LOCK_EX, 10, 1)


def test_waiting_lockers_take_turns(place: Path) -> None:
    path = write_file(place / "counter", b"0")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(50):
                descriptor = os.open(path, os.O_RDWR)
                fcntl.lockf(descriptor, fcntl.LOCK_EX)
                value = int(os.pread(descriptor, 20, 0)) + 1
                os.pwrite(descriptor, b"%d" % value, 0)
                os.close(descriptor)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert path.read_bytes() == b"200"


def test_a_circle_of_waiters_is_a_deadlock(path: Path, held: int) -> None:
    fcntl.lockf(held, fcntl.LOCK_EX, 1, 0)
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        descriptor = os.open(path, os.O_RDWR)
        fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 1)
        os.write(tell, b"x")
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, 0)
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    os.read(ready, 1)
    ours = 0
    try:
        fcntl.lockf(held, fcntl.LOCK_EX, 1, 1)
    except OSError as error:
        ours = error.errno or 1
        fcntl.lockf(held, fcntl.LOCK_UN)
    theirs = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert sorted((ours, theirs)) == [0, errno.EDEADLK]
    os.close(ready)
    os.close(tell)
