"""Moving bytes back to the workspace, as the cleaner does it: read, appended anew, switched.

Only extents that still point at what was read are switched, so a write that came in between wins.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmr.archive.control import Control, Phase
from shmr.archive.plan import Lot
from shmr.archive.write import Unreadable
from shmr.errors import DriveError, IntegrityError
from shmr.format.rows import Extent
from shmr.units import MIB
from shmr.volume.archived import Moved
from shmr.volume.cleaner import Work
from shmr.volume.volume import Volume

STEP_BYTES = 4 * MIB


def recall(volume: Volume, lots: Iterable[Lot], control: Control) -> Work[int]:
    """Copy these lots into data segments and point their files there; returns bytes switched.

    The sources must be held. Not durable before a commit. Raises NoSpace, Unreadable, DriveError,
    Stopped.
    """
    switched = 0
    for lot in lots:
        rest: Lot | None = lot
        while rest is not None:
            control.check()
            part, rest = rest.cut(STEP_BYTES) if rest.length > STEP_BYTES else (rest, None)
            switched += yield from _recall(volume, part, control)
            control.advance(Phase.RECALL, part.length)
    return switched


def _recall(volume: Volume, lot: Lot, control: Control) -> Work[int]:
    context = volume.context
    plan = context.reader.plan(lot.inode, [Extent(lot.offset, lot.length, lot.source)])

    def fetch() -> bytes:
        control.pace(lot.length)
        return bytes(plan.fetch())

    try:
        content = yield fetch
    except (IntegrityError, DriveError) as error:
        raise Unreadable(lot.inode, error) from error
    finally:
        plan.release()
    new = context.append_data(
        lot.inode,
        lot.offset,
        content,
        reserve_bytes=context.reserves.clean_bytes,
        moving=True,
    )
    return volume.archive.move(
        Moved(
            lot.inode,
            piece.offset,
            piece.length,
            lot.source._replace(skip=lot.source.skip + piece.offset - lot.offset),
            piece.address,
        )
        for piece in new
        if piece.address is not None
    )
