"""Extended attributes: flags, sizes, lists, namespaces, and who may do what."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.posix.calls import (
    OTHER,
    OWNER,
    STRANGER,
    as_user,
    getxattr_into,
    listxattr_into,
    refused,
    write_file,
)

VALUE_MAX = 65_536
NAME_MAX = 255


@pytest.fixture
def path(place: Path) -> Path:
    return write_file(place / "file", b"content")


@pytest.mark.parametrize("name", ["user.name", "user.ünïcode", "trusted.name", "security.name"])
@pytest.mark.parametrize("size", [0, 1, 100, 3000])
@pytest.mark.root
def test_a_value_is_kept_exactly(path: Path, name: str, size: int) -> None:
    value = bytes(range(256)) * 12
    os.setxattr(path, name, value[:size])
    assert os.getxattr(path, name) == value[:size]
    assert os.listxattr(path) == [name]
    os.removexattr(path, name)
    assert os.listxattr(path) == []


def test_a_name_may_have_any_bytes(path: Path) -> None:
    name = b"user.\xff\n \x01/=:"
    os.setxattr(path, name, b"value")
    assert os.getxattr(path, name) == b"value"
    assert [os.fsencode(each) for each in os.listxattr(path)] == [name]


def test_create_and_replace_ask_what_exists(path: Path) -> None:
    with refused(errno.ENODATA):
        os.setxattr(path, "user.name", b"value", os.XATTR_REPLACE)
    os.setxattr(path, "user.name", b"first", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(path, "user.name", b"second", os.XATTR_CREATE)
    assert os.getxattr(path, "user.name") == b"first"
    os.setxattr(path, "user.name", b"third", os.XATTR_REPLACE)
    os.setxattr(path, "user.name", b"longer than before" * 20)
    assert os.getxattr(path, "user.name") == b"longer than before" * 20
    with refused(errno.EINVAL):
        os.setxattr(path, "user.name", b"value", 4)


def test_what_is_missing_has_no_data(path: Path) -> None:
    for call in (os.getxattr, os.removexattr):
        with refused(errno.ENODATA):
            call(path, "user.missing")
    with refused(errno.ENOENT):
        os.getxattr(path.parent / "missing", "user.name")


def test_names_end_at_255_bytes(path: Path) -> None:
    longest = "user." + "x" * (NAME_MAX - 5)
    os.setxattr(path, longest, b"value")
    assert os.getxattr(path, longest) == b"value"
    with refused(errno.ERANGE):
        os.setxattr(path, longest + "x", b"value")
    with refused(errno.ERANGE):
        os.setxattr(path, "", b"value")
    with refused(errno.EINVAL):
        os.setxattr(path, "user.", b"value")
    for name in ("name", "unknown.name"):
        with refused(errno.EOPNOTSUPP):
            os.setxattr(path, name, b"value")


def test_values_end_at_64_kib(path: Path, on_shmr: bool) -> None:
    with refused(errno.E2BIG):
        os.setxattr(path, "user.name", bytes(VALUE_MAX + 1))
    value = bytes(range(256)) * (VALUE_MAX // 256)
    try:
        os.setxattr(path, "user.name", value)
    except OSError as error:
        assert error.errno == errno.ENOSPC  # ext4 has room for a block only
        assert not on_shmr
    else:
        assert os.getxattr(path, "user.name") == value


def test_short_buffers_are_refused_and_empty_ones_ask_for_the_size(path: Path) -> None:
    os.setxattr(path, "user.one", b"0123456789")
    os.setxattr(path, "user.two", b"")
    assert getxattr_into(path, b"user.one", 0) == 10
    assert getxattr_into(path, b"user.one", 10) == 10
    with refused(errno.ERANGE):
        getxattr_into(path, b"user.one", 9)
    assert getxattr_into(path, b"user.two", 0) == 0
    assert listxattr_into(path, 0) == 18
    assert listxattr_into(path, 18) == 18
    with refused(errno.ERANGE):
        listxattr_into(path, 17)


def test_many_attributes_live_together(path: Path) -> None:
    wanted = {f"user.name{index}": f"value {index}".encode() for index in range(60)}
    for name, value in wanted.items():
        os.setxattr(path, name, value)
    for index in range(0, 60, 2):
        os.removexattr(path, f"user.name{index}")
        del wanted[f"user.name{index}"]
    assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == wanted


def test_attributes_belong_to_the_inode(place: Path, path: Path) -> None:
    os.setxattr(path, "user.name", b"value")
    os.link(path, place / "link")
    os.rename(path, place / "moved")
    (place / "symlink").symlink_to("moved")
    for name in ("link", "moved", "symlink"):
        assert os.getxattr(place / name, "user.name") == b"value"
    (place / "link").unlink()
    (place / "moved").unlink()
    write_file(place / "moved")
    assert os.listxattr(place / "moved") == []


def test_directories_have_attributes(place: Path) -> None:
    (place / "directory").mkdir()
    os.setxattr(place / "directory", "user.name", b"value")
    descriptor = os.open(place / "directory", os.O_RDONLY)
    assert os.getxattr(descriptor, "user.name") == b"value"
    os.close(descriptor)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket"])
def test_other_nodes_have_no_user_attributes_but_root_s_own(place: Path, kind: str) -> None:
    path = place / "node"
    {
        "symlink": lambda: path.symlink_to("nowhere"),
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: os.mknod(path, 0o666 | stat.S_IFSOCK),
    }[kind]()
    with refused(errno.EPERM):
        os.setxattr(path, "user.name", b"value", follow_symlinks=False)
    with refused(errno.ENODATA):
        os.getxattr(path, "user.name", follow_symlinks=False)
    os.setxattr(path, "trusted.name", b"value", follow_symlinks=False)
    assert os.getxattr(path, "trusted.name", follow_symlinks=False) == b"value"
    assert os.listxattr(path, follow_symlinks=False) == ["trusted.name"]
    os.removexattr(path, "trusted.name", follow_symlinks=False)


@pytest.mark.root
def test_user_attributes_follow_the_mode(path: Path) -> None:
    os.chown(path, OWNER, OWNER)
    os.setxattr(path, "user.name", b"value")
    path.chmod(0o640)
    as_user(OWNER, lambda: os.setxattr(path, "user.own", b"value"))
    with refused(errno.EACCES):
        as_user(STRANGER, lambda: os.getxattr(path, "user.name"))
    assert as_user(OTHER, lambda: os.getxattr(path, "user.name"), groups=[OWNER]) == b"value"
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.setxattr(path, "user.name", b""), groups=[OWNER])
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.removexattr(path, "user.name"), groups=[OWNER])
    path.chmod(0o642)
    as_user(STRANGER, lambda: os.setxattr(path, "user.name", b"new"))


@pytest.mark.root
def test_trusted_attributes_are_hidden_from_users_and_security_is_for_root(path: Path) -> None:
    os.chown(path, OWNER, OWNER)
    os.setxattr(path, "trusted.name", b"value")
    os.setxattr(path, "user.name", b"value")
    os.setxattr(path, "security.name", b"value")
    with refused(errno.ENODATA):
        as_user(OWNER, lambda: os.getxattr(path, "trusted.name"))
    with refused(errno.EPERM):
        as_user(OWNER, lambda: os.setxattr(path, "trusted.name", b"new"))
    with refused(errno.EPERM):
        as_user(OWNER, lambda: os.setxattr(path, "security.name", b"new"))
    seen = as_user(OWNER, lambda: os.listxattr(path))
    assert "user.name" in seen
    assert "trusted.name" not in seen


@pytest.mark.root
def test_in_a_sticky_directory_of_others_users_set_no_attributes_on_it(place: Path) -> None:
    sticky = place / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    with refused(errno.EPERM):
        as_user(STRANGER, lambda: os.setxattr(sticky, "user.name", b"value"))
