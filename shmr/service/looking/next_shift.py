"""What the next shift would do, told from the last checkpoint: by the rules, as `shmr-compact`.

No lock, no change: also while the filesystem is mounted. What drives have free is what looking at
them tells, so at the edge of a `min_free` the shift itself may decide otherwise.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from shmr.archive.pool import Pool
from shmr.archive.victims import ALL_BYTES, hold_of, room_for, segment_uses, select
from shmr.catalog.reading import Reading
from shmr.codec.selftest import known_code
from shmr.config import Config, PoolConfig
from shmr.core.placement import DriveFacts
from shmr.format.rows import ROOT
from shmr.log.store import usable_bytes
from shmr.policy import Chooser, FileFacts, PoolFacts, needs_paths
from shmr.service.looking.survey import Survey
from shmr.service.looking.whereabouts import Finder
from shmr.service.moving.choosing import decided


@dataclass(frozen=True, slots=True)
class MoveView:
    """So many files, with `size_bytes` in pool `source`, that rules want in pool `target`."""

    source: str
    target: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CleaningView:
    """So many segments of a pool, whose `live_bytes` are written anew so that the rest goes."""

    pool: str
    segments: int
    live_bytes: int


@dataclass(frozen=True, slots=True)
class NextShift:
    """What would move, in the order of the pools' priorities, and what would then be cleaned."""

    moves: tuple[MoveView, ...] = ()
    cleanings: tuple[CleaningView, ...] = ()


def next_shift(
    config: Config,
    reading: Reading,
    finder: Finder,
    survey: Survey,
    held: Mapping[str, tuple[int, int]],
    now_ns: int,
) -> NextShift:
    """`held`: by name, what lives in a pool and what is dead there, in bytes of files.

    Raises IntegrityError.
    """
    rules = {pool.name: pool.rules for pool in config.pools}
    pools = [
        _pool_facts(config, pool, survey, *held.get(pool.name, (0, 0)))
        for pool in config.pools
        if any(drive.pool == pool.name and drive.missing is None for drive in survey.drives)
    ]
    files: Counter[tuple[str, str]] = Counter()
    sizes: Counter[tuple[str, str]] = Counter()
    gone: Counter[int] = Counter()
    every = _file_facts(reading, finder, paths=needs_paths(rules.values()))
    for candidate, (source, target, _) in decided(Chooser(pools, rules, now_ns), every):
        files[source, target] += 1
        sizes[source, target] += candidate.size_bytes
        for extent in reading.extents(candidate.inode):
            at = extent.address
            if at is not None and finder.find(at.segment).pool == source:
                gone[at.segment] += extent.length
    order = {pool.name: pool.priority for pool in config.pools}
    moves = (
        MoveView(source, target, files[source, target], sizes[source, target])
        for source, target in sorted(files, key=lambda pair: (order[pair[0]], order[pair[1]]))
    )
    return NextShift(tuple(moves), tuple(_cleanings(config, reading, survey, gone)))


class _Known:
    """Archived segments as the checkpoint has them."""

    def __init__(self, reading: Reading) -> None:
        self.live = reading.live()
        self.archived_segments = reading.archived_segments


def _cleanings(
    config: Config, reading: Reading, survey: Survey, gone: Mapping[int, int]
) -> Iterator[CleaningView]:
    """What is cleaned when what is `gone` from each segment has moved."""
    known = _Known(reading)
    ids = {name: pool for pool, name in survey.pools.items()}
    newest = 1 + max((number for number, _ in known.archived_segments()), default=0)
    for entry in config.pools[1:]:
        if entry.name not in ids:
            continue
        pool = _pool(config, entry, ids[entry.name], survey)
        found = select(
            segment_uses(known, pool, gone=gone),
            hold_of(pool),
            newest=newest,
            room_bytes=room_for(pool, _drive_facts(entry, survey)),
            wanted_bytes=ALL_BYTES,
            dead_share_min=entry.clean_at,
        )
        if found:
            lives = sum(known.live.get(number, 0) - gone.get(number, 0) for number in found)
            yield CleaningView(entry.name, len(found), lives)


def _pool(config: Config, entry: PoolConfig, pool: bytes, survey: Survey) -> Pool:
    return Pool(
        pool,
        entry.name,
        entry.scheme.k,
        entry.scheme.m,
        known_code(entry.scheme.code),
        entry.zone_size_bytes,
        tuple(fact.drive for fact in _drive_facts(entry, survey)),
        clean_at=entry.clean_at,
        same_device=config.same_device,
    )


def _drive_facts(entry: PoolConfig, survey: Survey) -> list[DriveFacts]:
    """What is free of the drives that are there, in whole zones."""
    return [
        DriveFacts(drive.drive, drive.path, 0, drive.free_bytes // entry.zone_size_bytes)
        for drive in survey.drives
        if drive.pool == entry.name and drive.drive is not None and drive.missing is None
    ]


def _pool_facts(
    config: Config, pool: PoolConfig, survey: Survey, live_bytes: int, dead_bytes: int
) -> PoolFacts:
    drives = [d for d in survey.drives if d.pool == pool.name and d.missing is None]
    totals, frees = [d.total_bytes for d in drives], [d.free_bytes for d in drives]
    if pool is config.workspace:
        copies = pool.scheme.copies
        total = usable_bytes(totals, copies)
        free = min(total, usable_bytes(frees, copies) + dead_bytes)
    else:
        k, width = pool.scheme.k, pool.scheme.k + pool.scheme.m
        total, free = sum(totals) * k // width, sum(frees) * k // width
    return PoolFacts(pool.name, pool.priority, total, free, live_bytes)


def _file_facts(reading: Reading, finder: Finder, *, paths: bool) -> Iterator[FileFacts]:
    """What rules ask of regular files that have bytes anywhere."""
    named = _paths(reading) if paths else {}
    pools: dict[int, str] = {}
    for number, extents in groupby(reading.all_extents(), key=lambda pair: pair[0]):
        held: Counter[str] = Counter()
        for _, extent in extents:
            if extent.address is not None:
                segment = extent.address.segment
                if segment not in pools:
                    pools[segment] = finder.find(segment).pool
                held[pools[segment]] += extent.length
        inode = reading.inode(number) if held else None
        if inode is not None and stat.S_ISREG(inode.mode):
            yield FileFacts(
                number,
                inode.size,
                inode.mtime_ns,
                inode.atime_ns,
                held,
                tuple(named.get(number, ())),
            )


def _paths(reading: Reading) -> dict[int, list[str]]:
    """The paths of everything that is no directory, from the top."""
    children: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for directory, name, number in reading.dentries():
        children[directory].append((name, number))
    found: dict[int, list[str]] = defaultdict(list)
    waiting = [(ROOT, b"")]
    while waiting:
        directory, before = waiting.pop()
        for name, number in children.pop(directory, []):
            path = before + name
            if number in children:
                waiting.append((number, path + b"/"))
            else:
                found[number].append(os.fsdecode(path))
    return found
