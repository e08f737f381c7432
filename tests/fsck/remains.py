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
from shmr.format.rows import Place, Table, split_key
from shmr.format.superblock import Superblock
from shmr.fsck.rebuilding.new_workspace import Layout, NewWorkspace, Stage, stage_of
from shmr.fsck.salvaging.salvage import Salvaged, salvage
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.trial import FILESYSTEM
from shmr.testing.workload import MAINTENANCE, Generator, Operation, Performer
from shmr.units import KIB
from shmr.volume.membership import write_superblock
from shmr.volume.volume import Volume
from tests.archive.site import Site, pool_of

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
        self.stay: set[int] = set()
        """Inodes that no shift moves."""
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
        inodes = (split_key(key) for key, _ in catalog.scan(Table.INODE, b""))
        numbers = [number for number in inodes if number not in self.stay]
        belongs = in_workspace(catalog) if source is None else in_pool(catalog, source.id)
        return lots_of(catalog, numbers, belongs)

    # -- what is left -----------------------------------------------------------------------

    def crash(self) -> None:
        """Everything that was acknowledged is on the drives."""
        self.world = self.world.reboot(random.Random(self.rng.getrandbits(32)))

    def lose_workspace(self, world: World | None = None) -> SimulatedDrive:
        """An empty disk is in its place."""
        drives = (world or self.world).drives
        drives[0].like(world or self.world)
        drives[0] = drives.pop()
        return drives[0]

    def salvaged(
        self,
        into: Path,
        world: World | None = None,
        *,
        gone: bool = False,
        missing: tuple[bytes, ...] = (),
        until: Place | None = None,
    ) -> Salvaged:
        """From what is on the drives, without the workspace if it is `gone`."""
        archive = {k: d for k, d in self.zoned(world).items() if k not in missing}
        workspace = [] if gone else (world or self.world).drives[:1]
        return salvage(FILESYSTEM, workspace, archive, into, until=until)

    def made_anew(
        self,
        salvaged: Salvaged | None,
        world: World | None = None,
        catalog: Path | None = None,
        seed: int = 0,
    ) -> None:
        """A new workspace, as the command makes it."""
        drives = (world or self.world).drives[:1]
        layout = Layout(FILESYSTEM, NAME, b"work", 1, 128 * KIB)
        workspace = NewWorkspace(
            layout, drives, clock=self.clock, random_bytes=random.Random(seed).randbytes
        )
        if stage_of(drives) is Stage.PROVED:
            workspace.finish()
        else:
            assert salvaged is not None
            workspace.make(salvaged, catalog or self.catalog)

    def snapshots(self) -> dict[bytes, dict[str, bytes]]:
        """The copies of snapshots on archive drives, by drive and name."""
        found: dict[bytes, dict[str, bytes]] = {}
        for key, drive in self.zoned().items():
            names = [name for name in drive.names() if name.startswith("snapshot")]
            found[key] = {name: content_of(drive, name) for name in names}
        return found

    def put_back(self, copies: dict[bytes, dict[str, bytes]]) -> None:
        """Archive drives have these copies of snapshots, and no others."""
        for key, drive in self.zoned().items():
            for name in drive.names():
                if name.startswith("snapshot"):
                    drive.discard(name)
            for name, content in copies.get(key, {}).items():
                put(drive, name, content)


def content_of(drive: Drive, name: str) -> bytes:
    file = drive.open(name)
    try:
        return file.read(0, drive.size(name))
    finally:
        file.close()


def put(drive: Drive, name: str, content: bytes) -> None:
    """A file, sealed."""
    file = drive.claim(name, len(content))
    file.append([content])
    file.seal()
    file.close()


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


def much_done(place: Path, seed: int) -> tuple[Remains, Volume]:
    """Files of all kinds made, changed, moved, deleted, archived and cleaned."""
    site = Remains(place, pool_of("2+1", 0), pool_of("mirror", 1), seed=seed)
    volume = site.open()
    for turn in range(4):
        site.work(volume, 60)
        there, back = site.pools[turn % 2], site.pools[(turn + 1) % 2]
        site.shift(volume, there, back if turn > 1 else None)
    return site, volume


def anew(site: Remains, salvaged: Salvaged, missing: tuple[bytes, ...] = ()) -> Volume:
    """The volume of the new workspace that takes the place of the old one."""
    site.lose_workspace()
    site.made_anew(salvaged, catalog=site.place / "anew")
    return site.open(catalog=site.place / "anew", missing=missing)
