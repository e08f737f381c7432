"""`shmr-fsck decode`: files out of drives that nothing else is known of."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from shmr.cli.library import load
from shmr.cli.progress import Progress, stop_asked
from shmr.core.shown import shown
from shmr.errors import SetupError
from shmr.units import KIB, NS_PER_S, format_size

if TYPE_CHECKING:
    from shmr.fsck.decoding.decode import Decoded, Listed
    from shmr.service.following import Stop, Watcher

SHOWN_PER_KIND = 50
"""Findings of each kind that people are shown; `--json` has more."""
_STACK_BYTES = 512 * KIB
_INTERRUPTED = 32

_DESCRIPTION = """\
Write files out of drives, with modes, times, extended attributes and links. No configuration and no
catalog is needed, and nothing is mounted: only the directories that were drives, in any order. The
workspace may be missing, and of each archive pool as many drives as its scheme can do without; with
more missing, what can still be had is written. The drives are not changed.
"""
_EPILOG = """\
Owners are kept when root runs it. Nothing that exists in DIR is replaced: run it again and it goes
on. A file of which bytes are missing gets a name that ends with `.shmr-incomplete`.

example:
  shmr-fsck decode --drives /mnt/smr0 /mnt/smr1 /mnt/smr2 --list
  shmr-fsck decode --drives /mnt/smr* --to /mnt/new --all
  shmr-fsck decode --drives /mnt/smr* --to . --path photos/2019
"""


class DecodeLibrary(Protocol):
    """What this command needs of `shmr.fsck.decoding.decode`."""

    def decode(
        self,
        drives: Sequence[str],
        to: str,
        *,
        inode: int | None,
        path: bytes | None,
        filesystem: str | None,
        snapshot: int | None,
        special: bool,
        watcher: Watcher | None,
        stop: Stop,
    ) -> Decoded: ...

    def listing(
        self,
        drives: Sequence[str],
        show: Callable[[Listed], None],
        *,
        inode: int | None,
        path: bytes | None,
        filesystem: str | None,
        snapshot: int | None,
        stop: Stop,
    ) -> Decoded: ...


def add_parser(commands: Any) -> None:
    """Add `decode` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "decode",
        help="get files out of drives, without configuration, catalog or mount",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--drives", metavar="PATH", nargs="+", required=True, help="directories that were drives")
    add("--to", metavar="DIR", help="where to write; made if it is not there")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help="everything")
    which.add_argument("--path", metavar="P", help="what is at this path, and below it")
    which.add_argument("--inode", metavar="N", type=int, help="the inode of this number")
    add("--list", action="store_true", help="only list the tree, and how much of each file is left")
    add("--filesystem", metavar="ID", help="which, where the drives are of several: its id or name")
    add(
        "--snapshot",
        metavar="N",
        type=int,
        help="as the snapshot of this number has it, that of its first file; else the newest",
    )
    add(
        "--special",
        action="store_true",
        help="also write devices, fifos, sockets, suid and sgid bits, and security attributes",
    )
    add("--json", action="store_true", help="print the report, and the list, as JSON")
    parser.set_defaults(run=run, refuse=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0, 4 where something is missing, 32 when it was stopped."""
    chosen = arguments.all or arguments.path is not None or arguments.inode is not None
    if not arguments.list and (arguments.to is None or not chosen):
        arguments.refuse("give --list, or --to DIR with one of --all, --path and --inode")
    # Threads wait for drives; what they need of memory is little.
    load("shmr.codec.allocator").share_one_arena()
    before = threading.stack_size(_STACK_BYTES)
    library = cast(DecodeLibrary, load("shmr.fsck.decoding.decode"))
    try:
        if arguments.list:
            return _list(library, arguments)
        return _decode(library, arguments)
    except BrokenPipeError:
        # Whoever reads the list has seen enough; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _INTERRUPTED
    except MemoryError:
        # Limits keep it from that; but they count what shmr has, not what others leave.
        raise SetupError("there is too little memory to go on") from None
    finally:
        threading.stack_size(before)


def _decode(library: DecodeLibrary, arguments: argparse.Namespace) -> int:
    with stop_asked() as stop, Progress("decode", 0) as progress:

        def show(phase: str, size: int, total: int) -> None:
            progress.update(size, total_bytes=total, note=phase)

        done = library.decode(
            arguments.drives,
            arguments.to,
            inode=arguments.inode,
            path=_path(arguments),
            filesystem=arguments.filesystem,
            snapshot=arguments.snapshot,
            special=arguments.special,
            watcher=show,
            stop=stop,
        )
    if arguments.json:
        print(json.dumps(as_plain(done), indent=2))
    else:
        print("\n".join([*told(done), _written(done)]))
    return int(done.report.exit_code)


def _list(library: DecodeLibrary, arguments: argparse.Namespace) -> int:
    out = sys.stdout
    show: Callable[[Listed], None] = _JsonList(out) if arguments.json else _line(out)
    with stop_asked() as stop:
        done = library.listing(
            arguments.drives,
            show,
            inode=arguments.inode,
            path=_path(arguments),
            filesystem=arguments.filesystem,
            snapshot=arguments.snapshot,
            stop=stop,
        )
    if isinstance(show, _JsonList):
        show.end(as_plain(done))
    else:
        # The list is for other programs; what is said about it is for people.
        print("\n".join([*told(done), _standings(done)]), file=sys.stderr)
    lacking = done.standings.keys() - {"whole"}
    return int(done.report.exit_code) or (4 if lacking else 0)


def _path(arguments: argparse.Namespace) -> bytes | None:
    return None if arguments.path is None else os.fsencode(arguments.path)


# -- for people -----------------------------------------------------------------------------------


def _line(out: TextIO) -> Callable[[Listed], None]:
    def show(listed: Listed) -> None:
        inode = listed.inode
        standing = listed.standing.value if listed.standing is not None else "-"
        owner = f"{inode.uid}:{inode.gid}"
        target = f" -> {shown(inode.target)}" if stat.S_ISLNK(inode.mode) else ""
        out.write(
            f"{stat.filemode(inode.mode)} {standing:6} {owner:>11} {inode.size:>14} "
            f"{_time(inode.mtime_ns)} {shown(listed.path)}{target}\n"
        )

    return show


def _time(time_ns: int) -> str:
    """UTC, to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ns // NS_PER_S))
    except (OverflowError, ValueError, OSError):
        return "-"


def told(done: Decoded) -> list[str]:
    """What was found out, and what is wrong."""
    report = done.report
    lines = [f"filesystem {report.filesystem}, from its {done.source or 'drives'}", *report.notes]
    for kind, some in groupby(sorted(report.findings, key=lambda f: f.kind), key=lambda f: f.kind):
        total = report.counts[kind]
        lines.append(f"{kind} ({total})")
        shown = list(some)[:SHOWN_PER_KIND]
        lines += [f"  {finding.message}" for finding in shown]
        if total > len(shown):
            lines.append(f"  ... and {total - len(shown)} more")
    if report.stopped:
        lines.append("stopped; run it again and it goes on")
    return lines


def _written(done: Decoded) -> str:
    counts = done.counts
    parts = [
        f"{counts.files} files written ({format_size(counts.bytes)} read)",
        f"{counts.directories} directories",
        f"{counts.symlinks} symlinks",
        f"{counts.links} further hard links",
    ]
    if counts.nodes:
        parts.append(f"{counts.nodes} devices, fifos and sockets")
    if counts.present:
        parts.append(f"{counts.present} were there already")
    if counts.incomplete:
        parts.append(f"{counts.incomplete} incomplete")
    return ", ".join(parts)


def _standings(done: Decoded) -> str:
    found = done.standings
    total = sum(found.values())
    return f"{total} files: {found['whole']} whole, {found['partly']} partly, {found['lost']} lost"


# -- as JSON --------------------------------------------------------------------------------------


def as_plain(done: Decoded) -> dict[str, Any]:
    """The report with the names of its fields; bytes that are no UTF-8 are escaped."""
    report = done.report
    return {
        "filesystem": report.filesystem,
        "source": done.source,
        "snapshot_ns": done.snapshot_ns,
        "stopped": report.stopped,
        "counts": dataclasses.asdict(done.counts),
        "standings": dict(done.standings),
        "needed_drives": dict(done.needed),
        "notes": report.notes,
        "finding_counts": {str(kind): count for kind, count in report.counts.items()},
        "findings": [dataclasses.asdict(finding) for finding in report.findings],
    }


class _JsonList:
    """One document, written while the tree is walked: `entries`, one on each line, and `report`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._between = '{"entries": [\n'

    def __call__(self, listed: Listed) -> None:
        inode = listed.inode
        entry = {
            "path": os.fsdecode(listed.path),
            "inode": inode.number,
            "mode": inode.mode,
            "links": inode.links,
            "uid": inode.uid,
            "gid": inode.gid,
            "size": inode.size,
            "mtime_ns": inode.mtime_ns,
            "target": os.fsdecode(inode.target),
            "standing": None if listed.standing is None else listed.standing.value,
        }
        self._out.write(self._between + json.dumps(entry))
        self._between = ",\n"

    def end(self, report: dict[str, Any]) -> None:
        begun = self._between if self._between != ",\n" else ""
        self._out.write(f'{begun}\n],\n"report": {json.dumps(report, indent=2)}}}\n')
