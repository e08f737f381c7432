"""WRITE and SYNC: a shipment becomes the fragments of a segment, each appended to in sequence.

Stripe by stripe: the k data units are gathered from where their bytes are now, verified as every
read is; the m others are computed; each of the k+m goes to the end of its drive's file. Then table,
footer, seal. Reading, coding, hashing and writing overlap where there are threads, and the drives
of the workspace are told ahead what will be read; at most `STEPS_AHEAD` steps of stripes wait in
memory for the drives.

Nothing here changes the catalog. What was written and is not wanted after all is discarded.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from shmr.archive.control import Control, Phase
from shmr.archive.plan import Shipment
from shmr.archive.pool import Pool
from shmr.archive.workers import Workers, results
from shmr.codec import Codec
from shmr.core.stripe import Geometry
from shmr.drive.seam import Buffer, DriveFile
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import FragmentHeader, encode_footer, encode_table, unit_sum
from shmr.format.rows import Extent
from shmr.log.fragments import FragmentStore
from shmr.log.reader import LogReader, ReadPlan
from shmr.units import KIB, MIB
from shmr.volume.cleaner import Work

logger = logging.getLogger(__name__)

STEP_BYTES = 32 * MIB
"""So much of files is gathered at a time."""
RUN_UNITS = 4
"""So many units of a fragment are read and appended in one call: each costs a switch of threads."""
STEPS_AHEAD = 2
"""So many steps may wait for the drives."""
HASTEN_BYTES = 4 * MIB
PREFETCH_LEAST_BYTES = 64 * KIB
"""Of smaller pieces a drive is not told ahead: they lie near each other, or it is in vain."""


class Unreadable(ShmrError):
    """Bytes of a file that were to be moved cannot be read where they are."""

    def __init__(self, inode: int, cause: Exception) -> None:
        super().__init__(f"inode {inode} cannot be read: {cause}")
        self.inode = inode


class _Part(NamedTuple):
    """Bytes of one file in a run: where in the run, and the plan that reads them."""

    at: int
    plan: ReadPlan


class _Run(NamedTuple):
    """Some data units of one fragment that follow each other, to be gathered; and their sizes."""

    sizes: list[int]
    parts: list[_Part]

    def gather(self) -> list[memoryview]:
        """The units, verified; zeros where they have no bytes. Raises Unreadable."""
        whole = memoryview(self._whole())
        units, at = [], 0
        for size in self.sizes:
            units.append(whole[at : at + size])
            at += size
        return units

    def _whole(self) -> Buffer:
        size = sum(self.sizes)
        whole = bytearray()
        for at, plan in self.parts:
            try:
                content = plan.fetch()
            except (IntegrityError, DriveError) as error:
                raise Unreadable(plan.inode, error) from error
            if plan.size == size:
                return content
            whole = whole or bytearray(size)
            whole[at : at + plan.size] = content
        return whole or bytes(size)

    def release(self) -> None:
        for part in self.parts:
            part.plan.release()


class FragmentFile:
    """A fragment being written; used by its lane alone."""

    def __init__(self, drive: bytes, header: FragmentHeader, file: DriveFile) -> None:
        self.drive = drive
        self.header = header
        self.file = file
        self.sums: list[bytes] = []
        self._hastened = 0
        file.append([header.encode()])

    def append(self, *units: Buffer) -> None:
        for unit in units:
            self.sums.append(unit_sum(unit))
        self.file.append(units)
        end = self.file.end
        if end - self._hastened >= HASTEN_BYTES:
            self.file.write_back(self._hastened, end - self._hastened)
            self._hastened = end

    def finish(self, table: bytes) -> None:
        """Durable and complete: nothing is appended any more."""
        self.file.append([table, encode_footer(self.header, table, self.sums)])
        self.file.seal()
        self.file.evict()


class Writing:
    """One shipment on its way to its drives."""

    def __init__(
        self,
        reader: LogReader,
        pool: Pool,
        shipment: Shipment,
        number: int,
        drives: Sequence[bytes],
        *,
        created_ns: int,
        codec: Codec,
        workers: Workers,
        control: Control,
    ) -> None:
        self._reader = reader
        self._fragments: FragmentStore = reader.gather.fragments
        self._shipment = shipment
        self.number = number
        self.size_bytes = shipment.size_bytes
        self._codec = codec
        self._workers = workers
        self._control = control
        self._geometry = Geometry(pool.k, pool.m, shipment.data_bytes, shipment.unit_bytes)
        table = shipment.table()
        self.table = encode_table(table)
        self.archived = Archived(
            pool.id,
            pool.k,
            pool.m,
            pool.code,
            shipment.unit_bytes,
            shipment.data_bytes,
            shipment.used_bytes,
            len(table),
            created_ns,
            tuple(Placed(drive, 1) for drive in drives),
        )
        self.files: list[FragmentFile] = []
        self._claimed: set[int] = set()
        self._ats = [stowed.at for stowed in shipment.stowed]
        self._pending: deque[list[Future[Any]]] = deque()

    def run(self) -> Work[None]:
        """Write everything, sealed and synced; or nothing is left of it.

        Raises Unreadable, DriveError, IntegrityError, Stopped.
        """
        try:
            stripes = self._geometry.stripes
            step = max(1, STEP_BYTES // (self._geometry.k * self._geometry.unit_bytes))
            self._read_ahead(range(min(stripes, step)))
            yield self._claim
            for first in range(0, stripes, step):
                self._control.check()
                some = range(first, min(stripes, first + step))
                self._read_ahead(range(some.stop, min(stripes, some.stop + step)))
                size = yield from self._stripes(some)
                self._control.advance(Phase.WRITE, size)
            yield self._finish
        except Exception:
            yield self._settle
            yield self.discard
            raise
        finally:
            for fragment in self.files:
                fragment.file.close()

    def _claim(self) -> None:
        """A file on each drive, with its header. Raises DriveError; what was made is in `files`."""
        archived = self.archived
        headers = [
            archived.header(self._fragments.filesystem, self.number, index)
            for index in range(self._geometry.width)
        ]

        def begin(index: int) -> None:
            header, (drive, generation) = headers[index], archived.fragments[index]
            file = self._fragments.claim(drive, self.number, index, generation, header.length)
            self._claimed.add(index)
            try:
                made.append(FragmentFile(drive, header, file))
            except BaseException:
                file.close()
                raise

        made: list[FragmentFile] = []
        try:
            lanes = self._workers.lanes
            calls = [lanes[index].submit(partial(begin, index)) for index in range(len(headers))]
            results(calls)
        finally:
            self.files = sorted(made, key=lambda fragment: fragment.header.fragment)

    def _stripes(self, some: range) -> Work[int]:
        """Gather, encode and append these stripes; returns the bytes of files in them."""
        runs: list[list[_Run]] = []
        try:
            for first in range(some.start, some.stop, RUN_UNITS):
                wide: list[_Run] = []
                runs.append(wide)
                for fragment in range(self._geometry.k):
                    wide.append(
                        self._plan(fragment, range(first, min(first + RUN_UNITS, some.stop)))
                    )
            size = sum(p.plan.size for wide in runs for run in wide for p in run.parts)
            yield lambda: self._transfer(runs, size)
        finally:
            for wide in runs:
                for run in wide:
                    run.release()
        return size

    def _read_ahead(self, some: range) -> None:
        """Tell the drives of the workspace that these stripes are wanted next."""
        if not some:
            return
        store = self._reader.store
        for fragment in range(self._geometry.k):
            start = self._geometry.unit_address(fragment, some.start)
            last = self._geometry.unit_address(fragment, some.stop - 1)
            end = last + self._geometry.unit_size(some.stop - 1)
            index = max(0, bisect_right(self._ats, start) - 1)
            for at, lot in self._shipment.stowed[index:]:
                if at >= end:
                    break
                low, high = max(start, at), min(end, at + lot.length)
                if high - low >= PREFETCH_LEAST_BYTES:
                    source = lot.source
                    try:
                        files = store.copies_of(source.segment)
                    except DriveError:
                        return  # who reads it will say so
                    for file in files[:1]:
                        file.prefetch(source.frame + source.skip + low - at, high - low)

    def _plan(self, fragment: int, stripes: range) -> _Run:
        """How to gather the data units of a fragment in these stripes."""
        sizes = [self._geometry.unit_size(stripe) for stripe in stripes]
        start = self._geometry.unit_address(fragment, stripes.start)
        end = start + sum(sizes)
        runs: list[tuple[int, int, list[Extent]]] = []
        index = max(0, bisect_right(self._ats, start) - 1)
        reached = -1
        for at, lot in self._shipment.stowed[index:]:
            if at >= end:
                break
            low, high = max(start, at), min(end, at + lot.length)
            if low >= high:
                continue
            source = lot.source._replace(skip=lot.source.skip + low - at)
            extent = Extent(lot.offset + low - at, high - low, source)
            if low == reached and runs[-1][1] == lot.inode:
                runs[-1][2].append(extent)
            else:
                runs.append((low - start, lot.inode, [extent]))
            reached = high
        parts: list[_Part] = []
        try:
            for position, inode, extents in runs:
                parts.append(_Part(position, self._reader.plan(inode, extents)))
        except BaseException:
            _Run(sizes, parts).release()
            raise
        return _Run(sizes, parts)

    def _transfer(self, runs: list[list[_Run]], size: int) -> None:
        """In a job: read all of the step, and hand each run to the drives when it is whole."""
        self._control.pace(size)
        readers = self._workers.readers
        coming = [[readers.submit(run.gather) for run in wide] for wide in runs]
        appended: list[Future[Any]] = []
        self._pending.append(appended)
        try:
            for futures in coming:
                units: list[list[Buffer]] = results(futures)
                parity = [self._codec.encode(stripe) for stripe in zip(*units, strict=True)]
                units += map(list, zip(*parity, strict=True))
                for fragment, lane, mine in zip(
                    self.files, self._workers.lanes, units, strict=True
                ):
                    appended.append(lane.submit(partial(fragment.append, *mine)))
        finally:
            # No plan is released while somebody reads by it.
            for futures in coming:
                _ended(futures)
        while len(self._pending) > STEPS_AHEAD:
            results(self._pending.popleft())

    def _settle(self) -> None:
        """Wait until no lane has anything left to do."""
        while self._pending:
            _ended(self._pending.popleft())

    def _finish(self) -> None:
        """SYNC: what is under way, then table, footer and seal of every fragment."""
        while self._pending:
            results(self._pending.popleft())
        lanes = self._workers.lanes
        results(
            lane.submit(partial(fragment.finish, self.table))
            for fragment, lane in zip(self.files, lanes, strict=True)
        )

    def discard(self) -> None:
        """Remove what was written. What a drive refuses to discard stays as a stray."""
        for index in sorted(self._claimed):
            drive, generation = self.archived.fragments[index]
            try:
                self._fragments.discard(drive, self.number, index, generation)
            except DriveError as error:
                logger.warning("segment %d, fragment %d is a stray: %s", self.number, index, error)


def _ended(futures: Sequence[Future[Any]]) -> None:
    """Wait for all, whatever became of them."""
    for future in futures:
        future.exception()
