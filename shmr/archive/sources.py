"""Which bytes of files lie in a pool: what a shift may take from there, as lots."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from shmr.archive.plan import Lot
from shmr.catalog.catalog import Catalog
from shmr.format.rows import Extent

SLICE = 4096
IsSource = Callable[[int], bool]
"""Does a segment, by its number, belong to what is moved?"""


def lots_of(catalog: Catalog, inodes: Iterable[int], is_source: IsSource) -> Iterator[Lot]:
    """What these files have in source segments, by offset. The catalog may change meanwhile.

    A file that is gone, or is none that has bytes, has no lots. Raises IntegrityError.
    """
    known: dict[int, bool] = {}
    for number in inodes:
        inode = catalog.inode(number)
        if inode is None or not stat.S_ISREG(inode.mode):
            continue
        for extent in _extents(catalog, number, inode.size):
            at = extent.address
            if at is None:
                continue
            wanted = known.get(at.segment)
            if wanted is None:
                wanted = known[at.segment] = is_source(at.segment)
            if wanted:
                yield Lot(number, extent.offset, extent.length, at)


def _extents(catalog: Catalog, inode: int, size: int) -> Iterator[Extent]:
    """Extents before the end of the file, some at a time: the table changes between two."""
    at = 0
    while at < size:
        some = list(islice(catalog.extents(inode, at, size), SLICE))
        if not some:
            return
        for extent in some:
            part = extent.clip(at, size)
            if part is not None:
                yield part
        at = some[-1].end


def in_workspace(catalog: Catalog) -> IsSource:
    """Segments of the workspace."""
    return lambda segment: catalog.archived(segment) is None


def in_pool(catalog: Catalog, pool: bytes) -> IsSource:
    """Segments of an archive pool."""

    def belongs(segment: int) -> bool:
        archived = catalog.archived(segment)
        return archived is not None and archived.pool == pool

    return belongs
