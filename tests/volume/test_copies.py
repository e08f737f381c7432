"""A mirror that lost a drive keeps all copies again, on the drives that are left."""

from __future__ import annotations

from shmr.testing.audit import audit
from shmr.testing.tree import differences, tree_of
from shmr.testing.trial import Trial, scratch, tight_limits
from shmr.testing.workload import CALLER, Operation
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume

FILE = 0o100644


def given_copies(volume: Volume) -> int:
    """What the daemon does in a quiet moment; how often it had something to do."""
    rounds = 0
    while (victim := volume.cleaner.victim(pressed=False)) is not None:
        run_inline(volume.cleaner.clean(victim))
        volume.checkpoints.run()
        rounds += 1
        assert rounds < 100
    while volume.snapshots.due():
        run_inline(volume.snapshots.make())
        rounds += 1
        assert rounds < 100
    return rounds


def filled(trial: Trial) -> None:
    trial.start()
    for number in range(8):
        path = b"/%d" % number
        trial.run(Operation("create", (path, FILE, 0, b"")))
        trial.run(Operation("write", (path, 0, 90_000, number)))
    trial.run(Operation("commit"))


def test_a_lost_drive_costs_no_copy_for_long() -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place, copies=2, drives=3)
        filled(trial)
        trial.volume.close()
        wanted = tree_of(trial.model.restarted())
        for lost in range(3):
            left = trial.world.kill()
            two = [drive for number, drive in enumerate(left.drives) if number != lost]
            volume = trial.mount(left, place / f"catalog{lost}", drives=two)
            store = volume.context.reader.store
            assert any(map(store.lacks_copies, store.segments.values()))
            assert given_copies(volume)
            assert not any(map(store.lacks_copies, store.segments.values()))
            volume.abandon()
            for number, drive in enumerate(two):
                alone = trial.mount(left, place / f"alone{lost}{number}", drives=[drive])
                assert alone.read_only is None
                assert not differences(wanted, tree_of(alone)) and not audit(alone)
                alone.abandon()


def test_where_no_drive_is_lost_nothing_is_moved() -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place, copies=2, drives=3)
        filled(trial)
        assert given_copies(trial.volume) == 0
        trial.volume.abandon()


def test_when_space_is_short_copies_wait() -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place, copies=2, drives=3)
        filled(trial)
        trial.volume.close()
        left = trial.world.kill()
        volume = trial.mount(left, place / "catalog2", drives=left.drives[:2])
        assert volume.cleaner.victim(pressed=True) is None
        assert volume.cleaner.victim(pressed=False) is not None
        volume.names.create(1, b"more", FILE, CALLER)
        volume.close()
