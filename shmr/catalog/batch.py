"""A batch: the rows that one COMMIT makes durable, each touched row once.

Rows are absolute, so replay is idempotent and only the last value of a key matters. A drop
stands for many deletions; it is replayed before the rows of its batch, so a batch never holds a
row that a later drop of the same batch removed (`forget` takes it out).
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.format.records import Drop, encode_meta
from shmr.format.rows import Row
from shmr.units import MIB

BATCH_MAX_BYTES = 4 * MIB
"""A batch is cut here, so that replay never needs more memory for one."""
_ROW_OVERHEAD = 16


class Batch:
    """Rows since the last COMMIT was appended."""

    __slots__ = ("drops", "rows", "size_bytes")

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes | None] = {}
        self.drops: list[Drop] = []
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.rows or self.drops)

    def add(self, table: int, key: bytes, value: bytes | None) -> None:
        self.rows[table, key] = value
        # An overwritten row is counted again: the limit errs on the small side.
        self.size_bytes += _ROW_OVERHEAD + len(key) + (len(value) if value else 0)

    def forget(self, table: int, key: bytes) -> None:
        """A drop now stands for this row's deletion."""
        self.rows.pop((table, key), None)

    def drop(self, drop: Drop) -> None:
        self.drops.append(drop)
        self.size_bytes += 2 * _ROW_OVERHEAD

    def payloads(self, limit_bytes: int) -> Iterator[bytes]:
        """META payloads that hold this batch, each about `limit_bytes` at most."""
        if not self:
            return
        drops, rows, size = self.drops, [], 0
        for (table, key), value in self.rows.items():
            rows.append(Row(table, key, value))
            size += _ROW_OVERHEAD + len(key) + (len(value) if value else 0)
            if size >= limit_bytes:
                yield encode_meta(drops, rows)
                drops, rows, size = [], [], 0
        if drops or rows:
            yield encode_meta(drops, rows)
