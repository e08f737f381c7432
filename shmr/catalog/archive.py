"""Rows of archived segments, decoded and remembered: a read asks for one each time.

What is remembered is forgotten as soon as its row changes, so this never disagrees with the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.catalog.tables import Tables
from shmr.format.archived import Archived, decode_archived
from shmr.format.rows import Table, key_of, split_key

KNOWN_MAX = 4096
"""Rows kept decoded: some 3 MiB with ten fragments each."""
_ARCHIVE = int(Table.ARCHIVE)
_LAST = b"\xff" * 8


class ArchiveRows:
    """Segment number -> what is known of it, if it is archived."""

    __slots__ = ("_known", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._known: dict[int, Archived] = {}

    def find(self, segment: int) -> Archived | None:
        """Raises IntegrityError if the row is damaged."""
        archived = self._known.get(segment)
        if archived is None:
            value = self._tables.get(_ARCHIVE, key_of(segment))
            if value is None:
                return None
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            archived = self._known[segment] = decode_archived(value)
        return archived

    def all(self) -> Iterator[tuple[int, Archived]]:
        """Every archived segment, by number. The table must not change meanwhile."""
        for key, value in self._tables.scan(_ARCHIVE, b""):
            yield split_key(key), decode_archived(value)

    def end(self) -> int:
        """A number above that of every archived segment."""
        row = self._tables.last_at(_ARCHIVE, _LAST)
        return 1 if row is None else split_key(row[0]) + 1

    def forget(self, segment: int) -> None:
        """Its row changes."""
        self._known.pop(segment, None)
