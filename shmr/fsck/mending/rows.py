"""Rows of the catalog put right: of one that its log has no better.

Truth rows go through the journal like those of any operation. They are found and set in rounds:
what one mend comes to is seen by the next look, so that a name that goes leaves no wrong count. A
round that was cut off is no worse than none.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Any

from shmr.errors import IntegrityError
from shmr.format.rows import (
    ROOT,
    Extent,
    Inode,
    Row,
    Table,
    decode_dentry,
    decode_extent,
    extent_removed,
    key_of,
    split_key,
    split_pair,
)
from shmr.fsck.checking.tables.flaw import Flaw, Mend
from shmr.fsck.salvaging import lost_and_found
from shmr.volume.context import ROWS_MAX
from shmr.volume.namespace import FIRST_COOKIE
from shmr.volume.volume import Volume

ROUND = 20_000
"""Flaws that are mended before the catalog is looked at again."""
ROUNDS_MAX = 1000
_NONE = -1
Look = Callable[[Volume], Iterator[Flaw]]


def mend_rows(volume: Volume, look: Look) -> None:
    """Mend until nothing is left that can be. Durable when this returns.

    Raises DriveError, NoSpace, and whatever `look` does.
    """
    before: tuple[Mend, ...] = ()
    for _ in range(ROUNDS_MAX):
        mends = (flaw.mend for flaw in look(volume))
        some = tuple(islice((mend for mend in mends if mend is not None), ROUND))
        # What is still there after it was mended, no other round mends.
        if not some or some == before:
            return
        before = some
        Rows(volume).mend(some)
        volume.commits.now()


class Rows:
    """Mends of one round."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._catalog = volume.catalog
        self._lost: lost_and_found.Place | None = None

    def mend(self, mends: Iterable[Mend]) -> None:
        """Missing inodes first, and what needs a name last."""
        some = list(mends)
        for mend in some:
            if mend.remake:
                self._remake(mend.inode)
        for mend in some:
            self._set(mend)
            if mend.retile:
                self._retile(mend.inode)
        for mend in some:
            if mend.adopt:
                self._adopt(mend.inode)

    def _apply(self, rows: Iterable[Row]) -> None:
        self._volume.context.apply(rows)

    # -- rows and fields --------------------------------------------------------------------------

    def _set(self, mend: Mend) -> None:
        for row in mend.rows:
            self._apply([*self._counted(row), row])
        if mend.fields:
            inode = self._inode(mend.inode)
            if inode is not None:
                fields: dict[str, Any] = dict(mend.fields)
                self._apply([inode._replace(**fields).row()])

    def _counted(self, row: Row) -> list[Row]:
        """The row of the directory that loses a name by this one."""
        if row.table != Table.DENTRY or row.value is not None:
            return []
        value = self._catalog.get(Table.DENTRY, row.key)
        directory = self._inode(split_key(row.key))
        if value is None or directory is None:
            return []
        below = decode_dentry(value).kind == stat.S_IFDIR
        return [
            directory._replace(
                entries=max(0, directory.entries - 1), links=max(0, directory.links - below)
            ).row()
        ]

    def _inode(self, number: int) -> Inode | None:
        try:
            return self._catalog.inode(number)
        except IntegrityError:
            return None

    # -- inodes ---------------------------------------------------------------------------------

    def _remake(self, number: int) -> None:
        """An inode out of what there is of it: a directory of names, or a file of extents.

        It counts no link and has no parent yet: the next round sees which it has.
        """
        if self._inode(number) is not None:
            return
        now = self._volume.context.clock()
        entries, below, cookie = 0, 0, FIRST_COOKIE
        prefix = key_of(number)
        for _, value in self._catalog.scan(Table.DENTRY, prefix, prefix):
            dentry = decode_dentry(value)
            entries += 1
            below += dentry.kind == stat.S_IFDIR
            cookie = max(cookie, dentry.cookie + 1)
        if entries or number == ROOT:
            mode = stat.S_IFDIR | (0o755 if number == ROOT else 0o700)
            inode = Inode(
                number, mode, 2 + below, 0, 0, 0, 0, 0, now, now, now, entries, cookie, ROOT
            )
        else:
            size = held = 0
            for _, extent in self._extents(number):
                size = max(size, extent.end)
                held += extent.length if extent.address is not None else 0
            inode = Inode(number, stat.S_IFREG | 0o600, 1, 0, 0, 0, size, held, now, now, now)
        self._apply([inode.row()])

    def _adopt(self, number: int) -> None:
        """A name in lost+found for an inode that has none."""
        inode, context = self._inode(number), self._volume.context
        if inode is None:
            return
        if self._lost is None:
            self._lost = lost_and_found.prepared(
                self._catalog, context.new_inode, context.clock(), self._apply
            )
        lost_and_found.link(self._catalog, self._lost, number, self._apply)

    # -- extents --------------------------------------------------------------------------------

    def _extents(self, number: int) -> Iterator[tuple[int, Extent]]:
        """With the offset of the row."""
        prefix = key_of(number)
        for key, value in self._catalog.scan(Table.EXTENT, prefix, prefix):
            offset = split_pair(key)[1]
            yield offset, decode_extent(offset, value)

    def _retile(self, number: int) -> None:
        """Of extents that overlap the one in the newer segment stays, and is seen no more twice."""
        old = dict(self._extents(number))
        new = {extent.offset: extent for extent in untangled(list(old.values()))}
        rows = [extent_removed(number, offset) for offset in old.keys() - new.keys()]
        rows += [extent.row(number) for offset, extent in new.items() if old.get(offset) != extent]
        rows.sort(key=lambda row: row.key)
        for start in range(0, len(rows), ROWS_MAX):
            self._apply(rows[start : start + ROWS_MAX])


def untangled(extents: list[Extent]) -> Iterator[Extent]:
    """The extents cut so that none overlaps: where several have a byte, the newest segment's wins.

    A hole loses to data. Memory is that of the extents.
    """
    over: list[tuple[int, int, int]] = []
    waiting = sorted(range(len(extents)), key=lambda index: extents[index].offset, reverse=True)
    winner, begun = _NONE, 0
    for edge in sorted({edge for extent in extents for edge in (extent.offset, extent.end)}):
        while waiting and extents[waiting[-1]].offset <= edge:
            index = waiting.pop()
            at = extents[index].address
            heappush(over, (0, 0, index) if at is None else (-at.segment, -at.frame, index))
        while over and extents[over[0][-1]].end <= edge:
            heappop(over)
        now = over[0][-1] if over else _NONE
        if now != winner:
            part = None if winner == _NONE else extents[winner].clip(begun, edge)
            if part is not None:
                yield part
            winner, begun = now, edge
