"""Fifos, sockets and device nodes."""

from __future__ import annotations

import errno
import os
import socket
import stat
from functools import partial
from pathlib import Path

import pytest

from tests.posix.calls import OWNER, as_user, in_child, refused, write_file


def test_a_fifo_carries_bytes_between_processes(place: Path) -> None:
    os.mkfifo(place / "fifo", 0o640)
    state = os.stat(place / "fifo")
    assert stat.S_ISFIFO(state.st_mode)
    assert (stat.S_IMODE(state.st_mode), state.st_size, state.st_nlink) == (0o640, 0, 1)
    child = os.fork()
    if child == 0:
        with open(place / "fifo", "wb") as sink:
            sink.write(b"hello" * 10_000)
        os._exit(0)
    with open(place / "fifo", "rb") as source:
        assert source.read() == b"hello" * 10_000
    assert os.waitpid(child, 0)[1] == 0
    assert os.stat(place / "fifo").st_size == 0


def test_a_fifo_without_the_other_end(place: Path) -> None:
    os.mkfifo(place / "fifo")
    with refused(errno.ENXIO):
        os.open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    reader = os.open(place / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 10) == b""
    writer = os.open(place / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    os.unlink(place / "fifo")
    os.write(writer, b"still here")
    assert os.read(reader, 10) == b"still here"
    with refused(errno.ESPIPE):
        os.lseek(reader, 0, os.SEEK_SET)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_unix_socket_is_bound_and_reached_by_name(place: Path, kind: int) -> None:
    before = os.getcwd()
    os.chdir(place)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX, kind) as server:
            server.bind("socket")
            assert stat.S_ISSOCK(os.stat("socket").st_mode)
            if kind == socket.SOCK_STREAM:
                server.listen()

            def greet() -> None:
                with socket.socket(socket.AF_UNIX, kind) as client:
                    client.connect("socket")
                    client.send(b"hello")

            in_child(greet)
            if kind == socket.SOCK_STREAM:
                with server.accept()[0] as connection:
                    assert connection.recv(10) == b"hello"
            else:
                assert server.recv(10) == b"hello"
            with socket.socket(socket.AF_UNIX, kind) as second, refused(errno.EADDRINUSE):
                second.bind("socket")
        with socket.socket(socket.AF_UNIX, kind) as late, refused(errno.ECONNREFUSED):
            late.connect("socket")
    finally:
        os.chdir(before)


@pytest.mark.root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("numbers", [(1, 3), (0, 0), (255, 255), (259, 70_000), (4095, 1_048_575)])
def test_device_nodes_keep_their_numbers(place: Path, kind: int, numbers: tuple[int, int]) -> None:
    os.mknod(place / "node", kind | 0o620, os.makedev(*numbers))
    state = os.stat(place / "node")
    assert stat.S_IFMT(state.st_mode) == kind
    assert (os.major(state.st_rdev), os.minor(state.st_rdev)) == numbers
    assert stat.S_IMODE(state.st_mode) == 0o620 & ~0o022
    os.rename(place / "node", place / "moved")
    assert os.stat(place / "moved").st_rdev == state.st_rdev


@pytest.mark.root
def test_users_make_fifos_and_sockets_but_no_devices(place: Path) -> None:
    place.chmod(0o777)
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        with refused(errno.EPERM):
            as_user(OWNER, partial(os.mknod, place / "node", kind | 0o600, 259))
    as_user(OWNER, lambda: os.mkfifo(place / "fifo"))
    as_user(OWNER, lambda: os.mknod(place / "socket", stat.S_IFSOCK | 0o600))
    assert os.stat(place / "fifo").st_uid == OWNER
    assert os.stat(place / "socket").st_uid == OWNER


@pytest.mark.root
def test_a_device_works_unless_the_mount_says_nodev(place: Path) -> None:
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    if os.statvfs(place).f_flag & os.ST_NODEV:
        with refused(errno.EACCES):
            os.open(place / "null", os.O_WRONLY)
    else:
        (place / "null").write_bytes(b"gone")
        assert (place / "null").read_bytes() == b""


def test_mknod_makes_plain_files_and_refuses_what_is_no_node(place: Path) -> None:
    os.mknod(place / "plain", stat.S_IFREG | 0o600)
    os.mknod(place / "typeless", 0o600)
    for name in ("plain", "typeless"):
        assert stat.S_ISREG(os.stat(place / name).st_mode)
        write_file(place / name, b"content")
    with refused(errno.EPERM):
        os.mknod(place / "directory", stat.S_IFDIR | 0o700)
    with refused(errno.EINVAL):
        os.mknod(place / "link", stat.S_IFLNK | 0o700)
    for name in ("plain", "missing/node", "plain/node"):
        with refused(errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            os.mkfifo(place / name)
