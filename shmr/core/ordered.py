"""Many small records in order, in little more memory than their bytes.

A list of a million tuples takes a few hundred MiB; here they are packed into sorted runs, which are
merged when they are read.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

RUN_RECORDS = 1 << 15


class Ordered:
    """Records of `size_bytes` bytes each, given back in the order of their bytes."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._runs: list[bytes] = []
        self._fresh: list[bytes] = []

    def add(self, record: bytes) -> None:
        """Any time before the first is read."""
        assert len(record) == self._size, f"{len(record)} bytes instead of {self._size}"
        self._fresh.append(record)
        if len(self._fresh) >= RUN_RECORDS:
            self._close()

    def __iter__(self) -> Iterator[bytes]:
        self._close()
        return heapq.merge(*map(self._read, self._runs))

    def _close(self) -> None:
        if self._fresh:
            self._fresh.sort()
            self._runs.append(b"".join(self._fresh))
            self._fresh.clear()

    def _read(self, run: bytes) -> Iterator[bytes]:
        for at in range(0, len(run), self._size):
            yield run[at : at + self._size]
