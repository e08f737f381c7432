"""A whole filesystem on simulated drives: a workspace and an archive pool of shingled disks.

All drives are in one world, so that one power switch and one count of operations is for all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shmr.archive import rewrite, verify, write
from shmr.archive.control import Control
from shmr.archive.plan import Lot
from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.archive.sources import in_pool, in_workspace, lots_of
from shmr.catalog import store as catalog_store
from shmr.format.fragment import Code
from shmr.format.rows import ROOT
from shmr.log import log
from shmr.testing.drive import World
from shmr.testing.trial import FILESYSTEM, Clock
from shmr.testing.zoned import ZonedDrive, add_zoned
from shmr.units import GIB, KIB, MIB
from shmr.volume.cleaner import run_inline
from shmr.volume.context import Caller
from shmr.volume.volume import Volume, open_volume

ME = Caller(0, 0)
UNIT = 8 * KIB
ZONE = 256 * KIB
SCHEMES = {
    "single": (1, 0, Code.COPIES),
    "mirror": (1, 1, Code.COPIES),
    "2+1": (2, 1, Code.ISA_L_RS_CAUCHY),
    "4+2": (4, 2, Code.ISA_L_RS_CAUCHY),
}


@contextmanager
def small_limits() -> Iterator[None]:
    """Journal segments that fit into a zone, little address space for each catalog, and several
    steps to each segment."""
    usual = log.JOURNAL_MIN_BYTES, catalog_store.MAP_BYTES, write.STEP_BYTES
    usual_runs = rewrite.RUN_BYTES, rewrite.VERIFY_BYTES
    log.JOURNAL_MIN_BYTES, catalog_store.MAP_BYTES = 160 * KIB, GIB
    write.STEP_BYTES = verify.STEP_BYTES = 96 * KIB
    rewrite.RUN_BYTES, rewrite.VERIFY_BYTES = 40 * KIB, 16 * KIB
    try:
        yield
    finally:
        log.JOURNAL_MIN_BYTES, catalog_store.MAP_BYTES, write.STEP_BYTES = usual
        verify.STEP_BYTES = usual[2]
        rewrite.RUN_BYTES, rewrite.VERIFY_BYTES = usual_runs


def pool_of(
    scheme: str, number: int = 0, *, drives: int | None = None, zone_bytes: int = ZONE
) -> Pool:
    """Pool `number` of the site, with a drive more than the scheme needs."""
    k, m, code = SCHEMES[scheme]
    ids = tuple(drive_id(number, index) for index in range(drives or k + m + 1))
    return Pool(
        bytes([200 + number]) * 16, f"cold{number}", k, m, code, zone_bytes, ids, UNIT, clean_at=0.3
    )


def drive_id(pool: int, index: int) -> bytes:
    return bytes([1 + pool, 1 + index]) * 8


class Site:
    """What there is on the drives, and how to open it."""

    def __init__(self, place: Path, *pools: Pool, zones: int = 24, seed: int = 0) -> None:
        self.place = place
        self.pools = pools
        self.clock = Clock()
        self.world = World(seed)
        self.world.add("work", capacity_bytes=64 * MIB)
        for pool in pools:
            for drive in pool.drives:
                add_zoned(self.world, drive.hex()[:4], zones=zones, zone_bytes=pool.zone_bytes)
        self.files: dict[bytes, bytes] = {}
        """Every file that was acknowledged, by name."""
        self.numbers: dict[bytes, int] = {}

    @property
    def catalog(self) -> Path:
        return self.place / "catalog"

    def zoned(self, world: World | None = None) -> dict[bytes, ZonedDrive]:
        ids = [drive for pool in self.pools for drive in pool.drives]
        found = (world or self.world).drives[1:]
        assert all(isinstance(drive, ZonedDrive) for drive in found)
        return dict(zip(ids, found, strict=True))  # type: ignore[arg-type]

    def open(
        self,
        world: World | None = None,
        catalog: Path | None = None,
        *,
        missing: tuple[bytes, ...] = (),
        read_only: bool = False,
    ) -> Volume:
        zoned = {d: drive for d, drive in self.zoned(world).items() if d not in missing}
        return open_volume(
            FILESYSTEM,
            (world or self.world).drives[:1],
            catalog or self.catalog,
            clock=self.clock,
            segment_bytes=128 * KIB,
            in_child=False,
            read_only=read_only,
            archive=zoned,
            archive_missing=missing,
            deadline_s=None,
        )

    def write(self, volume: Volume, name: bytes, content: bytes, at: int = 0) -> int:
        """Write into a file of the top directory, made if it is not there."""
        if name not in self.numbers:
            inode = volume.names.create(ROOT, name, 0o100644, ME)
            self.numbers[name] = inode.number
        number = self.numbers[name]
        for offset in range(0, len(content), 100_000):
            volume.data.write(number, at + offset, content[offset : offset + 100_000])
        before = self.files.get(name, b"").ljust(at, b"\0")
        self.files[name] = before[:at] + content + before[at + len(content) :]
        return number

    def fill(self, volume: Volume, *, seed: int = 1, count: int = 12, most: int = 150_000) -> None:
        """Files of many sizes."""
        rng = random.Random(seed)
        for index in range(count):
            size = rng.choice((0, 1, 5, 4096, 20_000, 70_000, most))
            self.write(volume, b"file%d" % index, rng.randbytes(size))
        volume.commits.now()

    def delete(self, volume: Volume, name: bytes) -> None:
        volume.names.unlink(ROOT, name)
        volume.handles.forgotten(self.numbers.pop(name))
        del self.files[name]

    def lots(self, volume: Volume, source: Pool | None = None) -> Iterator[Lot]:
        """Everything in the workspace, or in a pool."""
        catalog = volume.catalog
        belongs = in_workspace(catalog) if source is None else in_pool(catalog, source.id)
        return lots_of(catalog, sorted(self.numbers.values()), belongs)

    def shift(
        self,
        volume: Volume,
        target: Pool | None,
        source: Pool | None = None,
        *,
        control: Control | None = None,
        readers: int = 0,
    ) -> Shift:
        """A whole run, as a command makes it: what was left is settled, then everything moves."""
        shift = Shift(volume, self.pools, control=control, readers=readers)
        run_inline(shift.recover())
        lots = self.lots(volume, source)
        if target is None:
            run_inline(shift.to_workspace(lots))
        else:
            run_inline(shift.to_archive(lots, target, flush=True))
        return shift

    # -- looking ----------------------------------------------------------------------------

    def assert_files(self, volume: Volume) -> None:
        """Every file reads as it was written."""
        found = {bytes(name) for name, _, _ in volume.names.entries(ROOT, 0)}
        assert found == set(self.files)
        for name, content in self.files.items():
            number = volume.names.lookup(ROOT, name).number
            plan = volume.data.plan_read(number, 0, len(content) + 1)
            try:
                assert bytes(plan.fetch()) == content, name
            finally:
                plan.release()

    def assert_nothing_astray(self, volume: Volume, world: World | None = None) -> None:
        """Drives hold the fragments that rows name, snapshots of one time, and nothing else."""
        assert volume.archive.strays() == []
        for drive in self.zoned(world).values():
            assert drive.other_writes == 0
        for pool in self.pools:
            kept = [
                frozenset(n for n in self.zoned(world)[d].names() if n.startswith("snapshot"))
                for d in pool.drives
            ]
            there = [names for names in kept if names]
            assert len(set(there)) <= 1
            assert not there or len(there) > pool.m

    def bytes_in(self, volume: Volume, pool: Pool | None) -> int:
        """Bytes of files that lie in a pool, or in the workspace."""
        catalog = volume.catalog
        pools = {number: a.pool for number, a in catalog.archived_segments()}
        wanted = None if pool is None else pool.id
        return sum(n for number, n in catalog.live.items() if pools.get(number) == wanted)
