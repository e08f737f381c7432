"""The gate at which pyfuse3's workers wait for the next request.

pyfuse3 awaits `_wait_fuse_readable` before it reads each request, and its own version goes
through trio every time: a lock, an epoll registration, two task switches. Most of a small
request's cost was that. This one asks the descriptor first (poll, no waiting) and goes on at once
when a request is there; only when none is does it enter trio.

Invariants:
- At most one worker, the *watcher*, waits for the descriptor in trio. The others are parked, and
  the last to park is the first to go on, so that few workers' buffers are in use.
- A request that takes long delays no other: before a handler waits for anything, `hand_over`
  calls a parked worker to become the watcher (`guard` sees to it for every handler). Most
  requests are answered without waiting, and then no other worker is bothered.
- Nobody else starves: at least every millisecond a worker yields to trio.

The private name in pyfuse3 is the reason for the upper bound on its version. pyfuse3 counts idle
workers in a place that we cannot write, so it always starts as many workers as it may.

Measured with `python -m tests.fuse.measure 4000 5` (two cores, a volume in memory, medians;
server CPU per operation, pyfuse3's own wait -> this gate): create and close 452 -> 128 us (four
requests), lookup of a missing name 115 -> 40 us (one), unlink 335 -> 105 us (four). Calling a
parked worker at each request instead of in `hand_over` cost a third more. Waiting outside trio
for a client's next request, asleep or busily, was tried and gained nothing.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import trio

# How long the workers may go on without giving trio a turn.
TURN_NS = 1_000_000


class Gate:
    """Where workers wait until `descriptor` has a request. `wait` replaces pyfuse3's function.

    `finish` is called once, when the first request (FUSE_INIT) has been answered.
    """

    def __init__(self, descriptor: int, finish: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._finish: Callable[[], None] | None = finish
        self._begun = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._watched = False
        self._called: trio.lowlevel.Task | None = None  # was parked, is to become the watcher
        self._parked: list[trio.lowlevel.Task] = []
        self._turn_ns = time.monotonic_ns()
        self._closed = False

    async def wait(self) -> bool:
        """Return True when the descriptor should be read, False when the worker should end."""
        if self._finish is not None and not self._first():
            return True
        while not self._closed:
            if events := self._poll.poll(0):
                if not events[0][1] & select.POLLIN:
                    # Unmounted: this worker reads that, all others end without.
                    self.close()
                    return True
                if time.monotonic_ns() - self._turn_ns < TURN_NS:
                    return True
                await trio.lowlevel.checkpoint()
                self._turn_ns = time.monotonic_ns()
            elif self._watched:
                await self._park()
            else:
                await self._watch()
        return False

    def hand_over(self) -> None:
        """The running worker's handler is about to wait: another worker is to watch."""
        if not self._watched and self._called is None and self._parked:
            self._called = self._parked.pop()
            trio.lowlevel.reschedule(self._called)

    def close(self) -> None:
        """No worker reads again: all that wait end, but the watcher, whom trio must wake."""
        self._closed = True
        while self._parked:
            trio.lowlevel.reschedule(self._parked.pop())

    def _first(self) -> bool:
        """Whether the first request has been answered; it is there from the beginning."""
        if not self._begun:
            self._begun = True
            return False
        finish, self._finish = self._finish, None
        assert finish is not None
        finish()
        return True

    async def _park(self) -> None:
        task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            self._parked.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._parked.append(task)
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            if self._called is task:
                self._called = None

    async def _watch(self) -> None:
        self._watched = True
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except trio.ClosedResourceError:
            self.close()
        finally:
            self._watched = False
            self._turn_ns = time.monotonic_ns()
