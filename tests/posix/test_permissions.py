"""Who may do what: chmod, chown, access; suid and sgid bits; sticky and setgid directories."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.posix.calls import (
    KEEP_SIZE,
    OTHER,
    OWNER,
    PUNCH_HOLE,
    STRANGER,
    ZERO_RANGE,
    as_user,
    fallocate,
    let_clock_tick,
    refused,
    write_file,
)

pytestmark = pytest.mark.root


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def mine(place: Path) -> Path:
    """A file of OWNER, mode 0644, in a directory that anyone may search."""
    path = write_file(place / "mine", b"content")
    os.chown(path, OWNER, OWNER)
    return path


@pytest.mark.parametrize("mode", [0, 0o111, 0o777, 0o1644, 0o2755, 0o4755, 0o7777])
@pytest.mark.parametrize("kind", ["file", "directory", "fifo"])
def test_chmod_sets_every_bit(place: Path, kind: str, mode: int) -> None:
    path = place / "node"
    makers: dict[str, Callable[[], None]] = {
        "file": path.touch,
        "directory": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }
    makers[kind]()
    before = os.stat(path)
    let_clock_tick(path)
    path.chmod(mode)
    after = os.stat(path)
    assert stat.S_IMODE(after.st_mode) == mode
    assert stat.S_IFMT(after.st_mode) == stat.S_IFMT(before.st_mode)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert after.st_mtime_ns == before.st_mtime_ns


def test_only_the_owner_and_root_chmod(mine: Path) -> None:
    as_user(OWNER, lambda: mine.chmod(0o600))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: mine.chmod(0o666))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: mine.chmod(0o666), gid=OWNER)
    assert mode_of(mine) == 0o600
    mine.chmod(0o640)
    assert mode_of(mine) == 0o640


def test_chmod_drops_sgid_of_a_group_the_caller_is_not_in(place: Path) -> None:
    path = write_file(place / "file")
    os.chown(path, OWNER, OTHER)
    as_user(OWNER, lambda: path.chmod(0o2755))
    assert mode_of(path) == 0o755
    as_user(OWNER, lambda: path.chmod(0o2755), groups=[OTHER])
    assert mode_of(path) == 0o2755


def test_chown_of_the_user_is_for_root(mine: Path) -> None:
    for uid in (OTHER, 0):
        with refused(errno.EPERM):
            as_user(OWNER, partial(os.chown, mine, uid, -1))
    as_user(OWNER, lambda: os.chown(mine, OWNER, -1))
    os.chown(mine, OTHER, STRANGER)
    assert (os.stat(mine).st_uid, os.stat(mine).st_gid) == (OTHER, STRANGER)


def test_the_owner_gives_a_file_to_own_groups_only(mine: Path) -> None:
    as_user(OWNER, lambda: os.chown(mine, -1, OTHER), groups=[OTHER])
    assert os.stat(mine).st_gid == OTHER
    with refused(errno.EPERM):
        as_user(OWNER, lambda: os.chown(mine, -1, STRANGER), groups=[OTHER])
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.chown(mine, -1, OTHER))


def test_chown_keeps_what_is_minus_one(mine: Path) -> None:
    os.chown(mine, -1, OTHER)
    os.chown(mine, STRANGER, -1)
    assert (os.stat(mine).st_uid, os.stat(mine).st_gid) == (STRANGER, OTHER)
    os.chown(mine, 4_000_000_000, 4_000_000_001)
    assert (os.stat(mine).st_uid, os.stat(mine).st_gid) == (4_000_000_000, 4_000_000_001)


def test_lchown_changes_the_symlink_itself(place: Path) -> None:
    write_file(place / "file")
    (place / "link").symlink_to("file")
    os.lchown(place / "link", OWNER, OTHER)
    assert os.stat(place / "file").st_uid == 0
    assert (os.lstat(place / "link").st_uid, os.lstat(place / "link").st_gid) == (OWNER, OTHER)


@pytest.mark.parametrize(
    ("mode", "left"),
    [(0o6755, 0o755), (0o4644, 0o644), (0o2755, 0o755), (0o2711, 0o711), (0o6777, 0o777)],
)
def test_chown_clears_suid_and_sgid_of_programs(mine: Path, mode: int, left: int) -> None:
    mine.chmod(mode)
    as_user(OWNER, lambda: os.chown(mine, -1, OTHER), groups=[OTHER])
    assert mode_of(mine) == left
    mine.chmod(mode)
    os.chown(mine, OTHER, OTHER)
    assert mode_of(mine) == left


def test_chown_that_leaves_both_ids_clears_suid_and_sgid_too(mine: Path) -> None:
    mine.chmod(0o6755)
    as_user(OWNER, lambda: os.chown(mine, -1, -1))
    assert mode_of(mine) == 0o755


def test_chown_leaves_the_sgid_bit_of_a_directory(place: Path) -> None:
    (place / "directory").mkdir()
    (place / "directory").chmod(0o6755)
    os.chown(place / "directory", OWNER, OWNER)
    assert mode_of(place / "directory") == 0o6755


def _write(path: Path) -> None:
    with open(path, "r+b", buffering=0) as stream:
        stream.write(b"x")


def _append(path: Path) -> None:
    with open(path, "ab", buffering=0) as stream:
        stream.write(b"x")


def _truncate(path: Path) -> None:
    os.truncate(path, 3)


def _truncating_open(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _fallocate(mode: int, path: Path) -> None:
    with open(path, "r+b", buffering=0) as stream:
        fallocate(stream.fileno(), mode, 0, 4096)


_allocate = partial(_fallocate, 0)
_punch = partial(_fallocate, PUNCH_HOLE | KEEP_SIZE)
_zero = partial(_fallocate, ZERO_RANGE)
_CHANGES = [_write, _append, _truncate, _truncating_open, _allocate, _punch, _zero]


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize(
    ("mode", "left"), [(0o4777, 0o777), (0o2777, 0o777), (0o6777, 0o777), (0o6766, 0o766)]
)
def test_a_change_of_the_content_by_a_user_clears_suid_and_sgid(
    place: Path, change: Callable[[Path], None], mode: int, left: int
) -> None:
    path = write_file(place / "program", b"content", mode)
    os.chown(path, OWNER, OWNER)
    path.chmod(mode)
    as_user(OTHER, lambda: change(path))
    assert mode_of(path) == left
    path.chmod(mode)
    as_user(OWNER, lambda: change(path))
    wanted = left if mode & stat.S_IXGRP else left | mode & stat.S_ISGID
    assert mode_of(path) == wanted


def test_a_write_by_root_keeps_suid_and_sgid(place: Path) -> None:
    path = write_file(place / "program", b"content", 0o6755)
    _write(path)
    _append(path)
    _allocate(path)
    assert mode_of(path) == 0o6755


def test_a_second_write_through_one_descriptor_clears_a_new_suid_bit(mine: Path) -> None:
    def write_twice() -> int:
        with open(mine, "r+b", buffering=0) as stream:
            stream.write(b"x")
            mine.chmod(0o4755)
            stream.write(b"y")
            return stat.S_IMODE(os.fstat(stream.fileno()).st_mode)

    assert as_user(OWNER, write_twice) == 0o755


def test_a_change_drops_the_capabilities_of_a_program(place: Path) -> None:
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    for change in (_write, _truncate, lambda path: os.chown(path, OWNER, OWNER)):
        path = write_file(place / "program", b"content", 0o755)
        os.setxattr(path, "security.capability", capability)
        assert os.getxattr(path, "security.capability") == capability
        change(path)
        with refused(errno.ENODATA):
            os.getxattr(path, "security.capability")


def test_new_entries_take_the_group_of_a_setgid_directory(place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    os.chown(shared, OWNER, OTHER)
    shared.chmod(0o2777)

    def make() -> None:
        os.umask(0o022)
        (shared / "file").touch()
        (shared / "directory").mkdir()
        (shared / "directory" / "below").mkdir()
        (shared / "link").symlink_to("file")
        os.mkfifo(shared / "fifo")

    as_user(STRANGER, make)
    for name in ("file", "directory", "directory/below", "link", "fifo"):
        state = os.lstat(shared / name)
        assert (state.st_uid, state.st_gid) == (STRANGER, OTHER), name
    assert mode_of(shared / "directory") == 0o2755
    assert mode_of(shared / "directory" / "below") == 0o2755
    assert mode_of(shared / "file") == 0o644


def test_a_setgid_program_made_in_a_setgid_directory_of_another_group_loses_the_bit(
    place: Path,
) -> None:
    place.chmod(0o2777)
    os.chown(place, 0, OTHER)

    def make() -> None:
        os.close(os.open(place / "program", os.O_CREAT | os.O_WRONLY, 0o2775))

    as_user(STRANGER, make)
    assert mode_of(place / "program") == 0o755


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        (0o700, (True, False, False)),
        (0o070, (False, True, False)),
        (0o007, (False, False, True)),
        (0o777, (True, True, True)),
        (0o000, (False, False, False)),
        (0o077, (False, True, True)),  # the owner is judged as the owner alone
    ],
)
def test_each_class_has_its_own_bits(
    mine: Path, mode: int, wanted: tuple[bool, bool, bool]
) -> None:
    mine.chmod(mode)
    for question in (os.R_OK, os.W_OK, os.X_OK):

        def asked(kind: int = question) -> bool:
            return os.access(mine, kind)

        found = (
            as_user(OWNER, asked),
            as_user(OTHER, asked, groups=[OWNER]),
            as_user(STRANGER, asked),
        )
        assert found == wanted


@pytest.mark.parametrize(
    ("mode", "flags", "allowed"),
    [
        (0o644, os.O_RDONLY, True),
        (0o644, os.O_WRONLY, False),
        (0o644, os.O_RDWR, False),
        (0o642, os.O_WRONLY, True),
        (0o642, os.O_RDONLY, False),
        (0o644, os.O_RDONLY | os.O_TRUNC, False),
        (0o640, os.O_RDONLY, False),
    ],
)
def test_open_asks_the_mode(mine: Path, mode: int, flags: int, allowed: bool) -> None:
    mine.chmod(mode)

    def attempt() -> None:
        os.close(os.open(mine, flags))

    if allowed:
        as_user(STRANGER, attempt)
    else:
        with refused(errno.EACCES):
            as_user(STRANGER, attempt)
        assert mine.read_bytes() == b"content"


def test_a_directory_asks_for_read_to_list_and_search_to_pass(place: Path) -> None:
    inside = place / "directory"
    inside.mkdir()
    write_file(inside / "file", b"content")
    inside.chmod(0o711)
    assert as_user(STRANGER, (inside / "file").read_bytes) == b"content"
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.listdir(inside))
    inside.chmod(0o744)
    assert as_user(STRANGER, lambda: os.listdir(inside)) == ["file"]
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: (inside / "file").read_bytes())
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.stat(inside / "file").st_size)
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.stat(inside / "missing").st_size)
    inside.chmod(0o755)
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: (inside / "new").touch())
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: (inside / "new").mkdir())
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: (inside / "new").symlink_to("file"))


def test_truncate_asks_for_write_permission(mine: Path) -> None:
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.truncate(mine, 0))
    as_user(OWNER, lambda: os.truncate(mine, 1))
    assert mine.read_bytes() == b"c"


def test_an_open_descriptor_keeps_its_rights(mine: Path) -> None:
    def keep() -> int:
        descriptor = os.open(mine, os.O_RDWR)
        mine.chmod(0)
        return os.write(descriptor, b"new") + len(os.pread(descriptor, 10, 0))

    assert as_user(OWNER, keep) == 10


@pytest.mark.parametrize("mode", [0o666, 0o755])
def test_root_executes_only_what_someone_may_execute(place: Path, mode: int) -> None:
    path = write_file(place / "file", b"", mode)
    assert os.access(path, os.X_OK) == bool(mode & 0o111)
    assert os.access(path, os.R_OK | os.W_OK)


def test_a_program_runs_from_here_and_cannot_be_written_meanwhile(place: Path) -> None:
    source, sink = os.pipe()
    program = write_file(place / "program", Path("/bin/cat").read_bytes(), 0o755)
    child = os.fork()
    if child == 0:
        os.dup2(source, 0)
        os.close(sink)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.execv(program, ["program"])
    os.close(source)
    while os.readlink(f"/proc/{child}/exe") != str(program):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the program did not start"
    with refused(errno.ETXTBSY):
        os.open(program, os.O_WRONLY)
    os.close(sink)
    assert os.waitpid(child, 0)[1] == 0
    os.close(os.open(program, os.O_WRONLY))
