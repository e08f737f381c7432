"""How much of the workspace each kind of work must leave free.

Reserves, so that a full filesystem can always be emptied: data stops first, creates second;
deletes, commits and the cleaner may use the last, and a snapshot, without which the journal of
all those deletes could never go. All in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shmr.units import KIB, MIB

SEGMENT_MIN_BYTES = 1 * MIB
SEGMENT_MAX_BYTES = 64 * MIB
FRAME_BYTES = 68 * KIB
"""What may stay empty at the end of a snapshot's segment: the next frame, of 64 KiB of rows and
one row more, did not fit. A third of what such a segment holds, where it is the smallest."""


@dataclass(frozen=True, slots=True)
class Reserves:
    """Bytes that must stay claimable after data was written, after something was created, and
    after the cleaner moved something.

    `snapshot_bytes` of them are for the next snapshot.
    """

    data_bytes: int
    create_bytes: int
    clean_bytes: int
    snapshot_bytes: int


def reserves(
    segment_bytes: int,
    journal_bytes: int,
    *,
    rows_bytes: int = 0,
    last_bytes: int = 0,
    since_bytes: int = 0,
) -> Reserves:
    """For the cleaner: two data segments. For commits and deletes: four of the journal. And the
    next snapshot, of rows that take `rows_bytes` in the catalog: they are all in the last one or
    in the journal, so it takes no more than `last_bytes`, that one's segments, and what stands in
    `since_bytes` of the journal.

    Creates stop where those would be touched; data stops two data segments earlier.
    """
    whole = _snapshot_bytes(rows_bytes, journal_bytes)
    grown = last_bytes + _snapshot_bytes(since_bytes, journal_bytes)
    snapshot = min(whole, grown) + journal_bytes
    clean = 4 * journal_bytes + snapshot
    create = clean + 2 * segment_bytes
    return Reserves(create + 2 * segment_bytes, create, clean, snapshot)


def _snapshot_bytes(rows_bytes: int, size_bytes: int) -> int:
    """Bytes of the snapshot segments, of `size_bytes` each, that take so many bytes of rows."""
    return -(-rows_bytes // max(size_bytes - FRAME_BYTES, size_bytes // 2)) * size_bytes


def segment_size(capacity_bytes: int, wanted_bytes: int | None = None) -> int:
    """Bytes of a data segment: what was asked for, else a 256th of the workspace.

    Small enough that the reserves of a small workspace stay small, at most 64 MiB because a
    segment is the least that the cleaner frees at once.
    """
    if wanted_bytes is not None:
        return wanted_bytes
    size = SEGMENT_MIN_BYTES
    while size < SEGMENT_MAX_BYTES and size * 256 < capacity_bytes:
        size *= 2
    return size
