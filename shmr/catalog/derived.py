"""Derived rows: what follows from a change of a truth row, in one function.

Everything here is a function of (old value, new value), so that replaying a batch twice adds
nothing twice, and all of it can be recomputed from the truth tables.
"""

from __future__ import annotations

from shmr.format.rows import (
    Cookie,
    Row,
    Table,
    decode_dentry,
    key_pair,
    segment_of,
    split_key,
)


def derive(
    table: int, key: bytes, old: bytes | None, new: bytes | None, live: dict[int, int]
) -> list[Row]:
    """Rows of derived tables that change with a truth row.

    `live` maps a segment to the bytes that extents refer to in it; it is adjusted in place (its
    rows are written at the checkpoint). Raises IntegrityError for a value that does not decode.
    """
    if table == Table.EXTENT:
        before, after = segment_of(old), segment_of(new)
        if before is not None:
            live[before[0]] = live.get(before[0], 0) - before[1]
        if after is not None:
            live[after[0]] = live.get(after[0], 0) + after[1]
        return []
    if table != Table.DENTRY:
        return []
    directory, rows = split_key(key), []
    entry = decode_dentry(new) if new is not None else None
    if old is not None:
        gone = decode_dentry(old).cookie
        if entry is None or entry.cookie != gone:
            rows.append(Row(Table.COOKIE, key_pair(directory, gone), None))
    if entry is not None:
        rows.append(Cookie(key[8:], entry.inode, entry.kind).row(directory, entry.cookie))
    return rows


HAS_DERIVED = frozenset((int(Table.EXTENT), int(Table.DENTRY)))
"""Tables whose old value is needed when a row changes."""
