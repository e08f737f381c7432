"""Syncs of several files side by side, in a few threads that wait for nothing else.

Two syncs at once cost 1.3 times one (measured), so all of a job are handed out at the same moment.
A thread takes a call, and the last of a job's to end says so; nothing is passed on from thread to
thread on the way, because each hand-over costs as much as a small request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from shmr.log.log import SyncJob

THREADS = 6
Call = Callable[[], None]


class _Group:
    """Calls of which the last to end is noticed."""

    def __init__(self, count: int, ended: Callable[[Exception | None], None]) -> None:
        self.failure: Exception | None = None
        self._left = count
        self._ended = ended
        self._lock = threading.Lock()

    def run(self, call: Call) -> None:
        failure = None
        try:
            call()
        except Exception as error:
            failure = error
        with self._lock:
            self.failure = self.failure or failure
            self._left -= 1
            last = not self._left
        if last:
            self._ended(self.failure)


class Syncing:
    """The threads. Calls must come back: nothing can interrupt a sync."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[_Group, Call] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"sync {number}", daemon=True)
            for number in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="write back")

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            group, call = task
            group.run(call)

    def start(self, job: SyncJob, ended: Callable[[Exception | None], None]) -> None:
        """Do the syncs of `job`; `ended` is called in a thread of ours, with the first failure."""
        calls = job.calls()
        if not calls:
            ended(None)
        group = _Group(len(calls), ended)
        for call in calls:
            self._queue.put((group, call))

    def parallel(self, calls: Sequence[Call]) -> None:
        """Run all of `calls`, the first on this thread; raises a failure when all have ended."""
        if not calls:
            return
        all_ended = threading.Event()
        group = _Group(len(calls), lambda _: all_ended.set())
        for call in calls[1:]:
            self._queue.put((group, call))
        group.run(calls[0])
        all_ended.wait()
        if group.failure is not None:
            raise group.failure

    def read_ahead(self, call: Call) -> None:
        """Run `call`, for which nobody waits, in a thread of its own kind: syncs go first."""
        self._reading.submit(call)

    def write_back(self, call: Call) -> None:
        """The same for writing, which may wait for the drive longer."""
        self._writing.submit(call)

    def close(self) -> None:
        self._reading.shutdown(cancel_futures=True)
        self._writing.shutdown(cancel_futures=True)
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
