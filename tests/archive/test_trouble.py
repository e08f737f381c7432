"""What a shift does when something else than the power goes wrong."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive.control import Control, Phase, Stopped
from shmr.archive.shift import Shift
from shmr.errors import DriveError, IntegrityError
from shmr.testing.drive import World
from shmr.testing.trial import scratch
from shmr.volume.cleaner import run_inline
from tests.archive.site import Site, pool_of, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


def test_what_does_not_read_back_as_it_was_written_is_not_switched(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    struck: list[str] = []

    def rot(world: World) -> None:
        # Behind the first seal, when all units are on the drive.
        for drive in world.drives[1:]:
            if drive.activity.operations["discard"] or struck:  # type: ignore[attr-defined]
                return
            if drive.activity.operations["seal"]:  # type: ignore[attr-defined]
                [name] = [n for n in drive.names() if n.startswith("fragment")]
                struck.append(drive.label)
                drive.flip_bit(name, 4096 + 5, 3)

    site.world.observer = rot
    with pytest.raises(IntegrityError, match="checksum does not match"):
        site.shift(volume, pool)
    site.world.observer = None
    assert struck
    assert site.bytes_in(volume, pool) == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    site.shift(volume, pool)
    assert site.bytes_in(volume, None) == 0
    volume.close()


@pytest.mark.parametrize("readers", [0, 3])
def test_what_does_not_read_back_ends_also_the_writing_beside_it(place: Path, readers: int) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=80)
    total = site.bytes_in(volume, None)
    struck: list[str] = []

    def rot(world: World) -> None:
        # Behind the second seal of a drive: the next segment is written while this one is verified.
        for drive in world.drives[1:]:
            if not struck and drive.activity.operations["seal"] == 2:  # type: ignore[attr-defined]
                struck.append(max(n for n in drive.names() if n.startswith("fragment")))
                drive.flip_bit(struck[0], 4096 + 5, 3)

    site.world.observer = rot
    with pytest.raises(IntegrityError, match="checksum does not match"):
        site.shift(volume, pool, readers=readers)
    site.world.observer = None
    assert struck
    assert 0 < site.bytes_in(volume, pool) < total
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    site.shift(volume, pool)
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    volume.close()


@pytest.mark.parametrize("readers", [0, 3])
@pytest.mark.parametrize("asked", [3, 9, 16])
def test_a_shift_that_is_broken_off_at_once_is_completed_by_the_next(
    place: Path, readers: int, asked: int
) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=60)
    times = 0

    def stop() -> bool:
        nonlocal times
        times += 1
        if times == asked:
            raise KeyboardInterrupt
        return False

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        site.shift(volume, pool, control=Control(stop=stop), readers=readers)
    assert threading.active_count() == threads
    world = site.world.kill()
    volume.abandon()
    volume = site.open(world)
    site.assert_files(volume)
    shift = Shift(volume, site.pools)
    run_inline(shift.recover())
    run_inline(shift.to_archive(site.lots(volume), pool, flush=True))
    assert site.bytes_in(volume, None) == 0
    site.assert_files(volume)
    site.assert_nothing_astray(volume, world)
    volume.close()


def vanishing(site: Site, index: int, operation: int) -> str:
    """Let a drive of the pool vanish in the middle of an operation; what it is called."""
    drive = site.world.drives[1 + index]
    seen = 0

    def vanish(world: World) -> None:
        nonlocal seen
        seen += 1
        if seen == operation:
            drive.lose()

    site.world.observer = vanish
    return drive.label


def test_a_shift_goes_on_without_a_drive_that_vanishes_and_says_so_once(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=60)
    total = site.bytes_in(volume, None)
    label = vanishing(site, 1, 9)
    told: Counter[Phase] = Counter()

    def advance(phase: Phase, size_bytes: int) -> None:
        told[phase] += size_bytes

    shift = site.shift(volume, pool, control=Control(advance))
    site.world.observer = None
    assert shift.report.segments > 1
    # What had to be done again was taken back.
    assert told[Phase.WRITE] == told[Phase.VERIFY] == total
    assert list(shift.report.failed) == [label]
    assert len([r for r in caplog.records if "nothing more is written to it" in r.message]) == 1
    assert site.bytes_in(volume, None) == 0
    assert all(
        placed.drive != pool.drives[1]
        for _, archived in volume.catalog.archived_segments()
        for placed in archived.fragments
    )
    site.assert_files(volume)
    volume.close()


def test_a_drive_that_vanishes_and_cannot_be_done_without_is_named_with_what_the_others_can_take(
    place: Path,
) -> None:
    pool = pool_of("2+1", drives=3)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    label = vanishing(site, 1, 9)
    with pytest.raises(DriveError, match=rf"pool 'cold0': drive {label}: .*zones free"):
        site.shift(volume, pool)
    site.world.observer = None
    assert site.bytes_in(volume, pool) == 0
    site.assert_files(volume)
    volume.close()


def test_what_was_moved_before_a_drive_vanished_that_is_needed_stays_moved(place: Path) -> None:
    pool = pool_of("2+1", drives=3)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=60)
    vanishing(site, 1, 150)
    with pytest.raises(DriveError, match="zones free"):
        site.shift(volume, pool)
    site.world.observer = None
    assert site.bytes_in(volume, pool) > 0
    assert site.bytes_in(volume, None) > 0
    site.assert_files(volume)
    volume.close()


def test_a_file_that_cannot_be_read_stays_and_all_others_move(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    for name in (b"one", b"bad", b"two"):
        site.write(volume, name, name * 20_000)
    volume.close()
    work = site.world.drives[0]
    for name in work.names():
        content = work._files[name].read(0, 1 << 20) if name.startswith("data") else b""
        if b"bad" * 100 in content:
            work.flip_bit(name, content.index(b"bad" * 100), 0)
    volume = site.open()
    shift = site.shift(volume, pool)
    bad = site.numbers[b"bad"]
    assert list(shift.report.unreadable) == [bad]
    assert site.bytes_in(volume, pool) == 120_000
    assert site.bytes_in(volume, None) == 60_000
    del site.files[b"bad"]
    for name in (b"one", b"two"):
        plan = volume.data.plan_read(site.numbers[name], 0, 60_000)
        assert bytes(plan.fetch()) == site.files[name]
        plan.release()
    volume.close()


def test_a_shift_that_is_stopped_keeps_what_it_moved_and_the_next_goes_on(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=60)
    total = site.bytes_in(volume, None)
    done = 0

    def advance(phase: object, size_bytes: int) -> None:
        nonlocal done
        done += size_bytes

    with pytest.raises(Stopped):
        site.shift(volume, pool, control=Control(advance, lambda: done > total))
    there = site.bytes_in(volume, pool)
    assert 0 < there < total
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    site.shift(volume, pool)
    assert site.bytes_in(volume, pool) == total
    volume.close()


def test_the_number_of_a_segment_that_was_never_finished_is_not_used_again(place: Path) -> None:
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    work = Shift(volume, site.pools).to_archive(site.lots(volume), pool, flush=True)
    next(work)()
    strays = {name.segment for _, name in volume.archive.strays()}
    assert strays
    world = site.world.kill()
    volume.abandon()
    volume = site.open(world)
    again = Shift(volume, site.pools)
    run_inline(again.recover())
    run_inline(again.to_archive(site.lots(volume), pool, flush=True))
    used = {number for number, _ in volume.catalog.archived_segments()}
    assert min(used) > max(strays)
    volume.close()


@pytest.mark.parametrize("killed", [False, True])
def test_a_pool_that_is_short_of_drives_can_be_emptied(place: Path, killed: bool) -> None:
    one, other = pool_of("mirror", 0, drives=2), pool_of("2+1", 1)
    site = Site(place, one, other)
    volume = site.open()
    site.fill(volume)
    site.shift(volume, one)
    volume.close()
    volume = site.open(missing=one.drives[:1])
    if killed:
        # Up to the switch, and not on.
        shift = Shift(volume, site.pools)
        shift.settle = lambda: iter(())  # type: ignore[method-assign,assignment,return-value]
        run_inline(shift.to_archive(site.lots(volume, one), other, flush=True))
        volume.abandon()
        volume = site.open(missing=one.drives[:1])
        run_inline(Shift(volume, site.pools).recover())
    else:
        site.shift(volume, other, one)
    assert site.bytes_in(volume, one) == 0
    pools = {archived.pool for _, archived in volume.catalog.archived_segments()}
    assert pools == {other.id}
    site.assert_files(volume)
    volume.close()
