"""What a compaction would do, for `--dry-run`: the same steps as a run, over outlooks of the pools.

A run begins with what is moved, then cleans. Nothing is written here, and no drive asked for more
than how much is free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shmr.archive.account import turns
from shmr.archive.forecast import DRIVE_RATE_BYTES, Forecast, Outlook, Step
from shmr.archive.keep import snapshot_zones
from shmr.archive.plan import Lot
from shmr.archive.pool import Pool
from shmr.archive.sources import lots_of
from shmr.archive.victims import (
    ALL_BYTES,
    hold_of,
    inodes_in,
    segment_uses,
    select,
    takes_rest,
)
from shmr.config import Config
from shmr.service.moving.choosing import Move, is_source, pool_facts, pool_named
from shmr.volume.volume import Volume

ROUNDS_MAX = 64
"""Cleaning in a full pool goes in rounds; no forecast looks further ahead."""


@dataclass(frozen=True, slots=True)
class Space:
    """A pool's free bytes, in bytes of files, before and after."""

    pool: str
    free_bytes: int
    free_after_bytes: int


class Forecaster:
    """Forecasts of one run, in the order in which it would go."""

    def __init__(self, config: Config, volume: Volume, pools: list[Pool], *, flush: bool) -> None:
        self._config = config
        self._volume = volume
        self._pools = pools
        self._flush = flush
        catalog = volume.catalog
        self._archived = dict(catalog.archived_segments())
        turn = turns(catalog)
        self._outlooks = {
            pool.name: Outlook(pool, volume.context.fragments, turn=turn[pool.id]) for pool in pools
        }
        self._gone: Counter[int] = Counter()
        """Bytes that would have left each segment."""
        self._shipped: dict[tuple[int, int], int] = {}
        self._into_workspace = 0
        # A run begins with that.
        self._release(self._archived)

    def moves(self, moves: Iterable[Move]) -> Iterator[Forecast]:
        """One for each move. Raises SetupError: no drive of a pool is there."""
        volume = self._volume
        for move in moves:
            source = is_source(self._config, volume.catalog, self._pools, move)
            lots = self._left(lots_of(volume.catalog, move.inodes, source))
            if move.target == self._config.workspace.name:
                yield self._to_workspace(lots)
                continue
            pool = pool_named(self._pools, move.target)
            outlook = self._outlooks[pool.name]
            step = outlook.ship(
                lots,
                spare_zones=2 * snapshot_zones(volume, pool),
                flush=self._flush,
                is_archived=self._archived.__contains__,
            )
            self._settle(step)
            yield outlook.forecast([step])

    def cleanings(self) -> Iterator[Forecast]:
        """One for each pool of which something would be cleaned."""
        for pool in self._pools:
            steps = list(self._clean(pool))
            victims = set[int]().union(*(step.settled for step in steps))
            if victims:
                yield self._outlooks[pool.name].forecast(steps, victims=len(victims))

    def space(self) -> tuple[Space, ...]:
        """Of every pool that is there, after all of that."""
        found = []
        for facts in pool_facts(self._config, self._volume, self._pools):
            outlook = self._outlooks.get(facts.name)
            if outlook is None:
                archived = self._archived
                left = sum(n for number, n in self._gone.items() if number not in archived)
                copies = self._config.workspace.scheme.copies
                after = facts.free_bytes + (left - self._into_workspace) * copies
            else:
                pool = outlook.pool
                after = sum(outlook.free.values()) * pool.k // pool.width
            found.append(Space(facts.name, facts.free_bytes, min(facts.total_bytes, after)))
        return tuple(found)

    def _to_workspace(self, lots: Iterable[Lot]) -> Forecast:
        volume, workspace = self._volume, self._config.workspace
        size, inodes = 0, set[int]()
        for lot in lots:
            size += lot.length
            inodes.add(lot.inode)
            self._gone[lot.source.segment] += lot.length
            self._shipped[lot.inode, lot.offset] = lot.length
        self._into_workspace += size
        self._release(self._archived)
        usage = volume.usage()
        room = usage.blocks_available * usage.block_size
        short = None if size <= room else f"pool {workspace.name!r} can take {room} bytes now"
        scheme = workspace.scheme
        return Forecast(
            workspace.name,
            len(inodes),
            size,
            0,
            0,
            size * scheme.copies,
            size / DRIVE_RATE_BYTES,
            scheme.m,
            (),
            short,
        )

    def _clean(self, pool: Pool) -> Iterator[Step]:
        """Round after round, as `Shift.clean` does it."""
        volume, outlook = self._volume, self._outlooks[pool.name]
        catalog, spare = volume.catalog, snapshot_zones(volume, pool)
        for _ in range(ROUNDS_MAX):
            uses = [
                (use, shrinks)
                for use, shrinks in segment_uses(catalog, pool, gone=self._gone)
                if use.number in self._archived
            ]
            found = select(
                uses,
                hold_of(pool),
                newest=volume.context.reader.store.next_number,
                room_bytes=outlook.room_bytes(spare),
                wanted_bytes=ALL_BYTES,
                dead_share_min=pool.clean_at,
                flush=self._flush,
            )
            lives = {use.number: use.live_bytes for use, _ in uses}
            rest = takes_rest([lives[number] for number in found], hold_of(pool))
            lots = lots_of(catalog, inodes_in(catalog, found), frozenset(found).__contains__)
            step = outlook.ship(
                self._left(lots),
                spare_zones=spare,
                flush=self._flush or rest,
                cleaning=True,
                is_archived=self._archived.__contains__,
                settle=self._settle,
            )
            before = len(self._archived)
            self._settle(step)
            yield step
            if not step.segments or len(self._archived) == before:
                return

    def _left(self, lots: Iterable[Lot]) -> Iterator[Lot]:
        """Without what would have been moved by then."""
        for lot in lots:
            rest: Lot | None = lot
            while rest is not None:
                # Of a lot that was cut each piece is known by its own offset.
                moved = self._shipped.get((rest.inode, rest.offset))
                if moved is None:
                    yield rest
                    break
                rest = rest.cut(moved)[1] if moved < rest.length else None

    def _settle(self, step: Step) -> None:
        """What the step emptied so far is given back."""
        self._shipped.update(step.shipped)
        step.shipped.clear()
        self._gone.update(step.taken)
        taken = list(step.taken)
        step.settled.update(taken)
        step.taken.clear()
        self._release(taken)

    def _release(self, numbers: Iterable[int]) -> None:
        """Of these segments, those in which nothing would live are retired."""
        catalog = self._volume.catalog
        for number in list(numbers):
            archived = self._archived.get(number)
            if archived is None or catalog.live.get(number, 0) > self._gone[number]:
                continue
            del self._archived[number]
            for outlook in self._outlooks.values():
                if outlook.pool.id == archived.pool:
                    outlook.release(archived)
