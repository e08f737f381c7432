"""The segment store: what it counts as room."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmr.drive.directory import DirectoryDrive
from shmr.log.store import SegmentStore
from shmr.units import GIB, MIB


def store_of(drives: list[DirectoryDrive], copies: int = 1) -> SegmentStore:
    return SegmentStore(bytes(16), drives, copies, MIB, lambda: 0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_drives_on_one_disk_count_it_once(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.mkdir()
    drives = [DirectoryDrive(path) for path in paths]
    disk = drives[0].capacity()
    store = store_of(drives)
    assert disk.total_bytes - count <= store.total_bytes() <= disk.total_bytes
    assert store.free_bytes() <= disk.free_bytes + GIB


def test_limits_on_one_disk_add_up_as_far_as_the_disk_goes(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.mkdir()
    drives = [DirectoryDrive(path, limit_bytes=5 * MIB) for path in paths]
    assert store_of(drives).total_bytes() == 10 * MIB
    assert store_of(drives, copies=2).total_bytes() == 5 * MIB
