"""Every rule that a catalog must keep, asked of an open volume: what a tree does not show.

A tree can be right while the catalog behind it rots: an inode that no name leads to, extents of a
file that is gone, counts that drifted. That is what `shmr-fsck check` looks for; here it is asked
of a volume that nobody else uses, where still less may be wrong.
"""

from __future__ import annotations

from shmr.format.records import Stream
from shmr.format.rows import Table, split_key
from shmr.fsck.checking.tables.check import tables
from shmr.fsck.opening import view_of
from shmr.volume.volume import Volume


def audit(volume: Volume) -> list[str]:
    """What is wrong, a line each; empty if all is well. The volume must have nothing open."""
    catalog = volume.catalog
    return [
        *(f"{one.kind}: {one.message} ({one.where})" for one in tables(view_of(volume))),
        *(f"orphan {split_key(key)}" for key, _ in catalog.scan(Table.ORPHAN, b"")),
        *(
            f"segment {number}: {live} bytes live"
            for number, live in catalog.live.items()
            if live < 0
        ),
        *_places(volume),
    ]


def _places(volume: Volume) -> list[str]:
    """Bytes are in segments that there are."""
    store = volume.context.reader.store
    wrong = []
    for inode, extent in volume.catalog.reading().all_extents():
        at = extent.address
        if at is None or volume.catalog.archived(at.segment) is not None:
            continue
        segment = store.segments.get(at.segment)
        if segment is None or segment.stream != Stream.DATA:
            wrong.append(f"inode {inode}: {extent} is in {segment}")
    return wrong
