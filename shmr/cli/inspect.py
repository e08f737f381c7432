"""`shmr inspect`: where a file is, and how a filesystem does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from shmr.cli.library import Service
from shmr.cli.show import age, as_json, table
from shmr.units import format_size

if TYPE_CHECKING:
    from shmr.service.looking.overview import LogView, Overview
    from shmr.service.looking.topology import Piece, Topology

_DESCRIPTION = """\
Look at the filesystem that CONFIG describes. Works while it is mounted: what is shown is the last
checkpoint, which is seconds old. Nothing is changed.
"""
_EPILOG = """\
example:
  shmr inspect overview /etc/shmr/media.yaml
  shmr inspect topology /etc/shmr/media.yaml /srv/media/photos/rome.raw
"""
_TOPOLOGY = """\
Tell where the bytes of one file are: pool, segment, scheme and drives of each part, and how many
drives may still be lost.
"""
_TOPOLOGY_EPILOG = """\
example:
  shmr inspect topology /etc/shmr/media.yaml /srv/media/photos/rome.raw
  shmr inspect topology /etc/shmr/media.yaml photos/rome.raw
  shmr inspect topology --json /etc/shmr/media.yaml 4711
"""
_OVERVIEW = """\
Tell how the filesystem does: pools and drives, files and bytes by pool, segments by how much of
them lives, bytes by the redundancy that is left, journal and snapshot, and what the next shift
would move.
"""
_OVERVIEW_EPILOG = """\
example:
  shmr inspect overview /etc/shmr/media.yaml
  shmr inspect overview --json /etc/shmr/media.yaml
"""
_LIVENESS = (">DEAD", ">..25%", ">..50%", ">..75%", ">..100%")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "inspect",
        help="look at a filesystem or at a file",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    views = parser.add_subparsers(dest="view", metavar="VIEW", required=True)
    for name, brief, description, epilog, run in (
        ("topology", "where the bytes of a file are", _TOPOLOGY, _TOPOLOGY_EPILOG, run_topology),
        ("overview", "the state of the filesystem", _OVERVIEW, _OVERVIEW_EPILOG, run_overview),
    ):
        view = views.add_parser(
            name,
            help=brief,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        view.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
        if name == "topology":
            view.add_argument(
                "what",
                metavar="INODE|PATH",
                help="an inode's number, a path inside a mount, or one from the top of the "
                "filesystem (a name of digits: ./123)",
            )
        view.add_argument("--json", action="store_true", help="print JSON, with all details")
        view.set_defaults(run=run)


def run_topology(arguments: argparse.Namespace, service: Service) -> None:
    found = service.topology(arguments.config, arguments.what)
    print(as_json(found) if arguments.json else show_topology(found, time.time_ns()))


def run_overview(arguments: argparse.Namespace, service: Service) -> None:
    found = service.overview(arguments.config)
    print(as_json(found) if arguments.json else show_overview(found, time.time_ns()))


# -- topology


def show_topology(found: Topology, now_ns: int) -> str:
    head = (
        f"inode {found.inode} of {found.filesystem}: {format_size(found.size_bytes)}, "
        f"as of {age(now_ns - found.checkpoint_ns)} ago"
    )
    if not found.pieces:
        return f"{head}\nno bytes are stored"
    drives = {
        (segment.segment, part.index): part.drive
        for segment in found.segments
        for part in segment.parts
    }
    extents = table(
        (">OFFSET", ">BYTES", ">EXTENTS", "POOL", ">SEGMENT", ">LEFT", "DRIVES"),
        (_run_row(run, drives) for run in _runs(found.pieces)),
    )
    if not found.segments:
        return f"{head}\n\n{extents}"
    parts = table(
        (">SEGMENT", "SCHEME", ">LEFT", ">PART", "HOLDS", "DRIVE", "STATE"),
        (
            (
                str(segment.segment),
                segment.scheme,
                _left(segment.left),
                str(part.index),
                "data" if part.data else "parity",
                part.drive,
                part.missing or "present",
            )
            for segment in found.segments
            for part in segment.parts
        ),
    )
    return f"{head}\n\n{extents}\n\n{parts}"


def _runs(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Neighbours that lie in the same place: one line tells of all of them."""
    for _, run in groupby(pieces, key=lambda piece: (piece.segment, piece.parts, piece.left)):
        yield list(run)


def _run_row(run: list[Piece], drives: dict[tuple[int, int], str]) -> tuple[str, ...]:
    first = run[0]
    size = sum(piece.length for piece in run)
    if first.segment is None or first.left is None:
        return (str(first.offset), str(size), str(len(run)), "hole", "-", "-", "-")
    where = [drives[first.segment, part] for part in first.parts]
    return (
        str(first.offset),
        str(size),
        str(len(run)),
        first.pool or "",
        str(first.segment),
        _left(first.left),
        " ".join(where) or "no drive",
    )


def _left(left: int) -> str:
    return "lost" if left < 0 else str(left)


# -- overview


def show_overview(found: Overview, now_ns: int) -> str:
    mounts = ", ".join(found.mounts)
    parts = [
        f"filesystem {found.filesystem}, {f'mounted at {mounts}' if mounts else 'not mounted'}, "
        f"as of {age(now_ns - found.checkpoint_ns)} ago: {found.files} files with data",
        "\n".join(
            (
                f"journal   {_log(found.journal, now_ns)}",
                f"snapshot  {_log(found.snapshot, now_ns)}",
            )
        ),
        table(
            ("POOL", "SCHEME", ">FILES", ">LIVE BYTES", ">DEAD BYTES"),
            (
                (
                    pool.name,
                    pool.scheme,
                    str(pool.files),
                    format_size(pool.live_bytes),
                    format_size(pool.dead_bytes),
                )
                for pool in found.pools
            ),
        ),
        table(
            ("SEGMENTS THAT LIVE", *_LIVENESS),
            ((pool.name, *map(str, pool.segments_by_liveness)) for pool in found.pools),
        ),
        table(
            ("BYTES OF POOL", ">DRIVES MAY BE LOST", ">LIVE BYTES"),
            (
                (
                    view.pool,
                    "is lost" if view.left < 0 else str(view.left),
                    format_size(view.live_bytes),
                )
                for view in found.redundancy
            ),
        ),
        table(
            ("DRIVE", "POOL", ">SIZE", ">USED", ">FREE", ">DEAD", ">ERRORS", "STATE"),
            (
                (
                    drive.path,
                    pool.name,
                    *(
                        "-" if drive.missing else format_size(size)
                        for size in (
                            drive.total_bytes,
                            drive.used_bytes,
                            drive.free_bytes,
                            drive.dead_bytes,
                        )
                    ),
                    "-" if drive.missing else str(drive.errors),
                    drive.missing or ("up" if drive.state == "normal" else drive.state),
                )
                for pool in found.pools
                for drive in pool.drives
            ),
        ),
    ]
    parts.append(_next_shift(found))
    return "\n\n".join(parts)


def _next_shift(found: Overview) -> str:
    moves = [
        f"{view.files} file{'' if view.files == 1 else 's'}, {format_size(view.size_bytes)}, "
        f"from {view.source} to {view.target}"
        for view in found.next_shift.moves
    ]
    cleanings = [
        f"{view.segments} segment{'' if view.segments == 1 else 's'} of {view.pool} cleaned, "
        f"{format_size(view.live_bytes)} written anew"
        for view in found.next_shift.cleanings
    ]
    told = [*(moves or ["no file is to move"]), *cleanings]
    return f"the next shift by the rules: {'; '.join(told)}"


def _log(log: LogView, now_ns: int) -> str:
    if not log.segments:
        return "none"
    noun = "segment" if log.segments == 1 else "segments"
    size = f"{format_size(log.size_bytes)} in {log.segments} {noun}"
    return size if log.since_ns is None else f"{size}, begun {age(now_ns - log.since_ns)} ago"
