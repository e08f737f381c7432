"""A filesystem with an archive, much done to it, of which drives are then taken away."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from shmr.archive.plan import Lot
from shmr.archive.pool import Pool
from shmr.archive.sources import in_pool, in_workspace, lots_of
from shmr.drive.seam import Drive
from shmr.errors import NoSpace
from shmr.format import superblock
from shmr.format.rows import Table, split_key
from shmr.format.superblock import Superblock
from shmr.fsck.new_workspace import Layout, NewWorkspace, Stage, stage_of
from shmr.fsck.salvage import Salvaged, salvage
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.trial import FILESYSTEM
from shmr.testing.workload import MAINTENANCE, Generator, Operation, Performer
from shmr.units import KIB, MIB
from shmr.volume.membership import write_superblock
from shmr.volume.volume import Volume, open_volume
from tests.archive.site import Site

NAME = b"remains"
_WITHOUT = frozenset({*MAINTENANCE, "open", "write_open", "close"})
"""What is left out of a workload: nobody has a file open when the drives are taken away."""


class Remains(Site):
    """A site whose tree is that of a whole workload: directories, links, holes, attributes."""

    def __init__(self, place: Path, *pools: Pool, zones: int = 160, seed: int = 0) -> None:
        super().__init__(place, *pools, zones=zones, seed=seed)
        for pool in pools:
            for drive_id in pool.drives:
                write_superblock(self.zoned()[drive_id], _block(pool, drive_id))
        self.rng = random.Random(seed)
        self._generator = Generator(seed)
        self._operations: Iterator[Operation] = iter(self._generator.operations(40))

    def work(self, volume: Volume, count: int) -> None:
        """So many operations, each acknowledged at the end."""
        performer = Performer(volume)
        while count:
            operation = next(self._operations, None) or self._generator.next()
            if operation.verb in _WITHOUT:
                continue
            self.clock.tick()
            with suppress(NoSpace):
                assert performer.perform(operation) != errno.EIO
            count -= 1
        while volume.reaper.step():
            pass
        volume.commits.now()

    def lots(self, volume: Volume, source: Pool | None = None) -> Iterator[Lot]:
        catalog = volume.catalog
        numbers = [split_key(key) for key, _ in catalog.scan(Table.INODE, b"")]
        belongs = in_workspace(catalog) if source is None else in_pool(catalog, source.id)
        return lots_of(catalog, numbers, belongs)

    # -- what is left -----------------------------------------------------------------------

    def workspace(self, world: World | None = None) -> list[SimulatedDrive]:
        return list((world or self.world).drives[:1])

    def salvaged(
        self,
        into: Path,
        world: World | None = None,
        *,
        gone: bool = False,
        missing: tuple[bytes, ...] = (),
    ) -> Salvaged:
        """From what is on the drives, without the workspace if it is `gone`."""
        archive = {k: d for k, d in self.zoned(world).items() if k not in missing}
        return salvage(FILESYSTEM, [] if gone else self.workspace(world), archive, into)

    def looked_at(self, catalog: Path, drives: list[Drive], **options: object) -> Volume:
        """A read-only volume with a catalog of its own."""
        return open_volume(
            FILESYSTEM,
            drives,
            catalog,
            clock=self.clock,
            segment_bytes=128 * KIB,
            in_child=False,
            read_only=True,
            archive=self.zoned(),
            deadline_s=None,
        )


def new_drive(world: World) -> SimulatedDrive:
    """An empty one."""
    return world.add(f"new{len(world.drives)}", capacity_bytes=64 * MIB)


def made_anew(
    site: Remains, salvaged: Salvaged, drives: list[SimulatedDrive], catalog: Path, seed: int = 0
) -> None:
    """A workspace on these drives, as the command makes it."""
    layout = Layout(FILESYSTEM, NAME, b"work", len(drives), 128 * KIB)
    workspace = NewWorkspace(
        layout, drives, clock=site.clock, random_bytes=random.Random(seed).randbytes
    )
    if stage_of(drives) is Stage.PROVED:
        workspace.finish()
    else:
        workspace.make(salvaged, catalog)


def _block(pool: Pool, drive_id: bytes) -> Superblock:
    return Superblock(
        FILESYSTEM,
        NAME,
        pool.id,
        pool.name.encode(),
        drive_id,
        1,
        superblock.COMPAT,
        superblock.RO_COMPAT,
        superblock.INCOMPAT,
        0,
        pool.drives,
    )
