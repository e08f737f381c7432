"""The rebuilt catalog against the real one: row by row, in the order of keys.

What is true of a tree is in the rows of the truth tables: paths, modes, owners, times, extended
attributes, links, sizes, and where each byte is. Two catalogs of one place in the journal have the
same rows, or one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from shmr.catalog.reading import Reading
from shmr.errors import IntegrityError
from shmr.format.rows import TRUTH, Table, split_key

if TYPE_CHECKING:
    from hashlib import _Hash

KeyValue = tuple[bytes, bytes]
_OF_INODES = {
    Table.INODE, Table.DENTRY, Table.EXTENT, Table.XATTR, Table.ORPHAN, Table.REAP
}  # fmt: skip
KEPT = 100
"""Differences that are told one by one; all are counted."""
STEP = 4096


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is another in the rebuilt catalog. `inode` is what it belongs to, if to one."""

    table: Table
    what: str
    inode: int | None


@dataclass(slots=True)
class Compared:
    """What came of it. `digest` is that of the rows of the real catalog, `rebuilt` of the other."""

    rows: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    digest: str = ""
    rebuilt: str = ""


def compare(
    real: Reading, rebuilt: Reading, pulse: Callable[[int], None] = lambda size: None
) -> Compared:
    """All rows of both. `pulse` is told now and then how many bytes of them more, and may raise."""
    found, sums = Compared(), (sha256(), sha256())
    for table in TRUTH:
        try:
            _table(found, table, real, rebuilt, sums, pulse)
        except IntegrityError as error:
            found.unreadable.append(str(error))
    found.digest, found.rebuilt = (one.hexdigest()[:32] for one in sums)
    return found


def _table(
    found: Compared,
    table: Table,
    real: Reading,
    rebuilt: Reading,
    sums: tuple[_Hash, _Hash],
    pulse: Callable[[int], None],
) -> None:
    size = 0
    for count, (one, other) in enumerate(merged(real.rows(table), rebuilt.rows(table)), 1):
        size += sum(map(len, one or ()))
        for row, digest in zip((one, other), sums, strict=True):
            if row is not None:
                digest.update(b"%d %d %d " % (table, len(row[0]), len(row[1])))
                digest.update(row[0])
                digest.update(row[1])
        found.rows += 1
        if one != other:
            found.differing += 1
            if len(found.differences) < KEPT:
                found.differences.append(_difference(table, one, other))
        if count % STEP == 0:
            pulse(size)
            size = 0
    pulse(size)


def _difference(table: Table, real: KeyValue | None, rebuilt: KeyValue | None) -> Difference:
    what = "is missing" if rebuilt is None else "should not be there" if real is None else "differs"
    key = (real or rebuilt or (b"", b""))[0]
    inode = split_key(key) if table in _OF_INODES and len(key) >= 8 else None
    return Difference(table, what, inode)


def merged(
    one: Iterator[KeyValue], other: Iterator[KeyValue]
) -> Iterator[tuple[KeyValue | None, KeyValue | None]]:
    """Rows of one key side by side."""
    first, second = next(one, None), next(other, None)
    while first is not None or second is not None:
        if second is None or (first is not None and first[0] < second[0]):
            yield first, None
            first = next(one, None)
        elif first is None or second[0] < first[0]:
            yield None, second
            second = next(other, None)
        else:
            yield first, second
            first, second = next(one, None), next(other, None)
