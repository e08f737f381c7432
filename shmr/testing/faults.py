"""Which operation of the simulated drives fails, and how; when the power goes.

`FaultPlan` counts operations and says which one is struck. It knows nothing of drives and has no
randomness of its own. What the drives make of a fault is written in `shmr.testing.drive`.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass


class PowerCut(BaseException):
    """The power is gone: nothing that the program under test does has an effect any more.

    Not an Exception, so that no handler for errors of drives, however broad, survives it as no
    code survives a power cut; a `finally` that touches a drive meets it again.
    """


class Fault(enum.Enum):
    """How an operation fails, which verbs it can strike, and the errno it gives."""

    EIO = ("eio", errno.EIO, frozenset({"claim", "append", "sync", "seal", "discard"}))
    ENOSPC = ("enospc", errno.ENOSPC, frozenset({"claim"}))
    SHORT = ("short write", errno.EIO, frozenset({"append"}))
    SYNC = ("failed sync", errno.EIO, frozenset({"claim", "sync", "seal"}))
    READ = ("failed read", errno.EIO, frozenset({"open", "read", "size", "names"}))

    def __init__(self, title: str, number: int, verbs: frozenset[str]) -> None:
        self.title = title
        self.number = number
        self.verbs = verbs


@dataclass(frozen=True, slots=True)
class _Strike:
    number: int
    fault: Fault
    persistent: bool
    drive: str | None


class FaultPlan:
    """Counts operations, and knows which one fails or never ends.

    Changes (claim, append, sync, seal, discard) and reads (open, read, size, names) are counted
    apart: a cut at a read would show nothing that a cut at a change does not. The first of each
    is number 0. A planned fault waits for the first operation from its number on that it can
    strike. A persistent one then stays on that drive, for every operation that it can strike.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.reads = 0
        self.off = False
        self.struck: list[tuple[int, str, str, str, Fault]] = []
        self._cut: int | None = None
        self._strikes: list[_Strike] = []
        self._lasting: list[tuple[str, Fault]] = []

    def cut_at(self, number: int) -> None:
        """Cut the power in the middle of change `number`."""
        self._cut = number

    def fail(
        self, number: int, fault: Fault, *, persistent: bool = False, drive: str | None = None
    ) -> None:
        """Let change `number` fail (read `number` for `Fault.READ`), on `drive` if one is named."""
        self._strikes.append(_Strike(number, fault, persistent, drive))

    def heal(self) -> None:
        """Forget planned and lasting faults."""
        self._strikes.clear()
        self._lasting.clear()

    def change(self, drive: str, verb: str, name: str) -> Fault | None:
        """Count a change that has begun. Raises PowerCut; returns the fault that strikes it."""
        number = self.operations
        self.operations += 1
        if self._cut is not None and number >= self._cut:
            self.off = True
        if self.off:
            raise PowerCut(f"power cut at operation {number}: {verb} {name} on {drive}")
        return self._strike(number, drive, verb, name, reading=False)

    def reading(self, drive: str, verb: str, name: str) -> Fault | None:
        """Count a read. Raises PowerCut when the power is gone; returns the fault."""
        number = self.reads
        self.reads += 1
        if self.off:
            raise PowerCut(f"no power: {verb} {name} on {drive}")
        return self._strike(number, drive, verb, name, reading=True)

    def _strike(
        self, number: int, drive: str, verb: str, name: str, *, reading: bool
    ) -> Fault | None:
        if not self._strikes and not self._lasting:
            return None
        for place, fault in self._lasting:
            if place == drive and verb in fault.verbs:
                self.struck.append((number, drive, verb, name, fault))
                return fault
        for strike in self._strikes:
            fits = verb in strike.fault.verbs and reading == (strike.fault is Fault.READ)
            if fits and number >= strike.number and strike.drive in (None, drive):
                self._strikes.remove(strike)
                if strike.persistent:
                    self._lasting.append((drive, strike.fault))
                self.struck.append((number, drive, verb, name, strike.fault))
                return strike.fault
        return None
