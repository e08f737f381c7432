"""The parts of a scrub: reading behind what is bad, frames, the note, lanes, order and rate."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmr.archive.control import Stopped
from shmr.errors import DriveError
from shmr.format.frame import Kind as FrameKind
from shmr.format.frame import header_size
from shmr.format.records import Stream
from shmr.format.superblock import Superblock
from shmr.fsck.scrubbing import frames, lanes, note, reading
from shmr.fsck.scrubbing.inventory import Holding, SegmentItem, in_order
from shmr.fsck.scrubbing.lanes import Begun, Done, Ended, Event, Lane, Terms
from shmr.fsck.scrubbing.note import DriveNote, Note, Round, runs_of
from shmr.fsck.scrubbing.reading import GivenUp, Hole, Reader
from shmr.log.store import SegmentStore
from shmr.service.following import pace
from shmr.testing.drive import SimulatedDrive, SimulatedFile, World
from shmr.testing.hanging import HangingDrive
from shmr.testing.trial import scratch
from shmr.units import KIB, MIB

R = TypeVar("R")
FILESYSTEM = bytes(range(16))
PIECE = 16 * KIB


# -- reading ----------------------------------------------------------------------------------


class Sick(SimulatedFile):
    """Some of its bytes cannot be read."""

    bad: tuple[tuple[int, int], ...] = ()
    asked = 0

    def read(self, offset: int, length: int) -> bytes:
        content = super().read(offset, length)
        if any(start < offset + length and offset < end for start, end in self.bad):
            self.asked += 1
            raise DriveError("sick", "read", OSError(errno.EIO, "bad sector"))
        return content


class SickDrive(SimulatedDrive):
    """Its files are `Sick`."""

    bad: tuple[tuple[int, int], ...] = ()

    def file(self, name: str, node: object, end: int) -> SimulatedFile:
        found = Sick(self, name, node, end)  # type: ignore[arg-type]
        found.bad = self.bad
        return found


class Patient:
    """Counts what it is told."""

    def __init__(self, most: int = 10**9) -> None:
        self.bytes = 0
        self.errors = 0
        self.most = most

    def before(self, length: int) -> None:
        self.bytes += length

    def during(self, call: Callable[[], R]) -> R:
        return call()

    def refused(self, error: DriveError) -> None:
        self.errors += 1
        if self.errors > self.most:
            raise GivenUp(str(error))


def sick(content: bytes, *bad: tuple[int, int]) -> SickDrive:
    drive = SickDrive(World(1), "sick", 1, 64 * MIB)
    file = drive.claim("a", len(content))
    file.append([content])
    file.seal()
    drive.bad = bad
    return drive


CONTENT = bytes(range(256)) * (10 * KIB)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(CONTENT)), st.integers(1, 200_000)), max_size=3),
    st.lists(st.integers(1, 900_000), min_size=1, max_size=12),
    st.sampled_from([PIECE, 64 * KIB, 256 * KIB]),
    st.booleans(),
    st.sampled_from([4096, reading.READ_BYTES]),
)
def test_all_that_can_be_read_is_read_and_the_rest_is_a_hole(
    bad: list[tuple[int, int]], steps: list[int], piece: int, ahead: bool, first: int
) -> None:
    ranges = tuple((start, start + length) for start, length in bad)
    drive, watch = sick(CONTENT, *ranges), Patient()
    reader = Reader(drive.open("a"), len(CONTENT), watch, first_bytes=first, ahead=ahead)
    at, found, holes = 0, bytearray(), list[Hole]()
    for step in [*steps, len(CONTENT)]:
        length = min(step, len(CONTENT) - at)
        if length <= 0:
            break
        content, some = reader.read(at, length, piece)
        assert len(content) == length
        found += content
        holes += some
        at += length
    reader.close()
    assert len(found) == len(CONTENT)
    covered = {where // 4096 for hole in holes for where in range(hole.start, hole.end, 4096)}
    for at in range(0, len(CONTENT), 4096):
        is_bad = any(start < at + 4096 and at < end for start, end in ranges)
        if at // 4096 not in covered:
            assert not is_bad
            assert found[at : at + 4096] == CONTENT[at : at + 4096]
    for hole in holes:
        # No more than the pieces in which something is bad.
        assert any(start < hole.end and hole.start < end for start, end in ranges)
        assert hole.end - hole.start <= piece
    assert watch.bytes == reader.read_bytes == len(CONTENT)


def test_each_bad_piece_is_asked_for_twice_and_no_more() -> None:
    drive, watch = sick(CONTENT, (100_000, 100_001)), Patient()
    file = drive.open("a")
    assert isinstance(file, Sick)
    reader = Reader(file, len(CONTENT), watch)
    _, holes = reader.read(0, len(CONTENT), PIECE)
    assert len(holes) == 1 and holes[0].start <= 100_000 < holes[0].end
    assert file.asked == 1 + reading.TRIES


def test_a_drive_that_refuses_too_much_is_given_up() -> None:
    drive, watch = sick(CONTENT, (0, len(CONTENT))), Patient(most=20)
    reader = Reader(drive.open("a"), len(CONTENT), watch, ahead=True)
    with pytest.raises(GivenUp):
        reader.read(0, len(CONTENT), PIECE)
    reader.close()


def test_a_file_that_ends_early_says_so() -> None:
    drive = sick(CONTENT)
    reader = Reader(drive.open("a"), len(CONTENT) + 5000, Patient())
    content, holes = reader.read(0, len(CONTENT) + 5000, PIECE)
    assert content == CONTENT + bytes(5000)
    assert [(hole.start, hole.end) for hole in holes] == [(len(CONTENT), len(CONTENT) + 5000)]


# -- frames -----------------------------------------------------------------------------------


SIZES = (0, 1, 7, 16 * KIB, 16 * KIB + 1, 100_000, 5, 2 * MIB, 40_000)


def segment_of(drive: SimulatedDrive) -> tuple[int, list[tuple[int, int]]]:
    """A segment with frames of many sizes: its number, and where each frame is."""
    store = SegmentStore(FILESYSTEM, [drive], 1, 4 * MIB, lambda: 1)
    number = store.number()
    writer = store.begin(store.create(Stream.DATA, number, 4 * MIB, (0,)))
    found = [(0, writer.end)]
    for index, size in enumerate(SIZES):
        at = writer.append(FrameKind.DATA, 7, index, bytes([index + 1]) * size)
        found.append((at, writer.end))
    writer.full = True
    writer.sync()
    writer.close()
    return number, found


def looked_at(drive: SimulatedDrive, number: int, reach: int | None = None) -> frames.Examined:
    name = f"data-{number:012}"
    size = drive.size(name)
    expected = frames.Expected(
        FILESYSTEM, number, Stream.DATA, size, size if reach is None else reach
    )
    reader = Reader(drive.open(name), size, Patient())
    try:
        return frames.examine(reader, expected)
    finally:
        reader.close()


@pytest.fixture(scope="module")
def written() -> Iterator[tuple[World, int, list[tuple[int, int]]]]:
    world = World(1)
    number, places = segment_of(world.add("work"))
    yield world, number, places


def test_a_whole_segment_is_whole(written: tuple[World, int, list[tuple[int, int]]]) -> None:
    world, number, places = written
    found = looked_at(world.drives[0], number)
    assert found.damages == [] and found.end == places[-1][1]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_where_it_is_and_nowhere_else(
    written: tuple[World, int, list[tuple[int, int]]], data: st.DataObject
) -> None:
    world, number, places = written
    index = data.draw(st.integers(0, len(places) - 1))
    start, end = places[index]
    length = 0 if index == 0 else SIZES[index - 1]
    used = header_size(length) + length if index else 64
    at = start + data.draw(st.integers(0, used - 1))
    drive = world.kill().drives[0]
    drive.flip_bit(f"data-{number:012}", at, data.draw(st.integers(0, 7)))
    found = looked_at(drive, number)
    [damage] = found.damages
    assert damage.start <= at < damage.end and start <= damage.start and damage.end <= end
    assert found.end == places[-1][1]
    if damage.part == frames.PAYLOAD:
        assert damage.end - damage.start <= 16 * KIB
    else:
        assert (damage.start, damage.part) == (start, frames.HEADER)


def test_a_segment_that_ends_before_what_is_needed_says_where(
    written: tuple[World, int, list[tuple[int, int]]],
) -> None:
    world, number, places = written
    drive = world.kill().drives[0]
    drive.shorten(f"data-{number:012}", places[4][1])
    found = looked_at(drive, number, places[-1][1])
    [damage] = found.damages
    assert (damage.part, damage.start, damage.end) == (frames.END, places[4][1], places[-1][1])


def test_zeros_behind_what_is_needed_are_no_damage(
    written: tuple[World, int, list[tuple[int, int]]],
) -> None:
    world, number, places = written
    drive = world.kill().drives[0]
    start, end = places[5]
    drive.plant(f"data-{number:012}", start, bytes(places[-1][1] - start))
    assert looked_at(drive, number, start).damages == []
    [damage] = looked_at(drive, number, end).damages
    assert damage.start == start and damage.end == end


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_any_bytes_at_all_are_examined_to_an_end(content: bytes, reach: int) -> None:
    drive = World(1).add("work")
    file = drive.claim("data-000000000001", max(1, len(content)))
    file.append([content or b"\0"])
    file.seal()
    size = drive.size("data-000000000001")
    reader = Reader(drive.open("data-000000000001"), size, Patient())
    found = frames.examine(reader, frames.Expected(FILESYSTEM, 1, Stream.DATA, size, reach))
    assert bool(found.damages) == (reach > 0)


# -- the note ---------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.sets(st.integers(1, 60)),
    st.dictionaries(st.integers(1, 60), st.integers(1, 4)),
    st.sets(st.integers(1, 60)),
)
def test_runs_say_of_each_file_that_is_there_when_it_was_verified(
    there: set[int], times: dict[int, int], later: set[int]
) -> None:
    known = DriveNote("d", runs_of(times, there))
    assert known.times(there, 4) == {n: times[n] for n in there if n in times}
    assert known.times(there, 2) == {n: times[n] for n in there if times.get(n, 9) <= 2}
    # What went meanwhile takes nothing away from what stayed.
    stayed = there & later
    assert known.times(stayed, 4) == {n: times[n] for n in stayed if n in times}
    if set(times) >= there and len({times[n] for n in there}) == 1:
        assert len(known.runs) == 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_note_is_read_as_it_was_written_or_not_at_all(data: st.DataObject) -> None:
    kept = Note("ab")
    kept.drives["01"] = DriveNote(
        "/mnt/a", ((1, 5, 100), (7, 7, 90)), Round(100, 0, 3, 4), Round(50, 60, 7, 8, 2, 1), 40
    )
    kept.drives["02"] = DriveNote()
    with scratch() as place:
        path = place / "catalog.scrub"
        note.write(path, kept)
        assert note.read(path, "ab") == (kept, None)
        assert note.read(path, "cd")[1] is not None
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 2))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        found, doubt = note.read(path, "ab")
        assert (found, doubt) == (kept, None) or (not found.drives and doubt is not None)


def test_no_note_is_no_reason_to_say_anything(tmp_path: Path) -> None:
    assert note.read(tmp_path / "catalog.scrub", "ab") == (Note("ab"), None)
    (tmp_path / "catalog.scrub").mkdir()
    assert note.read(tmp_path / "catalog.scrub", "ab")[1] is not None


# -- lanes ------------------------------------------------------------------------------------


def holding_of(drive: SimulatedDrive, count: int) -> Holding:
    """A workspace drive with some segments, all of which matter."""
    block = Superblock(FILESYSTEM, b"f", b"p" * 16, b"work", b"d" * 16, 1, 0, 0, 0, 1, (b"d" * 16,))
    drive.put("superblock-000001", block.encode())
    store = SegmentStore(FILESYSTEM, [drive], 1, MIB, lambda: 1)
    holding = Holding(b"d" * 16, "", drive.label, drive, FILESYSTEM, archive=False)
    for _ in range(count):
        number = store.number()
        writer = store.begin(store.create(Stream.DATA, number, MIB, (0,)))
        writer.append(FrameKind.DATA, 7, 0, b"x" * 200_000)
        writer.full = True
        writer.sync()
        writer.close()
        expected = frames.Expected(FILESYSTEM, number, Stream.DATA, writer.end, writer.end)
        holding.items.append(SegmentItem(f"data-{number:012}", expected))
    return holding


def terms(**changes: object) -> Terms:
    known = {"stop": lambda: False, "pace": lambda size: None, "patience_s": 60.0, "mounted": False}
    return Terms(**{**known, **changes})  # type: ignore[arg-type]


def test_a_drive_that_hangs_is_left_and_the_others_are_read_to_their_end() -> None:
    world = World(1)
    good, stuck = (holding_of(world.add(), 5) for _ in range(2))
    hanging = HangingDrive(stuck.drive)
    stuck.drive = hanging
    events: list[Event] = []
    hanging.hang()
    late = [
        Lane(one, lambda numbers: {}, 1, terms(patience_s=0.3, ahead=False))
        for one in (good, stuck)
    ]
    try:
        lanes.run_in_threads(late, events.append)
    finally:
        hanging.let_go()
    ended = {event.lane: event for event in events if isinstance(event, Ended)}
    assert ended[late[0]].given_up is None
    assert "no answer" in (ended[late[1]].given_up or "")
    done = [event.lane for event in events if isinstance(event, Done)]
    assert done.count(late[0]) == 5


def test_a_rate_is_that_of_all_bytes_that_are_read() -> None:
    now, slept = 0.0, 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, slept
        now += seconds
        slept += seconds

    rate = pace(100_000, lambda: False, clock=lambda: now, sleep=sleep)
    holding = holding_of(World(1).add(), 4)
    events: list[Event] = []
    lane = Lane(holding, lambda numbers: {}, 1, terms(pace=rate, ahead=False))
    lanes.run_inline([lane], events.append)
    read = sum(event.read_bytes for event in events if isinstance(event, Done))
    assert read >= 4 * 200_000
    assert slept == pytest.approx(read / 100_000)


def test_a_stop_is_heard_within_a_file() -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    events: list[Event] = []
    lane = Lane(holding_of(World(1).add(), 4), lambda numbers: {}, 1, terms(stop=stop))
    lanes.run_inline([lane], events.append)
    assert isinstance(events[-1], Ended) and events[-1].stopped
    assert sum(isinstance(event, Done) for event in events) < 4
    with pytest.raises(Stopped):
        lane.before(1)


def test_what_was_verified_is_not_read_again() -> None:
    events: list[Event] = []
    lane = Lane(holding_of(World(1).add(), 4), lambda numbers: {1: 9, 2: 10, 4: 11}, 10, terms())
    lanes.run_inline([lane], events.append)
    begun = next(event for event in events if isinstance(event, Begun))
    assert begun.earlier == 2
    assert [e.item.number for e in events if isinstance(e, Done)] == [1, 3]


class Scattered(SimulatedDrive):
    """Of some files nobody knows where they begin; the others lie backwards."""

    def begins(self, name: str) -> int | None:
        number = int(name[-3:])
        return None if number % 3 == 0 else 1000 - number


def test_files_are_read_as_they_lie_and_others_by_their_numbers() -> None:
    drive = Scattered(World(1), "d", 1, 64 * MIB)
    holding = holding_of(drive, 8)
    found = in_order(drive, holding.items, lambda call: call())
    assert [item.number for item in found] == [8, 7, 5, 4, 2, 1, 3, 6]
