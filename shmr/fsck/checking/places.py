"""The catalog against what lies on the drives, by metadata alone.

    segments      the data segments of the workspace: the frame that each extent names
    journal       snapshot and journal up to the checkpoint
    archive       the fragments that rows name, what no row names, drives that are missing
    kept          copies of snapshots on archive drives
    superblocks   who the drives say they are

Headers, footers, lengths and names are read; no byte of a file is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from shmr.errors import IntegrityError
from shmr.fsck.checking.archive import Fragments
from shmr.fsck.checking.journal import journal_findings
from shmr.fsck.checking.kept import kept_findings
from shmr.fsck.checking.segments import DataSegments, rescanned
from shmr.fsck.checking.superblocks import superblock_findings
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.naming import named
from shmr.fsck.opening import View


def places(
    view: View, notes: list[str] | None = None, pulse: Callable[[], None] = lambda: None
) -> Iterator[Finding]:
    """What is wrong; what is no finding but worth a sentence is added to `notes`.

    `pulse` is called now and then, and may raise what ends it.
    Rows that are damaged end the part that needs them: what is wrong with those the tables tell.
    Raises DriveError where a drive of the workspace cannot be listed.
    """
    notes = [] if notes is None else notes
    # Whoever has the volume open may not know yet what is gone from the drives.
    view = replace(view, store=rescanned(view.store))
    segments, fragments = DataSegments(view, pulse), Fragments(view, pulse)
    parts = (
        superblock_findings(view),
        journal_findings(view),
        segments.findings(),
        fragments.findings(),
        kept_findings(view, notes),
    )
    for part in parts:
        try:
            yield from part
        except IntegrityError as error:
            yield Finding(Kind.CATALOG_DOUBTFUL, str(error), remedy="rebuild the catalog")
    notes += fragments.notes
    yield from named(view.reading, [*segments.lost, *fragments.lost])
