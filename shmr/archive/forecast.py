"""What a shift to a pool would do, without doing it: bytes for each drive, what is left, how long.

The same packing and the same placement as the shift's own, on numbers instead of drives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shmr.archive.plan import Hold, Lot, shipments
from shmr.archive.pool import Pool
from shmr.core.placement import DriveFacts, Shortage, place
from shmr.log.fragments import FragmentStore
from shmr.units import MIB

DRIVE_RATE_BYTES = 120 * MIB
"""What a drive is taken to write or read in a second: a shingled disk in sequence."""


@dataclass(frozen=True, slots=True)
class DriveForecast:
    """A drive: what it would be given, and what would be left of it."""

    label: str
    write_bytes: int
    zones_left: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """`file_bytes` would move, in `segments`; `waiting_bytes` would wait for a fuller segment.

    `written_bytes` counts everything that drives are given: parity, tables, padding.
    `victims`: so many segments of the pool are cleaned, nothing comes from elsewhere.
    `redundancy` is how many drives may then be lost. `shortage` says why not all would find place.
    """

    target: str
    files: int
    file_bytes: int
    waiting_bytes: int
    segments: int
    written_bytes: int
    seconds: float
    redundancy: int
    drives: tuple[DriveForecast, ...]
    shortage: str | None = None
    victims: int = 0


def forecast(
    lots: Iterable[Lot],
    pool: Pool,
    fragments: FragmentStore,
    *,
    turn: int,
    spare_zones: int = 0,
    flush: bool = False,
    victims: int = 0,
) -> Forecast:
    """What moving these lots to `pool` would do. Asks the drives how much is free.

    `spare_zones` of each drive stay free for snapshots.
    """
    found, absent = pool.facts(fragments, spare_zones)
    facts: dict[bytes, DriveFacts] = {fact.drive: fact for fact in found}
    written = dict.fromkeys(facts, 0)
    offered, inodes = 0, set[int]()

    def counted() -> Iterable[Lot]:
        nonlocal offered
        for lot in lots:
            offered += lot.length
            yield lot

    moved = segments = 0
    shortage: str | None = None
    hold = Hold(pool.k, pool.zone_bytes, pool.unit_bytes)
    for shipment in shipments(counted(), hold, flush=flush):
        chosen = place(
            facts.values(), pool.width, turn, same_device=pool.same_device, cleaning=victims > 0
        )
        if isinstance(chosen, Shortage):
            shortage = "; ".join([str(chosen), *absent])
            break
        turn += 1
        segments += 1
        moved += shipment.size_bytes
        inodes.update(lot.inode for _, lot in shipment.stowed)
        size = shipment.fragment_bytes()
        for drive in chosen:
            written[drive] += size
            facts[drive] = replace(facts[drive], free_zones=facts[drive].free_zones - 1)
    busiest = max(written.values(), default=0)
    return Forecast(
        pool.name,
        len(inodes),
        moved,
        offered - moved,
        segments,
        sum(written.values()),
        # Everything is written, and read once more to verify it.
        2 * busiest / DRIVE_RATE_BYTES,
        pool.m,
        tuple(
            DriveForecast(fact.label, written[drive], fact.free_zones + spare_zones)
            for drive, fact in facts.items()
        ),
        shortage,
        victims,
    )
