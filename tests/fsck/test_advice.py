"""A report ends with what to do next, and tells of a loss in one line."""

from __future__ import annotations

import pytest

from shmr.archive.newer import ADVICE
from shmr.cli.fsck.show import SHOWN_PER_KIND, show_report
from shmr.fsck.advice import next_step
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind, Report, Where

DRIVE = "ab" * 16


def report(*findings: Finding, mounted: bool = False) -> Report:
    made = Report("check", "id", mounted, name="media")
    for finding in findings:
        made.find(finding)
    made.next_step = next_step(made, "c.yaml")
    return made


def found(kind: Kind, remedy: str | None = "mend it", where: Where | None = None) -> Finding:
    return Finding(kind, "it is so", where or Where(DRIVE), remedy)


@pytest.mark.parametrize(
    "kind",
    [
        Kind.LINKS_WRONG,
        Kind.FRAGMENT_HEADER,
        Kind.COPY_MISSING,
        Kind.CATALOG_DOUBTFUL,
        Kind.SUPERBLOCK_OLD,
        Kind.STRAY,
    ],
)
def test_what_repair_mends_names_repair(kind: Kind) -> None:
    assert report(found(kind)).next_step == "next: `shmr-fsck repair c.yaml`"
    mounted = report(found(kind), mounted=True)
    assert mounted.next_step == "next: unmount it (`shmr umount`), then `shmr-fsck repair c.yaml`"


def test_a_missing_drive_comes_before_what_repair_mends() -> None:
    missing = found(Kind.DRIVE_MISSING, "with `shmr-fsck rebuild-drive CONFIG`")
    told = report(found(Kind.LINKS_WRONG), missing).next_step
    assert told.index("connect") < told.index(f"rebuild-drive c.yaml {DRIVE}")
    assert told.index("rebuild-drive") < told.index("repair c.yaml")
    # Of one that is there repair makes a drive again: nothing is missing then.
    bare = found(Kind.SUPERBLOCK_DAMAGED, where=Where("/mnt/smr3"))
    assert "rebuild-drive" not in report(bare, missing).next_step


def test_an_older_workspace_is_not_gone_on_with() -> None:
    told = report(found(Kind.ARCHIVE_NEWER), found(Kind.LINKS_WRONG)).next_step
    assert told == f"next: {ADVICE}"


def test_a_log_that_cannot_be_mended_names_what_gives_up_its_end() -> None:
    assert "`shmr-fsck repair --cut-log c.yaml`" in report(found(Kind.LOG_CORRUPT, None)).next_step


def test_nothing_wrong_needs_nothing() -> None:
    assert report().next_step == ""
    assert show_report(report()).endswith("check: nothing is wrong")


@pytest.mark.parametrize("count", [1, 180, KEPT_PER_KIND + 1])
def test_a_loss_is_one_line_and_where_all_of_them_are_is_said(count: int) -> None:
    losses = [
        Finding(Kind.FILE_LOST, f"/photo{number}: 5 bytes", Where(inode=number))
        for number in range(count)
    ]
    made = report(*losses)
    lines = show_report(made).splitlines()
    assert sum("/photo" in line for line in lines) == min(count, SHOWN_PER_KIND)
    assert all(line.startswith("  lost: ") for line in lines if "/photo" in line)
    more = [line for line in lines if " more: `--json` has " in line]
    assert len(more) == (count > SHOWN_PER_KIND)
    if more:
        assert more[0].endswith("all" if count <= KEPT_PER_KIND else f"first {KEPT_PER_KIND}")
    head, verdict, last = lines[0], lines[-2], lines[-1]
    assert verdict.startswith(f"check: {count} wrong") and last == made.next_step
    assert "`shmr-fsck check --json c.yaml`" in last and len(lines) <= SHOWN_PER_KIND + 5, head
