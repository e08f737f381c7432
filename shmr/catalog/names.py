"""Names that were lately looked up, decoded: what each was, or that there was none.

The kernel looks a name up before it creates, unlinks or renames it, and each of these reads the
dentry again to check it and to derive from it. What is kept changes with every change of a dentry,
so it never disagrees with the table.
"""

from __future__ import annotations

from typing import Final

from shmr.format.rows import Dentry

NAMES_MAX = 8192
"""Some 3 MiB."""


class Unknown:
    """Nothing is remembered of a name, which says nothing of the table."""


UNKNOWN: Final = Unknown()


class RecentNames:
    """Key of a dentry -> the dentry, or None where the directory has no such name."""

    __slots__ = ("_dentries",)

    def __init__(self) -> None:
        self._dentries: dict[bytes, Dentry | None] = {}

    def find(self, key: bytes) -> Dentry | Unknown | None:
        return self._dentries.get(key, UNKNOWN)

    def keep(self, key: bytes, dentry: Dentry | None) -> None:
        """Remember what the table says now."""
        if len(self._dentries) >= NAMES_MAX:
            self._dentries.clear()
        self._dentries[key] = dentry
