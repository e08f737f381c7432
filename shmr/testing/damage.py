"""Damage at rest: drives lost, bits flipped, catalogs bent, after everything was acknowledged.

`losses` and `catalogs` must cost nothing. `rot` bends the only copy: then a wrong byte must never
be read. As in `shmr.testing.torture`, each is a function of a seed that returns how many cases it
tried or raises `Failure`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shmr.drive.seam import Buffer
from shmr.errors import IntegrityError, SetupError
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.torture import expect, told, whole
from shmr.testing.tree import Tree, tree_of
from shmr.testing.trial import CATALOG, Files, Trial, files_of, lay_down, scratch
from shmr.testing.trial import tight_limits as tight
from shmr.testing.workload import Generator, Operation, Performer
from shmr.volume.volume import Volume

LAST = Operation("create", (b"/last", 0o100644, 0, b""))


@contextmanager
def at_rest(
    seed: int, count: int, *, copies: int, drives: int | None = None, how: str
) -> Iterator[tuple[Trial, Files | None, int]]:
    """A workload done, acknowledged and left: "clean", or "kill"; its catalog's files.

    The number is the state that the last COMMIT knew durable: only what came behind it may be
    taken for a torn tail.
    """
    with scratch() as place, tight():
        trial = Trial(place, seed=seed, copies=copies, drives=drives)
        with whole(trial, f"seed {seed}, {copies} copies, {count} operations, {how}"):
            trial.start()
            for operation in Generator(seed).operations(count):
                trial.run(operation)
            trial.finish()
            trial.run(Operation("commit"))
            claimed = trial.acknowledged
            trial.run(LAST)
            trial.run(Operation("commit"))
            if how == "clean":
                if seed % 2:
                    trial.remount("clean")
                trial.volume.close()
                claimed = len(trial.states) - 1
            else:
                trial.volume.abandon()
                trial.world = trial.world.reboot(trial.rng)
                trial.settle(len(trial.states) - 1)
            yield trial, files_of(place / CATALOG), claimed


def losses(seed: int, *, copies: int = 2, count: int = 50, cases: int = 30) -> int:
    """With two copies, nothing that happens to one drive costs a byte."""
    rng = random.Random(seed)
    drives = rng.choice((copies, copies + 1))
    how = rng.choice(("clean", "kill"))
    with at_rest(seed, count, copies=copies, drives=drives, how=how) as (trial, files, _):
        wanted = tree_of(trial.model)
        for case in range(cases):
            world = trial.world.kill()
            damage = _lose_or_bend(world, rng, case)
            catalog = files if rng.random() < 0.5 else None
            what = f"{damage}, {'no catalog' if catalog is None else 'catalog'}"
            left = [drive for drive in world.drives if not drive.lost]
            with told(trial, what):
                expect(trial, left, catalog, trial.place / "case", wanted)
    return cases


def _lose_or_bend(world: World, rng: random.Random, case: int) -> str:
    drive = rng.choice([drive for drive in world.drives if drive.names()])
    if case < len(world.drives):
        world.drives[case].lose()
        return f"{world.drives[case].label} lost"
    name = rng.choice(sorted(drive.names()))
    kind = rng.randrange(6)
    if kind == 0:
        drive.discard(name)
        return f"{name} gone from {drive.label}"
    if kind == 1:
        size = rng.randrange(_used(drive, name) + 1)
        drive.shorten(name, size)
        return f"{name} on {drive.label} cut to {size}"
    return _flip(drive, name, rng)


def _used(drive: SimulatedDrive, name: str) -> int:
    """Bytes of the file up to the last that is not zero."""
    return len(drive.open(name).read(0, 1 << 30).rstrip(b"\0"))


def _flip(drive: SimulatedDrive, name: str, rng: random.Random) -> str:
    offset, bit = rng.randrange(max(1, _used(drive, name))), rng.randrange(8)
    if drive.size(name) == 0:
        return f"{name} is empty"
    drive.flip_bit(name, offset, bit)
    return f"bit {bit} of byte {offset} of {name} on {drive.label} flipped"


def rot(seed: int, *, copies: int = 1, count: int = 50, cases: int = 40) -> int:
    """Flip a bit of the only copy: an error, or a mount that says what is wrong, or no effect."""
    rng = random.Random(seed)
    how = rng.choice(("clean", "kill"))
    with at_rest(seed, count, copies=copies, how=how) as (trial, files, claimed):
        for _ in range(cases):
            world = trial.world.kill()
            drive = rng.choice(world.drives)
            damage = _flip(drive, rng.choice(sorted(drive.names())), rng)
            catalog = files if rng.random() < 0.5 else None
            what = f"{damage}, {'no catalog' if catalog is None else 'catalog'}"
            with told(trial, what):
                _judge(trial, world, catalog, claimed)
    return cases


def _judge(trial: Trial, world: World, files: Files | None, claimed: int) -> None:
    catalog = trial.place / "case"
    lay_down(files, catalog)
    try:
        volume = trial.mount(world, catalog)
    except SetupError:
        return
    try:
        readable = Readable(volume)
        try:
            found = tree_of(readable)
        except IntegrityError:
            return
        first = claimed if volume.read_only is None else 0
        _one_of_the_states(trial, volume, found, first)
    finally:
        volume.abandon()


def _one_of_the_states(trial: Trial, volume: Volume, found: Tree, first: int) -> None:
    """`found` is a legal tree, but for files whose bytes are refused."""
    on = Performer(volume)
    for index in range(len(trial.states) - 1, first - 1, -1):
        wanted = trial.tree(index)
        if wanted.keys() == found.keys() and all(
            entry == found[path] or _is_refused(on, path, entry, found[path])
            for path, entry in wanted.items()
        ):
            return
    trial.index_of(found, first=first)


def _is_refused(on: Performer, path: bytes, wanted: Any, found: Any) -> bool:
    if wanted._replace(content=b"") != found._replace(content=b""):
        return False
    return bool(on.unreadable(path))


class Readable:
    """A volume whose damaged files can be looked at: what cannot be read is replaced by a mark."""

    def __init__(self, volume: Volume) -> None:
        self.names = volume.names
        self.attributes = volume.attributes
        self.xattrs = volume.xattrs
        self.data = self
        self._data = volume.data

    def plan_read(self, number: int, offset: int, size: int) -> _Plan:
        return _Plan(self._data.plan_read(number, offset, size))


class _Plan:
    def __init__(self, plan: Any) -> None:
        self._plan = plan

    def fetch_cached(self) -> Buffer | None:
        return None

    def fetch(self) -> Buffer:
        try:
            fetched: Buffer = self._plan.fetch()
            return fetched
        except IntegrityError:
            return b"(refused)"

    def release(self) -> None:
        self._plan.release()


def catalogs(seed: int, *, copies: int = 1, count: int = 40, cases: int = 8) -> int:
    """Bend, cut or empty the file of LMDB: the next mount has everything."""
    rng = random.Random(seed)
    how = rng.choice(("clean", "kill"))
    with at_rest(seed, count, copies=copies, how=how) as (trial, files, _):
        assert files is not None
        trial.in_child = True
        wanted = tree_of(trial.model)
        for _ in range(cases):
            bent, damage = _bent(files, rng)
            with told(trial, damage):
                world = trial.world.kill()
                expect(trial, world.drives, bent, _fresh(trial.place), wanted)
    return cases


def _fresh(place: Path) -> Path:
    """A path for a catalog, with room beside it for those that are set aside."""
    for path in place.glob("case*"):
        lay_down(None, path)
    return place / "case"


def _bent(files: Files, rng: random.Random) -> tuple[Files, str]:
    bent = dict(files)
    content = bytearray(bent["data.mdb"])
    offset = rng.choice((rng.randrange(8192), rng.randrange(len(content))))
    kind = rng.randrange(5)
    if kind == 0:
        del content[offset:]
        damage = f"cut at {offset}"
    elif kind == 1:
        content[offset : offset + 4096] = bytes(len(content[offset : offset + 4096]))
        damage = f"zeros from {offset}"
    else:
        content[offset] ^= 1 << rng.randrange(8)
        damage = f"a bit of byte {offset} flipped"
    bent["data.mdb"] = bytes(content)
    if rng.random() < 0.5:
        bent.pop("digest", None)
    return bent, f"data.mdb: {damage}, " + ("digest there" if "digest" in bent else "no digest")
