"""`repair`: what the log, the rows and other copies know better is put right.

    look        `check`; and would a catalog made from the log be better?
    propose     what is to be done, in its order; a dry run ends here, and has changed nothing
    carry out   on the unmounted filesystem, under its locks
    look again  only what is not found any more counts as repaired

A repair that was cut off anywhere is run again: what it began is found as it is then.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from shmr.archive.control import Control, Phase, Stopped
from shmr.archive.shift import Shift
from shmr.catalog import store as catalog_store
from shmr.config import Config, load
from shmr.errors import SetupError, ShmrError
from shmr.fsck.advice import next_step
from shmr.fsck.checking.archive import DISCARD
from shmr.fsck.checking.check import check_view, not_opened
from shmr.fsck.checking.kept import HELD
from shmr.fsck.checking.tables.check import flaws
from shmr.fsck.checking.tables.flaw import KINDS, REBUILD, Flaw, decided
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind, Report, Where
from shmr.fsck.mending import copies, fragments, identity, unknown
from shmr.fsck.mending.mender import Mender
from shmr.fsck.mending.rows import mend_rows
from shmr.fsck.opening import View, opened, view_of
from shmr.service.following import Stop, Terms, Watcher, nobody_stops, pace
from shmr.service.offline import unmounted
from shmr.volume.cleaner import run_inline
from shmr.volume.recover import recover
from shmr.volume.volume import Volume, nothing_first

MENDERS: tuple[Mender, ...] = (*unknown.MENDERS, *fragments.MENDERS, *copies.MENDERS)
"""In the order in which they are asked, behind the rows."""
_DERIVED = frozenset((Kind.USAGE_WRONG, Kind.COOKIE_WRONG))
"""What follows from other rows: a catalog made from the log has it right."""


@dataclass(frozen=True, slots=True)
class Action:
    """`does` is a sentence in the infinitive; `count` how many findings it is for."""

    does: str
    count: int


def repair(
    config_path: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    cut_log: bool = False,
    discard_unknown: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Report:
    """Put right what can be; a dry run only says what would be done, in the notes of the report.

    `cut_log`: where durable frames of the log are missing, what comes after them is given up; else
    nothing is repaired then. `discard_unknown`: what is newer than what the workspace was made anew
    from, and that no row names, is given up; else it is left alone. `limit_rate` is for what is
    written to archive drives, in bytes per second. Raises SetupError where it is mounted or cannot
    be looked at, DriveError, NoSpace.
    """
    config = load(config_path)
    terms = Terms(watcher, stop, limit_rate, dry_run)
    look = partial(_look, config, terms, discard_unknown=discard_unknown)
    # Who a drive is comes before all that is on it.
    nameless = identity.nameless(config)
    if nameless and not dry_run:
        identity.restore(config)
    notes: list[str] = []
    try:
        before, from_log, unsettled = look()
        if unsettled and not before.stopped:
            notes.append(f"{_to_do(dry_run)}: settle what was moved when something was cut off")
            if not dry_run:
                # Half of a snapshot's copies may be there: they are looked at behind it.
                stopped = _settle(config, terms, notes)
                before, from_log, _ = look()
                before.stopped |= stopped
    except SetupError as error:
        before, from_log = not_opened("repair", config, nameless, error), False
    before.notes[:0] = notes
    identity.tell(before, nameless)
    before.next_step = next_step(before, config_path)
    if before.is_clean or before.stopped:
        return before
    actions = propose(before, from_log=from_log, cut_log=cut_log)
    before.notes += [f"{_to_do(dry_run)}: {action.does} ({action.count})" for action in actions]
    if dry_run or not actions:
        return before
    notes = []
    left = before
    while True:
        if not propose(left, from_log=from_log, cut_log=cut_log):
            break
        try:
            _carry_out(config, left, terms, notes)
        except Stopped:
            left.stopped = True
            break
        last, (left, from_log, _) = left, look()
        full = any(count > KEPT_PER_KIND for count in last.counts.values())
        if not full or left.stopped or left.counts.total() >= last.counts.total():
            break
    report = settled(before, left, notes)
    report.next_step = next_step(report, config_path)
    return report


def _to_do(dry_run: bool) -> str:
    return "would" if dry_run else "did"


def propose(report: Report, *, from_log: bool, cut_log: bool = False) -> list[Action]:
    """What is to be done about findings, in the order in which it is done."""
    remedied = Counter(f.kind for f in report.findings if f.remedy is not None)
    counts = {kind: report.counts[kind] for kind in remedied}
    actions = []
    if corrupt := report.counts[Kind.LOG_CORRUPT]:
        if Kind.LOG_CORRUPT not in remedied and not cut_log:
            return []
        actions.append(
            Action("go on with a new log from where the one that is there ends", corrupt)
        )
    doubtful = counts.get(Kind.CATALOG_DOUBTFUL, 0)
    wrong = sum(count for kind, count in counts.items() if kind in KINDS)
    if doubtful or (from_log and wrong):
        count = doubtful + (wrong if from_log else 0)
        actions.append(Action(REBUILD + ", and keep the one that is there beside it", count))
    if wrong and not from_log:
        actions.append(Action("mend rows of the catalog, which the log has no better", wrong))
    for mender in MENDERS:
        count = sum(count for kind, count in counts.items() if kind in mender.kinds)
        if count:
            actions.append(Action(mender.does, count))
    return actions


def _look(config: Config, terms: Terms, *, discard_unknown: bool) -> tuple[Report, bool, bool]:
    """What is wrong, and whether the catalog is to be made from the log anew; then, unless it is
    a dry run, the one that is there was set aside. And: is anything held that was moved?
    """
    with opened(config) as view:
        if view.mounted:
            raise SetupError("the filesystem is in use: unmount it, and run this again")
        report = check_view(view, watcher=terms.watcher, stop=terms.stop)
        report.job = "repair"
        unsettled = next(view.reading.states(HELD), None) is not None
        if report.stopped:
            return report, False, unsettled
        from_log = any(kind in KINDS for kind in report.counts) and _log_is_better(view, report)
        report.findings = [decided(finding, from_log=from_log) for finding in report.findings]
        if discard_unknown:
            report.findings = [
                replace(f, remedy=DISCARD) if f.kind in unknown.KINDS else f
                for f in report.findings
            ]
        if from_log and not terms.dry_run:
            # Under the locks. The next opening makes it anew, also after this was cut off.
            catalog_store.set_aside(Path(config.catalog))
    return report, from_log, unsettled


def _settle(config: Config, terms: Terms, notes: list[str]) -> bool:
    """What a shift or a repair switched before it was cut off is kept by a snapshot; strays go.

    Was it asked to stop?
    """
    control = _Followed(terms).control()
    try:
        with unmounted(config, read_only=False) as (volume, pools):
            run_inline(Shift(volume, pools, control=control).recover())
    except Stopped:
        return True
    except ShmrError as error:
        notes.append(f"it could not be settled: {error}")
    return False


def _log_is_better(view: View, report: Report) -> bool:
    """Has a catalog that is made from the log less wrong with it, and everything?"""
    if view.rebuilt:
        return False
    wrong = sum(count for kind, count in report.counts.items() if kind in KINDS)
    if any(kind in _DERIVED for kind in report.counts):
        wrong += 1
    with TemporaryDirectory(prefix="shmr-repair-", ignore_cleanup_errors=True) as scratch:
        try:
            recovered = recover(view.store, Path(scratch, "catalog"), read_only=True)
        except SetupError:
            return False  # the log does not go back to the beginning
        try:
            place = recovered.place
            if recovered.corrupt is not None or place is None:
                return False
            if place.sequence < view.reading.place().sequence:
                return False
            recovered.catalog.checkpoint(view.filesystem, place, view.store.next_number)
            made = replace(view, reading=recovered.catalog.reading(), rebuilt=True)
            for _ in flaws(made):
                wrong -= 1
                if not wrong:
                    return False
            return True
        finally:
            recovered.catalog.close()


def _carry_out(config: Config, report: Report, terms: Terms, notes: list[str]) -> None:
    """Do what was proposed. Raises Stopped, SetupError, DriveError, NoSpace."""
    control = _Followed(terms).control()
    with_rows = any(kind in KINDS or kind is Kind.CATALOG_DOUBTFUL for kind in report.counts)
    first = partial(mend_rows, look=look_at) if with_rows else nothing_first
    cut = Kind.LOG_CORRUPT in report.counts
    with unmounted(config, read_only=False, first=first, cut_log=cut) as (volume, pools):
        if cut:
            # From here on nobody needs what was before.
            run_inline(volume.snapshots.make())
        for mender in MENDERS:
            found = [f for f in report.findings if f.kind in mender.kinds and not f.is_loss]
            if not found:
                continue
            control.check()
            try:
                notes += run_inline(mender.mend(volume, pools, found, control))
            except Stopped:
                raise
            except ShmrError as error:
                notes.append(f"could not {mender.does}: {error}")


def look_at(volume: Volume) -> Iterator[Flaw]:
    """What rows can mend of a catalog that nothing knows better."""
    return flaws(replace(view_of(volume), rebuilt=True))


def settled(before: Report, after: Report, notes: Sequence[str]) -> Report:
    """The report of both: what is not found any more was repaired."""
    report = replace(after, notes=[*before.notes, *notes, *after.notes])
    left = set(map(_place, after.findings))
    gone: Counter[str] = Counter()
    for finding in before.findings:
        if _place(finding) not in left:
            gone[finding.kind] += 1
            report.mend(finding)
    for kind, count in before.counts.items():
        # More than are kept: those are not known one by one.
        if count > KEPT_PER_KIND:
            report.repaired_counts[kind] = max(gone[kind], count - after.counts[kind])
    return report


def _place(finding: Finding) -> tuple[Kind, Where]:
    """What a finding is of. The path may be another: files go to lost+found."""
    return finding.kind, replace(finding.where, path=None)


class _Followed:
    """Tells a watcher how far the writing of fragments is."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._halves = self._total_bytes = 0

    def control(self) -> Control:
        terms = self._terms
        return Control(self._advance, terms.stop, pace(terms.limit_rate, terms.stop), self._plan)

    def _plan(self, more_bytes: int) -> None:
        self._total_bytes += more_bytes

    def _advance(self, phase: Phase, size_bytes: int) -> None:
        # What is written is then verified: each of the two is half of it.
        self._halves += size_bytes
        if self._terms.watcher is not None:
            self._terms.watcher(phase.value, self._halves // 2, self._total_bytes)
