"""What to do next about what was found: the last line of a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from shmr.archive.newer import ADVICE
from shmr.fsck.checking.archive import UNKNOWN
from shmr.fsck.checking.tables.flaw import KINDS
from shmr.fsck.findings import Finding, Kind, Report
from shmr.fsck.mending import copies, fragments

_REPAIRED = KINDS.union(
    (Kind.CATALOG_DOUBTFUL, Kind.LOG_CORRUPT),
    *(mender.kinds for mender in (*fragments.MENDERS, *copies.MENDERS)),
)
"""What `repair` takes up."""


def next_step(report: Report, config_path: str | os.PathLike[str]) -> str:
    """Which command, or what else, in a sentence; nothing where nothing is wrong."""
    if report.is_clean:
        return ""
    config = os.fspath(config_path)
    wanted = list(_commands(report, config))
    if not wanted:
        return _by_hand(report, config)
    first = "unmount it (`shmr umount`), then " if report.mounted else ""
    return f"next: {first}{'; then '.join(wanted)}"


def _commands(report: Report, config: str) -> Iterator[str]:
    """In the order in which they are to be run."""
    mendable = {f.kind for f in report.findings if not f.is_loss}
    if Kind.ARCHIVE_NEWER in report.counts:
        # Anything else would be done to a workspace that is not the one to go on with.
        yield ADVICE
        return
    if Kind.SUPERBLOCK_DAMAGED in mendable:
        yield f"`shmr-fsck repair {config}`, and `shmr-fsck check {config}` again"
        return
    missing = [f for f in report.findings if f.kind is Kind.DRIVE_MISSING]
    if missing:
        yield _missing(missing, config)
    if Kind.LOG_CORRUPT in report.counts and Kind.LOG_CORRUPT not in mendable:
        yield (
            f"`shmr-fsck repair --cut-log {config}`, if what the log has behind the missing frames "
            "can be given up"
        )
    elif mendable & _REPAIRED:
        yield f"`shmr-fsck repair {config}`"


def _missing(found: Iterable[Finding], config: str) -> str:
    """Connect them, or one command for each that is lost."""
    lost = []
    for finding in found:
        name = finding.where.drive
        if "drive forget" in (finding.remedy or ""):
            lost.append(f"`shmr drive forget {config} {name}`")
        elif " of the workspace " in finding.message:
            lost.append(f"`shmr-fsck rebuild-drive {config} PATH` with the path of that drive")
        else:
            lost.append(f"`shmr-fsck rebuild-drive {config} {name}`")
    return "connect what is missing; if it is lost: " + ", ".join(dict.fromkeys(lost))


def _by_hand(report: Report, config: str) -> str:
    """Where no command mends it."""
    losses = [finding for finding in report.findings if finding.is_loss]
    if losses and all(finding.kind is Kind.UNKNOWN_GENERATION for finding in losses):
        return f"next: {UNKNOWN}"
    if any(finding.where.inode is None for finding in losses):
        return "next: see what is told of each"
    if len(losses) == len(report.findings):
        return (
            "next: remove the files that are lost, or put back from elsewhere what they had "
            f"(`shmr-fsck check --json {config}` names them)"
        )
    what = dict.fromkeys(f.remedy for f in report.findings if f.remedy is not None)
    return f"next: {'; '.join(what)}"
