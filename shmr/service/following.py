"""What whoever runs a long job on an unmounted filesystem may ask of it, and is told by it.

How far it is, for a progress bar and for the status file; how fast it may go; when to stop. The
same for files that are moved (`compact`) and for fragments that are written anew (`rehousing`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from shmr.archive.control import Control, Phase
from shmr.service.shifting import ShiftStatus

NAP_S = 0.2

Watcher = Callable[[str, int, int], None]
"""Told now and then what is done, how many bytes are, and of how many."""
Stop = Callable[[], bool]
"""Whether to stop; asked where that is safe."""


def nobody_stops() -> bool:
    """For whoever cannot be asked."""
    return False


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of a job. `limit_rate` is in bytes per second; a dry run changes nothing."""

    watcher: Watcher | None = None
    stop: Stop = nobody_stops
    limit_rate: int | None = None
    dry_run: bool = False


class Follower:
    """Counts what is done, for whoever watches and for the status file."""

    def __init__(self, watcher: Watcher | None, status: ShiftStatus) -> None:
        self._watcher = watcher
        self._status = status
        self._halves = self._total = 0
        self.note = ""
        """What else is told with what is done, such as what is at risk."""

    def plan(self, more_bytes: int) -> None:
        """So much more will be moved, or less than was thought."""
        self._total += more_bytes
        self._status.plan(self._total)
        if more_bytes:
            self._tell("planning")

    def advance(self, phase: Phase, size_bytes: int) -> None:
        """So much of it was done, or half done: what is written is then verified."""
        # Each of the two is half of it. Moving back is all.
        self._halves += 2 * size_bytes if phase is Phase.RECALL else size_bytes
        self._tell(phase.value)

    @property
    def done_bytes(self) -> int:
        """Written and verified."""
        return self._halves // 2

    def control(self, stop: Stop, limit_rate: int | None) -> Control:
        """What the job is given; `limit_rate` is in bytes per second."""
        return Control(self.advance, stop, pace(limit_rate, stop), self.plan)

    def _tell(self, phase: str) -> None:
        if self.note:
            phase = f"{phase}; {self.note}"
        self._status.update(phase, self.done_bytes)
        if self._watcher is not None:
            self._watcher(phase, self.done_bytes, self._total)


def pace(
    limit_rate: int | None,
    stop: Stop,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[int], None]:
    """Waits until so many more bytes are within the rate, or nobody wants them any more.

    From the beginning on: no first bytes are free. Time that went by with reading counts, up to
    what these bytes may take.
    """
    if limit_rate is None:
        return lambda size: None
    rate, due = max(1, limit_rate), clock()

    def wait(size: int) -> None:
        nonlocal due
        due = max(due + size / rate, clock())
        while (left := due - clock()) > 0 and not stop():
            sleep(min(left, NAP_S))

    return wait
