"""Names: what they lead to, what their directories count, and the order they are read in."""

from __future__ import annotations

import stat
from collections.abc import Iterator

from shmr.errors import IntegrityError
from shmr.format.rows import (
    ROOT,
    Cookie,
    Dentry,
    Row,
    Table,
    decode_cookie,
    decode_dentry,
    key_named,
    key_of,
    key_pair,
    split_key,
)
from shmr.fsck.checking.tables.census import ABSENT, Census
from shmr.fsck.checking.tables.flaw import REBUILD, Flaw, Mend, flaw
from shmr.fsck.checking.tables.walk import Walk
from shmr.fsck.findings import Finding, Kind, Where
from shmr.volume.namespace import FIRST_COOKIE


class Names:
    """The pass over DENTRY, and COOKIE beside it. Completes the census."""

    def __init__(self, walk: Walk, census: Census) -> None:
        self._walk = walk
        self._census = census
        self._reading = walk.reading
        self._ordered = 0
        """Names whose place in the reading order is right."""

    def check(self) -> Iterator[Flaw]:
        walk, census = self._walk, self._census
        prefix, directory, at, highest, spare = b"", 0, ABSENT, 0, 0
        usable = True
        for key, value in walk.rows(Table.DENTRY):
            if key[:8] != prefix:
                if at != ABSENT:
                    yield from self._highest(at, highest)
                prefix, directory, highest = key[:8], split_key(key), 0
                at = census.directory(directory)
                spare = census.next_cookies[at] if at != ABSENT else 0
                usable = at != ABSENT or census.rank(directory) == ABSENT
                if at == ABSENT and usable:
                    yield self._missing(directory)
            try:
                dentry = decode_dentry(value)
            except IntegrityError as error:
                walk.wrong(Table.DENTRY, key, str(error))
                continue
            if not usable:
                message = f"it is no directory, and has a name {key[8:]!r} in it"
                yield flaw(Kind.NAME_STRAY, directory, message, "remove it", _without(key))
                continue
            kind = self._leads(key, dentry)
            if walk.flaws:
                yield from walk.taken()
            if at != ABSENT:
                census.entries_seen[at] += 1
                census.below_seen[at] += kind == stat.S_IFDIR
            highest = max(highest, dentry.cookie)
            if not self._is_ordered(key, dentry):
                yield from self._disorder(key, dentry, max(spare, highest + 1))
                spare = max(spare, highest + 1) + 1
        if at != ABSENT:
            yield from self._highest(at, highest)
        yield from walk.taken()
        yield from self._surplus_order()
        yield from walk.taken()

    def _missing(self, directory: int) -> Flaw:
        return flaw(
            Kind.INODE_MISSING,
            directory,
            "there are names in it, and the directory is missing",
            "make the directory anew",
            Mend(inode=directory, remake=True),
        )

    def _leads(self, key: bytes, dentry: Dentry) -> int:
        """Look at what the name leads to; returns its type."""
        census, found, name = self._census, self._walk.flaws, key[8:]
        directory, number = split_key(key), dentry.inode
        if name in (b".", b"..") or b"/" in name or b"\0" in name:
            message = f"no file can be called {name!r}, as inode {number} is in it"
            found.append(flaw(Kind.NAME_BAD, directory, message, "remove the name", _without(key)))
        rank = census.rank(number)
        if rank == ABSENT:
            if number in census.headless or self._reading.has(Table.DENTRY, key_of(number)):
                return dentry.kind  # its inode is made anew
            message = f"{name!r} in it leads to inode {number}, which is missing"
            found.append(
                flaw(Kind.NAME_DANGLING, directory, message, "remove the name", _without(key))
            )
            return dentry.kind
        census.named[rank] += 1
        kind = census.kinds[rank]
        if kind and kind != dentry.kind:
            message = f"{name!r} in it says another type than inode {number} has"
            right = Row(Table.DENTRY, key, dentry._replace(kind=kind).encode())
            found.append(flaw(Kind.NAME_TYPE, directory, message, "set it", Mend((right,))))
        if kind == stat.S_IFDIR:
            self._below(key, directory, number)
        return kind or dentry.kind

    def _below(self, key: bytes, directory: int, number: int) -> None:
        """A directory has one name, in the directory that it says is above it."""
        census = self._census
        at = census.directory(number)
        first = census.above[at]
        if not first and number != ROOT:
            census.above[at] = directory
            return
        surplus, where = key, directory
        if first and first != directory and census.parents[at] == directory:
            census.above[at] = directory
            other = self._name_of(number, first)
            if other is not None:
                surplus, where = key_named(first, other), first
        message = f"{surplus[8:]!r} in it is another name of directory {number}"
        linked = flaw(Kind.DIRECTORY_LINKED, where, message, "remove the name", _without(surplus))
        self._walk.flaws.append(linked)

    def _name_of(self, number: int, directory: int) -> bytes | None:
        for name, dentry in self._reading.entries(directory):
            if dentry.inode == number:
                return name
        return None

    # -- the order of reading -------------------------------------------------------------------

    def _is_ordered(self, key: bytes, dentry: Dentry) -> bool:
        """Is the name found where its cookie says?"""
        wanted = Cookie(key[8:], dentry.inode, dentry.kind).encode()
        try:
            found = self._reading.value(Table.COOKIE, key[:8] + key_of(dentry.cookie))
        except IntegrityError:
            return False
        if found != wanted or dentry.cookie < FIRST_COOKIE:
            return False
        self._ordered += 1
        return True

    def _disorder(self, key: bytes, dentry: Dentry, spare: int) -> Iterator[Flaw]:
        """A name is not where its cookie says: the order is wrong, or two have one place."""
        directory = split_key(key)
        message = f"{key[8:]!r} in it is missing in the order it is read in"
        other = self._rival(key, dentry)
        if other is None and dentry.cookie >= FIRST_COOKIE:
            # To set the row again sets what is derived from it.
            again = Mend((Row(Table.DENTRY, key, dentry.encode()),))
            yield flaw(Kind.COOKIE_WRONG, directory, message, "set it again", again)
            return
        moved = Row(Table.DENTRY, key, dentry._replace(cookie=spare).encode())
        rows = (moved,) if other is None else (moved, other)
        mend = Mend(rows, directory, (("next_cookie", spare + 1),))
        yield flaw(Kind.COOKIE_SHARED, directory, message, "give it a place of its own", mend)

    def _rival(self, key: bytes, dentry: Dentry) -> Row | None:
        """The row of another name with this one's place in the reading order."""
        try:
            found = self._reading.value(Table.COOKIE, key[:8] + key_of(dentry.cookie))
            if found is None:
                return None
            name = decode_cookie(found).name
            other = self._reading.dentry(split_key(key), name) if name != key[8:] else None
        except IntegrityError:
            return None
        if other is None or other.cookie != dentry.cookie:
            return None
        return Row(Table.DENTRY, key[:8] + name, other.encode())

    def _highest(self, at: int, highest: int) -> Iterator[Flaw]:
        """The next name of the directory must come behind all that are there."""
        census = self._census
        directory, after = census.directories[at], max(highest + 1, FIRST_COOKIE)
        if census.next_cookies[at] < after:
            message = f"the next name in it would come at {census.next_cookies[at]}, not {after}"
            mend = Mend(inode=directory, fields=(("next_cookie", after),))
            yield flaw(Kind.COOKIE_NEXT, directory, message, "set it", mend)

    def _surplus_order(self) -> Iterator[Flaw]:
        """Places of the reading order at which there is no such name."""
        if self._reading.count(Table.COOKIE) == self._ordered:
            return
        for key, value in self._walk.rows(Table.COOKIE):
            directory, cookie = split_key(key), int.from_bytes(key[8:], "big")
            try:
                name = decode_cookie(value).name
                dentry = self._reading.dentry(directory, name)
            except IntegrityError:
                dentry = None
            if dentry is None or key != key_pair(directory, dentry.cookie) or not cookie:
                message = f"place {cookie} of the order it is read in has no such name"
                finding = Finding(Kind.COOKIE_WRONG, message, Where(inode=directory), REBUILD)
                yield Flaw(finding)


def _without(key: bytes) -> Mend:
    return Mend((Row(Table.DENTRY, key, None),))
