"""`shmr inspect overview`: the state of a whole filesystem.

Reads the last checkpoint of the catalog and looks at the drives, takes no lock and changes nothing:
it works on a mounted filesystem too, and does not know what was written in the last seconds.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shmr.catalog.reading import Reading
from shmr.config import Config, PoolConfig, load
from shmr.drive.directory import DirectoryDrive
from shmr.errors import DriveError
from shmr.format.fragment import file_name
from shmr.format.records import Stream
from shmr.log.store import segment_name
from shmr.log.walk import opening_of
from shmr.service.looking.locate import mount_points
from shmr.service.looking.next_shift import NextShift, next_shift
from shmr.service.looking.survey import Survey, Surveyed
from shmr.service.looking.whereabouts import LOST, Finder, Part, Whereabouts, looking
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT
from shmr.volume.damage import PREFIX, damaged
from shmr.volume.drive_states import known_state, state_name

LIVENESS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The classes of segments end at these shares of live bytes."""


@dataclass(frozen=True, slots=True)
class DriveView:
    """A drive. `missing` says why it is not there; then it has no numbers.

    `used_bytes` are those of shmr's files, `dead_bytes` of them what cleaning would win. `state` is
    what it is meant for: prefer, normal, avoid, drain. `damaged_units` were found by reading,
    `bad_fragments` should be on it and are not, or are not as long as they should be.
    """

    path: str
    drive: str | None
    missing: str | None
    total_bytes: int
    free_bytes: int
    used_bytes: int
    dead_bytes: int
    state: str = "normal"
    damaged_units: int = 0
    bad_fragments: int = 0

    @property
    def errors(self) -> int:
        return self.damaged_units + self.bad_fragments


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool. Bytes are those of files, each once however many copies there are.

    `segments_by_liveness` counts its data segments by their share of live bytes, in the classes
    that `LIVENESS` ends: none, up to a quarter, to half, to three quarters, to all.
    """

    name: str
    priority: int
    scheme: str
    drives: tuple[DriveView, ...]
    files: int
    live_bytes: int
    dead_bytes: int
    segments_by_liveness: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RedundancyView:
    """`live_bytes` of a pool survive the loss of any `left` more drives; -1: they are lost."""

    pool: str
    left: int
    live_bytes: int


@dataclass(frozen=True, slots=True)
class LogView:
    """Segments of the journal, or of the snapshot before it, and when the first was begun."""

    segments: int
    size_bytes: int
    since_ns: int | None


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of a filesystem, as of a checkpoint (nanoseconds since 1970)."""

    filesystem: str
    mounts: tuple[str, ...]
    checkpoint_ns: int
    files: int
    pools: tuple[PoolView, ...]
    redundancy: tuple[RedundancyView, ...]
    journal: LogView
    snapshot: LogView
    next_shift: NextShift = field(default_factory=NextShift)


@dataclass(frozen=True, slots=True)
class _Use:
    """A data segment, and how many of its bytes live."""

    where: Whereabouts
    live_bytes: int

    @property
    def live_share(self) -> float:
        size = self.where.size_bytes
        return min(1.0, self.live_bytes / size) if size else 0.0

    @property
    def dead_bytes(self) -> int:
        return max(0, self.where.size_bytes - self.live_bytes)


def overview(
    config_path: str | os.PathLike[str], *, time_ns: Callable[[], int] = time.time_ns
) -> Overview:
    """The state of the filesystem. Reads every extent. Raises SetupError, IntegrityError."""
    config = load(config_path)
    with looking(config) as (reading, finder, survey):
        uses = _uses(reading, finder)
        held = _Held(reading, finder)
        dead = _dead_bytes(uses, survey)
        bad = _bad_fragments(uses, survey)
        journal, snapshot = _logs(config, reading, survey)
        pools = tuple(_pool(pool, reading, survey, uses, held, dead, bad) for pool in config.pools)
        lives = {pool.name: (pool.live_bytes, pool.dead_bytes) for pool in pools}
        return Overview(
            config.filesystem,
            mount_points(config),
            reading.written_ns,
            held.count,
            pools,
            tuple(
                RedundancyView(pool, left, size)
                for (pool, left), size in sorted(held.redundancy.items())
            ),
            journal,
            snapshot,
            next_shift(config, reading, finder, survey, lives, time_ns()),
        )


class _Held:
    """What all extents together say: files and bytes by pool, bytes by redundancy."""

    def __init__(self, reading: Reading, finder: Finder) -> None:
        self.count = 0
        """Files that have bytes anywhere."""
        self.files: Counter[str] = Counter()
        self.live: Counter[str] = Counter()
        self.redundancy: Counter[tuple[str, int]] = Counter()
        # There are millions of extents and thousands of segments: what is the same for all bytes
        # of a segment is asked once.
        known: dict[int, tuple[str, int]] = {}
        last, pools = 0, set[str]()
        for inode, extent in reading.all_extents():
            if inode != last:
                self._count(pools)
                last, pools = inode, set()
            address = extent.address
            if address is None:
                continue
            place = known.get(address.segment)
            if place is None:
                where = finder.find(address.segment)
                place = known[address.segment] = where.pool, where.left
            if place[1] == LOST:
                left = finder.find(address.segment).left_of(address, extent.length)
                place = place[0], left
            pools.add(place[0])
            self.redundancy[place] += extent.length
        self._count(pools)
        for (pool, _), size in self.redundancy.items():
            self.live[pool] += size

    def _count(self, pools: set[str]) -> None:
        self.count += bool(pools)
        self.files.update(pools)


def _uses(reading: Reading, finder: Finder) -> list[_Use]:
    live = reading.live()
    archived = [finder.find(number) for number, _ in reading.archived_segments()]
    numbers = {where.segment for where in archived}
    data = [finder.find(number) for number in finder.data_segments() if number not in numbers]
    return [_Use(where, live.get(where.segment, 0)) for where in (*data, *archived)]


def _pool(
    pool: PoolConfig,
    reading: Reading,
    survey: Survey,
    uses: Iterable[_Use],
    held: _Held,
    dead: Counter[str],
    bad: Counter[str],
) -> PoolView:
    of_pool = [use for use in uses if use.where.pool == pool.name]
    classes = Counter(bisect_left(LIVENESS, use.live_share) for use in of_pool)
    return PoolView(
        pool.name,
        pool.priority,
        str(pool.scheme),
        tuple(
            _drive(drive, reading, dead[drive.path], bad[drive.path])
            for drive in survey.drives
            if drive.pool == pool.name
        ),
        held.files[pool.name],
        held.live[pool.name],
        sum(use.dead_bytes for use in of_pool),
        tuple(classes[index] for index in range(len(LIVENESS))),
    )


def _drive(drive: Surveyed, reading: Reading, dead_bytes: int, bad: int) -> DriveView:
    known = drive.drive
    number = 1 if known is None else reading.state(state_name(known), 1)
    return DriveView(
        drive.path,
        None if drive.drive is None else drive.drive.hex(),
        drive.missing,
        drive.total_bytes,
        drive.free_bytes,
        drive.used_bytes,
        dead_bytes,
        known_state(number).name.lower(),
        sum(units for one, units in damaged(reading.states(PREFIX)).items() if one.drive == known),
        bad,
    )


def _bad_fragments(uses: Iterable[_Use], survey: Survey) -> Counter[str]:
    """By drive that is there: fragments that cannot be used, as far as looking tells."""
    there = {drive.path for drive in survey.drives if drive.missing is None}
    return Counter(
        part.drive
        for use in uses
        for part in use.where.parts
        if part.missing is not None and part.drive in there
    )


def _dead_bytes(uses: Iterable[_Use], survey: Survey) -> Counter[str]:
    """By drive: of each part the share that is dead of its segment."""
    files = {drive.path: drive.files for drive in survey.drives}
    dead: Counter[str] = Counter()
    for use in uses:
        for part in use.where.parts:
            size = files.get(part.drive, {}).get(_file_of(use.where, part), 0)
            dead[part.drive] += int(size * (1.0 - use.live_share))
    return dead


def _file_of(where: Whereabouts, part: Part) -> str:
    if part.generation is None:
        return segment_name(Stream.DATA, where.segment)
    return file_name(where.segment, part.index, part.generation)


def _logs(config: Config, reading: Reading, survey: Survey) -> tuple[LogView, LogView]:
    """The journal since the newest snapshot, and that snapshot."""
    workspace = [drive for drive in survey.drives if drive.pool == config.workspace.name]
    filesystem = reading.filesystem()
    newest = reading.state(SNAPSHOT)
    snapshot = (
        _log(workspace, filesystem, Stream.SNAPSHOT, newest) if newest else LogView(0, 0, None)
    )
    journal = _log(workspace, filesystem, Stream.JOURNAL, reading.state(JOURNAL_FLOOR))
    return journal, snapshot


def _log(drives: list[Surveyed], filesystem: bytes, stream: Stream, floor: int) -> LogView:
    """Segments of a stream from the number `floor` on."""
    prefix = segment_name(stream, 0).rstrip("0")
    sizes = {
        int(name.removeprefix(prefix)): size
        for drive in drives
        for name, size in drive.files.items()
        if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()
    }
    sizes = {number: size for number, size in sizes.items() if number >= floor}
    since_ns = None
    if sizes:
        first = min(sizes)
        having = (drive for drive in drives if segment_name(stream, first) in drive.files)
        since_ns = next((ns for d in having if (ns := _begun(d, filesystem, stream, first))), None)
    return LogView(len(sizes), sum(sizes.values()), since_ns)


def _begun(drive: Surveyed, filesystem: bytes, stream: Stream, number: int) -> int | None:
    """When the segment was begun, as its first frame says."""
    try:
        opened = DirectoryDrive(drive.path)
    except DriveError:
        return None
    try:
        file = opened.open(segment_name(stream, number))
        try:
            found = opening_of([file], filesystem, number)
        finally:
            file.close()
    except DriveError:
        return None
    finally:
        opened.close()
    return found[1].created_ns if found is not None else None
