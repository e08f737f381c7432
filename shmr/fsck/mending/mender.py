"""A part of a repair: which findings it is for, and what it does about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from shmr.archive.control import Control
from shmr.archive.pool import Pool
from shmr.fsck.findings import Finding, Kind
from shmr.volume.cleaner import Work
from shmr.volume.volume import Volume

Mending = Callable[[Volume, Sequence[Pool], Sequence[Finding], Control], Work[list[str]]]
"""Jobs on an open volume, with the findings of the mender's kinds that have a remedy, the first
thousand of each kind. Ends with sentences for people, of what could not be done. What it raises of
ours (`ShmrError`) is told, and the next mender goes on; Stopped ends the repair."""


class Mender(NamedTuple):
    """`does` is a sentence in the infinitive without a full stop ("write fragments anew")."""

    kinds: frozenset[Kind]
    does: str
    mend: Mending
