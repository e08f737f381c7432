"""Looking at a filesystem that is mounted and written to, from another process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shmr.errors import SetupError
from shmr.service.looking.overview import overview
from shmr.service.looking.topology import Topology, topology
from tests.mounted import MountedFilesystem, wait_until

CHECKPOINT_LIMIT_S = 60.0


def durable_topology(filesystem: MountedFilesystem, path: Path) -> Topology:
    """Where the file is, once a checkpoint knows it: that is seconds after it was written."""
    found: list[Topology] = []

    def known() -> bool:
        try:
            found.append(topology(filesystem.config, str(path)))
        except SetupError as error:
            assert "knows no inode" in str(error)
            return False
        return bool(found[-1].pieces)

    assert wait_until(known, CHECKPOINT_LIMIT_S)
    return found[-1]


def written(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


@pytest.mark.mount
def test_a_file_is_found_by_its_path_in_the_mount(mounted: MountedFilesystem) -> None:
    path = mounted.path / "inspected file"
    written(path, os.urandom(300_000))
    found = durable_topology(mounted, path)
    assert found.inode == path.stat().st_ino
    assert sum(piece.length for piece in found.pieces) == found.size_bytes == 300_000
    assert {(piece.pool, piece.left) for piece in found.pieces} == {("work", 0)}
    drives = {part.drive for segment in found.segments for part in segment.parts}
    assert drives <= set(map(str, mounted.drives))
    assert topology(mounted.config, "/inspected file") == found
    assert topology(mounted.config, str(found.inode)) == found
    path.unlink()


@pytest.mark.mount
def test_the_commands_print_tables_and_json(mounted: MountedFilesystem) -> None:
    path = mounted.path / "inspected"
    written(path, b"x" * 5000)
    durable_topology(mounted, path)
    config = str(mounted.config)
    done = mounted.command("inspect", "topology", config, str(path), limit_s=60)
    assert done.returncode == 0, done.stdout
    assert "OFFSET" in done.stdout and "work" in done.stdout
    done = mounted.command("inspect", "overview", config, limit_s=60)
    assert done.returncode == 0, done.stdout
    # Dead mounts of other filesystems of this name are counted as ours: they have no daemon to ask.
    assert str(mounted.path) in done.stdout.splitlines()[0]
    done = mounted.command("inspect", "overview", "--json", config, limit_s=60)
    found = json.loads(done.stdout)
    assert [drive["path"] for drive in found["pools"][0]["drives"]] == list(
        map(str, mounted.drives)
    )
    assert found["pools"][0]["live_bytes"] >= 5000
    path.unlink()


@pytest.mark.mount
def test_a_mount_goes_on_while_somebody_looks(mounted: MountedFilesystem) -> None:
    for number in range(20):
        path = mounted.path / f"looked at {number}"
        written(path, b"y" * 10_000)
        found = overview(mounted.config)
        assert all(view.left == 0 for view in found.redundancy)
        path.unlink()
