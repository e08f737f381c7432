"""What a scrub found damaged and something knows better of, put right; and seen to be.

What is done about each kind is what a repair does (`shmr.fsck.mending`). Mended is what was
replaced by something that verifies, byte for byte, or what nothing needs any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from shmr.archive.control import Control, Stopped
from shmr.archive.pool import Pool
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format import superblock
from shmr.fsck.findings import Finding
from shmr.fsck.mending import copies, fragments
from shmr.fsck.scrubbing import fragment, frames
from shmr.fsck.scrubbing.inventory import FragmentItem, SegmentItem
from shmr.fsck.scrubbing.judging import Judged
from shmr.fsck.scrubbing.reading import Reader
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

R = TypeVar("R")

SUPERBLOCK = "superblock-"
MENDERS = (*fragments.MENDERS, *copies.MENDERS)


class Mending:
    """One run on an open volume. `pools` are all archive pools; `notes` says what went wrong."""

    def __init__(self, volume: Volume, pools: Sequence[Pool], control: Control) -> None:
        self._volume = volume
        self._pools = pools
        self._control = control
        self.notes: list[str] = []
        self.stopped = False

    def run(self, findings: Sequence[Finding]) -> None:
        """Do what can be done about these."""
        for mender in MENDERS:
            wanted = [one for one in findings if one.kind in mender.kinds and not one.is_loss]
            if not wanted:
                continue
            try:
                work = mender.mend(self._volume, self._pools, wanted, self._control)
                self.notes += run_inline(work)
            except Stopped:
                self.stopped = True
                return
            except ShmrError as error:
                logger.error("%s", error)
                self.notes.append(f"not everything could be repaired: {error}")

    # -- is it? -----------------------------------------------------------------------------

    def is_mended(self, one: Judged) -> bool:
        """Was what is damaged replaced by something that verifies, or does nothing need it?"""
        if one.finding is None or one.finding.is_loss:
            return False
        try:
            item = one.damaged.item
            if isinstance(item, FragmentItem):
                return self._is_whole(item)
            if item.kept:
                return self._is_kept(one.damaged.holding.id, item)
            return item.number not in self._volume.context.reader.store.segments
        except (DriveError, IntegrityError) as error:
            self.notes.append(str(error))
            return False

    def has_superblock(self, label: str) -> bool:
        """Does the newest superblock of the drive at this path verify now?"""
        context = self._volume.context
        drives: list[Drive] = [*context.reader.store.drives, *context.fragments.drives.values()]
        for drive in drives:
            if drive.label != label:
                continue
            try:
                newest = max(name for name in drive.names() if name.startswith(SUPERBLOCK))
                superblock.decode(drive.get(newest))
                return True
            except (DriveError, IntegrityError, ValueError) as error:
                self.notes.append(str(error))
        return False

    def _is_whole(self, item: FragmentItem) -> bool:
        """Raises DriveError."""
        archived, index = self._volume.catalog.archived(item.number), item.name.fragment
        if archived is None or index >= len(archived.fragments):
            return True
        now = archived.fragments[index]
        known = self._volume.context.fragments
        drive = known.drives.get(now.drive)
        if now == item.archived.fragments[index] or drive is None:
            return False
        name = item.name._replace(generation=now.generation).file
        size, file = drive.size(name), drive.open(name)
        reader = Reader(file, size, _Nobody())
        try:
            number = item.number
            return not fragment.examine(reader, size, known.filesystem, number, archived, index)
        finally:
            reader.close()

    def _is_kept(self, drive_id: bytes, item: SegmentItem) -> bool:
        """Raises DriveError."""
        drive = self._volume.context.fragments.drives.get(drive_id)
        if drive is None or item.file not in drive.names():
            return drive is not None
        size, file = drive.size(item.file), drive.open(item.file)
        expected = replace(item.expected, size_bytes=size, reach=size)
        reader = Reader(file, size, _Nobody())
        try:
            return not frames.examine(reader, expected).damages
        finally:
            reader.close()


class _Nobody:
    """Lets everything through: what was just written is read back at once."""

    def before(self, length: int) -> None:
        """Nothing is in the way."""

    def during(self, call: Callable[[], R]) -> R:
        return call()

    def refused(self, error: DriveError) -> None:
        raise error
