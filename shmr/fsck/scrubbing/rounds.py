"""One run of the scrub: the lanes, what comes of each file, and how far each drive is covered.

    round   once over a drive. A run goes on with the one that is under way, or begins the next; it
            has come to its end when every file on the drive was read since it began.

A file that is damaged is not verified: it is read again in each run until it is whole. So is one
that a mount may still append to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from shmr.fsck.findings import Finding, Kind, Report, Where
from shmr.fsck.opening import View
from shmr.fsck.scrubbing import lanes
from shmr.fsck.scrubbing.inventory import Absent, Holding
from shmr.fsck.scrubbing.judging import Damaged, Judged, gone, judge
from shmr.fsck.scrubbing.lanes import Begun, Done, Ended, Event, Lane, Superblocks, Terms
from shmr.fsck.scrubbing.note import DriveNote, Note, Round, runs_of
from shmr.service.following import Watcher
from shmr.units import NS_PER_S

SAVE_S = 10.0
"""After so many seconds at most the note is written: a kill loses no more than this."""
AHEAD_S = 3600
"""What is said to have been later than this from now was noted before the clock was set back."""
RunLanes = Callable[[Sequence[Lane], Callable[[Event], None]], None]


@dataclass(frozen=True, slots=True)
class Left:
    """Files that were not read, and why."""

    why: str
    files: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a run read of a drive. Times are seconds since 1970, 0 for never.

    `covered`: every file that matters was read, in this run or `earlier` in the same round (with
    `--since`: late enough); else `why` says why not. `read_s` is when the last round began that
    came to its end, `whole_s` the last after which nothing was wrong. `harmless` is damage where
    nothing lives.
    """

    pool: str
    drive: str
    id: str
    covered: bool
    why: str | None = None
    files: int = 0
    read_bytes: int = 0
    earlier: int = 0
    left: tuple[Left, ...] = ()
    wrong: int = 0
    repaired: int = 0
    harmless: int = 0
    read_s: int = 0
    whole_s: int = 0


def _under_way(known: DriveNote, first_s: int, now_s: int) -> DriveNote:
    """With the round that is gone on with, or one that begins.

    `first_s`: when the first of those began that are under way on any of the drives. A drive that
    came to its end since then waits for the others: only what was written to it later is read.
    """
    latest_s = now_s + AHEAD_S
    if known.under_way is not None and known.under_way.began_s <= latest_s:
        return known
    if known.last is not None and first_s <= known.last.began_s <= latest_s:
        return replace(known, under_way=replace(known.last, ended_s=0, wrong=0, repaired=0))
    # Later than anything that was verified before, also in the same second.
    before = (at_s for _, _, at_s in known.runs if at_s <= latest_s)
    return replace(known, under_way=Round(max(now_s, 1 + max(before, default=0))))


def _nothing(what: object) -> bool:
    """Nothing was put right."""
    return False


@dataclass(eq=False, slots=True)
class _Drive:
    """How far one drive is in this run."""

    holding: Holding
    note: DriveNote
    began_s: int
    since_s: int
    times: dict[int, int] = field(default_factory=dict)
    there: list[int] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """Files that were read in this run."""
    files: int = 0
    read_bytes: int = 0
    earlier: int = 0
    wrong: int = 0
    repaired: int = 0
    harmless: int = 0
    begun: bool = False
    why: str | None = "it was not begun"
    given_up: bool = False

    def now(self) -> DriveNote:
        """What is known of it by now, while its round is under way."""
        if not self.begun:
            return self.note
        return replace(
            self.note,
            label=self.holding.label,
            runs=runs_of(self.times, self.there),
            under_way=self.round(),
        )

    def round(self, *, wrong: int = 0, repaired: int = 0) -> Round:
        before = self.note.under_way
        assert before is not None, "a run has a round"
        before = replace(before, given_up=int(self.given_up))
        return before.more(
            files=self.files, read_bytes=self.read_bytes, wrong=wrong, repaired=repaired
        )

    def at_end(self, now_s: int) -> DriveNote:
        """With its round ended, if every file was read since it began."""
        note = self.now()
        unread = (n for n in self.there if self.times.get(n, 0) < self.began_s)
        if self.why is not None or not self.seen.issuperset(unread):
            return note
        ended = replace(self.round(wrong=self.wrong, repaired=self.repaired), ended_s=now_s)
        whole_s = ended.began_s if ended.is_whole else note.whole_s
        return replace(note, under_way=None, last=ended, whole_s=whole_s)


class Scrub:
    """One run. `save` writes the note; raises OSError. `now_s` is when it began, since 1970.

    `since_s`: files that were verified then or later are left; None: those of the round.
    """

    def __init__(
        self,
        note: Note,
        report: Report,
        terms: Terms,
        *,
        now_ns: Callable[[], int],
        save: Callable[[Note], None],
        since_s: int | None = None,
        watcher: Watcher | None = None,
        run: RunLanes = lanes.run_in_threads,
    ) -> None:
        self._note = note
        self.report = report
        self._terms = terms
        self._now_ns = now_ns
        self._began_s = now_ns() // NS_PER_S
        self._save = save
        self._since_s = since_s
        self._watcher = watcher
        self._run = run
        self._drives: dict[Lane, _Drive] = {}
        self._absent: list[Absent] = []
        self._damaged: list[Damaged] = []
        self.early: list[Finding] = []
        """What is wrong with whole drives: found before anything is judged."""
        self._saved_s = terms.clock()
        self._total = self._read = 0
        self.judged: list[Judged] = []

    # -- reading ----------------------------------------------------------------------------

    def read(self, holdings: Sequence[Holding], absent: Sequence[Absent]) -> None:
        """Read everything that is to be read of these drives. Raises what no lane should."""
        self._absent = list(absent)
        notes = [self._note.drives.get(_name(one), DriveNote()) for one in holdings]
        latest_s = self._began_s + AHEAD_S
        rounds = (n.under_way for n in notes if n.under_way is not None)
        first_s = min((r.began_s for r in rounds if not r.given_up), default=latest_s + 1)
        for holding, before in zip(holdings, notes, strict=True):
            known = _under_way(before, first_s, self._began_s)
            assert known.under_way is not None
            began_s = known.under_way.began_s
            since_s = began_s if self._since_s is None else self._since_s
            times = partial(known.times, now_s=max(self._began_s, began_s))
            lane = Lane(holding, times, since_s, self._terms)
            self._drives[lane] = _Drive(holding, known, began_s, since_s)
        try:
            self._run(list(self._drives), self._handle)
        finally:
            self._keep()

    def _handle(self, event: Event) -> None:
        drive = self._drives[event.lane]
        if isinstance(event, Begun):
            drive.begun, drive.earlier = True, event.earlier
            drive.there = [item.number for item in drive.holding.items]
            drive.times = dict(event.lane.times(drive.there))
            self._total += event.size_bytes
        elif isinstance(event, Superblocks):
            drive.files += 1
            drive.read_bytes += event.read_bytes
            self._superblock(drive, event)
        elif isinstance(event, Done):
            self._done(drive, event)
        else:
            self._ended(drive, event)
        if self._watcher is not None:
            self._watcher("reading", self._read, max(self._total, self._read))
        if self._terms.clock() - self._saved_s >= SAVE_S:
            self._keep()

    def _done(self, drive: _Drive, event: Done) -> None:
        item = event.item
        drive.seen.add(item.number)
        drive.files += not event.gone
        drive.read_bytes += event.read_bytes
        self._read += item.size_bytes(drive.holding.filesystem)
        damages = event.damages
        if event.gone:
            damages = (gone(item, drive.holding.filesystem),)
        if damages:
            drive.times.pop(item.number, None)
            seen_ns = self._now_ns()
            self._damaged.append(Damaged(drive.holding, item, tuple(damages), seen_ns))
        elif not event.open_ended:
            drive.times[item.number] = max(self._began_s, drive.began_s)

    def _superblock(self, drive: _Drive, event: Superblocks) -> None:
        if event.damaged is not None:
            label = drive.holding.label
            message = f"drive {label}: {event.name} does not verify: {event.damaged}"
            remedy = f"write the superblock of drive {label} anew"
            drive.wrong += 1
            self.early.append(Finding(Kind.SUPERBLOCK_DAMAGED, message, Where(drive=label), remedy))

    def _ended(self, drive: _Drive, event: Ended) -> None:
        if event.failure is not None:
            raise event.failure
        drive.why = "stopped" if event.stopped else event.given_up
        self.report.stopped |= event.stopped
        if event.given_up is not None:
            drive.given_up = True
            label = drive.holding.label
            self.early.append(
                Finding(
                    Kind.DRIVE_UNUSABLE,
                    f"drive {label} was not read to its end: {event.given_up}",
                    Where(drive=label),
                    "replace the drive (`shmr drive replace`) or connect it again, and scrub anew",
                )
            )

    def _keep(self) -> None:
        """Write down how far it is. Where that fails the next run begins where this one did."""
        self._saved_s = self._terms.clock()
        for drive in self._drives.values():
            if drive.begun:
                self._note.drives[_name(drive.holding)] = drive.now()
        self._write()

    def _write(self) -> None:
        try:
            self._save(self._note)
        except OSError as error:
            line = f"how far it is could not be kept: {error}; the next run begins where this did"
            if line not in self.report.notes:
                self.report.notes.append(line)

    # -- what came of it --------------------------------------------------------------------

    def judge(self, view: View) -> list[Judged]:
        """What is wrong, and can be mended: of what was read. Raises IntegrityError."""
        self.judged = list(judge(view, self._damaged))
        by_holding = {id(drive.holding): drive for drive in self._drives.values()}
        for one in self.judged:
            drive = by_holding[id(one.damaged.holding)]
            if one.finding is None:
                drive.harmless += 1
            else:
                drive.wrong += 1
        return self.judged

    def findings(self) -> list[Finding]:
        """Everything that is wrong."""
        return [*self.early, *(one.finding for one in self.judged if one.finding is not None)]

    def finish(
        self,
        is_mended: Callable[[Judged], bool] = _nothing,
        has_superblock: Callable[[str], bool] = _nothing,
    ) -> tuple[Coverage, ...]:
        """Findings go to the report, rounds to the note; what was covered of each drive.

        `is_mended`: was it put right? `has_superblock`: has the drive at this path one now?
        """
        by_holding = {id(drive.holding): drive for drive in self._drives.values()}
        by_label = {drive.holding.label: drive for drive in self._drives.values()}
        for finding in self.early:
            label = finding.where.drive or ""
            if finding.kind is Kind.SUPERBLOCK_DAMAGED and has_superblock(label):
                self.report.mend(finding)
                by_label[label].repaired += 1
            else:
                self.report.find(finding)
        for one in self.judged:
            if one.finding is None:
                continue
            if is_mended(one):
                self.report.mend(one.finding)
                by_holding[id(one.damaged.holding)].repaired += 1
            else:
                self.report.find(one.finding)
        for absent in self._absent:
            self._missing(absent)
        now_s = self._now_ns() // NS_PER_S
        for drive in self._drives.values():
            if drive.begun:
                self._note.drives[_name(drive.holding)] = drive.at_end(now_s)
        self._write()
        found = [_coverage(drive, self._note) for drive in self._drives.values()]
        return (*found, *(_absence(absent, self._note.drives) for absent in self._absent))

    def _missing(self, absent: Absent) -> None:
        known = self._note.drives.get(absent.id.hex())
        label = known.label if known is not None and known.label else absent.id.hex()
        self.report.find(
            Finding(
                Kind.DRIVE_MISSING,
                f"drive {label} is missing: its {absent.fragments} fragments were not read",
                Where(drive=label),
                "connect it, or write anew what it held (`shmr-fsck rebuild-drive`)",
            )
        )


def _name(holding: Holding) -> str:
    return holding.id.hex() or holding.label


def _coverage(drive: _Drive, note: Note) -> Coverage:
    holding, known = drive.holding, note.drives.get(_name(drive.holding), drive.note)
    skipped = holding.skipped
    left = tuple(
        Left(why, count, skipped.size_bytes[why]) for why, count in sorted(skipped.files.items())
    )
    return Coverage(
        holding.pool,
        holding.label,
        holding.id.hex(),
        drive.why is None,
        drive.why,
        drive.files,
        drive.read_bytes,
        drive.earlier,
        left,
        drive.wrong,
        drive.repaired,
        drive.harmless,
        known.last.began_s if known.last is not None else 0,
        known.whole_s,
    )


def _absence(absent: Absent, known: Mapping[str, DriveNote]) -> Coverage:
    name = absent.id.hex()
    note = known.get(name, DriveNote())
    return Coverage(
        absent.pool,
        note.label or name,
        name,
        False,
        "it is missing",
        read_s=note.last.began_s if note.last is not None else 0,
        whole_s=note.whole_s,
    )
