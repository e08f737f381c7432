"""What was acknowledged is there again: batches of any size, and volumes that were poisoned."""

from __future__ import annotations

import errno
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.errors import DriveError, Refused
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.units import MIB
from shmr.volume.context import Caller
from shmr.volume.volume import Volume, open_volume

ROOT_USER = Caller(0, 0)


def clock_from(start: int) -> Iterator[int]:
    while True:
        start += 1_000_000
        yield start


class Machine:
    """A world of drives and a catalog beside it, opened again and again."""

    def __init__(self, path: Path, segment_bytes: int) -> None:
        self.world = World(1)
        self.world.add()
        self.path = path
        self.segment_bytes = segment_bytes
        self._clock = clock_from(10**9)

    def open(self) -> Volume:
        return open_volume(
            bytes(range(16)),
            self.world.drives,
            self.path,
            clock=lambda: next(self._clock),
            segment_bytes=self.segment_bytes,
            in_child=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "catalog", 64 * MIB)


def commit(volume: Volume) -> None:
    job = volume.commits.begin()
    if job is not None:
        job.run()
        volume.commits.end(job)


def names(volume: Volume) -> set[bytes]:
    return {name for name, _, _ in volume.names.entries(1, 0)}


def symlinks(volume: Volume) -> None:
    for number in range(700):
        volume.names.create(1, b"%d" % number, stat.S_IFLNK, ROOT_USER, target=b"x" * 4000)


def attributes(volume: Volume) -> None:
    for number in range(40):
        inode = volume.names.create(1, b"%d" % number, stat.S_IFREG | 0o644, ROOT_USER)
        volume.xattrs.set(inode.number, b"user.long", bytes(60_000))


def files(volume: Volume) -> None:
    for number in range(40_000):
        volume.names.create(1, b"%d" % number, stat.S_IFREG | 0o644, ROOT_USER)


@pytest.mark.parametrize("fill", [symlinks, attributes, files])
def test_a_batch_of_any_size_is_replayed(machine: Machine, fill: object) -> None:
    volume = machine.open()
    assert callable(fill)
    fill(volume)
    commit(volume)
    expected = names(volume)
    volume.names.create(1, b"after", stat.S_IFREG | 0o644, ROOT_USER)
    commit(volume)
    volume.abandon()
    volume = machine.open()
    assert volume.read_only is None
    assert names(volume) == expected | {b"after"}
    volume.abandon()


def test_many_drops_in_one_batch_are_replayed(machine: Machine) -> None:
    volume = machine.open()
    inode = volume.names.create(1, b"file", stat.S_IFREG | 0o644, ROOT_USER)
    for at in range(6000):
        volume.data.write(inode.number, 2 * at, b"x")
    commit(volume)
    volume.data.truncate(inode.number, 1)
    for _ in range(5):
        volume.reaper.step()
        volume.data.truncate(inode.number, 0)
    while volume.reaper.step():
        pass
    volume.data.write(inode.number, 0, b"new")
    commit(volume)
    volume.abandon()
    volume = machine.open()
    plan = volume.data.plan_read(inode.number, 0, 100)
    assert bytes(plan.fetch()) == b"new"
    plan.release()
    assert volume.attributes.get(inode.number).allocated == 3
    volume.abandon()


def test_nothing_is_durable_after_a_poison_with_unsynced_frames(machine: Machine) -> None:
    volume = machine.open()
    inode = volume.names.create(1, b"file", stat.S_IFREG | 0o644, ROOT_USER)
    volume.data.write(inode.number, 0, bytes(MIB))
    volume.context.cut()
    volume.context.poison(RuntimeError("half an operation"))
    with pytest.raises(Refused) as refusal:
        volume.commits.begin()
    assert refusal.value.errno == errno.EIO
    volume.abandon()


def test_half_an_operation_never_becomes_durable(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = machine.open()
    volume.names.create(1, b"file", stat.S_IFREG | 0o644, ROOT_USER)
    commit(volume)
    put = volume.catalog._tables.put
    calls = iter([True, False])

    def failing(table: int, key: bytes, value: bytes | None) -> None:
        if not next(calls):
            raise MemoryError
        put(table, key, value)

    monkeypatch.setattr(volume.catalog._tables, "put", failing)
    with pytest.raises(MemoryError):
        volume.names.unlink(1, b"file")
    monkeypatch.undo()
    for act in (volume.context.cut, volume.checkpoints.run):
        with pytest.raises(Refused) as refusal:
            act()
        assert refusal.value.errno == errno.EROFS
    volume.close()
    volume = machine.open()
    assert names(volume) == {b"file"}
    volume.abandon()


@pytest.mark.parametrize("seed", range(40))
def test_a_read_error_in_recovery_is_no_torn_tail(machine: Machine, seed: int) -> None:
    volume = machine.open()
    for number in range(3):
        inode = volume.names.create(1, b"%d" % number, stat.S_IFREG | 0o644, ROOT_USER)
        volume.data.write(inode.number, 0, bytes(5000))
        commit(volume)
    volume.abandon()
    world = machine.world
    world.fail(world.reads + random.Random(seed).randrange(60), Fault.READ)
    try:
        volume = machine.open()
    except DriveError:
        volume = machine.open()
    if volume.read_only is not None:
        volume.abandon()
        volume = machine.open()
    assert volume.read_only is None
    assert names(volume) == {b"0", b"1", b"2"}
    volume.abandon()


def test_a_file_grows_again_without_waiting_for_all_of_its_past(machine: Machine) -> None:
    volume = machine.open()
    inode = volume.names.create(1, b"file", stat.S_IFREG | 0o644, ROOT_USER)
    for at in range(8000):
        volume.data.write(inode.number, 1000 * at, b"x")
    volume.data.truncate(inode.number, 0)
    volume.data.write(inode.number, 0, b"new")
    mark = volume.reaper.mark_of(inode.number)
    assert mark is not None and mark.start < 2_000_000
    while volume.reaper.step():
        pass
    plan = volume.data.plan_read(inode.number, 0, 100)
    assert bytes(plan.fetch()) == b"new"
    plan.release()
    volume.abandon()
