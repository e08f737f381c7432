"""Where the jobs of a shift run: in threads, or, for tools and simulations, right where they are.

A lane does its calls one after the other, in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Lane(Protocol):
    """Takes calls; the future has what became of each."""

    def submit(self, call: Callable[[], T], /) -> Future[T]: ...


class _Inline:
    """Does each call at once."""

    def submit(self, call: Callable[[], T], /) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        return future


class Workers:
    """`readers` threads that read in any order; for each of `width` drives a lane that writes to it
    and one that reads back; and a `crew` that runs so many jobs side by side.

    With no `readers` there are no threads at all.
    """

    def __init__(self, readers: int, width: int, *, crew: int = 2) -> None:
        self._executors: list[Executor] = []
        make = self._threads if readers else _no_threads
        self.readers: Lane = make(readers)
        self.crew: Lane = make(crew)
        self.lanes: list[Lane] = [make(1) for _ in range(width)]
        self.checkers: list[Lane] = [make(1) for _ in range(width)]

    def _threads(self, count: int) -> Lane:
        executor = ThreadPoolExecutor(count, thread_name_prefix="shift")
        self._executors.append(executor)
        return executor

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what has begun; what has not never will."""
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)


def _no_threads(count: int) -> Lane:
    return _Inline()


def results(futures: Iterable[Future[Any]]) -> list[Any]:
    """Wait for all; their results, or what the first of them that failed raised."""
    futures = list(futures)
    wait(futures)
    return [future.result() for future in futures]
