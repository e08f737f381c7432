"""A volume on simulated drives beside the model: every operation done on both and compared.

A `Trial` knows after each operation what the tree has to be, and how much of it was acknowledged
as durable. So it can say of any state of the drives which trees a recovery may come to: the one
of the last acknowledged commit, or of any later boundary between two operations. `shmr.testing
.torture` cuts, breaks and bends what a trial made.
"""

from __future__ import annotations

import errno
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmr.catalog import bare, inodes, names, store
from shmr.errors import DriveError, IntegrityError, NoSpace, Refused
from shmr.log import log
from shmr.log.reader import ReadPlan
from shmr.testing.audit import audit
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.model import Model
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.workload import MAINTENANCE, Operation, Performer
from shmr.units import GIB, KIB
from shmr.volume import cleaner, data, handles, reaper
from shmr.volume.volume import Volume, open_volume

FILESYSTEM = bytes(range(100, 116))
SEGMENT_BYTES = 128 * KIB
CATALOG = "catalog"
Files = dict[str, bytes]


class Failure(AssertionError):
    """shmr broke a promise. The message says which, and what was done before."""


class Clock:
    """Stands still within an operation, so that volume and model give the same times."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def tick(self) -> None:
        self.now += 1_000_003


@contextmanager
def tight_limits() -> Iterator[None]:
    """Let a few extents be many, so that small workloads reach what long files do."""
    limits: list[tuple[Any, str, int]] = [
        (data, "TOUCHED_MAX", 4),
        (handles, "ROWS_MAX", 8),
        (reaper, "STEP_ROWS", 3),
        (cleaner, "STEP_FRAMES", 3),
        (log, "JOURNAL_MIN_BYTES", 160 * KIB),
        (inodes, "CHANGED_MAX", 4),
        (inodes, "KNOWN_MAX", 4),
        (names, "NAMES_MAX", 4),
        (bare, "BARE_MAX", 4),
        (store, "MAP_BYTES", GIB),  # recoveries within recoveries share one address space
    ]
    usual = [(module, name, getattr(module, name)) for module, name, _ in limits]
    try:
        for module, name, few in limits:
            setattr(module, name, few)
        yield
    finally:
        for module, name, many in usual:
            setattr(module, name, many)


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for catalogs, in memory where that can be had: each image needs one."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="shmr-trial-", dir=memory if memory.is_dir() else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def files_of(directory: Path) -> Files | None:
    """The catalog as it is on disk now: LMDB writes its file in a commit only."""
    if not directory.is_dir():
        return None
    return {f.name: f.read_bytes() for f in directory.iterdir() if f.name != "lock.mdb"}


def lay_down(files: Files | None, directory: Path) -> None:
    """Make `directory` hold these files and nothing else."""
    shutil.rmtree(directory, ignore_errors=True)
    if files is not None:
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)


class Trial:
    """One volume, one model, and the states that the model went through."""

    def __init__(
        self,
        place: Path,
        *,
        seed: int = 0,
        copies: int = 1,
        drives: int | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        capacity_bytes: int = GIB,
    ) -> None:
        self.place = place
        self.copies = copies
        self.segment_bytes = segment_bytes
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.world = World(seed)
        for _ in range(drives or copies):
            self.world.add(capacity_bytes=capacity_bytes)
        self.model = Model(self.clock)
        self.states: list[Model] = [self.model.copy()]
        """The model at each boundary between operations; never changed."""
        self.acknowledged = 0
        """Index of the state that the last successful commit promised to keep."""
        self.done: list[Operation] = []
        self.in_child = False
        """Whether doubtful catalogs are examined in a process of its own: needed to bend pages."""
        self._trees: dict[int, Tree] = {}
        self._in_flight: tuple[Any, int] | None = None
        self._synced = False
        self._works: dict[str, tuple[Any, Any]] = {}
        self._plans: list[tuple[ReadPlan, bytes]] = []
        self.volume: Volume

    # -- opening ----------------------------------------------------------------------------

    def mount(
        self,
        world: World | None = None,
        catalog: Path | None = None,
        *,
        drives: Sequence[SimulatedDrive] | None = None,
        read_only: bool = False,
    ) -> Volume:
        """Open what is on `drives`, those of this trial unless others are given."""
        return open_volume(
            FILESYSTEM,
            drives or (world or self.world).drives,
            catalog or self.place / CATALOG,
            clock=self.clock,
            copies=self.copies,
            segment_bytes=self.segment_bytes,
            in_child=self.in_child,
            read_only=read_only,
        )

    def start(self) -> None:
        """The first mount."""
        self._take(self.mount())

    def _take(self, volume: Volume) -> None:
        self.volume = volume
        self.on_volume = Performer(volume)
        self.on_model = Performer(self.model)
        self._in_flight, self._works, self._plans = None, {}, []

    # -- what has to be there ---------------------------------------------------------------

    def tree(self, index: int) -> Tree:
        """The tree at a boundary."""
        if index not in self._trees:
            self._trees[index] = tree_of(self.states[index])
        return self._trees[index]

    def index_of(self, tree: Tree, *, first: int | None = None) -> int:
        """The newest boundary with this tree, not before what was acknowledged."""
        first = self.acknowledged if first is None else first
        for index in range(len(self.states) - 1, first - 1, -1):
            if self.tree(index) == tree:
                return index
        nearest = min(
            (differences(self.tree(i), tree) for i in range(first, len(self.states))), key=len
        )
        raise Failure(
            f"the tree is none of the states {first}..{len(self.states) - 1}; nearest:\n"
            + "\n".join(nearest[:20])
        )

    def inspect(self, volume: Volume) -> int:
        """Compare a recovered volume with the legal states; returns which one it is at."""
        if volume.read_only is not None:
            raise Failure(f"recovered read-only: {volume.read_only}")
        try:
            found = tree_of(volume)
        except (IntegrityError, DriveError, Refused) as error:
            raise Failure(f"recovered, and reading fails: {error!r}") from error
        index = self.index_of(found)
        problems = audit(volume)
        if problems:
            raise Failure("the catalog is wrong:\n" + "\n".join(problems[:20]))
        return index

    def compare(self) -> None:
        """The volume, as it is mounted, has the model's tree."""
        wrong = differences(tree_of(self.model), tree_of(self.volume))
        if wrong:
            raise Failure("the trees differ:\n" + "\n".join(wrong[:20]))

    # -- operations -------------------------------------------------------------------------

    def run(self, operation: Operation) -> None:
        """One operation on both. Raises Failure where they differ; lets DriveError through.

        After a DriveError, and after NoSpace, the model is as before the operation.
        """
        self.clock.tick()
        self.done.append(operation)
        if operation.verb in MAINTENANCE:
            try:
                getattr(self, "_" + operation.verb)(*operation.arguments)
            except NoSpace:
                return
            return
        before = self.model.copy(), self.on_model.slots.copy()
        expected = self.on_model.perform(operation)
        self.states.append(self.model.copy())
        try:
            found = self.on_volume.perform(operation)
        except NoSpace:
            self._undo(*before)
            return
        except DriveError:
            # Whether it happened is open: both states are legal until `survey` has looked.
            self._model_is(*before)
            raise
        if found == errno.EROFS != expected and self.volume.read_only is not None:
            self._undo(*before)
        elif found != expected:
            raise Failure(f"{operation}: expected errno {expected}, found {found}")

    def _undo(self, model: Model, slots: dict[int, int]) -> None:
        self._model_is(model, slots)
        self.states[-1] = model.copy()

    def survey(self) -> bool:
        """After a DriveError: did the operation happen, or not? Never half. False: unreadable."""
        try:
            found = tree_of(self.volume)
        except (IntegrityError, DriveError):
            return False
        if found == tree_of(self.model):
            self.states.append(self.model.copy())
        elif found == self.tree(self._now):
            self._model_is(self.states[-1].copy(), self.on_model.slots)
        else:
            raise Failure(
                "after a DriveError the tree is neither as before nor as after:\n"
                + "\n".join(differences(tree_of(self.model), found)[:20])
            )
        return True

    def _model_is(self, model: Model, slots: dict[int, int]) -> None:
        self.model = model
        self.on_model = Performer(model)
        self.on_model.slots = slots

    @property
    def _now(self) -> int:
        return len(self.states) - 1

    def _commit(self) -> None:
        self._end()
        self._begin()
        self._end()

    def _begin(self) -> None:
        if self._in_flight is None:
            now = self._now
            job = self.volume.commits.begin()
            if job is None:
                self.acknowledged = now
            else:
                self._in_flight, self._synced = (job, now), False

    def _sync(self) -> None:
        if self._in_flight is not None and not self._synced:
            self._synced = True
            self._in_flight[0].run()

    def _end(self) -> None:
        self._sync()
        if self._in_flight is not None:
            (job, index), self._in_flight = self._in_flight, None
            self.volume.commits.end(job)
            self.acknowledged = max(self.acknowledged, index)

    def _checkpoint(self) -> None:
        self.volume.checkpoints.run()
        self.acknowledged = self._now

    def _snapshot(self) -> None:
        if "snapshot" not in self._works:
            self._works["snapshot"] = (self.volume.snapshots.make(), None)
        self._advance("snapshot")

    def _clean(self) -> None:
        if "clean" not in self._works:
            victim = self.volume.cleaner.victim(pressed=True)
            if victim is None:
                return
            self._works["clean"] = (self.volume.cleaner.clean(victim), None)
        for _ in range(self.rng.choice((1, 3, 10, 1000))):
            if "clean" in self._works:
                self._advance("clean")

    def _step(self) -> None:
        for name in list(self._works):
            self._advance(name)

    def _advance(self, name: str) -> None:
        """One beat of a work under way: its job is done, and what follows on the thread."""
        work, call = self._works.pop(name)
        try:
            if call is None:
                self._works[name] = (work, next(work))
                return
            try:
                result = call()
            except Exception as error:
                self._works[name] = (work, work.throw(error))
            else:
                self._works[name] = (work, work.send(result))
        except StopIteration:
            pass

    def _reap(self) -> None:
        self.volume.reaper.step()

    def _measure(self) -> None:
        self.volume.space.measure()
        self.volume.usage()

    def _plan(self, path: bytes, offset: int, length: int) -> None:
        """A read that is fetched later has the bytes of when it was planned."""
        try:
            number = self.on_volume.find(path).number
            plan = self.volume.data.plan_read(number, offset, min(length, 1 << 20))
        except Refused:
            return
        wanted = self.on_model.find(path).number
        content = self.model.data.read(wanted, offset, min(length, 1 << 20))
        self._plans.append((plan, content))

    def _fetch(self) -> None:
        while self._plans:
            plan, content = self._plans.pop()
            try:
                found = plan.fetch()
            finally:
                plan.release()
            if found != content:
                raise Failure(f"a read of {len(content)} bytes planned earlier is wrong")

    # -- the end, and going on --------------------------------------------------------------

    def finish(self) -> None:
        """Let everything under way come to its end."""
        while self._works:
            self._step()
        self._fetch()
        self._end()

    def remount(self, how: str) -> None:
        """Close or crash, and mount again: "clean", "kill", or "rebuild" (no catalog)."""
        self.clock.tick()
        self.done.append(Operation("remount", (how,)))
        if how == "clean":
            self.finish()
            self.volume.close()
            self.acknowledged = self._now
        else:
            observer, self.world.observer = self.world.observer, None
            self.volume.abandon()
            self.world = self.world.kill()
            self.world.observer = observer
        del self.volume
        if how == "rebuild":
            shutil.rmtree(self.place / CATALOG, ignore_errors=True)
        volume = self.mount()
        index = self.inspect(volume)
        self.settle(index)
        self._take(volume)

    def settle(self, index: int) -> None:
        """A mount came to state `index`: it is durable, and the model goes on from there."""
        self.model = self.states[index].restarted()
        self.states.append(self.model.copy())
        self.acknowledged = self._now

    def history(self) -> str:
        """What was done, to be read by people."""
        return "\n".join(f"  {number:4} {done}" for number, done in enumerate(self.done))
