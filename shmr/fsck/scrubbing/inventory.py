"""What each drive should hold, as catalog and log have it; and what is on it, in the order there.

Read is what something depends on: fragments that rows name, data segments in which something lives,
the journal from the newest snapshot on, that snapshot, and copies of snapshots on archive drives.
What nothing depends on is left alone and told of: it goes at the next checkpoint, shift or mount,
nothing could be lost with it, and a scrub of a shingled disk takes long enough.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from shmr.archive import leave
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError
from shmr.format import frame
from shmr.format.archived import Archived
from shmr.format.records import Opening, Stream
from shmr.format.rows import Place
from shmr.fsck.opening import View
from shmr.fsck.scrubbing.frames import Expected
from shmr.log import walk
from shmr.log.fragments import FragmentName, parse_name
from shmr.log.store import Segment
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT
from shmr.volume.membership import read_superblock

R = TypeVar("R")

_SNAPSHOT = re.compile(r"snapshot-(\d{12,})")
_SEGMENT = re.compile(r"(journal|data|snapshot)-(\d{12})")
_HELD = b"held "
_BESIDE_CATALOG = "catalog."
"""So begin the names of what mounts and scrubs note beside the catalog."""
WORKSPACE = ""
"""What stands for the pool of the workspace here, whose name the configuration knows."""

DEAD = "nothing lives in them"
REPLACED = "a newer snapshot stands for them"
NEWER = "written since the last checkpoint"
STRAYS = "strays: no row names them"
STRANGERS = "no part of the filesystem"


@dataclass(frozen=True, slots=True)
class FragmentItem:
    """A fragment that a row names."""

    name: FragmentName
    archived: Archived

    @property
    def number(self) -> int:
        return self.name.segment

    @property
    def file(self) -> str:
        return self.name.file

    def size_bytes(self, filesystem: bytes) -> int:
        return self.archived.header(filesystem, self.name.segment, self.name.fragment).length


@dataclass(frozen=True, slots=True)
class SegmentItem:
    """A copy of a segment: of the workspace, or of a snapshot on an archive drive (`kept`)."""

    file: str
    expected: Expected
    kept: bool = False

    @property
    def number(self) -> int:
        return self.expected.segment

    def size_bytes(self, filesystem: bytes) -> int:
        return self.expected.size_bytes


Item = FragmentItem | SegmentItem


@dataclass(slots=True)
class Skipped:
    """Files and bytes that are not read, by why."""

    files: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)

    def add(self, why: str, size_bytes: int) -> None:
        self.files[why] += 1
        self.size_bytes[why] += size_bytes


@dataclass(slots=True)
class Holding:
    """A drive, and what of it matters. `id` is empty where it has no superblock to tell."""

    id: bytes
    pool: str
    label: str
    drive: Drive
    filesystem: bytes
    items: list[Item] = field(default_factory=list)
    skipped: Skipped = field(default_factory=Skipped)
    unwanted: dict[str, int] = field(default_factory=dict)
    """Fragments in which nothing lives, and the bytes of each."""
    archive: bool = True


@dataclass(frozen=True, slots=True)
class Absent:
    """A drive that rows or superblocks name and that is not there; how many fragments it has."""

    id: bytes
    pool: str
    fragments: int


def holdings(view: View) -> tuple[list[Holding], list[Absent]]:
    """What there is to read of each drive that is there, and which are not. Raises IntegrityError.

    Looks at the catalog, and at the first frames of workspace segments; at no archive drive.
    """
    pools = {pool.pool: pool.name for pool in view.archives}
    fragments = view.fragments
    archive = {
        drive_id: Holding(drive_id, pools_of(view, drive_id), drive.label, drive, view.filesystem)
        for drive_id, drive in fragments.drives.items()
    }
    live, held = view.reading.live(), held_in(view)
    absent: Counter[bytes] = Counter(dict.fromkeys(fragments.missing, 0))
    where = {member: pool.name for pool in view.archives for member in pool.missing}
    for number, archived in view.reading.archived_segments():
        for index, placed in enumerate(archived.fragments):
            holding = archive.get(placed.drive)
            if holding is None:
                absent[placed.drive] += 1
                where.setdefault(placed.drive, pools.get(archived.pool, archived.pool.hex()))
                continue
            item = FragmentItem(FragmentName(number, index, placed.generation), archived)
            if live.get(number, 0) > 0 or number in held:
                holding.items.append(item)
            else:
                holding.unwanted[item.file] = item.size_bytes(view.filesystem)
    missing = [Absent(one, where.get(one, ""), count) for one, count in sorted(absent.items())]
    return [*_workspace(view), *archive.values()], missing


def pools_of(view: View, drive: bytes) -> str:
    """The name of the archive pool that a drive which is there belongs to."""
    return next((pool.name for pool in view.archives if drive in pool.drives), "")


def held_in(view: View) -> set[int]:
    """Segments that are kept though nothing may live in them."""
    names = (name[len(_HELD) :] for name, _ in view.reading.states(_HELD))
    return {int(digits) for digits in names if digits.isdigit()}


# -- the workspace ------------------------------------------------------------------------------


def _workspace(view: View) -> Iterator[Holding]:
    store, wanted = view.store, _Wanted(view)
    found = []
    for drive in store.drives:
        block = read_superblock(drive)
        drive_id = b"" if block is None else block.drive
        found.append(
            Holding(drive_id, WORKSPACE, drive.label, drive, view.filesystem, archive=False)
        )
    for segment in sorted(store.segments.values(), key=lambda one: one.number):
        expected, why = wanted.expected(segment)
        for index in segment.drives:
            if expected is None:
                found[index].skipped.add(why, segment.size_bytes)
            else:
                found[index].items.append(SegmentItem(segment.name, expected))
    yield from found


class _Wanted:
    """Which segments of the workspace something depends on, and how far each reaches."""

    def __init__(self, view: View) -> None:
        self._view = view
        reading = view.reading
        self._place: Place | None = None
        with suppress(IntegrityError):  # there is none in one that was made from the log just now
            self._place = reading.place()
        self._floor = reading.state(JOURNAL_FLOOR)
        self._held = held_in(view)
        self._reach = reaches(view)
        openings = dict(self._openings((Stream.JOURNAL, Stream.SNAPSHOT)))
        self._next = _following(openings)
        self._snapshot = self._chain(reading.state(SNAPSHOT), openings)

    def expected(self, segment: Segment) -> tuple[Expected | None, str]:
        """What it has to be, or why nothing depends on it."""
        number = segment.number
        if segment.stream == Stream.DATA:
            reach = self._reach.get(number)
            if reach is None and number not in self._held:
                newer = self._view.mounted and number not in self._view.reading.live()
                return None, NEWER if newer else DEAD
            return self._of(segment, reach or 0), ""
        after = self._next.get(number)
        if segment.stream == Stream.SNAPSHOT:
            if number not in self._snapshot:
                return None, REPLACED
            reach = segment.size_bytes if after is None else after[1]
            return self._of(segment, reach, closed=number == self._snapshot[-1]), ""
        if number < self._floor:
            return None, REPLACED
        place = self._place
        if place is not None and number > place.segment:
            return (None, NEWER) if self._view.mounted else (self._of(segment, 0), "")
        reach = 0 if after is None else after[1]
        if place is not None and place.segment == number:
            reach = max(reach, place.end)
        return self._of(segment, reach), ""

    def _of(self, segment: Segment, reach: int, *, closed: bool = False) -> Expected:
        return Expected(
            self._view.filesystem,
            segment.number,
            segment.stream,
            segment.size_bytes,
            reach,
            closed,
        )

    def _openings(self, streams: Iterable[Stream]) -> Iterator[tuple[int, Opening]]:
        store = self._view.store
        for stream in streams:
            for segment in store.of_stream(stream):
                with suppress(DriveError):
                    files = store.copies_of(segment.number)
                    found = walk.opening_of(files, store.filesystem, segment.number)
                    if found is not None:
                        yield segment.number, found[1]

    def _chain(self, first: int, openings: Mapping[int, Opening]) -> list[int]:
        """The segments of the snapshot that begins with this one."""
        chain = [first] if first in openings else []
        while chain and (after := self._next.get(chain[-1])) is not None and after[0] > chain[-1]:
            chain.append(after[0])
        return chain or [first]


def _following(openings: Mapping[int, Opening]) -> dict[int, tuple[int, int]]:
    """Which segment goes on from which, and from what offset: of two, the higher is right."""
    return {
        opening.previous_segment: (number, opening.previous_end)
        for number, opening in sorted(openings.items())
        if opening.previous_segment
    }


def reaches(view: View) -> dict[int, int]:
    """Of each segment that extents refer to, the offset behind the last frame that one names.

    Those that are archived are left out. Raises IntegrityError.
    """
    found: dict[int, int] = {}
    segments = view.store.segments
    for _, extent in view.reading.all_extents():
        at = extent.address
        if at is not None and at.segment in segments:
            end = at.frame + frame.frame_size(at.payload)
            if end > found.get(at.segment, 0):
                found[at.segment] = end
    return found


# -- on the drive -------------------------------------------------------------------------------


class Ask(Protocol):
    """Makes a call to a drive, each of which may hang."""

    def __call__(self, call: Callable[[], R], /) -> R: ...


def add_what_is_there(holding: Holding, ask: Ask) -> None:
    """Copies of snapshots become items; what is on the drive and nobody wants is noted.

    Lists the drive. Raises DriveError.
    """
    wanted = {item.file for item in holding.items}
    copies: list[str] = []
    for name in ask(holding.drive.names):
        if name in wanted or name.startswith("superblock-"):
            continue
        if name in holding.unwanted:
            holding.skipped.add(DEAD, holding.unwanted[name])
        elif holding.archive and _SNAPSHOT.fullmatch(name):
            copies.append(name)
        elif holding.archive:
            if name not in leave.NAMES:
                why = STRAYS if parse_name(name) is not None else STRANGERS
                holding.skipped.add(why, _size(holding.drive, name, ask))
        elif _SEGMENT.fullmatch(name) is None and not name.startswith(_BESIDE_CATALOG):
            holding.skipped.add(STRANGERS, _size(holding.drive, name, ask))
    holding.items += _kept(holding, copies, ask)


def _kept(holding: Holding, names: Collection[str], ask: Ask) -> Iterator[SegmentItem]:
    """Copies of snapshots: each reaches to where the next one goes on, and the last has its end."""
    drive, sizes = holding.drive, {}
    openings: dict[int, Opening] = {}
    for name in sorted(names):
        number = int(name.partition("-")[2])
        sizes[number] = _size(drive, name, ask)
        with suppress(DriveError):
            found = ask(partial(_opening, holding, name, number))
            if found is not None:
                openings[number] = found
    following = _following(openings)
    for name in sorted(names):
        number = int(name.partition("-")[2])
        after = following.get(number)
        reach = max(sizes[number], 0 if after is None else after[1])
        expected = Expected(
            holding.filesystem, number, Stream.SNAPSHOT, sizes[number], reach, after is None
        )
        yield SegmentItem(name, expected, kept=True)


def _opening(holding: Holding, name: str, number: int) -> Opening | None:
    """What its SEGMENT frame says, if it verifies. Raises DriveError."""
    file = holding.drive.open(name)
    try:
        found = walk.opening_of((file,), holding.filesystem, number)
    finally:
        file.close()
    return None if found is None else found[1]


def _size(drive: Drive, name: str, ask: Ask) -> int:
    try:
        return ask(partial(drive.size, name))
    except DriveError:
        return 0  # gone, or to be told of when it is read


def in_order(drive: Drive, items: Iterable[Item], ask: Ask) -> list[Item]:
    """The items as they lie on the device, else by number."""
    keys: dict[str, tuple[bool, int, int]] = defaultdict(lambda: (True, 0, 0))
    items = list(items)
    for item in items:
        begins = None
        with suppress(DriveError):
            begins = ask(partial(drive.begins, item.file))
        keys[item.file] = begins is None, begins or 0, item.number
    return sorted(items, key=lambda item: keys[item.file])
