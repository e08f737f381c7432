"""`shmr-fsck rebuild-drive`: what was on a lost drive, written anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack, cast

from shmr.cli.jobs import Asked, add_options, followed, report
from shmr.cli.library import load
from shmr.cli.show import as_json

if TYPE_CHECKING:
    from shmr.service.drives.rehousing import Rehoused

_DESCRIPTION = """\
Write everything that was on an archive drive anew, from the others: on these, or on a new drive.
What is closest to loss comes first. The drive may be lost, or still be there and failing. Stopped
with Ctrl-C or killed, it goes on where it was when it is run again. Of a mirrored workspace a drive
that was lost is copied anew to an empty directory in its place.
"""
_EPILOG = """\
exit codes: 0 nothing is to be done, 1 all is written anew, 4 something is left (of a dry run: to be
done), 8 it could not run, 32 interrupted

example:
  shmr-fsck rebuild-drive /etc/shmr/media.yaml /mnt/smr3 --onto /mnt/smr7
"""
CLEAN, REPAIRED, LEFT, INTERRUPTED = 0, 1, 4, 32


class RebuildLibrary(Protocol):
    """What this command needs of `shmr.fsck.rebuilding.drive`."""

    def rebuild_drive(
        self, config_path: Path, drive: str, *, onto: Path | None, **asked: Unpack[Asked]
    ) -> Rehoused: ...


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "rebuild-drive",
        help="write anew what was on a lost drive",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument(
        "drive", metavar="DRIVE", help="a path that the config has, or the beginning of an id"
    )
    parser.add_argument(
        "--onto",
        metavar="PATH",
        type=Path,
        help="all on this drive: an empty directory that the config names, or a drive of the pool",
    )
    add_options(parser.add_argument)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(RebuildLibrary, load("shmr.fsck.rebuilding.drive"))
    done = followed(
        "rebuild",
        arguments,
        lambda asked: library.rebuild_drive(
            arguments.config, arguments.drive, onto=arguments.onto, **asked
        ),
    )
    print(as_json(done) if arguments.json else report(done))
    if done.stopped:
        return INTERRUPTED
    if not done.is_complete:
        return LEFT
    if not done.moved:
        return CLEAN
    return LEFT if done.dry_run else REPAIRED
