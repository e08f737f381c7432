"""Who chooses victims: shmr itself, and two to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from shmr.archive.plan import Hold
from shmr.archive.victims import select
from shmr.core.victim import SegmentUse, winning


class Policy(Protocol):
    """Numbers of the victims, best first: as `shmr.archive.victims.select` gives them."""

    def __call__(
        self,
        uses: list[SegmentUse],
        hold: Hold,
        *,
        newest: int,
        room_bytes: int,
        wanted_bytes: int,
        dead_share_min: float,
    ) -> list[int]: ...


def shmr(
    uses: list[SegmentUse],
    hold: Hold,
    *,
    newest: int,
    room_bytes: int,
    wanted_bytes: int,
    dead_share_min: float,
) -> list[int]:
    """The module that shmr-compact uses."""
    return select(
        [(use, False) for use in uses],
        hold,
        newest=newest,
        room_bytes=room_bytes,
        wanted_bytes=wanted_bytes,
        dead_share_min=dead_share_min,
    )


def by(score: Callable[[SegmentUse, int], float]) -> Policy:
    """Another order of the same victims, and as many of them as shmr takes."""

    def choose(
        uses: list[SegmentUse],
        hold: Hold,
        *,
        newest: int,
        room_bytes: int,
        wanted_bytes: int,
        dead_share_min: float,
    ) -> list[int]:
        fill = hold.capacity(1)
        chosen: list[SegmentUse] = []
        won, live, full = 0, 0, room_bytes
        for use in sorted(uses, key=lambda use: (-score(use, newest), use.number)):
            if not use.live_bytes or use.dead_share <= 0.0 or use.dead_share < dead_share_min:
                continue
            if live >= full:
                break
            chosen.append(use)
            live += use.live_bytes
            won += use.size_bytes - use.live_bytes
            if won >= wanted_bytes and full == room_bytes:
                full = min(room_bytes, math.ceil(live / fill) * fill)
        return winning(chosen, fill_bytes=fill, room_bytes=room_bytes)

    return choose


POLICIES: dict[str, Policy] = {
    "shmr": shmr,
    "greedy": by(lambda use, newest: use.dead_share),
    "cost-benefit": by(
        lambda use, newest: use.dead_share * (newest - use.number + 1) / (2.0 - use.dead_share)
    ),
}
