"""Archived segments in a volume: switched, read with the workspace as one, retired, recovered."""

from __future__ import annotations

import itertools
import random
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from shmr.errors import DriveError, IntegrityError, Refused
from shmr.format.archived import Archived
from shmr.format.fragment import ArchivedExtent
from shmr.format.rows import ROOT, Extent
from shmr.log.fragments import FragmentName
from shmr.testing.audit import audit
from shmr.testing.drive import World
from shmr.testing.faults import PowerCut
from shmr.units import KIB, MIB
from shmr.volume import archived as switching
from shmr.volume import data
from shmr.volume.archived import Moved
from shmr.volume.attributes import AttributeChange
from shmr.volume.cleaner import run_inline
from shmr.volume.context import Caller
from shmr.volume.volume import Volume, open_volume
from tests.archived import FILESYSTEM, UNIT, Pool

CALLER = Caller(0, 0)
FILE = stat.S_IFREG | 0o644


class Copied(NamedTuple):
    """What a shift knows before it switches."""

    number: int
    archived: Archived
    moved: list[Moved]


class Machine:
    """A workspace drive and pools of shingled ones in one world, and a catalog beside them."""

    def __init__(self, path: Path, *pools: tuple[int, int], world: World | None = None) -> None:
        self.path = path / "catalog"
        self.world = world or World(1)
        self.workspace = self.world.add(capacity_bytes=64 * MIB)
        self.pools = [Pool(k, m, world=self.world) for k, m in pools or [(2, 1)]]
        for index, pool in enumerate(self.pools):
            # Each pool has ids of its own.
            pool.drives = {bytes([index + 1]) + d[1:]: v for d, v in pool.drives.items()}
        self.volume: Volume
        self._times = itertools.count(10**9, 10**6)

    @property
    def pool(self) -> Pool:
        return self.pools[0]

    def open(self, *, without: Iterable[bytes] = (), read_only: bool = False) -> Volume:
        lost = set(without)
        every = {d: v for pool in self.pools for d, v in pool.drives.items()}
        self.volume = open_volume(
            FILESYSTEM,
            [self.workspace],
            self.path,
            clock=self._times.__next__,
            segment_bytes=MIB,
            in_child=False,
            read_only=read_only,
            archive={d: v for d, v in every.items() if d not in lost},
            archive_missing=lost,
            deadline_s=None,
        )
        return self.volume

    def reopen(self, *, without: Iterable[bytes] = ()) -> Volume:
        self.volume.close()
        return self.open(without=without)

    def file(self, name: bytes, content: bytes) -> int:
        number = self.volume.names.create(ROOT, name, FILE, CALLER).number
        self.volume.data.write(number, 0, content)
        return number

    def read(self, number: int, offset: int = 0, size: int = 2**30) -> bytes:
        plan = self.volume.data.plan_read(number, offset, size)
        try:
            return bytes(plan.fetch())
        finally:
            plan.release()

    def extents(self, number: int) -> list[Extent]:
        return list(self.volume.catalog.extents(number, 0, 2**62))

    def copy(self, numbers: Iterable[int], pool: Pool | None = None) -> Copied:
        """Write a segment with the data of these files."""
        pool = pool or self.pool
        segment = self.volume.context.reader.store.number()
        # It means one content for ever: that it is taken is durable before anything bears it.
        self.commit()
        content = bytearray()
        table: list[ArchivedExtent] = []
        found: list[tuple[int, Extent, int]] = []
        for inode in numbers:
            size = self.volume.attributes.get(inode).size
            for extent in self.volume.catalog.extents(inode, 0, size):
                if extent.address is not None:
                    found.append((inode, extent, len(content)))
                    table.append(ArchivedExtent(inode, extent.offset, extent.length, len(content)))
                    content += self.read(inode, extent.offset, extent.length)
        archived = pool.write(segment, bytes(content), table)
        moved = []
        for inode, extent, at in found:
            assert extent.address is not None
            target = archived.address(segment, at)
            moved.append(Moved(inode, extent.offset, extent.length, extent.address, target))
        return Copied(segment, archived, moved)

    def archive(self, *numbers: int, pool: Pool | None = None) -> int:
        """Copy and switch; the number of the segment."""
        copied = self.copy(numbers, pool)
        self.volume.archive.switch(*copied)
        return copied.number

    def bring_back(self, number: int) -> None:
        """Move a file into the workspace."""
        context = self.volume.context
        for extent in self.extents(number):
            if extent.address is None:
                continue
            payload = self.read(number, extent.offset, extent.length)
            new = context.append_data(number, extent.offset, payload, moving=True)
            moved = []
            for part in new:
                source = extent.clip(part.offset, part.end)
                assert source is not None and source.address is not None
                assert part.address is not None
                moved.append(Moved(number, part.offset, part.length, source.address, part.address))
            self.volume.archive.move(moved)

    def commit(self) -> None:
        self.volume.commits.now()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    made.open()
    yield made
    made.volume.abandon()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# -- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [(1, 0), (1, 1), (2, 1), (4, 2)])
def test_an_archived_file_is_what_it_was(tmp_path: Path, scheme: tuple[int, int]) -> None:
    machine = Machine(tmp_path, scheme)
    volume = machine.open()
    content = noise(3 * 100 * KIB + 77)
    number = machine.file(b"a", content)
    before = volume.attributes.get(number)
    segment = machine.archive(number)
    assert machine.read(number) == content
    assert volume.attributes.get(number) == before
    assert volume.catalog.live[segment] == len(content)
    assert audit(volume) == []
    volume.checkpoints.run()
    machine.reopen()
    assert machine.read(number) == content
    assert audit(machine.volume) == []
    assert machine.pool.other_writes() == 0
    machine.volume.close()


def test_extents_that_continue_each_other_become_one(machine: Machine) -> None:
    content = noise(600 * KIB)
    number = machine.file(b"a", b"")
    for at in range(0, len(content), 20 * KIB):
        machine.volume.data.write(number, at, content[at : at + 20 * KIB])
    assert len(machine.extents(number)) == 30
    segment = machine.archive(number)
    (extent,) = machine.extents(number)
    assert extent.length == len(content)
    assert extent.address is not None and extent.address.segment == segment
    assert machine.read(number) == content


def test_a_file_in_several_places_is_read_as_one(machine: Machine) -> None:
    volume = machine.volume
    content = bytearray(noise(200 * KIB))
    number = machine.file(b"a", bytes(content))
    machine.archive(number)
    volume.data.write(number, 50_000, b"n" * 30_000)
    content[50_000:80_000] = b"n" * 30_000
    volume.holes.punch(number, 100_000, 20_000)
    content[100_000:120_000] = bytes(20_000)
    volume.data.write(number, 300_000, b"tail")
    content += bytes(300_000 - len(content)) + b"tail"
    volume.data.truncate(number, 299_000)
    volume.data.truncate(number, 302_000)
    del content[299_000:]
    content += bytes(3_000)
    assert machine.read(number) == content
    dice = random.Random(5)
    for _ in range(50):
        at = dice.randrange(len(content))
        size = dice.randrange(100_000)
        assert machine.read(number, at, size) == content[at : at + size]
    assert audit(volume) == []


def test_a_plan_needs_no_drive_and_what_was_read_lately_needs_no_waiting(machine: Machine) -> None:
    number = machine.file(b"a", noise(100 * KIB))
    machine.archive(number)
    machine.pool.lull()
    assert machine.volume.data.read_cached(number, 0, 1000) is None
    plan = machine.volume.data.plan_read(number, 0, 1000)
    assert plan.fetch_cached() is None
    assert machine.pool.asleep()
    content = plan.fetch()
    plan.release()
    assert content == noise(100 * KIB)[:1000]
    plan = machine.volume.data.plan_read(number, 100, 500)
    machine.pool.lull()
    assert plan.fetch_cached() == content[100:600]
    plan.release()
    assert machine.pool.asleep()


def test_names_attributes_and_mounting_leave_archive_drives_asleep(machine: Machine) -> None:
    for index in range(5):
        machine.archive(machine.file(b"f%d" % index, noise(40 * KIB, index)))
    machine.volume.close()
    machine.pool.lull()
    volume = machine.open()
    for name, inode, _ in list(volume.names.entries(ROOT, 0)):
        assert volume.names.lookup(ROOT, name).number == inode.number
        volume.attributes.get(inode.number)
        volume.xattrs.list(inode.number)
        volume.attributes.set(inode.number, AttributeChange(mode=0o600))
        volume.data.read_cached(inode.number, 0, 10)
    volume.names.rename(ROOT, b"f0", ROOT, b"g", 0)
    volume.names.unlink(ROOT, b"f1")
    volume.data.truncate(volume.names.lookup(ROOT, b"f2").number, 10)
    volume.usage()
    volume.checkpoints.run()
    volume.close()
    assert machine.pool.asleep()
    machine.open()


def test_statfs_counts_no_archived_bytes_as_taken(machine: Machine) -> None:
    before = machine.volume.usage()
    numbers = [machine.file(b"%d" % index, noise(500 * KIB, index)) for index in range(4)]
    for number in numbers:
        machine.archive(number)
    machine.volume.checkpoints.run()
    after = machine.volume.usage()
    assert machine.volume.space.dead_bytes() >= 0
    assert after.blocks_free >= before.blocks_free - 2 * MIB // 4096


# -- losses --------------------------------------------------------------------------------------


def test_m_missing_drives_cost_nothing_and_one_more_is_an_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, (4, 2))
    machine.open()
    content = noise(400 * KIB)
    number = machine.file(b"a", content)
    machine.archive(number)
    for lost in itertools.combinations(machine.pool.ids, 2):
        machine.reopen(without=lost)
        assert machine.read(number) == content
    machine.reopen(without=machine.pool.ids[:3])
    with pytest.raises(DriveError, match="unit 0"):
        machine.read(number)
    assert machine.volume.names.lookup(ROOT, b"a").size == len(content)
    fine = machine.file(b"b", b"new")
    assert machine.read(fine) == b"new"
    machine.volume.close()


def test_a_segment_that_is_nowhere_is_an_error(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    copied = machine.copy([number])
    machine.volume.archive.move(copied.moved)
    with pytest.raises(IntegrityError, match=f"segment {copied.number} is missing"):
        machine.read(number)


# -- switching -----------------------------------------------------------------------------------


def test_a_write_between_copy_and_switch_wins(machine: Machine) -> None:
    content = bytearray(noise(300 * KIB))
    number = machine.file(b"a", bytes(content))
    copied = machine.copy([number])
    machine.volume.data.write(number, 100_000, b"newer")
    content[100_000:100_005] = b"newer"
    machine.volume.holes.punch(number, 200_000, 50_000)
    content[200_000:250_000] = bytes(50_000)
    switched = machine.volume.archive.switch(*copied)
    assert switched == len(content) - 5 - 50_000
    assert machine.read(number) == content
    assert audit(machine.volume) == []


def test_the_same_bytes_elsewhere_in_the_file_are_no_copy(machine: Machine) -> None:
    """A segment number, a frame and a length alone do not say where in the frame an extent is."""
    number = machine.file(b"a", noise(40 * KIB))
    copied = machine.copy([number])
    (moved,) = copied.moved
    off = moved._replace(source=moved.source._replace(skip=moved.source.skip + 8))
    assert machine.volume.archive.move([off]) == 0
    assert machine.volume.archive.move([moved._replace(inode=99)]) == 0


def test_a_file_that_went_meanwhile_stays_gone(machine: Machine) -> None:
    kept, gone = machine.file(b"a", noise(9000)), machine.file(b"b", noise(9000, 2))
    copied = machine.copy([kept, gone])
    machine.volume.handles.forgotten(gone)
    machine.volume.names.unlink(ROOT, b"b")
    assert machine.volume.archive.switch(*copied) == 9000
    assert machine.read(kept) == noise(9000)
    assert audit(machine.volume) == []


def test_switching_again_changes_nothing(machine: Machine) -> None:
    number = machine.file(b"a", noise(90 * KIB))
    copied = machine.copy([number])
    assert machine.volume.archive.switch(*copied) == 90 * KIB
    machine.commit()
    machine.volume.catalog.take_batch()
    assert machine.volume.archive.switch(*copied) == 0
    assert not machine.volume.catalog.batch.rows


def test_a_part_may_be_moved_alone(machine: Machine) -> None:
    content = noise(30_000)
    number = machine.file(b"a", content)
    segment, archived, (moved,) = machine.copy([number])
    for start, end in ((10_000, 20_000), (20_000, 25_000), (0, 10_000), (25_000, 30_000)):
        part = Moved(
            number,
            start,
            end - start,
            moved.source._replace(skip=moved.source.skip + start),
            moved.target._replace(skip=moved.target.skip + start),
        )
        assert machine.volume.archive.switch(segment, archived, [part]) == end - start
        assert machine.read(number) == content
        assert audit(machine.volume) == []


def test_many_extents_of_one_range_are_switched_in_steps(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "EXTENTS_STEP", 3)
    content = bytearray(noise(64 * KIB))
    number = machine.file(b"a", bytes(content))
    copied = machine.copy([number])
    for at in range(1000, 60_000, 4000):
        machine.volume.data.write(number, at, b"!")
        content[at] = ord("!")
    assert machine.volume.archive.switch(*copied) == len(content) - 15
    assert machine.read(number) == content
    assert len(machine.extents(number)) == 31
    assert audit(machine.volume) == []


def test_what_the_reaper_has_yet_to_delete_stays_where_it_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "TOUCHED_MAX", 2)
    content = noise(100 * KIB)
    number = machine.file(b"a", b"")
    for at in range(0, len(content), 10 * KIB):
        machine.volume.data.write(number, at, content[at : at + 10 * KIB])
    copied = machine.copy([number])
    machine.volume.data.truncate(number, 15_000)
    assert machine.volume.reaper.mark_of(number) is not None
    assert machine.volume.archive.switch(*copied) == 15_000
    while machine.volume.reaper.step():
        pass
    assert audit(machine.volume) == []
    machine.volume.data.truncate(number, 20_000)
    assert machine.read(number) == content[:15_000] + bytes(5_000)


def test_files_come_back_and_go_elsewhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path, (2, 1), (1, 1))
    machine.open()
    content = noise(150 * KIB)
    number = machine.file(b"a", content)
    first = machine.archive(number)
    second = machine.archive(number, pool=machine.pools[1])
    assert machine.read(number) == content
    assert machine.volume.catalog.live[first] == 0
    assert machine.volume.archive.retire() == 1
    machine.bring_back(number)
    assert machine.read(number) == content
    assert machine.volume.archive.retire() == 1
    assert machine.volume.catalog.archived(second) is None
    assert audit(machine.volume) == []
    machine.reopen(without=[d for pool in machine.pools for d in pool.ids])
    assert machine.read(number) == content
    machine.volume.close()


def test_a_volume_that_is_read_only_switches_nothing(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    copied = machine.copy([number])
    machine.commit()
    machine.volume.close()
    volume = machine.open(read_only=True)
    with pytest.raises(Refused):
        volume.archive.switch(*copied)
    with pytest.raises(Refused):
        volume.archive.retire()


def test_a_number_that_something_else_has_is_refused(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    _, archived, moved = machine.copy([number])
    store = machine.volume.context.reader.store
    for other in (*store.segments, store.next_number):
        with pytest.raises(IntegrityError, match=f"segment {other}"):
            machine.volume.archive.switch(other, archived, moved)
    assert machine.read(number) == noise(UNIT)


# -- retiring ------------------------------------------------------------------------------------


def test_a_segment_without_life_goes_with_its_fragments(machine: Machine) -> None:
    dead, alive = machine.file(b"a", noise(UNIT)), machine.file(b"b", noise(UNIT, 2))
    gone, stays = machine.archive(dead), machine.archive(alive)
    assert machine.volume.archive.retire() == 0
    machine.volume.data.write(dead, 0, noise(UNIT, 3))
    assert machine.volume.archive.retire() == 1
    assert [number for number, _ in machine.volume.catalog.archived_segments()] == [stays]
    assert machine.volume.catalog.archived(gone) is None
    for drive in machine.pool.drives.values():
        assert [name for name in drive.names() if f"{gone:012}" in name] == []
    assert machine.volume.archive.strays() == []
    assert machine.read(alive) == noise(UNIT, 2)


def test_a_reader_s_segment_stays_until_it_is_done(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    machine.archive(number)
    plan = machine.volume.data.plan_read(number, 0, UNIT)
    machine.volume.data.truncate(number, 0)
    assert machine.volume.archive.retire() == 0
    assert plan.fetch() == noise(UNIT)
    plan.release()
    assert machine.volume.archive.retire() == 1


def test_what_a_missing_drive_holds_is_a_stray_when_it_returns(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    segment = machine.archive(number)
    lost = machine.pool.ids[1]
    machine.reopen(without=[lost])
    machine.volume.data.truncate(number, 0)
    assert machine.volume.archive.retire() == 1
    assert machine.volume.archive.strays() == []
    machine.reopen()
    assert machine.volume.archive.strays() == [(lost, FragmentName(segment, 1, 1))]


def test_an_older_generation_is_a_stray(machine: Machine) -> None:
    number = machine.file(b"a", noise(UNIT))
    segment = machine.archive(number)
    pool = machine.pool
    archived = machine.volume.catalog.archived(segment)
    assert archived is not None
    units = pool.units(archived, noise(UNIT))
    placed = (archived.fragments[0]._replace(generation=2), *archived.fragments[1:])
    newer = archived._replace(fragments=placed)
    pool.write_fragment(segment, newer, 0, units[0], [ArchivedExtent(number, 0, UNIT, 0)])
    assert machine.volume.archive.strays() == [(pool.ids[0], FragmentName(segment, 0, 2))]
    machine.volume.archive.switch(segment, newer, [])
    assert machine.volume.archive.strays() == [(pool.ids[0], FragmentName(segment, 0, 1))]
    assert machine.read(number) == noise(UNIT)


# -- recovery ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["checkpoint", "journal", "snapshot"])
def test_archived_segments_are_known_after_every_kind_of_recovery(
    machine: Machine, how: str
) -> None:
    content = noise(77 * KIB)
    number = machine.file(b"a", content)
    segment = machine.archive(number)
    archived = machine.volume.catalog.archived(segment)
    live = dict(machine.volume.catalog.live)
    if how == "checkpoint":
        machine.volume.checkpoints.run()
    elif how == "snapshot":
        run_inline(machine.volume.snapshots.make())
    else:
        machine.commit()
    machine.volume.abandon()
    if how != "checkpoint":
        shutil.rmtree(machine.path)
    volume = machine.open()
    assert volume.catalog.archived(segment) == archived
    assert list(volume.catalog.archived_segments()) == [(segment, archived)]
    assert volume.catalog.live[segment] == live[segment] == len(content)
    assert machine.read(number) == content
    assert volume.context.reader.store.number() > segment
    assert audit(volume) == []


def test_no_number_of_an_archived_segment_is_given_again(machine: Machine) -> None:
    """Nothing on the workspace's drives reminds of it once the journal behind a snapshot is cut."""
    number = machine.file(b"a", noise(UNIT))
    store = machine.volume.context.reader.store
    store.next_number = 900
    segment = machine.archive(number)
    assert segment == 900
    store.next_number = 50  # as if nothing but the row knew of it
    run_inline(machine.volume.snapshots.make())
    machine.volume.abandon()
    shutil.rmtree(machine.path)
    volume = machine.open()
    assert volume.context.reader.store.number() > 900


def test_a_switch_cut_anywhere_loses_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    contents = [noise(60 * KIB, seed) for seed in range(3)]
    for cut in itertools.count():
        place = tmp_path / str(cut)
        place.mkdir()
        machine = Machine(place)
        machine.open()
        numbers = [machine.file(b"%d" % i, content) for i, content in enumerate(contents)]
        machine.volume.checkpoints.run()
        copied = machine.copy(numbers)
        machine.world.cut_at(machine.world.operations + cut)
        try:
            for index in range(3):
                machine.volume.archive.switch(
                    copied.number, copied.archived, copied.moved[: index + 1]
                )
                machine.commit()
            machine.volume.checkpoints.run()
            machine.volume.archive.retire()
            finished = True
        except PowerCut:
            finished = False
        world = machine.world.reboot(random.Random(cut))
        catalog = machine.path
        machine = Machine(place / "again", world=World())
        machine.path, machine.world = catalog, world
        machine.workspace = world.drives[0]
        machine.pool.drives = dict(zip(machine.pool.ids, world.drives[1:], strict=True))  # type: ignore[arg-type]
        volume = machine.open()
        for number, content in zip(numbers, contents, strict=True):
            assert machine.read(number) == content, cut
        assert audit(volume) == []
        if volume.catalog.archived(copied.number) is None:
            assert volume.archive.strays() != []
        volume.archive.switch(*copied)
        for number, content in zip(numbers, contents, strict=True):
            assert machine.read(number) == content, cut
        assert volume.catalog.live[copied.number] == 3 * 60 * KIB
        volume.abandon()
        shutil.rmtree(place)
        if finished:
            break
    assert cut > 5


# -- everything at once --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_random_work_on_archived_files_agrees_with_plain_bytes(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    machine = Machine(tmp_path, (2, 1), (1, 1))
    machine.open()
    files = {machine.file(b"f%d" % i, b""): bytearray() for i in range(3)}
    copies: list[Copied] = []
    lost: list[bytes] = []
    for _ in range(120):
        volume = machine.volume
        number = dice.choice(list(files))
        content = files[number]
        at, size = dice.randrange(60_000), dice.randrange(1, 20_000)
        match dice.randrange(12):
            case 0 | 1 | 2:
                new = dice.randbytes(size)
                volume.data.write(number, at, new)
                content.extend(bytes(max(0, at - len(content))))
                content[at : at + size] = new
            case 3:
                volume.data.truncate(number, at)
                del content[at:]
                content.extend(bytes(at - len(content)))
            case 4 if content:
                volume.holes.punch(number, at, size)
                end = min(at + size, len(content))
                if at < end:
                    content[at:end] = bytes(end - at)
            case 5 | 6:
                chosen = [n for n in files if any(e.address for e in machine.extents(n))]
                if chosen and not lost:
                    pool = dice.choice(machine.pools)
                    some = dice.sample(chosen, dice.randrange(1, len(chosen) + 1))
                    copies.append(machine.copy(sorted(some), pool))
            case 7 | 8 if copies:
                volume.archive.switch(*copies.pop(dice.randrange(len(copies))))
            case 9:
                machine.bring_back(number)
            case 10 if not copies:
                # As a shift does: nothing is retired that is still a source of a copy.
                volume.checkpoints.run()
                volume.archive.retire()
            case 11 if not copies:
                lost = [dice.choice(pool.ids) for pool in machine.pools if dice.random() < 0.4]
                machine.reopen(without=lost)
        assert machine.read(number) == content
    for number, content in files.items():
        assert machine.read(number) == content
    while machine.volume.reaper.step():
        pass
    assert audit(machine.volume) == []
    assert all(pool.other_writes() == 0 for pool in machine.pools)
    machine.volume.close()
