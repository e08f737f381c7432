"""The model is right: it says what the filesystem under the temporary directory does.

Random operations go to both, errnos and trees are compared. Needs root (ids, no permission
checks), and a filesystem with ext4's link counts and extended attributes; holes are tried where it
can make them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmr.core import acl
from shmr.core.acl import Acl, Entry, Tag
from shmr.errors import Refused
from shmr.format.rows import ROOT
from shmr.testing.model import Model
from shmr.testing.tree import KINDS
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

UMASK = 0o027
CALLER = Caller(0, 0, UMASK)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)

name = st.sampled_from([b"a", b"b", b"c", b"x" * 255, b"x" * 256])
path = st.lists(name, min_size=1, max_size=3).map(tuple)
mode = st.sampled_from([0o777, 0o640, 0o2775, 0o4711, 0o1700])
ACLS = [
    Acl((Entry(Tag.OWNER, 6), Entry(Tag.GROUP, 4), Entry(Tag.OTHER, 1))),
    Acl(
        (
            Entry(Tag.OWNER, 7),
            Entry(Tag.USER, 5, 12),
            Entry(Tag.GROUP, 6),
            Entry(Tag.MASK, 3),
            Entry(Tag.OTHER, 5),
        )
    ),
]
attribute = st.sampled_from([b"user.x", b"trusted.y", acl.ACCESS, acl.DEFAULT])
value = st.sampled_from([b"", b"rub", *(acl.encode(one) for one in ACLS)])
offset = st.sampled_from([0, 1, 4095, 4096, 100_000])
length = st.sampled_from([-1, 0, 1, 100, 4096, 5000, 100_000])
fallocate_mode = st.sampled_from(
    [0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | 1]
)
kind = st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR])
operation = st.one_of(
    st.tuples(st.just("mknod"), path, kind, mode),
    st.tuples(st.just("mkdir"), path, mode),
    st.tuples(st.just("mkdir"), path, mode),
    st.tuples(st.just("symlink"), path),
    st.tuples(st.just("link"), path, path),
    st.tuples(st.just("unlink"), path),
    st.tuples(st.just("rmdir"), path),
    st.tuples(st.just("rename"), path, path, st.sampled_from([0, 0, 0, 1, 2, 2, 3])),
    st.tuples(st.just("chmod"), path, mode),
    st.tuples(st.just("chown"), path, st.sampled_from([0, 12]), st.sampled_from([0, 34])),
    st.tuples(st.just("utime"), path, st.sampled_from([-1, 0, 1, 2**32 * 10**9 + 7])),
    st.tuples(st.just("truncate"), path, offset),
    st.tuples(st.just("write"), path, offset, st.binary(max_size=20)),
    st.tuples(st.just("fallocate"), path, fallocate_mode, offset, length),
    st.tuples(st.just("setxattr"), path, attribute, value),
    st.tuples(st.just("removexattr"), path, attribute),
)
FILE = (b"file",)
change_of_file = st.one_of(
    st.tuples(st.just("truncate"), st.just(FILE), offset),
    st.tuples(st.just("write"), st.just(FILE), offset, st.just(b"many bytes" * 1000)),
    st.tuples(st.just("write"), st.just(FILE), offset, st.just(b"few")),
    st.tuples(st.just("fallocate"), st.just(FILE), fallocate_mode, offset, length),
    st.tuples(st.just("fallocate"), st.just(FILE), fallocate_mode, offset, length),
)


class Linux:
    """The operations as system calls below `top`, and what is there then."""

    def __init__(self, top: bytes) -> None:
        self.top = top

    def at(self, path: tuple[bytes, ...]) -> bytes:
        return b"/".join((self.top, *path))

    def mknod(self, path: tuple[bytes, ...], kind: int, mode: int) -> None:
        os.mknod(self.at(path), kind | mode, 5 if kind == stat.S_IFCHR else 0)

    def mkdir(self, path: tuple[bytes, ...], mode: int) -> None:
        os.mkdir(self.at(path), mode & 0o1777)

    def symlink(self, path: tuple[bytes, ...]) -> None:
        os.symlink(b"nowhere", self.at(path))

    def link(self, path: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        os.link(self.at(path), self.at(new), follow_symlinks=False)

    def unlink(self, path: tuple[bytes, ...]) -> None:
        os.unlink(self.at(path))

    def rmdir(self, path: tuple[bytes, ...]) -> None:
        os.rmdir(self.at(path))

    def rename(self, path: tuple[bytes, ...], new: tuple[bytes, ...], flags: int) -> None:
        if _libc.renameat2(-100, self.at(path), -100, self.at(new), flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def chmod(self, path: tuple[bytes, ...], mode: int) -> None:
        os.chmod(self.not_a_link(path), mode)

    def chown(self, path: tuple[bytes, ...], uid: int, gid: int) -> None:
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def utime(self, path: tuple[bytes, ...], time_ns: int) -> None:
        os.utime(self.at(path), ns=(time_ns, time_ns), follow_symlinks=False)

    def truncate(self, path: tuple[bytes, ...], size: int) -> None:
        os.truncate(self.not_a_link(path), size)

    def write(self, path: tuple[bytes, ...], offset: int, content: bytes) -> None:
        facts = os.lstat(self.at(path))
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, "directory")
        if not stat.S_ISREG(facts.st_mode):
            raise OSError(errno.EINVAL, "not a file")
        fd = os.open(self.at(path), os.O_WRONLY)
        try:
            os.pwrite(fd, content, offset)
        finally:
            os.close(fd)

    def fallocate(self, path: tuple[bytes, ...], mode: int, offset: int, length: int) -> None:
        kind = stat.S_IFMT(os.lstat(self.at(path)).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFDIR):
            raise OSError(errno.ENODEV, "nothing that can be opened")
        if kind == stat.S_IFDIR and length > 0:
            raise IsADirectoryError(errno.EISDIR, "never open for writing")
        fd = os.open(self.at(path), os.O_RDONLY if kind == stat.S_IFDIR else os.O_RDWR)
        try:
            fallocate(fd, mode, offset, length)
        finally:
            os.close(fd)

    def seek(self, path: tuple[bytes, ...], offset: int, hole: bool) -> int:
        fd = os.open(self.at(path), os.O_RDONLY)
        try:
            return os.lseek(fd, offset, os.SEEK_HOLE if hole else os.SEEK_DATA)
        finally:
            os.close(fd)

    def setxattr(self, path: tuple[bytes, ...], name: bytes, value: bytes) -> None:
        os.setxattr(self.plain(path), name, value, follow_symlinks=False)

    def removexattr(self, path: tuple[bytes, ...], name: bytes) -> None:
        os.removexattr(self.plain(path), name, follow_symlinks=False)

    def not_a_link(self, path: tuple[bytes, ...]) -> bytes:
        if stat.S_ISLNK(os.lstat(self.at(path)).st_mode):
            raise OSError(errno.EINVAL, "a link")
        return self.at(path)

    def plain(self, path: tuple[bytes, ...]) -> bytes:
        if stat.S_IFMT(os.lstat(self.at(path)).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.EPERM, "attributes are for files and directories")
        return self.at(path)

    def tree(self) -> dict[bytes, tuple[object, ...]]:
        found = {b"/": self.entry(self.top)}
        for place, directories, files in os.walk(self.top):
            for name in directories + files:
                below = os.path.join(place, name)
                found[below[len(self.top) :]] = self.entry(below)
        return found

    @staticmethod
    def entry(path: bytes) -> tuple[object, ...]:
        facts = os.lstat(path)
        kind = KINDS[stat.S_IFMT(facts.st_mode)]
        names = sorted(map(os.fsencode, os.listxattr(path, follow_symlinks=False)))
        xattrs = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
        return (
            kind,
            stat.S_IMODE(facts.st_mode),
            facts.st_nlink,
            (facts.st_uid, facts.st_gid, facts.st_rdev),
            facts.st_size if kind in ("file", "symlink") else 0,
            os.readlink(path) if kind == "symlink" else b"",
            xattrs,
            Path(os.fsdecode(path)).read_bytes() if kind == "file" else b"",
        )


class Modelled:
    """The same operations, with the model's paths walked as the kernel walks them."""

    def __init__(self, root_gid: int, root_mode: int) -> None:
        self.model = Model(lambda: 0)
        self.model.attributes.set(ROOT, AttributeChange(mode=root_mode, gid=root_gid))

    def parent(self, path: tuple[bytes, ...]) -> int:
        number = ROOT
        for name in path[:-1]:
            inode = self.model.names.lookup(number, name)
            if stat.S_ISLNK(inode.mode):
                raise Refused(errno.ENOENT)  # all of them lead nowhere
            if not stat.S_ISDIR(inode.mode):
                raise Refused(errno.ENOTDIR)
            number = inode.number
        return number

    def at(self, path: tuple[bytes, ...]) -> int:
        return self.model.names.lookup(self.parent(path), path[-1]).number

    def mknod(self, path: tuple[bytes, ...], kind: int, mode: int) -> None:
        rdev = 5 if kind == stat.S_IFCHR else 0
        self.model.names.create(self.parent(path), path[-1], kind | mode, CALLER, rdev)

    def mkdir(self, path: tuple[bytes, ...], mode: int) -> None:
        made = stat.S_IFDIR | mode & 0o1777
        self.model.names.create(self.parent(path), path[-1], made, CALLER)

    def symlink(self, path: tuple[bytes, ...]) -> None:
        target = b"nowhere"
        self.model.names.create(self.parent(path), path[-1], stat.S_IFLNK, CALLER, 0, target)

    def link(self, path: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        self.model.names.link(self.at(path), self.parent(new), new[-1])

    def unlink(self, path: tuple[bytes, ...]) -> None:
        self.model.names.unlink(self.parent(path), path[-1])

    def rmdir(self, path: tuple[bytes, ...]) -> None:
        self.model.names.rmdir(self.parent(path), path[-1])

    def rename(self, path: tuple[bytes, ...], new: tuple[bytes, ...], flags: int) -> None:
        if flags == 3:
            raise Refused(errno.EINVAL)  # before any path is walked
        parent, new_parent = self.parent(path), self.parent(new)
        self.model.names.rename(parent, path[-1], new_parent, new[-1], flags)

    def change(self, path: tuple[bytes, ...], change: AttributeChange, link: bool = True) -> None:
        number = self.at(path)
        if not link and stat.S_ISLNK(self.model.attributes.get(number).mode):
            raise Refused(errno.EINVAL)
        self.model.attributes.set(number, change)

    def chmod(self, path: tuple[bytes, ...], mode: int) -> None:
        self.change(path, AttributeChange(mode=mode), link=False)

    def chown(self, path: tuple[bytes, ...], uid: int, gid: int) -> None:
        number = self.at(path)
        mode = self.model.attributes.get(number).mode
        if not stat.S_ISDIR(mode):  # the kernel asks for this together with the new owner
            mode &= ~stat.S_ISUID & ~(stat.S_ISGID if mode & stat.S_IXGRP else 0)
        self.model.attributes.set(number, AttributeChange(mode=mode, uid=uid, gid=gid))

    def utime(self, path: tuple[bytes, ...], time_ns: int) -> None:
        self.change(path, AttributeChange(atime_ns=time_ns, mtime_ns=time_ns))

    def truncate(self, path: tuple[bytes, ...], size: int) -> None:
        self.change(path, AttributeChange(size=size), link=False)

    def write(self, path: tuple[bytes, ...], offset: int, content: bytes) -> None:
        self.model.data.write(self.at(path), offset, content)

    def fallocate(self, path: tuple[bytes, ...], mode: int, offset: int, length: int) -> None:
        number = self.at(path)
        kind = stat.S_IFMT(self.model.attributes.get(number).mode)
        if kind not in (stat.S_IFREG, stat.S_IFIFO, stat.S_IFDIR):
            raise Refused(errno.ENODEV)  # before the range is looked at: it cannot be opened
        if mode & PUNCH_HOLE:
            self.model.holes.punch(number, offset, length)
        elif mode & ZERO_RANGE:
            self.model.holes.zero(number, offset, length, keep_size=bool(mode & KEEP_SIZE))
        else:
            self.model.holes.allocate(number, offset, length, keep_size=bool(mode & KEEP_SIZE))

    def seek(self, path: tuple[bytes, ...], offset: int, hole: bool) -> int:
        return self.model.holes.seek(self.at(path), offset, hole=hole)

    def setxattr(self, path: tuple[bytes, ...], name: bytes, value: bytes) -> None:
        self.model.xattrs.set(self.plain(path), name, value, CALLER)

    def removexattr(self, path: tuple[bytes, ...], name: bytes) -> None:
        self.model.xattrs.remove(self.plain(path), name, CALLER)

    def plain(self, path: tuple[bytes, ...]) -> int:
        number = self.at(path)
        kind = stat.S_IFMT(self.model.attributes.get(number).mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise Refused(errno.EPERM)
        return number

    def tree(self) -> dict[bytes, tuple[object, ...]]:
        found: dict[bytes, tuple[object, ...]] = {}
        for path, one in self.model.tree().items():
            content = b""
            if one.kind == "file":
                number = self.at(tuple(path[1:].split(b"/")))
                content = self.model.data.read(number, 0, one.size)
            ids = (one.uid, one.gid, one.rdev)
            size = one.size if one.kind in ("file", "symlink") else 0
            rest = (size, one.target, one.xattrs, content)
            found[path] = (one.kind, one.mode, one.links, ids, *rest)
        return found


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def makes_holes(place: Path) -> bool:
    """Can the filesystem at `place` do all that is asked of fallocate(2) here?"""
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            for mode in (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE):
                fallocate(file.fileno(), mode, 0, 4096)
        except OSError:
            return False
    return True


def result(call: Callable[[], object]) -> str:
    try:
        call()
    except Refused as error:
        return errno.errorcode[error.errno]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("needs root, to give files away")
    place = tmp_path_factory.mktemp("linux")
    (place / "below").mkdir()
    try:
        os.setxattr(place, "trusted.test", b"")
        os.setxattr(place, acl.ACCESS, acl.encode(ACLS[1]))
    except OSError:
        pytest.skip("the temporary directory has no extended attributes or ACLs")
    if place.stat().st_nlink != 3 or not hasattr(_libc, "renameat2"):
        pytest.skip("the temporary directory does not count links as ext4 does")
    before = os.umask(UMASK)
    yield place
    os.umask(before)


def check_holes(linux: Linux, model: Modelled, path: tuple[bytes, ...], offset: int) -> None:
    """A filesystem of blocks finds data no later, and holes no sooner, than one of bytes."""
    for hole in (True, False):
        wanted = result(lambda: model.seek(path, offset, hole))  # noqa: B023
        found = result(lambda: linux.seek(path, offset, hole))  # noqa: B023
        if wanted == "done":
            assert found == "done", f"{path} at {offset}, {hole=}"
            one, two = model.seek(path, offset, hole), linux.seek(path, offset, hole)
            assert two >= one if hole else two <= one
        elif hole:
            assert found == wanted == "ENXIO"


def agree(place: Path, operations: list[tuple[object, ...]]) -> None:
    """Do all of them on both, and compare."""
    top = tempfile.mkdtemp(dir=os.fsencode(place))
    try:
        facts = os.lstat(top)
        linux, model = Linux(top), Modelled(facts.st_gid, facts.st_mode)
        with_holes = makes_holes(place)
        for verb, *arguments in operations:
            if verb == "fallocate" and not with_holes:
                continue
            expected = result(lambda: getattr(linux, str(verb))(*arguments))  # noqa: B023
            assert result(lambda: getattr(model, str(verb))(*arguments)) == expected, (  # noqa: B023
                f"{verb} {arguments}"
            )
        assert model.tree() == linux.tree()
        for found, entry in model.tree().items():
            for at in (0, 1, 4096, 50_000, 100_000) if entry[0] == "file" else ():
                check_holes(linux, model, tuple(found[1:].split(b"/")), at)
    finally:
        shutil.rmtree(top)


bounded = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@bounded
@given(st.lists(operation, min_size=5, max_size=40))
def test_model_and_linux_agree(place: Path, operations: list[tuple[object, ...]]) -> None:
    agree(place, operations)


@bounded
@given(st.lists(change_of_file, min_size=3, max_size=15))
def test_model_and_linux_agree_on_a_file(place: Path, operations: list[tuple[object, ...]]) -> None:
    agree(place, [("mknod", FILE, stat.S_IFREG, 0o644), *operations])
