"""A directory drive that nobody waits for without an end: what looks at it gives up in time.

A disk that hangs answers no system call, and a thread that waits for one cannot be called back. So
each verb here is called in a thread of its own; if that takes too long, the verb ends in a
DriveError (ETIMEDOUT) and the thread is left behind. Until it comes back the drive is not asked
again, and every verb ends at once.

Files are another matter: their reads have threads and deadlines elsewhere (`shmr.log.lane`), and
`claim`, `open` and the files they give wait as long as it takes.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Capacity
from shmr.errors import DriveError

R = TypeVar("R")

CLOSING_S = 2.0
"""How long closing is waited for: it asks nothing of a disk that works."""


class Answer(Generic[R]):
    """What a call in a thread of its own returns or raises, when it has ended."""

    def __init__(self, name: str, call: Callable[[], R]) -> None:
        self.ended = False
        self._call = call
        self._done: SimpleQueue[tuple[R | None, BaseException | None]] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            found: tuple[R | None, BaseException | None] = self._call(), None
        except BaseException as failure:
            found = None, failure
        self.ended = True
        self._done.put(found)

    def within(self, time_s: float) -> R:
        """Wait for it. Raises TimeoutError if it takes longer, and what the call raised."""
        try:
            found, failure = self._done.get(timeout=max(0.0, time_s))
        except Empty:
            raise TimeoutError(errno.ETIMEDOUT, "the drive does not answer") from None
        if failure is not None:
            raise failure
        return found  # type: ignore[return-value]  # None is what such a call returns


class ImpatientDrive(DirectoryDrive):
    """The drive at `path`, each of whose verbs is waited for `patience_s` at most."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit_bytes: int | None = None,
        read_only: bool = False,
        patience_s: float,
    ) -> None:
        """Waits for the disk as long as it takes: call it where that does no harm."""
        self._patience_s = patience_s
        self._late: list[Answer[Any]] = []
        super().__init__(path, limit_bytes=limit_bytes, read_only=read_only)

    def device(self) -> int:
        return self._soon("device", super().device)

    def names(self) -> list[str]:
        return self._soon("names", super().names)

    def size(self, name: str) -> int:
        return self._soon("size", partial(super().size, name))

    def begins(self, name: str) -> int | None:
        return self._soon("begins", partial(super().begins, name))

    def discard(self, name: str) -> None:
        self._soon("discard", partial(super().discard, name))

    def capacity(self) -> Capacity:
        return self._soon("capacity", super().capacity)

    def put(self, name: str, content: bytes) -> None:
        self._soon("put", partial(super().put, name, content))

    def get(self, name: str) -> bytes:
        return self._soon("get", partial(super().get, name))

    def lock(self) -> bool:
        return self._soon("lock", super().lock)

    def is_empty(self, *, besides: Collection[str] = ()) -> bool:
        return self._soon("names", partial(super().is_empty, besides=besides))

    def is_mount_point(self) -> bool:
        return self._soon("mounted", super().is_mount_point)

    def close(self) -> None:
        """Let go; of a drive that hangs in a thread, which is not waited for long."""
        if self._fd < 0:
            return
        try:
            Answer(f"closing {self.label}", super().close).within(CLOSING_S)
        except TimeoutError:
            return

    def _soon(self, verb: str, call: Callable[[], R]) -> R:
        self._late = [answer for answer in self._late if not answer.ended]
        try:
            if self._late:
                raise TimeoutError(errno.ETIMEDOUT, "the drive does not answer")
            answer = Answer(f"{verb} of {self.label}", call)
            try:
                return answer.within(self._patience_s)
            except TimeoutError:
                self._late.append(answer)
                raise
        except TimeoutError as error:
            raise DriveError(self.label, verb, error) from error
