"""How much of the workspace each kind of work must leave free.

Reserves, so that a full filesystem can always be emptied: data stops first, creates second;
deletes, commits and the cleaner may use the last, and a snapshot, without which the journal of
all those deletes could never go. All in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shmr.units import MIB

SEGMENT_MIN_BYTES = 1 * MIB
SEGMENT_MAX_BYTES = 64 * MIB


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
    segment_bytes: int, journal_bytes: int, *, rows_bytes: int = 0, held_bytes: int = 0
) -> Reserves:
    """For the cleaner: two data segments. For commits and deletes: four of the journal. And a
    snapshot of rows that take `rows_bytes` in the catalog and `held_bytes` in the last snapshot
    and the journal since.

    Creates stop where those would be touched; data stops two data segments earlier.
    """
    # Rows take less in a snapshot than in the catalog, but its segments do not become quite full.
    snapshot = min(rows_bytes + rows_bytes // 8, held_bytes) + journal_bytes
    clean = 4 * journal_bytes + snapshot
    create = clean + 2 * segment_bytes
    return Reserves(create + 2 * segment_bytes, create, clean, snapshot)


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
