"""What may be of a log that was lost is given up: only who asks for that comes here.

First the files go, then the rows that had them left alone. These stay where a drive is missing, or
cannot be listed: what is on it was not told of yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from shmr.archive.control import Control
from shmr.archive.pool import Pool
from shmr.archive.shift import Shift
from shmr.drive.seam import Drive
from shmr.errors import DriveError
from shmr.format.records import Stream
from shmr.fsck.checking.kept import copies_in
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.mending.mender import Mender
from shmr.log.store import segment_name
from shmr.volume.cleaner import Work
from shmr.volume.context import ROWS_MAX
from shmr.volume.gaps import Gaps, ended_rows
from shmr.volume.volume import Volume

KINDS = frozenset({Kind.UNKNOWN_GENERATION})
"""What is given up here: their findings have a remedy only where that was asked for."""
DOES = "discard what is newer than what the workspace was made anew from, and that no row names"


def mend(
    volume: Volume, pools: Sequence[Pool], findings: Sequence[Finding], control: Control
) -> Work[list[str]]:
    """Discard all of it, not only what these findings tell of; sentences about what was left.

    Raises NoSpace, DriveError; what was done before stays.
    """
    if not any(finding.kind in KINDS and not finding.is_loss for finding in findings):
        return []
    fragments, gaps = volume.context.fragments, volume.archive.gaps()
    found = yield fragments.scan
    notes: list[str] = []
    yield partial(_discard_copies, fragments.drives, gaps, notes)
    shift = Shift(volume, pools, control=control)
    yield from shift.discard(volume.archive.unknown_in(found))
    away = fragments.missing | (fragments.drives.keys() - found.keys())
    if away or notes:
        notes += (
            f"drive {fragments.label(drive)} is missing or cannot be listed: what it has of this "
            "is left alone when it comes back"
            for drive in sorted(away)
        )
        return notes
    rows = ended_rows(volume.catalog)
    for at in range(0, len(rows), ROWS_MAX):
        volume.context.apply(rows[at : at + ROWS_MAX])
    volume.commits.now()
    return notes


def _discard_copies(drives: Mapping[bytes, Drive], gaps: Gaps, notes: list[str]) -> None:
    """Copies of snapshots. `notes` gets what failed. Blocking, any thread."""
    for drive in drives.values():
        try:
            for number in copies_in(drive):
                if number in gaps:
                    drive.discard(segment_name(Stream.SNAPSHOT, number))
        except DriveError as error:
            notes.append(str(error))


MENDERS = (Mender(KINDS, DOES, mend),)
