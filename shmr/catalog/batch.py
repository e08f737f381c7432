"""A batch: the rows that one COMMIT makes durable, each touched row once.

Rows are absolute, so replay is idempotent and only the last value of a key matters. A drop
stands for many deletions; it is replayed before the rows of its batch, so a batch never holds a
row that a later drop of the same batch removed (`forget` takes it out).
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.format.records import Drop, encode_meta
from shmr.format.rows import Row
from shmr.units import KIB, MIB

BATCH_MAX_BYTES = 4 * MIB
"""A batch is cut here, so that replay never needs more memory for one."""
META_MAX_BYTES = 128 * KIB
"""Where a META frame is cut: with a row of the largest kind behind it, it still is no tenth of
what a frame may hold."""
_ROW_OVERHEAD = 16
_DROP_BYTES = 32


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

    def payloads(self, room_bytes: int) -> Iterator[bytes]:
        """META payloads that hold this batch, each far below a frame's limit and `room_bytes`."""
        limit_bytes = min(META_MAX_BYTES, room_bytes // 4)
        step = limit_bytes // _DROP_BYTES
        for at in range(0, len(self.drops), step):
            yield encode_meta(self.drops[at : at + step], ())
        rows: list[Row] = []
        size = 0
        for (table, key), value in self.rows.items():
            rows.append(Row(table, key, value))
            size += _ROW_OVERHEAD + len(key) + (len(value) if value else 0)
            if size >= limit_bytes:
                yield encode_meta((), rows)
                rows, size = [], 0
        if rows:
            yield encode_meta((), rows)
