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

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from shmr.catalog import examine
from shmr.catalog import store as catalog_store
from shmr.catalog.reading import Reading, open_reading, open_readings
from shmr.config import Config
from shmr.errors import IntegrityError, SetupError
from shmr.format.frame import Kind as FrameKind
from shmr.format.rows import Place
from shmr.fsck.findings import Finding, Kind
from shmr.log.fragments import FragmentStore
from shmr.log.replay import Journal
from shmr.log.store import SegmentStore
from shmr.service.assemble import Drives, InUse, kernel_time_ns, open_drives
from shmr.service.last_seen import last_seen
from shmr.service.offline import refuse_untouched
from shmr.volume.membership import ArchivePool, Membership, identify
from shmr.volume.recover import recover
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

REBUILD = "rebuild the catalog from the log"
ANEW = "begin the log anew with what the catalog has"


@dataclass(frozen=True, slots=True)
class View:
    """What there is to be checked.

    `filesystem` is the id, `name` what people call it. `reading` is the catalog: its rows may be
    damaged, its checksums hold unless `mounted`. `store` has been scanned and is not written to:
    `store.segments` are the workspace segments, `store.drives[i].label` the path of a drive.
    `fragments.drives` are the archive drives that are there by id, `fragments.missing` the ids of
    those that are not; `archives` the archive pools of which a drive is there, as the superblocks
    of the highest generation have them.

    `rebuilt`: the catalog was made from the log just now, and nothing knows better. `as_of_ns` is
    when the checkpoint was made, if it is not the present (nanoseconds since 1970).
    `doubts` is what opening found, of the catalog's file and the log; `notes` are sentences for
    people. `places` says of drives that are missing where they were, and why they cannot be used.
    `fresh` opens the newest checkpoint of a mounted filesystem; None when it is not mounted, and
    nothing changes.
    """

    filesystem: bytes
    name: str
    reading: Reading
    store: SegmentStore
    fragments: FragmentStore
    archives: tuple[ArchivePool, ...] = ()
    rebuilt: bool = False
    as_of_ns: int | None = None
    doubts: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    fresh: Callable[[], AbstractContextManager[Reading]] | None = None
    places: Mapping[bytes, str] = field(default_factory=dict)

    @property
    def mounted(self) -> bool:
        return self.fresh is not None


def view_of(volume: Volume, name: str = "", archives: tuple[ArchivePool, ...] = ()) -> View:
    """The view of an open volume: good until it changes."""
    store, fragments = volume.context.reader.store, volume.context.fragments
    return View(store.filesystem, name, volume.catalog.reading(), store, fragments, archives)


@contextmanager
def opened(config: Config) -> Iterator[View]:
    """Look at the filesystem of `config`, mounted or not.

    Raises SetupError with what to do, DriveError, and IntegrityError where the catalog of a mounted
    filesystem cannot be read at all.
    """
    with ExitStack() as stack:
        try:
            drives, in_use = open_drives(config, degraded=True, quiet=True), False
        except InUse:
            drives = open_drives(config, degraded=True, lock=False, quiet=True)
            in_use = True
        stack.callback(drives.close)
        refuse_untouched(drives)
        membership = _identify(config, drives)
        store = SegmentStore(
            membership.filesystem,
            membership.workspace,
            min(config.workspace.scheme.copies, len(membership.workspace)),
            0,
            kernel_time_ns,
        )
        stack.callback(store.close)
        store.scan()
        fragments = FragmentStore(
            membership.filesystem, membership.archive, membership.archive_missing
        )
        for drive in fragments.drives:
            stack.callback(fragments.close, drive)
        path = Path(config.catalog)
        places = dict(_places(config, drives, membership))
        fresh = stack.enter_context(open_readings(path)) if in_use else None
        seen = _Seen(stack, store, path)
        reading = stack.enter_context(fresh()) if fresh is not None else seen.reading()
        yield View(
            membership.filesystem,
            config.filesystem,
            reading,
            store,
            fragments,
            tuple(membership.archives.values()),
            rebuilt=seen.rebuilt,
            as_of_ns=reading.written_ns if in_use else None,
            doubts=tuple(seen.doubts),
            notes=(*_missing(drives, membership, places), *seen.notes),
            fresh=fresh,
            places={one: told for one, (_, told) in places.items()},
        )


def _identify(config: Config, drives: Drives) -> Membership:
    return identify(
        config.filesystem,
        drives.pools,
        catalog_exists=catalog_store.exists(Path(config.catalog)),
        degraded=True,
        read_only=True,
        may_create=False,
        random_bytes=os.urandom,
        clock=time.time_ns,
    )


def _places(
    config: Config, drives: Drives, membership: Membership
) -> Iterator[tuple[bytes, tuple[str, str]]]:
    """Of drives that are missing, by their ids: the path where each was, and that with why."""
    seen = last_seen(Path(config.catalog))
    mine = {str(entry.path) for entry in config.workspace.drives}
    gone = [path for path in drives.absent if path in mine]
    for one in membership.archive_missing:
        path = seen.get(one)
        if path in drives.absent:
            yield one, (path, f"{path}: {drives.why[path]}")
        elif path is not None:
            yield one, (path, f"last at {path}")
    if len(gone) == len(membership.missing) == 1:
        yield bytes.fromhex(membership.missing[0]), (gone[0], f"{gone[0]}: {drives.why[gone[0]]}")


def _missing(
    drives: Drives, membership: Membership, places: Mapping[bytes, tuple[str, str]]
) -> list[str]:
    """What is not there and so was not looked at, in sentences. Of drives that are known by their
    ids findings tell."""
    told = {path for path, _ in places.values()}
    ids = [one.hex() for one in membership.archive_missing]
    absent = [f"drive {path} is missing: {drives.why[path]}" for path in drives.absent]
    absent = [line for path, line in zip(drives.absent, absent, strict=True) if path not in told]
    return [*absent, *(w for w in membership.warnings if not any(one in w for one in ids))]


@dataclass(slots=True)
class _Seen:
    """The catalog of a filesystem that nobody else has open, and what is to be told of it.

    The file is read as it is if it is whole and holds all that the log does. Else recovery makes
    one that is thrown away: the next mount would come to the same.
    """

    stack: ExitStack
    store: SegmentStore
    path: Path
    doubts: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rebuilt: bool = False

    def reading(self) -> Reading:
        """Raises SetupError, DriveError."""
        scratch = TemporaryDirectory(prefix="shmr-check-", ignore_cleanup_errors=True)
        self.stack.callback(scratch.cleanup)
        whole = self._whole(Path(scratch.name, "examined"))
        clean, place = whole == self.path, None
        if whole is not None:
            with open_reading(whole, live=False) as reading:
                place = reading.place()
        journal = Journal(self.store)
        if whole is not None and place is not None and _ends(journal, place):
            return self.stack.enter_context(open_reading(whole, live=False))
        if whole is None:
            whole = Path(scratch.name, "rebuilt")
        elif whole == self.path:
            copied = catalog_store.private_copy(whole)
            self.stack.callback(copied.cleanup)
            whole = Path(copied.name, whole.name)
        recovered = recover(self.store, whole, read_only=True)
        self.stack.callback(recovered.catalog.close)
        if recovered.place is None:
            raise SetupError("nothing was ever stored in this filesystem: mount it, and fill it")
        # It is thrown away: committing it bounds the memory that it takes.
        recovered.catalog.checkpoint(self.store.filesystem, recovered.place, self.store.next_number)
        self.rebuilt = place is None or not journal.has(place)
        if place is not None and recovered.corrupt is None:
            if journal.has(place):
                self.notes.append("the last end was no clean one: seen is what a mount comes to")
            else:
                self._doubt(f"the catalog at {self.path} is older than the log")
        if recovered.corrupt is not None:
            # What a clean end left has all that ever was in the log.
            known = clean and place == recovered.place
            self.doubts.append(
                Finding(Kind.LOG_CORRUPT, recovered.corrupt, remedy=ANEW if known else None)
            )
            if not known:
                self.notes.append(
                    "what the log has behind the missing frames can be given up, to go on from "
                    "there: shmr-fsck repair --cut-log"
                )
        self.notes += recovered.report
        return recovered.catalog.reading()

    def _whole(self, copy: Path) -> Path | None:
        """Where a catalog is whose rows all verify: the file itself, or its compacted copy."""
        path = self.path
        if not catalog_store.exists(path):
            self._doubt(f"there is no catalog at {path}")
            return None
        found = path
        if not catalog_store.digest_holds(path):
            if not examine.look(path, copy):
                self._doubt(f"the catalog at {path} is damaged")
                return None
            if catalog_store.exists(copy):
                # Recovery need not examine it again.
                catalog_store.leave_digest(copy)
                found = copy
        try:
            with open_reading(found, live=False) as reading:
                filesystem = reading.filesystem()
        except IntegrityError as error:
            self._doubt(str(error))
            return None
        if filesystem != self.store.filesystem:
            self._doubt(f"the catalog at {path} is of another filesystem")
            return None
        return found

    def _doubt(self, message: str) -> None:
        self.doubts.append(Finding(Kind.CATALOG_DOUBTFUL, message, remedy=REBUILD))


def _ends(journal: Journal, place: Place) -> bool:
    """Is the end of the journal there, so that a catalog of this place holds all that it says?"""
    if not journal.has(place):
        return False
    for entry in journal.entries(place):
        # A clean end leaves one more COMMIT behind the checkpoint, without anything in it.
        if entry.header.kind == FrameKind.META:
            return False
        place = entry.place
    return journal.claimed_durable(place) is None
