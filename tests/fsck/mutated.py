"""A small filesystem of every structure, mutated by a string of bytes, sealed anew, and decoded.

The drives are in memory. What the bytes say is done to the parts of files: a payload, a header, a
row's field; then each part gets the checksum that belongs to it, so that what is behind checksums
is reached. One string of bytes is one case, for ever.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

from shmr.errors import DriveError, ShmrError
from shmr.format import frame
from shmr.format.fragment import BLOCK, decode_header
from shmr.format.frame import Kind
from shmr.format.rows import ROOT
from shmr.format.superblock import Superblock
from shmr.fsck.decoding.decode import decoded, listed
from shmr.fsck.salvaging.foreign import recognized
from shmr.fsck.salvaging.untrusted import OnlyRead
from shmr.testing.trial import FILESYSTEM
from tests.archive.site import ME, Site, pool_of, small_limits
from tests.fsck.forged import bent_superblock

DRIVES = 4
NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 4095, 4096, 2**16, 2**20, 2**31, 2**32 - 1, 2**32, 2**40,
           2**62, 2**63 - 1, 2**63, 2**64 - 1, -1, -(2**63))  # fmt: skip
NAMES = (
    b"",
    b".",
    b"..",
    b"/",
    b"a/b",
    b"../../x",
    b"\0",
    b"file1",
    b"x" * 255,
    b"\x1b[2J",
    b"\xff",
)


class Choices:
    """A string of bytes as a row of choices; zeros when there are no more."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def number(self, below: int) -> int:
        """One of 0..below - 1."""
        if below <= 1:
            return 0
        size = 1 if below <= 256 else 4
        return int.from_bytes(self.bytes(size), "little") % below

    def bytes(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    @property
    def left(self) -> bool:
        return self._at < len(self._content)

    def one_of(self, some: Any) -> Any:
        return some[self.number(len(some))]


# -- files as parts -------------------------------------------------------------------------------


@dataclass
class Frames:
    """A workspace segment: kind, sequence, owner, position and payload of each frame."""

    number: int
    frames: list[tuple[int, int, int, int, bytes]]

    def encode(self) -> bytes:
        short = int.from_bytes(FILESYSTEM[:8], "little")
        chain, content = self._before(), []
        for kind, sequence, owner, position, payload in self.frames:
            payload = payload[: frame.LENGTH_MAX]
            chain, buffers = frame.encode(
                kind, short, self.number, sequence, owner, position, payload, chain
            )
            content += buffers
        return b"".join(bytes(one) for one in content)

    def _before(self) -> int:
        """What the SEGMENT frame says that the frame before it has for a checksum."""
        try:
            return int(msgpack.unpackb(self.frames[0][4], raw=True)[6]) & 0xFFFFFFFF
        except Exception:
            return 0


@dataclass
class Fragment:
    header: bytes
    data: bytes
    table: bytes
    sums: bytes

    def encode(self) -> bytes:
        header = self.header[: BLOCK - 32]
        header += sha256(header).digest()
        table = self.table
        footer_bytes = -(-(BLOCK + 32 + len(self.sums) + 40) // BLOCK) * BLOCK
        content = header + sha256(table).digest() + self.sums
        content = content.ljust(footer_bytes - 40, b"\0") + struct.pack("<Q", footer_bytes)
        return header + self.data + table + content + sha256(content).digest()


@dataclass
class Identity:
    payload: bytes

    def encode(self) -> bytes:
        return bent_superblock(self.payload[:65_000])


@dataclass
class Raw:
    content: bytes

    def encode(self) -> bytes:
        return self.content


Parts = Frames | Fragment | Identity | Raw


def parts_of(name: str, content: bytes) -> Parts:
    """A file of the original image, taken apart."""
    if name.startswith("superblock"):
        return Identity(content[24:])
    if name.startswith("fragment"):
        header = decode_header(content)
        sums = header.footer_offset + BLOCK + 32
        return Fragment(
            content[:BLOCK],
            content[BLOCK : header.table_offset],
            content[header.table_offset : header.footer_offset],
            content[sums : sums + 16 * header.units],
        )
    if not name.startswith(("journal", "data", "snapshot")):
        return Raw(content)
    frames, at = [], 0
    while at + frame.SIZE <= len(content):
        try:
            found = frame.decode(content[at : at + frame.HEADER_MAX])
        except ShmrError:
            break
        start = at + frame.header_size(found.length)
        payload = content[start : start + found.length]
        frames.append((found.kind, found.sequence, found.owner, found.position, payload))
        at += frame.frame_size(found.length)
    return Frames(int(name.rpartition("-")[2]), frames)


@cache
def original() -> tuple[dict[str, bytes], ...]:
    """The files of each drive: the workspace, and three of an archive pool 2+1."""
    place = Path(tempfile.mkdtemp(prefix="shmr-original-"))
    try:
        with small_limits():
            pool = pool_of("2+1", drives=3)
            site = Site(place, pool)
            volume = site.open()
            _fill(site, volume)
            site.shift(volume, pool)
            site.write(volume, b"later", b"not archived" * 500)
            volume.close()
        ids = [bytes([9]) * 16, *pool.drives]
        images = []
        for index, drive in enumerate(site.world.drives):
            image = {}
            for name in drive.names():
                file = drive.open(name)
                image[name] = bytes(file.read(0, drive.size(name)))
                file.close()
            members = tuple(ids[:1] if index == 0 else ids[1:])
            name, pool_id = (b"work", bytes([8]) * 16) if index == 0 else (b"cold", pool.id)
            block = Superblock(
                FILESYSTEM, b"mutated", pool_id, name, ids[index], 1, 0, 0, 0, 7, members
            )
            image["superblock-000001"] = block.encode()
            images.append(image)
        return tuple(images)
    finally:
        shutil.rmtree(place)


def _fill(site: Site, volume: Any) -> None:
    site.fill(volume, count=6, most=20_000)
    names = volume.names
    top = names.create(ROOT, b"directory", stat.S_IFDIR | 0o755, ME).number
    below = names.create(top, b"below", stat.S_IFDIR | 0o700, ME).number
    names.create(below, b"link", stat.S_IFLNK | 0o777, ME, target=b"../../file1")
    names.create(top, b"fifo", stat.S_IFIFO | 0o600, ME)
    names.link(site.numbers[b"file1"], below, b"another name")
    volume.xattrs.set(site.numbers[b"file2"], b"user.a", b"attribute")


# -- drives ---------------------------------------------------------------------------------------


class _File:
    def __init__(self, name: str, content: bytes) -> None:
        self.name, self.end, self._content = name, 0, content

    def read(self, offset: int, length: int) -> bytes:
        # As pread(2) does, and as Python does before it is called.
        if not (0 <= offset < 2**63 and 0 <= length < 2**31):
            raise OverflowError(f"read of {length} bytes at {offset}")
        return self._content[offset : offset + length]

    def read_cached(self, offset: int, length: int) -> None:
        return None

    def prefetch(self, offset: int, length: int) -> None: ...

    def close(self) -> None: ...


class _Memory:
    """A drive in memory, to be read."""

    def __init__(self, label: str, files: dict[str, bytes]) -> None:
        self.label, self._files = label, files

    def device(self) -> int:
        return 1

    def names(self) -> list[str]:
        return list(self._files)

    def _content(self, name: str) -> bytes:
        if name not in self._files:
            raise DriveError(self.label, "open", OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
        return self._files[name]

    def size(self, name: str) -> int:
        return len(self._content(name))

    def open(self, name: str, *, end: int = 0) -> _File:
        return _File(name, self._content(name))

    def get(self, name: str) -> bytes:
        return self._content(name)[: 1 << 16]

    def close(self) -> None: ...


# -- mutations ------------------------------------------------------------------------------------


def mutated(content: bytes) -> list[dict[str, bytes]]:
    """The image after what these bytes say was done to it."""
    choices = Choices(content)
    images: list[dict[str, bytes | Parts]] = [dict(image) for image in original()]
    missing = choices.number(8)
    if missing < 5:
        # Without the workspace it is snapshots and footers that count.
        images[0].clear()
    if missing == 1:
        images[1 + choices.number(3)].clear()
    for _ in range(12):
        if not choices.left:
            break
        image = choices.one_of([image for image in images if image] or [{}])
        if not image:
            break
        name = choices.one_of(sorted(image))
        _mutate(image, name, choices, images)
        if name in image and choices.number(4):
            # All copies alike: a good one would be read instead.
            for other in images:
                if name in other:
                    other[name] = image[name]
    return [{name: _sealed(parts) for name, parts in image.items()} for image in images]


def _sealed(parts: bytes | Parts) -> bytes:
    return parts if isinstance(parts, bytes) else parts.encode()


def _mutate(image: dict[str, Any], name: str, choices: Choices, images: list[Any]) -> None:
    how = choices.number(16)
    if how == 0:
        del image[name]
    elif how == 1:
        image[choices.one_of(sorted(image))] = _sealed(image[name])
    elif how == 2:
        choices.one_of(images)[name] = _sealed(image[name])
    elif how == 3:
        raw = bytearray(_sealed(image[name]))
        if raw:
            raw[choices.number(len(raw))] ^= 1 << choices.number(8)
        image[name] = bytes(raw)
    elif how == 4:
        image[name] = _sealed(image[name])[: choices.number(1 + len(_sealed(image[name])))]
    elif how == 5:
        image.clear()
    else:
        if isinstance(image[name], bytes):
            try:
                image[name] = parts_of(name, image[name])
            except ShmrError:
                image[name] = Raw(image[name])
        _mutate_parts(image[name], choices)


def _mutate_parts(parts: Parts, choices: Choices) -> None:
    if isinstance(parts, Raw):
        parts.content = _bent(parts.content, choices)
    elif isinstance(parts, Identity):
        parts.payload = _packed_bent(parts.payload, choices)
    elif isinstance(parts, Fragment):
        field = choices.one_of(("header", "header", "data", "table", "table", "sums"))
        value = getattr(parts, field)
        if field == "header":
            at = choices.one_of((8, 12, 16, 32, 40, 44, 45, 46, 47, 48, 56, 64, 72, 80, 88, 600))
            number = choices.one_of(NUMBERS) & 2**64 - 1
            size = choices.one_of((1, 4, 8))
            new = number.to_bytes(8, "little")[:size]
            value = value[:at] + new + value[at + size :]
        else:
            value = _bent(value, choices, keep_length=field != "sums")
        setattr(parts, field, value)
    elif parts.frames:
        _mutate_frames(parts, choices)


def _mutate_frames(parts: Frames, choices: Choices) -> None:
    at = choices.number(len(parts.frames))
    kind, sequence, owner, position, payload = parts.frames[at]
    how = choices.number(8)
    if how == 0:
        del parts.frames[at]
    elif how == 1:
        parts.frames.insert(at, parts.frames[at])
    elif how == 2:
        kind = choices.one_of(list(Kind))
    elif how == 3:
        number = choices.one_of(NUMBERS) & 2**64 - 1
        if choices.number(2):
            sequence = number
        else:
            owner = position = number
    elif kind == Kind.DATA:
        payload = _bent(payload, choices)
    elif kind == Kind.META and how < 7:
        payload = _meta_bent(payload, choices)
    else:
        payload = _packed_bent(payload, choices)
    if how >= 2:
        parts.frames[at] = kind, sequence, owner, position, payload


def _meta_bent(payload: bytes, choices: Choices) -> bytes:
    """One field of one row is another; or a row is made, goes, or is there twice."""
    try:
        drops, rows = msgpack.unpackb(payload, raw=True)
        row = choices.one_of(rows)
        how = choices.number(6)
        if how == 0:
            rows.remove(row)
        elif how == 1:
            rows.append([row[0], _bent(row[1], choices), row[2]])
        elif how == 2:
            row[1] = row[1][:8] + choices.one_of(NAMES)
        elif how == 3:
            number = choices.one_of(NUMBERS) & 2**64 - 1
            row[1] = number.to_bytes(8, "big") + row[1][8:]
        elif row[2] is not None:
            row[2] = _packed_bent(row[2], choices)
        if choices.number(8) == 0:
            drops.append([choices.number(9), choices.one_of(NUMBERS), choices.one_of(NUMBERS)])
        return bytes(msgpack.packb([drops, rows]))
    except Exception:
        return _bent(payload, choices)


def _packed_bent(payload: bytes, choices: Choices) -> bytes:
    """An array of msgpack with another field."""
    try:
        fields = msgpack.unpackb(payload, raw=True)
        if not isinstance(fields, list) or not fields or choices.number(8) == 0:
            return _bent(payload, choices)
        at = choices.number(len(fields))
        how = choices.number(6)
        if how == 0:
            del fields[at]
        elif how == 1:
            fields.insert(at, fields[at])
        elif how == 2:
            fields[at] = choices.one_of(NAMES)
        elif isinstance(fields[at], bytes) and fields[at]:
            fields[at] = _bent(fields[at], choices)
        elif isinstance(fields[at], list):
            fields[at] = fields[at] * choices.number(4)
        elif how == 3 and isinstance(fields[at], int):
            fields[at] += choices.number(9) - 4
        else:
            fields[at] = choices.one_of(NUMBERS)
        return bytes(msgpack.packb(fields))
    except Exception:
        return _bent(payload, choices)


def _bent(content: bytes, choices: Choices, *, keep_length: bool = False) -> bytes:
    """Other bytes somewhere, or more, or fewer."""
    if not content:
        return choices.bytes(choices.number(9))
    at = choices.number(len(content))
    how = choices.number(3 if keep_length else 5)
    if how == 0:
        return content[:at] + bytes([content[at] ^ 1 << choices.number(8)]) + content[at + 1 :]
    if how == 1:
        new = (choices.one_of(NUMBERS) & 2**64 - 1).to_bytes(8, "little")
        return (content[:at] + new + content[at + 8 :])[: len(content)]
    if how == 2:
        new = choices.bytes(choices.number(12))
        return (content[:at] + new + content[at + len(new) :])[: len(content)]
    if how == 3:
        return content[:at] + choices.bytes(choices.number(12)) + content[at:]
    return content[:at] + content[at + choices.number(12) :]


# -- decoding -------------------------------------------------------------------------------------


def attempt(content: bytes) -> None:
    """Decode the image that these bytes make. Raises AssertionError, or whatever is a mistake."""
    images = mutated(content)
    base = Path(tempfile.mkdtemp(prefix="shmr-mutated-", dir=_fast()))
    try:
        drives = [OnlyRead(_Memory(f"drive{at}", image)) for at, image in enumerate(images)]  # type: ignore[arg-type]
        out = base / "out"
        try:
            foreign = recognized(drives, None, [], [])
            listed(foreign, lambda one: None, deadline_s=None)
            done = decoded(foreign, str(out), special=bool(content[:1] > b"\x7f"), deadline_s=None)
        except ShmrError as refused:
            assert str(refused), "an error without a message"
        else:
            assert done.report.exit_code in (0, 4)
            for finding in done.report.findings:
                assert finding.message.isprintable(), finding
        assert set(os.listdir(base)) <= {"out"}
        for place, directories, files in os.walk(out):
            for name in (*directories, *files):
                assert os.lstat(os.path.join(place, name)).st_blocks * 512 < 64 << 20
                assert not name.startswith(".shmr-decode")
    finally:
        shutil.rmtree(base)


def _fast() -> str | None:
    """Where nothing is waited for: catalogs are synced."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def cases(seed: int) -> Iterator[bytes]:
    """Strings of bytes without an end."""
    import random

    rng = random.Random(seed)
    while True:
        yield rng.randbytes(rng.choice((8, 20, 60, 150)))
