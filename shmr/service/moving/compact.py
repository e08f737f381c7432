"""`shmr-compact`: move what the rules call cold from pool to pool, while nothing is mounted.

The drives' locks tell whether the filesystem is in use. What an earlier run that was cut off left
is put in order first. Everything is moved a segment at a time, and may be stopped between two.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shmr.archive.account import Report
from shmr.archive.control import Stopped
from shmr.archive.forecast import Forecast, write_amplification
from shmr.archive.plan import Lot
from shmr.archive.pool import NoPlace, Pool
from shmr.archive.shift import Shift
from shmr.archive.sources import lots_of
from shmr.archive.victims import DEAD_SHARE_PRESSED, dead_bytes, segments_of
from shmr.config import Config, load
from shmr.errors import NoSpace, SetupError, ShmrError, Unfinished
from shmr.service.following import Follower, Stop, Watcher, nobody_stops
from shmr.service.moving.choosing import Move, Wish, chosen, is_source, pool_named
from shmr.service.moving.forecasting import Forecaster, Space
from shmr.service.offline import unmounted
from shmr.service.shifting import ShiftStatus
from shmr.units import format_size
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

READERS = 4
"""Threads that gather; each drive that is written to has one of its own."""


@dataclass(slots=True)
class Route:
    """Bytes of files that went from one of the pools `sources` to `target`."""

    sources: tuple[str, ...]
    target: str
    moved_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Compaction:
    """What was done, or with `dry_run` would be. Bytes are those of files.

    `routes` are what was asked for, or what the rules say; none where they call nothing cold.
    `unreadable` says of inodes why they stayed where they are, `failed` of drives, by their paths,
    how they failed: nothing more was written to them, others took it. `stopped`: somebody asked
    for it, and the rest is left for the next run. `space` is what would be free then, and
    `write_amplification` how often each byte that is moved to archive pools would be written there
    with what cleaning adds; parity is not counted.
    """

    dry_run: bool
    stopped: bool = False
    routes: tuple[Route, ...] = ()
    moved_bytes: int = 0
    waiting_bytes: int = 0
    segments: int = 0
    strays: int = 0
    retired: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    forecasts: tuple[Forecast, ...] = ()
    space: tuple[Space, ...] = ()
    write_amplification: float | None = None


def compact(
    config_path: str | os.PathLike[str],
    *,
    inodes: Sequence[int] = (),
    paths: Sequence[str] = (),
    source: str | None = None,
    target: str | None = None,
    everything: bool = False,
    flush: bool = False,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Compaction:
    """Move the files that are named, or `everything`, or what the rules say; back or forth.

    `paths` count from the top of the filesystem; a directory is all below it. `source` and `target`
    are names of pools. Files that are named move at once, also where they do not fill half a
    segment, as all does with `flush`. `limit_rate` is in bytes per second.

    Raises SetupError (mounted, no such pool), DriveError, NoSpace, IntegrityError before anything
    is moved, and Unfinished afterwards.
    """
    if "" in paths:
        raise SetupError("an empty path (an unset variable?); / is the whole filesystem")
    wish = Wish(tuple(inodes), tuple(paths), source, target, everything)
    flush = flush or wish.names_files
    config = load(config_path)
    with unmounted(config, read_only=dry_run) as (volume, pools):
        if dry_run:
            moves = chosen(config, volume, pools, wish, time.time_ns())
            forecaster = Forecaster(config, volume, pools, flush=flush)
            found = list(forecaster.moves(moves))
            if not wish.names_files:
                found += forecaster.cleanings()
            return Compaction(
                True,
                forecasts=tuple(found),
                space=forecaster.space(),
                write_amplification=write_amplification(found),
            )
        status = ShiftStatus(config, volume)
        follower = Follower(watcher, status)
        control = follower.control(stop, limit_rate)
        shift = Shift(volume, pools, control=control, readers=READERS)
        routes: list[Route] = []

        def told(*, stopped: bool = False) -> Compaction:
            return _told(shift.report, routes, stopped)

        try:
            while volume.reaper.step():
                control.check()
            run_inline(shift.recover())
            first = volume.context.reader.store.next_number
            moves = chosen(config, volume, pools, wish, time.time_ns())
            follower.plan(_size(volume, config, pools, moves))
            try:
                for move in moves:
                    routes.append(Route(tuple(sorted(move.sources)), move.target))
                    before = shift.report.moved_bytes
                    waiting = shift.report.waiting_bytes
                    try:
                        _move(shift, volume, config, pools, move, flush)
                    finally:
                        routes[-1].moved_bytes = shift.report.moved_bytes - before
                        follower.plan(waiting - shift.report.waiting_bytes)
                if not wish.names_files:
                    for pool in pools:
                        _clean(shift, pool, flush, first)
            except Stopped:
                raise
            except (ShmrError, OSError) as error:
                raise Unfinished(error, told()) from error
        except Stopped:
            return told(stopped=True)
        finally:
            status.ended()
        return told()


def _told(report: Report, routes: Sequence[Route], stopped: bool) -> Compaction:
    return Compaction(
        False,
        stopped,
        tuple(routes),
        report.moved_bytes,
        report.waiting_bytes,
        report.segments,
        report.strays,
        report.retired,
        dict(report.unreadable),
        dict(report.failed),
    )


def _move(
    shift: Shift, volume: Volume, config: Config, pools: list[Pool], move: Move, flush: bool
) -> None:
    def lots() -> Iterator[Lot]:
        return lots_of(volume.catalog, move.inodes, is_source(config, volume.catalog, pools, move))

    if move.target != config.workspace.name:
        _move_to_archive(shift, lots, pool_named(pools, move.target), flush)
        return
    try:
        run_inline(shift.to_workspace(lots()))
    except NoSpace as error:
        usage = volume.usage()
        room = format_size(usage.blocks_available * usage.block_size)
        raise SetupError(
            f"pool {move.target!r} is full: {room} can still be written there; what fitted was "
            "moved, make room and run it again"
        ) from error


def _move_to_archive(
    shift: Shift, lots: Callable[[], Iterator[Lot]], pool: Pool, flush: bool
) -> None:
    """Move what is left of these lots; where zones run out, dead bytes make room for the rest.

    As long as that helps: each time less is left to be moved, or less is dead in the pool, or what
    lives there is closer together than the time before. Raises as `Shift.to_archive` does.
    """
    catalog = shift.volume.catalog
    before: tuple[int, int, int] | None = None
    while True:
        try:
            run_inline(shift.to_archive(lots(), pool, flush=flush))
            return
        except NoPlace:
            left = sum(lot.length for lot in lots())
            numbers = segments_of(catalog, pool)
            dead = dead_bytes(catalog, numbers)
            # What lives is drawn together, also where no zone is won yet: some segments become
            # full, one has less in it.
            spread = -sum(catalog.live.get(number, 0) ** 2 for number in numbers)
            if before is not None and all(
                now >= then for now, then in zip((left, dead, spread), before, strict=True)
            ):
                raise
            before = left, dead, spread
            logger.info("pool %r: zones run out; segments with dead bytes are cleaned", pool.name)
            if not _make_room(shift, pool, left):
                raise


def _make_room(shift: Shift, pool: Pool, wanted_bytes: int) -> bool:
    """Clean what wins anything; half a segment only if nothing else is won. False: nothing went.

    What this writes is not written again by it, however little it holds.
    """
    retired = shift.report.retired
    newest = shift.volume.context.reader.store.next_number
    for flush in (False, True):
        try:
            run_inline(
                shift.clean(
                    pool,
                    flush=flush,
                    wanted_bytes=wanted_bytes,
                    dead_share_min=DEAD_SHARE_PRESSED,
                    before=newest,
                )
            )
        except NoPlace as error:
            logger.info("%s", error)
        if shift.report.retired != retired:
            return True
    return False


def _clean(shift: Shift, pool: Pool, flush: bool, before: int) -> None:
    try:
        run_inline(shift.clean(pool, flush=flush, before=before))
    except NoPlace as error:
        # Nobody asked for it, and nothing is worse than before.
        logger.warning("segments with many dead bytes stay: %s", error)


def _size(volume: Volume, config: Config, pools: list[Pool], moves: Iterable[Move]) -> int:
    """Bytes of files that all moves are about."""
    total = 0
    for move in moves:
        source = is_source(config, volume.catalog, pools, move)
        total += sum(lot.length for lot in lots_of(volume.catalog, move.inodes, source))
    return total
