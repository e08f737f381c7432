"""An archive pool and the workspace before it, in numbers: users change files, shifts move them.

Packing (`shmr.archive.plan`) and the choice of victims (`shmr.archive.victims`, `shmr.core.victim`)
are those of shmr-compact, and so is the order of things: what waits is moved while there are zones;
when they run out, dead bytes make room; at the end what is worth it is cleaned.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from gc_kit.policies import Policy
from gc_kit.setting import Outcome, Setting
from shmr.archive.plan import Hold, Lot, Shipment, shipments
from shmr.archive.victims import ALL_BYTES, DEAD_SHARE_PRESSED, ROOM_SHARE, takes_rest
from shmr.core.victim import SegmentUse
from shmr.format.fragment import BLOCK
from shmr.format.rows import Address

RESERVE = 1
"""Segments that only cleaning may use."""
WORKSPACE = 0
"""The number of what is not in the archive."""


class Full(Exception):
    """No zone is left."""


class Pool:
    """Files are numbers, their sizes blocks. A file that changed waits in the workspace."""

    def __init__(self, setting: Setting, policy: Policy, rng: random.Random) -> None:
        self._setting = setting
        self._policy = policy
        self._rng = rng
        self._hold = Hold(1, setting.zone_bytes, BLOCK)
        self._sizes: dict[int, int] = {}
        self._files: list[int] = []
        self._place_in_list: dict[int, int] = {}
        self._lots: dict[int, dict[int, Lot]] = {}
        """By file and offset."""
        self._content: dict[int, dict[int, None]] = {}
        """The files with bytes in each archived segment."""
        self._live: dict[int, int] = {}
        """Bytes that live in each archived segment; and what was written there."""
        self._used: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        """Blocks that files have in the workspace, what was written longest ago first."""
        self._waiting_blocks = 0
        self._next_segment = self._next_file = self._retired = 0
        self.live = 0
        self.user = self.brought = self.moved = 0

    # -- users ------------------------------------------------------------------------------

    @property
    def peak(self) -> int:
        """Most that lives, the kept part of the workspace with it."""
        return int(self._setting.fullness * self._setting.capacity) + self._setting.kept

    def fill(self) -> None:
        while self.live < self.peak:
            self._make(min(self._size(), self.peak - self.live))
            if self.is_due:
                self.shift()
        self.shift()

    def change(self) -> None:
        """One change by a user: an overwrite, or deletes and a new file."""
        setting = self._setting
        if setting.purge == 0.0 and self._rng.random() < 0.5:
            number = self._any()
            self._forget(number)
            self._wait(number)
            return
        if setting.shrink:
            self._delete(self._any())
            return
        size = self._size()
        if self.live + size > self.peak:
            while self.live + size > self.peak - int(setting.purge * setting.capacity):
                self._delete(self._any())
        self._make(size)

    @property
    def is_due(self) -> bool:
        """Is there enough for a shift?"""
        return (
            self._waiting_blocks - self._setting.kept
            >= min(self._setting.segment_blocks, self._setting.full)
            and self._waiting_blocks >= self._setting.full
        )

    # -- shifts -----------------------------------------------------------------------------

    def shift(self) -> None:
        """As `shmr-compact` goes: the oldest leave the workspace until it has what it keeps."""
        leaving: list[int] = []
        left = self._waiting_blocks
        for number, blocks in self._waiting.items():
            if left <= self._setting.kept:
                break
            leaving.append(number)
            left -= blocks
        first = self._next_segment + 1
        while leaving:
            try:
                self.brought += self._ship(self._of(leaving, WORKSPACE), flush=False)
                break
            except Full as full:
                self.brought += full.args[0]
                self._retire()
                wanted = sum(lot.length for lot in self._of(leaving, WORKSPACE))
                if not self._clean(wanted, DEAD_SHARE_PRESSED):
                    raise SystemExit("no room left: the pool is too full for its reserve") from None
        self._retire()
        if self._setting.clean_at is not None:
            self._clean(ALL_BYTES, self._setting.clean_at, before=first)

    def _clean(self, wanted: int, dead_share_min: float, before: int | None = None) -> bool:
        """Rounds of cleaning, as `Shift.clean` makes them; was any segment emptied?"""
        emptied = False
        while wanted > 0:
            uses = [
                SegmentUse(number, self._used[number], live)
                for number, live in self._live.items()
                if before is None or number < before
            ]
            found = self._policy(
                uses,
                self._hold,
                newest=self._next_segment,
                room_bytes=int(self._free() * self._hold.capacity(1) * ROOM_SHARE),
                wanted_bytes=wanted,
                dead_share_min=dead_share_min,
            )
            lives = [self._live[number] for number in found]
            rest = takes_rest(lives, self._hold)
            wanted -= sum(self._used[number] for number in found) - sum(lives)
            ranks = {number: rank for rank, number in enumerate(found)}
            files: dict[int, None] = {}
            for number in found:
                files.update(dict.fromkeys(sorted(self._content[number])))
            lots = [
                lot
                for file in files
                if file in self._lots
                for _, lot in sorted(self._lots[file].items())
                if lot.source.segment in ranks
            ]
            retired = self._retired
            try:
                self.moved += self._ship(lots, flush=rest, cleaning=True)
            except Full as full:
                self.moved += full.args[0]
            self._retire()
            if self._retired == retired:
                break
            emptied = True
        return emptied

    def _ship(self, lots: Iterable[Lot], *, flush: bool, cleaning: bool = False) -> int:
        """Write lots to new segments; the blocks. Raises Full with those that were written."""
        blocks, reserve = 0, 0 if cleaning else RESERVE
        for shipment in shipments(list(lots), self._hold, flush=flush, whole=cleaning):
            if self._free() <= reserve:
                self._retire()
            if self._free() <= reserve:
                raise Full(blocks)
            self._switch(shipment)
            blocks += shipment.size_bytes // BLOCK
        return blocks

    def _switch(self, shipment: Shipment) -> None:
        self._next_segment += 1
        number = self._next_segment
        self._content[number] = {}
        self._live[number] = shipment.size_bytes
        self._used[number] = max(shipment.used_bytes, self._hold.capacity(1) * 7 // 8)
        for at, lot in shipment.stowed:
            lots, source = self._lots[lot.inode], lot.source.segment
            before = lots.pop(lot.offset)
            if lot.length < before.length:
                rest = before.cut(lot.length)[1]
                lots[rest.offset] = rest
            lots[lot.offset] = lot._replace(source=Address(number, 0, shipment.used_bytes, at))
            self._content[number][lot.inode] = None
            if source == WORKSPACE:
                self._waiting_blocks -= lot.length // BLOCK
                self._waiting[lot.inode] -= lot.length // BLOCK
                if not self._waiting[lot.inode]:
                    del self._waiting[lot.inode]
            else:
                self._live[source] -= lot.length
                if all(one.source.segment != source for one in lots.values()):
                    self._content[source].pop(lot.inode, None)

    def _of(self, files: Sequence[int], segment: int) -> Iterator[Lot]:
        for file in files:
            for _, lot in sorted(self._lots[file].items()):
                if lot.source.segment == segment:
                    yield lot

    def _free(self) -> int:
        return self._setting.segments - len(self._live)

    def _retire(self) -> None:
        """Segments in which nothing lives are gone."""
        dead = [number for number, live in self._live.items() if not live]
        for number in dead:
            del self._live[number], self._content[number], self._used[number]
        self._retired += len(dead)

    # -- files ------------------------------------------------------------------------------

    def _size(self) -> int:
        if not self._setting.file:
            return 1
        mean = self._setting.file * self._setting.segment_blocks
        return max(1, round(self._rng.expovariate(1.0 / mean)))

    def _any(self) -> int:
        """A file to change: any, or with a skew mostly one of the first of the list."""
        skew, count = self._setting.skew, len(self._files)
        if skew:
            hot = max(1, int(skew * count))
            if self._rng.random() < 1.0 - skew:
                return self._files[self._rng.randrange(hot)]
            return self._files[self._rng.randrange(hot, count)]
        return self._files[self._rng.randrange(count)]

    def _make(self, size: int) -> None:
        self._next_file += 1
        number = self._next_file
        self._sizes[number] = size
        self._lots[number] = {}
        self._place_in_list[number] = len(self._files)
        self._files.append(number)
        # A new file takes any place in the list: with a skew it is as often changed as others.
        self._swap(self._rng.randrange(len(self._files)), len(self._files) - 1)
        self.live += size
        self._wait(number)

    def _wait(self, number: int) -> None:
        """All of the file is written."""
        size = self._sizes[number]
        self.user += size
        self._waiting[number] = size
        self._waiting_blocks += size
        source = Address(WORKSPACE, 0, size * BLOCK, 0)
        self._lots[number] = {0: Lot(number, 0, size * BLOCK, source)}

    def _delete(self, number: int) -> None:
        self._forget(number)
        self._swap(self._place_in_list[number], len(self._files) - 1)
        self._files.pop()
        del self._place_in_list[number], self._lots[number]
        self.live -= self._sizes.pop(number)

    def _forget(self, number: int) -> None:
        """All that there is of a file is dead."""
        for lot in self._lots[number].values():
            segment = lot.source.segment
            if segment == WORKSPACE:
                self._waiting_blocks -= lot.length // BLOCK
            else:
                self._live[segment] -= lot.length
                self._content[segment].pop(number, None)
        self._lots[number] = {}
        self._waiting.pop(number, None)

    def _swap(self, one: int, other: int) -> None:
        files = self._files
        files[one], files[other] = files[other], files[one]
        self._place_in_list[files[one]] = one
        self._place_in_list[files[other]] = other


def simulate(
    setting: Setting, policy: Policy, progress: Callable[[float], None] = lambda share: None
) -> Outcome:
    """Half of the turnovers bring it into its stride, the other half is measured.

    What shrinks has no stride: it is measured from its fullest until half of it is left.
    """
    pool = Pool(setting, policy, random.Random(setting.seed))
    pool.fill()
    start = pool.user
    at = pool.user, pool.brought, pool.moved
    total = setting.turnovers * setting.capacity
    measuring = setting.shrink
    while True:
        done = (pool.user - start) / total
        if setting.shrink:
            done = 2.0 * (1.0 - pool.live / pool.peak)
        if done >= 1.0:
            break
        while not pool.is_due and (not setting.shrink or 2 * pool.live > pool.peak):
            pool.change()
        if pool.is_due:
            pool.shift()
        progress(min(1.0, done))
        if not measuring and done >= 0.5:
            measuring, at = True, (pool.user, pool.brought, pool.moved)
    now = pool.user, pool.brought, pool.moved
    return Outcome(*(after - before for after, before in zip(now, at, strict=True)))
