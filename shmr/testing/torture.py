"""Breaks volumes on simulated drives in every way of the fault model, and looks what is left.

Each kind of torture is one function of a seed: `power_cuts`, `faults`, `losses`, `rot`. It makes
a workload, lets the world go wrong, recovers, and compares with what was acknowledged (see
`shmr.testing.trial`). It returns how many images it looked at, or raises `Failure` with a history;
the same seed and options fail again.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shmr.errors import DriveError, IntegrityError, NoSpace, Refused, SetupError
from shmr.testing.audit import audit
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.faults import Fault, PowerCut
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import (
    CATALOG,
    SEGMENT_BYTES,
    Failure,
    Files,
    Trial,
    files_of,
    lay_down,
    scratch,
    tight_limits,
)
from shmr.testing.workload import MAINTENANCE, Generator, Operation, Performer
from shmr.volume.volume import Volume

DEPTH = 2
"""Cuts within recoveries from cuts, and once more within those."""
ALWAYS: Callable[[], bool] = lambda: True  # noqa: E731


@contextmanager
def told(trial: Trial, what: str) -> Iterator[None]:
    """A Failure inside is told with where it happened and everything that was done."""
    try:
        yield
    except Failure as failure:
        raise Failure(f"{what}: {failure}") from failure
    except (PowerCut, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise Failure(f"{what}: {error!r}") from error


class Images:
    """Looks at what cuts of a trial's power leave, while the trial goes on."""

    def __init__(self, trial: Trial, place: Path, share: float) -> None:
        self.count = 0
        self._trial = trial
        self._place = place
        self._share = share
        self._rng = random.Random(trial.rng.getrandbits(64))
        self._last: Files | None = None

    def observe(self, world: World) -> None:
        """A change of the drives is under way: the power may go now."""
        now = files_of(self._trial.place / CATALOG)
        if now != self._last:
            # Between the last change and this one LMDB committed: the power may have gone
            # before that, with everything on the drives that the commit stands on.
            if self._rng.random() < self._share:
                self._look(world, self._last, "before the commit of LMDB")
            self._last = now
        if self._rng.random() < self._share:
            without = self._rng.random() < 0.3
            self._look(world, None if without else now, "no catalog" if without else "catalog")

    def _look(self, world: World, files: Files | None, how: str) -> None:
        trial = self._trial
        rng = random.Random(self._rng.getrandbits(64))
        what = f"power cut at change {world.operations - 1} after operation {len(trial.done) - 1}"
        with told(trial, f"{what}, {how}"):
            self.count += check(trial, world.reboot(rng), files, self._place, rng, DEPTH)


def check(
    trial: Trial, world: World, files: Files | None, place: Path, rng: random.Random, depth: int
) -> int:
    """Recover the image `world` with the catalog `files`, and work with it; images looked at."""
    catalog = place / f"image{depth}"
    lay_down(files, catalog)
    looked = 1
    sparse = rng.random() * 0.2

    def cut_again(halfway: World) -> None:
        nonlocal looked
        if rng.random() < sparse:
            left = halfway.reboot(random.Random(rng.getrandbits(64)))
            now = files_of(catalog)
            number = halfway.operations - 1
            with told(trial, f"then a cut at change {number} of the recovery"):
                looked += check(trial, left, now, place, rng, depth - 1)

    if depth and rng.random() < 0.3:
        world.observer = cut_again
    volume = trial.mount(world, catalog)
    world.observer = None
    try:
        index = trial.inspect(volume)
        if rng.random() < 0.4:
            use_after(trial, volume, world, catalog, index, rng)
    finally:
        volume.abandon()
    return looked


def use_after(
    trial: Trial, volume: Volume, world: World, catalog: Path, index: int, rng: random.Random
) -> None:
    """What was recovered works: a commit on it survives the next cut, or the loss of a drive."""
    model = trial.states[index].restarted()
    writing = Operation("write", (b"/after", 5000, rng.choice((10, 9000)), 7))
    try:
        for operation in (Operation("create", (b"/after", 0o100644, 0, b"")), writing):
            Performer(volume).perform(operation)
            Performer(model).perform(operation)
    except NoSpace:
        pass  # refused whole: what there is must still be kept
    job = volume.commits.begin()
    if job is not None:
        job.run()
        volume.commits.end(job)
    wanted = tree_of(model)
    left = world.reboot(rng) if rng.random() < 0.6 else world.kill()
    files = files_of(catalog) if rng.random() < 0.6 else None
    drives: Sequence[SimulatedDrive] = left.drives
    what = "used and cut again"
    if trial.copies > 1 and rng.random() < 0.5:
        lost = rng.choice(drives)
        drives = [drive for drive in drives if drive is not lost]
        what = f"used, cut again and {lost.label} lost"
    volume.abandon()
    with told(trial, what):
        expect(trial, drives, files, catalog, wanted)


def expect(
    trial: Trial,
    drives: Sequence[SimulatedDrive],
    files: Files | None,
    catalog: Path,
    wanted: Tree,
) -> None:
    """Mount, compare with one tree, close cleanly, mount, compare again."""
    lay_down(files, catalog)
    for _ in range(2):
        volume = trial.mount(catalog=catalog, drives=drives)
        try:
            if volume.read_only is not None:
                raise Failure(f"read-only: {volume.read_only}")
            wrong = differences(wanted, tree_of(volume)) or audit(volume)
        except BaseException:
            volume.abandon()
            raise
        if wrong:
            volume.abandon()
            raise Failure("\n".join(wrong[:20]))
        volume.close()


def power_cuts(
    seed: int,
    *,
    copies: int = 1,
    count: int = 60,
    share: float = 0.25,
    drives: int | None = None,
    capacity_segments: int = 1000,
) -> int:
    """Cut the power at changes of the drives, in one image or more; at `share` of them."""
    rng = random.Random(seed)
    with scratch() as place, tight_limits():
        capacity = capacity_segments * SEGMENT_BYTES
        trial = Trial(place, seed=seed, copies=copies, drives=drives, capacity_bytes=capacity)
        images = Images(trial, place, share)
        trial.world.observer = images.observe
        with whole(trial, f"power_cuts(seed={seed}, copies={copies}, count={count})"):
            trial.start()
            for operation in Generator(seed).operations(count):
                trial.run(operation)
                if rng.random() < 0.02:
                    trial.remount(rng.choice(("clean", "kill", "rebuild")))
            trial.finish()
            trial.compare()
            trial.remount(rng.choice(("clean", "kill", "rebuild")))
            trial.volume.close()
    return images.count


def faults(seed: int, *, copies: int = 1, count: int = 40, runs: int = 10) -> int:
    """Repeat one workload, each time with one passing or lasting fault at another operation."""
    with scratch() as place, tight_limits():
        trial = Trial(place, seed=seed, copies=copies)
        with whole(trial, f"faults(seed={seed}, copies={copies}, count={count}) without a fault"):
            _with_fault(trial, seed, count)
            changes, reads = trial.world.operations, trial.world.reads
    rng = random.Random(seed)
    for run in range(runs):
        fault = rng.choice(tuple(Fault))
        number = rng.randrange(reads if fault is Fault.READ else changes)
        lasting = rng.random() < 0.3
        shown = f"run {run}: {fault.name} at {number}" + " for good" * lasting
        with scratch() as place, tight_limits():
            trial = Trial(place, seed=seed, copies=copies)
            trial.world.fail(number, fault, persistent=lasting)
            with whole(trial, f"faults(seed={seed}, copies={copies}, count={count}), {shown}"):
                _with_fault(trial, seed, count)
                _recover_after_fault(trial, rng)
    return runs


def _with_fault(trial: Trial, seed: int, count: int) -> None:
    """The workload, as far as it goes."""
    try:
        trial.start()
    except (DriveError, NoSpace, SetupError):
        return
    for operation in Generator(seed).operations(count):
        if trial.volume.read_only and operation.verb in ("checkpoint", "snapshot", "clean"):
            continue
        try:
            trial.run(operation)
        except (DriveError, IntegrityError):
            if operation.verb in MAINTENANCE:
                trial.states.append(trial.model.copy())
            elif not trial.survey():
                break
        except Refused as error:
            if error.errno not in (errno.EIO, errno.EROFS) or not trial.volume.read_only:
                raise
        if trial.volume.log.failed and not trial.volume.read_only:
            raise Failure(f"the log failed ({trial.volume.log.failed}), changes go on")
    trial.volume.abandon()


def _recover_after_fault(trial: Trial, rng: random.Random) -> None:
    """The drive works again: what was acknowledged is there, with and without a power cut."""
    trial.world.plan.heal()
    catalog = trial.place / CATALOG
    files = files_of(catalog) if rng.random() < 0.7 else None
    left = trial.world.kill() if rng.random() < 0.5 else trial.world.reboot(rng)
    check(trial, left, files, trial.place, rng, 1)


@contextmanager
def whole(trial: Trial, what: str) -> Iterator[None]:
    """A Failure is told with how to repeat it and all operations that were done."""
    try:
        yield
    except Exception as failure:
        raise Failure(f"{what}\n{trial.history()}\n{failure!r}") from failure
