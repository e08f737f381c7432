"""Copies of snapshots on archive drives: is one and the same whole on m+1 drives of each pool?

Headers only, and the last frame. What a newer copy stands for, or one that was cut off, is no
finding: the next shift tidies up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from shmr.drive.impatient import Answer
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import Opening, Stream
from shmr.format.rows import decode_place
from shmr.fsck.checking.patience import waited
from shmr.fsck.checking.window import Window
from shmr.fsck.findings import Finding, Kind, Where
from shmr.fsck.opening import View
from shmr.log import walk
from shmr.log.store import segment_name
from shmr.volume.gaps import Gaps, gaps_in
from shmr.volume.membership import ArchivePool

KEEP = "keep a new snapshot on m+1 drives of the pool"
_NAME = re.compile(r"snapshot-(\d{12,})")
HELD = b"held "


class _File(NamedTuple):
    """A file of a snapshot, as far as its headers can be walked. `ends`: with a place."""

    opening: Opening
    end: int
    chain: int
    size: int
    ends: bool


def kept_findings(view: View, notes: list[str]) -> Iterator[Finding]:
    """What is wrong with the copies of every pool. Raises IntegrityError for a damaged row."""
    found = list(_found(view, notes))
    if found and view.mounted:
        # A shift may have put newer ones in their place meanwhile.
        found = list(_found(view, []))
    yield from found


def _found(view: View, notes: list[str]) -> Iterator[Finding]:
    least, unknown = _least(view), gaps_in(view.reading.states)
    held = next(view.reading.states(HELD), None) is not None
    if held and not view.mounted:
        notes.append(
            "what was moved last is kept in its old place too, until the next mount or "
            "`shmr-compact` has settled it"
        )
    # Whoever settles it keeps a new one, and what is there may be half of that.
    for pool in view.archives if not held else ():
        yield from _in_pool(view.filesystem, pool, _wanted(pool, least), unknown)


class _Copies(NamedTuple):
    """The copies in a pool, but for those of an unknown generation: `files` by drive and number,
    the `whole` snapshots of each drive, the `newest` of them that is on as many drives as are
    `needed`, and on how many `drives` it is.
    """

    files: dict[bytes, dict[int, _File | None]]
    whole: dict[bytes, set[tuple[int, ...]]]
    newest: tuple[int, ...]
    drives: int
    needed: int


def superseded(view: View) -> set[tuple[bytes, int]]:
    """Copies that nobody needs, by drive and number: a newer snapshot stands for them, whole on as
    many drives as it should be. The next shift takes them away. Raises IntegrityError.
    """
    found: set[tuple[bytes, int]] = set()
    least, unknown = _least(view), gaps_in(view.reading.states)
    for pool in view.archives:
        copies = _copies(view.filesystem, pool, _wanted(pool, least), unknown, [])
        if copies.newest and copies.drives >= copies.needed:
            for drive_id, some in copies.files.items():
                found |= {(drive_id, number) for number in some if number not in copies.newest}
    return found


def _least(view: View) -> dict[bytes, int]:
    """How many drives each pool may lose, for what it has that needs most."""
    live = view.reading.live()
    least: dict[bytes, int] = {}
    for number, archived in view.reading.archived_segments():
        if live.get(number, 0) > 0:
            least[archived.pool] = min(least.get(archived.pool, archived.m), archived.m)
    return least


def _wanted(pool: ArchivePool, least: Mapping[bytes, int]) -> int:
    """How many drives of the pool have to have a copy."""
    return least[pool.pool] + 1 if pool.pool in least else 0


def _copies(
    filesystem: bytes,
    pool: ArchivePool,
    wanted: int,
    unknown: Gaps,
    problems: list[tuple[str, str]],
) -> _Copies:
    """`problems` gets drives that cannot be looked at, by their labels, and why."""
    files: dict[bytes, dict[int, _File | None]] = {}
    for drive_id, drive in pool.drives.items():
        try:
            looking = Answer(f"check {drive.label}", partial(_on_drive, drive, filesystem, unknown))
            files[drive_id] = waited(drive.label, looking)
        except DriveError as error:
            problems.append((drive.label, str(error)))
    whole = {drive_id: set(_whole(some)) for drive_id, some in files.items()}
    counts = Counter(one for some in whole.values() for one in some)
    needed = min(wanted - len(pool.missing), len(pool.drives))
    newest: tuple[int, ...] = max(counts, key=lambda one: (counts[one] >= needed, one), default=())
    return _Copies(files, whole, newest, counts[newest], needed)


def _in_pool(filesystem: bytes, pool: ArchivePool, wanted: int, unknown: Gaps) -> Iterator[Finding]:
    """`wanted`: how many drives of the pool have to have a copy."""
    problems: list[tuple[str, str]] = []
    copies = _copies(filesystem, pool, wanted, unknown, problems)
    for label, why in problems:
        yield Finding(Kind.SNAPSHOT_COPY_DAMAGED, why, Where(label), KEEP)
    newest = copies.newest
    for drive_id, some in copies.files.items():
        label = pool.drives[drive_id].label
        if newest in copies.whole[drive_id] or not some:
            continue
        for number in sorted(some):
            if not newest or number in newest:
                name = segment_name(Stream.SNAPSHOT, number)
                message = f"{name} on {label} is not whole, or not all of its snapshot is there"
                yield Finding(Kind.SNAPSHOT_COPY_DAMAGED, message, Where(label, number), KEEP)
                break
    if copies.drives < copies.needed:
        message = (
            f"pool {pool.name!r}: {copies.drives} of its drives have a whole copy of the same "
            f"snapshot, and {wanted} should"
        )
        yield Finding(Kind.SNAPSHOT_COPIES, message, Where(), KEEP)


def _on_drive(drive: Drive, filesystem: bytes, unknown: Gaps) -> dict[int, _File | None]:
    """The copies on a drive, by the segment's number."""
    numbers = [number for number in copies_in(drive) if number not in unknown]
    return {number: _look(drive, filesystem, number) for number in numbers}


def copies_in(drive: Drive) -> list[int]:
    """The numbers of all copies on a drive, by their names. Raises DriveError."""
    return sorted(int(match[1]) for name in drive.names() if (match := _NAME.fullmatch(name)))


def _whole(files: Mapping[int, _File | None]) -> Iterator[tuple[int, ...]]:
    """The snapshots on a drive of which everything is there, by their segments' numbers."""
    following = {
        file.opening.previous_segment: number
        for number, file in sorted(files.items())
        if file is not None and file.opening.previous_segment
    }
    for number, file in files.items():
        if file is None or file.opening.previous_segment:
            continue
        chain = [number]
        while file.end == file.size:
            if file.ends:
                yield tuple(chain)
                break
            after = following.get(chain[-1], 0)
            if after <= chain[-1]:
                break
            before, file = file, files[after]
            chain.append(after)
            if file is None or (file.opening.previous_end, file.opening.previous_chain) != (
                before.end,
                before.chain,
            ):
                break


def _look(drive: Drive, filesystem: bytes, number: int) -> _File | None:
    """None if it is no segment of a snapshot, or cannot be read."""
    name = segment_name(Stream.SNAPSHOT, number)
    try:
        size = drive.size(name)
        file = drive.open(name)
    except DriveError:
        return None
    try:
        window = Window(file)
        opened = walk.opening_of((window,), filesystem, number)
        if opened is None or opened[1].stream != Stream.SNAPSHOT:
            return None
        first, opening = opened
        last = first
        for found in walk.walk((window,), first.end, first.header.checksum, first.header):
            last = found
        ends = last.header.kind == FrameKind.COMMIT and _has_place(window, last)
        return _File(opening, last.end, last.header.checksum, size, ends)
    except DriveError:
        return None
    finally:
        file.close()


def _has_place(window: Window, found: walk.Found) -> bool:
    """Does the last frame say at which place of the journal the snapshot stands?"""
    payload = walk.payload_of((window,), found)
    if payload is None:
        return False
    try:
        decode_place(payload)
    except IntegrityError:
        return False
    return True
