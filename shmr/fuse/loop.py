"""The gate at which pyfuse3's workers wait for the next request.

pyfuse3 awaits `_wait_fuse_readable` before it reads each request, and its own version goes
through trio every time: a lock, an epoll registration, two task switches. Most of a small
request's cost was that. This one asks the descriptor first (poll, no waiting) and goes on at once
when a request is there; when none is, and no request is being worked on, it waits a fraction of a
millisecond for the answer to the client's next step; only then does it enter trio.

Invariants:
- At most one worker, the *watcher*, waits for the descriptor in trio. The others are parked, and
  the last to park is the first to go on, so that few workers' buffers are in use.
- A worker goes off with a request only if a watcher exists or a parked worker has been called
  to become one (or none is left to call): a request that takes long delays no other.
- Nobody else starves: at least every millisecond the worker yields to trio, and it does not wait
  outside of trio while other workers' requests are under way.

The private name in pyfuse3 is the reason for the upper bound on its version. pyfuse3 counts idle
workers in a place that we cannot write, so it always starts as many workers as it may.

Measured (two cores, idle otherwise, 8,000 operations each, /proc/PID/stat before and after,
in-memory operations): see `tests/fuse/measure.py`, which prints the figures of both loops.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import trio

# How long the worker may go on without giving trio a turn.
TURN_NS = 1_000_000
# How long to wait outside trio for the next request of a client that just had an answer.
LINGER_S = 0.0002
# Above it, select(2) cannot watch a descriptor.
_SELECT_LIMIT = 1024


class Gate:
    """Where workers wait until `descriptor` has a request. `wait` replaces pyfuse3's function.

    `finish` is called once, when the first request (FUSE_INIT) has been answered.
    """

    def __init__(
        self, descriptor: int, finish: Callable[[], None], *, linger_s: float = LINGER_S
    ) -> None:
        self._descriptor = descriptor
        self._finish: Callable[[], None] | None = finish
        self._begun = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._linger_s = linger_s if descriptor < _SELECT_LIMIT else 0.0
        self._watched = False  # a worker waits in trio, or is on its way to
        self._called: trio.lowlevel.Task | None = None  # parked before, scheduled by us
        self._parked: list[trio.lowlevel.Task] = []
        self._working: set[trio.lowlevel.Task] = set()
        self._turn_ns = time.monotonic_ns()
        self._closed = False

    @property
    def idle(self) -> bool:
        """Whether no request is being worked on, and none waits to be read."""
        return not self._working and not self._poll.poll(0)

    async def wait(self) -> bool:
        """Return True when the descriptor should be read, False when the worker should end."""
        task = trio.lowlevel.current_task()
        self._working.discard(task)
        if self._finish is not None and not self._first():
            self._working.add(task)
            return True
        linger_s = self._linger_s
        while not self._closed:
            if self._readable(linger_s):
                if time.monotonic_ns() - self._turn_ns > TURN_NS:
                    await trio.lowlevel.checkpoint()
                    self._turn_ns = time.monotonic_ns()
                    continue
                self._call_next()
                self._working.add(task)
                return True
            linger_s = 0.0
            if self._watched:
                await self._park(task)
            else:
                await self._watch()
        return False

    def _first(self) -> bool:
        """Whether the first request has been answered; it is there from the beginning."""
        if not self._begun:
            self._begun = True
            return False
        if self._working:
            # Another worker, started while the first one is busy with FUSE_INIT.
            raise AssertionError("a second request before the first was answered")
        finish, self._finish = self._finish, None
        assert finish is not None
        finish()
        return True

    def _readable(self, linger_s: float) -> bool:
        """Whether there is a request, or the news that there will be none (an unmount)."""
        if self._poll.poll(0):
            return True
        if not linger_s or self._working or self._watched:
            return False
        return bool(select.select((self._descriptor,), (), (), linger_s)[0])

    def _call_next(self) -> None:
        """See to it that somebody reads the next request if this one takes long."""
        if not self._watched and self._called is None and self._parked:
            self._called = self._parked.pop()
            trio.lowlevel.reschedule(self._called)

    async def _park(self, task: trio.lowlevel.Task) -> None:
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

    def close(self) -> None:
        """No worker reads again: all that wait end, but the watcher, whom trio must wake."""
        self._closed = True
        while self._parked:
            trio.lowlevel.reschedule(self._parked.pop())
