"""Reads of archived segments: units from their drives, or decoded from those that are left.

    read      the units that hold the range, each from its own fragment
    verify    every unit against the sum in its fragment's footer (`shmr.log.fragments`)
    decode    where one is bad, missing or late: k others of that stripe, verified likewise, and of
              that stripe only; what is decoded is proved (`shmr.log.decode`)

Each drive is read in threads of its own, each read with a deadline. A drive that is late is passed
over for this read if its redundancy allows, else waited for with more patience; one of which too
many reads are late is not asked at all while others will do. So a drive that hangs delays only
those who need it. Nothing that is damaged is returned, and everything damaged is noted for the
scrubber. A range is bound to a file by the extent alone, a catalog row with a checksum of its own:
the table in the fragments is for those who have no catalog.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from shmr.core.stripe import Geometry, Piece, UnitPlace
from shmr.errors import DriveError, IntegrityError, ShmrError
from shmr.format.archived import Archived
from shmr.log.decode import Decoder
from shmr.log.findings import Finding, Findings
from shmr.log.fragments import FragmentStore, Outcome
from shmr.log.lane import Lane, Ticket
from shmr.log.readahead import LEAST_BYTES, Readahead
from shmr.units import MIB

logger = logging.getLogger(__name__)

DEADLINE_S = 10.0
"""A drive that has not answered after this is passed over, where its redundancy allows."""
PATIENCE = 6
"""So many deadlines a drive is waited for where nothing stands in for it."""
CLOSING_S = 2.0
"""How long closing files is waited for: it asks nothing of a disk that works."""
CACHE_BYTES = 16 * MIB
"""Units kept: a stream of reads shorter than a unit wants each of them several times."""

Units = dict[int, Outcome]


class Gather:
    """Reads archived segments. Blocking, for any thread; knows nothing of the volume."""

    def __init__(
        self,
        fragments: FragmentStore,
        *,
        deadline_s: float | None = DEADLINE_S,
        cache_bytes: int = CACHE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`deadline_s` None: no threads, every drive is waited for as long as it takes."""
        self.fragments = fragments
        self.findings = Findings(fragments.label, clock)
        """What was found damaged, for the scrubber (`findings.take()`)."""
        self.deadline_s = deadline_s
        self.clock = clock
        self.decoder = Decoder()
        self._cache = _UnitCache(cache_bytes)
        self._lock = threading.Lock()
        self._lanes: dict[bytes, Lane] = {}
        self._closed = False
        self._readahead = Readahead()

    def read(self, segment: int, archived: Archived, address: int, length: int) -> bytes:
        """Bytes of the segment's address space, verified. Raises IntegrityError, DriveError."""
        pieces = _pieces(segment, archived, address, length)
        places = [UnitPlace(piece.fragment, piece.unit) for piece in pieces]
        units = self._cache.find(segment, places)
        missing = [place for place in places if place not in units]
        if missing:
            found = self.units(segment, archived, missing)
            # Behind them: what is wanted now waits for nothing else.
            self._read_ahead(segment, archived, pieces)
            self._cache.keep(segment, found)
            units |= found
        return _joined(pieces, units)

    def cached(self, segment: int, archived: Archived, address: int, length: int) -> bytes | None:
        """As `read` if it needs no drive, else None. Raises IntegrityError."""
        pieces = _pieces(segment, archived, address, length)
        places = {UnitPlace(piece.fragment, piece.unit) for piece in pieces}
        units = self._cache.find(segment, places)
        return _joined(pieces, units) if len(units) == len(places) else None

    def units(
        self, segment: int, archived: Archived, places: Iterable[UnitPlace]
    ) -> dict[UnitPlace, bytes]:
        """Whole units, of parity too, verified or decoded: for whoever writes fragments anew.

        Raises IntegrityError, DriveError.
        """
        return _Gathering(self, segment, archived, places).run()

    def _read_ahead(self, segment: int, archived: Archived, pieces: Iterable[Piece]) -> None:
        """Keep the drives ahead of streams: while one part is verified, the next is on its way."""
        ranges: dict[int, tuple[int, int]] = {}
        for fragment, unit, at, length in pieces:
            start = unit * archived.unit_bytes + at
            ranges[fragment] = ranges.get(fragment, (start, 0))[0], start + length
        for fragment, (start, end) in ranges.items():
            if end - start < LEAST_BYTES:
                continue
            with self._lock:
                wanted = self._readahead.note((segment, fragment), start, end)
            drive = archived.fragments[fragment].drive
            lane = self.lane(drive) if wanted and drive in self.fragments.drives else None
            if wanted is not None and lane is not None and not lane.stalled:
                call = partial(self.fragments.prefetch, segment, archived, fragment, *wanted)
                lane.call(Ticket(call, SimpleQueue()))

    def lane(self, drive: bytes) -> Lane | None:
        """The threads of a drive; None where reads are made in the thread that asks."""
        if self.deadline_s is None:
            return None
        lane = self._lanes.get(drive)
        if lane is None:
            with self._lock:
                label = f"reads of {self.fragments.label(drive)}"
                lane = self._lanes.setdefault(drive, Lane(label, self.clock))
        return lane

    def close(self) -> None:
        """Let go of threads and files. What a drive does not answer to is left behind."""
        if self._closed:
            return
        self._closed = True
        closed: SimpleQueue[Ticket[None]] = SimpleQueue()
        waiting = 0
        for drive in self.fragments.in_use():
            lane = self.lane(drive)
            ticket = Ticket(partial(self.fragments.close, drive), closed)
            if lane is None:
                ticket.run()
            else:
                lane.call(ticket)
                waiting += 1
        for lane in self._lanes.values():
            lane.close()
        until = time.monotonic() + CLOSING_S
        with suppress(Empty):
            for _ in range(waiting):
                closed.get(timeout=max(0.0, until - time.monotonic()))


def _geometry(archived: Archived) -> Geometry:
    return Geometry(archived.k, archived.m, archived.data_bytes, archived.unit_bytes)


def _pieces(segment: int, archived: Archived, address: int, length: int) -> list[Piece]:
    """The range, cut at the ends of units. Raises IntegrityError if the segment has it not."""
    if not 0 <= address <= address + length <= archived.used_bytes:
        raise IntegrityError(
            f"segment {segment}: addresses {address}..{address + length}, but it ends at "
            f"{archived.used_bytes}"
        )
    return list(_geometry(archived).pieces(address, length))


def _joined(pieces: Iterable[Piece], units: Mapping[UnitPlace, bytes]) -> bytes:
    """The bytes of the pieces, out of their units."""
    return b"".join([units[UnitPlace(f, unit)][at : at + length] for f, unit, at, length in pieces])


class _UnitCache:
    """Units that were read or decoded lately. A segment never changes, so they stay true."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._lock = threading.Lock()
        self._units: OrderedDict[tuple[int, UnitPlace], bytes] = OrderedDict()

    def find(self, segment: int, places: Iterable[UnitPlace]) -> dict[UnitPlace, bytes]:
        """Those of `places` that are here."""
        found = {}
        with self._lock:
            for place in places:
                unit = self._units.get((segment, place))
                if unit is not None:
                    self._units.move_to_end((segment, place))
                    found[place] = unit
        return found

    def keep(self, segment: int, units: Mapping[UnitPlace, bytes]) -> None:
        with self._lock:
            for place, unit in units.items():
                before = self._units.pop((segment, place), b"")
                self._units[segment, place] = unit
                self._size_bytes += len(unit) - len(before)
            while self._size_bytes > self._limit_bytes:
                _, unit = self._units.popitem(last=False)
                self._size_bytes -= len(unit)


class _Gathering:
    """One call of `Gather.units`: what is wanted, what came, and what will not come.

    Rounds of asking: the wanted units first, then for each stripe that lacks one of them as many
    others as decoding takes, until all are there or nobody is left to ask. No unit is asked for
    twice, so the rounds end.
    """

    def __init__(
        self, gather: Gather, segment: int, archived: Archived, places: Iterable[UnitPlace]
    ) -> None:
        self._gather = gather
        self._segment = segment
        self._archived = archived
        self._geometry = _geometry(archived)
        self._wanted = list(dict.fromkeys(places))
        self._units: dict[UnitPlace, bytes] = {}
        self._bad: dict[UnitPlace, ShmrError] = {}
        self._lost: dict[int, ShmrError] = {}
        self._late: dict[int, DriveError] = {}
        """Fragments whose drive is late or stalled, and may still answer."""
        self._undecoded: dict[int, IntegrityError] = {}
        """Stripes that had k verified units, and could not be decoded from them."""
        self._asked: dict[Ticket[Units], tuple[int, Collection[int]]] = {}
        self._done: SimpleQueue[Ticket[Units]] = SimpleQueue()

    def run(self) -> dict[UnitPlace, bytes]:
        try:
            self._ask(self._wanted)
            while True:
                self._restore()
                if all(place in self._units for place in self._wanted):
                    return {place: self._units[place] for place in self._wanted}
                more = self._more()
                if more:
                    self._ask(more)
                elif not self._persist():
                    raise self._failure()
        finally:
            for ticket, (fragment, _) in self._asked.items():
                lane = self._gather.lane(self._drive(fragment))
                assert lane is not None
                lane.leave(ticket)

    def _drive(self, fragment: int) -> bytes:
        return self._archived.fragments[fragment].drive

    # -- asking -----------------------------------------------------------------------------

    def _ask(self, places: Iterable[UnitPlace]) -> None:
        """Read units, each fragment's together and all fragments at once, until the deadline."""
        by_fragment: dict[int, list[int]] = {}
        for fragment, unit in places:
            by_fragment.setdefault(fragment, []).append(unit)
        for fragment, units in by_fragment.items():
            self._send(fragment, units, unless_stalled=True)
        deadline_s = self._gather.deadline_s or 0.0
        if self._collect(deadline_s, lambda: all(f in self._late for f, _ in self._asked.values())):
            return
        for ticket, (fragment, _) in self._asked.items():
            if fragment in self._late:
                continue
            self._late[fragment] = late = self._no_answer(fragment)
            logger.warning("%s: segment %d, fragment %d", late, self._segment, fragment)
            lane = self._gather.lane(self._drive(fragment))
            assert lane is not None
            lane.late(ticket)

    def _send(self, fragment: int, units: Collection[int], *, unless_stalled: bool) -> None:
        """Ask for units of one fragment, unless it is known what will come of it."""
        fragments, drive = self._gather.fragments, self._drive(fragment)
        if drive not in fragments.drives:
            cause = OSError(errno.ENODEV, "the drive is missing")
            self._lost[fragment] = DriveError(fragments.label(drive), "read", cause)
            return
        call = partial(fragments.read, self._segment, self._archived, fragment, units)
        lane = self._gather.lane(drive)
        ticket: Ticket[Units] = Ticket(call, self._done)
        if lane is None:
            ticket.run()
            self._take(ticket, fragment)
        elif lane.full or (unless_stalled and lane.stalled):
            self._late[fragment] = self._no_answer(fragment)
        else:
            self._asked[ticket] = fragment, units
            lane.call(ticket)

    def _collect(self, time_s: float, enough: Callable[[], bool]) -> bool:
        """Take answers until there are `enough`; False if time runs out before."""
        clock = self._gather.clock
        end = clock() + time_s
        while not enough():
            try:
                ticket = self._done.get(timeout=max(0.0, end - clock()))
            except Empty:
                return False
            fragment, _ = self._asked.pop(ticket)
            self._late.pop(fragment, None)
            self._take(ticket, fragment)
        return True

    def _take(self, ticket: Ticket[Units], fragment: int) -> None:
        """An answer: units that verified, units that did not, or nothing of the fragment."""
        try:
            units = ticket.result()
        except (DriveError, IntegrityError) as error:
            self._lost[fragment] = error.with_traceback(None)
            self._note(fragment, None, error)
            return
        for unit, outcome in units.items():
            place = UnitPlace(fragment, unit)
            if isinstance(outcome, bytes):
                self._units[place] = outcome
            else:
                self._bad[place] = outcome
                self._note(fragment, unit, outcome)

    def _note(self, fragment: int, unit: int | None, why: ShmrError) -> None:
        drive, generation = self._archived.fragments[fragment]
        finding = Finding(drive, self._segment, fragment, generation, unit, str(why))
        self._gather.findings.note(finding)

    def _no_answer(self, fragment: int) -> DriveError:
        label = self._gather.fragments.label(self._drive(fragment))
        return DriveError(label, "read", OSError(errno.ETIMEDOUT, "the drive does not answer"))

    # -- deciding ---------------------------------------------------------------------------

    def _stripes(self) -> list[int]:
        """Stripes that still lack a wanted unit."""
        return sorted({place.unit for place in self._wanted if place not in self._units})

    def _known(self, stripe: int) -> dict[int, bytes]:
        """The verified units of a stripe that are here, by fragment."""
        places = (UnitPlace(fragment, stripe) for fragment in range(self._geometry.width))
        return {place.fragment: self._units[place] for place in places if place in self._units}

    def _restore(self) -> None:
        """Decode every stripe of which enough is here."""
        for stripe in self._stripes():
            known = self._known(stripe)
            if len(known) < self._geometry.k:
                continue
            try:
                whole = self._gather.decoder.restore(self._archived, known)
            except IntegrityError as error:
                # Without what led to it: that holds this object, and with it all units, in a ring
                # that only a rare collection of garbage breaks.
                self._undecoded[stripe] = error.with_traceback(None)
                continue
            for fragment, stripe_unit in self._wanted:
                if stripe_unit == stripe:
                    self._units[UnitPlace(fragment, stripe)] = whole[fragment]

    def _more(self) -> list[UnitPlace]:
        """What to ask for next; nothing if all that is left is late, bad, or here already."""
        more: list[UnitPlace] = []
        for stripe in self._stripes():
            bad = {place.fragment for place in self._bad if place.unit == stripe}
            lost = bad | self._lost.keys() | self._late.keys()
            known = self._known(stripe)
            sources = self._geometry.survivors(lost, near=known)
            if stripe in self._undecoded:
                # Every further unit makes other combinations.
                sources = [f for f in range(self._geometry.width) if f not in lost]
            more += [UnitPlace(f, stripe) for f in sources or () if f not in known]
        return more

    def _persist(self) -> bool:
        """Nothing stands in for drives that are late: wait for one. False if it is in vain."""
        waiting = {fragment for fragment, _ in self._asked.values()}
        for fragment in self._late.keys() - waiting:
            places = [UnitPlace(fragment, stripe) for stripe in self._stripes()]
            units = [place.unit for place in places if place not in self._bad]
            self._send(fragment, units, unless_stalled=False)
        if not self._asked:
            return False
        patience_s = PATIENCE * (self._gather.deadline_s or 0.0)
        asked = len(self._asked)
        return self._collect(patience_s, lambda: len(self._asked) < asked)

    def _failure(self) -> ShmrError:
        """Why the first wanted unit that is not here cannot be had. It names drive and unit."""
        place = next(place for place in self._wanted if place not in self._units)
        fragment, unit = place
        why = self._why(place)
        known = self._known(unit)
        others = [
            f"{other} on {self._gather.fragments.label(self._drive(other))}: {reason}"
            for other in range(self._geometry.width)
            if other != fragment and (reason := self._why(UnitPlace(other, unit))) is not None
        ]
        label = self._gather.fragments.label(self._drive(fragment))
        text = (
            f"segment {self._segment}, fragment {fragment} on drive {label}, unit {unit}: {why}; "
            f"{len(known)} of the {self._geometry.k} units that decoding needs are there"
        )
        if unit in self._undecoded:
            text += f" ({self._undecoded[unit]})"
        if others:
            text += f" (fragment {'; '.join(others)})"
        if isinstance(why, DriveError):
            return DriveError(label, "read", OSError(why.errno or errno.EIO, text))
        return IntegrityError(text)

    def _why(self, place: UnitPlace) -> ShmrError | None:
        """Why a unit cannot be read from its drive, if that is known."""
        fragment = place.fragment
        return self._bad.get(place) or self._lost.get(fragment) or self._late.get(fragment)
