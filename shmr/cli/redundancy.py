"""`shmr redundancy`: how many drives an archive pool may lose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from shmr.cli.drive import watch
from shmr.cli.library import Service

if TYPE_CHECKING:
    from shmr.service.following import Stop, Watcher
    from shmr.service.rehousing import Rehoused

_DESCRIPTION = """\
Make everything in an archive pool survive the loss of any N drives, while the filesystem is not
mounted. More parity is written beside what is there; less is dropped when all that stays was read
and verified. May be stopped with Ctrl-C, and goes on when it is run again.
"""
_EPILOG = """\
example:
  shmr redundancy /etc/shmr/media.yaml --pool cold --m 3
"""


class RedundancyService(Protocol):
    """What this command needs of `shmr.service`."""

    def redundancy(
        self, config_path: Path, pool_name: str, m: int, *, watcher: Watcher, stop: Stop
    ) -> Rehoused: ...


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "redundancy",
        help="how many drives an archive pool may lose",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument("--pool", metavar="P", required=True, help="an archive pool")
    parser.add_argument("--m", metavar="N", type=int, required=True, help="drives that may be lost")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, service: Service) -> None:
    change = cast(RedundancyService, service).redundancy
    watch(
        "redundancy",
        lambda watcher, stop: change(
            arguments.config, arguments.pool, arguments.m, watcher=watcher, stop=stop
        ),
        as_text=not arguments.json,
    )
