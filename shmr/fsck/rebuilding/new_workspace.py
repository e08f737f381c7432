"""A new workspace for a filesystem whose old one is gone, and the log that begins on it.

    BEGIN    every drive gets a superblock with the feature bit UNFINISHED: no mount takes it for
             one of a filesystem, and whoever finds it knows that nothing else on it counts
    WRITE    a journal that begins, and a snapshot at its beginning with all rows
    PROVE    the catalog is recovered from these two alone, and has the same rows
    FINISH   superblocks of the next generation, without that bit

Each is durable before the next begins. Cut off before FINISH it is begun again; behind the first
superblock of FINISH the others are written. No archive drive is touched.

Numbers of segments and of journal frames go on far above all that is known of the old workspace,
and with the time: what comes back of it, or of a new one that was lost too, must not meet its like.
The numbers that are passed over are remembered (`shmr.volume.gaps`): what bears one of them, and is
named by no row, is left alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from heapq import merge
from itertools import zip_longest
from pathlib import Path

from shmr.catalog import store as catalog_store
from shmr.catalog.catalog import Catalog, checkpoint_of
from shmr.catalog.reading import open_reading
from shmr.core.reserve import segment_size
from shmr.drive.seam import Drive
from shmr.errors import IntegrityError, SetupError
from shmr.format import superblock
from shmr.format.records import encode_meta
from shmr.format.rows import Row, Table, encode_number
from shmr.format.superblock import Superblock
from shmr.fsck.salvaging.salvage import Salvaged
from shmr.log import snapshot
from shmr.log.log import Log
from shmr.log.store import SegmentStore
from shmr.units import NS_PER_S
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT
from shmr.volume.context import ROWS_MAX
from shmr.volume.gaps import gap_rows, without
from shmr.volume.membership import read_superblock, write_superblock
from shmr.volume.recover import recover

SEQUENCE_AHEAD = 1 << 32
"""Frames of the journal that are passed over."""
SEGMENTS_PER_S = 64
"""No workspace takes segments faster than this for long: so one that was begun later has higher
numbers than any before."""
NUMBER_MAX = 10**12 - (1 << 32)
"""Names of segments have twelve digits."""
_SEGMENT = re.compile(r"(journal|data|snapshot)-\d{12,}")
_SUPERBLOCK = re.compile(r"superblock-\d{6}")
_HARMLESS = {"lost+found", "lock"}
_OF_THE_LOG = (SNAPSHOT, JOURNAL_FLOOR)
"""State rows that say where the old log was."""


class Stage(Enum):
    """What the workspace drives of a configuration are now."""

    EMPTY = auto()
    BEGUN = auto()
    """A new workspace that was never completed: nothing on it counts."""
    PROVED = auto()
    """A new workspace that is complete but for some superblocks."""
    THERE = auto()
    """The workspace of a filesystem."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the new workspace is to be: `filesystem` and both names are as the archive drives have
    them, `segment_bytes` is as configured."""

    filesystem: bytes
    filesystem_name: bytes
    pool_name: bytes
    copies: int
    segment_bytes: int | None = None


def stage_of(drives: Sequence[Drive], besides: Collection[str] = ()) -> Stage:
    """How far a new workspace on these drives is.

    Files with the names `besides` are no reason to take a drive for one that is not empty. Raises
    SetupError where it is neither new nor whole, DriveError.
    """
    blocks = [_block(drive) for drive in drives]
    unfinished = [b is not None and bool(b.incompat & superblock.UNFINISHED) for b in blocks]
    pairs = list(zip(drives, blocks, strict=True))
    whole = [drive.label for drive, b in pairs if b is not None and not _is_unfinished(b)]
    for drive, block in pairs:
        strangers = set() if block is not None else set(drive.names()) - _HARMLESS - set(besides)
        strangers = {name for name in strangers if not _SUPERBLOCK.fullmatch(name)}
        if strangers and not whole:
            raise SetupError(
                f"{drive.label}: not empty (found {min(strangers)!r}), and no superblock says "
                "whose it is; a new workspace is only made on empty directories. Do not empty it "
                "before its files are out: `shmr-fsck decode --drives PATH...` reads it as it is"
            )
    if len(whole) == len(drives):
        return Stage.THERE
    if whole and not any(unfinished):
        bare = [drive.label for drive, block in pairs if block is None]
        raise SetupError(
            f"{', '.join(bare)}: no superblock, but {whole[0]} is a drive of this workspace; with "
            "a mirror run `shmr-fsck rebuild-drive` for the lost one, or mount with --degraded; "
            "with a single copy what was on it is lost: empty the other directories too, to begin "
            "anew from the archive"
        )
    if whole:
        if len({(block.pool, block.members) for block in blocks if block is not None}) > 1:
            raise SetupError(
                f"{', '.join(drive.label for drive in drives)}: these are of several workspaces; "
                "take those that are not of this one out of the config"
            )
        return Stage.PROVED
    return Stage.BEGUN if any(unfinished) else Stage.EMPTY


def _is_unfinished(block: Superblock) -> bool:
    return bool(block.incompat & superblock.UNFINISHED)


def _block(drive: Drive) -> Superblock | None:
    """The superblock; None also where one alone is there and does not verify: a beginning."""
    try:
        return read_superblock(drive)
    except SetupError:
        if any(_SEGMENT.fullmatch(name) for name in drive.names()):
            raise
        return None


class NewWorkspace:
    """Makes one on `drives`, step by step. `clock` gives nanoseconds since 1970."""

    def __init__(
        self,
        layout: Layout,
        drives: Sequence[Drive],
        *,
        clock: Callable[[], int],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._layout = layout
        self._drives = tuple(drives)
        self._clock = clock
        self._random_bytes = random_bytes

    def make(self, salvaged: Salvaged, catalog: Path) -> None:
        """All of it, with the rows that were salvaged; the new catalog is at `catalog`.

        Raises SetupError, DriveError, NoSpace (the drives are too small), IntegrityError.
        """
        if salvaged.next_segment > NUMBER_MAX:
            raise SetupError(
                f"segment {salvaged.next_segment - 1} is named on the archive drives: no higher "
                "numbers are left for a new workspace"
            )
        self.begin()
        passed = self._write(salvaged)
        self._prove(salvaged, passed, catalog)
        self.finish()

    def begin(self) -> None:
        """The drives are of a new workspace that is not complete, and nothing else is on them."""
        for drive in self._drives:
            for name in drive.names():
                if _SEGMENT.fullmatch(name):
                    drive.discard(name)
        layout, pool = self._layout, self._random_bytes(16)
        ids = tuple(self._random_bytes(16) for _ in self._drives)
        blocks = [_block(drive) for drive in self._drives]
        generation = 1 + max((b.generation for b in blocks if b is not None), default=0)
        for drive, drive_id in zip(self._drives, ids, strict=True):
            block = Superblock(
                layout.filesystem,
                layout.filesystem_name,
                pool,
                layout.pool_name,
                drive_id,
                generation,
                superblock.COMPAT,
                superblock.RO_COMPAT,
                superblock.INCOMPAT | superblock.UNFINISHED,
                self._clock(),
                ids,
            )
            write_superblock(drive, block)

    def finish(self) -> None:
        """The workspace is complete. May be said again."""
        for drive in self._drives:
            block = read_superblock(drive)
            assert block is not None, "the beginning wrote one"
            if _is_unfinished(block):
                done = block._replace(
                    generation=block.generation + 1,
                    incompat=block.incompat & ~superblock.UNFINISHED,
                )
                write_superblock(drive, done)

    def _store(self) -> SegmentStore:
        layout = self._layout
        copies = min(layout.copies, len(self._drives))
        store = SegmentStore(layout.filesystem, self._drives, copies, 0, self._clock)
        store.segment_bytes = segment_size(store.total_bytes(), layout.segment_bytes)
        return store

    def _write(self, salvaged: Salvaged) -> list[Row]:
        """Returns the rows of numbers that are passed over."""
        store, now = self._store(), self._clock()
        store.next_number = max(salvaged.next_segment, now // NS_PER_S * SEGMENTS_PER_S)
        sequence = max(salvaged.place.sequence + SEQUENCE_AHEAD, now)
        passed = _passed(salvaged, store.next_number)
        log = Log(store, clock=self._clock, journal_sequence=sequence)
        try:
            with checkpoint_of(salvaged.catalog) as (_, rows):
                size = log.journal_bytes
                # Set aside generously, before the COMMIT that says that they are taken.
                count = 4 + 2 * _size(salvaged.catalog) // size
                numbers = iter(range(store.next_number, store.next_number + count))
                store.next_number += count
                _commit(log, [])
                made = snapshot.write(store, _truth(rows), log.place, numbers, size)
            state = {
                SNAPSHOT: made.segments[0].number,
                JOURNAL_FLOOR: made.place.segment,
            }
            rows_of_log = [Row(Table.STATE, name, encode_number(n)) for name, n in state.items()]
            rows_of_log += passed
            steps = range(0, len(rows_of_log), ROWS_MAX)
            _commit(log, [encode_meta((), rows_of_log[at : at + ROWS_MAX]) for at in steps])
            # One more claims that one durable: no bit of it can look torn then.
            _commit(log, [])
            log.seal()
        finally:
            log.close()
            store.close()
        return passed

    def _prove(self, salvaged: Salvaged, passed: Sequence[Row], catalog: Path) -> None:
        """The catalog is what the new log says, and that is what was salvaged and `passed`."""
        store = self._store()
        if catalog.exists():
            catalog_store.set_aside(catalog)
        try:
            store.scan()
            recovered = recover(store, catalog, read_only=True)
            made = recovered.catalog
            try:
                if recovered.corrupt is not None or recovered.place is None:
                    raise IntegrityError(f"the new log cannot be read: {recovered.corrupt}")
                made.checkpoint(self._layout.filesystem, recovered.place, store.next_number)
                _compare(salvaged.catalog, passed, made)
            except BaseException:
                made.close()
                shutil.rmtree(catalog, ignore_errors=True)
                raise
            made.close(clean=True)
        finally:
            store.close()


def _commit(log: Log, payloads: Sequence[bytes]) -> None:
    """A batch, durable when this returns. Raises NoSpace, DriveError."""
    log.append_commit(payloads)
    job = log.begin_sync()
    if job is not None:
        job.run()
        log.end_sync(job)


def _size(catalog: Path) -> int:
    return (catalog / catalog_store.DATA).stat().st_size


def _passed(salvaged: Salvaged, first: int) -> list[Row]:
    """Rows of the numbers below `first` that are newer than what was salvaged, and that no row
    names. Raises IntegrityError."""
    with open_reading(salvaged.catalog, live=False) as reading:
        named = (number for number, _ in reading.archived_segments())
        return gap_rows(without(salvaged.known_to + 1, first, named))


def _truth(rows: Iterator[Row]) -> Iterator[Row]:
    """What a snapshot of the new log holds: all rows but those about the old log."""
    for row in rows:
        if row.table != Table.STATE or row.key not in _OF_THE_LOG:
            yield row


def _compare(salvaged: Path, passed: Sequence[Row], made: Catalog) -> None:
    """Raises IntegrityError unless `made` has the rows of both others, and no more."""
    with checkpoint_of(salvaged) as (_, wanted), made.last_checkpoint() as (_, found):
        both = merge(_truth(wanted), sorted(passed), key=lambda row: row[:2])
        for one, other in zip_longest(both, _truth(found)):
            if one != other:
                raise IntegrityError("the new log gives back other rows than were written to it")
