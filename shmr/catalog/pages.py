"""Are the pages of a compacted copy what LMDB itself would have written? Asked of the file.

That every row is there and verifies is not enough. LMDB reads rows from pages whose headers are
bent, and fails only when it has to write one of them: then no mount gets further, and each next one
neither. And a bent key of a branch sends whoever looks a row up to where it is not, though whoever
walks along the leaves sees it.

A compacted copy has its pages in one order: those of each table together, a page behind its
children, the tables as the table of tables has them. So one pass compares them all with what the
tables' records say, and needs to remember no more than the way down.

The layout is that of `struct MDB_page`, `MDB_node` and `MDB_db` of LMDB 0.9 on a 64-bit machine.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = 4096
_HEADER = struct.Struct("<QHHHH")
_RECORD = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_METAS = 2
_META_AT = 16
"""Where `struct MDB_meta` begins in its page."""
_NO_ROOT = 2**64 - 1


class _Bent(Exception):
    """The page, or what its parent or the record of its table says of it, is not as it must be."""


class _Record(NamedTuple):
    """What the table of tables says of one."""

    padding: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


class _Span(NamedTuple):
    """The lowest and the highest key below a page, and how many levels there are, its own too."""

    lowest: bytes
    highest: bytes
    depth: int


def well_formed(data: Path, records: Iterator[tuple[bytes, bytes]]) -> bool:
    """Is every page of the file a page of the table that it has to be of?

    `records` are name and record of each table, in order; then comes the page of these themselves.
    """
    size = data.stat().st_size
    if size % _PAGE or size <= _METAS * _PAGE:
        return False
    with open(data, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        pages = _Pages(content)
        try:
            count = 0
            for _, value in records:
                if len(value) != _RECORD.size:
                    return False
                pages.take(_Record(*_RECORD.unpack(value)))
                count += 1
            top = _Record(0, 0, 1, 0, 1, 0, count, pages.next)
            return (
                pages.next == size // _PAGE - 1
                and pages.kind(pages.next) == _LEAF
                and pages.top() == top
            )
        except _Bent:
            return False


class _Pages:
    """The pages of a file; `next` is the first that no table has yet."""

    def __init__(self, content: Any) -> None:
        self.next = _METAS
        self._content = content
        self._count = len(content) // _PAGE

    def top(self) -> _Record:
        """What the newer of the two meta pages says of the table of tables."""
        metas = [at * _PAGE + _META_AT for at in range(_METAS)]
        newer = max(
            metas, key=lambda at: int.from_bytes(self._content[at + 128 : at + 136], "little")
        )
        return _Record(*_RECORD.unpack_from(self._content, newer + 24 + _RECORD.size))

    def take(self, record: _Record) -> None:
        """The pages of a table. Raises _Bent."""
        if record.padding or record.flags:
            raise _Bent
        if record.root == _NO_ROOT:
            if any(record[2:7]):
                raise _Bent
            return
        counts: Counter[int] = Counter()
        spans: dict[int, _Span] = {}
        while self.next <= record.root:
            kind, length = self.kind(self.next), 1
            if kind == _OVERFLOW:
                length = self._overflowing(self.next)
            else:
                spans[self.next] = self._span(self.next, kind, spans)
            counts[kind] += length
            self.next += length
        told = {_BRANCH: record.branches, _LEAF: record.leaves, _OVERFLOW: record.overflow}
        if any(counts[kind] != count for kind, count in told.items()):
            raise _Bent
        top = spans.pop(record.root, None)
        if spans or top is None or top.depth != record.depth:
            raise _Bent

    def kind(self, page: int) -> int:
        """Raises _Bent if there is no such page, or its header is none."""
        if page >= self._count:
            raise _Bent
        number, _, kind, lower, upper = _HEADER.unpack_from(self._content, page * _PAGE)
        if number != page or kind not in (_BRANCH, _LEAF, _OVERFLOW):
            raise _Bent
        bounded = _HEADER.size < lower <= upper <= _PAGE and not lower % 2
        if not (self._overflowing(page) if kind == _OVERFLOW else bounded):
            raise _Bent
        return int(kind)

    def _overflowing(self, page: int) -> int:
        """How many pages the value takes that begins here."""
        return int.from_bytes(self._content[page * _PAGE + 12 : page * _PAGE + 16], "little")

    def _span(self, page: int, kind: int, spans: dict[int, _Span]) -> _Span:
        base = page * _PAGE
        lower = int.from_bytes(self._content[base + 12 : base + 14], "little")
        count = (lower - _HEADER.size) // 2
        places = struct.unpack_from(f"<{count}H", self._content, base + _HEADER.size)
        if min(places) != int.from_bytes(self._content[base + 14 : base + 16], "little"):
            # The next row would be put where one is.
            raise _Bent
        if kind == _LEAF:
            # Whoever reads the rows sees whether those between are in order.
            return _Span(self._node(base, places[0])[1], self._node(base, places[-1])[1], 1)
        below: _Span | None = None
        for place in places:
            child, key = self._node(base, place)
            span = spans.pop(child, None)
            if span is None:
                raise _Bent
            if below is None:
                # The first key means nothing: whatever is lower goes there.
                below = span
                continue
            if not below.highest < key <= span.lowest or span.depth != below.depth:
                raise _Bent
            below = _Span(below.lowest, span.highest, span.depth)
        if below is None:
            raise _Bent
        return below._replace(depth=below.depth + 1)

    def _node(self, base: int, place: int) -> tuple[int, bytes]:
        """The page that a node leads to, if it is one of a branch, and its key."""
        if place + _NODE.size > _PAGE:
            raise _Bent
        low, middle, high, length = _NODE.unpack_from(self._content, base + place)
        start = place + _NODE.size
        if start + length > _PAGE:
            raise _Bent
        key = bytes(self._content[base + start : base + start + length])
        return low | middle << 16 | high << 32, key
