"""Walking frames of which several copies were kept: each frame from whichever copy has it."""

from __future__ import annotations

import pytest

from shmr.errors import DriveError
from shmr.format import frame
from shmr.format.frame import Kind
from shmr.format.records import SegmentEnd, Stream
from shmr.log.segment import SegmentWriter
from shmr.log.store import SegmentStore
from shmr.log.tail import verify_tail
from shmr.testing.drive import SimulatedDrive, World
from shmr.units import KIB

FILESYSTEM = bytes(range(16))
SIZE = 64 * KIB


def store_of(drives: list[SimulatedDrive]) -> SegmentStore:
    return SegmentStore(FILESYSTEM, drives, len(drives), SIZE, lambda: 0)


def writer_of(store: SegmentStore, number: int) -> SegmentWriter:
    where = tuple(range(len(store.drives)))
    return store.begin(store.create(Stream.DATA, number, SIZE, where))


def older_life(store: SegmentStore, sequence: int) -> bytes:
    """A frame as another segment had it, which verifies by itself."""
    _, buffers = frame.encode(Kind.DATA, store.short_id, 9, sequence, 5, 0, bytes(600), 77)
    return b"".join(buffers)


@pytest.mark.parametrize("stale", [0, 1], ids=["first copy", "second copy"])
@pytest.mark.parametrize("sequence", [0, 2, 7])
def test_a_frame_of_an_older_life_on_one_copy_hides_none_of_the_other(
    stale: int, sequence: int
) -> None:
    world = World()
    store = store_of([world.add(), world.add()])
    writer = writer_of(store, 1)
    writer.append(Kind.DATA, 5, 0, bytes(600))
    known = SegmentEnd(1, writer.end, writer.chain)
    writer.append(Kind.DATA, 5, 600, bytes(600))
    writer.sync()
    claimed = SegmentEnd(1, writer.end, writer.chain)
    name = store.segments[1].name
    world.drives[stale].plant(name, known.end, older_life(store, sequence))
    assert verify_tail(store, known, claimed, mend=True)
    alone = store_of([world.drives[stale]])
    alone.scan()
    assert verify_tail(alone, known, claimed, mend=False), "both copies have it again"


def test_a_copy_that_cannot_be_read_is_not_taken_for_the_end() -> None:
    world = World()
    store = store_of([world.add(), world.add()])
    writer = writer_of(store, 1)
    known = SegmentEnd(1, writer.end, writer.chain)
    writer.append(Kind.DATA, 5, 0, bytes(600))
    writer.sync()
    claimed = SegmentEnd(1, writer.end, writer.chain)
    world.drives[1].plant(store.segments[1].name, known.end, older_life(store, 3))
    world.drives[0].lose()
    with pytest.raises(DriveError):
        verify_tail(store, known, claimed, mend=False)
