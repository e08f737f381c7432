"""`shmr-fsck repair`: what can be put right is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from shmr.cli.fsck.show import report_json, show_report
from shmr.cli.jobs import add_options, followed
from shmr.cli.library import load

if TYPE_CHECKING:
    from shmr.fsck.findings import Report
    from shmr.service.following import Stop, Watcher

_DESCRIPTION = """\
Look for everything that `shmr-fsck check` looks for, and put right what can be: the catalog from
the log, rows from each other, fragments and copies from those that are whole. Files that no name
leads to get one in lost+found, which tells their inode. What is lost stays told of: nothing is
filled with zeros, and no file is removed. Not while it is mounted. Stopped or killed, it is run
again.
"""
_EPILOG = """\
exit codes: 0 nothing was wrong, 1 all is repaired, 4 something is left (or would be repaired, with
--dry-run), 8 it could not run, 32 interrupted

example:
  shmr-fsck repair /etc/shmr/media.yaml --dry-run
  shmr-fsck repair /etc/shmr/media.yaml
"""


class RepairLibrary(Protocol):
    """What this command needs of `shmr.fsck.mending.repair`."""

    def repair(
        self,
        config_path: Path,
        *,
        dry_run: bool,
        cut_log: bool,
        discard_unknown: bool,
        limit_rate: int | None,
        watcher: Watcher | None,
        stop: Stop,
    ) -> Report: ...


def add_parser(commands: Any) -> None:
    """Add `repair` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "repair",
        help="put right what can be",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument(
        "--cut-log",
        action="store_true",
        help="where durable frames of the log are missing, give up what came after them",
    )
    parser.add_argument(
        "--discard-unknown",
        action="store_true",
        help="discard what archive drives have that is newer than what a lost workspace was made "
        "anew from, and that no file leads to",
    )
    add_options(parser.add_argument)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(RepairLibrary, load("shmr.fsck.mending.repair"))
    report = followed(
        "repair",
        arguments,
        lambda asked: library.repair(
            arguments.config,
            cut_log=arguments.cut_log,
            discard_unknown=arguments.discard_unknown,
            **asked,
        ),
    )
    if arguments.json:
        print(report_json(report))
    else:
        print(show_report(report, foretold=arguments.dry_run))
    return int(report.exit_code)
