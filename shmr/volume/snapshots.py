"""When a snapshot is due, and the work of making one while the volume goes on.

The writer gets the last checkpoint through a read transaction of its own, in another process
where there is one (`Writer`), so that a million rows delay nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shmr.catalog.catalog import Catalog
from shmr.errors import NoSpace, ShmrError
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
    number_count: int
    segment_bytes: int


Writer = Callable[[Order], snapshot.Snapshot]


def inline_writer(catalog: Catalog, store: SegmentStore) -> Writer:
    """Writes on the calling thread: for tools and simulations."""

    def write(order: Order) -> snapshot.Snapshot:
        numbers = iter(range(order.first_number, order.first_number + order.number_count))
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
        self._in_vain: tuple[int, int] | None = None
        """Journal segments and free bytes when the last one could not be written."""

    def due(self, *, asked: bool = False) -> bool:
        """Is it time? `asked`: somebody was refused for want of space, and waits.

        A snapshot wins what the journal and the last one hold beyond the rows of now: each
        mount's segment of the journal, and all that deletes made void, for of a file without data
        nothing else ever goes.
        """
        context = self._context
        if context.read_only is not None or self.running:
            return False
        store, size = context.reader.store, context.log.journal_bytes
        kept = [*store.of_stream(Stream.JOURNAL), *store.of_stream(Stream.SNAPSHOT)]
        count = sum(segment.stream == Stream.JOURNAL for segment in kept)
        needed, free = context.reserves.snapshot_bytes, store.free_bytes()
        if self._in_vain is not None and count == self._in_vain[0] and free <= self._in_vain[1]:
            return False
        if any(map(store.lacks_copies, kept)):
            # A new one, and the journal behind it, have all copies again.
            return True
        last = (len(kept) - count) * size
        limit = max(min(JOURNAL_BYTES, store.total_bytes() // 16), last)
        if count > SEGMENTS_MAX or count * size > limit:
            return True
        if count <= 2 or free - store.segment_bytes >= context.reserves.data_bytes:
            return False
        # Short of space. The less often, the larger it is; sooner for somebody who waits, though
        # not for each file that is deleted and made again; and in any case before commits and
        # deletes have used up what only they may take, or it would not fit any more.
        share = needed // (16 if asked else 4)
        return count * size > min(share, 8 * size) or self.pressing

    @property
    def pressing(self) -> bool:
        """Do commits and deletes already use what only they may take?"""
        context = self._context
        return context.reader.store.free_bytes() < context.reserves.clean_bytes

    def make(self, *, segment_bytes_max: int | None = None) -> Work[None]:
        """A checkpoint, a snapshot of it, and the end of the journal before it.

        No segment of it is larger than `segment_bytes_max`: what is copied to a drive whose zones
        are small has to fit into one. Raises NoSpace, DriveError; nothing is lost then.
        """
        context = self._context
        store = context.reader.store
        self.running = True
        try:
            size = min(context.log.journal_bytes, segment_bytes_max or context.log.journal_bytes)
            # Numbers are set aside generously (rows take less in a snapshot than in the catalog),
            # and before the checkpoint, which makes it durable that they are taken.
            count = 4 + 2 * context.catalog.truth_bytes() // size
            order = Order(str(context.catalog.path), store.next_number, count, size)
            store.next_number += count
            self._checkpoints.run()
            made = yield lambda: self._writer(order)
            for segment in made.segments:
                store.segments[segment.number] = segment
            context.apply(
                [
                    Row(Table.STATE, SNAPSHOT, encode_number(made.segments[0].number)),
                    Row(Table.STATE, JOURNAL_FLOOR, encode_number(made.place.segment)),
                ]
            )
            try:
                self._checkpoints.run()
            except NoSpace:
                # Deletes went on while it was written, and used up what they are left. What it
                # replaces goes first then: it is durable, found without the rows that name it,
                # and a checkpoint stands at its place or behind. A batch of deletes is no larger
                # than what it deletes, which is in what goes here.
                self._checkpoints.discard_replaced()
                self._checkpoints.run()
            self._in_vain = None
        except ShmrError:
            self._in_vain = len(store.of_stream(Stream.JOURNAL)), store.free_bytes()
            raise
        finally:
            self.running = False
