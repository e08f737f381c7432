"""`shmr-fsck scrub`: every byte of every drive read and verified, and what can be mended, mended.

Each drive is read in the order in which its files lie there, all drives side by side. While this
reads nothing is changed, on no drive. Unmounted, what is damaged and something knows better of is
written anew when the reading has ended; mounted, it is told of alone. Where a run stopped, or was
killed, the next goes on.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from shmr.archive.control import Control, Phase
from shmr.codec.allocator import keep_freed_memory
from shmr.config import Config, load
from shmr.drive.holder import holder_of
from shmr.errors import SetupError, ShmrError
from shmr.fsck.findings import Report
from shmr.fsck.mending import identity
from shmr.fsck.opening import opened
from shmr.fsck.scrubbing import note as notes
from shmr.fsck.scrubbing.inventory import WORKSPACE, Absent, Holding, holdings
from shmr.fsck.scrubbing.lanes import Terms
from shmr.fsck.scrubbing.mending import MENDERS, Mending
from shmr.fsck.scrubbing.note import Note
from shmr.fsck.scrubbing.rounds import Coverage, Scrub
from shmr.service.assemble import open_drives, patience_of
from shmr.service.following import Stop, Watcher, nobody_stops, pace
from shmr.service.offline import unmounted

_ID_MIN = 4
"""So many digits of an id are enough to name a drive."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What a scrub came to: what is wrong, and what was read of each drive."""

    report: Report
    coverage: tuple[Coverage, ...]


def scrub(
    config_path: str | os.PathLike[str],
    *,
    pool: str | None = None,
    drive: str | None = None,
    since_s: int | None = None,
    limit_rate: int | None = None,
    repair: bool = True,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Scrubbed:
    """Read all drives of the filesystem, or those of a `pool`, or one `drive` (path or id).

    `since_s` (seconds since 1970): only what was not verified then or later; None: what is left of
    the round under way, or the next round. `limit_rate` is in bytes per second, of all drives
    together. With `repair`, and where it is not mounted, what is damaged is mended.

    Raises SetupError with what to do, DriveError, IntegrityError.
    """
    keep_freed_memory()
    config = load(config_path)
    catalog = Path(config.catalog)
    report = Report("scrub", config.filesystem)
    terms = Terms(stop, _shared(pace(limit_rate, stop)), patience_of(config), mounted=False)
    with _alone(catalog):
        nameless = identity.nameless(config)
        scrubbing, view_mounted = _read(
            config, report, terms, (pool, drive), since_s=since_s, watcher=watcher
        )
        if not _worth_mending(report, scrubbing):
            coverage = scrubbing.finish()
        elif view_mounted or not repair:
            report.notes.append(_advice(config, mounted=view_mounted))
            coverage = scrubbing.finish()
        else:
            coverage = _mended(config, report, scrubbing, _control(watcher, stop, limit_rate))
    if nameless:
        identity.tell(report, nameless)
        first = "unmount it (`shmr umount`), then " if report.mounted else ""
        report.next_step = f"next: {first}`shmr-fsck repair {config.path}`, and scrub again"
    names = {WORKSPACE: config.workspace.name}
    return Scrubbed(report, tuple(replace(c, pool=names.get(c.pool, c.pool)) for c in coverage))


def _read(
    config: Config,
    report: Report,
    terms: Terms,
    scope: tuple[str | None, str | None],
    *,
    since_s: int | None,
    watcher: Watcher | None,
) -> tuple[Scrub, bool]:
    """Everything in the scope is read and judged. And: is it mounted?"""
    path = notes.note_of(Path(config.catalog))
    with opened(config) as view:
        note, doubt = notes.read(path, view.filesystem.hex())
        if doubt is not None:
            report.notes.append(f"{doubt}: what was verified before is not known, all is read")
        found = _in_scope(config, note, *holdings(view), *scope)
        report.mounted, report.as_of_ns = view.mounted, view.as_of_ns
        report.notes += view.notes
        for one in view.doubts:
            report.find(one)
        scrubbing = Scrub(
            note,
            report,
            replace(terms, mounted=view.mounted),
            now_ns=time.time_ns,
            save=lambda kept: notes.write(path, kept),
            since_s=since_s,
            watcher=watcher,
        )
        if not view.mounted:
            scrubbing.read(*found)
            scrubbing.judge(view)
            return scrubbing, False
    # No reading of the catalog is kept open for so long: it would grow meanwhile.
    with _looking(config, found[0]):
        scrubbing.read(*found)
    with opened(config) as view:
        scrubbing.judge(view)
    return scrubbing, True


@contextmanager
def _looking(config: Config, found: Sequence[Holding]) -> Iterator[None]:
    """The drives of these, opened again, without locks."""
    drives = open_drives(config, degraded=True, lock=False)
    try:
        there = {drive.label: drive for drive in drives.all()}
        for holding in found:
            holding.drive = there.get(holding.label, holding.drive)
        yield
    finally:
        drives.close()


def _in_scope(
    config: Config,
    note: Note,
    found: Sequence[Holding],
    absent: Sequence[Absent],
    pool: str | None,
    drive: str | None,
) -> tuple[list[Holding], list[Absent]]:
    """Those that are asked for. Raises SetupError where none is called so."""
    held, gone = list(found), list(absent)
    if pool is not None:
        if pool not in {entry.name for entry in config.pools}:
            names = ", ".join(entry.name for entry in config.pools)
            raise SetupError(f"the config has no pool {pool!r}; its pools: {names}")
        wanted = WORKSPACE if pool == config.workspace.name else pool
        held = [one for one in held if one.pool == wanted]
        gone = [one for one in gone if one.pool == wanted]
    if drive is not None:
        path, begins = os.path.realpath(drive), drive.lower()

        def is_meant(drive_id: str, label: str) -> bool:
            return label == path or (len(begins) >= _ID_MIN and drive_id.startswith(begins))

        labels = {name: known.label for name, known in note.drives.items()}
        held = [one for one in held if is_meant(one.id.hex(), one.label)]
        gone = [one for one in gone if is_meant(one.id.hex(), labels.get(one.id.hex(), ""))]
        if not held and not gone:
            raise SetupError(
                f"{drive!r}: no drive is called so; give a path of the config or the beginning of "
                "an id (`shmr drive list` has them)"
            )
    return held, gone


def _worth_mending(report: Report, scrubbing: Scrub) -> bool:
    kinds = {kind for mender in MENDERS for kind in mender.kinds}
    found = scrubbing.findings()
    return not report.stopped and any(f.kind in kinds and not f.is_loss for f in found)


def _advice(config: Config, *, mounted: bool) -> str:
    first = "unmount it (`shmr umount`), then " if mounted else ""
    return f"what is damaged can be repaired: {first}run `shmr-fsck scrub {config.path}`"


def _mended(
    config: Config, report: Report, scrubbing: Scrub, control: Control
) -> tuple[Coverage, ...]:
    """What can be put right is; where the filesystem cannot be changed, nothing, with a note."""
    with ExitStack() as stack:
        try:
            volume, pools = stack.enter_context(unmounted(config, read_only=False))
        except ShmrError as error:
            report.notes.append(f"nothing could be repaired: {error}")
            return scrubbing.finish()
        mending = Mending(volume, pools, control)
        mending.run(scrubbing.findings())
        coverage = scrubbing.finish(mending.is_mended, mending.has_superblock)
        report.notes += mending.notes
        report.stopped |= mending.stopped
        return coverage


def _control(watcher: Watcher | None, stop: Stop, limit_rate: int | None) -> Control:
    """What repairing tells, and is told."""
    done = total = 0

    def plan(more_bytes: int) -> None:
        nonlocal total
        total += more_bytes

    def advance(phase: Phase, size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if watcher is not None:
            watcher(f"repairing: {phase.value}", done // 2, total)

    return Control(advance, stop, pace(limit_rate, stop), plan)


def _shared(wait: Callable[[int], None]) -> Callable[[int], None]:
    """For threads: the rate is that of all of them."""
    lock = threading.Lock()

    def shared(size_bytes: int) -> None:
        with lock:
            wait(size_bytes)

    return shared


@contextmanager
def _alone(catalog: Path) -> Iterator[None]:
    """One scrub at a time: two would each forget what the other read. Raises SetupError."""
    try:
        fd = os.open(catalog, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield  # it is lost, or not ours to read: what that means is told elsewhere
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupError(
                f"another scrub of this filesystem is running ({holder_of(str(catalog))}); wait "
                "for it, or stop it: it can be gone on with"
            ) from None
        yield
    finally:
        os.close(fd)
