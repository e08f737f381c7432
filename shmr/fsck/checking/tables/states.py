"""The tables that belong to no inode: archived segments, live bytes, numbers set aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from shmr.catalog.reading import Reading
from shmr.errors import IntegrityError
from shmr.format.archived import decode_archived
from shmr.format.records import Stream
from shmr.format.rows import Row, Table, decode_number, encode_number, split_key
from shmr.fsck.checking.tables.census import Census
from shmr.fsck.checking.tables.flaw import REBUILD, Flaw, Mend, flaw
from shmr.fsck.checking.tables.walk import Walk
from shmr.fsck.findings import Finding, Kind, Where
from shmr.log.store import SegmentStore
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT
from shmr.volume.context import NEXT_INODE


def archived(walk: Walk) -> dict[int, int]:
    """Bytes of files in each archived segment, by number."""
    used = {}
    for key, value in walk.rows(Table.ARCHIVE):
        try:
            used[split_key(key)] = decode_archived(value).used_bytes
        except IntegrityError as error:
            walk.wrong(Table.ARCHIVE, key, str(error))
    return used


def usage(walk: Walk, live: Mapping[int, int]) -> Iterator[Flaw]:
    """What is said to live in each segment does."""
    said: dict[int, int] = {}
    for key, value in walk.rows(Table.USAGE):
        try:
            said[split_key(key)] = decode_number(value)
        except IntegrityError as error:
            walk.wrong(Table.USAGE, key, str(error))
    yield from walk.taken()
    for segment in sorted(said.keys() | live.keys()):
        one, other = said.get(segment, 0), live.get(segment, 0)
        if one != other:
            message = f"segment {segment}: {one} bytes are said to live in it, and {other} do"
            yield Flaw(Finding(Kind.USAGE_WRONG, message, Where(segment=segment), REBUILD))


def numbers(walk: Walk, census: Census, segment: int, store: SegmentStore) -> Iterator[Flaw]:
    """No number is given out twice; `segment` is the highest that rows name."""
    reading = walk.reading
    highest = max((*census.numbers[-1:], *census.headless), default=1)
    if _number(reading, NEXT_INODE, 2) <= highest:
        message = f"the next inode would be one that there was: there is inode {highest}"
        after = Row(Table.STATE, NEXT_INODE, encode_number(highest + 1))
        yield flaw(Kind.NUMBER_TAKEN, None, message, f"go on from {highest + 1}", Mend((after,)))
    if segment >= store.next_number:
        message = f"segment {segment} is named, and {store.next_number} would be the next"
        yield Flaw(Finding(Kind.NUMBER_TAKEN, message, Where(segment=segment), REBUILD))


def _number(reading: Reading, name: bytes, default: int) -> int:
    try:
        return reading.state(name, default)
    except IntegrityError:
        return default


def states(walk: Walk, store: SegmentStore, *, changing: bool) -> Iterator[Flaw]:
    """The state rows can be read. `changing`: segments come and go meanwhile."""
    found: dict[bytes, int] = {}
    for key, value in walk.rows(Table.STATE):
        try:
            number = decode_number(value)
            for prefix, parts in _PARTS.items():
                if key.startswith(prefix) and not _fits(key.removeprefix(prefix), parts):
                    raise IntegrityError("its name cannot be understood")
        except IntegrityError as error:
            walk.wrong(Table.STATE, key, str(error))
            continue
        if key in (SNAPSHOT, JOURNAL_FLOOR):
            found[key] = number
    yield from walk.taken()
    for name, number in found.items():
        stream = Stream.SNAPSHOT if name == SNAPSHOT else Stream.JOURNAL
        segment = store.segments.get(number)
        if not changing and (segment is None or segment.stream != stream):
            message = f"state {name.decode()} names segment {number}, which is none of that kind"
            mend = Mend((Row(Table.STATE, name, None),))
            yield flaw(Kind.STATE_WRONG, None, message, "take it out", mend)


def _is_id(text: bytes) -> bool:
    return len(text) == 32 and all(byte in b"0123456789abcdef" for byte in text)


def _is_any(text: bytes) -> bool:
    return True


_PARTS: Mapping[bytes, tuple[Callable[[bytes], bool], ...]] = {
    b"held ": (bytes.isdigit,),
    b"drive ": (_is_id,),
    b"damage ": (_is_id, bytes.isdigit, bytes.isdigit, bytes.isdigit),
    b"member ": (_is_id, _is_id),
    b"pool ": (_is_id, _is_any),
    b"unknown ": (bytes.isdigit,),
}
"""What follows each word that begins the name of a state row, divided by blanks."""


def _fits(rest: bytes, parts: tuple[Callable[[bytes], bool], ...]) -> bool:
    words = rest.split(b" ", len(parts) - 1)
    return len(words) == len(parts) and all(
        is_part(word) for is_part, word in zip(parts, words, strict=True)
    )
