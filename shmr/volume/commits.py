"""Commits: making everything that happened so far durable, for all who wait at once.

One commit is in flight at a time; who comes meanwhile shares the next. The syncs run wherever
the caller likes (`CommitJob.run`), the rest on the volume's thread.
"""

from __future__ import annotations

import errno

from shmr.errors import DriveError, Refused
from shmr.log.log import SyncJob
from shmr.volume.context import Context


class Commits:
    """Begins and ends commits."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.in_flight: SyncJob | None = None

    def begin(self) -> SyncJob | None:
        """Append the batch and hand out the syncs as a job; None if all is durable already.

        Raises Refused(EIO) when the log has failed, NoSpace when the batch finds no room (it
        stays), DriveError.
        """
        assert self.in_flight is None, "one commit at a time"
        context = self._context
        if context.read_only is not None:
            # What a failed sync lost is in no batch any more, and what was cut is not yet synced:
            # nothing durable may be claimed.
            if context.catalog.batch or (context.has_log and not context.log.is_durable()):
                raise Refused(errno.EIO)
            return None
        if context.catalog.batch:
            context.cut()
        self.in_flight = context.log.begin_sync()
        return self.in_flight

    def end(self, job: SyncJob) -> None:
        """Take the job back. Raises DriveError, and poisons the volume, if a sync failed."""
        self.in_flight = None
        self._end(job)

    def begin_flush(self) -> SyncJob | None:
        """A job that syncs much unsynced data early, or None. No commit: promises nothing."""
        return None if self._context.read_only else self._context.log.begin_flush()

    def end_flush(self, job: SyncJob) -> None:
        self._end(job)

    def _end(self, job: SyncJob) -> None:
        try:
            self._context.log.end_sync(job)
        except DriveError as error:
            self._context.poison(error)
            raise

    def now(self) -> None:
        """A whole commit on this thread, with a COMMIT even if there is nothing new."""
        context = self._context
        context.cut()
        job = context.log.begin_sync()
        if job is not None:
            try:
                job.run()
            except Exception:
                # No error of a drive, but what was to be synced is as little durable.
                self._end(job)
                raise
            self._end(job)
