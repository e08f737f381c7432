"""Where the tests of this directory mount: a fresh directory, reachable by other users."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.fuse.device import mounted_filesystem
from shmr.fuse.options import MountOptions
from tests.fuse.serving import Served, served


@pytest.fixture
def point() -> Iterator[Path]:
    """An empty directory to mount on; nothing is mounted there afterwards."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse, to mount")
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount and to become other users")
    path = Path(tempfile.mkdtemp(prefix="shmr-fuse-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        while mounted_filesystem(str(path)) is not None:
            subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


@pytest.fixture
def mount(point: Path) -> Iterator[Served]:
    """A volume in memory, mounted for everybody."""
    with served(point, MountOptions(allow_other=True)) as running:
        yield running
