"""What reading found wrong on archive drives: kept for the scrubber, and told to people.

Each damaged unit is told once, in a line that names drive, segment and unit, and of each drive no
more than a few in a minute: a dying one has a million.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

logger = logging.getLogger(__name__)

FINDINGS_MAX = 4096
"""So many wait for the scrubber; it looks at their whole fragments, and at all others in time."""
LINES_MAX = 10
PERIOD_S = 60.0


class Finding(NamedTuple):
    """A unit (None: the whole fragment) that could not be read or did not verify, and why."""

    drive: bytes
    segment: int
    fragment: int
    generation: int
    unit: int | None
    why: str


class Findings:
    """For any thread. `clock` gives seconds from some moment on."""

    def __init__(self, label: Callable[[bytes], str], clock: Callable[[], float]) -> None:
        self._label = label
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[tuple[bytes, int, int, int | None], Finding] = {}
        self._told: dict[bytes, tuple[float, int]] = {}

    def note(self, finding: Finding) -> None:
        """Keep it, and tell of it, unless it is known already."""
        key = finding.drive, finding.segment, finding.fragment, finding.unit
        with self._lock:
            if key in self._waiting or len(self._waiting) >= FINDINGS_MAX:
                return
            self._waiting[key] = finding
            lines = self._lines(finding.drive)
        if lines > LINES_MAX:
            return
        where = "the whole fragment" if finding.unit is None else f"unit {finding.unit}"
        more = "; nothing is said of further damage for a minute" if lines == LINES_MAX else ""
        logger.error(
            "drive %s: segment %d, fragment %d, %s: %s%s",
            self._label(finding.drive),
            finding.segment,
            finding.fragment,
            where,
            finding.why,
            more,
        )

    def _lines(self, drive: bytes) -> int:
        """How many lines this drive has had in its minute, the next one included."""
        now = self._clock()
        since, count = self._told.get(drive, (now, 0))
        if now - since >= PERIOD_S:
            since, count = now, 0
        self._told[drive] = since, count + 1
        return count + 1

    def all(self) -> list[Finding]:
        """What waits, oldest first."""
        with self._lock:
            return list(self._waiting.values())

    def take(self) -> list[Finding]:
        """What waits, oldest first; from now on it is news again."""
        with self._lock:
            taken = list(self._waiting.values())
            self._waiting.clear()
            return taken
