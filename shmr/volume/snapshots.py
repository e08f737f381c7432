"""When a snapshot is due, and the work of making one while the volume goes on.

The writer gets the last checkpoint through a read transaction of its own, in another process
where there is one (`Writer`), so that a million rows delay nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from shmr.catalog.catalog import Catalog
from shmr.format.records import Stream
from shmr.format.rows import Row, Table, encode_number
from shmr.log import snapshot
from shmr.log.store import SegmentStore
from shmr.units import GIB
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT, Checkpoints
from shmr.volume.cleaner import Work
from shmr.volume.context import Context

JOURNAL_BYTES = GIB
SEGMENTS_MAX = 64
"""Journal segments beyond this, small as they may be, are reason enough: each mount begins one."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a writer needs to know: the catalog's path, the segment numbers set aside for it."""

    catalog: str
    first_number: int
    segment_bytes: int


Writer = Callable[[Order], snapshot.Snapshot]


def inline_writer(catalog: Catalog, store: SegmentStore) -> Writer:
    """Writes on the calling thread: for tools and simulations."""

    def write(order: Order) -> snapshot.Snapshot:
        numbers: Iterator[int] = count(order.first_number)
        with catalog.last_checkpoint() as (place, rows):
            return snapshot.write(store, rows, place, numbers, order.segment_bytes)

    return write


class Snapshots:
    """Decides when, and does it."""

    def __init__(self, context: Context, checkpoints: Checkpoints, writer: Writer) -> None:
        self._context = context
        self._checkpoints = checkpoints
        self._writer = writer
        self.running = False

    def due(self) -> bool:
        context = self._context
        if context.read_only is not None or self.running:
            return False
        store = context.reader.store
        count = len(store.of_stream(Stream.JOURNAL))
        last = len(store.of_stream(Stream.SNAPSHOT)) * context.log.journal_bytes
        limit = max(min(JOURNAL_BYTES, store.total_bytes() // 16), last)
        if count > SEGMENTS_MAX or count * context.log.journal_bytes > limit:
            return True
        # Short of space: each mount begins a journal segment, and only a snapshot frees them.
        needed = 2 + 2 * context.catalog.size_bytes() // context.log.journal_bytes
        return count > needed and store.free_bytes() < context.reserves.create_bytes

    def make(self) -> Work[None]:
        """A checkpoint, a snapshot of it, and the end of the journal before it.

        Raises NoSpace, DriveError; nothing is lost then.
        """
        context = self._context
        store = context.reader.store
        self.running = True
        try:
            self._checkpoints.run()
            size = context.log.journal_bytes
            # Numbers are set aside generously: rows take less in a snapshot than in the catalog.
            order = Order(str(context.catalog.path), store.next_number, size)
            store.next_number += 2 + 2 * context.catalog.size_bytes() // size
            made = yield lambda: self._writer(order)
            for segment in made.segments:
                store.segments[segment.number] = segment
            context.apply(
                [
                    Row(Table.STATE, SNAPSHOT, encode_number(made.segments[0].number)),
                    Row(Table.STATE, JOURNAL_FLOOR, encode_number(made.place.segment)),
                ]
            )
            self._checkpoints.run()
        finally:
            self.running = False
