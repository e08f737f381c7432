"""The bytes of a model file: sparse, immutable, cheap to keep many versions of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

CHUNK = 4096
SHOWN_MAX = 64
WHOLE_MAX = 16 * 1024 * 1024
WINDOW = 64 * 1024


@dataclass(frozen=True, slots=True)
class Content:
    """`size` bytes; those of no chunk are zeros. Every change gives a new value."""

    size: int = 0
    chunks: dict[int, bytes] = field(default_factory=dict)

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // CHUNK, (end - 1) // CHUNK
        content = b"".join(self.chunks.get(at, _ZEROS) for at in range(first, last + 1))
        return content[offset - first * CHUNK : end - first * CHUNK]

    def write(self, offset: int, payload: bytes) -> Content:
        if not payload:
            return self
        chunks = self.chunks.copy()
        end = offset + len(payload)
        for at in range(offset // CHUNK, (end - 1) // CHUNK + 1):
            start = at * CHUNK
            low, high = max(offset, start), min(end, start + CHUNK)
            chunk = bytearray(chunks.get(at, _ZEROS))
            chunk[low - start : high - start] = payload[low - offset : high - offset]
            chunks[at] = bytes(chunk)
        return Content(max(self.size, end), chunks)

    def truncate(self, size: int) -> Content:
        if size >= self.size:
            return Content(size, self.chunks)
        chunks = {at: chunk for at, chunk in self.chunks.items() if at * CHUNK < size}
        edge = size // CHUNK
        if edge in chunks:
            chunks[edge] = chunks[edge][: size % CHUNK].ljust(CHUNK, b"\0")
        return Content(size, chunks)


_ZEROS = bytes(CHUNK)


def windows(size: int) -> list[tuple[int, int]]:
    """The ranges (offset, length) by which files of `size` bytes are compared.

    Everything, in steps, up to 16 MiB. Of larger files, which no test writes full, 64 KiB at the
    start, at the end, and before and behind every power of two.
    """
    if size <= WHOLE_MAX:
        return [(at, min(1 << 20, size - at)) for at in range(0, size, 1 << 20)]
    starts = {0, size - WINDOW}
    for power in range(16, size.bit_length()):
        starts |= {(1 << power) - WINDOW, 1 << power}
    return [(at, min(WINDOW, size - at)) for at in sorted(starts)]


class Summary:
    """What is compared of a file's bytes: themselves when they are few, else their digest."""

    def __init__(self) -> None:
        self._start = b""
        self._length = 0
        self._digest = hashlib.sha256()

    def add(self, content: bytes) -> None:
        if len(self._start) <= SHOWN_MAX:
            self._start += content[: SHOWN_MAX + 1]
        self._length += len(content)
        self._digest.update(content)

    def value(self) -> bytes:
        if self._length <= SHOWN_MAX:
            return self._start
        return b"sha256:" + self._digest.hexdigest().encode()
