"""What the workspace has in copies, and the copies of snapshots in the archive.

A data segment of which a copy is bad is emptied: what lives in it is written to new segments, from
whichever copy has it, and the checkpoint behind lets it go. Extent by extent, and not along the
chain of headers as the cleaner goes: so a broken chain is mended where there is but one copy.

Where a copy of the journal or of a snapshot is bad a new snapshot is written: all before it goes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from itertools import islice

from shmr.archive.control import Control, Phase
from shmr.archive.keep import keep_snapshot, newest_snapshot
from shmr.archive.pool import NoPlace, Pool
from shmr.errors import DriveError, IntegrityError
from shmr.format.records import Stream
from shmr.format.rows import Extent, Table, decode_extent, extent_key, split_pair
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.mending import superblocks
from shmr.fsck.mending.mender import Mender
from shmr.volume.cleaner import Work
from shmr.volume.context import Need
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

_SEGMENTS = frozenset(
    {
        Kind.COPY_MISSING,
        Kind.SEGMENT_MISSING,
        Kind.SEGMENT_FOREIGN,
        Kind.SEGMENT_SHORT,
        Kind.SEGMENT_UNREADABLE,
        Kind.FRAME_DAMAGED,
        Kind.CHAIN_BROKEN,
        Kind.BYTES_DAMAGED,
        Kind.JOURNAL_DAMAGED,
        Kind.SNAPSHOT_DAMAGED,
    }
)
_KEPT = frozenset({Kind.SNAPSHOT_COPIES, Kind.SNAPSHOT_COPY_DAMAGED})
KINDS = _SEGMENTS | _KEPT
"""What is mended here."""
_STEP_EXTENTS = 256


def mend(
    volume: Volume, pools: Sequence[Pool], findings: Sequence[Finding], control: Control
) -> Work[list[str]]:
    """Put right what these findings tell of; sentences about what was left.

    Raises Stopped, NoSpace, DriveError, IntegrityError; what was done before stays.
    """
    found = [finding for finding in findings if finding.kind in KINDS and not finding.is_loss]
    if not found:
        return []
    numbers = {f.where.segment for f in found if f.kind in _SEGMENTS}
    data = {number for number in numbers if number is not None and _is_data(volume, number)}
    notes: list[str] = []
    if data:
        yield from _empty(volume, data, control)
    keep = any(finding.kind in _KEPT for finding in found)
    if keep or numbers - data:
        control.check()
        yield from _snapshot(volume, _keepers(volume, pools) if keep else (), notes)
    return notes


def _keepers(volume: Volume, pools: Sequence[Pool]) -> list[Pool]:
    """The pools in which something is: these keep copies of snapshots."""
    used = {archived.pool for _, archived in volume.catalog.archived_segments()}
    return [pool for pool in pools if pool.id in used]


def _is_data(volume: Volume, number: int) -> bool:
    segment = volume.context.reader.store.segments.get(number)
    return segment is not None and segment.stream == Stream.DATA


# -- data segments --------------------------------------------------------------------------


def _empty(volume: Volume, segments: Collection[int], control: Control) -> Work[None]:
    """Move what lives in these segments to new ones. What cannot be read stays where it is."""
    start = b""
    control.plan(sum(volume.catalog.live.get(number, 0) for number in segments))
    while True:
        some = list(islice(_living(volume, segments, start), _STEP_EXTENTS))
        if not some:
            break
        for inode, extent in some:
            control.check()
            yield from _move(volume, inode, extent, control)
        inode, extent = some[-1]
        start = extent_key(inode, extent.offset + 1)
    # Only behind a checkpoint they go.
    volume.checkpoints.run()


def _living(
    volume: Volume, segments: Collection[int], start: bytes
) -> Iterator[tuple[int, Extent]]:
    """Extents from key `start` on that are in these segments, with their inodes."""
    for key, value in volume.catalog.scan(Table.EXTENT, start):
        inode, offset = split_pair(key)
        extent = decode_extent(offset, value)
        if extent.address is not None and extent.address.segment in segments:
            yield inode, extent


def _move(volume: Volume, inode: int, extent: Extent, control: Control) -> Work[None]:
    """One extent to a new segment, in one operation."""
    context = volume.context
    context.allow(Need.DELETE)
    try:
        plan = context.reader.plan(inode, [extent])
        try:
            yield partial(control.pace, extent.length)
            payload = yield plan.fetch
        finally:
            plan.release()
    except (IntegrityError, DriveError) as error:
        logger.error("inode %d, offset %d stays where it is: %s", inode, extent.offset, error)
        control.plan(-extent.length)
        return
    new = context.append_data(
        inode,
        extent.offset,
        memoryview(payload),
        reserve_bytes=context.reserves.clean_bytes,
        moving=True,
    )
    context.apply([piece.row(inode) for piece in new])
    # Nobody reads it back: to write it is all of it.
    control.advance(Phase.WRITE, 2 * extent.length)


# -- snapshots ------------------------------------------------------------------------------


def _snapshot(volume: Volume, pools: Sequence[Pool], notes: list[str]) -> Work[None]:
    """A new snapshot, and copies of it on drives of these pools."""
    zones = [pool.zone_bytes for pool in pools]
    yield from volume.snapshots.make(segment_bytes_max=min(zones, default=None))
    store = volume.context.reader.store
    segments = newest_snapshot(store)
    for pool in pools:
        try:
            unknown = volume.archive.gaps()
            yield partial(keep_snapshot, store, segments, volume.context.fragments, pool, unknown)
        except NoPlace as error:
            notes.append(str(error))


MENDERS = (
    Mender(
        KINDS,
        "move what lives in segments with a bad copy, and write new snapshots for bad old ones",
        mend,
    ),
    *superblocks.MENDERS,
)
