"""Derived rows: what follows from a change of a truth row, in one place.

Everything here is a function of (old value, new value), so that replaying a batch twice adds
nothing twice, and all of it can be recomputed from the truth tables.
"""

from __future__ import annotations

from shmr.format.rows import Cookie, Dentry, Table, key_of, segment_of

Derived = tuple[int, bytes, bytes | None]
"""Table, key and value of a row. Not a `Row`, which takes longer to make than to write."""
_COOKIE = int(Table.COOKIE)


def cookies(key: bytes, old: Dentry | None, new: Dentry | None) -> list[Derived]:
    """Rows of the reading order that change with a dentry; `key` is the dentry's."""
    rows: list[Derived] = []
    # The key of a cookie is the directory's, as a dentry's is, and the place in the order.
    if old is not None and (new is None or new.cookie != old.cookie):
        rows.append((_COOKIE, key[:8] + key_of(old.cookie), None))
    if new is not None:
        value = Cookie(key[8:], new.inode, new.kind).encode()
        rows.append((_COOKIE, key[:8] + key_of(new.cookie), value))
    return rows


def count_live(old: bytes | None, new: bytes | None, live: dict[int, int]) -> None:
    """Adjust `live`, segment -> bytes that extents refer to in it, to a change of an extent row.

    Its rows are written at the checkpoint. Raises IntegrityError for a value that does not decode.
    """
    before, after = segment_of(old), segment_of(new)
    if before is not None:
        live[before[0]] = live.get(before[0], 0) - before[1]
    if after is not None:
        live[after[0]] = live.get(after[0], 0) + after[1]
