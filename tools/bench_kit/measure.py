"""Times one row: starts its workers together, waits for all of them, counts the server's CPU.

A *worker* is a generator: what comes before its first `yield` is preparation and is not timed, its
second `yield` gives the number of operations it made, what follows is clearing up. Each worker runs
in a forked process of its own, so that readers and writers do not share one interpreter lock.

The time of a row is the last worker's end minus the first worker's start, on the one monotonic
clock all processes of the machine share.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

Worker = Iterator[int]
Result = tuple[int, float, float]  # operations, start and end on the monotonic clock

_FORK = multiprocessing.get_context("fork")
_NOT_STARTED = "another worker failed to start"


class RowFailed(Exception):
    """A row gave no figure on a target; the message says why."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row, once: how many operations, how long, and what the server spent on them.

    `cpu_s` is None where there is no server.
    """

    operations: int
    elapsed_s: float
    cpu_s: float | None

    @property
    def per_second(self) -> float:
        return self.operations / max(self.elapsed_s, 1e-9)

    @property
    def cpu_us_per_operation(self) -> float | None:
        if self.cpu_s is None:
            return None
        return self.cpu_s * 1e6 / max(self.operations, 1)


def process_cpu_s(pid: int) -> float:
    """User and system seconds of a process with its descendants, dead threads and children too.

    The live part comes from the process's CPU clock (nanoseconds; clock_getcpuclockid(3) builds
    the number in this way), the children already waited for from /proc/PID/stat (10 ms ticks).
    """
    total = 0.0
    for each in _with_descendants(pid):
        try:
            total += time.clock_gettime((~each << 3) | 2)
            fields = _stat_fields(each)
        except OSError:
            continue  # it ended meanwhile: its parent's children's time has it
        total += (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    return total


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third one on (the second may hold spaces)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _with_descendants(pid: int) -> list[int]:
    found = [pid]
    for each in found:
        try:
            for task in os.listdir(f"/proc/{each}/task"):
                with open(f"/proc/{each}/task/{task}/children", encoding="ascii") as file:
                    found.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return found


def measure(
    workers: Sequence[Worker], *, cpu_s: Callable[[], float | None], limit_s: float
) -> Measurement:
    """Run `workers` at once. Raises RowFailed when one fails or `limit_s` is over."""
    barrier = _FORK.Barrier(len(workers) + 1)
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for worker in workers:
            ours, theirs = _FORK.Pipe(duplex=False)
            process: BaseProcess = _FORK.Process(
                target=_work, args=(worker, barrier, theirs, limit_s)
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        deadline = time.monotonic() + limit_s
        try:
            before = None if barrier.broken else _when_ready(barrier, cpu_s, limit_s)
        except threading.BrokenBarrierError:
            before = None
        received = [_receive(pipe, deadline) for pipe in pipes]
        after = cpu_s()
    finally:
        for process in processes:
            if process.is_alive():
                process.join(1.0)
            if process.is_alive():
                process.kill()
                process.join(10.0)
        for pipe in pipes:
            pipe.close()
    results = _all_good(received)
    operations = sum(result[0] for result in results)
    elapsed_s = max(result[2] for result in results) - min(result[1] for result in results)
    spent = None if before is None or after is None else after - before
    return Measurement(operations, elapsed_s, spent)


def _when_ready(
    barrier: threading.Barrier, cpu_s: Callable[[], float | None], limit_s: float
) -> float | None:
    """The server's CPU when every worker is prepared; lets them go."""
    deadline = time.monotonic() + limit_s
    while barrier.n_waiting < barrier.parties - 1:
        if barrier.broken or time.monotonic() > deadline:
            raise threading.BrokenBarrierError
        time.sleep(0.001)
    before = cpu_s()
    barrier.wait(limit_s)
    return before


def _receive(pipe: Connection, deadline: float) -> Result | str:
    """What a worker has to tell: its result, or why it has none."""
    if not wait([pipe], timeout=max(deadline - time.monotonic(), 0.0)):
        return "over the time limit of a row"
    try:
        told: Result | str = pipe.recv()
    except EOFError:
        return "a worker died"
    return told


def _all_good(received: Sequence[Result | str]) -> list[Result]:
    failures = [told for told in received if isinstance(told, str)]
    if failures:
        raise RowFailed(next((told for told in failures if told != _NOT_STARTED), failures[0]))
    return [told for told in received if not isinstance(told, str)]


def _work(worker: Worker, barrier: threading.Barrier, pipe: Connection, limit_s: float) -> None:
    """The life of one worker process: prepare, wait for all, work, tell."""
    try:
        next(worker)
        barrier.wait(limit_s)
        start = time.monotonic()
        operations = next(worker)
        end = time.monotonic()
        pipe.send((operations, start, end))
    except threading.BrokenBarrierError:
        pipe.send(_NOT_STARTED)
    except KeyboardInterrupt:
        barrier.abort()
    except Exception as error:
        barrier.abort()
        pipe.send(f"{type(error).__name__}: {error}")
