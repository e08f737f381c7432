"""Files out of drives, and nothing else: no configuration, no catalog, no mount.

    foreign    which filesystem the drives are of
    salvage    a catalog from the journal, the newest snapshot, or footers, into scratch space
    tree       what there is to be written
    contents   the bytes, from whatever drives there are
    extract    written, below one directory

Nothing that the drives say is believed without a limit, and nothing is written but below the
directory that was asked for. A file of which bytes are missing is written with holes in their
place, under a name that says so; what would bring them back is told.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shmr.catalog.reading import Reading, open_reading
from shmr.catalog.store import DOUBTS
from shmr.drive.seam import Drive
from shmr.errors import DriveError, SetupError, ShmrError
from shmr.format.rows import ROOT, Inode
from shmr.fsck.decoding.contents import Contents, Lost, Part, Standing
from shmr.fsck.decoding.extract import Counts, Extractor, Stopped
from shmr.fsck.findings import Finding, Kind, Report
from shmr.fsck.salvaging.foreign import Foreign, opened
from shmr.fsck.salvaging.salvage import Salvaged, Source, salvage
from shmr.fsck.salvaging.scratch import destination
from shmr.fsck.salvaging.tree import Walk, What, inode_of, xattrs_of
from shmr.log.fragments import FragmentStore
from shmr.log.gather import DEADLINE_S, Gather
from shmr.log.reader import LogReader
from shmr.log.store import SegmentStore
from shmr.service.following import Stop, Watcher, nobody_stops

_POOLS_MAX = 20
_NEEDED_MAX = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be had: the inode of this number, what is at this path, or else everything.

    As the `snapshot` has it whose first segment has this number, or else the newest there is.
    """

    inode: int | None = None
    path: bytes | None = None
    snapshot: int | None = None


EVERYTHING = Wanted()


@dataclass(frozen=True, slots=True)
class Listed:
    """One name of the tree. `standing` is None for all but regular files: it needs no drive."""

    path: bytes
    inode: Inode
    standing: Standing | None


@dataclass(slots=True)
class Decoded:
    """What came of it. `source` is what the tree is from; `snapshot_ns` is that snapshot's time.

    `needed` are drives that are not there, with the bytes that lack for want of them or another.
    `standings` counts listed files.
    """

    report: Report
    source: str = ""
    snapshot_ns: int | None = None
    counts: Counts = field(default_factory=Counts)
    needed: Counter[str] = field(default_factory=Counter)
    standings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Found:
    """A filesystem that was found on drives, to be read."""

    foreign: Foreign
    salvaged: Salvaged
    reading: Reading
    contents: Contents


def decode(
    drives: Sequence[str],
    to: str,
    *,
    inode: int | None = None,
    path: bytes | None = None,
    filesystem: str | None = None,
    snapshot: int | None = None,
    special: bool = False,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Decoded:
    """Write the inode of a number, or what is at a path, or else everything, below directory `to`.

    `snapshot`: as the one has it whose first segment has this number, and not the newest.
    `special`: nodes, suid bits and security attributes too. Raises SetupError where nothing can be
    read or written, IntegrityError.
    """
    wanted = Wanted(inode, path, snapshot)
    with opened(drives, filesystem) as foreign:
        return decoded(foreign, to, wanted, special=special, watcher=watcher, stop=stop)


def decoded(
    foreign: Foreign,
    to: str,
    wanted: Wanted = EVERYTHING,
    *,
    special: bool = False,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
    deadline_s: float | None = DEADLINE_S,
) -> Decoded:
    """`decode` of drives that are open. `deadline_s` is for reads of fragments (see `Gather`)."""
    done = begun(foreign)
    if watcher is not None:
        watcher("reading names", 0, 1)
    with (
        destination(to) as scratch,
        looked_at(
            foreign, scratch.catalog, done, deadline_s=deadline_s, snapshot=wanted.snapshot
        ) as found,
    ):
        total = total_bytes(found.reading, wanted)
        reached = 0

        def advance(size_bytes: int) -> None:
            nonlocal reached
            reached += size_bytes
            if watcher is not None:
                watcher(f"{extractor.counts.files} files", reached, max(total, reached))

        extractor = Extractor(
            scratch, done.report.find, special=special, stop=stop, advance=advance
        )
        done.counts = extractor.counts
        try:
            write_out(found, wanted, extractor, done)
        except Stopped:
            done.report.stopped = True
        finally:
            extractor.close()
        extractor.finish()
    note_counts(done)
    return done


def listing(
    drives: Sequence[str],
    show: Callable[[Listed], None],
    *,
    inode: int | None = None,
    path: bytes | None = None,
    filesystem: str | None = None,
    snapshot: int | None = None,
    stop: Stop = nobody_stops,
) -> Decoded:
    """Tell `show` of every name of what is wanted, as in `decode`, in the order of the tree.

    Writes nothing but scratch space of its own. Raises SetupError, IntegrityError.
    """
    with opened(drives, filesystem) as foreign:
        return listed(foreign, show, Wanted(inode, path, snapshot), stop=stop)


def listed(
    foreign: Foreign,
    show: Callable[[Listed], None],
    wanted: Wanted = EVERYTHING,
    *,
    stop: Stop = nobody_stops,
    deadline_s: float | None = DEADLINE_S,
) -> Decoded:
    """`listing` of drives that are open."""
    done = begun(foreign)
    with tempfile.TemporaryDirectory(prefix="shmr-decode-") as scratch:
        catalog = Path(scratch, "catalog")
        with looked_at(
            foreign, catalog, done, deadline_s=deadline_s, snapshot=wanted.snapshot
        ) as found:
            list_tree(found, wanted, show, done, stop)
    return done


def begun(foreign: Foreign) -> Decoded:
    """A report of what is known when the drives are open."""
    report = Report("decode", f"{foreign.name} ({foreign.filesystem.hex()})".strip())
    report.notes += foreign.notes
    for finding in foreign.findings:
        report.find(finding)
    if foreign.missing:
        labels = ", ".join(map(foreign.label, foreign.missing[:20]))
        report.notes.append(f"missing: {labels}")
    return Decoded(report)


@contextmanager
def looked_at(
    foreign: Foreign,
    catalog: Path,
    done: Decoded,
    *,
    deadline_s: float | None = DEADLINE_S,
    snapshot: int | None = None,
) -> Iterator[Found]:
    """The filesystem, its catalog made anew at `catalog`. Raises SetupError, IntegrityError."""
    salvaged = _salvaged(foreign, catalog, snapshot)
    done.source, done.snapshot_ns = salvaged.source.value, salvaged.snapshot_ns
    _note_source(done, salvaged)
    store = SegmentStore(foreign.filesystem, foreign.workspace, 1, 0, time.time_ns)
    store.scan()
    fragments = FragmentStore(foreign.filesystem, foreign.archive, foreign.missing)
    gather = Gather(fragments, deadline_s=deadline_s)
    try:
        with open_reading(catalog, live=False) as reading:
            done.report.notes += _schemes(foreign, reading)
            held = sum(map(_held_bytes, {*foreign.workspace, *foreign.archive.values()}))
            contents = Contents(reading, LogReader(store, None, gather), foreign.label, held)
            yield Found(foreign, salvaged, reading, contents)
    finally:
        store.close()
        gather.close()


def _salvaged(foreign: Foreign, catalog: Path, snapshot: int | None) -> Salvaged:
    """The catalog that the drives tell of. Raises SetupError, IntegrityError, DriveError."""
    try:
        return salvage(
            foreign.filesystem, foreign.workspace, foreign.archive, catalog, snapshot=snapshot
        )
    except ShmrError:
        raise
    except (*DOUBTS, OSError) as error:
        # Names and places of all files go through a catalog, of some 500 bytes for each.
        raise SetupError(
            f"the names found cannot be written down in scratch space: {error}; that is in --to "
            "DIR, with --list where TMPDIR says: choose one with more room"
        ) from error


def _held_bytes(drive: Drive) -> int:
    """What all files of a drive take, as far as they can be looked at."""
    held = 0
    try:
        for name in drive.names():
            held += drive.size(name)
    except DriveError:
        return held
    return held


def _note_source(done: Decoded, salvaged: Salvaged) -> None:
    report = done.report
    report.notes += salvaged.notes
    if salvaged.corrupt is not None:
        report.find(Finding(Kind.LOG_CORRUPT, salvaged.corrupt))
    for table, count in sorted(salvaged.left_out.items()):
        message = f"{count} rows of table {table} say nothing that shmr writes, and were left out"
        report.find(Finding(Kind.TREE_TWISTED, message))
    if salvaged.source is Source.SNAPSHOT and salvaged.snapshot_ns is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", _gmtime(salvaged.snapshot_ns))
        report.notes.append(f"the tree is as it was at {at}, when the snapshot was made")
    if salvaged.found_inodes:
        message = (
            f"{salvaged.found_inodes} files are known by the footers of fragments alone, without "
            "name and owner; they are in /lost+found"
        )
        report.find(Finding(Kind.NAMES_LOST, message))


def _schemes(foreign: Foreign, reading: Reading) -> list[str]:
    """With which k and m archive pools hold what they hold: a sentence for each."""
    found: dict[str, set[tuple[int, int]]] = {}
    for _, archived in reading.archived_segments():
        names = (foreign.pools.get(placed.drive) for placed in archived.fragments)
        name = next(filter(None, names), None)
        if name is not None and (name in found or len(found) < _POOLS_MAX):
            schemes = found.setdefault(name, set())
            if len(schemes) < _POOLS_MAX:
                schemes.add((archived.k, archived.m))
    return [
        f"pool {name!r}: k+m is {' or '.join(f'{k}+{m}' for k, m in sorted(schemes))}"
        for name, schemes in sorted(found.items())
    ]


def _gmtime(time_ns: int) -> time.struct_time:
    try:
        return time.gmtime(time_ns // 10**9)
    except (OverflowError, ValueError, OSError):
        return time.gmtime(0)


# -- what is wanted -------------------------------------------------------------------------------


def top_of(reading: Reading, wanted: Wanted) -> tuple[Inode, bytes, bytes]:
    """Where to begin: an inode, what it is to be called, and the path to it. Raises SetupError.

    The name is empty for the top of the filesystem.
    """
    if wanted.inode is not None:
        inode = inode_of(reading, wanted.inode)
        if inode is None:
            raise SetupError(f"there is no inode {wanted.inode}; `--list` shows what there is")
        name = b"inode-%d" % wanted.inode
        return inode, name, name
    names = [name for name in (wanted.path or b"").split(b"/") if name not in (b"", b".")]
    if not names:
        return inode_of(reading, ROOT) or _root(), b"", b""
    number = reading.find(b"/".join(names))
    inode = None if number is None else inode_of(reading, number)
    if inode is None:
        raise SetupError(f"{wanted.path!r}: there is no such path; `--list` shows what there is")
    return inode, names[-1], b"/" + b"/".join(names)


def _root() -> Inode:
    """The top of a filesystem whose row of it is lost."""
    return Inode(ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 0, 0, 0)


def total_bytes(reading: Reading, wanted: Wanted) -> int:
    """About what will be read; 0 where only walking would tell."""
    if wanted == EVERYTHING:
        return sum(reading.live().values())
    inode, _, _ = top_of(reading, wanted)
    return inode.allocated if stat.S_ISREG(inode.mode) else 0


def write_out(found: Found, wanted: Wanted, extractor: Extractor, done: Decoded) -> None:
    """Everything that is wanted. Raises Stopped, SetupError, IntegrityError."""
    reading, report = found.reading, done.report
    top, called, prefix = top_of(reading, wanted)
    extractor.top()
    walk = Walk(reading, report.find)
    for what, name, inode in walk.steps(top, called, prefix):
        extractor.begin(walk.path, inode)
        # The top of the filesystem has no name: the destination stands for it.
        kept = bool(name)
        if what is What.ENTER:
            if kept and not extractor.enter(name, inode):
                walk.skip()
        elif what is What.LEAVE:
            if kept:
                extractor.leave(inode, xattrs_of(reading, inode.number))
            elif inode.number == ROOT:
                extractor.leave_top(inode, xattrs_of(reading, ROOT))
        elif stat.S_ISREG(inode.mode):
            parts = _accounted(found, inode, done.needed)
            extractor.file(name, inode, parts, xattrs_of(reading, inode.number))
        elif stat.S_ISLNK(inode.mode):
            extractor.symlink(name, inode, xattrs_of(reading, inode.number))
        else:
            extractor.node(name, inode, xattrs_of(reading, inode.number))


def _accounted(found: Found, inode: Inode, needed: Counter[str]) -> Iterator[Part]:
    """The parts of a file; drives that would bring back what is lost are noted."""
    for part in found.contents.parts(inode):
        if isinstance(part, Lost):
            for drive in part.drives:
                label = found.foreign.label(drive)
                if label in needed or len(needed) < _NEEDED_MAX:
                    needed[label] += part.length
        yield part


def list_tree(
    found: Found,
    wanted: Wanted,
    show: Callable[[Listed], None],
    done: Decoded,
    stop: Stop = nobody_stops,
) -> None:
    """Every name of what is wanted. Raises SetupError, IntegrityError."""
    top, called, prefix = top_of(found.reading, wanted)
    walk = Walk(found.reading, done.report.find)
    for what, _, inode in walk.steps(top, called, prefix):
        if stop():
            done.report.stopped = True
            return
        if what is What.LEAVE:
            continue
        standing = found.contents.standing(inode) if stat.S_ISREG(inode.mode) else None
        if standing is not None:
            done.standings[standing.value] += 1
        show(Listed(walk.path, inode, standing))


def note_counts(done: Decoded) -> None:
    """Sentences about what was left out on purpose, and how to get it."""
    counts, notes = done.counts, done.report.notes
    if os.geteuid() != 0:
        notes.append("owners are not kept: only root can give files to others")
    if counts.special:
        notes.append(
            f"{counts.special} devices, fifos and sockets were left out; --special writes them"
        )
    if counts.unprivileged:
        notes.append(
            f"{counts.unprivileged} files and directories were written without suid and sgid; "
            "--special keeps them"
        )
    if counts.separate:
        notes.append(f"{counts.separate} hard links became files of their own: the disk has none")
    for label, size_bytes in done.needed.most_common(20):
        notes.append(f"drive {label} would help with {size_bytes} bytes that are lost")
