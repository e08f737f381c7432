"""Works side by side: while a job of one is waited for, the others go on.

Their jobs run on a lane; all that they do between jobs happens on the thread that steps them, the
volume's, so that no two of them are ever there at once. Where the lane has no threads each does one
job in turn: the same order whenever it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any, Generic, TypeVar

from shmr.archive.workers import Lane
from shmr.volume.cleaner import Work

R = TypeVar("R")


class Task(Generic[R]):
    """A work under way: the job that it waits for, and in the end what became of it.

    Made, stepped and asked on the volume's thread; `submit` belongs into a job.
    """

    def __init__(self, work: Work[R], lane: Lane) -> None:
        self._work = work
        self._lane = lane
        self._job: Callable[[], Any] | None = None
        self._future: Future[Any] | None = None
        self._results: list[R] = []
        self.error: Exception | None = None
        """What the work raised."""
        self.ended = False
        self._go_on(partial(next, work))

    def submit(self) -> Future[Any]:
        """The job that is waited for, begun if it was not yet."""
        if self._future is None:
            assert self._job is not None, "a work that has ended has no job"
            self._future = self._lane.submit(self._job)
        return self._future

    def step(self) -> None:
        """If the job is done, go on to the next. Whatever is no Exception is raised here."""
        future = self._future
        if future is None or not future.done():
            return
        self._job = self._future = None
        failure = future.exception()
        if failure is None:
            self._go_on(partial(self._work.send, future.result()))
        else:
            self._go_on(partial(self._work.throw, failure))

    def _go_on(self, call: Callable[[], Callable[[], Any]]) -> None:
        try:
            self._job = call()
        except StopIteration as stop:
            self.ended = True
            self._results.append(stop.value)
        except Exception as error:
            self.ended = True
            self.error = error

    def result(self) -> R:
        """What the work returned, or raises what it raised."""
        assert self.ended, "it goes on"
        if self.error is not None:
            raise self.error
        return self._results[0]

    def abandon(self) -> None:
        """Go no further: wait for the job that has begun, and leave the work where it is."""
        if self._future is not None:
            wait([self._future])
        self._work.close()


def together(main: Task[R], *others: Task[Any]) -> Work[R]:
    """Until `main` has ended; the others go on meanwhile. Raises what `main` does."""
    while not main.ended:
        going = [main, *(other for other in others if not other.ended)]
        yield partial(_one_done, going)
        for task in going:
            task.step()
    return main.result()


def _one_done(tasks: Sequence[Task[Any]]) -> None:
    """In a job: until one of those that these wait for is done."""
    wait([task.submit() for task in tasks], return_when=FIRST_COMPLETED)
