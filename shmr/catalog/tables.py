"""The tables of a catalog: rows in LMDB, each under its own checksum, in one long transaction.

Knows keys and values and nothing of what they mean. Whoever reads sees what was put; nothing of it
is on disk before `commit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crc32c import crc32c

from shmr.catalog import store
from shmr.catalog.checksum import KEEPER, SEEDS, checked, failed, sealed
from shmr.catalog.reading import Reading
from shmr.format.rows import TRUTH, Row, Table
from shmr.units import KIB, MIB

_PAGE_BYTES = 4096
_EPOCH_MAX_BYTES = 100 * MIB
"""Pages that the rows of one epoch can lie on (`shmr.volume.checkpoint.ROWS`, one page each, and
the pages above them)."""
_STEP_BYTES = 512 * KIB


class Tables:
    """One environment, its tables, and the open write transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._environment = store.open_environment(path)
        self._handles = store.open_tables(self._environment)
        self._transaction = self._environment.begin(write=True)
        for table in (Table.ORPHAN, Table.REAP):
            value = sealed(table, KEEPER, b"")
            self._transaction.put(KEEPER, value, db=self._handles[table], overwrite=False)

    # -- rows -------------------------------------------------------------------------------

    def get(self, table: int, key: bytes) -> bytes | None:
        """The value of `key`, or None. Raises IntegrityError if it fails its checksum."""
        stored = self._transaction.get(key, db=self._handles[table])
        if stored is None:
            return None
        # `checked`, written out here as in `_rows`, and `sealed` in `put`: they are called for
        # every row of every request.
        value: bytes = stored[4:]
        if crc32c(key + value, SEEDS[table]) != int.from_bytes(stored[:4], "big"):
            raise failed(table)
        return value

    def has(self, table: int, key: bytes) -> bool:
        return self._transaction.get(key, db=self._handles[table]) is not None

    def has_prefix(self, table: int, prefix: bytes) -> bool:
        """Does any key begin with `prefix`?"""
        cursor = self._transaction.cursor(db=self._handles[table])
        return bool(cursor.set_range(prefix)) and cursor.key().startswith(prefix)

    def put(self, table: int, key: bytes, value: bytes | None) -> None:
        """The new value of `key`, or None where the key goes."""
        if value is None:
            self._transaction.delete(key, db=self._handles[table])
        else:
            stored = crc32c(key + value, SEEDS[table]).to_bytes(4, "big") + value
            self._transaction.put(key, stored, db=self._handles[table])

    def scan(self, table: int, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows from `start` on in key order, while the key begins with `prefix`.

        The table must not change while the iterator is in use.
        """
        cursor = self._transaction.cursor(db=self._handles[table])
        if cursor.set_range(start):
            yield from _rows(cursor, table, prefix)

    def scan_before(self, table: int, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Like `scan`, but from the last key that is not behind `start`, if it has the prefix."""
        cursor = self._transaction.cursor(db=self._handles[table])
        found = cursor.set_range(start)
        if not (found and cursor.key() == start):
            if not (cursor.prev() if found else cursor.last()):
                if not cursor.first():
                    return
            elif not cursor.key().startswith(prefix) and not cursor.next():
                return
        yield from _rows(cursor, table, prefix)

    def last_at(self, table: int, key: bytes) -> tuple[bytes, bytes] | None:
        """The row of `key`, or of the last key before it."""
        cursor = self._transaction.cursor(db=self._handles[table])
        found = cursor.set_range(key)
        if not (found and cursor.key() == key) and not (cursor.prev() if found else cursor.last()):
            return None
        at, stored = cursor.item()
        return at, checked(table, at, stored)

    # -- the file ---------------------------------------------------------------------------

    def commit(self) -> None:
        """Make all of it durable, and go on with the next transaction. Raises lmdb.Error."""
        self._transaction.commit()
        self._transaction = self._environment.begin(write=True)

    def facts(self, table: int) -> dict[str, int]:
        """LMDB's counts of a table: `entries`, pages of three kinds, `psize` (bytes of a page)."""
        return dict(self._transaction.stat(self._handles[table]))  # type: ignore[arg-type]

    def reserve(self, leave_bytes: int) -> bool:
        """Take the disk space of the next epochs ahead, so that no commit ever lacks it.

        An epoch copies each page that it changes, and those it leaves are free only for the one
        after the next; a third time for a snapshot, for which they are kept meanwhile. False if
        there is no room for it beside `leave_bytes` that others need.
        """
        every = [self.facts(table) for table in self._handles]
        pages = sum(f["branch_pages"] + f["leaf_pages"] + f["overflow_pages"] for f in every)
        live = pages * _PAGE_BYTES
        wanted = live + 3 * min(live, _EPOCH_MAX_BYTES) + _STEP_BYTES
        # In steps, so that it is seldom.
        wanted = -(-wanted // _STEP_BYTES) * _STEP_BYTES
        return store.allocate(self._path, wanted, leave_bytes)

    def size_bytes(self) -> int:
        """Bytes of the file that were ever used."""
        info = self._environment.info()
        return int(info["last_pgno"] + 1) * int(self._environment.stat()["psize"])

    @contextmanager
    def committed(self) -> Iterator[Committed]:
        """The rows of the last commit, through a read transaction of its own."""
        with self._environment.begin() as transaction:
            yield Committed(transaction, self._handles)

    def reading(self) -> Reading:
        """Everything that was put, by the open transaction: good until it ends."""
        return Reading(self._transaction, self._handles, store.written_ns(self._path))

    def close(self) -> None:
        """Throw away what was not committed."""
        self._transaction.abort()
        self._environment.close()


class Committed:
    """The rows that a commit left, whatever is written meanwhile."""

    def __init__(self, transaction: Any, handles: dict[int, Any]) -> None:
        self._transaction = transaction
        self._handles = handles

    def get(self, table: int, key: bytes) -> bytes | None:
        """Raises IntegrityError."""
        stored = self._transaction.get(key, db=self._handles[table])
        return None if stored is None else checked(table, key, stored)

    def truth(self) -> Iterator[Row]:
        """Every truth row. Raises IntegrityError."""
        for table in TRUTH:
            for key, value in _rows(self._transaction.cursor(db=self._handles[table]), table, b""):
                yield Row(table, key, value)


@contextmanager
def committed(path: Path) -> Iterator[Committed]:
    """See `Tables.committed`: of a catalog that another process has open for writing."""
    with store.open_environment(path, read_only=True, live=True) as environment:
        handles = store.open_tables(environment, create=False)
        with environment.begin() as transaction:
            yield Committed(transaction, handles)


def _rows(cursor: Any, table: int, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Rows from where the cursor is, while the key begins with `prefix`."""
    seed = SEEDS[table]
    for key, stored in cursor:
        if not key.startswith(prefix) or key == KEEPER:
            return
        value = stored[4:]
        if crc32c(key + value, seed) != int.from_bytes(stored[:4], "big"):
            raise failed(table)
        yield key, value
