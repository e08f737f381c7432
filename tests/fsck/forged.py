"""Drive directories with right checksums and whatever content one likes.

Everything is written by the encoders of shmr; where those refuse absurd fields, the bytes are
packed here, in the same layout, and sealed with the checksum that belongs to them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from crc32c import crc32c

from shmr.drive.directory import DirectoryDrive
from shmr.format import frame, superblock
from shmr.format.fragment import BLOCK, FragmentHeader, encode_footer, encode_table, file_name
from shmr.format.frame import Kind
from shmr.format.records import Commit, Opening, Stream, encode_meta, snapshot_end
from shmr.format.rows import Place, Row
from shmr.format.superblock import Superblock

FILESYSTEM = bytes(range(50, 66))
SHORT = int.from_bytes(FILESYSTEM[:8], "little")
POOL = bytes(range(70, 86))
PLACE = Place(1, 0, 4096, 9, 0)


def drive_id(index: int) -> bytes:
    return bytes([0xA0 + index]) * 16


class Forged:
    """A drive directory, as somebody with bad intentions leaves it."""

    def __init__(self, path: Path, index: int = 0, *, filesystem: bytes = FILESYSTEM) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.filesystem = filesystem
        self.drive = DirectoryDrive(path)
        self.id = drive_id(index)
        members = tuple(drive_id(one) for one in range(max(6, index + 1)))
        self.put_superblock(
            Superblock(filesystem, b"forged", POOL, b"cold", self.id, 1, 0, 0, 0, 7, members)
        )

    def put_superblock(self, block: Superblock) -> None:
        self.write(f"superblock-{block.generation:06}", block.encode())

    def write(self, name: str, content: bytes) -> None:
        (self.path / name).write_bytes(content)

    def segment(
        self,
        stream: int,
        number: int,
        payloads: Iterable[tuple[int, bytes]],
        *,
        owner: int = 0,
        position: int = 0,
    ) -> None:
        """Frames of these kinds and payloads behind a SEGMENT frame, chained as they should be."""
        opening = Opening(self.filesystem, stream, 2**20, 7, 0, 0, 0)
        chain, content = 0, bytearray()
        for sequence, (kind, payload) in enumerate(((Kind.SEGMENT, opening.encode()), *payloads)):
            is_data = kind == Kind.DATA
            chain, buffers = frame.encode(
                kind, int.from_bytes(self.filesystem[:8], "little"), number, sequence,
                owner if is_data else 0, position if is_data else 0, payload, chain,
            )  # fmt: skip
            content += b"".join(bytes(buffer) for buffer in buffers)
        self.write(f"{Stream(stream).name.lower()}-{number:012}", bytes(content))

    def snapshot(self, rows: Sequence[Row], number: int = 5) -> None:
        """A snapshot of these rows, which ends as one should."""
        metas = [encode_meta((), rows[at : at + 500]) for at in range(0, len(rows), 500)]
        self.raw_snapshot(metas, number)

    def raw_snapshot(self, metas: Iterable[bytes], number: int = 5, place: Place = PLACE) -> None:
        """A snapshot, of this place in the journal, whose META frames have these payloads."""
        end = snapshot_end(place)
        frames = [*((Kind.META, meta) for meta in metas), (Kind.COMMIT, end)]
        self.segment(Stream.SNAPSHOT, number, frames)

    def journal(self, metas: Iterable[bytes], number: int = 1) -> None:
        frames: list[tuple[int, bytes]] = []
        for meta in metas:
            frames += [(Kind.META, meta), (Kind.COMMIT, Commit(0, 100, 7, ()).encode())]
        self.segment(Stream.JOURNAL, number, frames)

    def fragment(
        self, header: FragmentHeader, units: Sequence[bytes], table: bytes | None = None
    ) -> None:
        """A fragment with this header, which must be possible, and whatever else."""
        if table is None:
            table = encode_table(())
        table = table.ljust(header.table_bytes, b"\0")
        sums = [sha256(unit).digest()[:16] for unit in units]
        sums += [bytes(16)] * (header.units - len(sums))
        content = header.encode() + b"".join(units)
        content = content.ljust(header.table_offset, b"\0") + table
        content += encode_footer(header, table, sums)
        self.write(file_name(header.segment, header.fragment, header.generation), content)


def bent_header(header: FragmentHeader, at: int, value: bytes) -> bytes:
    """A header with other bytes somewhere, and the checksum that belongs to them."""
    content = bytearray(header.encode())
    content[at : at + len(value)] = value
    return bytes(content[: BLOCK - 32]) + sha256(content[: BLOCK - 32]).digest()


def bent_superblock(payload: bytes) -> bytes:
    """A superblock whose payload is this, with the checksum that belongs to it."""
    rest = struct.pack("<III", len(payload), superblock.VERSION, 0) + payload
    return superblock.MAGIC + struct.pack("<I", crc32c(rest)) + rest
