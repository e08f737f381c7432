"""`shmr-fsck rebuild-catalog`: the catalog made anew, also where the workspace is gone."""

from __future__ import annotations

import argparse
import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from shmr.cli.fsck.show import as_plain, show_report
from shmr.cli.library import load
from shmr.cli.progress import Progress, stop_asked
from shmr.units import NS_PER_S, format_size

if TYPE_CHECKING:
    from shmr.fsck.rebuilding.catalog import Rebuilt
    from shmr.service.following import Stop, Watcher

_DESCRIPTION = """\
Make the catalog anew from the log: it is lost, damaged, or not to be trusted. The old one is kept
beside it. Where the workspace itself is gone, give it new, empty directories at the paths that the
config has: then names and attributes come from the newest snapshot on the archive drives, and what
was archived since is found by the footers of fragments, and put into /lost+found. The report says
what is missing. Unmounted only.
"""
_EPILOG = """\
example:
  shmr-fsck rebuild-catalog /etc/shmr/media.yaml --dry-run
"""


class RebuildLibrary(Protocol):
    """What this command needs of `shmr.fsck.rebuilding.catalog`."""

    def rebuild_catalog(
        self,
        config_path: Path,
        *,
        dry_run: bool,
        missing_are_lost: bool,
        watcher: Watcher | None,
        stop: Stop,
    ) -> Rebuilt: ...


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "rebuild-catalog",
        help="make the catalog anew, also where the workspace is gone",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument(
        "--dry-run", action="store_true", help="only tell what would be done, and change nothing"
    )
    parser.add_argument(
        "--missing-are-lost",
        action="store_true",
        help="more archive drives are missing than a pool can spare, and none will come back: "
        "begin anew with what the others have",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(RebuildLibrary, load("shmr.fsck.rebuilding.catalog"))
    with stop_asked() as stop, Progress("rebuild-catalog", 0) as progress:

        def show(phase: str, done: int, total: int) -> None:
            progress.update(done, total_bytes=total, note=phase)

        done = library.rebuild_catalog(
            parsed.config,
            dry_run=parsed.dry_run,
            missing_are_lost=parsed.missing_are_lost,
            watcher=show,
            stop=stop,
        )
    print(json.dumps(plain(done), indent=2) if parsed.json else told(done))
    return int(done.report.exit_code)


def plain(done: Rebuilt) -> dict[str, Any]:
    """The report, and with it what only this command has to tell."""
    own = {
        field.name: getattr(done, field.name)
        for field in dataclasses.fields(done)
        if field.name != "report"
    }
    return {**as_plain(done.report), **own}


def told(done: Rebuilt) -> str:
    """What people read."""
    lines = [show_report(done.report, foretold=done.dry_run)]
    if done.snapshot_ns is not None:
        when = datetime.fromtimestamp(done.snapshot_ns // NS_PER_S).isoformat(" ")
        lines.append(
            f"names and attributes are those of the snapshot of {when}: files that were made later "
            "and not archived are gone, and how many there were cannot be known"
        )
    elif done.source == "footers":
        lines.append("no snapshot was found: no name, owner or time of any file is known")
    if done.unused_bytes:
        lines.append(
            f"{format_size(done.unused_bytes)} were archived behind the snapshot of files that it "
            "has whole: they are left out, and left on the drives (`shmr-fsck check` tells of "
            "them); the files are as they were then"
        )
    if done.source:
        made = "would be" if done.dry_run else "are"
        lines.append(f"{done.inodes} inodes {made} in the new catalog")
    if done.aside is not None:
        lines.append(f"the old catalog is kept as {done.aside}")
    return "\n".join(lines)
