"""One drive whose checksums are right and whose content is not: what a forger would write.

A directory with a superblock, a snapshot of any rows, and fragments of any headers. What goes into
it is gathered first: rows in any order, by methods that check nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgpack

from shmr.format import frame, records
from shmr.format.frame import Kind
from shmr.format.rows import ROOT, Dentry, Inode, Row, Table, key_of, key_pair
from shmr.format.superblock import Superblock

FILESYSTEM = bytes(range(16))
POOL = bytes(range(16, 32))
DRIVE = bytes(range(32, 48))
SHORT = int.from_bytes(FILESYSTEM[:8], "little")
NOW = 1_700_000_000_000_000_000


class ForgedDrive:
    """The directory `path`; `rows` go into its snapshot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        block = Superblock(FILESYSTEM, b"f", POOL, b"p", DRIVE, 1, 0, 0, 0, NOW, (DRIVE,))
        (path / "superblock-000001").write_bytes(block.encode())
        self.rows: list[Row] = []
        self.inode(ROOT, 0o040755)

    def inode(
        self, number: int, mode: int, size: int = 0, target: bytes = b"", **more: int
    ) -> None:
        times = {"atime_ns": NOW, "mtime_ns": NOW, "ctime_ns": NOW, "links": 1}
        fields = {"uid": 0, "gid": 0, "rdev": 0, "allocated": size, **times, **more}
        self.rows.append(Inode(number, mode=mode, size=size, target=target, **fields).row())

    def name(self, directory: int, name: bytes, inode: int) -> None:
        self.rows.append(Dentry(inode, 0, 8).row(directory, name))

    def extent(self, inode: int, offset: int, *fields: int) -> None:
        self.rows.append(Row(Table.EXTENT, key_pair(inode, offset), msgpack.packb(fields)))

    def archived(self, segment: int, *fields: object) -> None:
        self.rows.append(Row(Table.ARCHIVE, key_of(segment), msgpack.packb(fields)))

    def attribute(self, inode: int, name: bytes, content: bytes) -> None:
        self.rows.append(Row(Table.XATTR, key_of(inode) + name, msgpack.packb((content,))))

    def snapshot(
        self, number: int = 5, payloads: Sequence[bytes] | None = None, previous: int = 0
    ) -> None:
        """Write it, of the rows or of META frames with these payloads."""
        if payloads is None:
            self.rows.sort(key=lambda row: (row.table, row.key))
            payloads = [
                records.encode_meta((), self.rows[at : at + 500])
                for at in range(0, len(self.rows), 500)
            ]
        opening = records.Opening(FILESYSTEM, records.Stream.SNAPSHOT, 1 << 20, NOW, previous, 0, 0)
        frames = [
            (Kind.SEGMENT, opening.encode()),
            *((Kind.META, payload) for payload in payloads),
            (Kind.COMMIT, records.snapshot_end((1, 0, 0, 0, 0))),
        ]
        chain, content = 0, bytearray()
        for sequence, (kind, payload) in enumerate(frames):
            chain, buffers = frame.encode(kind, SHORT, number, sequence, 0, 0, payload, chain)
            for buffer in buffers:
                content += buffer
        (self.path / f"snapshot-{number:012}").write_bytes(content)

    def fragment(self, name: str, **fields: int) -> None:
        """A fragment's header with any numbers in it, and its checksum."""
        values = {
            "version": 1, "unit_bytes": 4096, "segment": 9, "generation": 1, "fragment": 0,
            "k": 1, "m": 0, "code": 0, "extents": 1, "zero": 0, "data_bytes": 4096,
            "used_bytes": 4096, "length": 20480, "created_ns": NOW, **fields,
        }  # fmt: skip
        before = [values["version"], values["unit_bytes"]]
        after = [value for key, value in values.items() if key not in ("version", "unit_bytes")]
        header = struct.pack("<8sII16sQI4BIIQQQQ", b"shmrfrag", *before, FILESYSTEM, *after)
        header = (header + DRIVE).ljust(4064, b"\0")
        header += sha256(header).digest()
        (self.path / name).write_bytes(header + bytes(4 * 4096))
