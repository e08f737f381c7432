"""POSIX access control lists: setfacl and getfacl, inheritance, the mask, and enforcement."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from tests.posix.calls import OTHER, OWNER, STRANGER, as_user, let_clock_tick, refused, write_file

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("setfacl") is None, reason="needs the program setfacl"),
]

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHERS = 1, 2, 4, 8, 16, 32
NOBODY = 0xFFFFFFFF


def setfacl(*arguments: str | Path) -> None:
    subprocess.run(["setfacl", *map(str, arguments)], check=True, timeout=20)


def getfacl(path: Path) -> set[str]:
    """The entries of `path` as getfacl prints them, with numeric users."""
    done = subprocess.run(
        ["getfacl", "--numeric", "--omit-header", "--absolute-names", "--no-effective", path],
        check=True,
        timeout=20,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def encoded(*entries: tuple[int, int, int]) -> bytes:
    """The attribute's bytes for entries of (tag, permissions, id)."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def path(place: Path) -> Path:
    """A file of OWNER, mode 0640."""
    created = write_file(place / "file", b"content", 0o640)
    os.chown(created, OWNER, OWNER)
    return created


def test_a_named_user_is_let_in_and_shown(path: Path) -> None:
    setfacl("-m", f"u:{STRANGER}:r", path)
    assert getfacl(path) == {
        "user::rw-",
        f"user:{STRANGER}:r--",
        "group::r--",
        "mask::r--",
        "other::---",
    }
    assert as_user(STRANGER, path.read_bytes) == b"content"
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: path.write_bytes(b""))
    with refused(errno.EACCES):
        as_user(OTHER, path.read_bytes)


def test_a_named_group_is_let_in_and_a_named_user_can_be_kept_out(path: Path) -> None:
    path.chmod(0o644)
    setfacl("-m", f"g:{OTHER}:rw,u:{STRANGER}:-", path)
    as_user(OTHER, lambda: path.write_bytes(b"new"))
    with refused(errno.EACCES):
        as_user(STRANGER, path.read_bytes, groups=[OTHER])


def test_the_mask_limits_named_entries_and_chmod_moves_the_mask(path: Path) -> None:
    setfacl("-m", f"u:{STRANGER}:rw", path)
    assert mode_of(path) == 0o660
    as_user(STRANGER, lambda: path.write_bytes(b"one"))
    path.chmod(0o640)
    assert {"mask::r--", f"user:{STRANGER}:rw-", "group::r--"} <= getfacl(path)
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: path.write_bytes(b"two"))
    path.chmod(0o600)
    assert {"mask::---", f"user:{STRANGER}:rw-"} <= getfacl(path)
    with refused(errno.EACCES):
        as_user(STRANGER, path.read_bytes)


def test_setting_a_list_sets_the_mode_and_an_equivalent_list_leaves_none(path: Path) -> None:
    let_clock_tick(path)
    before = os.stat(path)
    minimal = encoded((USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY))
    os.setxattr(path, ACCESS, minimal)
    assert mode_of(path) == 0o751
    assert os.stat(path).st_ctime_ns > before.st_ctime_ns
    with refused(errno.ENODATA):
        os.getxattr(path, ACCESS)
    assert os.listxattr(path) == []


def test_a_list_that_is_not_there_can_be_removed(path: Path) -> None:
    for attribute in (ACCESS, DEFAULT):
        os.removexattr(path.parent, attribute)
    os.removexattr(path, ACCESS)
    os.setxattr(path, ACCESS, b"")
    assert os.listxattr(path) == []


def test_the_attribute_is_read_as_it_was_set(path: Path) -> None:
    value = encoded(
        (USER_OBJ, 6, NOBODY),
        (USER, 4, STRANGER),
        (GROUP_OBJ, 4, NOBODY),
        (GROUP, 2, OTHER),
        (MASK, 6, NOBODY),
        (OTHERS, 0, NOBODY),
    )
    os.setxattr(path, ACCESS, value)
    assert os.getxattr(path, ACCESS) == value
    assert os.listxattr(path) == [ACCESS]
    assert mode_of(path) == 0o660
    os.removexattr(path, ACCESS)
    with refused(errno.ENODATA):
        os.getxattr(path, ACCESS)


@pytest.mark.parametrize(
    "value",
    [
        b"\x02",
        encoded((USER_OBJ, 6, NOBODY)),
        encoded((USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHERS, 8, NOBODY)),
        encoded((OTHERS, 0, NOBODY), (USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY)),
        encoded((USER_OBJ, 6, NOBODY), (USER, 6, 1), (GROUP_OBJ, 4, NOBODY), (OTHERS, 0, NOBODY)),
        b"\x01\0\0\0" + encoded((USER_OBJ, 6, NOBODY))[4:],
    ],
)
def test_a_list_that_makes_no_sense_is_refused(path: Path, value: bytes) -> None:
    with refused(errno.EINVAL, errno.EOPNOTSUPP):
        os.setxattr(path, ACCESS, value)
    assert mode_of(path) == 0o640


def test_only_the_owner_sets_a_list_and_only_directories_have_defaults(path: Path) -> None:
    minimal = encoded((USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHERS, 1, NOBODY))
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: os.setxattr(path, ACCESS, minimal))
    as_user(OWNER, lambda: os.setxattr(path, ACCESS, minimal))
    with refused(errno.EACCES):
        os.setxattr(path, DEFAULT, minimal)
    (path.parent / "link").symlink_to("nowhere")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(path.parent / "link", ACCESS, minimal, follow_symlinks=False)


def test_setting_a_list_by_a_user_outside_the_group_drops_sgid(path: Path) -> None:
    os.chown(path, OWNER, OTHER)
    path.chmod(0o2755)
    as_user(OWNER, lambda: setfacl("-m", f"u:{STRANGER}:r", path))
    assert mode_of(path) == 0o755


def test_new_entries_inherit_the_default_and_the_umask_is_ignored(place: Path) -> None:
    setfacl("-d", "-m", f"u::rwx,g::rx,o::-,u:{STRANGER}:rwx,m::rwx", place)
    os.umask(0o077)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    os.mkdir(place / "directory", 0o777)
    os.mkfifo(place / "fifo", 0o666)
    assert getfacl(place / "file") == {
        "user::rw-",
        f"user:{STRANGER}:rwx",
        "group::r-x",
        "mask::rw-",
        "other::---",
    }
    assert mode_of(place / "file") == 0o660
    assert mode_of(place / "fifo") == 0o660
    assert mode_of(place / "directory") == 0o770
    assert {entry for entry in getfacl(place) if entry.startswith("default:")} == {
        entry for entry in getfacl(place / "directory") if entry.startswith("default:")
    }
    assert f"default:user:{STRANGER}:rwx" in getfacl(place / "directory")
    place.chmod(0o755)
    as_user(STRANGER, lambda: (place / "file").write_bytes(b"let in"))


def test_a_minimal_default_sets_the_mode_alone(place: Path) -> None:
    setfacl("-d", "-m", "u::rwx,g::rx,o::r", place)
    os.umask(0o077)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
    assert mode_of(place / "file") == 0o644
    assert os.listxattr(place / "file") == []
    os.mkdir(place / "directory", 0o777)
    assert mode_of(place / "directory") == 0o754
    assert os.listxattr(place / "directory") == [DEFAULT]


def test_a_file_made_without_mode_bits_stays_shut(place: Path) -> None:
    setfacl("-d", "-m", f"u::rwx,g::rx,o::rx,u:{STRANGER}:rwx", place)
    os.close(os.open(place / "file", os.O_CREAT | os.O_WRONLY, 0o600))
    assert mode_of(place / "file") == 0o600
    with refused(errno.EACCES):
        as_user(STRANGER, (place / "file").read_bytes)


def test_removing_the_default_ends_inheritance(place: Path) -> None:
    setfacl("-d", "-m", f"u:{STRANGER}:rwx", place)
    assert DEFAULT in os.listxattr(place)
    setfacl("-k", place)
    assert DEFAULT not in os.listxattr(place)
    (place / "file").touch()
    assert os.listxattr(place / "file") == []


def test_removing_the_list_leaves_the_mode(path: Path) -> None:
    setfacl("-m", f"u:{STRANGER}:rw", path)
    setfacl("-b", path)
    assert getfacl(path) == {"user::rw-", "group::r--", "other::---"}
    assert mode_of(path) == 0o640
    with refused(errno.EACCES):
        as_user(STRANGER, path.read_bytes)


def test_directories_are_guarded_by_lists(place: Path) -> None:
    inside = place / "inside"
    inside.mkdir()
    inside.chmod(0o700)
    write_file(inside / "file", b"content")
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.listdir(inside))
    setfacl("-m", f"u:{STRANGER}:rwx", inside)
    assert as_user(STRANGER, lambda: os.listdir(inside)) == ["file"]
    as_user(STRANGER, (inside / "new").touch)
    assert as_user(STRANGER, lambda: os.access(inside, os.W_OK))
    assert not as_user(OTHER, lambda: os.access(inside, os.X_OK))


def test_lists_travel_with_copies(path: Path) -> None:
    setfacl("-m", f"u:{STRANGER}:rw,g:{OTHER}:r", path)
    copy = path.parent / "copy"
    subprocess.run(["cp", "-a", path, copy], check=True, timeout=20)
    assert getfacl(copy) == getfacl(path)
