"""A filesystem for one test alone, which may do its worst to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounted import MountedFilesystem

Make = Callable[..., MountedFilesystem]


@pytest.fixture
def make_filesystem() -> Iterator[Make]:
    """Makes filesystems, not mounted yet; whatever is left of them afterwards is removed."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse to mount a filesystem")
    made: list[MountedFilesystem] = []

    def make(**options: Any) -> MountedFilesystem:
        base = Path(tempfile.mkdtemp(prefix="shmr-crash-"))
        made.append(MountedFilesystem(base, **options))
        return made[-1]

    try:
        yield make
    finally:
        for filesystem in made:
            try:
                filesystem.kill()
                filesystem.stop()
            finally:
                shutil.rmtree(filesystem.base, ignore_errors=True)
