"""The real and the simulated drive do the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Drive
from shmr.testing.contract import DriveContract
from shmr.testing.drive import SimulatedDrive, World
from shmr.units import MIB


class TestSimulatedDrive(DriveContract):
    def drive(self) -> SimulatedDrive:
        return World().add()

    def reopened(self, drive: Drive) -> Drive:
        assert isinstance(drive, SimulatedDrive)
        return drive

    def mostly_full(self) -> tuple[Drive, int]:
        return World().add(capacity_bytes=8 * MIB), 9 * MIB


class TestSimulatedDriveThatCachesNothing(TestSimulatedDrive):
    def drive(self) -> SimulatedDrive:
        drive = super().drive()
        drive.cached = False
        return drive


class TestDirectoryDrive(DriveContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.path = tmp_path

    def drive(self) -> Drive:
        path = self.path / "drive"
        path.mkdir()
        return DirectoryDrive(path)

    def reopened(self, drive: Drive) -> Drive:
        return DirectoryDrive(drive.label)


class TestDirectoryDriveWithALimit(TestDirectoryDrive):
    def drive(self) -> Drive:
        path = self.path / "drive"
        path.mkdir()
        return DirectoryDrive(path, limit_bytes=64 * MIB)

    def mostly_full(self) -> tuple[Drive, int]:
        path = self.path / "limited"
        path.mkdir()
        return DirectoryDrive(path, limit_bytes=8 * MIB), 9 * MIB


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"cannot make a small filesystem: {command[0]}: {done.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def small_filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real filesystem of 32 MiB, which needs root."""
    place = tmp_path / "mounted"
    place.mkdir()
    if request.param == "tmpfs":
        _run("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place))
    else:
        image = tmp_path / "image"
        image.write_bytes(b"")
        with image.open("r+b") as file:
            file.truncate(32 * MIB)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        _run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=60)


class TestDirectoryDriveOnAFullFilesystem(DriveContract):
    @pytest.fixture(autouse=True)
    def _filesystem(self, small_filesystem: Path) -> None:
        self.path = small_filesystem

    def drive(self) -> Drive:
        path = self.path / "drive"
        path.mkdir()
        return DirectoryDrive(path)

    def reopened(self, drive: Drive) -> Drive:
        return DirectoryDrive(drive.label)

    def mostly_full(self) -> tuple[Drive, int]:
        return self.drive(), 40 * MIB
