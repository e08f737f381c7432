"""`shmr redundancy`: how many drives an archive pool may lose."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from shmr.cli.jobs import Asked, add_options, watch
from shmr.cli.library import Service

if TYPE_CHECKING:
    from shmr.service.drives.rehousing import Rehoused

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
        self, config_path: Path, pool_name: str, m: int, **asked: Unpack[Asked]
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
    add_options(parser.add_argument)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, service: Service) -> None:
    change = cast(RedundancyService, service).redundancy
    watch(
        "redundancy",
        arguments,
        lambda asked: change(arguments.config, arguments.pool, arguments.m, **asked),
    )
