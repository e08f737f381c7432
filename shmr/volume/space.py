"""Space: what statfs tells, and which needs the reserves still allow."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from shmr.core.reserve import reserves
from shmr.format.records import Stream
from shmr.format.rows import Table
from shmr.volume.context import Context, Need

BLOCK = 4096
INODE_BYTES = 512
"""What a file without data takes in journal and catalog, roughly: for the count of free inodes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What statfs(2) wants to know, in blocks of `block_size` bytes and in inodes.

    `blocks_free` counts what the cleaner can win back too, `blocks_available` what a write can
    get now.
    """

    block_size: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int


class Space:
    """Measures the workspace."""

    def __init__(self, context: Context) -> None:
        self._context = context
        context.measure = self.measure
        device = context.catalog.device()
        self._shares_disk = any(d.device() == device for d in context.reader.store.drives)

    def measure(self) -> None:
        """Set what is allowed now. Cheap; to be called when segments were claimed or freed."""
        context = self._context
        if context.read_only is not None:
            return
        log = context.log
        held = Counter(segment.stream for segment in log.store.segments.values())
        context.reserves = reserves(
            log.store.segment_bytes,
            log.journal_bytes,
            rows_bytes=context.catalog.truth_bytes(),
            last_bytes=held[Stream.SNAPSHOT] * log.journal_bytes,
            since_bytes=held[Stream.JOURNAL] * log.journal_bytes,
        )
        if self._shares_disk:
            context.catalog.leave_bytes = context.reserves.create_bytes
        free = log.free_bytes()
        if free < context.reserves.create_bytes or context.catalog.short:
            context.allowed_from = Need.DELETE
        else:
            # Data is refused where it finds no segment: an open one may be filled to its end.
            context.allowed_from = Need.DATA

    def dead_bytes(self) -> int:
        """Bytes of data segments that nothing refers to: what cleaning could win."""
        context = self._context
        store = context.reader.store
        data = [s for s in store.segments.values() if s.stream == Stream.DATA]
        taken = sum(segment.size_bytes for segment in data)
        live = context.catalog.live
        living = sum(max(0, live.get(segment.number, 0)) for segment in data)
        return max(0, taken - living)

    def usage(self) -> Usage:
        context = self._context
        store, catalog = context.reader.store, context.catalog
        total = store.total_bytes()
        free = store.free_bytes()
        room = 0
        if context.read_only is None:
            free, room = context.log.free_bytes(), context.log.data_room()
        available = max(0, free - context.reserves.data_bytes)
        available = available // store.segment_bytes * store.segment_bytes + room
        winnable = min(total, available + self.dead_bytes())
        files = catalog.count(Table.INODE)
        return Usage(
            BLOCK,
            total // BLOCK,
            max(winnable, available) // BLOCK,
            available // BLOCK,
            files + available // INODE_BYTES,
            available // INODE_BYTES,
        )
