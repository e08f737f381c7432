"""What a shift did so far, what of it is not settled yet, and what it found not to be working.

Its owner is the shift; whoever moves bytes for it writes here what has to be known later.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from shmr.archive.plan import Lot
from shmr.archive.pool import Pool
from shmr.archive.write import Unreadable
from shmr.catalog.catalog import Catalog
from shmr.errors import DriveError
from shmr.volume.holds import hold_rows
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

UNREADABLE_MAX = 100


@dataclass(slots=True)
class Report:
    """What a shift did. Bytes are those of files.

    `waiting_bytes` would not have filled half a segment. `unreadable` says of inodes why they
    stayed, `failed` of drives, by their labels, why nothing more was written to them.
    """

    moved_bytes: int = 0
    segments: int = 0
    waiting_bytes: int = 0
    strays: int = 0
    retired: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def turns(catalog: Catalog) -> Counter[bytes]:
    """For each pool, by id, the turn of the first segment that a run places there.

    How many segments of it have anything living in them: so a forecast comes to the same.
    """
    live = catalog.live
    every = catalog.archived_segments()
    return Counter(archived.pool for number, archived in every if live.get(number, 0) > 0)


class Account:
    """Kept on the volume's thread."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self.report = Report()
        self.touched: dict[bytes, bool] = {}
        """Pools whose content changed since the last snapshot; True: something was added."""
        self._turns = turns(volume.catalog)
        self.avoided: dict[bytes, str] = {}
        """Drives that failed, by id, and how: nothing is placed there any more."""

    def turn(self, pool: Pool) -> int:
        """Whose turn it is in the pool: rises by one with each segment that is placed."""
        return self._turns[pool.id]

    def placed(self, pool: Pool) -> None:
        """A segment was."""
        self._turns[pool.id] += 1

    def hold(self, lots: Iterable[Lot], target: int) -> None:
        """Keep the sources of what is going to be switched to segment `target`."""
        volume = self._volume
        numbers = {lot.source.segment for lot in lots}
        for number in numbers:
            archived = volume.catalog.archived(number)
            if archived is not None:
                self.touched.setdefault(archived.pool, False)
        volume.context.apply(hold_rows(sorted(numbers), target), whole=False)

    def unreadable(self, error: Unreadable) -> None:
        """A file stays where it is. Raises `error` when there are too many of them."""
        logger.error("left where it is: %s", error)
        self.report.unreadable[error.inode] = str(error)
        if len(self.report.unreadable) > UNREADABLE_MAX:
            raise error

    def failed(self, pool: Pool, error: DriveError) -> bool:
        """A drive of the pool failed: it is avoided from now on. False: the pool has it not."""
        fragments = self._volume.context.fragments
        ids = [drive for drive in pool.drives if fragments.label(drive) == error.drive]
        for drive in ids:
            if drive not in self.avoided:
                logger.error(
                    "pool %r: nothing more is written to it in this run: %s", pool.name, error
                )
                self.avoided[drive] = self.report.failed[error.drive] = str(error)
        return bool(ids)
