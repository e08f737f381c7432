"""A full workspace: writers are told, deletes work and give space back, and it mounts again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from shmr.errors import NoSpace
from shmr.testing.tree import tree_of
from shmr.testing.trial import CATALOG, Trial, scratch, tight_limits
from shmr.testing.workload import CALLER, payload
from shmr.units import KIB, MIB
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume

FILE = 0o100644
PIECE = 100 * KIB


@pytest.fixture(params=[1, 2], ids=["one copy", "two copies"])
def full(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A volume on which the last write found no space."""
    with scratch() as place, tight_limits():
        trial = Trial(place, copies=request.param, capacity_bytes=6 * MIB)
        trial.start()
        names = trial.volume.names
        number = 0
        with pytest.raises(NoSpace):
            while True:
                made = names.create(1, b"%d" % number, FILE, CALLER)
                trial.volume.data.write(made.number, 0, payload(number, PIECE))
                number += 1
        assert number > 15
        yield trial
        trial.volume.abandon()


def test_deletes_work_and_give_the_space_back(full: Trial) -> None:
    volume = full.volume
    names = [name for name, _, _ in volume.names.entries(1, 0)]
    for name in names[: len(names) // 2]:
        volume.names.unlink(1, name)
    volume.checkpoints.run()
    volume.space.measure()
    assert volume.read_only is None
    made = volume.names.create(1, b"again", FILE, CALLER)
    for part in range(5):
        volume.data.write(made.number, part * PIECE, payload(part, PIECE))


def test_every_other_piece_deleted_is_space_that_the_cleaner_wins(full: Trial) -> None:
    volume = full.volume
    for index, (name, _, _) in enumerate(list(volume.names.entries(1, 0))):
        if index % 2:
            volume.names.unlink(1, name)
    wanted = tree_of(volume)
    before = volume.usage().blocks_available
    for _ in range(30):
        volume.checkpoints.run()
        victim = volume.cleaner.victim(pressed=True)
        if victim is None:
            break
        run_inline(volume.cleaner.clean(victim))
    assert volume.usage().blocks_available > before
    assert tree_of(volume) == wanted


def test_what_was_acknowledged_survives_any_number_of_crashes(full: Trial) -> None:
    """Each mount begins a journal segment: those must not eat up what deletes need."""
    full.volume.checkpoints.run()
    wanted = tree_of(full.volume)
    for _ in range(20):
        full.volume.abandon()
        full.world = full.world.kill()
        full.volume = full.mount()
        assert full.volume.read_only is None
        assert tree_of(full.volume) == wanted
    name = next(full.volume.names.entries(1, 0))[0]
    full.volume.names.unlink(1, name)
    full.volume.checkpoints.run()


def test_a_full_workspace_ends_cleanly_and_mounts_again(full: Trial) -> None:
    wanted = tree_of(full.volume)
    for _ in range(20):
        full.volume.close()
        full.volume = full.mount()
        assert tree_of(full.volume) == wanted


def test_what_statfs_promises_can_be_written(full: Trial) -> None:
    volume = full.volume
    for index, (name, _, _) in enumerate(list(volume.names.entries(1, 0))):
        if index < 5:
            volume.names.unlink(1, name)
    volume.checkpoints.run()
    volume.space.measure()
    usage = volume.usage()
    promised = usage.blocks_available * usage.block_size
    assert promised > 0
    made = volume.names.create(1, b"more", FILE, CALLER)
    written = 0
    with pytest.raises(NoSpace):
        while True:
            volume.data.write(made.number, written, payload(1, 4096))
            written += 4096
    # Headers take a share, in segments as small as these a large one.
    assert written >= promised * 0.8


@pytest.fixture(params=[1, 40], ids=["commits of one", "commits of forty"])
def named(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """A volume full of files without data, so that the journal is what takes the space."""
    with scratch() as place:
        trial = Trial(place, capacity_bytes=11 * MIB, segment_bytes=MIB)
        trial.start()
        volume, number = trial.volume, 0
        with pytest.raises(NoSpace):
            while True:
                volume.names.create(1, b"%d" % number + b"x" * 200, FILE, CALLER)
                number += 1
                if number % request.param == 0:
                    volume.commits.now()
                if number % 500 == 0:
                    maintain(volume)
        assert number > 1000
        yield trial
        trial.volume.abandon()


def maintain(volume: Volume, *, asked: bool = False) -> None:
    """What the daemon does beside requests."""
    volume.checkpoints.run()
    volume.space.measure()
    if volume.snapshots.due(asked=asked):
        run_inline(volume.snapshots.make())
        volume.space.measure()


def create(volume: Volume, name: bytes) -> None:
    """As a request does that asks for room where it finds none."""
    try:
        volume.names.create(1, name, FILE, CALLER)
    except NoSpace:
        maintain(volume, asked=True)
        volume.names.create(1, name, FILE, CALLER)


def test_deleted_names_make_room_for_new_ones(named: Trial) -> None:
    volume = named.volume
    names = [name for name, _, _ in volume.names.entries(1, 0)]
    for number, name in enumerate(names[::2]):
        volume.names.unlink(1, name)
        if number % 100 == 0:
            maintain(volume)
    for number in range(len(names) // 4):
        create(volume, b"again %d" % number)
        if number % 100 == 0:
            maintain(volume)


def delete_all(volume: Volume) -> int:
    """Until commits find no room and on; returns how many were left when the last one did."""
    names = [name for name, _, _ in volume.names.entries(1, 0)]
    left, refused = len(names), False
    for number, name in enumerate(names, start=1):
        volume.names.unlink(1, name)
        if refused and number % 100:
            continue
        try:
            volume.commits.now()
            left = len(names) - number
        except NoSpace:
            refused = True
    assert refused
    return left


def test_everything_can_be_deleted_while_a_snapshot_is_written(named: Trial) -> None:
    """However long that takes: what finds no room to be committed is committed at its end."""
    volume = named.volume
    work = volume.snapshots.make()
    made = next(work)()
    delete_all(volume)
    with pytest.raises(StopIteration):
        work.send(made)
    create(volume, b"again")
    volume.commits.now()
    for how in ("kill", "rebuild", "clean"):
        volume = mounted_again(named, how)
        assert [name for name, _, _ in volume.names.entries(1, 0)] == [b"again"]


@pytest.mark.parametrize("how", ["kill", "rebuild"])
def test_what_a_snapshot_replaces_may_go_before_a_row_names_it(
    named: Trial, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash after that removal, before the commit that it made room for."""
    checkpoints = named.volume.checkpoints
    discard = checkpoints.discard_replaced

    def discard_and_crash() -> int:
        assert discard()
        raise KeyboardInterrupt

    work = named.volume.snapshots.make()
    made = next(work)()
    left = delete_all(named.volume)
    monkeypatch.setattr(checkpoints, "discard_replaced", discard_and_crash)
    with pytest.raises(KeyboardInterrupt):
        work.send(made)
    volume = mounted_again(named, how)
    assert len(list(volume.names.entries(1, 0))) == left


def mounted_again(trial: Trial, how: str) -> Volume:
    """After a clean end, a crash, or a crash that took the catalog too."""
    if how == "clean":
        trial.volume.close()
    else:
        trial.volume.abandon()
        trial.world = trial.world.kill()
    if how == "rebuild":
        shutil.rmtree(trial.place / CATALOG)
    trial.volume = trial.mount()
    assert trial.volume.read_only is None
    return trial.volume
