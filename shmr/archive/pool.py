"""An archive pool as a shift sees it: its scheme, its zones, and what its drives can still take.

Left to others: which of the drives that can are taken (`shmr.core.placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shmr.core.placement import DriveFacts, DriveState, Shortage, place
from shmr.core.stripe import rotated
from shmr.errors import DriveError, SetupError
from shmr.format.fragment import UNIT_BYTES, Code
from shmr.log.fragments import FragmentStore


class NoPlace(SetupError):
    """Too few drives can take what a segment needs; the message says why, drive by drive."""


class PoolDriveError(DriveError):
    """A drive of a pool failed a shift; says what the others can still take."""

    def __init__(
        self,
        pool: Pool,
        error: DriveError,
        fragments: FragmentStore,
        avoided: Mapping[bytes, str] | None = None,
    ) -> None:
        super().__init__(error.drive, error.operation, error.cause)
        facts, absent = pool.facts(fragments, avoided=avoided)
        zones = list(map(_zones_free, facts))
        self.args = (f"pool {pool.name!r}: {error} ({'; '.join([*zones, *absent])})",)


def _zones_free(fact: DriveFacts) -> str:
    return f"{fact.label}: {fact.free_zones} {'zone' if fact.free_zones == 1 else 'zones'} free"


@dataclass(frozen=True, slots=True)
class Pool:
    """An archive pool. `drives` are the ids of its members, also of those that are missing.

    `clean_at` is the share of dead bytes from which a segment is worth cleaning.
    """

    id: bytes
    name: str
    k: int
    m: int
    code: Code
    zone_bytes: int
    drives: tuple[bytes, ...]
    unit_bytes: int = UNIT_BYTES
    clean_at: float = field(kw_only=True)
    same_device: bool = False
    states: Mapping[bytes, DriveState] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return self.k + self.m

    def place(
        self,
        fragments: FragmentStore,
        turn: int,
        *,
        spare_zones: int = 0,
        cleaning: bool = False,
        avoided: Mapping[bytes, str] | None = None,
    ) -> tuple[bytes, ...]:
        """The drives for fragments 0..k+m-1 of a new segment. Raises NoPlace.

        `spare_zones` of each drive are wanted for something else. `turn` rises by one each time.
        """
        facts, absent = self.facts(fragments, spare_zones, avoided)
        found = place(facts, self.width, turn, same_device=self.same_device, cleaning=cleaning)
        if isinstance(found, Shortage):
            parts = [str(found), *absent, *map(_zones_free, facts)]
            if spare_zones:
                parts.append(f"besides, {spare_zones} zones of each drive are kept for snapshots")
            raise NoPlace(
                f"pool {self.name!r}: {'; '.join(parts)}. Add a drive (`shmr drive add`), connect "
                "those that are missing, or delete files, and run it again"
            )
        return rotated(found, turn)

    def facts(
        self,
        fragments: FragmentStore,
        spare_zones: int = 0,
        avoided: Mapping[bytes, str] | None = None,
    ) -> tuple[list[DriveFacts], list[str]]:
        """What placement wants to know of the drives that are there, and why others are not.

        `avoided` are drives that failed, and how.
        """
        facts: list[DriveFacts] = []
        absent: list[str] = []
        for drive_id in self.drives:
            drive = fragments.drives.get(drive_id)
            if drive is None:
                absent.append(f"{fragments.label(drive_id)}: missing")
                continue
            if avoided and drive_id in avoided:
                absent.append(f"failed in this run: {avoided[drive_id]}")
                continue
            try:
                free = drive.capacity().free_bytes // self.zone_bytes
                device = drive.device()
            except DriveError as error:
                absent.append(f"{drive.label}: {error}")
                continue
            state = self.states.get(drive_id, DriveState.NORMAL)
            zones = max(0, free - spare_zones)
            facts.append(DriveFacts(drive_id, drive.label, device, zones, state))
        return facts, absent
