"""What the names come to: counts of links and entries, and what the root leads to."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from shmr.catalog.reading import Reading
from shmr.format.rows import ROOT, Row, Table, key_named, key_of
from shmr.fsck.checking.tables.census import ABSENT, Census
from shmr.fsck.checking.tables.flaw import Flaw, Mend, flaw
from shmr.fsck.findings import Kind

_UNKNOWN, _ON_THE_WAY, _REACHED, _APART = range(4)


def counts(census: Census) -> Iterator[Flaw]:
    """Every inode has the names that it says, and every directory the entries."""
    if census.rank(ROOT) == ABSENT:
        mend = Mend(inode=ROOT, remake=True)
        yield flaw(Kind.INODE_MISSING, ROOT, "the root is missing", "make it anew", mend)
    names = zip(census.numbers, census.kinds, census.links, census.named, strict=True)
    for rank, (number, kind, links, named) in enumerate(names):
        if kind == stat.S_IFDIR:
            yield from _directory(census, rank, number, links)
        elif named and links == named and not census.orphans[rank]:
            continue
        elif census.orphans[rank] and not named:
            if links and kind:
                yield _links(number, links, 0)
        elif not named:
            yield _nameless(number)
        elif census.orphans[rank]:
            yield _no_orphan(number)
        elif kind:
            yield _links(number, links, named)


def _directory(census: Census, rank: int, number: int, links: int) -> Iterator[Flaw]:
    at = census.directory(number)
    entries, below, above = census.entries_seen[at], census.below_seen[at], census.above[at]
    orphan, parent = census.orphans[rank], census.parents[at]
    if number == ROOT:
        above = ROOT
    if census.entries[at] != entries:
        message = f"it says that it has {census.entries[at]} entries, and it has {entries}"
        mend = Mend(inode=number, fields=(("entries", entries),))
        yield flaw(Kind.ENTRIES_WRONG, number, message, "set what it says", mend)
    if orphan and not above:
        if links:
            yield _links(number, links, 0)
        return
    if orphan:
        yield _no_orphan(number)
    elif not above:
        yield _nameless(number)
        return
    if links != 2 + below and not orphan:
        yield _links(number, links, 2 + below)
    if parent != above:
        message = f"it says that directory {parent} is above it, and {above} is"
        mend = Mend(inode=number, fields=(("parent", above),))
        yield flaw(Kind.PARENT_WRONG, number, message, "set what it says", mend)


def _links(number: int, links: int, wanted: int) -> Flaw:
    message = f"its link count is {links}, and should be {wanted}"
    mend = Mend(inode=number, fields=(("links", wanted),))
    return flaw(Kind.LINKS_WRONG, number, message, "set it", mend)


def _nameless(number: int) -> Flaw:
    return flaw(
        Kind.UNREACHABLE,
        number,
        "it has no name, and nothing says that it was removed",
        f"name it lost+found/inode-{number}",
        Mend(inode=number, adopt=True),
    )


def _no_orphan(number: int) -> Flaw:
    mend = Mend((Row(Table.ORPHAN, key_of(number), None),))
    message = "marked as without a name, which would remove it, and it has one"
    return flaw(Kind.ORPHAN_WRONG, number, message, "unmark it", mend)


def circles(census: Census, reading: Reading) -> Iterator[Flaw]:
    """Directories that lead to each other, and that nothing else leads to."""
    states = bytearray(len(census.directories))
    root = census.directory(ROOT)
    if root != ABSENT:
        states[root] = _REACHED
    for first in range(len(states)):
        way: list[int] = []
        at, outcome = first, _UNKNOWN
        while outcome == _UNKNOWN:
            if states[at] == _UNKNOWN:
                states[at] = _ON_THE_WAY
                way.append(at)
                at = census.directory(census.above[at]) if census.above[at] else ABSENT
                if at == ABSENT:
                    outcome = _APART  # told of already, with whatever ends the way
            elif states[at] == _ON_THE_WAY:
                outcome = _APART
                yield from _circle(census, reading, way[way.index(at) :])
            else:
                outcome = states[at]
        for passed in way:
            states[passed] = outcome


def _circle(census: Census, reading: Reading, ranks: list[int]) -> Iterator[Flaw]:
    """One circle; it is opened at the directory that was made first."""
    at = min(ranks)
    number, above = census.directories[at], census.above[at]
    rows = tuple(
        Row(Table.DENTRY, key_named(above, name), None)
        for name, dentry in reading.entries(above)
        if dentry.inode == number
    )
    yield flaw(
        Kind.DIRECTORY_CIRCLE,
        number,
        f"this and {len(ranks) - 1} more directories are inside each other, and in no other",
        f"name it lost+found/inode-{number}",
        Mend(rows),
    )
