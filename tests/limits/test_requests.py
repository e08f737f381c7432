"""Whatever is asked of it, the daemon lives on: requests drawn at random, none of them polite."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import random
import select
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.crash.conftest import Make
from tests.crash.damage import log_of
from tests.crash.load import inconsistencies
from tests.posix.calls import rename2

pytestmark = pytest.mark.mount

_libc = ctypes.CDLL(None, use_errno=True)
NAMES = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"e" * 255,
    b"f" * 256,
    b"\xff\xfe",
    b"\n",
    b" ",
    b"-",
    b"g" * 4000,
]
NAMES += [bytes([byte]) for byte in (1, 127, 128)] + ["ü".encode(), b".", b"..", b"", b"\\", b"h/i"]
SIZES = [0, 1, 511, 4095, 4096, 4097, 65536, 131072, 1 << 20, (1 << 20) + 1, 3 << 20]
OFFSETS = [0, 1, 4095, 4096, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 50, (1 << 62), (1 << 63) - 1]
OFFSETS += [(1 << 63) - 4096, (1 << 43), (1 << 44) - 1, -1, -4096]
NUMBERS = [0, 1, -1, 2, 1000, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, -(1 << 63)]
XATTRS = [b"user.a", b"user." + b"x" * 250, b"user.", b"user", b"trusted.a", b"security.a"]
XATTRS += [b"system.posix_acl_access", b"system.posix_acl_default", b"system.x", b"", b"\xff.\xff"]
XATTRS += [b"security.capability", b"user." + b"y" * 300]
KINDS = [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFDIR, 0]
KINDS += [stat.S_IFLNK, 0o150000]


class Rudeness:
    """One request after the other, in one directory; OSError is an answer like any other."""

    def __init__(self, top: Path, rng: random.Random) -> None:
        self._top = os.fsencode(top)
        self._rng = rng
        self._open: list[int] = []
        self.calls: list[Callable[[], object]] = [
            getattr(self, name) for name in dir(self) if name.startswith("do_")
        ]

    def step(self) -> None:
        with suppress(OSError, ValueError, OverflowError):
            self._rng.choice(self.calls)()

    def end(self) -> None:
        for descriptor in self._open:
            with suppress(OSError):
                os.close(descriptor)

    def _path(self) -> bytes:
        depth = self._rng.choice((1, 1, 1, 2, 3))
        return b"/".join([self._top, *(self._rng.choice(NAMES) for _ in range(depth))])

    def _descriptor(self) -> int:
        if not self._open or self._rng.random() < 0.3:
            self.do_open()
        return self._rng.choice(self._open)

    def do_open(self) -> None:
        flags = self._rng.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3)) | os.O_NONBLOCK
        for flag in (
            os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECT, os.O_SYNC, os.O_DSYNC,
            os.O_DIRECTORY, os.O_NOFOLLOW, os.O_NOATIME, os.O_PATH, os.O_TMPFILE, 1 << 30,
        ):  # fmt: skip
            if self._rng.random() < (0.5 if flag == os.O_CREAT else 0.1):
                flags |= flag
        self._open.append(os.open(self._path(), flags, self._rng.randrange(0o10000)))
        if len(self._open) > 40:
            os.close(self._open.pop(self._rng.randrange(len(self._open))))

    def do_write(self) -> None:
        payload = bytes(self._rng.choice(SIZES))
        os.pwrite(self._descriptor(), payload, self._rng.choice(OFFSETS))

    def do_append(self) -> None:
        os.write(self._descriptor(), b"x" * self._rng.choice(SIZES))

    def do_read(self) -> None:
        os.pread(self._descriptor(), self._rng.choice(SIZES), self._rng.choice(OFFSETS))

    def do_truncate(self) -> None:
        os.ftruncate(self._descriptor(), self._rng.choice(OFFSETS))
        os.truncate(self._path(), self._rng.choice(OFFSETS))

    def do_fallocate(self) -> None:
        arguments = (self._rng.choice(OFFSETS), self._rng.choice(OFFSETS))
        mode = self._rng.choice((0, 1, 2, 3, 8, 16, 32, 64, 0xFFFF))
        _libc.fallocate(self._descriptor(), mode, *map(ctypes.c_long, arguments))

    def do_seek(self) -> None:
        os.lseek(self._descriptor(), self._rng.choice(OFFSETS), self._rng.randrange(6))

    def do_copy_range(self) -> None:
        size = self._rng.choice(SIZES)
        start, to = (self._rng.choice(OFFSETS[:6]) for _ in range(2))
        os.copy_file_range(self._descriptor(), self._descriptor(), size, start, to)

    def do_sync(self) -> None:
        self._rng.choice((os.fsync, os.fdatasync))(self._descriptor())

    def do_ioctl(self) -> None:
        fcntl.ioctl(self._descriptor(), self._rng.randrange(1 << 32), bytes(256))

    def do_fcntl(self) -> None:
        fcntl.fcntl(self._descriptor(), self._rng.randrange(40), self._rng.choice(NUMBERS[:5]))

    def do_lock(self) -> None:
        fcntl.lockf(
            self._descriptor(),
            self._rng.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)) | fcntl.LOCK_NB,
            self._rng.choice(OFFSETS),
            self._rng.choice(OFFSETS),
        )

    def do_flock(self) -> None:
        fcntl.flock(self._descriptor(), self._rng.choice((1, 2, 8)) | fcntl.LOCK_NB)

    def do_poll(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor())
        poll.poll(0)

    def do_map(self) -> None:
        descriptor = self._descriptor()
        size = min(os.fstat(descriptor).st_size, 1 << 20)
        with mmap.mmap(descriptor, size) as mapped:
            mapped[self._rng.randrange(size)] = 7
            if self._rng.random() < 0.5:
                mapped.flush()

    def do_make_node(self) -> None:
        mode = self._rng.choice(KINDS) | self._rng.randrange(0o10000)
        os.mknod(self._path(), mode, self._rng.choice(NUMBERS[:6]))

    def do_make_directory(self) -> None:
        os.mkdir(self._path(), self._rng.randrange(0o10000))

    def do_make_socket(self) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(self._top + b"/" + self._rng.choice(NAMES[:4]))

    def do_symlink(self) -> None:
        os.symlink(self._rng.choice((b"x", b"y" * 4095, b"z" * 4096, self._path())), self._path())
        os.readlink(self._path())

    def do_link(self) -> None:
        os.link(self._path(), self._path(), follow_symlinks=self._rng.random() < 0.5)

    def do_rename(self) -> None:
        rename2(self._path(), self._path(), self._rng.choice((0, 0, 1, 2, 3, 4, 5, 8, 1 << 31)))

    def do_unlink(self) -> None:
        os.unlink(self._path())

    def do_remove_directory(self) -> None:
        os.rmdir(self._path())

    def do_list(self) -> None:
        os.listdir(self._path())
        os.listdir(self._top)

    def do_stat(self) -> None:
        os.stat(self._path(), follow_symlinks=self._rng.random() < 0.5)
        os.statvfs(self._path())

    def do_mode(self) -> None:
        os.chmod(self._path(), self._rng.randrange(0o10000))

    def do_owner(self) -> None:
        os.chown(self._path(), self._rng.choice(NUMBERS[:6]), self._rng.choice(NUMBERS[:6]))

    def do_times(self) -> None:
        os.utime(self._path(), ns=(self._rng.choice(OFFSETS), self._rng.choice(NUMBERS)))

    def do_set_xattr(self) -> None:
        value = self._rng.randbytes(self._rng.choice((0, 1, 4, 28, 44, 4096, 65536, 65537)))
        os.setxattr(self._path(), self._rng.choice(XATTRS), value, self._rng.choice((0, 1, 2, 3)))

    def do_acl(self) -> None:
        entries = self._rng.randbytes(8 * self._rng.randrange(6))
        os.setxattr(self._path(), self._rng.choice(XATTRS[6:8]), b"\2\0\0\0" + entries)

    def do_get_xattr(self) -> None:
        os.getxattr(self._path(), self._rng.choice(XATTRS))
        os.listxattr(self._path())

    def do_remove_xattr(self) -> None:
        os.removexattr(self._path(), self._rng.choice(XATTRS))

    def do_send(self) -> None:
        source, sink = self._descriptor(), self._descriptor()
        os.sendfile(sink, source, self._rng.choice(OFFSETS[:5]), self._rng.choice(SIZES))

    def do_advise(self) -> None:
        arguments = (self._rng.choice(OFFSETS), self._rng.choice(OFFSETS), self._rng.randrange(8))
        os.posix_fadvise(self._descriptor(), *arguments)

    def do_umask(self) -> None:
        os.umask(self._rng.randrange(0o1000))


def rude_for(top: Path, seed: int, steps: int, limit_s: float) -> int:
    """In a child, so that its umask, its files and its signals are its own; returns its status."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 2)
            rudeness = Rudeness(top, random.Random(seed))
            until = time.monotonic() + limit_s
            for _ in range(steps):
                rudeness.step()
                if time.monotonic() > until:
                    break
            rudeness.end()
            os._exit(0)
        finally:
            os._exit(99)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=pytest.mark.thorough)])
@pytest.mark.timeout(400)
def test_no_request_ends_the_daemon_or_surprises_it(make_filesystem: Make, count: int) -> None:
    filesystem = make_filesystem(size="512MiB", options="allow_other,dev,suid")
    filesystem.start()
    (daemon,) = filesystem.processes()
    for seed in range(count):
        place = filesystem.path / f"seed-{seed}"
        place.mkdir()
        status = rude_for(place, seed, 6000, 15.0)
        assert status in (0, 99 << 8) or os.WIFSIGNALED(status), (seed, status)
        assert filesystem.processes() == [daemon], seed
        assert "unexpectedly" not in log_of(filesystem), seed
        assert (filesystem.path / "alive").write_bytes(b"yes") == 3
    filesystem.remount()
    assert inconsistencies(filesystem.path) == []
