"""What is damaged: which files are concerned, does anything know better, and what is said of it.

Judged by the catalog as it is when the reading has ended: what no row means any more is no finding.
Damage of a data segment that no extent refers to harms nothing, unless headers behind it hide.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shmr.format import frame
from shmr.format.archived import Archived, Placed
from shmr.format.frame import GRANULE
from shmr.format.records import Stream
from shmr.format.rows import Extent
from shmr.fsck.checking.kept import superseded
from shmr.fsck.findings import Finding, Kind, Where
from shmr.fsck.naming import names_of
from shmr.fsck.opening import View
from shmr.fsck.scrubbing import fragment, frames
from shmr.fsck.scrubbing.inventory import FragmentItem, Holding, Item, SegmentItem
from shmr.fsck.scrubbing.reading import Damage
from shmr.volume.checkpoint import JOURNAL_FLOOR, SNAPSHOT

FILES_MAX = 3
"""Files that a finding names."""
NAMED_MAX = 1000
"""Files whose paths are looked for in one run."""
FILE, GONE = "file", "gone"

_FRAGMENT_KINDS = {
    fragment.HEADER: Kind.FRAGMENT_HEADER,
    fragment.UNIT: Kind.UNIT_DAMAGED,
    fragment.TABLE: Kind.FRAGMENT_TABLE,
    fragment.FOOTER: Kind.FRAGMENT_FOOTER,
    fragment.LENGTH: Kind.FRAGMENT_LENGTH,
    FILE: Kind.FRAGMENT_UNREADABLE,
    GONE: Kind.FRAGMENT_MISSING,
}
_DATA_KINDS = {
    frames.HEADER: Kind.FRAME_DAMAGED,
    frames.PAYLOAD: Kind.BYTES_DAMAGED,
    frames.END: Kind.SEGMENT_SHORT,
    FILE: Kind.SEGMENT_UNREADABLE,
    GONE: Kind.COPY_MISSING,
}


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file of a drive, and what is wrong with it. `seen_ns`: when, since 1970."""

    holding: Holding
    item: Item
    damages: tuple[Damage, ...]
    seen_ns: int = 0


@dataclass(frozen=True, slots=True)
class Judged:
    """What is said of one damage of a file. No finding: it harms nobody."""

    damaged: Damaged
    finding: Finding | None


@dataclass(slots=True)
class Concern:
    """Whom one damage concerns: extents, the first of them, and whether one is lost by it."""

    extents: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)
    lost: bool = False

    def add(self, inode: int, offset: int, *, lost: bool) -> None:
        self.extents += 1
        self.lost |= lost
        if len(self.first) < FILES_MAX and inode not in {one for one, _ in self.first}:
            self.first.append((inode, offset))


Key = tuple[int, int]
"""Index of a damaged file, and of a damage in it."""


def judge(view: View, damaged: Sequence[Damaged]) -> Iterator[Judged]:
    """What is to be said of each damage. Raises IntegrityError for damaged rows."""
    meant = [one for one in damaged if _is_meant(view, one)]
    kept = any(isinstance(one.item, SegmentItem) and one.item.kept for one in meant)
    unneeded = superseded(view) if kept else set()
    concerns = _Concerns(view, meant)
    concerns.look()
    names = concerns.names()
    for index, one in enumerate(meant):
        for at, damage in enumerate(one.damages):
            concern = concerns.of.get((index, at), Concern())
            if isinstance(one.item, FragmentItem):
                finding: Finding | None = _of_fragment(view, one, damage, concern, names, concerns)
            elif one.item.kept and (one.holding.id, one.item.number) in unneeded:
                finding = None
            else:
                finding = _of_segment(one, damage, concern, names, concerns)
            yield Judged(one, finding)


def _is_meant(view: View, one: Damaged) -> bool:
    """Does anything still depend on the file?"""
    item = one.item
    is_gone = one.damages[0].part == GONE
    if view.mounted and is_gone and (view.as_of_ns is None or view.as_of_ns <= one.seen_ns):
        # A mount removes what its journal, and not yet its checkpoint, says that nothing needs.
        return False
    if isinstance(item, SegmentItem):
        if item.kept or item.expected.stream == Stream.DATA:
            return not (item.kept and view.mounted and is_gone)
        floor = JOURNAL_FLOOR if item.expected.stream == Stream.JOURNAL else SNAPSHOT
        return item.number >= view.reading.state(floor)
    archived = view.reading.archived(item.number)
    index = item.name.fragment
    if archived is None or index >= len(archived.fragments):
        return False
    return archived.fragments[index] == Placed(one.holding.id, item.name.generation)


# -- whom it concerns ---------------------------------------------------------------------------


@dataclass(slots=True)
class _Spans:
    """Damaged ranges of one copy of a segment, or of the addresses of an archived one, rising."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)

    def add(self, start: int, end: int, key: Key) -> None:
        self.starts.append(start)
        self.ends.append(end)
        self.keys.append(key)

    def sort(self) -> None:
        order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        self.starts, self.ends, self.keys = (
            [self.starts[i] for i in order],
            [self.ends[i] for i in order],
            [self.keys[i] for i in order],
        )

    def within(self, start: int, end: int) -> Iterator[tuple[int, int, Key]]:
        """Those that take something of [start, end). They do not overlap each other."""
        at = max(0, bisect_right(self.starts, start) - 1)
        while at < len(self.starts) and self.starts[at] < end:
            if self.ends[at] > start:
                yield self.starts[at], self.ends[at], self.keys[at]
            at += 1


class _Concerns:
    """Looks once through all extents for those that damage concerns."""

    def __init__(self, view: View, damaged: Sequence[Damaged]) -> None:
        self._view = view
        self.of: dict[Key, Concern] = defaultdict(Concern)
        self.bad_units: dict[int, dict[int, set[int] | None]] = defaultdict(dict)
        """Of each segment and fragment: the damaged units; None: all of them."""
        self.behind: dict[int, int] = {}
        """Of each damaged data segment, the offset of the last frame that an extent names."""
        self.archived: dict[int, Archived] = {}
        self._copies: dict[int, dict[str, _Spans]] = defaultdict(dict)
        self._addresses: dict[int, _Spans] = defaultdict(_Spans)
        for index, one in enumerate(damaged):
            if isinstance(one.item, FragmentItem):
                self._fragment(index, one, one.item)
            elif one.item.expected.stream == Stream.DATA:
                spans = self._copies[one.item.number].setdefault(one.holding.label, _Spans())
                for at, damage in enumerate(one.damages):
                    spans.add(damage.start, max(damage.end, damage.start + 1), (index, at))
        for some in self._copies.values():
            for spans in some.values():
                spans.sort()
        for spans in self._addresses.values():
            spans.sort()

    def _fragment(self, index: int, one: Damaged, item: FragmentItem) -> None:
        archived = self.archived[item.number] = item.archived
        fragment_index, bad = item.name.fragment, self.bad_units[item.number]
        every = any(d.part in (fragment.FOOTER, FILE, GONE) for d in one.damages)
        bad[fragment_index] = None if every else {d.unit for d in one.damages if d.unit is not None}
        if fragment_index >= archived.k:
            return  # parity: no file's bytes
        base, size = fragment_index * archived.data_bytes, archived.unit_bytes
        spans = self._addresses[item.number]
        for at, damage in enumerate(one.damages):
            if damage.unit is not None and not every:
                start = base + damage.unit * size
                spans.add(start, min(start + size, base + archived.data_bytes), (index, at))
            elif damage.part in (fragment.FOOTER, FILE, GONE):
                spans.add(base, base + archived.data_bytes, (index, at))

    def look(self) -> None:
        """Raises IntegrityError."""
        if not self._copies and not self._addresses:
            return
        for inode, extent in self._view.reading.all_extents():
            at = extent.address
            if at is None:
                continue
            copies = self._copies.get(at.segment)
            if copies is not None:
                self.behind[at.segment] = max(self.behind.get(at.segment, 0), at.frame)
                self._in_copies(inode, extent, copies)
            spans = self._addresses.get(at.segment)
            if spans is not None:
                for start, _, key in spans.within(at.skip, at.skip + extent.length):
                    first = max(start, at.skip) - at.skip
                    self.of[key].add(inode, extent.offset + first, lost=False)

    def _in_copies(self, inode: int, extent: Extent, copies: Mapping[str, _Spans]) -> None:
        """An extent of a segment, some of whose copies are damaged."""
        at = extent.address
        assert at is not None
        begin = at.frame + frame.header_size(at.payload)
        first = begin + at.skip - at.skip % GRANULE
        end = begin + at.skip + extent.length
        end = min(begin + at.payload, end + -(end - begin) % GRANULE)
        found: dict[str, list[tuple[int, int, Key]]] = {}
        for label, spans in copies.items():
            hits = [*spans.within(at.frame, begin), *spans.within(first, end)]
            if hits:
                found[label] = hits
        if not found:
            return
        segment = self._view.store.segments.get(at.segment)
        count = 0 if segment is None else len(segment.drives)
        lost = len(found) >= count and _nowhere_whole(found.values(), at.frame, begin, first, end)
        for hits in found.values():
            for start, _, key in hits:
                offset = extent.offset + max(0, start - begin - at.skip)
                self.of[key].add(inode, offset, lost=lost)

    def names(self) -> dict[int, str]:
        """The paths of the files that are going to be named."""
        inodes: set[int] = set()
        for concern in self.of.values():
            inodes.update(inode for inode, _ in concern.first)
            if len(inodes) >= NAMED_MAX:
                break
        return names_of(self._view.reading, inodes) if inodes else {}


def _nowhere_whole(
    copies: Iterable[Sequence[tuple[int, int, Key]]],
    frame_at: int,
    begin: int,
    first: int,
    end: int,
) -> bool:
    """Is the header, or one of the granules from `first` to `end`, damaged on every copy?"""
    common: set[int] | None = None
    for hits in copies:
        bad: set[int] = set()
        for start, stop, _ in hits:
            if start < begin and frame_at < stop:
                bad.update(range(first, end, GRANULE))
            low = max(first, start)
            bad.update(range(low - (low - begin) % GRANULE, min(stop, end), GRANULE))
        common = bad if common is None else common & bad
    return bool(common)


# -- what is said of it -------------------------------------------------------------------------


def _whom(concern: Concern, names: Mapping[int, str]) -> str:
    """The first files, as words that follow a sentence."""
    if not concern.extents:
        return ""
    shown = [names.get(inode, f"inode {inode}") for inode, _ in concern.first]
    more = ", and others" if concern.extents > len(shown) else ""
    return f"; it concerns {', '.join(shown)}{more}"


def _where(concern: Concern, names: Mapping[int, str], where: Where, length: int) -> Where:
    """With the first file, where there is one."""
    if not concern.first:
        return replace(where, length=length)
    inode, offset = concern.first[0]
    return replace(where, inode=inode, path=names.get(inode), offset=offset, length=length)


def _of_fragment(
    view: View,
    one: Damaged,
    damage: Damage,
    concern: Concern,
    names: Mapping[int, str],
    concerns: _Concerns,
) -> Finding:
    item, holding = one.item, one.holding
    assert isinstance(item, FragmentItem)
    name = item.name
    what = f"unit {damage.unit}" if damage.unit is not None else f"the {damage.part}"
    if damage.part in (FILE, GONE):
        what = "all of it"
    message = (
        f"drive {holding.label}: segment {name.segment}, fragment {name.fragment}, {what} "
        f"(bytes {damage.start} to {damage.end} of {name.file}): {damage.why}"
        f"{_whom(concern, names)}"
    )
    where = Where(
        holding.label,
        name.segment,
        name.fragment,
        name.generation,
        damage.unit,
        offset=damage.start,
    )
    mendable = all(
        _can_be_had(view, item, unit, concerns) for unit in _units_of(item, damage, one.damages)
    )
    remedy = f"write fragment {name.fragment} of segment {name.segment} anew from the others"
    return Finding(
        _FRAGMENT_KINDS[damage.part],
        message if mendable else f"{message}; too few of the others are whole",
        _where(concern, names, where, damage.end - damage.start),
        remedy if mendable else None,
    )


def _units_of(item: FragmentItem, damage: Damage, damages: Sequence[Damage]) -> Iterable[int]:
    """The units that a mended fragment would need from its siblings."""
    if damage.unit is not None:
        return (damage.unit,)
    every = range(item.archived.header(bytes(16), 1, 0).units)
    if damage.part in (fragment.FOOTER, FILE, GONE):
        return every
    return [one.unit for one in damages if one.unit is not None]


def _can_be_had(view: View, item: FragmentItem, unit: int, concerns: _Concerns) -> bool:
    """Are k fragments there whose unit of this stripe is not known to be damaged?"""
    archived, known = item.archived, concerns.bad_units[item.number]
    whole = 0
    for index, placed in enumerate(archived.fragments):
        bad = known.get(index, set())
        whole += placed.drive in view.fragments.drives and bad is not None and unit not in bad
    return whole >= archived.k


def _of_segment(
    one: Damaged,
    damage: Damage,
    concern: Concern,
    names: Mapping[int, str],
    concerns: _Concerns,
) -> Finding | None:
    item, holding = one.item, one.holding
    assert isinstance(item, SegmentItem)
    number, stream = item.number, item.expected.stream
    message = (
        f"drive {holding.label}: {item.file}, bytes {damage.start} to {damage.end}: {damage.why}"
    )
    where = Where(holding.label, number, offset=damage.start, length=damage.end - damage.start)
    if item.kept:
        remedy = "keep the newest snapshot on the pool's drives anew"
        return Finding(Kind.SNAPSHOT_COPY_DAMAGED, message, where, remedy)
    if stream != Stream.DATA:
        if damage.part != GONE and item.expected.reach <= damage.start < damage.end:
            return None  # a tail that a crash tore, and that nothing goes on from
        kind = Kind.JOURNAL_DAMAGED if stream == Stream.JOURNAL else Kind.SNAPSHOT_DAMAGED
        return Finding(kind, message, where, "make a new snapshot, which stands for all before it")
    if not concern.extents:
        if damage.part == frames.HEADER and damage.start < concerns.behind.get(number, 0):
            return Finding(
                Kind.CHAIN_BROKEN,
                f"{message}: no file's bytes, but headers are not found behind it",
                where,
                f"move what lives in segment {number} to new ones",
            )
        return None
    message += _whom(concern, names)
    return Finding(
        _DATA_KINDS[damage.part],
        f"{message}; no other copy has it" if concern.lost else message,
        _where(concern, names, where, damage.end - damage.start),
        None if concern.lost else f"move what lives in segment {number} to new ones",
    )


def gone(item: Item, filesystem: bytes) -> Damage:
    """The damage of a file that is not there."""
    return Damage(0, item.size_bytes(filesystem), "it is not there", GONE)
