"""No segment number is ever used twice, whatever is killed and whichever drive loses power when."""

from __future__ import annotations

import random

import pytest

from shmr.format.records import Stream
from shmr.log.store import SegmentStore
from shmr.testing.drive import World
from shmr.testing.trial import CATALOG, Files, Trial, files_of, lay_down, scratch, tight_limits
from shmr.testing.workload import CALLER
from shmr.units import MIB
from shmr.volume.volume import Volume

FILE = 0o100644


def made(volume: Volume, name: bytes) -> None:
    """A file, and a commit of it."""
    volume.names.create(1, name, FILE, CALLER)
    job = volume.commits.begin()
    assert job is not None
    job.run()
    volume.commits.end(job)


def names(volume: Volume) -> set[bytes]:
    return {name for name, _, _ in volume.names.entries(1, 0)}


@pytest.mark.parametrize("seed", range(12))
def test_what_a_killed_recovery_removed_comes_back_beside_nothing_of_its_name(seed: int) -> None:
    """A torn journal segment is removed, and the mount is killed; the next one begins a segment on
    another drive; then power fails, and the removed one is back on its own.
    """
    with scratch() as place, tight_limits():
        trial = Trial(place, seed=seed, drives=2, capacity_bytes=8 * MIB)
        trial.start()
        made(trial.volume, b"before")
        trial.world.drives[seed % 2].capacity_bytes = 32 * MIB
        trial.volume.names.create(1, b"torn", FILE, CALLER)
        trial.volume.log._roll_journal()
        trial.volume.context.cut()
        torn = trial.world.reboot(random.Random(seed))
        trial.volume.abandon()

        killed: list[tuple[World, Files | None]] = []

        def kill_at_discard(world: World) -> None:
            if not killed and any(drive._gone for drive in world.drives):
                killed.append((world.kill(), files_of(place / CATALOG)))

        torn.observer = kill_at_discard
        trial.mount(torn).abandon()
        if not killed:
            return  # the cut left all of it, or nothing
        world, files = killed[0]
        lay_down(files, place / CATALOG)
        trial.clock.tick()
        gone = [bool(drive._gone) for drive in world.drives]
        world.drives[not gone.index(True)].capacity_bytes = 64 * MIB
        volume = trial.mount(world)
        taken = [name for drive in world.drives for name in drive._files]
        assert not {name for drive in world.drives for name in drive._gone} & set(taken)
        for number in range(3):
            made(volume, b"after%d" % number)
        expected = names(volume)
        for other in range(6):
            lay_down(files, place / "other")
            again = trial.mount(world.reboot(random.Random(other)), place / "other")
            assert again.read_only is None
            assert names(again) >= expected
            again.abandon()
        volume.abandon()


def with_spare(trial: Trial) -> None:
    """A data segment is claimed ahead."""
    store = trial.volume.log.store
    size = store.segment_bytes
    claim = store.create(Stream.DATA, store.number(), size, store.place(size))
    trial.volume.log.add_spare(claim)


@pytest.mark.parametrize("seed", [4, 7, 9, 10, 15, 16])
def test_the_number_of_what_was_claimed_in_vain_stays_taken(seed: int) -> None:
    """Killed behind that; a journal segment begun on the other drive; then power fails."""
    with scratch() as place, tight_limits():
        trial = Trial(place, seed=seed, drives=2, capacity_bytes=8 * MIB)
        trial.start()
        made(trial.volume, b"before")
        trial.world.drives[0].capacity_bytes = 32 * MIB
        free = trial.volume.log.store.free_bytes()
        with_spare(trial)
        trial.volume.log.give_back_spares()
        assert trial.volume.log.store.free_bytes() == free
        world = trial.world.kill()
        trial.volume.abandon()
        world.drives[1].capacity_bytes = 64 * MIB
        volume = trial.mount(world)
        for number in range(3):
            made(volume, b"after%d" % number)
        expected = names(volume)
        left = world.reboot(random.Random(seed))
        volume.abandon()
        again = trial.mount(left)
        assert again.read_only is None
        assert names(again) == expected
        again.abandon()


def test_what_was_claimed_in_vain_goes_at_the_next_checkpoint() -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place)
        trial.start()
        for end in (trial.volume.log.give_back_spares, trial.volume.close):
            with_spare(trial)
            end()
            if end != trial.volume.close:
                trial.volume.checkpoints.run()
            assert not [n for n in trial.world.drives[0].names() if n.startswith("data-")]


def test_a_clean_end_uses_what_was_claimed_ahead_where_others_filled_the_disk() -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place, segment_bytes=MIB, capacity_bytes=32 * MIB)
        trial.start()
        drive, volume = trial.world.drives[0], trial.volume
        with_spare(trial)
        while volume.catalog.batch_bytes < 2 * volume.log.journal_bytes - 60_000:
            volume.names.create(1, b"%0200d" % volume.catalog.epoch_rows, FILE, CALLER)
        expected = names(volume)
        drive.capacity_bytes = drive._used
        volume.close()
        drive.capacity_bytes = 64 * MIB
        again = trial.mount()
        assert names(again) == expected
        again.abandon()


def test_some_seed_removes_a_torn_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested above happens at all."""
    discarded: list[int] = []
    discard = SegmentStore.discard

    def noted(store: SegmentStore, number: int) -> None:
        discarded.append(number)
        discard(store, number)

    monkeypatch.setattr(SegmentStore, "discard", noted)
    for seed in range(12):
        test_what_a_killed_recovery_removed_comes_back_beside_nothing_of_its_name(seed)
    assert discarded
