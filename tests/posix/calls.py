"""System calls that Python does not offer, and doing things as another user.

`as_user` runs a function in a forked child that has become the user, and brings home what it
returned or the OSError that it raised. It leaves the choice of users to the tests: OWNER, OTHER
and STRANGER are three ordinary ones that need no entry in the password file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

OWNER, OTHER, STRANGER = 20001, 20002, 20003
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
NOREPLACE, EXCHANGE = 1, 2
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
TICK_LIMIT_S = 5.0
_COARSE_CLOCK = 5  # CLOCK_REALTIME_COARSE, which Python does not name

_libc = ctypes.CDLL(None, use_errno=True)
_GETDENTS64 = {"x86_64": 217}.get(os.uname().machine, 61)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block must raise an OSError with one of `numbers`."""
    names = "/".join(errno.errorcode[number] for number in numbers)
    try:
        yield
    except OSError as error:
        found = errno.errorcode.get(error.errno or 0, str(error.errno))
        assert error.errno in numbers, f"expected {names}, found {found}"
    else:
        raise AssertionError(f"expected {names}, but it succeeded")


def in_child(action: Callable[[], T]) -> T:
    """What `action` returns, or the OSError it raises, when a forked child runs it."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        answer: tuple[str, object]
        try:
            answer = ("value", action())
        except OSError as error:
            answer = ("errno", error.errno)
        except BaseException:
            answer = ("broken", traceback.format_exc())
        with os.fdopen(sink, "wb") as stream:
            stream.write(pickle.dumps(answer))
        os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as stream:
        message = stream.read()
    os.waitpid(child, 0)
    assert message, "the child ended without an answer"
    kind, value = pickle.loads(message)
    if kind == "errno":
        raise OSError(value, os.strerror(value))
    assert kind == "value", value
    result: T = value
    return result


def as_user(
    uid: int,
    action: Callable[[], T],
    *,
    gid: int | None = None,
    groups: Sequence[int] = (),
    umask: int = 0o022,
) -> T:
    """`in_child`, after becoming `uid` with the primary group `gid` (default: the same number)."""

    def become() -> T:
        group = uid if gid is None else gid
        os.setgroups(list(groups))
        os.setresgid(group, group, group)
        os.setresuid(uid, uid, uid)
        os.umask(umask)
        return action()

    return in_child(become)


def rename2(source: Path | bytes, target: Path | bytes, flags: int) -> None:
    """renameat2(2) with `flags`."""
    _checked(
        _libc.renameat2(
            AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
        )
    )


KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    _checked(_libc.fallocate(descriptor, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def link_followed(source: Path | str, target: Path) -> None:
    """linkat(2) that follows a symlink at `source`, /proc/self/fd/N too; os.link does not."""
    old, new = os.fsencode(source), os.fsencode(target)
    _checked(_libc.linkat(AT_FDCWD, old, AT_FDCWD, new, AT_SYMLINK_FOLLOW))


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("ns", ctypes.c_long)]


def utimens(path: Path, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2); each time is (seconds, ns), and ns may be UTIME_NOW or UTIME_OMIT."""
    times = (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime))
    _checked(_libc.utimensat(AT_FDCWD, os.fsencode(path), times, 0))


def getxattr_into(path: Path, name: bytes, size: int) -> int:
    """getxattr(2) with a buffer of exactly `size` bytes; returns the length."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return _checked(_libc.getxattr(os.fsencode(path), name, buffer, ctypes.c_size_t(size)))


def listxattr_into(path: Path, size: int) -> int:
    """listxattr(2) with a buffer of exactly `size` bytes; returns the length."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    return _checked(_libc.listxattr(os.fsencode(path), buffer, ctypes.c_size_t(size)))


class Entry(NamedTuple):
    """One entry as getdents64(2) gives it; `offset` is where the next one is found."""

    inode: int
    offset: int
    kind: int
    name: bytes


def getdents(descriptor: int, size: int = 4096) -> list[Entry]:
    """The next entries of an open directory, as many as fit `size` bytes; empty at the end."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(_libc.syscall(_GETDENTS64, descriptor, buffer, ctypes.c_size_t(size)))
    entries, at = [], 0
    while at < length:
        inode, offset, record, kind = struct.unpack_from("=QqHB", buffer.raw, at)
        name = buffer.raw[at + 19 : at + record].split(b"\0", 1)[0]
        entries.append(Entry(inode, offset, kind, name))
        at += record
    return entries


def let_clock_tick(*paths: Path) -> None:
    """Return once a change made now gets a later time than any that `paths` have.

    The kernel stamps with a clock of a few milliseconds' grain; this watches it, bounded.
    """
    latest = 0
    for path in paths:
        state = os.lstat(path)
        latest = max(latest, state.st_ctime_ns, state.st_mtime_ns, state.st_atime_ns)
    start = time.clock_gettime_ns(_COARSE_CLOCK)
    limit = time.monotonic() + TICK_LIMIT_S
    while time.clock_gettime_ns(_COARSE_CLOCK) <= max(latest, start):
        assert time.monotonic() < limit, "times lie in the future"


def write_file(path: Path, content: bytes = b"", mode: int = 0o644) -> Path:
    """Make `path` with `content` and exactly `mode`; returns the path."""
    path.write_bytes(content)
    path.chmod(mode)
    return path


def is_fuse(place: Path) -> bool:
    """Whether a FUSE filesystem holds `place`, as the magic number of statfs(2) tells."""
    words = subprocess.run(
        ["stat", "--file-system", "--format=%t", str(place)], capture_output=True, check=True
    )
    return words.stdout.strip() == b"65735546"


def name_to_handle(path: Path) -> bytes:
    """A `struct file_handle` of the file: name_to_handle_at(2)."""
    room = 128
    handle = ctypes.create_string_buffer(struct.pack("Ii", room, 0), 8 + room)
    mount = ctypes.c_int()
    _checked(_libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), handle, ctypes.byref(mount), 0))
    used, _ = struct.unpack_from("Ii", handle)
    return handle.raw[: 8 + used]


def open_by_handle(place: Path, handle: bytes, flags: int) -> int:
    """A descriptor of the file of `handle`, on the filesystem that `place` is on."""
    mount = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(_libc.open_by_handle_at(mount, handle, flags))
    finally:
        os.close(mount)
