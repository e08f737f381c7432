"""Inodes, decoded: those that were read lately, and those that changed and are not written yet.

An inode changes several times in a row: a file is made, written, given its times; a directory
changes with every name in it. Its row is only needed where somebody reads the table, and where the
journal gets a batch. So a change stays here, and is encoded once for both:

- Whoever asks for an inode sees its last change. The table itself is read (`get`, `scan`, `count`
  of `Table.INODE`) only after the catalog has written what is here.
- Written before a batch is handed out and before the epoch is committed: with both the change
  would go otherwise, and it is in both or in none. The transaction is not committed earlier, so
  writing late loses nothing that writing at once would have kept.
- At most `CHANGED_MAX` changes wait here, and `size_bytes` of them count as part of the batch.
- Nothing leaves before all of it is written. Where writing fails it may be tried again, as the
  rows are absolute; whoever is in the middle of an operation then poisons the volume.
"""

from __future__ import annotations

from collections.abc import Iterator

from shmr.format.rows import Inode, Table, key_of

KNOWN_MAX = 8192
"""Decoded inodes kept: a parent directory is needed by every request in it."""
CHANGED_MAX = 1024
"""So many rows are written in a few milliseconds."""
_INODE = int(Table.INODE)
_ROW_BYTES = 160
"""What a row without the target takes in a batch, at most: 13 numbers of up to 9 bytes, the key."""


class Inodes:
    """Number -> inode, for a part of them."""

    __slots__ = ("changed", "known", "size_bytes")

    def __init__(self) -> None:
        self.known: dict[int, Inode] = {}
        """As they are now; none that is gone."""
        self.changed: dict[int, Inode | None] = {}
        """Not written yet; None is one that goes."""
        self.size_bytes = 0
        """What the changes will take in a batch, at most."""

    def read(self, inode: Inode) -> None:
        """Keep what the table says, for one that has no change here."""
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        self.known[inode.number] = inode

    def change(self, inode: Inode) -> None:
        number = inode[0]
        if number not in self.changed:
            self.size_bytes += _ROW_BYTES + len(inode.target)
            if len(self.known) >= KNOWN_MAX:
                self.known.clear()
        self.known[number] = self.changed[number] = inode

    def remove(self, number: int) -> None:
        self.known.pop(number, None)
        if number not in self.changed:
            self.size_bytes += _ROW_BYTES
        self.changed[number] = None

    def replayed(self, number: int) -> None:
        """The row was written past this: by the journal, when nothing can be waiting here."""
        assert not self.changed, "a journal is replayed before anything changes"
        self.known.pop(number, None)

    def rows(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """What is to be written: table, key, value."""
        for number, inode in self.changed.items():
            yield _INODE, key_of(number), None if inode is None else inode.encode()

    def written(self) -> None:
        """All of `rows` is in the transaction and in the batch."""
        self.changed.clear()
        self.size_bytes = 0
