"""Reads of archived segments from drives that are late or hang, and of streams through drives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue

import pytest

from shmr.drive.seam import Drive
from shmr.errors import DriveError
from shmr.format.fragment import BLOCK
from shmr.log import gather, readahead
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.log.lane import CROWD, LATE_MAX, Ticket
from shmr.testing.hanging import HangingDrive, HangingFile
from tests.archived import FILESYSTEM, NUMBER, UNIT, Segment


class Hanging:
    """A segment whose drives can be hung, read with a short deadline."""

    def __init__(
        self,
        k: int,
        m: int,
        deadline_s: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
        stripes: int = 3,
    ) -> None:
        self.segment = Segment(k, m, stripes=stripes)
        self.drives = {d: HangingDrive(v) for d, v in self.segment.pool.drives.items()}
        drives: dict[bytes, Drive] = dict(self.drives)
        self.reader = Gather(
            FragmentStore(FILESYSTEM, drives), deadline_s=deadline_s, cache_bytes=0, clock=clock
        )

    def drive(self, index: int) -> HangingDrive:
        return self.drives[self.segment.archived.fragments[index].drive]

    def read(self, index: int) -> bytes:
        """The bytes of a data fragment's first unit."""
        at = index * self.segment.archived.data_bytes
        return self.reader.read(NUMBER, self.segment.archived, at, UNIT)

    def stalled(self, index: int) -> bool:
        lane = self.reader.lane(self.segment.archived.fragments[index].drive)
        return lane is not None and lane.stalled

    def right(self, index: int) -> bytes:
        at = index * self.segment.archived.data_bytes
        return self.segment.content[at : at + UNIT]


@pytest.fixture
def hanging(request: pytest.FixtureRequest) -> Iterator[Hanging]:
    made = Hanging(*getattr(request, "param", (4, 2)))
    yield made
    for drive in made.drives.values():
        drive.let_go()
    made.reader.close()


@pytest.mark.parametrize("hanging", [(1, 1), (1, 2), (4, 2)], indirect=True)
@pytest.mark.parametrize("opening", [False, True])
def test_a_drive_that_hangs_is_passed_over(hanging: Hanging, opening: bool) -> None:
    hanging.drive(0).hang(opening=opening)
    assert hanging.read(0) == hanging.right(0)
    assert hanging.reader.findings.all() == []


def test_as_many_as_m_may_hang(hanging: Hanging) -> None:
    hanging.drive(0).hang()
    hanging.drive(5).hang()
    assert hanging.read(0) == hanging.right(0)
    assert hanging.segment.read_all(hanging.reader) == hanging.segment.content


def test_who_needs_another_drive_does_not_wait() -> None:
    slow = Hanging(4, 2, deadline_s=30.0)
    slow.drive(0).hang()
    waiting = threading.Thread(target=slow.read, args=(0,))
    waiting.start()
    try:
        assert slow.drive(0).await_waiting(1)
        for index in (1, 2, 3):
            assert slow.read(index) == slow.right(index)
        assert waiting.is_alive()
    finally:
        slow.drive(0).let_go()
        waiting.join()
        slow.reader.close()


def test_a_drive_that_stays_away_is_not_asked_until_it_returns(hanging: Hanging) -> None:
    hanging.read(0)
    hanging.drive(0).hang()
    for _ in range(LATE_MAX + 3):
        assert hanging.read(0) == hanging.right(0)
    assert hanging.drive(0).waiting == LATE_MAX
    assert hanging.stalled(0)
    hanging.drive(0).let_go()
    while hanging.stalled(0):
        assert hanging.read(0) == hanging.right(0)
    hanging.segment.pool.lull()
    assert hanging.read(0) == hanging.right(0)
    others = list(hanging.segment.pool.drives.values())[1:]
    assert all(drive.activity.asleep for drive in others)


@pytest.mark.parametrize("hanging", [(1, 0)], indirect=True)
def test_where_nothing_stands_in_a_late_drive_is_waited_for(hanging: Hanging) -> None:
    hanging.drive(0).hang()
    found: list[bytes] = []
    waiting = threading.Thread(target=lambda: found.append(hanging.read(0)))
    waiting.start()
    assert hanging.drive(0).await_waiting(1)
    hanging.drive(0).let_go()
    waiting.join()
    assert found == [hanging.right(0)]


@pytest.mark.parametrize("hanging", [(1, 0), (4, 2)], indirect=True)
def test_patience_ends_in_an_error_that_names_the_drive(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "PATIENCE", 2)
    for index in range(hanging.segment.pool.m + 1):
        hanging.drive(index).hang()
    label = hanging.drive(0).label
    with pytest.raises(DriveError, match=f"drive {label}, unit 0: .*does not answer"):
        hanging.read(0)


def test_threads_left_behind_are_few(hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "PATIENCE", 1)
    hanging.drive(0).hang()
    before = threading.active_count()
    threads = [threading.Thread(target=hanging.read, args=(0,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert threading.active_count() - before <= 4 * hanging.segment.pool.k + 4
    assert hanging.drive(0).waiting <= 4


def test_a_crowd_that_waits_for_a_drive_grows_no_further() -> None:
    now = [0.0]
    slow = Hanging(4, 2, deadline_s=30.0, clock=lambda: now[0])
    slow.drive(0).hang()
    lane = slow.reader.lane(slow.segment.archived.fragments[0].drive)
    assert lane is not None
    done: SimpleQueue[Ticket[None]] = SimpleQueue()
    for _ in range(CROWD):
        lane.call(Ticket(partial(slow.drive(0).answer, "read"), done))
    try:
        assert not slow.stalled(0)
        now[0] = 2.0
        assert slow.stalled(0)
        assert slow.read(0) == slow.right(0)
        assert done.empty()
    finally:
        slow.drive(0).let_go()
        for _ in range(CROWD):
            done.get(timeout=60)
        slow.reader.close()
    assert not slow.stalled(0)


def test_a_hung_drive_that_then_fails_is_passed_over(hanging: Hanging) -> None:
    hanging.drive(0).hang()
    found: list[bytes] = []
    waiting = threading.Thread(target=lambda: found.append(hanging.read(0)))
    waiting.start()
    hanging.drive(0).await_waiting(1)
    hanging.drive(0).let_go(failing=True)
    waiting.join()
    assert found == [hanging.right(0)]


# -- streams -------------------------------------------------------------------------------------


def advised(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[tuple[str, int, int]]:
    """What drives are told to read soon: the file, from where to where."""
    told: SimpleQueue[tuple[str, int, int]] = SimpleQueue()

    def prefetch(file: HangingFile, offset: int, length: int) -> None:
        told.put((file.name, offset, offset + length))

    monkeypatch.setattr(HangingFile, "prefetch", prefetch)
    monkeypatch.setattr(gather, "LEAST_BYTES", UNIT)
    monkeypatch.setattr(readahead, "WINDOW_BYTES", 16 * UNIT)
    return told


@pytest.mark.parametrize(("k", "m"), [(1, 0), (1, 1), (4, 2)])
def test_drives_are_told_of_a_stream_before_it_comes_each_byte_once(
    k: int, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = advised(monkeypatch)
    stream = Hanging(k, m, deadline_s=30.0, stripes=60)
    archived = stream.segment.archived
    size = min(archived.data_bytes, len(stream.segment.content))
    step = 4 * UNIT
    for start in range(0, size, step):
        length = min(step, size - start)
        found = stream.reader.read(NUMBER, archived, start, length)
        assert found == stream.segment.content[start : start + length]
    covered = BLOCK + 2 * step
    calls = 0
    while covered < BLOCK + size:
        name, begin, end = told.get(timeout=60)
        assert name == stream.segment.pool.file_of(NUMBER, archived, 0)
        assert begin == covered < end <= BLOCK + archived.data_bytes
        covered, calls = end, calls + 1
    assert calls <= 1 + size // (8 * UNIT)
    stream.reader.close()
    assert told.empty()


def test_reads_here_and_there_are_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "SLACK_BYTES", UNIT)
    told = advised(monkeypatch)
    scattered = Hanging(4, 2, deadline_s=30.0, stripes=60)
    for unit in (50, 10, 30, 0, 40, 20):
        at = unit * UNIT
        found = scattered.reader.read(NUMBER, scattered.segment.archived, at, UNIT)
        assert found == scattered.segment.content[at : at + UNIT]
    scattered.reader.close()
    assert told.empty()
