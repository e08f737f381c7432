"""How reports of the checker are shown: to people, and as JSON."""

from __future__ import annotations

import dataclasses
import json
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

from shmr.cli.show import age

if TYPE_CHECKING:
    from shmr.fsck.findings import Finding, Report

SHOWN_PER_KIND = 10
"""Findings of each kind that people are shown; `--json` has more."""


def show_report(report: Report, *, foretold: bool = False, extent: str = "") -> str:
    """What people read. `foretold`: remedies are told as what a repair would do. `extent`: of how
    much it is said that nothing is wrong."""
    lines = [_head(report), *report.notes]
    if report.looked_at:
        lines.append(report.looked_at)
    for title, findings, counts in (
        ("repaired", report.repaired, report.repaired_counts),
        ("wrong", report.findings, report.counts),
    ):
        for kind, some in groupby(sorted(findings, key=lambda f: f.kind), key=lambda f: f.kind):
            total = counts[kind]
            lines.append(f"{title}: {kind} ({total})")
            shown = (known := list(some))[:SHOWN_PER_KIND]
            lines += [line for finding in shown for line in _told(finding, title, foretold)]
            if total > len(shown):
                kept = "all" if total == len(known) else f"the first {len(known)}"
                lines.append(f"  ... and {total - len(shown)} more: `--json` has {kept}")
    lines.append(_verdict(report, extent))
    if report.next_step:
        lines.append(report.next_step)
    return "\n".join(lines)


def report_json(report: Report) -> str:
    """The report with the names of its fields; `exit_code` is what the command ends with."""
    return json.dumps(as_plain(report), indent=2)


def as_plain(report: Report) -> dict[str, Any]:
    """What `report_json` has, for who adds to it."""
    return {
        "job": report.job,
        "filesystem": report.filesystem,
        "name": report.name,
        "mounted": report.mounted,
        "as_of_ns": report.as_of_ns,
        "exit_code": int(report.exit_code),
        "stopped": report.stopped,
        "notes": report.notes,
        "looked_at": report.looked_at,
        "next_step": report.next_step,
        "counts": {str(kind): count for kind, count in sorted(report.counts.items())},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
        "repaired_counts": {str(k): count for k, count in sorted(report.repaired_counts.items())},
        "repaired": [dataclasses.asdict(finding) for finding in report.repaired],
    }


def _head(report: Report) -> str:
    name = report.name or report.filesystem
    if not report.mounted:
        return f"filesystem {name}, not mounted"
    as_of = ""
    if report.as_of_ns is not None:
        as_of = f": as of its last checkpoint, {age(time.time_ns() - report.as_of_ns)} ago"
    return f"filesystem {name}, mounted{as_of}; nothing is changed"


def _told(finding: Finding, title: str, foretold: bool) -> list[str]:
    if title != "repaired" and finding.remedy is None and finding.where.inode is not None:
        return [f"  lost: {finding.message}"]
    lines = [f"  {finding.message}"]
    if title != "repaired" and foretold:
        lines.append(f"    would {finding.remedy}")
    return lines


def _verdict(report: Report, extent: str) -> str:
    left, lost = sum(report.counts.values()), sum(f.is_loss for f in report.findings)
    mended = sum(report.repaired_counts.values())
    told = [f"{mended} repaired"] if mended else []
    if left:
        told.append(f"{left} wrong" + (f", of which {lost} cannot be repaired" if lost else ""))
    if report.stopped:
        told.append("stopped before its end; run it again")
    told = [extent] * bool(extent) + (told or ["nothing is wrong"])
    return f"{report.job}: {'; '.join(told)}"
