"""`/lost+found`: where files go that no name leads to.

It is made with the mode 0700 if it is not there, and nothing in it is ever overwritten: a file is
called `inode-N` by its number, or `inode-N-2` and so on where that name is taken.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable
from typing import NamedTuple

from shmr.catalog.catalog import Catalog
from shmr.format.rows import ROOT, Dentry, Inode, Row
from shmr.volume.namespace import FIRST_COOKIE

NAME = b"lost+found"
Apply = Callable[[Iterable[Row]], None]


class Place(NamedTuple):
    """The directory: its number and its name at the top."""

    number: int
    name: bytes


def prepared(catalog: Catalog, new_number: Callable[[], int], now_ns: int, apply: Apply) -> Place:
    """The directory; made under `new_number` if it is not there.

    Something else of that name is left as it is: then the directory has another.
    """
    attempt = 1
    while True:
        name = NAME if attempt == 1 else b"%s-%d" % (NAME, attempt)
        dentry = catalog.dentry(ROOT, name)
        if dentry is None:
            break
        inode = catalog.inode(dentry.inode)
        if inode is not None and stat.S_ISDIR(inode.mode) and inode.parent == ROOT:
            return Place(inode.number, name)
        attempt += 1
    root = catalog.inode(ROOT)
    assert root is not None, "the top is there"
    number = new_number()
    mode, now = stat.S_IFDIR | 0o700, now_ns
    made = Inode(number, mode, 2, 0, 0, 0, 0, 0, now, now, now, 0, FIRST_COOKIE, ROOT)
    apply(
        [
            made.row(),
            Dentry(number, stat.S_IFDIR, root.next_cookie).row(ROOT, name),
            root._replace(
                links=root.links + 1,
                entries=root.entries + 1,
                next_cookie=root.next_cookie + 1,
                mtime_ns=now_ns,
                ctime_ns=now_ns,
            ).row(),
        ]
    )
    return Place(number, name)


def link(catalog: Catalog, place: Place, number: int, apply: Apply) -> bytes:
    """Give an inode that has no name one there; which. Of a directory all that is in it comes too.

    The link count of a directory is left as it is: it counts what is in it.
    """
    directory, inode = catalog.inode(place.number), catalog.inode(number)
    assert directory is not None and inode is not None, "both are there"
    name, attempt = b"inode-%d" % number, 1
    while catalog.dentry(place.number, name) is not None:
        attempt += 1
        name = b"inode-%d-%d" % (number, attempt)
    below = stat.S_ISDIR(inode.mode)
    named = inode._replace(parent=place.number) if below else inode._replace(links=1)
    apply(
        [
            Dentry(number, stat.S_IFMT(inode.mode), directory.next_cookie).row(place.number, name),
            named.row(),
            directory._replace(
                entries=directory.entries + 1,
                next_cookie=directory.next_cookie + 1,
                links=directory.links + below,
            ).row(),
        ]
    )
    return name
