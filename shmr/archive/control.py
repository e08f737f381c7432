"""What whoever runs a shift is told by it, and tells it: how far it is, to stop, to go slower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from shmr.errors import ShmrError


class Phase(Enum):
    """What a shift does now."""

    WRITE = "writing"
    VERIFY = "verifying"
    RECALL = "moving back"
    SNAPSHOT = "keeping the snapshot"


class Stopped(ShmrError):
    """It was asked to stop, and did: what was moved before stays moved."""

    def __init__(self) -> None:
        super().__init__("stopped; run it again to go on")


def _ignore(phase: Phase, size_bytes: int) -> None:
    """Nobody wants to know."""


def _uncounted(size_bytes: int) -> None:
    """Nobody wants to know."""


def _at_once(size_bytes: int) -> None:
    """No limit."""


@dataclass(frozen=True, slots=True)
class Control:
    """`advance(phase, bytes of files)` on the volume's thread, as they are done; `stop()` says
    whether to stop, and is asked where that is safe; `pace(bytes)` is called in a job before they
    are read, and may wait; `plan(bytes)`: so many more are going to be done, or fewer."""

    advance: Callable[[Phase, int], None] = _ignore
    stop: Callable[[], bool] = lambda: False
    pace: Callable[[int], None] = _at_once
    plan: Callable[[int], None] = _uncounted

    def check(self) -> None:
        """Raise Stopped if that is wished."""
        if self.stop():
            raise Stopped()


class Told:
    """What was said to be done of one segment: taken back when it has to be done again."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._done: Counter[Phase] = Counter()

    def advance(self, phase: Phase, size_bytes: int) -> None:
        self._done[phase] += size_bytes
        self._control.advance(phase, size_bytes)

    def take_back(self) -> None:
        for phase, size_bytes in self._done.items():
            self._control.advance(phase, -size_bytes)
        self._done.clear()
