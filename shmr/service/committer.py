"""Group commit: everybody who waits for durability shares one commit at a time."""

from __future__ import annotations

import errno

import trio

from shmr.errors import Refused, ShmrError
from shmr.volume.volume import Volume


class _Round:
    """One commit, and those who wait for it."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()


class Committer:
    """Runs commits for whoever asks; `exclusive` keeps syncs away while a checkpoint is made."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._next: _Round | None = None
        self._asked = trio.Event()
        self._ended = False
        self.exclusive = trio.Lock()

    async def commit(self) -> None:
        """Return when everything that happened before this call is durable.

        Raises what made that impossible: Refused, NoSpace, DriveError.
        """
        if self._ended:
            raise Refused(errno.EIO)
        if self._next is None:
            self._next = _Round()
            self._asked.set()
        this = self._next
        await this.done.wait()
        if this.error is not None:
            raise this.error

    async def run(self) -> None:
        """Serve `commit` until cancelled; nobody is left waiting, and nobody is told a lie."""
        try:
            while True:
                await self._asked.wait()
                with trio.CancelScope(shield=True):
                    await self._round()
        finally:
            self._ended = True
            if self._next is not None:
                self._next.fail(Refused(errno.EIO))

    async def _round(self) -> None:
        async with self.exclusive:
            # Whoever comes from here on may have changed something after the batch was cut.
            self._asked = trio.Event()
            this, self._next = self._next, None
            assert this is not None
            try:
                job = self._volume.commits.begin()
                if job is not None:
                    await trio.to_thread.run_sync(job.run)
                    self._volume.commits.end(job)
            except ShmrError as error:
                this.fail(error)
            except BaseException:
                # No thread to be had, no memory: whatever it is, nothing is known durable.
                this.fail(Refused(errno.EIO))
                raise
            this.done.set()
