"""What a commit says after the log failed, and what a mount that fails leaves behind."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from shmr.errors import DriveError, Refused
from shmr.log.segment import SegmentWriter
from shmr.testing.faults import Fault
from shmr.testing.trial import Trial, scratch, tight_limits
from shmr.testing.workload import CALLER
from shmr.units import NS_PER_S
from shmr.volume import checkpoint

FILE = 0o100644


@pytest.fixture
def trial() -> Iterator[Trial]:
    with scratch() as place, tight_limits():
        made = Trial(place)
        made.start()
        yield made
        made.volume.abandon()


def commit(trial: Trial) -> None:
    job = trial.volume.commits.begin()
    if job is not None:
        job.run()
        trial.volume.commits.end(job)


def test_no_commit_succeeds_after_a_failed_sync(trial: Trial) -> None:
    trial.volume.names.create(1, b"file", FILE, CALLER)
    trial.world.fail(trial.world.operations, Fault.SYNC)
    with pytest.raises(DriveError):
        commit(trial)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            commit(trial)
        assert refused.value.errno == errno.EIO
    assert trial.volume.read_only is not None


def test_a_job_that_nobody_did_makes_nothing_durable(trial: Trial) -> None:
    trial.volume.names.create(1, b"file", FILE, CALLER)
    job = trial.volume.commits.begin()
    assert job is not None
    with pytest.raises(DriveError):
        trial.volume.commits.end(job)
    assert trial.volume.read_only is not None
    with pytest.raises(Refused):
        trial.volume.checkpoints.run()


def test_a_sync_that_breaks_down_is_not_tried_again(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.volume.names.create(1, b"file", FILE, CALLER)

    def broken(writer: SegmentWriter) -> None:
        raise MemoryError

    monkeypatch.setattr(SegmentWriter, "sync", broken)
    with pytest.raises((MemoryError, DriveError)):
        trial.volume.checkpoints.run()
    monkeypatch.undo()
    assert trial.volume.read_only is not None
    with pytest.raises(Refused) as refused:
        commit(trial)
    assert refused.value.errno == errno.EIO


def test_a_failed_write_makes_the_volume_read_only(trial: Trial) -> None:
    made = trial.volume.names.create(1, b"file", FILE, CALLER)
    trial.volume.data.write(made.number, 0, b"before")
    trial.world.fail(trial.world.operations, Fault.EIO)
    with pytest.raises(DriveError):
        trial.volume.data.write(made.number, 0, b"after!")
    assert trial.volume.read_only is not None
    with pytest.raises(Refused) as refused:
        trial.volume.names.create(1, b"other", FILE, CALLER)
    assert refused.value.errno == errno.EROFS
    plan = trial.volume.data.plan_read(made.number, 0, 100)
    assert bytes(plan.fetch()) == b"before"
    plan.release()


def test_who_comes_while_a_commit_is_in_flight_shares_the_next(trial: Trial) -> None:
    volume = trial.volume
    volume.names.create(1, b"first", FILE, CALLER)
    job = volume.commits.begin()
    assert job is not None
    volume.names.create(1, b"second", FILE, CALLER)
    job.run()
    volume.commits.end(job)
    commit(trial)
    assert volume.commits.begin() is None, "everything is durable"


def test_a_clock_that_is_set_back_puts_no_checkpoint_off(trial: Trial) -> None:
    """Or what nobody fsyncs would not be durable before the clock is where it was."""
    due, clock = trial.volume.checkpoints.due, trial.clock
    trial.volume.names.create(1, b"before", FILE, CALLER)
    assert not due()
    clock.now -= 3600 * NS_PER_S
    assert not due()
    clock.now += checkpoint.IDLE_NS
    assert due(), "nothing changed for so long"
    trial.volume.checkpoints.run()
    clock.now -= 3600 * NS_PER_S
    started = clock.now
    while not due():
        trial.volume.names.create(1, b"%d" % clock.now, FILE, CALLER)
        clock.now += checkpoint.IDLE_NS // 2
        assert clock.now - started <= 2 * checkpoint.AGE_NS, "it changes all the time"


def test_a_mount_that_fails_can_be_tried_again(trial: Trial) -> None:
    """Its catalog is let go of: LMDB opens a file once in a process."""
    trial.volume.close()
    world = trial.world.kill()
    world.fail(0, Fault.EIO, persistent=True)
    for _ in range(3):
        with pytest.raises(DriveError):
            trial.mount(world)
    world.plan.heal()
    trial.volume = trial.mount(world)
