"""Names that were lately looked up, decoded: what each was, or that there was none.

The kernel looks a name up before it creates, unlinks or renames it, and each of these reads the
dentry again to check it and to derive from it. What is kept changes with every change of a dentry,
so it never disagrees with the table.
"""

from __future__ import annotations

from shmr.format.rows import Dentry

NAMES_MAX = 8192
"""Some 3 MiB."""


class RecentNames:
    """Key of a dentry -> the dentry, or None where the directory has no such name."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[bytes, Dentry | None] = {}

    def keep(self, key: bytes, dentry: Dentry | None) -> None:
        """Remember what the table says now."""
        if len(self.known) >= NAMES_MAX:
            self.known.clear()
        self.known[key] = dentry
