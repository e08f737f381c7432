"""What to read before it is asked for: the decision, over plain numbers.

The kernel reads ahead in the mount, but in requests that each wait for the drive; on the drive's
own file it sees reads that do not wait (RWF_NOWAIT) and reads little ahead. So a stream of large
reads through a file, of a segment or of a fragment, is recognised here, and the drive kept a window
ahead of it.
"""

from __future__ import annotations

from collections.abc import Hashable

from shmr.units import KIB, MIB

LEAST_BYTES = 64 * KIB
"""Smaller reads are no stream."""
WINDOW_BYTES = 16 * MIB
SLACK_BYTES = 2 * MIB
"""Requests of one stream overtake each other by as much."""
_STREAMS_MAX = 64


class Readahead:
    """Streams through files: where each is, and how far ahead of it the drive was told."""

    def __init__(self) -> None:
        self._streams: dict[Hashable, tuple[int, int]] = {}

    def note(self, file: Hashable, start: int, end: int) -> tuple[int, int] | None:
        """Bytes [start, end) of a file are read: the (offset, length) to fetch now, or None."""
        known = self._streams.get(file)
        if known is None or not known[0] - SLACK_BYTES <= start <= known[0] + SLACK_BYTES:
            if len(self._streams) >= _STREAMS_MAX:
                self._streams.clear()
            self._streams[file] = end, end
            return None
        position, ahead = max(known[0], end), known[1]
        if ahead - position >= WINDOW_BYTES // 2:
            self._streams[file] = position, ahead
            return None
        begin, until = max(ahead, position), position + WINDOW_BYTES
        self._streams[file] = position, until
        return begin, until - begin
