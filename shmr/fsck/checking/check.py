"""`check`: what is wrong, by metadata alone. Nothing is changed.

opening     the catalog's file and the log
tables      the catalog against itself
places      the catalog against what lies on the drives
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from shmr.archive.control import Stopped
from shmr.config import Config, load
from shmr.errors import IntegrityError, SetupError
from shmr.format.rows import Table
from shmr.fsck.advice import next_step
from shmr.fsck.checking.places import places
from shmr.fsck.checking.tables.check import tables
from shmr.fsck.findings import Report
from shmr.fsck.mending import identity
from shmr.fsck.naming import named
from shmr.fsck.opening import View, opened
from shmr.service.following import Stop, Watcher, nobody_stops

_PHASES = {
    Table.INODE: "inodes",
    Table.DENTRY: "names",
    Table.EXTENT: "extents",
    Table.XATTR: "attributes",
    Table.COOKIE: "reading orders",
}
"""What people are told is looked at; the other tables are small."""


def check(
    config_path: str | os.PathLike[str],
    *,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Report:
    """What is wrong with the filesystem of a configuration, mounted or not.

    Raises SetupError with what to do where it cannot be looked at, DriveError where a drive of the
    workspace cannot, IntegrityError where the catalog of a mounted one cannot be read at all.
    """
    config = load(config_path)
    nameless = identity.nameless(config)
    try:
        with opened(config) as view:
            report = check_view(view, watcher=watcher, stop=stop)
    except SetupError as error:
        report = not_opened("check", config, nameless, error)
    identity.tell(report, nameless)
    report.next_step = next_step(report, config_path)
    return report


def not_opened(
    job: str, config: Config, nameless: Sequence[identity.Nameless], error: SetupError
) -> Report:
    """The report where drives that do not say who they are keep all others from being looked at.

    Raises the error where that is not the cause.
    """
    if not nameless:
        raise error
    report = Report(job, name=config.filesystem)
    labels = [one.finding.where.drive or "" for one in nameless]
    why = "that can be when this is repaired"
    if not any(label in str(error) for label in labels):
        why = str(error)
    report.notes.append(f"nothing else was looked at: {why}")
    return report


def check_view(view: View, *, watcher: Watcher | None = None, stop: Stop = nobody_stops) -> Report:
    """`check`, of what was opened."""
    report = Report("check", view.filesystem.hex(), view.mounted, view.as_of_ns, name=view.name)
    report.notes += view.notes
    for finding in view.doubts:
        report.find(finding)
    told = _Told(view, watcher, stop)
    try:
        for finding in tables(view, told):
            report.find(finding)
    except Stopped:
        report.stopped = True
    report.findings = list(named(view.reading, report.findings))
    if report.stopped:
        return report
    told.show("drives")
    try:
        for finding in places(view, report.notes, told.pulse):
            report.find(finding)
            told.pulse()
    except Stopped:
        report.stopped = True
        return report
    report.looked_at = _looked_at(view)
    return report


def _looked_at(view: View) -> str:
    """What there was, in a sentence: nothing is wrong with nothing, too."""
    reading = view.reading
    try:
        fragments = sum(len(archived.fragments) for _, archived in reading.archived_segments())
    except IntegrityError:
        fragments = 0  # told of
    counts = (
        (reading.count(Table.INODE), "inodes"),
        (reading.count(Table.DENTRY), "names"),
        (reading.count(Table.EXTENT), "extents"),
        (len(view.store.segments), "segments of the workspace"),
        (fragments, "fragments in archives"),
    )
    return "looked at: " + ", ".join(f"{count} {what}" for count, what in counts)


class _Told:
    """How far the tables are, in bytes of the pages that hold them."""

    def __init__(self, view: View, watcher: Watcher | None, stop: Stop) -> None:
        reading = view.reading
        self._watcher = watcher
        self._stop = stop
        self._row_bytes = {
            table: reading.size_bytes(table) / max(reading.count(table), 1) for table in _PHASES
        }
        # The reading order is looked up name by name.
        self._row_bytes[Table.DENTRY] += self._row_bytes.pop(Table.COOKIE)
        self._total_bytes = sum(map(reading.size_bytes, _PHASES))
        self._done_bytes = 0.0

    def __call__(self, table: Table, rows: int) -> None:
        """Raises Stopped."""
        if self._stop():
            raise Stopped()
        self._done_bytes += rows * self._row_bytes.get(table, 0)
        if table in self._row_bytes:
            self.show(_PHASES[table])

    def pulse(self) -> None:
        """Raises Stopped."""
        if self._stop():
            raise Stopped()

    def show(self, phase: str) -> None:
        if self._watcher is not None:
            done = min(int(self._done_bytes), self._total_bytes)
            self._watcher(phase, done, self._total_bytes)
