"""open_by_handle_at(2): what an NFS server keeps of a file, and opens it by later."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pytest import FixtureRequest as Request

from tests.mounted import MountedFilesystem
from tests.posix.calls import name_to_handle, open_by_handle, refused

pytestmark = pytest.mark.root


def _forgotten() -> None:
    """Make the kernel drop every inode that nobody uses."""
    Path("/proc/sys/vm/drop_caches").write_text("2\n", encoding="ascii")


def _content(place: Path, handle: bytes) -> bytes:
    descriptor = open_by_handle(place, handle, os.O_RDONLY)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_a_handle_opens_its_file_also_when_the_kernel_has_forgotten_it(place: Path) -> None:
    (place / "deep" / "deeper").mkdir(parents=True)
    (place / "deep" / "deeper" / "file").write_bytes(b"content")
    handle = name_to_handle(place / "deep" / "deeper" / "file")
    _forgotten()
    assert _content(place, handle) == b"content"


def test_a_handle_of_a_renamed_file_opens_it(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    handle = name_to_handle(place / "file")
    (place / "file").rename(place / "other")
    _forgotten()
    assert _content(place, handle) == b"content"


def test_a_directory_opened_by_its_handle_has_its_path(place: Path) -> None:
    (place / "deep" / "deeper").mkdir(parents=True)
    handle = name_to_handle(place / "deep" / "deeper")
    _forgotten()
    descriptor = open_by_handle(place, handle, os.O_RDONLY)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    assert Path(path) == (place / "deep" / "deeper").resolve()


def test_a_handle_of_a_deleted_file_is_stale(place: Path) -> None:
    (place / "file").write_bytes(b"content")
    handle = name_to_handle(place / "file")
    (place / "file").unlink()
    _forgotten()
    with refused(errno.ESTALE):
        open_by_handle(place, handle, os.O_RDONLY)


def test_a_handle_outlives_the_mount(place: Path, on_shmr: bool, request: Request) -> None:
    if not on_shmr:
        pytest.skip("only a filesystem that the test has to itself can be unmounted")
    filesystem: MountedFilesystem = request.getfixturevalue("mounted")
    (place / "file").write_bytes(b"content")
    (place / "gone").write_bytes(b"gone")
    handle, handle_of_gone = name_to_handle(place / "file"), name_to_handle(place / "gone")
    (place / "gone").unlink()
    filesystem.remount()
    (place / "new").write_bytes(b"new")
    assert _content(place, handle) == b"content"
    with refused(errno.ESTALE):
        open_by_handle(place, handle_of_gone, os.O_RDONLY)
