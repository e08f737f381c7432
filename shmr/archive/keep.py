"""SNAPSHOT: the newest snapshot of the volume, copied to m+1 drives of an archive pool.

The same files with the same frames, under the same names, each read back and verified frame by
frame. So what the archive holds can be told from archive drives alone, also when m of them are
lost with the workspace. Older copies go when the new ones are complete. Drives that were written to
also get what tells a stranger how to read them (`leave`).
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Collection, Iterator, Sequence

from shmr.archive.leave import leave_on
from shmr.archive.pool import NoPlace, Pool
from shmr.core.placement import DriveState
from shmr.drive.seam import Drive, DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.frame import Kind
from shmr.format.records import Stream
from shmr.log import walk
from shmr.log.fragments import FragmentStore
from shmr.log.log import JOURNAL_MIN_BYTES
from shmr.log.store import Segment, SegmentStore
from shmr.units import MIB
from shmr.volume.gaps import Gaps
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

_NAME = re.compile(r"snapshot-\d{12,}")
_CHUNK = 4 * MIB


def snapshot_zones(volume: Volume, pool: Pool) -> int:
    """Zones that the next snapshot takes of a drive, generously: each file begins a new one."""
    # Of the store, and not of the log: a dry run has none.
    store = volume.context.reader.store
    size = min(max(store.segment_bytes // 4, JOURNAL_MIN_BYTES), pool.zone_bytes)
    files = 2 + volume.catalog.truth_bytes() // size
    return files if pool.zone_bytes <= size else 1 + files * size // pool.zone_bytes


def newest_snapshot(store: SegmentStore) -> list[Segment]:
    """The segments of the newest snapshot, which there is. On the volume's thread."""
    segments = store.of_stream(Stream.SNAPSHOT)
    assert segments, "there is a snapshot"
    return segments


def keep_snapshot(
    store: SegmentStore,
    segments: Sequence[Segment],
    fragments: FragmentStore,
    pool: Pool,
    unknown: Gaps,
    *,
    least: int | None = None,
) -> list[bytes]:
    """Copy the newest snapshot to m+1 drives of `pool`, then discard older copies; which drives.

    Fewer than `least` (m+1 if it is not given) are an error; with fewer than m+1 the older stay.
    Copies whose numbers are `unknown` (`shmr.volume.gaps`) are left alone.
    Blocking; any thread, while `segments` (those of the snapshot) are pinned or nothing else runs.
    Raises NoPlace, IntegrityError.
    """
    names = {segment.name for segment in segments}
    kept: list[bytes] = []
    refused: list[str] = []
    for drive_id, drive in _by_room(fragments, pool, refused):
        if len(kept) > pool.m:
            break
        try:
            _copy_all(store, segments, drive)
        except DriveError as error:
            refused.append(str(error))
            _discard(drive, names)
            continue
        kept.append(drive_id)
    if len(kept) < (pool.m + 1 if least is None else least):
        raise NoPlace(
            f"pool {pool.name!r}: {pool.m + 1} drives are needed to keep a snapshot, found "
            f"{len(kept)}; {'; '.join(refused)}; until then what was moved is kept in its old "
            "place too"
        )
    _leave(fragments, pool, kept)
    if len(kept) <= pool.m:
        logger.warning(
            "pool %r keeps its snapshot on %d drives only: %s", pool.name, len(kept), refused
        )
        return kept
    for drive_id in pool.drives:
        there = fragments.drives.get(drive_id)
        if there is not None:
            others = _known(copies_on(there), unknown) - (names if drive_id in kept else set())
            # One with a higher number is of a log that went on: this one is older.
            _discard(there, {name for name in others if name <= max(names)})
    return kept


def _leave(fragments: FragmentStore, pool: Pool, kept: Sequence[bytes]) -> None:
    """Drives that are awake, because they were just written to, have what is left on drives."""
    written = fragments.written.intersection(pool.drives)
    fragments.written -= written
    for drive_id in sorted(written.union(kept)):
        drive = fragments.drives.get(drive_id)
        if drive is not None:
            # The last zone is for cleaning, and another for what is next.
            leave_on(drive, spare_bytes=2 * pool.zone_bytes)


def tidy(fragments: FragmentStore, pool: Pool, unknown: Gaps) -> None:
    """Discard copies of snapshots that a newer one on m+1 drives stands for.

    They are left where a drive failed, or the power, between the new and the old. Those whose
    numbers are `unknown` are no such: they neither go nor stand for others.
    """
    copies: dict[bytes, frozenset[str]] = {}
    for drive_id in pool.drives:
        drive = fragments.drives.get(drive_id)
        names = frozenset() if drive is None else _known(copies_on(drive), unknown)
        if names:
            copies[drive_id] = names
    if len(set(copies.values())) < 2:
        return
    for newest in sorted(set(copies.values()), key=max, reverse=True):
        # A name says nothing: the power may have failed while the newer ones were written.
        whole = [
            drive_id
            for drive_id, names in copies.items()
            if newest <= names
            and _is_complete(fragments.drives[drive_id], fragments.filesystem, newest)
        ]
        if len(whole) > pool.m:
            for drive_id, names in copies.items():
                _discard(fragments.drives[drive_id], set(names - newest))
            return


def _known(names: Collection[str], unknown: Gaps) -> frozenset[str]:
    """Those whose numbers are not `unknown`."""
    return frozenset(name for name in names if copy_number(name) not in unknown)


def copy_number(name: str) -> int:
    """The number of the segment that a copy is of, by its name."""
    return int(name.rpartition("-")[2])


def keeps_snapshot(drive: Drive) -> bool:
    """Are there copies of snapshots on the drive?"""
    return bool(copies_on(drive))


def _by_room(
    fragments: FragmentStore, pool: Pool, refused: list[str]
) -> Iterator[tuple[bytes, Drive]]:
    """Drives of the pool that are there, those with most room first, one being drained last."""
    found: list[tuple[bool, int, int, bytes, Drive]] = []
    for index, drive_id in enumerate(pool.drives):
        drive = fragments.drives.get(drive_id)
        if drive is None:
            refused.append(f"{fragments.label(drive_id)}: missing")
            continue
        try:
            drained = pool.states.get(drive_id) is DriveState.DRAIN
            found.append((drained, -drive.capacity().free_bytes, index, drive_id, drive))
        except DriveError as error:
            refused.append(str(error))
    for _, _, _, drive_id, drive in sorted(found, key=lambda one: one[:3]):
        yield drive_id, drive


def copies_on(drive: Drive) -> set[str]:
    """Names of snapshot files on a drive; none if it cannot be listed."""
    try:
        return {name for name in drive.names() if _NAME.fullmatch(name)}
    except DriveError as error:
        logger.warning("%s", error)
        return set()


def _discard(drive: Drive, names: set[str]) -> None:
    for name in sorted(names):
        try:
            drive.discard(name)
        except DriveError as error:
            if error.errno != errno.ENOENT:
                logger.warning("a snapshot that is not needed stays: %s", error)


def _copy_all(store: SegmentStore, segments: Sequence[Segment], drive: Drive) -> None:
    """All files of a snapshot, on one drive. Raises DriveError, IntegrityError."""
    there = copies_on(drive)
    for segment in segments:
        if segment.name in there:
            # Begun by a run that was cut off.
            drive.discard(segment.name)
        failure: IntegrityError | None = None
        # Opened anew: those that the store keeps open are for the volume's thread.
        sources = store.open_copies(segment)
        try:
            for source in sources:
                try:
                    _copy(store, segment, source, drive)
                except IntegrityError as error:
                    failure = error
                    drive.discard(segment.name)
                    continue
                failure = None
                break
        finally:
            for source in sources:
                source.close()
        if failure is not None:
            raise failure


def _copy(store: SegmentStore, segment: Segment, source: DriveFile, drive: Drive) -> None:
    size = _size(store, segment)
    file = drive.claim(segment.name, size)
    try:
        while file.end < size:
            content = source.read(file.end, min(_CHUNK, size - file.end))
            if not content:
                raise IntegrityError(f"{segment.name}: ends at {file.end}, expected {size}")
            file.append([content])
        file.seal()
        file.evict()
    finally:
        file.close()
    if not _is_whole(store, segment, drive, size):
        raise IntegrityError(f"drive {drive.label}: {segment.name} does not verify")


def _size(store: SegmentStore, segment: Segment) -> int:
    """Bytes of a sealed segment, from the first of its drives that tells. Raises DriveError."""
    for index in segment.drives[:-1]:
        try:
            return store.drives[index].size(segment.name)
        except DriveError as error:
            logger.warning("%s", error)
    return store.drives[segment.drives[-1]].size(segment.name)


def _is_complete(drive: Drive, filesystem: bytes, names: Collection[str]) -> bool:
    """Are these files one snapshot, with its end, and does every frame of it verify?"""
    before = (0, 0, 0)
    last: walk.Found | None = None
    try:
        for name in sorted(names):
            number = int(name.rpartition("-")[2])
            file = drive.open(name)
            try:
                opened = walk.opening_of((file,), filesystem, number)
                if opened is None or opened[1][4:] != before:
                    return False
                last = opened[0]
                for found in walk.walk((file,), last.end, last.header.checksum, last.header):
                    if walk.payload_of((file,), found) is None:
                        return False
                    last = found
            finally:
                file.close()
            if last.end != drive.size(name):
                return False
            before = (number, last.end, last.header.checksum)
    except DriveError as error:
        logger.warning("%s", error)
        return False
    return last is not None and last.header.kind == Kind.COMMIT


def _is_whole(store: SegmentStore, segment: Segment, drive: Drive, size: int) -> bool:
    """Does every frame of the copy verify, up to its end?"""
    file = drive.open(segment.name)
    try:
        files = (file,)
        first = walk.opening_of(files, store.filesystem, segment.number)
        if first is None:
            return False
        reached = first[0].end
        for found in walk.walk(files, reached, first[0].header.checksum, first[0].header):
            if walk.payload_of(files, found) is None:
                return False
            reached = found.end
        return reached == size
    finally:
        file.close()
