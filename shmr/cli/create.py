"""`shmr create`: make a new, empty filesystem."""

from __future__ import annotations

import argparse
from pathlib import Path

from shmr.cli.library import Service

_DESCRIPTION = """\
Make the filesystem that CONFIG describes, without mounting it. Every drive directory must exist
and be empty (but for lost+found). The first mount does the same by itself.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "create",
        help="make a new filesystem",
        description=_DESCRIPTION,
        epilog="example:\n  shmr create /etc/shmr/media.yaml\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, service: Service) -> None:
    service.create(arguments.config)
    print(f"created; mount it with: shmr mount {arguments.config} MOUNTPOINT")
