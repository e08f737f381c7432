"""Is the workspace that is there the one that the archive goes with, or an older one?

Old fast disks that are put back after the workspace was made anew, an image of them, a clone: their
log is whole and knows nothing of what was archived since. Whoever went on with it would take the
newer fragments for strays. So nothing is changed then, before any number is given that the archive
has already. Looking is allowed.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.archive.newer import newer_on, refuse_newer
from shmr.volume.gaps import gap_rows
from shmr.volume.volume import Volume


def refuse_older(volume: Volume) -> None:
    """Raise SetupError where archive drives hold what the log of this volume never gave a number.

    Called once, behind opening. Blocking: lists the drives. Raises no DriveError.
    """
    if volume.taken is not None:
        fragments = volume.context.fragments
        refuse_newer(fragments, fragments.scan(), volume.taken)


def keep_unknown(volume: Volume) -> None:
    """The end of the log was given up: what archive drives hold of it is left alone, and its
    numbers are not given again. Durable when this returns. Blocking; raises NoSpace, DriveError."""
    if volume.taken is None:
        return
    end = max(_numbers(volume, volume.taken), default=volume.taken - 1) + 1
    if end > volume.taken:
        store = volume.context.reader.store
        store.next_number = max(store.next_number, end)
        volume.context.apply(gap_rows([(volume.taken, end)]))
        volume.commits.now()
    volume.taken = None


def _numbers(volume: Volume, taken: int) -> Iterator[int]:
    """Numbers from `taken` on that files on archive drives have."""
    fragments = volume.context.fragments
    for drive_id, names in fragments.scan().items():
        for file in newer_on(fragments.drives[drive_id], fragments.filesystem, names, taken):
            yield int(file.split("-")[1])
