"""Checkpoints: the catalog made durable up to a place in the journal, and what that frees.

On the volume's thread, with no operation between: the residual commit, its sync, the LMDB commit.
LMDB never commits what the log does not durably have. Behind a durable checkpoint, segments in
which nothing lives any more are discarded, but for those that a shift still holds.
"""

from __future__ import annotations

import errno

from shmr.catalog.catalog import CatalogFailed
from shmr.errors import Refused
from shmr.format.records import Stream
from shmr.units import GIB, NS_PER_S
from shmr.volume.commits import Commits
from shmr.volume.context import Context
from shmr.volume.holds import is_held

ROWS = 20_000
DATA_BYTES = GIB
AGE_NS = 10 * NS_PER_S
IDLE_NS = NS_PER_S // 2
SNAPSHOT = b"snapshot"
"""State row: the number of the segment that begins the newest snapshot."""
JOURNAL_FLOOR = b"journal_floor"
"""State row: journal segments below this number are behind that snapshot."""


class Checkpoints:
    """Decides when, and does it."""

    def __init__(self, context: Context, commits: Commits) -> None:
        self._context = context
        self._commits = commits
        self._last_ns = context.clock()
        self._last_change_ns = self._last_ns
        self._last_rows = 0

    def due(self) -> bool:
        """Is it time? Call now and then; costs nothing."""
        context = self._context
        if context.read_only is not None:
            return False
        rows, now = context.catalog.epoch_rows, context.clock()
        # Where the clock was set back, ages count from now, not from when it is there again.
        self._last_ns = min(self._last_ns, now)
        self._last_change_ns = min(self._last_change_ns, now)
        if rows != self._last_rows:
            self._last_rows, self._last_change_ns = rows, now
        if not rows:
            self._last_ns = now
            return False
        return (
            rows >= ROWS
            or now - self._last_ns >= AGE_NS
            or now - self._last_change_ns >= IDLE_NS
            or context.log.unsynced_bytes() >= DATA_BYTES
        )

    def run(self) -> None:
        """Make the catalog durable and discard what nothing needs now.

        Raises Refused(EROFS) when changes are refused, DriveError, NoSpace (no room for the
        residual commit; nothing is lost), and CatalogFailed, after which the volume can only be
        closed.
        """
        context = self._context
        if context.read_only is not None:
            raise Refused(errno.EROFS)
        self._commits.now()
        store = context.reader.store
        try:
            context.catalog.checkpoint(store.filesystem, context.log.place, store.next_number)
        except CatalogFailed as error:
            context.poison(error)
            raise
        self._last_ns = context.clock()
        self._last_rows = 0
        self.discard_dead()

    def discard_dead(self) -> int:
        """Discard segments behind the checkpoint just made in which nothing lives; how many."""
        context = self._context
        catalog, store = context.catalog, context.reader.store
        live, log = catalog.live, context.log
        dead = [
            segment.number
            for segment in store.segments.values()
            if segment.stream == Stream.DATA
            and live.get(segment.number, 0) <= 0
            and not log.is_open(segment.number)
            and not is_held(catalog, segment.number)
        ]
        for number in dead:
            live.pop(number, None)
            store.discard(number)
        return len(dead) + self.discard_replaced()

    def discard_replaced(self) -> int:
        """Discard journal and snapshots that the newest snapshot stands for; how many segments.

        That snapshot is durable, and so is a checkpoint at its place or behind.
        """
        catalog, store = self._context.catalog, self._context.reader.store
        floor, newest = catalog.state(JOURNAL_FLOOR), catalog.state(SNAPSHOT)
        if not newest:
            return 0
        replaced = [s.number for s in store.of_stream(Stream.JOURNAL) if s.number < floor]
        replaced += (s.number for s in store.of_stream(Stream.SNAPSHOT) if s.number < newest)
        for number in replaced:
            store.discard(number)
        return len(replaced)
