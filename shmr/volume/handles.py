"""Which inodes are in use, so that an unlinked one lives until its last user lets go.

An inode without a name is an orphan: a row says so, and recovery frees what a crash left. With a
kernel above (`keep_known`), an orphan is also kept until the kernel forgets it: a process may
still stand in a removed directory. Kernel lookups of inodes that have names are not counted (a
million of them would take more memory than everything else).
"""

from __future__ import annotations

import logging
from itertools import islice

from shmr.catalog.catalog import Gone
from shmr.format.rows import Reap, Row, Table, key_of
from shmr.volume.context import ROWS_MAX, Context

logger = logging.getLogger(__name__)


class Handles:
    """Open counts of inodes, and the end of orphans."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: dict[int, int] = {}
        self.keep_known = False
        """Orphans wait for `forgotten` even if nobody has them open."""

    def opened(self, number: int) -> None:
        self._open[number] = self._open.get(number, 0) + 1

    def closed(self, number: int) -> None:
        count = self._open[number] - 1
        if count:
            self._open[number] = count
            return
        del self._open[number]
        # With a kernel above, FORGET follows when it lets go of the inode itself.
        self.reclaim(number)

    def is_open(self, number: int) -> bool:
        return number in self._open

    def forgotten(self, number: int) -> None:
        """The kernel knows this inode no longer."""
        if number not in self._open:
            self._free(number)

    def reclaim(self, number: int) -> None:
        """Free the inode if it is an orphan that nobody uses."""
        if not self.keep_known and number not in self._open:
            self._free(number)

    def free_orphans(self) -> None:
        """Free all orphans: nobody has anything open after a crash or at the end."""
        catalog = self._context.catalog
        numbers = [int.from_bytes(key, "big") for key, _ in catalog.scan(Table.ORPHAN, b"")]
        for number in numbers:
            self._free(number)

    def _free(self, number: int) -> None:
        """Delete an orphan: all its rows, or a mark for the reaper where they are many."""
        context = self._context
        catalog = context.catalog
        if not catalog.is_orphan(number) or context.read_only:
            return
        inode = catalog.inode(number)
        if inode is not None and inode.links:
            logger.error("inode %d is marked as an orphan and has names: kept", number)
            return
        prefix = key_of(number)
        rows: list[Row] = []
        extents: list[tuple[bytes, bytes]] = []
        if catalog.has_xattrs(number):
            rows += (
                Row(Table.XATTR, key, None) for key, _ in catalog.scan(Table.XATTR, prefix, prefix)
            )
        if inode is not None and inode.size:
            extents = list(islice(catalog.scan(Table.EXTENT, prefix, prefix), ROWS_MAX // 2 + 1))
            if catalog.get(Table.REAP, prefix) is not None:
                # An earlier truncation is still being reaped: one mark covers it all.
                rows.append(Reap(0, 2**63 - 1).row(number))
                extents = []
            elif len(extents) > ROWS_MAX // 2:
                rows.append(Reap(0, inode.size).row(number))
                extents = []
        context.apply(rows, gone=Gone(number, extents))
