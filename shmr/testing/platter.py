"""What one simulated file has on the platter, and what a power cut leaves of the rest.

`surviving` is the heart of the simulated power cut: from what is on the platter and what was
written since, it picks one content that a disk may have afterwards. It decides by the random
generator that it is given and by nothing else. The fault model that this carries out is written in
`shmr.testing.drive`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SECTOR = 512


class Platter:
    """One file: what the platter has, and what only the page cache has."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.synced = bytearray()  # zeros follow, up to `size`
        self.shared = False  # `synced` belongs to another world too
        self.writes: list[tuple[int, bytes]] = []
        self.ghosts: list[tuple[int, bytes]] = []  # seen by readers, never to be written
        self.claiming = True
        self.sealing: int | None = None  # the end that a seal under way truncates to
        self.highest = 0  # the end of what was ever written

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        content = self.synced[offset:end]
        if len(content) < end - offset:
            content.extend(bytes(end - offset - len(content)))
        for overlay in (self.ghosts, self.writes):
            for start, data in overlay:
                low, high = max(start, offset), min(start + len(data), end)
                if low < high:
                    content[low - offset : high - offset] = data[low - start : high - start]
        return bytes(content)

    def write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, data))
        self.highest = max(self.highest, offset + len(data))

    def settle(self) -> None:
        """A sync succeeded: what was written is on the platter."""
        if self.writes:
            self._own()
            for offset, data in self.writes:
                if offset > len(self.synced):
                    self.synced.extend(bytes(offset - len(self.synced)))
                self.synced[offset : offset + len(data)] = data
            self.writes.clear()

    def lose_dirty(self, rng: random.Random) -> None:
        """A sync failed: the dirty pages are clean now, wherever their bytes are."""
        if self.writes:
            self.synced, self.shared = surviving(self.synced, self.writes, rng), False
            if rng.random() < 0.5:
                self.ghosts.extend(self.writes)
            self.writes.clear()

    def plant(self, offset: int, content: bytes) -> None:
        self._own()
        if offset + len(content) > len(self.synced):
            self.synced.extend(bytes(offset + len(content) - len(self.synced)))
        self.synced[offset : offset + len(content)] = content

    def copy(self) -> Platter:
        node = Platter(self.size)
        node.synced = self.synced
        node.shared = self.shared = True
        node.writes = self.writes.copy()
        node.ghosts = self.ghosts.copy()
        node.claiming = False
        node.highest = self.highest
        return node

    def after_power_cut(self, rng: random.Random) -> Platter | None:
        """One state that a power cut may leave, or None: the file is not there."""
        node = self.copy()
        node.ghosts = []
        if self.claiming:
            return self._half_claimed(node, rng)
        if self.sealing is not None and rng.random() < 0.5:
            node.settle()
            if rng.random() < 0.5:
                node.truncate(self.sealing)
        elif node.writes:
            node.synced, node.shared = surviving(node.synced, node.writes, rng), False
        node.writes = []
        del node.synced[node.size :]
        return node

    def truncate(self, size: int) -> None:
        self._own()
        del self.synced[size:]
        self.size = size

    @staticmethod
    def _half_claimed(node: Platter, rng: random.Random) -> Platter | None:
        shape = rng.randrange(4)
        if shape == 0:
            return None
        if shape == 1:
            node.size = 0
        elif shape == 2 and node.size <= 64 * 1024:
            node.synced, node.shared = bytearray(rng.randbytes(node.size)), False
        return node

    def _own(self) -> None:
        if self.shared:
            self.synced, self.shared = bytearray(self.synced), False


def surviving(
    synced: bytes | bytearray, writes: Sequence[tuple[int, bytes]], rng: random.Random
) -> bytearray:
    """One content that a file may have after a power cut.

    `synced` is on the platter; `writes` (offset, bytes) came after it, in this order. A sector is
    atomic and shows the file as it was after some number of the writes, chosen for each sector
    by itself; a sector beyond the synced content whose writes were all dropped may be garbage (a
    size without its data). Bytes of `synced` that no write covers are never touched. The content
    may be shorter than the file (what follows is zeros) or longer by less than a sector.
    """
    content = bytearray(synced)
    writes = [write for write in writes if write[1]]
    if not writes:
        return content
    low = min(offset for offset, _ in writes) // SECTOR
    high = max(offset + len(data) - 1 for offset, data in writes) // SECTOR + 1
    kept = _kept(writes, low, high, rng)
    if rng.random() < 0.15:
        _spill_garbage(content, low, kept, rng)
    whole = min(kept)
    for index, (offset, data) in enumerate(writes):
        if index < whole:
            _lay(content, offset, data)
            continue
        end = offset + len(data)
        first, last = offset // SECTOR, (end - 1) // SECTOR + 1
        start = None
        for sector in range(first, last + 1):
            if sector < last and kept[sector - low] > index:
                start = sector if start is None else start
            elif start is not None:
                from_byte, to_byte = max(offset, start * SECTOR), min(end, sector * SECTOR)
                _lay(content, from_byte, data[from_byte - offset : to_byte - offset])
                start = None
    return content


def _kept(
    writes: Sequence[tuple[int, bytes]], low: int, high: int, rng: random.Random
) -> list[int]:
    """For each sector from `low`, how many of the writes it saw."""
    count, sectors = len(writes), high - low

    def sectors_of(index: int) -> range:
        offset, data = writes[index]
        return range(offset // SECTOR - low, (offset + len(data) - 1) // SECTOR + 1 - low)

    shape = rng.randrange(7)
    if shape == 0:  # all of it was lucky
        return [count] * sectors
    if shape == 1:  # none
        return [0] * sectors
    if shape == 2:  # in order, the last one torn
        index = rng.randrange(count)
        kept = [index] * sectors
        for sector in sectors_of(index):
            kept[sector] += rng.randrange(2)
        return kept
    if shape == 3:  # one write lost in the middle of the others
        index = rng.randrange(count)
        kept = [count] * sectors
        for sector in sectors_of(index):
            kept[sector] = index
        return kept
    if shape == 4:  # one write made it before all others
        kept = [0] * sectors
        for sector in sectors_of(rng.randrange(count)):
            kept[sector] = count
        return kept
    if shape == 5:  # one sector is missing
        kept = [count] * sectors
        kept[rng.randrange(sectors)] = rng.randrange(count)
        return kept
    return [rng.randrange(count + 1) for _ in range(sectors)]  # every sector by itself


def _spill_garbage(content: bytearray, low: int, kept: list[int], rng: random.Random) -> None:
    """Put stale bytes into sectors that were allocated by a dropped write and hold nothing else."""
    synced = len(content)
    for sector, seen in enumerate(kept, low):
        if not seen and sector * SECTOR >= synced:
            _lay(content, sector * SECTOR, rng.randbytes(SECTOR))


def _lay(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
