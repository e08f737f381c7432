"""Fragments that are damaged, missing or not what they should be, written anew from their siblings.

What is closest to loss comes first. Each goes to another drive of its pool, as `redistribute` finds
one, or stays on its own where no other can take it: under a higher generation, so that what was
there is a stray. Those on drives that are missing are for `rebuild-drive`.

May be stopped or killed anywhere: what was switched is settled by the next run, what was not is
found again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from shmr.archive.control import Control
from shmr.archive.keep import snapshot_zones
from shmr.archive.pool import Pool
from shmr.archive.redistribute import plan_mending
from shmr.archive.rehouse import Rehousing
from shmr.archive.shift import Shift
from shmr.format.archived import Archived
from shmr.fsck.checking.archive import Fragments
from shmr.fsck.findings import KEPT_PER_KIND, Finding, Kind
from shmr.fsck.mending.mender import Mender
from shmr.fsck.opening import view_of
from shmr.volume.cleaner import Work
from shmr.volume.damage import DamagedFragment, damaged_in
from shmr.volume.volume import Volume

KINDS = frozenset(
    {
        Kind.FRAGMENT_MISSING,
        Kind.FRAGMENT_LENGTH,
        Kind.FRAGMENT_FOREIGN,
        Kind.FRAGMENT_HEADER,
        Kind.FRAGMENT_FOOTER,
        Kind.FRAGMENT_TABLE,
        Kind.FRAGMENT_UNREADABLE,
        Kind.UNIT_DAMAGED,
        Kind.STRAY,
    }
)
"""What is mended here."""


def mend(
    volume: Volume, pools: Sequence[Pool], findings: Sequence[Finding], control: Control
) -> Work[list[str]]:
    """Write anew what these findings tell of, and discard strays; sentences about what was left.

    Raises Stopped, NoPlace, NoSpace, DriveError, IntegrityError; what was done before stays.
    """
    found = [finding for finding in findings if finding.kind in KINDS and not finding.is_loss]
    if not found:
        return []
    shift = Shift(volume, pools, control=control)
    # Strays go, and what an earlier run switched is settled.
    yield from shift.recover()
    wanted = _wanted(volume, found)
    notes: list[str] = []
    rehousing = Rehousing(shift, control)
    for pool in pools:
        yield from _in_pool(volume, pool, wanted, rehousing, control, notes)
    rows = [one.row(0) for one in damaged_in(volume.catalog) if not _is_meant(volume, one)]
    if rows:
        volume.context.apply(rows)
        volume.commits.now()
    notes += map(str, rehousing.lost)
    notes += (f"nothing was written to it: {why}" for why in rehousing.failed.values())
    return notes


def _wanted(volume: Volume, found: Sequence[Finding]) -> set[tuple[int, int]]:
    """Segment and index of the fragments to be written anew."""
    wanted = set()
    for finding in found:
        where = finding.where
        if finding.kind is Kind.STRAY or where.segment is None or where.fragment is None:
            continue
        wanted.add((where.segment, where.fragment))
    if len(found) >= KEPT_PER_KIND:
        # A report keeps no more of a kind: the others are looked for.
        wanted.update(Fragments(view_of(volume)).damaged())
    return wanted


def _in_pool(
    volume: Volume,
    pool: Pool,
    wanted: Collection[tuple[int, int]],
    rehousing: Rehousing,
    control: Control,
    notes: list[str],
) -> Work[None]:
    """Those of one pool."""
    fragments = volume.context.fragments
    rows: dict[int, Archived] = {}
    for number in {number for number, _ in wanted}:
        archived = volume.catalog.archived(number)
        if archived is not None and archived.pool == pool.id:
            rows[number] = archived
    some = {
        (number, index)
        for number, index in wanted
        if number in rows
        and index < len(rows[number].fragments)
        and rows[number].fragments[index].drive in fragments.drives
    }
    if not some:
        return

    def whole(number: int, archived: Archived, index: int) -> bool:
        return (number, index) not in some and archived.fragments[index].drive in fragments.drives

    # Beside them, the next snapshots have to find room.
    facts, _ = pool.facts(fragments, 2 * snapshot_zones(volume, pool))
    plan = plan_mending(rows, some, facts, same_device=pool.same_device, whole=whole)
    if plan.shortage is not None:
        notes.append(
            f"pool {pool.name!r}: no place for {plan.left} fragments ({plan.shortage}); add a "
            "drive with `shmr drive add`, and run it again"
        )
    control.plan(plan.size_bytes)
    yield from rehousing.run(plan.steps)


def _is_meant(volume: Volume, one: DamagedFragment) -> bool:
    """Is a fragment that is known to be damaged still the one that counts?"""
    archived = volume.catalog.archived(one.segment)
    if archived is None or one.fragment >= len(archived.fragments):
        return False
    return archived.fragments[one.fragment] == (one.drive, one.generation)


MENDERS = (Mender(KINDS, "write damaged and missing fragments anew, and discard strays", mend),)
