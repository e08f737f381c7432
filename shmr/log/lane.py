"""A lane: calls to one drive, made in a few threads of its own.

So a drive that does not answer holds these threads and nobody else's. Who asked may stop waiting;
the thread is left behind, and while too many of a lane are, its drive counts as stalled. The
threads are made when needed and end with the process, whatever their drive does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from shmr.errors import ShmrError

R = TypeVar("R")

THREADS = 4
"""Calls at once: a disk orders a few by itself."""
LATE_MAX = 2
"""With so many calls late, the drive counts as stalled."""
CROWD = 16
CROWD_S = 1.0
"""Or with so many calls, none of which has ended for so long: whoever waits takes up a reader that
others may need."""
WAITING_MAX = 32
"""Of a stalled drive no more calls are taken than this: who asks takes up a thread too."""


class Ticket(Generic[R]):
    """One call. It is put into `done` when it has ended."""

    __slots__ = ("_call", "_done", "_failure", "_result", "unwanted")

    def __init__(self, call: Callable[[], R], done: SimpleQueue[Ticket[R]]) -> None:
        self._call = call
        self._done = done
        self._failure: Exception | None = None
        self._result: R | None = None
        self.unwanted = False
        """Nobody waits for it: it need not begin."""

    def result(self) -> R:
        """What the call returned, or raised; after it has ended."""
        if self._failure is not None:
            raise self._failure
        return self._result  # type: ignore[return-value]  # None is what such a call returns

    def run(self) -> None:
        if self.unwanted:
            return
        try:
            self._result = self._call()
        except Exception as error:
            self._failure = error
        self._done.put(self)


class Lane:
    """The threads of one drive."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        """`clock` gives seconds from some moment on."""
        self._name = name
        self._clock = clock
        self._moved = clock()
        self._queue: SimpleQueue[Ticket[object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._free = 0
        self._late: set[Ticket[object]] = set()
        self._closed = False

    @property
    def stalled(self) -> bool:
        """Do too many calls wait for longer than they may? Until one of them returns."""
        if len(self._late) >= LATE_MAX:
            return True
        return self._waiting >= CROWD and self._clock() - self._moved >= CROWD_S

    @property
    def _waiting(self) -> int:
        """Calls that have not ended."""
        return self._threads - self._free

    @property
    def full(self) -> bool:
        """Do so many wait for a drive that does not answer that no more should?"""
        return self._waiting >= WAITING_MAX and self.stalled

    def call(self, ticket: Ticket[R]) -> None:
        """Have it done as soon as a thread is free. Never waits."""
        with self._lock:
            if self._closed:
                raise ShmrError(f"{self._name}: closed")
            if not self._waiting:
                self._moved = self._clock()
            begin = self._free <= 0 and self._threads < THREADS
            self._threads += begin
            self._free -= not begin
        self._queue.put(ticket)  # type: ignore[arg-type]  # whose results differ in type
        if begin:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def late(self, ticket: Ticket[R]) -> None:
        """It has not ended in the time it had; somebody may still wait for it."""
        with self._lock:
            self._late.add(ticket)  # type: ignore[arg-type]

    def leave(self, ticket: Ticket[R]) -> None:
        """Nobody waits for it any more. If it has begun it goes on, and counts until it ends."""
        ticket.unwanted = True

    def close(self) -> None:
        """Let the threads end when they are done with what they do."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._queue.put(None)

    def _work(self) -> None:
        while (ticket := self._queue.get()) is not None:
            ticket.run()
            with self._lock:
                self._late.discard(ticket)
                self._free += 1
                self._moved = self._clock()
