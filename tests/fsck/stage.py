"""What the checker's library functions see when they are given a configuration: simulated drives.

`staged(world, place, copies)` writes a configuration whose drives are those of `world`; within it
`shmr.service` opens these instead of directories. So whole commands run on drives that can be
damaged, cut off and made to fail, and nothing of them is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import shmr.config.reading as config_reading
from shmr.errors import DriveError
from shmr.service import assemble
from shmr.testing.drive import SimulatedDrive, World
from shmr.units import GIB, KIB
from tests.fsck.subject import NAME, SCHEMES, SEGMENT_BYTES, pool_drives


class StagedDrive:
    """Stands where `DirectoryDrive` does: the path is looked up among the drives of the world."""

    on_stage: ClassVar[dict[Path, SimulatedDrive]] = {}
    held: ClassVar[set[Path]] = set()
    """Drives that a mount would hold."""

    def __init__(self, path: Path, **_: Any) -> None:
        self.path = path
        self._drive = self.on_stage[path]
        self._locked = False
        if self._drive.lost:
            raise DriveError(str(path), "open", OSError(2, "No such file or directory"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._drive, name)

    @property
    def label(self) -> str:
        return str(self.path)

    def lock(self) -> bool:
        if self.path in self.held:
            return False
        self._locked = True
        self.held.add(self.path)
        return True

    def close(self) -> None:
        if self._locked:
            self.held.discard(self.path)
            self._locked = False

    def is_mount_point(self) -> bool:
        return True

    def is_empty(self, *, besides: tuple[str, ...] = ()) -> bool:
        return set(self._drive.names()) <= {*besides, "lock", "lost+found"}


def configuration(place: Path, world: World, copies: int) -> Path:
    """The file of a configuration; the catalog is `place`/catalog."""
    lines = [f"filesystem: {NAME}", f"catalog: {place / 'catalog'}", "pools:"]
    schemes = {
        "work": "single" if copies == 1 else f"{{mirror: {copies}}}",
        **{name: f"{{erasure: {{k: {k}, m: {m}}}}}" for name, k, m in SCHEMES},
    }
    for priority, pool in enumerate(pool_drives(world, copies)):
        size = f"segment_size: {SEGMENT_BYTES}B" if priority == 0 else f"zone_size: {256 * KIB}B"
        lines += [
            f"  - name: {pool.name}",
            f"    priority: {priority}",
            f"    scheme: {schemes[pool.name]}",
            f"    {size}",
            "    drives:",
            *(f"      - path: {place / drive.label}" for drive in pool.drives),
        ]
    path = place / "subject.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def staged(world: World, place: Path, copies: int, *, mounted: bool = False) -> Iterator[Path]:
    """The path of a configuration of `world`, while drives are opened from there.

    `mounted`: somebody holds the workspace.
    """
    stage = {place / drive.label: drive for drive in world.drives}
    held = {place / drive.label for drive in world.drives[:copies]} if mounted else set()
    with (
        mock.patch.object(StagedDrive, "on_stage", stage),
        mock.patch.object(StagedDrive, "held", held),
        mock.patch.object(assemble, "DirectoryDrive", StagedDrive),
        mock.patch.object(assemble, "ImpatientDrive", StagedDrive),
        mock.patch.object(config_reading, "_ZONE_BYTES", (4 * KIB, 4 * GIB)),
    ):
        yield configuration(place, world, copies)
