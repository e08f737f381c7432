"""A workspace segment being written: frames appended to as many copies as the pool keeps.

The chain (each header carries the checksum of the one before) begins with the SEGMENT frame.
A failed append leaves the copies' ends unknown; whoever holds the writer must not append again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shmr.drive.seam import Buffer, DriveFile
from shmr.format import frame
from shmr.format.frame import GRANULE, LENGTH_MAX, Kind
from shmr.format.records import Opening

FRAME_MIN = frame.frame_size(GRANULE)
"""A segment with less room than this counts as full."""


class SegmentWriter:
    """Appends frames to one segment, in order.

    `end` is the offset of the next frame, `chain` the checksum of the last header, `last` its
    offset, `sequence` the number the next frame gets, `synced` the offset known durable and
    `synced_chain` the checksum of the last header before it.
    """

    def __init__(
        self,
        filesystem: int,
        number: int,
        size_bytes: int,
        files: Sequence[DriveFile],
        opening: Opening,
        sequence: int,
    ) -> None:
        self.number = number
        self.stream = opening.stream
        self.size_bytes = size_bytes
        self.files = tuple(files)
        self.end = 0
        self.last = 0
        self.chain = opening.previous_chain
        self.sequence = sequence
        self.synced = 0
        self.synced_chain = 0
        self.full = False
        self.hastened = 0
        """The offset up to which the drives were asked to begin writing."""
        self._filesystem = filesystem
        self.append(Kind.SEGMENT, 0, 0, opening.encode())

    def room(self) -> int:
        """Payload bytes that a next frame may have; 0 when the segment is full."""
        left = self.size_bytes - self.end
        if left < FRAME_MIN:
            return 0
        return min(LENGTH_MAX, left - frame.HEADER_MAX - frame.ALIGNMENT)

    def fitting(self, lengths: Sequence[int]) -> int:
        """How many frames with payloads of these lengths, in this order, still find room."""
        end, count = self.end, 0
        for length in lengths:
            room = self.size_bytes - end - frame.HEADER_MAX - frame.ALIGNMENT
            if self.size_bytes - end < FRAME_MIN or length > min(LENGTH_MAX, room):
                break
            end += frame.frame_size(length)
            count += 1
        return count

    def append(self, kind: Kind, owner: int, position: int, payload: bytes | memoryview) -> int:
        """Append one frame to every copy; returns the offset of its header.

        Raises DriveError. Not durable before `sync`.
        """
        self._append(self._encoded(kind, owner, position, payload))
        return self.last

    def append_journal(self, frames: Sequence[tuple[Kind, bytes]]) -> None:
        """Append frames that have no owner, in one write to every copy. Raises DriveError."""
        buffers: list[Buffer] = []
        for kind, payload in frames:
            buffers += self._encoded(kind, 0, 0, payload)
        self._append(buffers)

    def _encoded(
        self, kind: Kind, owner: int, position: int, payload: bytes | memoryview
    ) -> Sequence[Buffer]:
        """The bytes of the next frame, which counts as appended."""
        chain, buffers = frame.encode(
            kind,
            self._filesystem,
            self.number,
            self.sequence,
            owner,
            position,
            payload,
            self.chain,
        )
        self.last = self.end
        self.chain = chain
        self.sequence += 1
        self.end += frame.frame_size(len(payload))
        return buffers

    def _append(self, buffers: Sequence[Buffer]) -> None:
        for file in self.files:
            file.append(buffers)

    def hasten(self) -> Callable[[], None]:
        """A call that has the drives begin to write what was appended since the last one."""
        start, length = self.hastened, self.end - self.hastened
        self.hastened = self.end

        def begin() -> None:
            for file in self.files:
                file.write_back(start, length)

        return begin

    def sync(self) -> None:
        """Make what was appended durable on every copy. Any thread; raises DriveError."""
        for file in self.files:
            if self.full:
                file.seal()
            else:
                file.sync()

    def close(self) -> None:
        for file in self.files:
            file.close()
