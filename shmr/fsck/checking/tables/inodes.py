"""Inodes, and what belongs to each: extents, attributes, the mark of the reaper, that of an orphan.

One pass over five tables in step, because all are in the order of inodes. Takes the census.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator, Mapping

from shmr.errors import IntegrityError
from shmr.format.rows import (
    ROOT,
    SIZE_MAX,
    Extent,
    Inode,
    Reap,
    Row,
    Table,
    decode_bytes,
    decode_extent,
    decode_inode,
    decode_reap,
    split_key,
    split_pair,
)
from shmr.fsck.checking.tables.census import Census
from shmr.fsck.checking.tables.flaw import Flaw, Mend, doubt, flaw
from shmr.fsck.checking.tables.walk import FAILS, Beside, Walk
from shmr.fsck.checking.tables.walk import Row as Stored
from shmr.fsck.findings import Kind, Where

_KINDS = {
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
}


class Inodes:
    """The pass. `archived` are the bytes that each archived segment has of files."""

    def __init__(self, walk: Walk, census: Census, archived: Mapping[int, int]) -> None:
        self._walk = walk
        self._census = census
        self._archived = archived
        self.live: Counter[int] = Counter()
        """Segment -> bytes that extents refer to in it."""
        self._extents = Beside(walk.rows(Table.EXTENT))
        self._xattrs = Beside(walk.rows(Table.XATTR))
        self._marks = Beside(walk.rows(Table.REAP))
        self._orphans = Beside(walk.rows(Table.ORPHAN))

    def check(self) -> Iterator[Flaw]:
        walk = self._walk
        for key, value in walk.rows(Table.INODE, broken=True):
            number = split_key(key)
            yield from self._headless(key)
            yield from walk.taken()
            orphan = bool(list(self._orphans.of(key)))
            try:
                inode = decode_inode(number, value)
            except IntegrityError as error:
                walk.wrong(Table.INODE, key, str(error) if value else FAILS)
                inode = None
            self._census.add(number, inode, orphan=orphan)
            if inode is None:
                self._pass_over(key)
                continue
            yield from _fields(inode)
            yield from self._bytes(key, inode)
            for name, content in self._xattrs.of(key):
                self._attribute(name, content)
        yield from self._headless(None)
        yield from walk.taken()

    def _pass_over(self, key: bytes) -> None:
        """The inode cannot be read: what it should have is not known."""
        for name, content in self._xattrs.of(key):
            self._attribute(name, content)
        for _ in self._marks.of(key):
            pass
        for _ in self._decoded(self._extents.of(key)):
            pass

    def _attribute(self, key: bytes, value: bytes) -> None:
        try:
            decode_bytes(value)
        except IntegrityError as error:
            self._walk.wrong(Table.XATTR, key, str(error))

    # -- what belongs to no inode ---------------------------------------------------------------

    def _headless(self, until: bytes | None) -> Iterator[Flaw]:
        """What is left of inodes whose row is missing, up to the next that is there."""
        for key, _ in self._orphans.before(until):
            number = split_key(key)
            mend = Mend((Row(Table.ORPHAN, key, None),))
            message = "marked as without a name, and not there"
            yield flaw(Kind.ORPHAN_WRONG, number, message, "unmark it", mend)
        # Marks first: what they cover is dead.
        marks = {split_key(key): self._mark(rows) for key, rows in self._marks.before(until)}
        for key, rows in self._extents.before(until):
            number = split_key(key)
            mark = marks.get(number)
            held = sum(
                extent.length
                for extent in self._decoded(rows)
                if mark is None or not mark.start <= extent.offset < mark.end
            )
            if held:
                self._census.headless.add(number)
                message = f"its inode is missing, and there are {held} bytes of it"
                yield flaw(
                    Kind.INODE_MISSING,
                    number,
                    message,
                    "make a file of its bytes",
                    Mend(inode=number, remake=True),
                )
        for key, rows in self._xattrs.before(until):
            number = split_key(key)
            for name, _ in rows:
                if number not in self._census.headless:
                    yield flaw(
                        Kind.XATTR_STRAY,
                        number,
                        f"an attribute {name[8:]!r} of no inode",
                        "remove it",
                        Mend((Row(Table.XATTR, name, None),)),
                    )

    # -- the bytes of an inode --------------------------------------------------------------------

    def _mark(self, rows: Iterator[Stored]) -> Reap | None:
        mark = None
        for key, value in rows:
            try:
                mark = decode_reap(value)
            except IntegrityError as error:
                self._walk.wrong(Table.REAP, key, str(error))
        return mark

    def _decoded(self, rows: Iterator[Stored]) -> Iterator[Extent]:
        """The extents, counted for their segments."""
        live = self.live
        for key, value in rows:
            offset = split_pair(key)[1]
            try:
                extent = decode_extent(offset, value)
            except (IntegrityError, ValueError) as error:
                self._walk.wrong(Table.EXTENT, key, str(error))
                continue
            if extent.address is not None:
                live[extent.address.segment] += extent.length
            yield extent

    def _bytes(self, key: bytes, inode: Inode) -> Iterator[Flaw]:
        """Extents tile [0, size), and nothing lies behind but what is marked to go."""
        number, size = inode.number, inode.size
        mark = self._mark(self._marks.of(key))
        if not stat.S_ISREG(inode.mode):
            size = 0
        if mark is not None and mark.start < size:
            rest = Reap(size, mark.end).row(number) if mark.end > size else None
            mend = Mend((rest or Row(Table.REAP, key, None),))
            message = f"bytes from {mark.start} on are marked to go, and it has {size}"
            yield flaw(Kind.MARK_WRONG, number, message, "take the mark away from them", mend)
            mark = Reap(size, max(size, mark.end))
        reached = held = 0
        overlaps = False
        last: Extent | None = None
        for extent in self._decoded(self._extents.of(key)):
            at = extent.address
            offset, length = extent.offset, extent.length
            if at is not None:
                held += length
                used = self._archived.get(at.segment)
                if used is not None and (at.frame or at.payload != used):
                    yield self._address(number, extent)
            if mark is not None and mark.start <= offset < mark.end:
                continue
            if offset == reached and offset < size:
                reached = offset + length
                last = extent
                continue
            if offset >= size:
                yield self._beyond(number, None, size, offset)
                held += self._drain(key)
                break
            if offset < reached:
                overlaps = True
                reached = max(reached, extent.end)
                last = extent
                continue
            yield self._gap(number, reached, offset)
            reached = extent.end
            last = extent
        if overlaps:
            yield flaw(
                Kind.EXTENT_OVERLAP,
                number,
                "some of its extents overlap",
                "let the newer segment win",
                Mend(inode=number, retile=True),
            )
        if reached < size:
            yield self._gap(number, reached, size)
        elif reached > size and last is not None:
            yield self._beyond(number, last, size, size)
        if inode.allocated != held and not overlaps:
            mend = Mend(inode=number, fields=(("allocated", held),))
            message = f"it says that {inode.allocated} bytes are stored of it, and {held} are"
            yield flaw(Kind.ALLOCATED_WRONG, number, message, "set what it says", mend)

    def _drain(self, key: bytes) -> int:
        """The data bytes of what follows of an inode."""
        rest = self._decoded(self._extents.of(key))
        return sum(extent.length for extent in rest if extent.address is not None)

    def _gap(self, number: int, start: int, end: int) -> Flaw:
        where = Where(inode=number, offset=start, length=end - start)
        message = f"bytes {start} to {end} are nowhere: reading them gives an error"
        return doubt(Kind.EXTENT_GAP, message, where, rebuilt=self._walk.rebuilt)

    def _address(self, number: int, extent: Extent) -> Flaw:
        assert extent.address is not None
        where = Where(
            segment=extent.address.segment, inode=number, offset=extent.offset, length=extent.length
        )
        message = (
            f"bytes {extent.offset} to {extent.end} are said to be in no part of their segment"
        )
        return doubt(Kind.EXTENT_ADDRESS, message, where, rebuilt=self._walk.rebuilt)

    def _beyond(self, number: int, across: Extent | None, size: int, offset: int) -> Flaw:
        """Extents behind the end; `across` is one that begins before it."""
        rows = [] if across is None else [_cut(across, size).row(number)]
        if across is None:
            rows.append(Reap(size, SIZE_MAX).row(number))
        message = f"there are bytes of it from {offset} on, and it has {size}"
        return flaw(
            Kind.EXTENT_BEYOND, number, message, "let the reaper have them", Mend(tuple(rows))
        )


def _cut(extent: Extent, size: int) -> Extent:
    part = extent.clip(0, size)
    assert part is not None
    return part


def _fields(inode: Inode) -> Iterator[Flaw]:
    """What an inode of its type can say of itself."""
    kind = stat.S_IFMT(inode.mode)
    wanted: dict[str, int] = {}
    if inode.number == ROOT and kind != stat.S_IFDIR:
        wanted["mode"] = stat.S_IFDIR | stat.S_IMODE(inode.mode)
        wanted["parent"] = ROOT
    elif kind not in _KINDS:
        wanted["mode"] = _guess(inode) | stat.S_IMODE(inode.mode)
    elif kind == stat.S_IFLNK:
        wanted["size"] = len(inode.target)
    elif kind != stat.S_IFREG:
        wanted["size"] = 0
    wrong = tuple((name, value) for name, value in wanted.items() if getattr(inode, name) != value)
    if wrong:
        shown = ", ".join(f"{name} is {getattr(inode, name)}" for name, _ in wrong)
        fixed = ", ".join(f"{name} to {value}" for name, value in wrong)
        mend = Mend(inode=inode.number, fields=wrong)
        yield flaw(Kind.INODE_WRONG, inode.number, f"its {shown}", f"set {fixed}", mend)


def _guess(inode: Inode) -> int:
    """The type of an inode that has none."""
    if inode.next_cookie or inode.parent:
        return stat.S_IFDIR
    return stat.S_IFLNK if inode.target else stat.S_IFREG
