"""`shmr umount`: end a mount."""

from __future__ import annotations

import argparse
from pathlib import Path

from shmr.cli.library import Service

_DESCRIPTION = """\
Unmount the filesystem at MOUNTPOINT. Returns when everything is written and the daemon is gone,
so that the drives may be unplugged.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "umount",
        help="unmount a filesystem",
        description=_DESCRIPTION,
        epilog="example:\n  shmr umount /srv/media\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "mountpoint", metavar="MOUNTPOINT", type=Path, help="where the filesystem is mounted"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, service: Service) -> None:
    service.unmount(arguments.mountpoint)
