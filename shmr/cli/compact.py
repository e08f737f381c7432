"""The command `shmr-compact`: move cold files to archive pools, or back.

Exit codes: 0 done; 1 it could not be done, and one message on standard error says why and what to
do, or a file or a drive failed, and the report says which; 2 the command line was wrong; 130
stopped by Ctrl-C, and the next run goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from shmr.cli.jobs import rate
from shmr.cli.library import load_service
from shmr.cli.main import DONE, FAILED, INTERRUPTED, version
from shmr.cli.progress import Progress, stop_asked
from shmr.cli.show import as_json, table
from shmr.errors import ShmrError, Unfinished
from shmr.units import format_size

if TYPE_CHECKING:
    from shmr.archive.forecast import Forecast
    from shmr.service.following import Watcher
    from shmr.service.moving.compact import Compaction

_DESCRIPTION = """\
Move files between the pools of the filesystem that CONFIG describes, while it is not mounted: what
the rules of the config call cold, or what is named here. May be stopped with Ctrl-C at any time,
and goes on where it was when it is run again.
"""
_EPILOG = """\
exit codes: 0 done, 1 failed (standard error says why), or a file or drive did (the report says
which), 2 wrong command line, 130 stopped

example:
  shmr-compact /etc/shmr/media.yaml
  shmr-compact /etc/shmr/media.yaml --dry-run
  shmr-compact /etc/shmr/media.yaml --path photos/2019 --to cold
  shmr-compact /etc/shmr/media.yaml --from cold --to ssd --inode 4711
"""


class CompactService(Protocol):
    """What this command needs of `shmr.service`."""

    def compact(
        self,
        config_path: Path,
        *,
        inodes: Sequence[int],
        paths: Sequence[str],
        source: str | None,
        target: str | None,
        everything: bool,
        flush: bool,
        dry_run: bool,
        limit_rate: int | None,
        watcher: Watcher | None,
        stop: Callable[[], bool],
    ) -> Compaction: ...


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shmr-compact",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    add(
        "--inode",
        metavar="N",
        dest="inodes",
        type=int,
        action="append",
        default=[],
        help="move this file, at once (may be repeated)",
    )
    add(
        "--path",
        metavar="P",
        dest="paths",
        action="append",
        default=[],
        help="move this file, or all below this directory, at once; counted from the top of the "
        "filesystem (may be repeated)",
    )
    add(
        "--all",
        dest="everything",
        action="store_true",
        help="move all that lies in the pool of --from (default: the workspace), cold or not",
    )
    add(
        "--from",
        metavar="POOL",
        dest="source",
        help="only what lies in this pool; without --all, --path or --inode the rules still choose",
    )
    add(
        "--to",
        metavar="POOL",
        dest="target",
        help="the pool to move to (default: the next after --from); the rules choose, as above",
    )
    add("--version", action="version", version=f"shmr {version()}")
    add("--flush", action="store_true", help="move also what does not fill half a segment")
    add("--dry-run", action="store_true", help="only tell what would move, and change nothing")
    add(
        "--limit-rate",
        metavar="RATE",
        type=rate,
        help="read no more than this of files in a second, such as 50MiB",
    )
    add("--json", action="store_true", help="print the report as JSON")
    return parser


def main(
    arguments: Sequence[str] | None = None,
    *,
    load: Callable[[], object] = load_service,
) -> int:
    """Run the command line `arguments` (default: the process's own); returns the exit code."""
    parsed = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        done = _run(parsed, cast(CompactService, load()))
    except Unfinished as error:
        done = cast("Compaction", error.done)
        print(as_json(done) if parsed.json else report(done))
        print(f"shmr-compact: {error}", file=sys.stderr)
        return FAILED
    except (ShmrError, OSError) as error:
        print(f"shmr-compact: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("shmr-compact: stopped at once; the next run puts it in order", file=sys.stderr)
        return INTERRUPTED
    print(as_json(done) if parsed.json else report(done))
    if done.stopped:
        print("shmr-compact: stopped; run it again to go on", file=sys.stderr)
        return INTERRUPTED
    return FAILED if done.unreadable or done.failed else DONE


def _run(parsed: argparse.Namespace, service: CompactService) -> Compaction:
    def compact(watcher: Watcher | None, stop: Callable[[], bool]) -> Compaction:
        return service.compact(
            parsed.config,
            inodes=parsed.inodes,
            paths=parsed.paths,
            source=parsed.source,
            target=parsed.target,
            everything=parsed.everything,
            flush=parsed.flush,
            dry_run=parsed.dry_run,
            limit_rate=parsed.limit_rate,
            watcher=watcher,
            stop=stop,
        )

    if parsed.dry_run:
        return compact(None, lambda: False)
    with stop_asked() as stop, Progress("shift", 0) as progress:
        return compact(
            lambda phase, done, total: progress.update(done, total_bytes=total, note=phase), stop
        )


def report(done: Compaction) -> str:
    """What people read."""
    if done.dry_run:
        return _foretold(done)
    lines = [
        f"moved {format_size(one.moved_bytes)} from {' and '.join(one.sources)} to {one.target}"
        for one in done.routes
    ] or ["nothing was moved: the rules call nothing cold (--all moves it all the same)"]
    if done.segments:
        lines.append(f"{done.segments} {'segment' if done.segments == 1 else 'segments'} written")
    if done.waiting_bytes:
        lines.append(
            f"{format_size(done.waiting_bytes)} wait until there is enough for half a segment "
            "(--flush moves them now)"
        )
    if done.strays:
        lines.append(f"{done.strays} fragments that a run cut off had left are gone")
    if done.retired:
        lines.append(f"{done.retired} archived segments in which nothing lives are gone")
    for inode, why in sorted(done.unreadable.items()):
        lines.append(f"inode {inode} stays where it is: {why}")
    for _, why in sorted(done.failed.items()):
        lines.append(f"{why}: others took its part; see to it, or `shmr drive drain` it")
    return "\n".join(lines)


def _foretold(done: Compaction) -> str:
    parts = list(map(_forecast, done.forecasts)) or ["nothing would move"]
    if done.write_amplification is not None:
        parts.append(
            f"write amplification expected: {done.write_amplification:.2f} (written to archive "
            "pools, without parity, per byte moved there)"
        )
    rows = (
        (one.pool, format_size(one.free_bytes), format_size(one.free_after_bytes))
        for one in done.space
    )
    parts.append(table(("POOL", ">FREE NOW", ">FREE AFTER"), rows))
    return "\n\n".join(parts)


def _forecast(found: Forecast) -> str:
    ratio = found.written_bytes / found.file_bytes if found.file_bytes else 0.0
    what = f"cleaning {found.victims} segments of" if found.victims else "to"
    lines = [
        f"{what} {found.target}: {format_size(found.file_bytes)} of {found.files} files, in "
        f"{found.segments} segments; {format_size(found.written_bytes)} written to drives "
        f"({ratio:.2f} times as much), about {found.seconds:.0f} s; then any "
        f"{found.redundancy} drives may be lost",
    ]
    if found.waiting_bytes:
        lines.append(
            f"  {format_size(found.waiting_bytes)} would wait until there is enough for half a "
            "segment (--flush moves them now)"
        )
    if found.shortage:
        lines.append(f"  not all would find place: {found.shortage}")
    if found.drives:
        rows = ((d.label, format_size(d.write_bytes), str(d.zones_left)) for d in found.drives)
        lines.append(table(("DRIVE", ">WRITTEN", ">ZONES LEFT"), rows))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
