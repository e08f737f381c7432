"""The log being written: one journal, one data segment for writers, one for the cleaner.

What was appended is durable once a `SyncJob` that was begun after it has ended. A failed append
or sync is never retried: the log is `failed` from then on and refuses everything (a failed fsync
may have dropped the very pages it reports on, see "Can Applications Recover from fsync
Failures?", Rebello et al., 2020).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from shmr.errors import DriveError, NoSpace
from shmr.format.frame import GRANULE, Kind
from shmr.format.records import Commit, DataEnd, Stream
from shmr.format.rows import Address, Extent, Place
from shmr.log.segment import SegmentWriter
from shmr.log.store import Claim, SegmentStore
from shmr.units import KIB, MIB

T = TypeVar("T")
Parallel = Callable[[Sequence[Callable[[], None]]], None]

JOURNAL_MIN_BYTES = 256 * KIB
FLUSH_BYTES = 32 * MIB
"""Unsynced data beyond this is synced in the background, so that an fsync never waits for a
gigabyte (measured: 17 ms for 32 MiB, 553 ms for 1 GiB)."""
HASTEN_BYTES = 4 * MIB
"""After each so many bytes the drive is asked to begin writing them: it works while more come, and
does not rest between two syncs."""


def in_sequence(calls: Sequence[Callable[[], None]]) -> None:
    """Run `calls` one after the other: the `Parallel` of tools and simulations."""
    for call in calls:
        call()


class SyncJob:
    """The syncs that make everything appended so far durable.

    Either `run` does them, in any thread; or somebody does the `calls`, in any threads and order,
    and says with `ended` how they went.
    """

    def __init__(self, writers: Sequence[SegmentWriter], sequence: int, parallel: Parallel) -> None:
        self.reached = tuple((writer, writer.end, writer.chain) for writer in writers)
        self.sequence = sequence
        self.error: DriveError | None = DriveError("log", "sync", OSError(errno.EIO, "not done"))
        """Why nothing is known durable; None when all calls have ended well."""
        self._parallel = parallel

    def calls(self) -> list[Callable[[], None]]:
        return [writer.sync for writer, _, _ in self.reached]

    def ended(self, failure: Exception | None) -> None:
        """All calls have ended; `failure` is what one of them raised. Raises what is no DriveError:
        it is as good as a failed sync, nothing is known durable, and it is a mistake of ours.
        """
        if failure is None or isinstance(failure, DriveError):
            self.error = failure
            return
        self.error = DriveError("log", "sync", OSError(errno.EIO, repr(failure)))
        raise failure

    def run(self) -> None:
        failure: Exception | None = None
        try:
            self._parallel(self.calls())
        except Exception as error:
            failure = error
        self.ended(failure)


class Log:
    """Appends to journal and data segments of a `SegmentStore`."""

    def __init__(
        self,
        store: SegmentStore,
        *,
        clock: Callable[[], int],
        parallel: Parallel = in_sequence,
        journal_sequence: int = 0,
        previous: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self.store = store
        self.failed: DriveError | None = None
        self.journal_bytes = max(store.segment_bytes // 4, JOURNAL_MIN_BYTES)
        self.durable_seq = journal_sequence
        self.background: Callable[[Callable[[], None]], None] | None = None
        """Runs what nobody waits for in some thread; without one it is left undone."""
        self.journal_size_bytes = 0
        """Bytes appended to the journal since this log was opened."""
        self._clock = clock
        self._parallel = parallel
        self._spares: dict[int, Claim] = {}
        self._touched: dict[int, SegmentWriter] = {}
        self._unsynced: dict[int, SegmentWriter] = {}
        self._jobs = 0
        self._to_close: list[SegmentWriter] = []
        self._data: SegmentWriter | None = None
        self._moved: SegmentWriter | None = None
        claim = self._claim(Stream.JOURNAL, 0)
        self._journal = self._guard(
            lambda: store.begin(claim, sequence=journal_sequence, previous=previous)
        )
        self._unsynced[self._journal.number] = self._journal

    # -- space ------------------------------------------------------------------------------

    def size_of(self, stream: int) -> int:
        return self.journal_bytes if stream == Stream.JOURNAL else self.store.segment_bytes

    def free_bytes(self) -> int:
        """Bytes that may still be claimed, and those claimed ahead."""
        spare = self._spares.get(Stream.DATA)
        return self.store.free_bytes() + (spare.size_bytes if spare else 0)

    def data_room(self) -> int:
        """Bytes that the open data segment still takes."""
        return self._data.room() and self._data.size_bytes - self._data.end if self._data else 0

    def lacks_spare(self, stream: int) -> bool:
        return stream not in self._spares

    def add_spare(self, claim: Claim) -> None:
        """Keep a segment that a worker claimed ahead, for the next roll."""
        if claim.segment.stream in self._spares:
            self.store.empty(claim)
        else:
            self._spares[claim.segment.stream] = claim

    def give_back_spares(self) -> None:
        """Let go of the space that was claimed ahead, where it is short. Raises DriveError."""
        while self._spares:
            self.store.empty(self._spares.popitem()[1])

    def _claim(self, stream: int, reserve_bytes: int) -> Claim:
        spare = self._spares.get(stream)
        if spare is not None:
            if self.store.free_bytes() < reserve_bytes:
                raise NoSpace()
            return self._spares.pop(stream)
        size = self.size_of(stream)
        if self.store.free_bytes() - size < reserve_bytes:
            raise NoSpace()
        where = self.store.place(size)
        return self.store.create(stream, self.store.number(), size, where)

    # -- appending --------------------------------------------------------------------------

    def append_data(
        self,
        inode: int,
        offset: int,
        payload: bytes | memoryview,
        *,
        reserve_bytes: int = 0,
        moving: bool = False,
    ) -> list[Extent]:
        """Append file bytes; returns the extents that hold them, in order.

        `reserve_bytes` must stay free after a claim, else NoSpace and nothing counts. `moving`
        writes to the cleaner's own segment, so that cold data stays with cold. Raises DriveError.
        """
        writer = self._moved if moving else self._data
        if writer is not None and len(payload) <= writer.room():
            return [self._append_one(writer, inode, offset, payload)]
        extents = []
        left = memoryview(payload)
        while left:
            writer = self._data_writer(min(len(left), GRANULE), reserve_bytes, moving)
            part = left[: writer.room()]
            extents.append(self._append_one(writer, inode, offset, part))
            offset += len(part)
            left = left[len(part) :]
        return extents

    def _append_one(
        self, writer: SegmentWriter, inode: int, offset: int, part: bytes | memoryview
    ) -> Extent:
        if self.failed:
            raise self.failed
        try:
            at = writer.append(Kind.DATA, inode, offset, part)
        except DriveError as error:
            self.failed = error
            raise
        self._touched[writer.number] = writer
        self._unsynced[writer.number] = writer
        if writer.end - writer.hastened >= HASTEN_BYTES and self.background is not None:
            self.background(writer.hasten())
        length = len(part)
        return Extent(offset, length, Address(writer.number, at, length, 0))

    def _data_writer(self, least: int, reserve_bytes: int, moving: bool) -> SegmentWriter:
        writer = self._moved if moving else self._data
        if writer is not None and writer.room() >= least:
            return writer
        claim = self._claim(Stream.DATA, reserve_bytes)
        new = self._guard(lambda: self.store.begin(claim))
        if writer is not None:
            self._finish(writer)
        if moving:
            self._moved = new
        else:
            self._data = new
        return new

    def append_commit(self, payloads: Iterable[bytes]) -> None:
        """Append META payloads and the COMMIT that makes them one batch.

        Raises NoSpace before the COMMIT is there (the batch may be appended again: its rows are
        absolute), or DriveError.
        """
        frames = [(Kind.META, payload) for payload in payloads]
        ends = tuple(
            DataEnd(w.number, w.end, w.chain, w.synced, w.synced_chain)
            for w in self._touched.values()
        )
        commit = Commit(self.durable_seq, self.store.next_number, self._clock(), ends)
        frames.append((Kind.COMMIT, commit.encode()))
        while frames:
            count = self._journal.fitting([len(payload) for _, payload in frames])
            if count:
                self._append_journal(frames[:count])
                del frames[:count]
            else:
                self._roll_journal()
        self._touched.clear()

    def _append_journal(self, frames: Sequence[tuple[Kind, bytes]]) -> None:
        if self.failed:
            raise self.failed
        journal = self._journal
        before = journal.end
        self._guard(lambda: journal.append_journal(frames))
        self.journal_size_bytes += journal.end - before
        self._unsynced[journal.number] = journal

    def _roll_journal(self) -> None:
        """Go on in a new journal segment."""
        if self.failed:
            raise self.failed
        old = self._journal
        claim = self._claim(Stream.JOURNAL, 0)
        previous = (old.number, old.end, old.chain)
        self._journal = self._guard(
            lambda: self.store.begin(claim, sequence=old.sequence, previous=previous)
        )
        self._unsynced[self._journal.number] = self._journal
        self._finish(old)

    def _finish(self, writer: SegmentWriter) -> None:
        """No more frames: the next sync seals it."""
        writer.full = True
        self._unsynced[writer.number] = writer

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except DriveError as error:
            self.failed = error
            raise

    # -- durability -------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """The journal's end."""
        journal = self._journal
        return Place(journal.number, journal.last, journal.end, journal.sequence, journal.chain)

    def is_open(self, number: int) -> bool:
        """Is the segment still being written, or not known durable?"""
        current = (self._data, self._moved, self._journal)
        return number in self._unsynced or any(w and w.number == number for w in current)

    def is_durable(self) -> bool:
        """Is everything that was ever appended known durable?"""
        return not self._unsynced and self.failed is None

    def unsynced_bytes(self) -> int:
        return sum(writer.end - writer.synced for writer in self._unsynced.values())

    def begin_sync(self) -> SyncJob | None:
        """The job that makes everything appended so far durable; None if it is already."""
        if self.failed:
            raise self.failed
        if not self._unsynced:
            return None
        self._jobs += 1
        return SyncJob(tuple(self._unsynced.values()), self._journal.sequence, self._parallel)

    def begin_flush(self) -> SyncJob | None:
        """A job that syncs the open data segments early if much is unsynced, else None."""
        if self.failed:
            return None
        writers = [
            w
            for w in (self._data, self._moved)
            if w is not None and w.end - w.synced >= FLUSH_BYTES
        ]
        if not writers:
            return None
        self._jobs += 1
        return SyncJob(writers, self.durable_seq, self._parallel)

    def end_sync(self, job: SyncJob) -> None:
        """Take the job back on the volume's thread. Raises DriveError if it failed."""
        self._jobs -= 1
        if job.error is not None:
            self.failed = self.failed or job.error
            raise job.error
        if self.failed:
            raise self.failed
        for writer, end, chain in job.reached:
            if end > writer.synced:
                writer.synced, writer.synced_chain = end, chain
            if writer.synced == writer.end and self._unsynced.get(writer.number) is writer:
                del self._unsynced[writer.number]
                if writer.full:
                    self._to_close.append(writer)
        if not self._jobs:
            # Another job may still be syncing the same file.
            for writer in self._to_close:
                writer.close()
            self._to_close.clear()
        self.durable_seq = max(self.durable_seq, job.sequence)

    def seal(self) -> None:
        """At a clean end, with everything durable: give back what open segments did not use.

        What was claimed ahead goes: a COMMIT says by now that its number was taken. Raises
        DriveError.
        """
        while self._spares:
            self.store.abandon(self._spares.popitem()[1])
        for writer in (self._journal, self._data, self._moved):
            if writer is not None and not writer.full:
                self._finish(writer)
        job = self.begin_sync()
        if job is not None:
            job.run()
            self.end_sync(job)

    def close(self) -> None:
        """Let go of the files, as a crash would. What is not durable stays so."""
        for claim in self._spares.values():
            for file in claim.files:
                file.close()
        self._spares.clear()
        writers = {*self._unsynced.values(), *self._to_close}
        for writer in {*writers, self._journal, self._data, self._moved}:
            if writer is not None:
                writer.close()
