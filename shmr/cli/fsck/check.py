"""`shmr-fsck check`: what is wrong, by metadata alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from shmr.cli.fsck.show import report_json, show_report
from shmr.cli.library import load
from shmr.cli.progress import Progress, stop_asked

if TYPE_CHECKING:
    from shmr.fsck.findings import Report
    from shmr.service.following import Stop, Watcher

_DESCRIPTION = """\
Look for everything that is wrong: the catalog against itself, and against what lies on the drives.
Metadata only, so it is quick; whether every byte can be read, `shmr-fsck scrub` tells. Nothing
is changed. A mounted filesystem is looked at as of its last checkpoint.
"""
_EPILOG = """\
exit codes: 0 nothing is wrong, 4 something is, 8 it could not be looked at, 32 interrupted

example:
  shmr-fsck check /etc/shmr/media.yaml
"""


class CheckLibrary(Protocol):
    """What this command needs of `shmr.fsck.checking.check`."""

    def check(self, config_path: Path, *, watcher: Watcher | None, stop: Stop) -> Report: ...


def add_parser(commands: Any) -> None:
    """Add `check` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="tell what is wrong, from metadata alone; changes nothing",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(CheckLibrary, load("shmr.fsck.checking.check"))
    with stop_asked() as stop, Progress("check", 0, of_bytes=False) as progress:

        def show(phase: str, size: int, total: int) -> None:
            progress.update(size, total_bytes=total, note=phase)

        report = library.check(arguments.config, watcher=show, stop=stop)
    if arguments.json:
        print(report_json(report))
    else:
        print(show_report(report))
    return int(report.exit_code)
