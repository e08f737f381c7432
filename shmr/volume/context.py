"""What every part of a volume works with: the catalog, the log, the clock, and leave to change.

A part computes all rows of an operation, appends what it must to the log, and applies the rows;
nothing else runs between, so an operation cannot half-happen.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from shmr.catalog.batch import BATCH_MAX_BYTES
from shmr.catalog.catalog import Catalog, Gone, Naming
from shmr.core.reserve import Reserves
from shmr.errors import DriveError, NoSpace, Refused
from shmr.format.rows import Extent, Inode, Row
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.log.log import Log
from shmr.log.reader import LogReader

logger = logging.getLogger(__name__)

ROWS_MAX = 4096
"""No operation makes more rows than this; longer ones leave a mark for the reaper."""
_INODES_AHEAD = 1024
NEXT_INODE = b"next_inode"
"""State row: the first number of an inode that was not set aside yet."""


class Need(IntEnum):
    """What an operation does to space: how deep into the reserves it may go."""

    DATA = 0
    CREATE = 1
    DELETE = 2


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: effective ids, umask, and a way to learn the supplementary groups."""

    uid: int
    gid: int
    umask: int = 0
    groups: Callable[[], frozenset[int]] = field(default=frozenset)


class Context:
    """Shared by the parts of one volume; owned by its thread."""

    def __init__(
        self,
        catalog: Catalog,
        log: Log | None,
        reader: LogReader,
        clock: Callable[[], int],
        reserves: Reserves,
    ) -> None:
        self.catalog = catalog
        self._log = log
        self.reader = reader
        self.clock = clock
        self.reserves = reserves
        # A batch must fit what deletes are left in a full workspace.
        journal_bytes = log.journal_bytes if log else BATCH_MAX_BYTES
        self._batch_max_bytes = min(BATCH_MAX_BYTES, 2 * journal_bytes)
        self._cut_at_bytes = self._batch_max_bytes
        self.read_only: str | None = None
        """Why changes are refused with EROFS, or None."""
        self.allowed_from = Need.DATA
        """The least demanding need that space allows now (see `Space.measure`)."""
        self.measure: Callable[[], None] = lambda: None
        """Sets `reserves` and `allowed_from` anew (`Space.measure`)."""
        self._next_inode = self._inodes_end = 0

    @property
    def has_log(self) -> bool:
        return self._log is not None

    @property
    def log(self) -> Log:
        """The log to append to. A read-only volume has none, and asks for none."""
        assert self._log is not None
        return self._log

    @property
    def gather(self) -> Gather:
        """Reads archived segments."""
        return self.reader.gather

    @property
    def fragments(self) -> FragmentStore:
        """The archive drives and the fragments on them."""
        return self.reader.gather.fragments

    def allow(self, need: Need) -> None:
        """Raise Refused(EROFS) or NoSpace unless an operation of this need may change things."""
        if self.read_only is not None:
            raise Refused(errno.EROFS)
        if need < self.allowed_from:
            raise NoSpace()

    def get_inode(self, number: int) -> Inode:
        """Raises Refused(ENOENT)."""
        inode = self.catalog.inode(number)
        if inode is None:
            raise Refused(errno.ENOENT)
        return inode

    def new_inode(self) -> int:
        """A number no inode ever had: numbers are set aside a thousand at a time."""
        number = self._next_inode
        if number == self._inodes_end:
            number = self.catalog.state(NEXT_INODE, 2)
            # Not through `apply`: a batch is never cut inside an operation.
            self.catalog.set_state(NEXT_INODE, number + _INODES_AHEAD)
            self._inodes_end = number + _INODES_AHEAD
        self._next_inode = number + 1
        self.catalog.fresh(number)
        return number

    def append_data(
        self,
        inode: int,
        offset: int,
        payload: bytes | memoryview,
        *,
        reserve_bytes: int = 0,
        moving: bool = False,
    ) -> list[Extent]:
        """`Log.append_data`; after a DriveError changes are refused from then on."""
        try:
            return self.log.append_data(
                inode, offset, payload, reserve_bytes=reserve_bytes, moving=moving
            )
        except DriveError as error:
            self.poison(error)
            raise

    def apply(
        self,
        rows: Iterable[Row],
        *inodes: Inode,
        names: Iterable[Naming] = (),
        gone: Gone | None = None,
        whole: bool = True,
    ) -> None:
        """Make rows, changed inodes and names, and the end of an inode true.

        A batch that grew large is cut behind the rows of a `whole` operation.
        """
        try:
            self.catalog.apply(rows, inodes, names, gone)
        except Exception as error:
            # Some of the rows may be applied. The epoch is never committed and the batch never
            # journaled from here on, so the next mount recovers to before this operation.
            self.poison(error)
            raise
        if whole and self.catalog.batch_bytes >= self._cut_at_bytes:
            try:
                self.cut()
            except NoSpace:
                # The operation is done and the batch stays; a commit will say what is missing.
                # Each try packs the whole batch: not at every operation from here on.
                self._cut_at_bytes = self.catalog.batch_bytes + self._batch_max_bytes

    def cut(self) -> None:
        """Append the batch to the journal, with its COMMIT. Not durable before a sync.

        Raises NoSpace (the batch stays as it is), DriveError (changes are refused from then on).
        """
        if self.read_only is not None:
            # A poisoned batch may hold half an operation: it must never become durable.
            raise Refused(errno.EROFS)
        log = self.log
        number = log.place.segment
        try:
            log.append_commit(self.catalog.batch.payloads(log.journal_bytes))
        except NoSpace:
            raise
        except Exception as error:
            # The log failed; or LMDB did, where the batch's last rows are written only now.
            self.poison(error)
            raise
        self.catalog.take_batch()
        self._cut_at_bytes = self._batch_max_bytes
        if log.place.segment != number:
            self.measure()

    def poison(self, error: Exception) -> None:
        """The log or the catalog failed: no change is accepted until the next mount recovers."""
        if self.read_only is None:
            self.read_only = f"{error}; unmount, mend what failed and mount again"
            logger.error("read-only from now on: %s", self.read_only)
