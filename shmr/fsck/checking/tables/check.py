"""The tables one after the other. See the package for what is where."""

from __future__ import annotations

from collections.abc import Iterator

from shmr.fsck.checking.tables.census import Census
from shmr.fsck.checking.tables.flaw import Flaw
from shmr.fsck.checking.tables.inodes import Inodes
from shmr.fsck.checking.tables.names import Names
from shmr.fsck.checking.tables.reach import circles, counts
from shmr.fsck.checking.tables.states import archived, numbers, states, usage
from shmr.fsck.checking.tables.walk import Told, Walk, untold
from shmr.fsck.findings import Finding
from shmr.fsck.opening import View


def tables(view: View, told: Told = untold) -> Iterator[Finding]:
    """Everything that is wrong in the catalog by itself. No drive is touched."""
    for flaw in flaws(view, told):
        yield flaw.finding


def flaws(view: View, told: Told = untold) -> Iterator[Flaw]:
    """The same, with what would mend it.

    The catalog must not change meanwhile. Each of `Mend` is for the catalog as it is: after some
    were made, look again.
    """
    walk = Walk(view.reading, told, rebuilt=view.rebuilt)
    census = Census()
    used = archived(walk)
    yield from walk.taken()
    yield from states(walk, view.store, changing=view.mounted)
    inodes = Inodes(walk, census, used)
    yield from inodes.check()
    yield from Names(walk, census).check()
    yield from counts(census)
    yield from circles(census, view.reading)
    yield from usage(walk, inodes.live)
    highest = max((*used, *inodes.live), default=0)
    yield from numbers(walk, census, highest, view.store)
