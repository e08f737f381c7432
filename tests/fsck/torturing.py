"""Commands of the checker that are cut off, killed, or struck by a fault, after random damage.

Each case is a seed: a subject, some damage, a command, and what happens while it runs. Whatever
could be read after the damage can be read at any moment of it and after it, and is the same. A
second run ends as one that nothing happened to, with as much left to be told.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from shmr.errors import DriveError, IntegrityError, SetupError, ShmrError
from shmr.fsck.checking.check import check
from shmr.fsck.mending.repair import repair
from shmr.fsck.rebuilding.catalog import rebuild_catalog
from shmr.fsck.rebuilding.drive import rebuild_drive
from shmr.fsck.scrubbing.scrub import scrub
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.faults import Fault
from shmr.testing.tree import Entry, tree_of
from shmr.testing.trial import Files, files_of, lay_down
from shmr.units import KIB
from tests.fsck.stage import staged
from tests.fsck.subject import Subject, Tolerant, open_on, path_numbers

Readable = dict[bytes, Entry | None]
"""What is at each path; None where a file cannot be read."""
LOST_AND_FOUND = b"/lost+found"


class Broken(AssertionError):
    """A promise was broken: the message says which, and how to repeat it."""


class Image(NamedTuple):
    """Drives and catalog at one moment; `what` says which."""

    what: str
    world: World
    files: Files | None


@dataclass(frozen=True, slots=True)
class Command:
    """What is run on a configuration, of which the drives are those of an image."""

    name: str
    run: Callable[[Path, Image], object]


def _rebuild_drive(config: Path, image: Image) -> object:
    lost = [drive.label for drive in image.world.drives if drive.lost]
    return [rebuild_drive(config, str(config.parent / label)) for label in lost]


COMMANDS = {
    one.name: one
    for one in (
        Command("repair", lambda config, _: repair(config)),
        Command("scrub", lambda config, _: scrub(config)),
        Command("rebuild-drive", _rebuild_drive),
        Command("rebuild-catalog", lambda config, _: rebuild_catalog(config)),
    )
}


# -- damage ---------------------------------------------------------------------------------


def damage(subject: Subject, command: str, rng: random.Random) -> Image:
    """A copy of the subject with some of it gone or bent, as this command is for."""
    world = subject.world.kill()
    files: Files | None = dict(subject.files)
    told = []
    if command == "rebuild-drive":
        drive = rng.choice(world.drives[subject.copies :])
        drive.lose()
        told.append(f"{drive.label} lost")
    if command == "rebuild-catalog":
        files = None
        told.append("the catalog gone")
        if rng.random() < 0.5:
            for drive in world.drives[: subject.copies]:
                for name in drive.names():
                    drive.discard(name)
            told.append("the workspace empty")
    for _ in range(rng.randrange(3) if told else rng.randrange(1, 5)):
        told.append(_one_damage(world, subject.copies, rng))
    if files is not None and rng.random() < 0.15:
        files = None
        told.append("the catalog gone")
    for drive in world.drives:
        drive.forget_discarded()  # what is damage here was not removed a moment before
    return Image(", ".join(told), world.kill(), files)


def bend_superblock(world: World, rng: random.Random) -> str:
    """A drive cannot say who it is."""
    drive = rng.choice([drive for drive in world.drives if not drive.lost and drive.names()])
    names = [name for name in drive.names() if name.startswith("superblock")]
    if not names:
        return f"{drive.label} has no superblock"
    name = max(names)
    if rng.random() < 0.3:
        drive.discard(name)
        drive.forget_discarded()
        return f"{name} gone from {drive.label}"
    for _ in range(rng.choice((1, 20))):
        drive.flip_bit(name, rng.randrange(drive.size(name)), rng.randrange(8))
    return f"{name} on {drive.label} bent"


def fill(world: World, rng: random.Random) -> str:
    """Let some drives have next to no room."""
    told = []
    for drive in world.drives:
        if not drive.lost and rng.random() < 0.5:
            room = rng.choice((0, 64 * KIB, 300 * KIB))
            found = drive.capacity()
            drive.capacity_bytes = found.total_bytes - found.free_bytes + room
            told.append(f"{drive.label} has {room} bytes left")
    return ", ".join(told)


def _one_damage(world: World, copies: int, rng: random.Random) -> str:
    drives = [drive for drive in world.drives if not drive.lost and _targets(drive)]
    drive = rng.choice(drives)
    if drive in world.drives[copies:] and rng.random() < 0.15:
        drive.lose()
        return f"{drive.label} lost"
    name = rng.choice(_targets(drive))
    size = drive.size(name)
    kind = rng.randrange(6)
    if kind == 0:
        drive.discard(name)
        return f"{name} gone from {drive.label}"
    if kind == 1:
        end = rng.randrange(size + 1)
        drive.shorten(name, end)
        return f"{name} on {drive.label} cut to {end}"
    at = rng.randrange(max(1, size))
    if kind == 2 and size:
        length = min(rng.choice((1, 512, 4096)), size - at)
        drive.plant(name, at, bytes(length))
        return f"{length} zeros at {at} of {name} on {drive.label}"
    if size:
        drive.flip_bit(name, at, rng.randrange(8))
    return f"a bit of byte {at} of {name} on {drive.label}"


def _targets(drive: SimulatedDrive) -> list[str]:
    """Files that may be damaged, but superblocks: `bend_superblock` is for these."""
    return sorted(
        name
        for name in drive.names()
        if name.startswith(("data", "journal", "snapshot", "fragment"))
    )


# -- reading --------------------------------------------------------------------------------


def readable(subject: Subject, image: Image, place: Path) -> Readable | None:
    """What can be read, without changing anything; None if it does not open at all."""
    catalog = place / "look" / "catalog"
    catalog.parent.mkdir(exist_ok=True)
    lay_down(image.files, catalog)
    try:
        volume = open_on(image.world.kill(), catalog, subject.copies, subject.clock, read_only=True)
    except (SetupError, DriveError, IntegrityError):
        return None
    try:
        tolerant = Tolerant(volume)
        tree = tree_of(tolerant)
        numbers = path_numbers(volume)
        return {
            path: None if numbers[path] in tolerant.refused else entry
            for path, entry in tree.items()
        }
    except (IntegrityError, DriveError):
        return None
    finally:
        volume.abandon()


def lost(before: Readable, after: Readable) -> list[str]:
    """What of `before` is not as it was, a line each."""
    lines = []
    for path, entry in before.items():
        if entry is None or path.startswith(LOST_AND_FOUND):
            continue
        found = after.get(path)
        if found is None or _essence(found) != _essence(entry):
            lines.append(f"{path!r}: was {entry}, is {found}")
    lines += [
        f"{path!r}: came from nowhere: {entry}"
        for path, entry in after.items()
        if path not in before and not path.startswith(LOST_AND_FOUND)
    ]
    return lines


def _essence(entry: Entry) -> Entry:
    """Without what a repair may change: a directory gets lost+found, a count is put right."""
    if entry.kind == "directory":
        return entry._replace(links=0, mtime_ns=0)
    return entry._replace(links=0)


# -- runs -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Torture:
    """One subject, damaged, and a command. `images` moments of a run are looked at, and as many
    faults; `done` counts them."""

    subject: Subject
    command: Command
    damaged: Image
    place: Path
    rng: random.Random
    images: int
    done: int = 0
    _before: Readable | None = None
    _end: Readable | None = None
    _left: set[str] = field(default_factory=set)
    _refused: str = ""

    def run(self) -> int:
        """Without anything, then with cuts and kills, then with faults. Raises Broken."""
        self._before = readable(self.subject, self.damaged, self.place)
        world = self.damaged.world.kill()
        images, operations, reads = self._undisturbed(world)
        for image in images:
            with self._told(image.what):
                self._look(image)
                self._again(image)
                self.done += 1
        for _ in range(self.images if operations else 0):
            fault = self.rng.choice(tuple(Fault))
            number = self.rng.randrange(reads if fault is Fault.READ else operations)
            lasting = self.rng.random() < 0.3
            with self._told(f"{fault.name} at {number}" + " for good" * lasting):
                self._struck(fault, number, lasting)
                self.done += 1
        return self.done

    def _undisturbed(self, world: World) -> tuple[list[Image], int, int]:
        """A run to which nothing happens, and images of moments of it."""
        first, reads = world.operations, world.reads
        images: list[Image] = []
        seen = 0

        def observe(now: World) -> None:
            nonlocal seen
            seen += 1
            if self.rng.random() < 0.05 or (seen < 4 and self.rng.random() < 0.3):
                what = f"at change {now.operations - 1 - first}"
                files = files_of(self.place / "run" / "catalog")
                left = now.reboot(self.rng) if self.rng.random() < 0.7 else now.kill()
                images.append(Image(f"cut {what}", left, files))

        world.observer = observe
        with self._told("without anything"):
            end, self._refused = self._execute(Image("", world, self.damaged.files))
            world.observer = None
            self._end = readable(self.subject, end, self.place)
            self._compare(self._before, self._end)
            self._left = self._told_of(end)
            # Once more: nothing is left to be done.
            again, _ = self._execute(end)
            with self._told("and once more"):
                self._compare(self._end, readable(self.subject, again, self.place))
                self._compare_left(self._told_of(again))
        some = self.rng.sample(images, min(self.images, len(images)))
        return some, world.operations - first, world.reads - reads

    def _struck(self, fault: Fault, number: int, lasting: bool) -> None:
        world = self.damaged.world.kill()
        world.fail(
            number + (world.reads if fault is Fault.READ else world.operations),
            fault,
            persistent=lasting,
        )
        end, _ = self._execute(Image("", world, self.damaged.files))
        world.plan.heal()
        left = Image(
            "", world.reboot(self.rng) if self.rng.random() < 0.5 else world.kill(), end.files
        )
        self._look(left)
        self._again(left)

    def _execute(self, image: Image, command: Command | None = None) -> tuple[Image, str]:
        """Run the command; the drives afterwards, and why it refused, if it did."""
        place = self.place / "run"
        place.mkdir(exist_ok=True)
        for path in place.iterdir():
            if path.is_dir():
                lay_down(None, path)
            else:
                path.unlink()
        lay_down(image.files, place / "catalog")
        why = ""
        with staged(image.world, place, self.subject.copies) as config:
            try:
                (command or self.command).run(config, image)
            except ShmrError as error:
                why = f"{type(error).__name__}: {error}"
        return Image(image.what, image.world, files_of(place / "catalog")), why

    def _look(self, image: Image) -> None:
        """Everything that could be read can be."""
        if self._before is not None:
            self._compare(self._before, readable(self.subject, image, self.place))

    def _again(self, image: Image) -> None:
        """A second run comes to what one comes to that nothing happens to."""
        end, why = self._execute(image)
        if why and not self._refused:
            raise Broken(f"the second run is refused: {why}")
        found = readable(self.subject, end, self.place)
        self._compare(self._before, found)
        self._compare(self._end, found)
        left = self._told_of(end)
        if left - self._left and self.command.name != "repair":
            # A read that failed is remembered as damage, a copy is missing: that is for others.
            for name in ("repair", "scrub"):
                end, _ = self._execute(end, COMMANDS[name])
            left = self._told_of(end)
        self._compare_left(left)

    def _told_of(self, image: Image) -> set[str]:
        """Kinds of what check and scrub still find."""
        place = self.place / "told"
        place.mkdir(exist_ok=True)
        lay_down(image.files, place / "catalog")
        (place / "catalog.scrub").unlink(missing_ok=True)
        kinds: set[str] = set()
        with staged(image.world.kill(), place, self.subject.copies) as config:
            for ask in (check, lambda path: scrub(path, repair=False).report):
                try:
                    kinds |= {str(kind) for kind in ask(config).counts}
                except ShmrError as error:
                    kinds.add(type(error).__name__)
        return kinds

    def _compare(self, before: Readable | None, after: Readable | None) -> None:
        if before is None:
            return
        wrong = ["it cannot be opened"] if after is None else lost(before, after)
        if wrong:
            raise Broken("\n".join(wrong[:5]))

    def _compare_left(self, left: set[str]) -> None:
        if left - self._left:
            raise Broken(f"left to be told: {sorted(left)}, undisturbed: {sorted(self._left)}")

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, Broken) else f"{error!r} "
            raise Broken(f"{what}: {kind}{error}") from error


def torture(
    subjects: Mapping[str, Subject],
    name: str,
    seed: int,
    place: Path,
    *,
    images: int = 3,
    full: bool = False,
) -> int:
    """One seed of a command; cases that were looked at. `full`: drives are. Raises Broken."""
    rng = random.Random(f"{seed} {name}")
    title = rng.choice(sorted(subjects))
    subject = subjects[title]
    damaged = damage(subject, name, rng)
    if seed % 5 == 4:
        damaged = damaged._replace(what=f"{damaged.what}; {bend_superblock(damaged.world, rng)}")
    if full:
        damaged = damaged._replace(what=f"{damaged.what}; {fill(damaged.world, rng)}")
    try:
        return Torture(subject, COMMANDS[name], damaged, place, rng, images).run()
    except Broken as broken:
        raise Broken(f"{name} seed {seed}, {subject.title}; {damaged.what}\n{broken}") from broken
