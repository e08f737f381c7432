"""Reads of archived segments: units from their drives, or decoded from those that are left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from shmr.core.stripe import UnitPlace
from shmr.format.archived import Archived
from shmr.log.findings import Findings
from shmr.log.fragments import FragmentStore

DEADLINE_S = 10.0
"""A drive that has not answered after this is passed over, where its redundancy allows."""


class Gather:
    """Reads archived segments. Blocking, for any thread; knows nothing of the volume."""

    def __init__(
        self,
        fragments: FragmentStore,
        *,
        deadline_s: float | None = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline_s` None: no threads, every drive is waited for as long as it takes."""
        self.fragments = fragments
        self.findings = Findings(fragments.label, clock)
        """What was found damaged, for the scrubber (`findings.take()`)."""

    def read(self, segment: int, archived: Archived, address: int, length: int) -> bytes:
        """Bytes of the segment's address space, verified. Raises IntegrityError, DriveError."""
        raise NotImplementedError

    def cached(self, segment: int, archived: Archived, address: int, length: int) -> bytes | None:
        """As `read` if it needs no drive, else None."""
        raise NotImplementedError

    def units(
        self, segment: int, archived: Archived, places: Iterable[UnitPlace]
    ) -> dict[UnitPlace, bytes]:
        """Whole units, of parity too, verified or decoded: for whoever writes fragments anew.

        Raises IntegrityError, DriveError.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of threads and files. Threads that a drive does not answer are left behind."""
        raise NotImplementedError
