"""Reads of file bytes: planned from extents alone, fetched and verified later, any thread.

Only bytes whose checksum matches are returned; of a mirror the next copy is tried, and the bad
one is reported to the store, whose cleaner moves the segment's data elsewhere. What lies in an
archived segment is gathered from its fragments (`shmr.log.gather`): planning touches no archive
drive, nor does any read that does not want such bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from crc32c import crc32c

from shmr.drive.seam import Buffer, DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format import frame
from shmr.format.archived import Archived
from shmr.format.frame import GRANULE, FrameHeader, Kind
from shmr.format.rows import Address, Extent
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.log.readahead import LEAST_BYTES, Readahead
from shmr.log.store import SegmentStore
from shmr.units import KIB

logger = logging.getLogger(__name__)

Background = Callable[[Callable[[], None]], None]
"""Runs a call that nobody waits for, in some thread."""
_HEADERS_MAX = 2048
_NEAR = 16 * KIB
"""Wanted bytes this near to the header are read together with it, in one call."""


class ReadPlan:
    """The bytes [offset, offset + size) of an inode as pieces, pinned until `release`.

    Call `release` exactly once, on the volume's thread.
    """

    __slots__ = ("_archived", "_files", "_reader", "inode", "pieces", "size")

    def __init__(self, reader: LogReader, inode: int, pieces: Sequence[Extent]) -> None:
        self.inode = inode
        self.pieces = pieces
        self.size = sum(piece.length for piece in pieces)
        self._reader = reader
        self._files: dict[int, tuple[DriveFile, ...]] = {}
        self._archived: dict[int, Archived] = {}
        try:
            for piece in pieces:
                at = piece.address
                if at is None:
                    continue
                if at.segment not in self._files:
                    files = reader.store.copies_of(at.segment)
                    if not files:
                        archived = reader.archived(at.segment)
                        if archived is not None:
                            self._archived[at.segment] = archived
                    reader.store.pin(at.segment)
                    self._files[at.segment] = files
                if piece.length >= LEAST_BYTES:
                    start = at.frame + at.skip
                    reader.read_ahead(at.segment, start, start + piece.length)
        except BaseException:
            self.release()
            raise

    def fetch_cached(self) -> Buffer | None:
        """The bytes if the page cache has them all, else None. Raises IntegrityError."""
        parts: list[Buffer] = []
        for piece in self.pieces:
            part = self._reader.part(self, piece, self._files, self._archived, cached=True)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fetch(self) -> Buffer:
        """The bytes; waits for the drive. Raises IntegrityError, DriveError."""
        parts: list[Buffer] = []
        for piece in self.pieces:
            part = self._reader.part(self, piece, self._files, self._archived, cached=False)
            assert part is not None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def release(self) -> None:
        for number in self._files:
            self._reader.store.unpin(number)
        self._files = {}


class LogReader:
    """Reads and verifies pieces; remembers verified headers for the next part of a frame.

    With a `background` it keeps drives a little ahead of streams of reads.
    """

    def __init__(
        self,
        store: SegmentStore,
        background: Background | None = None,
        gather: Gather | None = None,
    ) -> None:
        self.store = store
        self.gather = gather or Gather(FragmentStore(store.filesystem, {}))
        self.archived: Callable[[int], Archived | None] = lambda segment: None
        """What the catalog knows of an archived segment; set when there is a catalog."""
        self._background = background
        self._readahead = Readahead()
        self._headers: dict[tuple[int, int], FrameHeader] = {}

    def plan(self, inode: int, pieces: Sequence[Extent]) -> ReadPlan:
        """Raises DriveError if no copy of a needed segment can be opened."""
        return ReadPlan(self, inode, pieces)

    def read_cached(self, inode: int, extent: Extent, offset: int, length: int) -> Buffer | None:
        """Bytes inside one extent if the page cache has them and its header is remembered.

        The short way of the most frequent request; whatever is not plain is left to a plan, which
        also reports what does not verify. On the volume's thread, so nothing needs a pin.
        """
        at = extent.address
        if at is None:
            return bytes(length)
        segment, at_frame, payload, at_skip = at
        known = self._headers.get((segment, at_frame))
        if (
            known is None
            or known.owner != inode
            or known.length != payload
            or known.position + at_skip != extent.offset
        ):
            return None
        skip = at_skip + offset - extent.offset
        low = skip - skip % GRANULE
        size = skip + length - low
        if size <= GRANULE:
            size = min(GRANULE, payload - low)
        else:
            size = min(-(-size // GRANULE) * GRANULE, payload - low)
            if length >= LEAST_BYTES:
                self.read_ahead(segment, at_frame + skip, at_frame + skip + length)
        copies = self.store.copies_of(segment)
        if not copies:
            return None
        data = copies[0].read_cached(at_frame + frame.header_size(payload) + low, size)
        if data is None or len(data) != size:
            return None
        table, index = known.table, low // GRANULE
        view = memoryview(data)
        if size <= GRANULE:
            if crc32c(data) != table[index]:
                return None
        else:
            for start in range(0, size, GRANULE):
                if crc32c(view[start : start + GRANULE]) != table[index]:
                    return None
                index += 1
        return view[skip - low : skip - low + length]

    def read_ahead(self, segment: int, start: int, end: int) -> None:
        """These bytes of a segment are about to be read: have the next ones fetched."""
        wanted = self._readahead.note(segment, start, end) if self._background else None
        if wanted is not None and self._background is not None:
            for file in self.store.copies_of(segment)[:1]:
                self._background(partial(file.prefetch, *wanted))

    def part(
        self,
        plan: ReadPlan,
        piece: Extent,
        files: dict[int, tuple[DriveFile, ...]],
        archived: dict[int, Archived],
        *,
        cached: bool,
    ) -> Buffer | None:
        """The bytes of one piece, verified; None if `cached` and the cache has them not."""
        at = piece.address
        if at is None:
            return bytes(piece.length)
        if at.segment in archived:
            return self._gathered(piece, at, archived[at.segment], cached)
        failure: Exception | None = None
        for file in files[at.segment]:
            try:
                part = self._read(plan.inode, piece, file, cached)
            except (IntegrityError, DriveError) as error:
                failure = error
                logger.error(
                    "inode %d offset %d: bad copy in segment %d: %s",
                    plan.inode,
                    piece.offset,
                    at.segment,
                    error,
                )
                self.store.damaged[at.segment] = str(error)
                continue
            return part
        raise failure or IntegrityError(f"segment {at.segment} is missing")

    def _read(self, inode: int, piece: Extent, file: DriveFile, cached: bool) -> Buffer | None:
        at = piece.address
        assert at is not None
        read = file.read_cached if cached else file.read
        low = at.skip // GRANULE * GRANULE
        high = min(at.payload, -(-(at.skip + piece.length) // GRANULE) * GRANULE)
        key = at.segment, at.frame
        start = at.frame + frame.header_size(at.payload)
        header = self._headers.get(key)
        if header is not None:
            self._checked(header, inode, piece)
        if header is None and low <= _NEAR:
            block = read(at.frame, start - at.frame + high)
            if block is None:
                return None
            header = self._checked(frame.decode(block), inode, piece)
            data: Buffer = memoryview(block)[start - at.frame + low :]
        else:
            if header is None:
                first = read(at.frame, start - at.frame)
                if first is None:
                    return None
                header = self._checked(frame.decode(first), inode, piece)
            block = read(start + low, high - low)
            if block is None:
                return None
            data = block
        if len(data) != high - low:
            raise IntegrityError(f"segment {at.segment}: ends before offset {start + high}")
        frame.verify(header, data, low)
        self._remember(key, header)
        if len(data) == piece.length:
            return data
        return memoryview(data)[at.skip - low : at.skip - low + piece.length]

    def _gathered(
        self, piece: Extent, at: Address, archived: Archived, cached: bool
    ) -> Buffer | None:
        if (at.frame, at.payload) != (0, archived.used_bytes):
            raise IntegrityError(
                f"segment {at.segment} offset {at.frame}: a frame, but the segment is archived"
            )
        gather = self.gather.cached if cached else self.gather.read
        return gather(at.segment, archived, at.skip, piece.length)

    def _checked(self, header: FrameHeader, inode: int, piece: Extent) -> FrameHeader:
        """The header is the one that the extent means. Raises IntegrityError."""
        at = piece.address
        assert at is not None
        wanted = (Kind.DATA, self.store.short_id, at.segment, inode, at.payload)
        found = (header.kind, header.filesystem, header.segment, header.owner, header.length)
        if wanted != found or header.position + at.skip != piece.offset:
            raise IntegrityError(
                f"segment {at.segment} offset {at.frame}: another frame than the catalog says"
            )
        return header

    def _remember(self, key: tuple[int, int], header: FrameHeader) -> None:
        headers = self._headers
        if len(headers) >= _HEADERS_MAX:
            # Threads may do this at once: all of them leave it empty, none leaves it wrong.
            headers.clear()
        headers[key] = header
