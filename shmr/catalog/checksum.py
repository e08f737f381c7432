"""A value's own checksum, over table, key and value: what LMDB does not give.

A stored value is four bytes of CRC-32C (big-endian) and the value.
"""

from __future__ import annotations

from crc32c import crc32c

from shmr.errors import IntegrityError
from shmr.format.rows import Table

SEEDS = {int(table): crc32c(bytes([table])) for table in Table}
"""CRC-32C of the table's number, from which that of key and value goes on."""

KEEPER = b"\xff" * 9
"""A key behind all others in tables that would often be empty. LMDB uses the page of a table that
becomes empty not again in the same transaction: each unlink would cost a page (measured: an epoch
of 2,500 grew a catalog of 1.2 MB to 11 MB)."""


def sealed(table: int, key: bytes, value: bytes) -> bytes:
    """The value as it is stored."""
    return crc32c(key + value, SEEDS[table]).to_bytes(4, "big") + value


def checked(table: int, key: bytes, stored: bytes) -> bytes:
    """The value inside `stored`. Raises IntegrityError."""
    value = stored[4:]
    if crc32c(key + value, SEEDS[table]) != int.from_bytes(stored[:4], "big"):
        raise failed(table)
    return value


def failed(table: int) -> IntegrityError:
    return IntegrityError(f"catalog: a row of table {Table(table).name} fails its checksum")
