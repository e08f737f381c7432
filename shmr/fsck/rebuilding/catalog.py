"""The catalog made anew: from the log, or, where the workspace is gone, from the archive drives.

With a workspace the catalog is a cache, and the log has all that it has. First it is made aside, to
see that the log suffices; only then is the old one set aside, which is kept, and the log recovered
as a mount does. Ended cleanly, the next mount finds a whole one.

Without one, empty directories stand at the paths that the config has. What archive drives tell
(`salvage`) becomes the beginning of a log on a new workspace (`new_workspace`), under the same
filesystem id. No archive drive is written to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from shmr.catalog import store as catalog_store
from shmr.catalog.reading import open_reading
from shmr.config import Config, load
from shmr.core.shown import shown
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.superblock import Superblock
from shmr.fsck.checking.tables.check import tables
from shmr.fsck.findings import Finding, Kind, Report, Where
from shmr.fsck.opening import View, view_of
from shmr.fsck.rebuilding.new_workspace import Layout, NewWorkspace, Stage, stage_of
from shmr.fsck.salvaging.salvage import Salvaged, salvage
from shmr.fsck.salvaging.sources import Source
from shmr.log.fragments import FragmentStore
from shmr.log.store import SegmentStore
from shmr.service.assemble import Drives, kernel_time_ns, open_drives, open_filesystem
from shmr.service.following import Stop, Terms, Watcher, nobody_stops
from shmr.service.offline import refuse_untouched
from shmr.units import format_size
from shmr.volume.membership import FIRST_SUPERBLOCK, identify, read_superblock


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it, or with `dry_run` what would.

    `source` is what the rows are from, as `sources.Source` has it; empty where a run that was cut
    off only had to be completed. `snapshot_ns` is when that snapshot was made: what came
    later is missing. `inodes` are those of the new catalog; the other numbers are those of
    `salvage.Salvaged`. `aside` is where the old catalog is kept.
    """

    report: Report
    dry_run: bool
    source: str = ""
    snapshot_ns: int | None = None
    inodes: int = 0
    found_inodes: int = 0
    found_bytes: int = 0
    filled_bytes: int = 0
    unused_bytes: int = 0
    gone_inodes: int = 0
    gone_bytes: int = 0
    strays: int = 0
    rows_refused: int = 0
    aside: str | None = None


def rebuild_catalog(
    config_path: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    missing_are_lost: bool = False,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rebuilt:
    """Make the catalog of the filesystem that the configuration describes anew.

    `missing_are_lost`: without a workspace, go on although the newest snapshot may be on drives
    that are not there. What only they know is left alone when they come back, and told of.

    Raises SetupError with what to do (it is mounted, nothing is found, ...), DriveError, NoSpace,
    IntegrityError, KeyboardInterrupt (somebody wants it to `stop`). Nothing that was there is lost
    then; run again it goes on, or begins again.
    """
    config, terms = load(config_path), Terms(watcher, stop, dry_run=dry_run)
    drives = open_drives(config, degraded=False)
    report = Report("rebuild-catalog", config.filesystem)
    report.notes += [f"drive {path} is missing and was not looked at" for path in drives.absent]
    try:
        stage = stage_of(drives.pools[0].drives, _beside(config.catalog))
        with TemporaryDirectory(prefix="shmr-rebuild-", ignore_cleanup_errors=True) as scratch:
            into = Path(scratch, "catalog")
            if stage is Stage.THERE:
                return _from_workspace(config, drives, into, report, terms)
            return _without_workspace(
                config, drives, stage, into, report, terms, missing_are_lost=missing_are_lost
            )
    finally:
        drives.close()


# -- with a workspace -----------------------------------------------------------------------------


def _from_workspace(
    config: Config, drives: Drives, into: Path, report: Report, terms: Terms
) -> Rebuilt:
    refuse_untouched(drives)
    path = Path(config.catalog)
    membership = identify(
        config.filesystem,
        drives.pools,
        catalog_exists=catalog_store.exists(path),
        degraded=False,
        read_only=True,
        may_create=False,
        random_bytes=os.urandom,
        clock=time.time_ns,
    )
    salvaged = salvage(
        membership.filesystem,
        membership.workspace,
        membership.archive,
        into,
        watcher=terms.watcher,
        stop=terms.stop,
    )
    if salvaged.source is not Source.JOURNAL or salvaged.corrupt is not None:
        why = salvaged.corrupt or "; ".join(salvaged.notes)
        raise SetupError(
            f"the log does not give the whole catalog ({why}), and the old one was left as it is: "
            "mount with it, read-only if need be, and copy your files out. To go back to the last "
            "snapshot on the archive drives, empty the directories of the workspace first"
        )
    _refuse_older(path, salvaged)
    finding = Finding(
        Kind.CATALOG_REBUILT,
        f"the catalog at {path} is made anew from the log",
        remedy=f"set aside the catalog at {path} and make it anew from the log",
    )
    if terms.dry_run:
        report.find(finding)
        return _rebuilt(report, salvaged, dry_run=True)
    aside = catalog_store.set_aside(path)
    volume = open_filesystem(config, drives, read_only=False, degraded=False)
    try:
        if volume.read_only is not None:
            raise SetupError(f"the new catalog is read-only: {volume.read_only}")
        view = view_of(volume, config.filesystem, tuple(membership.archives.values()))
        for found in tables(view):
            report.find(found)
    except BaseException:
        volume.abandon()
        raise
    if not volume.close():
        raise SetupError(f"the new catalog could not be ended cleanly: {volume.read_only}")
    report.mend(finding)
    return _rebuilt(report, salvaged, aside=aside)


def _refuse_older(path: Path, salvaged: Salvaged) -> None:
    """Raises SetupError where the catalog that is there has more than the log gives.

    What the log lacks was durable then: it looks as if it was cut off by a crash.
    """
    try:
        with open_reading(path, live=False) as reading:
            place = reading.place()
    except (SetupError, IntegrityError):
        return  # it cannot even say where it stands
    if place.sequence > salvaged.place.sequence:
        raise SetupError(
            f"the log ends at frame {salvaged.place.sequence}, and the catalog at {path} has what "
            f"came later, up to frame {place.sequence}: the log has lost it, and the catalog was "
            "left as it is; `shmr-fsck repair` goes on from the catalog. If that is the damaged "
            "one, move it elsewhere, and run this again"
        )


# -- without one ----------------------------------------------------------------------------------


def _without_workspace(
    config: Config,
    drives: Drives,
    stage: Stage,
    into: Path,
    report: Report,
    terms: Terms,
    *,
    missing_are_lost: bool,
) -> Rebuilt:
    blocks, archive = _archive(config, drives, report)
    first = next(iter(blocks.values()))
    workspace, path = drives.pools[0].drives, Path(config.catalog)
    if stage is Stage.EMPTY:
        _refuse_strangers(drives, path)
    layout = Layout(
        first.filesystem,
        first.filesystem_name,
        config.workspace.name.encode(),
        config.workspace.scheme.copies,
        config.workspace.segment_size_bytes,
    )
    made = NewWorkspace(layout, workspace, clock=kernel_time_ns, random_bytes=os.urandom)
    finding = Finding(
        Kind.WORKSPACE_GONE,
        f"the workspace of {config.filesystem!r} is gone, and a new one takes its place",
        remedy="make a new workspace from what archive drives tell",
    )
    if stage is Stage.PROVED:
        # All was written and read back; only superblocks are missing.
        if not terms.dry_run:
            made.finish()
            report.mend(finding)
        else:
            report.find(finding)
        return Rebuilt(report, terms.dry_run)
    if not missing_are_lost:
        _refuse_too_few(config, blocks, archive)
    salvaged = salvage(first.filesystem, (), archive, into, watcher=terms.watcher, stop=terms.stop)
    if terms.dry_run:
        report.find(finding)
        return _rebuilt(report, salvaged, dry_run=True)
    aside = catalog_store.set_aside(path)
    made.make(salvaged, path)
    report.mend(finding)
    for found in _wrong(layout, workspace, archive, path):
        report.find(found)
    if not report.is_clean:
        report.notes.append("what can be put right, `shmr-fsck repair CONFIG` does")
    return _rebuilt(report, salvaged, aside=aside)


def _archive(
    config: Config, drives: Drives, report: Report
) -> tuple[Mapping[bytes, Superblock], Mapping[bytes, Drive]]:
    """The archive drives that are there, and their superblocks, by id. Raises SetupError."""
    blocks: dict[bytes, Superblock] = {}
    archive: dict[bytes, Drive] = {}
    for pool in drives.pools[1:]:
        for drive in pool.drives:
            try:
                block = read_superblock(drive)
            except (SetupError, DriveError) as error:
                report.notes.append(f"drive {drive.label} was not looked at: {error}")
                continue
            if block is None:
                report.notes.append(
                    f"drive {drive.label} was not looked at: no superblock is on it"
                )
                continue
            _refuse_others(config, pool.name, drive, block, blocks, archive)
            blocks[block.drive], archive[block.drive] = block, drive
    if not blocks:
        raise SetupError(
            "there is nothing on the workspace drives, and no archive drive of a filesystem is "
            "there; connect the drives, or make a filesystem with `shmr create CONFIG`"
        )
    newest: dict[bytes, Superblock] = {}
    for block in blocks.values():
        known = newest.setdefault(block.pool, block)
        if block.generation > known.generation:
            newest[block.pool] = block
    for drive_id, block in blocks.items():
        if drive_id not in newest[block.pool].members:
            label = archive.pop(drive_id).label
            report.notes.append(f"drive {label} was removed from its pool; it was not looked at")
    return blocks, archive


def _refuse_too_few(
    config: Config, blocks: Mapping[bytes, Superblock], archive: Mapping[bytes, Drive]
) -> None:
    """Raises SetupError where the newest snapshot may be on drives that are not there.

    It is on m+1 drives of each pool that a shift changed. Without it names are lost, and what it
    alone leads to is discarded from those drives as soon as they are there again.
    """
    for pool in config.pools[1:]:
        there = [block for block in blocks.values() if block.pool_name == pool.name.encode()]
        newest = max(there, key=lambda block: block.generation, default=None)
        if newest is None:
            missing = len(pool.drives)
        else:
            missing = sum(one not in archive for one in newest.members)
        if missing > pool.scheme.m:
            raise SetupError(
                f"{missing} drives of pool {pool.name!r} are missing or cannot be read, and the "
                "newest snapshot may be on them alone: connect them first. If they are lost for "
                "good, say so with --missing-are-lost: what is on them counts no more then, also "
                "when they come back"
            )


def _refuse_others(
    config: Config,
    pool: str,
    drive: Drive,
    block: Superblock,
    blocks: Mapping[bytes, Superblock],
    archive: Mapping[bytes, Drive],
) -> None:
    """Raises SetupError unless this drive belongs where the configuration has it."""
    name = block.filesystem_name.decode(errors="replace")
    if blocks:
        other, first = next(iter(blocks.items()))
        if first.filesystem != block.filesystem:
            raise SetupError(
                f"{archive[other].label} and {drive.label} are of two filesystems; take the drives "
                "of one of them out of the config"
            )
    if name != config.filesystem:
        raise SetupError(
            f"{drive.label} is of filesystem {name!r}, the config says {config.filesystem!r}"
        )
    if block.pool_name != pool.encode():
        raise SetupError(
            f"{drive.label} is of pool {block.pool_name.decode(errors='replace')!r}, the config "
            f"has it in {pool!r}"
        )
    if block.drive in blocks:
        raise SetupError(f"{drive.label} and {archive[block.drive].label} are one drive, or a copy")


def _refuse_strangers(drives: Drives, catalog: Path) -> None:
    """A new workspace is only made where there is nothing to lose. Raises SetupError.

    An old catalog may be there: it is kept.
    """
    # A superblock that does not verify is all that a first run cut off at once may have left.
    begun = (FIRST_SUPERBLOCK,)
    allowed = _beside(catalog)
    workspace = {drive.label for drive in drives.pools[0].drives}
    for drive in drives.all():
        own = os.path.realpath(drive.label) == os.path.realpath(catalog.parent)
        if drive.label in workspace and not drive.is_empty(
            besides=(*begun, *(allowed if own else ()))
        ):
            raise SetupError(
                f"{drive.label}: not empty; a new workspace is only made on empty directories. Do "
                "not empty it before its files are out: `shmr-fsck decode --drives PATH...` reads "
                "it as it is"
            )


def _beside(catalog: Path) -> list[str]:
    """What catalogs and mounts leave there, which may be on a drive: none of it is lost."""
    try:
        return [name for name in os.listdir(catalog.parent) if name.startswith(catalog.name)]
    except OSError:
        return []


def _wrong(
    layout: Layout, workspace: tuple[Drive, ...], archive: Mapping[bytes, Drive], path: Path
) -> Iterator[Finding]:
    """What the checker finds in the new catalog."""
    store = SegmentStore(layout.filesystem, workspace, 1, 0, kernel_time_ns)
    try:
        store.scan()
        with open_reading(path, live=False) as reading:
            fragments = FragmentStore(layout.filesystem, archive)
            name = layout.filesystem_name.decode(errors="replace")
            yield from tables(View(layout.filesystem, name, reading, store, fragments))
    finally:
        store.close()


# -- what is told ---------------------------------------------------------------------------------


def _rebuilt(
    report: Report, salvaged: Salvaged, *, dry_run: bool = False, aside: Path | None = None
) -> Rebuilt:
    """Fill the report: what was lost, and what only footers knew."""
    report.notes += salvaged.notes
    for table, count in sorted(salvaged.left_out.items()):
        message = f"{count} rows of table {table} do not hold and were left out"
        report.find(Finding(Kind.ROWS_REFUSED, message))
    if salvaged.lost_frames:
        message = (
            f"{salvaged.lost_frames} frames or more of the newest snapshot are on no drive: names "
            "or places of files that were in them are lost"
        )
        report.find(Finding(Kind.SNAPSHOT_DAMAGED, message))
    found = salvaged.found_bytes + salvaged.filled_bytes
    if found:
        finding = Finding(
            Kind.FOUND_BY_FOOTER,
            f"{salvaged.found_inodes} files without a name ({format_size(salvaged.found_bytes)}) "
            f"are in /lost+found, and {format_size(salvaged.filled_bytes)} of other files were "
            "found: archived behind the snapshot, so that only footers tell of them",
            remedy="bring back what footers tell of",
        )
        (report.find if dry_run else report.mend)(finding)
    with salvaged.losses() as losses:
        for loss in losses.all():
            path = "(no name)" if loss.path is None else "/" + shown(loss.path)
            message = f"{path}: {loss.length} bytes of inode {loss.inode} are on no drive"
            named = None if loss.path is None else os.fsdecode(loss.path)
            report.find(Finding(Kind.FILE_LOST, message, Where(inode=loss.inode, path=named)))
    with open_reading(salvaged.catalog, live=False) as reading:
        inodes = sum(1 for _ in reading.inodes())
    return Rebuilt(
        report,
        dry_run,
        salvaged.source.value,
        salvaged.snapshot_ns,
        inodes,
        salvaged.found_inodes,
        salvaged.found_bytes,
        salvaged.filled_bytes,
        salvaged.unused_bytes,
        salvaged.gone_inodes,
        salvaged.gone_bytes,
        salvaged.strays,
        sum(salvaged.left_out.values()),
        None if aside is None else str(aside),
    )
