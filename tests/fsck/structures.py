"""Every byte of a subject, by what FORMAT.md says it is.

A `Piece` is a run of bytes of one class in one file. Together the pieces of a file cover it, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from shmr.archive import leave
from shmr.errors import IntegrityError
from shmr.format import frame
from shmr.format.fragment import BLOCK, FragmentHeader, decode_header
from shmr.format.frame import Kind
from shmr.testing.drive import SimulatedDrive
from tests.fsck.lmdb_pages import runs_of
from tests.fsck.subject import Subject

CATALOG = ""
"""In the place of a drive's label: a file of the catalog."""
_FRAME = (("checksum", 4), ("version", 1), ("kind", 1), ("reserved 6", 2), ("filesystem", 8),
          ("segment", 8), ("sequence", 8), ("owner", 8), ("position", 8), ("length", 4),
          ("previous", 4), ("reserved 56", 8))  # fmt: skip
_SUPERBLOCK = (("magic", 8), ("checksum", 4), ("length", 4), ("version", 4), ("reserved", 4))
_FRAGMENT = (("magic", 8), ("version", 4), ("unit_bytes", 4), ("filesystem", 16), ("segment", 8),
             ("generation", 4), ("fragment", 1), ("k", 1), ("m", 1), ("code", 1), ("extents", 4),
             ("reserved 52", 4), ("data_bytes", 8), ("used_bytes", 8), ("length", 8),
             ("created_ns", 8))  # fmt: skip


class Piece(NamedTuple):
    """`length` bytes at `offset` of the file `name` on `drive` (a label, or CATALOG)."""

    kind: str
    drive: str
    name: str
    offset: int
    length: int


class Flip(NamedTuple):
    """Bit `bit` (0..7) of byte `at` of a piece."""

    piece: Piece
    at: int
    bit: int

    def __str__(self) -> str:
        piece = self.piece
        where = f"{piece.drive or 'catalog'}/{piece.name}"
        return f"{piece.kind}: bit {self.bit} of byte {piece.offset + self.at} of {where}"


def pieces_of(subject: Subject) -> list[Piece]:
    """All of them: of the drives in their order, then of the catalog."""
    found = []
    for index, drive in enumerate(subject.world.drives):
        for name in sorted(drive.names()):
            content = _content(drive, name)
            for kind, offset, length in _runs(name, content, archived=index >= subject.copies):
                if length:
                    found.append(Piece(kind, drive.label, name, offset, length))
    for name, content in sorted(subject.files.items()):
        if name == "data.mdb":
            runs = [(f"lmdb {run.kind}", run.offset, run.length) for run in runs_of(content)]
        else:
            runs = [("digest", 0, len(content))]
        found += [Piece(kind, CATALOG, name, *rest) for kind, *rest in runs if rest[1]]
    return found


def covered(subject: Subject, pieces: list[Piece]) -> Counter[tuple[str, str]]:
    """How many bytes of each file the pieces have."""
    total: Counter[tuple[str, str]] = Counter()
    for piece in pieces:
        total[piece.drive, piece.name] += piece.length
    return total


def _content(drive: SimulatedDrive, name: str) -> bytes:
    return drive.open(name).read(0, drive.size(name))


_Runs = Iterator[tuple[str, int, int]]


def _runs(name: str, content: bytes, *, archived: bool) -> _Runs:
    where = "archive " if archived else ""
    if name.startswith("superblock"):
        yield from _fields(f"{where}superblock", _SUPERBLOCK, 0)
        yield f"{where}superblock payload", 24, len(content) - 24
    elif name.startswith("fragment"):
        yield from _fragment(content)
    elif name in leave.NAMES:
        yield "left for whoever finds the drive", 0, len(content)
    else:
        stream = name.split("-")[0]
        yield from _segment(f"kept {stream}" if archived else stream, content)


def _fields(where: str, fields: tuple[tuple[str, int], ...], at: int) -> _Runs:
    for name, length in fields:
        yield f"{where} {name}", at, length
        at += length


def _segment(stream: str, content: bytes) -> _Runs:
    """Frames as far as they verify, then what is claimed and not used."""
    at = 0
    while at < len(content):
        try:
            header = frame.decode(content[at:])
        except IntegrityError:
            break
        kind = f"{stream} {Kind(header.kind).name}"
        yield from _fields(f"{kind} header", _FRAME, at)
        table = 4 * len(header.table)
        yield f"{kind} header granules", at + frame.SIZE, table
        size = frame.header_size(header.length)
        yield f"{kind} header padding", at + frame.SIZE + table, size - frame.SIZE - table
        yield f"{kind} payload", at + size, header.length
        end = frame.frame_size(header.length)
        yield f"{kind} padding", at + size + header.length, end - size - header.length
        at += end
    yield f"{stream} behind the last frame", at, len(content) - at


def _fragment(content: bytes) -> _Runs:
    header = decode_header(content)
    unit = "data unit" if header.fragment < header.k else "parity unit"
    yield from _fragment_header("fragment header", header, 0)
    for at in range(0, header.data_bytes, header.unit_bytes):
        yield unit, BLOCK + at, min(header.unit_bytes, header.data_bytes - at)
    entries = 32 * header.extents
    yield "fragment table", header.table_offset, entries
    yield "fragment table padding", header.table_offset + entries, header.table_bytes - entries
    at = header.footer_offset
    yield from _fragment_header("fragment footer's header", header, at)
    yield "fragment footer table digest", at + BLOCK, 32
    yield "fragment footer sums", at + BLOCK + 32, 16 * header.units
    padding = at + BLOCK + 32 + 16 * header.units
    yield "fragment footer padding", padding, header.length - 40 - padding
    yield "fragment footer size", header.length - 40, 8
    yield "fragment footer checksum", header.length - 32, 32


def _fragment_header(where: str, header: FragmentHeader, at: int) -> _Runs:
    yield from _fields(where, _FRAGMENT, at)
    ids = 16 * len(header.drives)
    yield f"{where} drives", at + 88, ids
    yield f"{where} reserved", at + 88 + ids, BLOCK - 32 - 88 - ids
    yield f"{where} checksum", at + BLOCK - 32, 32
