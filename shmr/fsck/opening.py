"""The filesystem as the checker sees it. Nothing is changed by looking, not on any drive.

    with opened(config) as view:
        view.reading        the catalog
        view.store          the workspace segments
        view.fragments      the archive drives

Mounted, it is the last checkpoint, and drives without their locks: what it refers to may be
gone a moment later, and what came since it does not know. So who misses something looks again,
with `fresh`. Unmounted, the drives are locked while this is open.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from shmr.catalog.reading import Reading
from shmr.fsck.findings import Finding
from shmr.log.fragments import FragmentStore
from shmr.log.store import SegmentStore
from shmr.volume.membership import ArchivePool
from shmr.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class View:
    """What there is to be checked.

    `filesystem` is the id, `name` what people call it. `reading` is the catalog: its rows may be
    damaged, its checksums hold unless `mounted`. `store` has been scanned and is not written to:
    `store.segments` are the workspace segments, `store.drives[i].label` the path of a drive.
    `fragments.drives` are the archive drives that are there by id, `fragments.missing` the ids of
    those that are not; `archives` the archive pools of which a drive is there, as the superblocks
    of the highest generation have them.

    `as_of_ns` is when the checkpoint was made, if it is not the present (nanoseconds since 1970).
    `doubts` is what opening found, of the catalog's file and the log; `notes` are sentences for
    people. `fresh` opens the newest checkpoint of a mounted filesystem; None when it is not
    mounted, and nothing changes.
    """

    filesystem: bytes
    name: str
    reading: Reading
    store: SegmentStore
    fragments: FragmentStore
    archives: tuple[ArchivePool, ...] = ()
    as_of_ns: int | None = None
    doubts: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    fresh: Callable[[], AbstractContextManager[Reading]] | None = None

    @property
    def mounted(self) -> bool:
        return self.fresh is not None


def view_of(volume: Volume, name: str = "", archives: tuple[ArchivePool, ...] = ()) -> View:
    """The view of an open volume: good until it changes."""
    store, fragments = volume.context.reader.store, volume.context.fragments
    return View(store.filesystem, name, volume.catalog.reading(), store, fragments, archives)
