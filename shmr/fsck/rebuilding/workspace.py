"""A drive of a mirrored workspace that was lost: an empty directory takes its place.

    OPEN    the drives that are left, as `shmr mount --degraded` does: the lost one is a member no
            more, and the log is sealed at its end
    COPY    every segment that has too few copies, byte by byte, and read back
    JOIN    the superblock of the new drive, and then those of the others

The superblock comes last: before it nobody takes the new drive for one that holds anything. Cut
off anywhere it is run again; what was copied, and still is the same, is not copied again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, zip_longest

from shmr.config import Config
from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Drive, DriveFile
from shmr.errors import IntegrityError, SetupError
from shmr.format.fragment import BLOCK
from shmr.log.store import is_segment
from shmr.service.assemble import open_drives, open_filesystem
from shmr.service.drives.add import opened
from shmr.service.drives.rehousing import Rehoused
from shmr.service.following import Terms, pace
from shmr.units import MIB
from shmr.volume import members
from shmr.volume.membership import read_superblock

CHUNK_BYTES = 4 * MIB
SEGMENT = "segment"


def rebuild_workspace_drive(config: Config, path: str, terms: Terms) -> Rehoused:
    """The directory at `path`, which the workspace of the config names, becomes a whole copy.

    Raises SetupError with what to do, DriveError, IntegrityError, NoSpace.
    """
    workspace = config.workspace
    entry = next(one for one in workspace.drives if str(one.path) == os.path.realpath(path))
    if workspace.scheme.copies == 1:
        raise SetupError(
            f"{entry.path} is a drive of the workspace, of which pool {workspace.name!r} keeps no "
            "second copy: what was only there is lost. `shmr-fsck rebuild-catalog` brings back the "
            "tree and all that is in archive pools"
        )
    others = tuple(one for one in workspace.drives if one is not entry)
    left = replace(config, pools=(replace(workspace, drives=others), *config.pools[1:]))
    with closing(opened(entry)) as drive:
        drives = open_drives(left, degraded=True)
        try:
            survivors = drives.pools[0].drives
            if _is_member(drive, survivors):
                return Rehoused(advice=(f"{entry.path} is a drive of the workspace, and whole",))
            _check(config, drive, survivors)
            if not terms.dry_run:
                open_filesystem(left, drives, read_only=False, degraded=True).close()
            done = _copy_all(survivors, drive, workspace.scheme.copies, terms)
            if not done.is_complete or terms.dry_run:
                return done
            members.join(drive, os.urandom(16), survivors, time.time_ns())
        finally:
            drives.close()
    gone = [str(one.path) for one in others if str(one.path) in drives.absent]
    advice = [f"{entry.path} is a drive of the workspace now"]
    advice += [f"take {lost} out of the config" for lost in gone]
    return replace(done, advice=tuple(advice))


def _is_member(drive: Drive, survivors: Sequence[Drive]) -> bool:
    """Is it a drive of the workspace that was not left behind? Raises SetupError: of another one,
    or of an earlier time."""
    block, newest = read_superblock(drive), members.newest_superblock(survivors)
    if newest is None:
        raise SetupError("no other drive of the workspace has a superblock; connect them")
    if block is None:
        return False
    if block.pool != newest.pool or block.generation < newest.generation:
        raise SetupError(
            f"{drive.label}: it was a drive of filesystem "
            f"{block.filesystem_name.decode(errors='replace')!r}, and lacks what was written since "
            "or is of another one; empty it first if nothing on it is wanted any more"
        )
    # One generation ahead: it joined, and the others were not told yet.
    return True


def _check(config: Config, drive: DirectoryDrive, survivors: Sequence[Drive]) -> None:
    """Raise SetupError where the directory cannot become a drive of the workspace."""
    begun = set(filter(is_segment, drive.names()))
    known = set(chain.from_iterable(other.names() for other in survivors))
    if not drive.is_empty(besides=begun) or begun - known:
        raise SetupError(
            f"{drive.label}: not empty; only an empty directory is taken. Keep what is on it "
            "elsewhere if it may be wanted"
        )
    for other in () if config.same_device else survivors:
        if other.device() == drive.device():
            raise SetupError(
                f"{drive.label} is on one disk with {other.label}, whose loss would take both; "
                "use another disk, or say `same_device: true` for a trial"
            )
    if not drive.lock():
        raise SetupError(f"{drive.label}: another process holds it")


def _copy_all(survivors: Sequence[Drive], drive: Drive, copies: int, terms: Terms) -> Rehoused:
    """Every segment that has too few copies.

    What an earlier run copied, and is not wanted any more, goes: all of it is elsewhere, or was
    before the log was sealed.
    """
    where: dict[str, list[Drive]] = {}
    for other in survivors:
        for name in filter(is_segment, other.names()):
            where.setdefault(name, []).append(other)
    wanted = {name: found for name, found in sorted(where.items()) if len(found) < copies}
    sizes = {name: found[0].size(name) for name, found in wanted.items()}
    total, done, moved = sum(sizes.values()), 0, 0
    if terms.dry_run:
        return Rehoused(len(wanted), total, dry_run=True, what=SEGMENT)
    there = set(filter(is_segment, drive.names()))
    for name in sorted(there - wanted.keys()):
        drive.discard(name)
    wait = pace(terms.limit_rate, terms.stop)
    for name, found in wanted.items():
        if terms.stop():
            return Rehoused(moved, done, left=len(wanted) - moved, stopped=True, what=SEGMENT)
        if name in there and not _is_equal(found[0], drive, name):
            _check_begun(found[0], drive, name)
            drive.discard(name)
            there.discard(name)
        if name not in there:
            wait(sizes[name])
            _copy(found[0], drive, name)
        moved, done = moved + 1, done + sizes[name]
        if terms.watcher is not None:
            terms.watcher("copying", done, total)
    return Rehoused(moved, done, what=SEGMENT)


def _copy(source: Drive, target: Drive, name: str) -> None:
    """One file, read back. Raises DriveError; IntegrityError where it is not what was written."""
    with closing(source.open(name)) as there, closing(target.claim(name, source.size(name))) as new:
        for content in _chunks(there):
            new.append([content])
        new.seal()
        new.evict()
    if not _is_equal(source, target, name):
        raise IntegrityError(f"{target.label}: {name} is not what was written")


def _is_equal(one: Drive, other: Drive, name: str) -> bool:
    if one.size(name) != other.size(name):
        return False
    with closing(one.open(name)) as first, closing(other.open(name)) as second:
        return all(a == b for a, b in zip_longest(_chunks(first), _chunks(second)))


def _check_begun(one: Drive, other: Drive, name: str) -> None:
    """Raise SetupError unless the file is a copy that was cut off: with zeros where it ends."""
    with closing(one.open(name)) as first, closing(other.open(name)) as second:
        for a, b in zip_longest(_chunks(first), _chunks(second), fillvalue=b""):
            for at in range(0, len(b), BLOCK):
                if b[at : at + BLOCK] != a[at : at + BLOCK] and any(b[at : at + BLOCK]):
                    raise SetupError(
                        f"{other.label}: its {name} is not that of {one.label}; keep it elsewhere, "
                        "and empty the directory"
                    )


def _chunks(file: DriveFile) -> Iterator[bytes]:
    at = 0
    while content := file.read(at, CHUNK_BYTES):
        yield content
        at += len(content)
