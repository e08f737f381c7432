"""Recovery: from what the drives hold to a catalog that is true up to the last durable commit.

The catalog's last checkpoint if it is whole and the journal knows its place, else the newest
snapshot that verifies, else the journal from its beginning; then every batch whose COMMIT is
there and whose data is. A COMMIT that a later one claims durable is believed; of the others the
data tails are read and verified. The first that fails ends the journal (a torn tail), unless
something behind it claims to be durable: that is corruption, and the mount is read-only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from shmr.catalog import store as catalog_store
from shmr.catalog.catalog import Catalog
from shmr.catalog.examine import examine
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.frame import Kind
from shmr.format.records import Commit, Meta, SegmentEnd, Stream, decode_commit, decode_meta
from shmr.format.rows import Place, Row, Table
from shmr.log import snapshot
from shmr.log.replay import Journal
from shmr.log.store import SegmentStore
from shmr.log.tail import verify_tail

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What recovery came to.

    `place` is where the journal ends and a new segment goes on from; None in a new filesystem.
    `corrupt` says what is missing although it was durable. `report` tells people what was done.
    `behind` are journal segments in which nothing durable is: they go when a segment with a higher
    number is there, or nothing on the drives would say that theirs were taken.
    """

    catalog: Catalog
    place: Place | None = None
    corrupt: str | None = None
    report: list[str] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)


Sift = Callable[[Iterable[Row]], Iterable[Row]]
"""Which of the rows that the log has are taken."""


def every(rows: Iterable[Row]) -> Iterable[Row]:
    """All rows: who wrote the log is trusted."""
    return rows


_ADVICE = "copy your files out, then see `shmr-fsck repair --dry-run`"
_NOWHERE = Place(0, 0, 0, 0, 0)
"""The place before everything."""


class _Pending(NamedTuple):
    """A batch read from the journal and not yet applied."""

    metas: list[Meta]
    commit: Commit
    place: Place


def recover(
    segments: SegmentStore,
    path: Path,
    *,
    read_only: bool = False,
    in_child: bool = True,
    sift: Sift = every,
    until: Place | None = None,
    waiting_max: int | None = None,
    cut: bool = False,
) -> Recovered:
    """Bring the catalog at `path` up to the journal's end. The catalog's epoch is not committed.

    With `read_only` no drive is written to, and the catalog is one that may be thrown away: then
    it may also be brought to another place, `until`, which a COMMIT behind it claims durable. More
    than `waiting_max` rows that wait for a COMMIT, or for one that vouches for theirs, are as good
    as damage: whoever wrote them wanted our memory. `cut`: where durable frames are missing the
    journal ends, and what comes after them is given up, as somebody wished.

    Raises SetupError where nothing can be recovered from, DriveError.
    """
    assert read_only or until is None, "what is behind would be cut off"
    journal = Journal(segments)
    report: list[str] = []
    catalog = _usable_catalog(segments, path, report, in_child, read_only=read_only)
    start = catalog.place() if catalog else None
    if catalog is not None and start is not None:
        segments.next_number = max(segments.next_number, catalog.next_segment())
        if not segments.segments:
            catalog.close()
            raise SetupError(
                f"a catalog is at {path}, but the drives hold no segment at all; check that the "
                "right disks are mounted"
            )
        if not journal.has(start):
            if not _log_goes_beyond(segments, journal, start):
                corrupt = (
                    f"the journal lacks segment {start.segment} offset {start.end}, which the "
                    f"catalog holds as durable; {_ADVICE}"
                )
                if cut:
                    report.append(f"the log goes on from the catalog: {corrupt}")
                    return Recovered(catalog, start, None, report, journal.behind(start))
                return Recovered(catalog, start, corrupt, report)
            # As after an old copy of the catalog was put back: the log knows all it does, and more.
            catalog.close()
            aside = catalog_store.set_aside(path)
            where = "not used" if read_only else f"kept as {aside}"
            report.append(f"the catalog is older than the log and is {where}")
            catalog, start = _from_log(segments, journal, path, report, sift, until)
    else:
        if catalog is not None:
            catalog.close()
            catalog_store.set_aside(path)
        catalog, start = _from_log(segments, journal, path, report, sift, until)
    if start is None:
        return Recovered(catalog, None, None, report, journal.unreadable)
    try:
        replay = _Replay(segments, journal, catalog, start, report, sift, until, read_only)
        replay.waiting_max = waiting_max
        replay.cut = cut
        return replay.run()
    except BaseException:
        catalog.close()
        raise


def _log_goes_beyond(segments: SegmentStore, journal: Journal, place: Place) -> bool:
    """Does a snapshot go on from after `place`, so that the journal may have let go of it?"""
    return any(
        found.place.sequence >= place.sequence and journal.has(found.place)
        for found in snapshot.find(segments)
    )


def _usable_catalog(
    segments: SegmentStore, path: Path, report: list[str], in_child: bool, *, read_only: bool
) -> Catalog | None:
    """The catalog of the last checkpoint, whole and of this filesystem; else it is set aside."""
    if not catalog_store.exists(path):
        return None
    catalog = None
    try:
        if catalog_store.take_digest(path) or examine(path, in_child=in_child):
            catalog = Catalog(path)
            if catalog.filesystem() == segments.filesystem:
                return catalog
    except catalog_store.DOUBTS as error:
        logger.warning("catalog: %s", error)
    if catalog is not None:
        catalog.close()
    aside = catalog_store.set_aside(path)
    where = "not used" if read_only else f"kept as {aside}"
    report.append(f"the catalog was doubtful and is {where}; it is rebuilt from the log")
    return None


def _from_log(
    segments: SegmentStore,
    journal: Journal,
    path: Path,
    report: list[str],
    sift: Sift,
    until: Place | None,
) -> tuple[Catalog, Place | None]:
    """A new catalog from the newest snapshot that verifies, or empty at the journal's beginning."""
    for found in snapshot.find(segments):
        if not journal.has(found.place):
            continue
        if until is not None and found.place.sequence > until.sequence:
            continue
        catalog = Catalog(path)
        try:
            for rows in snapshot.rows_of(segments, found):
                catalog.replay(sift(rows))
        except IntegrityError as error:
            catalog.close()
            catalog_store.set_aside(path)
            report.append(f"a snapshot does not verify ({error}); the one before is used")
            continue
        count = catalog.count(Table.INODE)
        report.append(f"the catalog is rebuilt from a snapshot of {count} inodes")
        return catalog, found.place
    start = journal.beginning()
    claimed = start is None and journal.claimed_durable(_NOWHERE) is not None
    if start is None and not claimed and not segments.of_stream(Stream.DATA):
        # The very first mount was cut off before anything was durable.
        return Catalog(path), None
    if start is None:
        raise SetupError(
            "neither a catalog nor a snapshot nor the journal's beginning is on the drives; check "
            "that all drives of the workspace are there"
        )
    report.append("the catalog is rebuilt from the journal's beginning")
    return Catalog(path), start


class _Replay:
    """One run over the journal's entries."""

    def __init__(
        self,
        segments: SegmentStore,
        journal: Journal,
        catalog: Catalog,
        start: Place,
        report: list[str],
        sift: Sift,
        until: Place | None,
        read_only: bool,
    ) -> None:
        self._segments = segments
        self._journal = journal
        self._catalog = catalog
        self._start = start
        self._report = report
        self._sift = sift
        self._until = until
        self._mend = not read_only
        self._ends: dict[int, SegmentEnd] = {}
        self.waiting_max: int | None = None
        self.cut = False
        self._waiting = 0
        self._batches = 0
        self._applied = start

    def run(self) -> Recovered:
        pending: list[_Pending] = []
        problem: str | None = None
        try:
            self._read(pending)
        except (IntegrityError, DriveError) as error:
            # A torn tail does not verify; one that cannot be read is no torn tail.
            problem = str(error)
            self._mend = False
        durable = self._applied
        try:
            self._apply_whole(pending)
        except (IntegrityError, DriveError) as error:
            problem = problem or str(error)
        applied = self._applied
        claimed = None if self._until else self._journal.claimed_durable(applied)
        if self._until and applied.sequence != self._until.sequence:
            problem = problem or (
                f"the journal ends at frame {applied.sequence}, before frame {self._until.sequence}"
            )
        if claimed is not None:
            problem = problem or (
                f"journal frames from {applied.sequence} to {claimed} were durable and are missing "
                f"or damaged (segment {applied.segment}, offset {applied.end})"
            )
        if problem is not None and self.cut:
            self._report.append(f"the log is cut: {problem}")
            problem, self._mend = None, True
        if problem is None and self._mend:
            try:
                self._make_durable(durable, applied)
            except IntegrityError as error:
                problem = str(error)
        if problem is not None:
            problem += f"; the mount is read-only: {_ADVICE}"
        if self._batches:
            self._report.append(f"{self._batches} batches were replayed from the journal")
        # Claimed ahead, or begun and torn: nothing durable is in them.
        behind = [] if problem else self._journal.behind(applied)
        return Recovered(self._catalog, applied, problem, self._report, behind)

    def _wait(self, meta: Meta) -> None:
        """Raises IntegrityError where more rows wait than may."""
        self._waiting += len(meta.rows) + len(meta.drops)
        if self.waiting_max is not None and self._waiting > self.waiting_max:
            raise IntegrityError(f"{self._waiting} rows that no COMMIT makes durable")

    def _apply(self, batch: _Pending) -> None:
        for meta in batch.metas:
            self._waiting -= len(meta.rows) + len(meta.drops)
            for drop in meta.drops:
                self._catalog.replay_drop(drop)
            self._catalog.replay(self._sift(meta.rows))
        for end in batch.commit.ends:
            self._ends[end.segment] = end.reached
        self._segments.next_number = max(self._segments.next_number, batch.commit.next_segment)
        self._batches += 1
        self._applied = batch.place

    def _read(self, pending: list[_Pending]) -> None:
        """Read the journal to its end; apply what a later COMMIT claims durable.

        What is left in `pending` nobody vouches for. Raises IntegrityError, DriveError.
        """
        metas: list[Meta] = []
        for entry in self._journal.entries(self._start):
            if self._until is not None and entry.place.sequence > self._until.sequence:
                break
            if entry.header.kind == Kind.META:
                metas.append(decode_meta(entry.payload))
                self._wait(metas[-1])
            elif entry.header.kind == Kind.COMMIT:
                commit = decode_commit(entry.payload)
                pending.append(_Pending(metas, commit, entry.place))
                metas = []
                known = commit.durable_seq if self._until is None else self._until.sequence
                while pending and pending[0].place.sequence <= known:
                    self._apply(pending.pop(0))

    def _apply_whole(self, pending: list[_Pending]) -> None:
        """Apply the batches nobody vouches for, as far as their data is there."""
        for batch in pending:
            if not self._whole(batch):
                break
            self._apply(batch)

    def _whole(self, batch: _Pending) -> bool:
        """Is the data there that this batch's extents point to?

        Read is only what lies behind the part that was known durable: an old byte that went bad
        since is no reason to take a batch for torn.
        """
        for end in batch.commit.ends:
            known, applied = end.durable, self._ends.get(end.segment)
            if known is None or (applied is not None and applied.end > known.end):
                known = applied
            if not verify_tail(self._segments, known, end.reached, mend=self._mend):
                return False
        return True

    def _make_durable(self, durable: Place, end: Place) -> None:
        """Write and sync what was accepted behind `durable`: a crash may have kept it from disks.

        A place behind the SEGMENT frame is the journal's beginning, and not even that is durable.
        """
        known = None
        if durable.frame:
            known = SegmentEnd(durable.segment, durable.end, durable.chain)
        for until in self._journal.span(durable, end):
            verify_tail(self._segments, known, until, mend=True)
            known = None
