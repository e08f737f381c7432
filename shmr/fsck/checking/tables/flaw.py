"""Something wrong in the catalog, and the rows that would mend it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from shmr.format.rows import Row
from shmr.fsck.findings import Finding, Kind, Where


@dataclass(frozen=True, slots=True)
class Mend:
    """What makes it good, of a catalog that was rebuilt from its log and is no better.

    `rows` are the new rows; where one of them ends a name, its directory counts one less.
    `fields` are new values of the inode `inode`, by their names. `adopt`: the inode gets a name in
    lost+found; `remake`: its row is made of what else there is of it; `retile`: its extents are
    cut so that none overlaps.
    """

    rows: tuple[Row, ...] = ()
    inode: int = 0
    fields: tuple[tuple[str, int], ...] = ()
    adopt: bool = False
    remake: bool = False
    retile: bool = False


@dataclass(frozen=True, slots=True)
class Flaw:
    """A finding of the catalog. Without a `mend` only the log may know better."""

    finding: Finding
    mend: Mend | None = None


REBUILD = "rebuild the catalog from the log"
_OR = REBUILD + ", or "
_EVERY = list(Kind)
KINDS = frozenset(_EVERY[_EVERY.index(Kind.ROW_UNREADABLE) : _EVERY.index(Kind.STATE_WRONG) + 1])
"""What the tables are looked at for: one section of the kinds."""


def flaw(kind: Kind, inode: int | None, message: str, remedy: str, mend: Mend) -> Flaw:
    """One that rows can mend. `inode` is whose it is; `remedy` says what the mend comes to."""
    where = Where(inode=inode)
    return Flaw(Finding(kind, message, where, _OR + remedy), mend)


def doubt(kind: Kind, message: str, where: Where, *, rebuilt: bool) -> Flaw:
    """One that only the log may know better: in a catalog just `rebuilt` from it, a loss."""
    return Flaw(Finding(kind, message, where, None if rebuilt else REBUILD))


def decided(finding: Finding, *, from_log: bool) -> Finding:
    """The finding with the one of its remedies that is going to be taken.

    Where the log knows no better, what only it could know is lost.
    """
    if finding.kind not in KINDS or finding.remedy is None:
        return finding
    if from_log:
        return replace(finding, remedy=REBUILD)
    rest = finding.remedy.removeprefix(_OR)
    return replace(finding, remedy=None if rest == REBUILD else rest)
