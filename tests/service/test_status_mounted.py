"""The status file of a real mount."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import MountedFilesystem, MountFailed, wait_until

LIMIT_S = 60.0


@pytest.fixture
def filesystem() -> Iterator[MountedFilesystem]:
    """One with a status file beside its drives, not mounted yet."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse to mount a filesystem")
    base = Path(tempfile.mkdtemp(prefix="shmr-status-"))
    made = MountedFilesystem(base)
    configure(made, "status")
    try:
        yield made
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def configure(filesystem: MountedFilesystem, path: str) -> None:
    text = filesystem.config.read_text()
    filesystem.config.write_text(f"status_file: {path}\n{text}")


@pytest.mark.mount
def test_the_daemon_keeps_it_and_says_when_it_ends(filesystem: MountedFilesystem) -> None:
    status = filesystem.base / "status"
    filesystem.start()
    assert wait_until(status.exists, LIMIT_S)
    text = status.read_text()
    assert text.startswith(f"tests : mounted at {filesystem.path}\n")
    assert "[2/2] [UU]" in text
    (filesystem.path / "file").write_bytes(bytes(50_000_000))
    assert wait_until(lambda: status.read_text() != text, LIMIT_S)
    filesystem.stop()
    assert status.read_text().startswith("tests : not mounted\n")


@pytest.mark.mount
def test_a_status_file_inside_the_mount_is_refused(filesystem: MountedFilesystem) -> None:
    text = filesystem.config.read_text()
    filesystem.config.write_text(text.replace("status_file: status", "status_file: mount/status"))
    with pytest.raises(MountFailed, match=r"status_file: .* lies inside the mount point"):
        filesystem.start()
