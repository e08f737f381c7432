"""Group commit: everybody who waits for durability shares one commit at a time."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable

import trio

from shmr.errors import Refused, ShmrError
from shmr.log.log import SyncJob
from shmr.volume.volume import Volume

Told = Callable[[Exception | None], None]
"""Hears how a commit went: None, or what made it impossible (Refused, NoSpace, DriveError)."""


class Committer:
    """Runs commits for whoever asks; `exclusive` keeps syncs away while a checkpoint is made."""

    def __init__(self, volume: Volume, run: Callable[[SyncJob], Awaitable[None]]) -> None:
        """`run` does a job's syncs, elsewhere."""
        self._volume = volume
        self._run = run
        self._waiting: list[Told] = []
        self._asked = trio.Event()
        self._ended = False
        self.exclusive = trio.Lock()

    def ask(self, told: Told) -> None:
        """Have everything that happened before this call made durable; `told` hears of it."""
        if self._ended:
            told(Refused(errno.EIO))
            return
        self._waiting.append(told)
        self._asked.set()

    async def commit(self) -> None:
        """Return when everything that happened before this call is durable.

        Raises what made that impossible: Refused, NoSpace, DriveError.
        """
        done = trio.Event()
        failure: Exception | None = None

        def told(error: Exception | None) -> None:
            nonlocal failure
            failure = error
            done.set()

        self.ask(told)
        await done.wait()
        if failure is not None:
            raise failure

    async def run(self) -> None:
        """Serve until cancelled; nobody is left waiting, and nobody is told a lie."""
        try:
            while True:
                await self._asked.wait()
                with trio.CancelScope(shield=True):
                    await self._round()
        finally:
            self._ended = True
            self._tell(self._waiting, Refused(errno.EIO))

    async def _round(self) -> None:
        async with self.exclusive:
            # Whoever comes from here on may have changed something after the batch was cut.
            self._asked = trio.Event()
            waiting, self._waiting = self._waiting, []
            failure: Exception | None = Refused(errno.EIO)
            try:
                job = self._volume.commits.begin()
                if job is not None:
                    await self._run(job)
                    self._volume.commits.end(job)
                failure = None
            except ShmrError as error:
                failure = error
            finally:
                # Whatever else it was (no thread to be had, no memory): nothing is known durable.
                self._tell(waiting, failure)

    @staticmethod
    def _tell(waiting: list[Told], failure: Exception | None) -> None:
        for told in waiting:
            told(failure)
