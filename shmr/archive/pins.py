"""Segments that are kept while bytes are moved out of them, whatever is deleted meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from shmr.archive.plan import Lot
from shmr.log.store import SegmentStore


class Pins:
    """The sources of some lots, pinned until `release`. On the volume's thread."""

    def __init__(self, store: SegmentStore, lots: Iterable[Lot]) -> None:
        self._store = store
        self._numbers = sorted({lot.source.segment for lot in lots})
        for number in self._numbers:
            store.pin(number)

    def release(self) -> None:
        """May be called twice."""
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._store.unpin(number)
