"""`shmr inspect topology`: where the bytes of one file are.

Reads the last checkpoint of the catalog and looks at the drives, takes no lock and changes nothing:
it works on a mounted filesystem too, and does not know what was written in the last seconds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from shmr.config import load
from shmr.format.rows import Extent
from shmr.service.looking.locate import locate, mount_points
from shmr.service.looking.whereabouts import Finder, Part, looking


@dataclass(frozen=True, slots=True)
class Piece:
    """An extent of a file; a hole has no pool and no segment.

    `parts` are the indices of the segment's fragments that hold these bytes, or of all its copies.
    `left` says how many parts of the segment may still go without losing these bytes; -1: lost.
    """

    offset: int
    length: int
    pool: str | None = None
    segment: int | None = None
    parts: tuple[int, ...] = ()
    left: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentView:
    """A segment that holds bytes of the file; `left` is -1 where not all of it can be read."""

    segment: int
    pool: str
    scheme: str
    left: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """Where the bytes of one file are, as of a checkpoint (nanoseconds since 1970)."""

    filesystem: str
    inode: int
    size_bytes: int
    checkpoint_ns: int
    pieces: tuple[Piece, ...]
    segments: tuple[SegmentView, ...]


def topology(config_path: str | os.PathLike[str], what: str) -> Topology:
    """Where the file `what` is: the number of an inode, a path inside a mount or from the top.

    Raises SetupError, IntegrityError.
    """
    config = load(config_path)
    with looking(config) as (reading, finder, _):
        inode = locate(what, reading, mount_points(config))
        pieces = tuple(_piece(extent, finder) for extent in reading.extents(inode.number))
        touched = sorted({piece.segment for piece in pieces if piece.segment is not None})
        return Topology(
            config.filesystem,
            inode.number,
            inode.size,
            reading.written_ns,
            pieces,
            tuple(
                SegmentView(where.segment, where.pool, where.scheme, where.left, where.parts)
                for where in map(finder.find, touched)
            ),
        )


def _piece(extent: Extent, finder: Finder) -> Piece:
    address = extent.address
    if address is None:
        return Piece(extent.offset, extent.length)
    where = finder.find(address.segment)
    return Piece(
        extent.offset,
        extent.length,
        where.pool,
        where.segment,
        where.touched(address, extent.length),
        where.left_of(address, extent.length),
    )
