"""The real and the simulated drive do the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.drive.directory import DirectoryDrive
from shmr.drive.impatient import ImpatientDrive
from shmr.drive.seam import Drive
from shmr.testing.contract import DriveContract
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.zoned import ZonedDrive, add_zoned
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


class TestZonedDrive(DriveContract):
    def drive(self) -> ZonedDrive:
        return add_zoned(World())

    def reopened(self, drive: Drive) -> Drive:
        assert isinstance(drive, ZonedDrive)
        return drive

    def mostly_full(self) -> tuple[Drive, int]:
        return add_zoned(World(), zones=4, zone_bytes=2 * MIB), 9 * MIB

    def test_sealing_gives_the_rest_of_the_claim_back(self) -> None:
        """Not here: what is left of a zone serves nobody else."""
        drive = self.drive()
        file = drive.claim("a", 16 * MIB)
        before = drive.capacity()
        file.append([bytes(8192)])
        file.seal()
        assert drive.capacity() == before
        drive.discard("a")
        assert drive.capacity().free_bytes - before.free_bytes == drive.zone_bytes


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


class TestImpatientDrive(TestDirectoryDrive):
    def drive(self) -> Drive:
        path = self.path / "drive"
        path.mkdir()
        return ImpatientDrive(path, patience_s=60.0)


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
