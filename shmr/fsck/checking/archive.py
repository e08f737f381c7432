"""The archive: every fragment that a row names, drives that are missing, what no row names.

The drives are looked at side by side, each in the order of segment numbers, which is about that in
which they were written. Flat in memory: some rows at a time, and a number for each segment of
which too little is left.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, islice

from shmr.archive.newer import ADVICE, newer_on
from shmr.core.stripe import Geometry, fragment_size
from shmr.drive.impatient import Answer
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived, decode_archived
from shmr.format.fragment import BLOCK, decode_header, file_name
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import Stream, decode_meta
from shmr.format.rows import Extent, Table, split_key
from shmr.fsck.checking.fragments import Health, look
from shmr.fsck.checking.kept import copies_in
from shmr.fsck.checking.patience import waited
from shmr.fsck.checking.segments import rescanned
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind, Where
from shmr.fsck.opening import View
from shmr.log.fragments import FragmentName, parse_name
from shmr.log.replay import Journal
from shmr.log.store import segment_name
from shmr.units import format_size
from shmr.volume.damage import PREFIX, damaged
from shmr.volume.gaps import gaps_in
from shmr.volume.known_pools import pools_in

BATCH = 64
"""Segments whose fragments are looked at side by side."""
ANEW = "write fragment {} of segment {} anew"
REBUILD = "write what was on it anew elsewhere, with `shmr-fsck rebuild-drive CONFIG {}`"
LEAVE = "take it out of its pool, with `shmr drive forget CONFIG {}`"
DISCARD = "discard it"
UNKNOWN = (
    "what it leads to, `shmr-fsck decode --snapshot N` writes out, where N is the number of a "
    "snapshot that is told of like this; or, if nothing was written since, empty the directories "
    "of the workspace, and run `shmr-fsck rebuild-catalog` with all drives connected. `shmr-fsck "
    "repair --discard-unknown` gives it up"
)
_LOST = -1
Row = tuple[int, Archived]
_Task = tuple[int, Archived, int]


class Fragments:
    """One check of all fragments. `lost` are findings that want the name of their file; `notes`
    are sentences for people."""

    def __init__(self, view: View, pulse: Callable[[], None] = lambda: None) -> None:
        self._view = view
        self._pulse = pulse
        self._reading = view.reading
        self._there = view.fragments.drives
        self._live = view.reading.live()
        self._readable: dict[int, int] = {}
        """Of segments of which too little is left: a bit for each fragment that can be read."""
        self._hung: dict[bytes, DriveError] = {}
        """Drives that do not answer, and are not asked again."""
        self._away: dict[bytes, Counter[int]] = defaultdict(Counter)
        self._away_bytes: dict[bytes, int] = defaultdict(int)
        self.lost: list[Finding] = []
        self.notes: list[str] = []

    def findings(self) -> Iterator[Finding]:
        """What is wrong, but for `lost`. Raises IntegrityError for a damaged row."""
        rows = self._reading.archived_segments()
        while some := list(islice(rows, BATCH)):
            self._pulse()
            yield from self._batch(some)
        yield from self._noted()
        yield from self._missing_drives()
        yield from self._strays()
        if self._readable:
            for finding in self._lost_files():
                # Those that a report does not keep need no name.
                if len(self.lost) < KEPT_PER_KIND:
                    self.lost.append(finding)
                else:
                    yield finding

    def damaged(self) -> Iterator[tuple[int, int]]:
        """Segment and index of every fragment that is not as it should be, on drives that are
        there: all that `findings` tells of, however many. Raises IntegrityError."""
        rows = self._reading.archived_segments()
        while some := list(islice(rows, BATCH)):
            found = self._looked([row for row in some if self._lives(row[0])])
            for number, healths in found.items():
                for index, health in enumerate(healths):
                    if health is not None and health.kind is not None:
                        yield number, index

    # -- fragments --------------------------------------------------------------------------

    def _batch(self, rows: Sequence[Row]) -> Iterator[Finding]:
        found = self._looked(rows)
        if self._view.mounted:
            doubted = {
                number: archived
                for number, archived in rows
                if self._lives(number) and any(h is None or h.kind for h in found[number])
            }
            now = self._now(doubted) if doubted else {}
            gone = doubted.keys() - now.keys()
            found |= self._looked(list(now.items()))
            rows = [(n, now.get(n, archived)) for n, archived in rows if n not in gone]
        for number, archived in rows:
            if self._lives(number):
                yield from self._judged(number, archived, found[number])

    def _lives(self, number: int) -> bool:
        """Is something in the segment? What is empty is freed by the next shift."""
        return self._live.get(number, 0) > 0

    def _looked(self, rows: Sequence[Row]) -> dict[int, list[Health | None]]:
        """The health of all fragments of these segments; None where the drive is missing."""
        found: dict[int, list[Health | None]] = {n: [None] * len(a.fragments) for n, a in rows}
        work: dict[bytes, list[_Task]] = defaultdict(list)
        for number, archived in rows:
            for index, placed in enumerate(archived.fragments):
                if placed.drive in self._there:
                    work[placed.drive].append((number, archived, index))
        looks = {
            drive: Answer(f"check {self._there[drive].label}", partial(self._on_drive, some))
            for drive, some in work.items()
            if drive not in self._hung
        }
        for drive, some in work.items():
            healths: list[Health]
            try:
                if drive in self._hung:
                    raise self._hung[drive]
                healths = waited(self._there[drive].label, looks[drive], self._pulse)
            except DriveError as error:
                self._hung[drive] = error
                healths = [Health(Kind.FRAGMENT_UNREADABLE, str(error))] * len(some)
            for (number, _, index), health in zip(some, healths, strict=True):
                found[number][index] = health
        return found

    def _on_drive(self, some: Sequence[_Task]) -> list[Health]:
        """In a thread of the drive's own."""
        return [look(self._view.fragments, *task) for task in some]

    def _now(self, doubted: Mapping[int, Archived]) -> dict[int, Archived]:
        """Of a mounted filesystem: the rows of these segments as they are now, by the newest
        checkpoint and the journal behind it. Those that have none any more are left out."""
        assert self._view.fresh is not None
        with self._view.fresh() as reading:
            rows = {number: reading.archived(number) for number in doubted}
            place = reading.place()
        store = rescanned(self._view.store)
        try:
            for entry in Journal(store).entries(place):
                if entry.header.kind != FrameKind.META:
                    continue
                for row in decode_meta(entry.payload).rows:
                    if row.table == Table.ARCHIVE and split_key(row.key) in rows:
                        value = row.value
                        rows[split_key(row.key)] = decode_archived(value) if value else None
        finally:
            store.close()
        return {number: row for number, row in rows.items() if row is not None}

    def _judged(
        self, number: int, archived: Archived, found: Sequence[Health | None]
    ) -> Iterator[Finding]:
        """What is wrong with one segment."""
        readable = sum(1 << i for i, h in enumerate(found) if h is not None and h.readable)
        left = readable.bit_count() - archived.k
        if left < 0:
            self._readable[number] = readable
        size = fragment_size(archived.data_bytes, archived.extents, archived.unit_bytes)
        has_table = any(h is not None and h.has_table for h in found)
        for index, health in enumerate(found):
            drive, generation = archived.fragments[index]
            if health is None:
                self._away[drive][max(left, _LOST)] += 1
                self._away_bytes[drive] += size
                continue
            if health.kind is None:
                continue
            label = self._view.fragments.label(drive)
            restorable = left >= 0 or (health.readable and has_table)
            message = f"{file_name(number, index, generation)} on {label}: {health.why}"
            if left >= 0:
                message += f"; {left} more of the segment's fragments can be lost"
            else:
                message += f"; too few others are left, {archived.k} are needed"
            where = Where(label, number, index, generation)
            remedy = ANEW.format(index, number) if restorable else None
            yield Finding(health.kind, message, where, remedy)

    def _noted(self) -> Iterator[Finding]:
        """Fragments of which reads found damaged units, while the filesystem was mounted."""
        for one, units in damaged(self._reading.states(PREFIX)).items():
            name = FragmentName(*one[1:])
            if one.drive in self._there and self._is_named(one.drive, name):
                label = self._view.fragments.label(one.drive)
                message = f"{name.file} on {label}: reads found {units} of its units damaged"
                where = Where(label, one.segment, one.fragment, one.generation)
                remedy = ANEW.format(one.fragment, one.segment)
                yield Finding(Kind.UNIT_DAMAGED, message, where, remedy)

    def _missing_drives(self) -> Iterator[Finding]:
        """One finding for each drive that is not there, with what was on it."""
        known = pools_in(self._reading.states).values()
        pools = {drive: pool.name for pool in known for drive in pool.members}
        pools |= {drive: pool.name for pool in self._view.archives for drive in pool.members}
        for drive in sorted({*self._view.fragments.missing, *self._away}):
            counts = self._away[drive]
            told = [
                f"{counts[left]} in segments that "
                + ("cannot all be read without it" if left < 0 else f"can lose {left} more")
                for left in sorted(counts)
            ]
            total = f"{counts.total()} fragments, {format_size(self._away_bytes[drive])}"
            place = f" ({self._view.places[drive]})" if drive in self._view.places else ""
            message = (
                f"drive {drive.hex()} of pool {pools.get(drive, '(unknown)')!r} is missing{place}; "
            )
            if counts:
                message += f"on it are {total}: {', '.join(told)}; connect it if it is not lost"
            else:
                message += f"nothing is on it; if it is lost, {LEAVE.format(drive.hex())}"
            remedy = (REBUILD if counts else LEAVE).format(drive.hex())
            yield Finding(Kind.DRIVE_MISSING, message, Where(drive.hex()), remedy)

    # -- losses -----------------------------------------------------------------------------

    def _lost_files(self) -> Iterator[Finding]:
        """Files with bytes on fragments that can neither be read nor decoded."""
        for inode, group in groupby(self._reading.all_extents(), lambda one: one[0]):
            self._pulse()
            size, first, segment = 0, 0, 0
            for _, extent in group:
                lost = self._lost_of(extent)
                if lost and not size:
                    at = extent.address
                    first, segment = extent.offset, at.segment if at is not None else 0
                size += lost
            if size:
                yield Finding(
                    Kind.FILE_LOST,
                    f"{size} bytes from offset {first} on lie on fragments of archived segments "
                    f"(the first is {segment}) of which too few can be read",
                    Where(segment=segment, inode=inode, offset=first, length=size),
                )

    def _lost_of(self, extent: Extent) -> int:
        """How many bytes of an extent cannot be read."""
        at = extent.address
        readable = None if at is None else self._readable.get(at.segment)
        if at is None or readable is None:
            return 0
        archived = self._reading.archived(at.segment)
        if archived is None:
            return 0
        k, m = archived.k, archived.m
        geometry = Geometry(k, m, archived.data_bytes, archived.unit_bytes)
        if k == 1:
            return 0 if readable else extent.length
        pieces = geometry.pieces(at.skip, extent.length)
        return sum(piece.length for piece in pieces if not readable >> piece.fragment & 1)

    # -- strays -----------------------------------------------------------------------------

    def _strays(self) -> Iterator[Finding]:
        """Fragments that no row names, and that no shift can have left."""
        view, explained, unknown = self._view, 0, gaps_in(self._reading.states)
        taken = max(view.store.next_number, self._reading.next_segment())
        for drive, there in self._there.items():
            if drive in self._hung:
                continue
            try:
                names = sorted(name for one in there.names() if (name := parse_name(one)))
                copies = copies_in(there) if unknown else []
            except DriveError as error:
                label = view.fragments.label(drive)
                yield Finding(Kind.FRAGMENT_UNREADABLE, str(error), Where(label))
                continue
            newer = [] if view.mounted else list(newer_on(there, view.filesystem, names, taken))
            for file in newer:
                message = f"{file} on {there.label} has a number that the log never gave"
                yield Finding(Kind.ARCHIVE_NEWER, message, Where(there.label), ADVICE)
            for number in copies:
                if number in unknown:
                    yield _unknown(
                        segment_name(Stream.SNAPSHOT, number), Where(there.label, number)
                    )
            for name in names:
                if self._is_named(drive, name) or name.file in newer:
                    continue
                if name.segment in unknown:
                    yield _unknown(name.file, Where(there.label, *name))
                    continue
                why = self._strange(drive, name, taken)
                if why is None:
                    explained += 1
                    continue
                where = Where(there.label, name.segment, name.fragment, name.generation)
                yield Finding(Kind.STRAY, f"{name.file} on {there.label}: {why}", where, DISCARD)
        if explained and not view.mounted:
            self.notes.append(
                f"{explained} fragments that no file needs were left by something that was cut "
                "off, or by a drive that was away; the next `shmr-compact` discards them"
            )

    def _is_named(self, drive: bytes, name: FragmentName) -> bool:
        archived = self._reading.archived(name.segment) if name.segment < 2**63 else None
        if archived is None or name.fragment >= len(archived.fragments):
            return False
        return archived.fragments[name.fragment] == (drive, name.generation)

    def _strange(self, drive: bytes, name: FragmentName, taken: int) -> str | None:
        """Why no shift can have left it, or None."""
        if name.segment >= taken and not self._view.mounted:
            return f"no segment has had this number yet, they are below {taken}"
        try:
            file = self._there[drive].open(name.file)
            try:
                header = decode_header(file.read(0, BLOCK))
            finally:
                file.close()
        except (DriveError, IntegrityError):
            return None  # begun, and cut off
        if header.filesystem != self._view.filesystem:
            return f"it is of another filesystem, {header.filesystem.hex()}"
        return None


def _unknown(file: str, where: Where) -> Finding:
    """A file that a log that is lost may have known."""
    message = (
        f"{file} on {where.drive} is newer than what the workspace was made anew from, and may be "
        f"all that is left of what came later; {UNKNOWN}"
    )
    return Finding(Kind.UNKNOWN_GENERATION, message, where)
