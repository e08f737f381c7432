"""Are the pages of a compacted copy what LMDB itself would have written? Asked of the file.

LMDB reads rows from pages whose headers are bent, and only fails when it has to write one of them:
then no mount gets further, and each next one neither. A compacted copy has its pages in one order:
those of each table together, a page behind its children, the tables as the table of tables has
them. So one pass over the headers compares them all with what the tables' records say.

The layout is that of `struct MDB_page`, `MDB_node` and `MDB_db` of LMDB 0.9 on a 64-bit machine.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PAGE = 4096
_HEADER = struct.Struct("<QHHHH")
_RECORD = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHH")
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_METAS = 2
_NO_ROOT = 2**64 - 1


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


def well_formed(data: Path, records: Iterator[tuple[bytes, bytes]]) -> bool:
    """Is every page of the file a page of the table that it has to be of?

    `records` are name and record of each table, in order; then comes the page of these themselves.
    """
    size = data.stat().st_size
    if size % _PAGE or size <= _METAS * _PAGE:
        return False
    with open(data, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        page, end = _METAS, size // _PAGE
        for _, value in records:
            if len(value) != _RECORD.size:
                return False
            record = _Record(*_RECORD.unpack(value))
            behind = _behind(content, page, end, record)
            if behind is None:
                return False
            page = behind
        return page == end - 1 and _kind(content, page) == _LEAF


def _behind(content: Any, page: int, end: int, record: _Record) -> int | None:
    """The page behind those of a table that begins at `page`; None if they are not as it says."""
    if record.padding or record.flags:
        return None
    if record.root == _NO_ROOT:
        return None if any(record[2:7]) else page
    counts = {_BRANCH: 0, _LEAF: 0, _OVERFLOW: 0}
    while page <= record.root:
        kind = _kind(content, page)
        if page >= end or kind is None:
            return None
        pages = 1 if kind != _OVERFLOW else _overflowing(content, page)
        counts[kind] += pages
        page += pages
    told = {_BRANCH: record.branches, _LEAF: record.leaves, _OVERFLOW: record.overflow}
    if page != record.root + 1 or counts != told or _depth(content, record) != record.depth:
        return None
    return page


def _kind(content: Any, page: int) -> int | None:
    """What kind of page it is; None if its header is none."""
    if (page + 1) * _PAGE > len(content):
        return None
    number, _, kind, lower, upper = _HEADER.unpack_from(content, page * _PAGE)
    if number != page or kind not in (_BRANCH, _LEAF, _OVERFLOW):
        return None
    if kind == _OVERFLOW:
        return kind if _overflowing(content, page) else None
    bounded = _HEADER.size < lower <= upper <= _PAGE and not lower % 2
    return kind if bounded else None


def _overflowing(content: Any, page: int) -> int:
    """How many pages the value takes that begins here."""
    return int.from_bytes(content[page * _PAGE + 12 : page * _PAGE + 16], "little")


def _depth(content: Any, record: _Record) -> int:
    """How many pages there are from the root down to a leaf, along the first children."""
    page, depth = record.root, 1
    while depth <= record.depth and _kind(content, page) == _BRANCH:
        base = page * _PAGE
        at = int.from_bytes(content[base + _HEADER.size : base + _HEADER.size + 2], "little")
        if at + _NODE.size > _PAGE:
            return 0
        low, middle, high = _NODE.unpack_from(content, base + at)
        page, depth = low | middle << 16 | high << 32, depth + 1
    return depth
