"""Which byte of an LMDB 0.9 file is what: for whoever damages one and wants to say where.

Reads the file as it lies, from the newer of its two meta pages. Only what catalogs have: no
duplicate keys. The layout is that of `struct MDB_page`, `MDB_node`, `MDB_meta` and `MDB_db` of
mdb.c on a 64-bit little-endian machine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

PAGE = 4096
_HEADER = struct.Struct("<QHHHH")
_DB = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_BIG, _SUB = 1, 2
_NONE = 2**64 - 1


class Run(NamedTuple):
    """Bytes of one class: `kind` says which."""

    kind: str
    offset: int
    length: int


def runs_of(content: bytes) -> Iterator[Run]:
    """Every byte of the file, by class."""
    seen: set[int] = set()
    newest = max((0, 1), key=lambda page: _meta(content, page)[0])
    for page in (0, 1):
        seen.add(page)
        yield from _meta_runs(page, "newer meta" if page == newest else "older meta")
    _, last, free, main = _meta(content, newest)
    yield from _tree(content, free, "free list", seen)
    yield from _tree(content, main, "table of tables", seen)
    for page in range(len(content) // PAGE):
        if page not in seen:
            kind = "free page" if page <= last else "page never used"
            yield Run(kind, page * PAGE, PAGE)


def _meta(content: bytes, page: int) -> tuple[int, int, int, int]:
    """Transaction, last page, root of the free list, root of the table of tables."""
    at = page * PAGE + 16 + 24
    roots = [_DB.unpack_from(content, at + index * _DB.size)[7] for index in (0, 1)]
    last, transaction = struct.unpack_from("<QQ", content, at + 2 * _DB.size)
    return transaction, last, roots[0], roots[1]


def _meta_runs(page: int, kind: str) -> Iterator[Run]:
    at = page * PAGE
    parts = (("page header", 16), ("magic, version", 8), ("address", 8), ("map size", 8),
             ("free list's record", 48), ("tables' record", 48), ("last page", 8),
             ("transaction", 8), ("rest", PAGE - 152))  # fmt: skip
    for name, length in parts:
        yield Run(f"{kind}: {name}", at, length)
        at += length


def _tree(content: bytes, root: int, table: str, seen: set[int]) -> Iterator[Run]:
    waiting = [] if root == _NONE else [root]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        base = page * PAGE
        _, _, flags, lower, upper = _HEADER.unpack_from(content, base)
        name = "branch" if flags & _BRANCH else "leaf"
        for part, at, length in (("page number", 0, 8), ("padding", 8, 2), ("flags", 10, 2),
                                 ("lower, upper", 12, 4), ("pointers", 16, lower - 16),
                                 ("between", lower, upper - lower)):  # fmt: skip
            if length:
                yield Run(f"{name} page: {part}", base + at, length)
        pointers = struct.unpack_from(f"<{(lower - 16) // 2}H", content, base + 16)
        ends = dict(zip(sorted(pointers), [*sorted(pointers)[1:], PAGE], strict=True))
        for at in pointers:
            low, high, node, key_size = _NODE.unpack_from(content, base + at)
            yield Run(f"{name} node: header", base + at, 8)
            value = at + 8 + key_size
            yield Run(f"key of {table}" if name == "leaf" else "key of a branch", base + at + 8,
                      key_size)  # fmt: skip
            end = value
            if name == "branch":
                waiting.append(low | high << 16 | node << 32)
            elif node & _SUB:
                end = value + _DB.size
                yield Run("record of a table", base + value, _DB.size)
                fields = _DB.unpack_from(content, base + value)
                key = content[base + at + 8 : base + value].decode()
                yield from _tree(content, fields[7], key, seen)
            elif node & _BIG:
                end = value + 8
                yield Run(f"overflow pointer of {table}", base + value, 8)
                first = int.from_bytes(content[base + value : base + end], "little")
                yield from _overflow(content, first, low | high << 16, table, seen)
            else:
                end = value + (low | high << 16)
                if end > value:
                    yield Run(f"value of {table}", base + value, end - value)
            if ends[at] > end:
                yield Run(f"{name} node: padding", base + end, ends[at] - end)


def _overflow(content: bytes, page: int, size: int, table: str, seen: set[int]) -> Iterator[Run]:
    base = page * PAGE
    count = int.from_bytes(content[base + 12 : base + 16], "little")
    seen.update(range(page, page + count))
    yield Run("overflow page: page number", base, 8)
    yield Run("overflow page: padding", base + 8, 2)
    yield Run("overflow page: flags, length", base + 10, 6)
    yield Run(f"value of {table}", base + 16, size)
    yield Run("overflow page: behind the value", base + 16 + size, count * PAGE - 16 - size)
