"""Syncs of several files at once, in a few threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

THREADS = 6


class Syncing:
    """The `Parallel` of a mounted log: two syncs at once cost 1.3 times one (measured)."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sync")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def parallel(self, calls: Sequence[Callable[[], None]]) -> None:
        """Run all of `calls`; raises the first failure when all have ended."""
        others = [self._pool.submit(call) for call in calls[1:]]
        failure: BaseException | None = None
        try:
            for call in calls[:1]:
                call()
        except Exception as error:
            failure = error
        for other in others:
            failure = failure or other.exception()
        if failure is not None:
            raise failure

    def background(self, call: Callable[[], None]) -> None:
        """Run `call`, for which nobody waits, in a thread of its own kind: syncs go first."""
        self._reading.submit(call)

    def close(self) -> None:
        self._reading.shutdown(cancel_futures=True)
        self._pool.shutdown()
