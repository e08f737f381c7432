"""`shmr mount`: show a filesystem at a directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from shmr.cli.library import Service

_DESCRIPTION = """\
Mount the filesystem that CONFIG describes at the directory MOUNTPOINT. Returns when the mount
answers. The first mount creates the filesystem, if all drive directories are empty.
"""

_EPILOG = """\
example:
  shmr mount /etc/shmr/media.yaml /srv/media
  shmr mount -o allow_other /etc/shmr/media.yaml /srv/media
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "mount",
        help="mount a filesystem",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", type=Path, help="a directory")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="mount options, separated by commas: ro, allow_other, nosuid, dev, noexec, ...",
    )
    parser.add_argument(
        "--foreground",
        action="store_true",
        help="stay in the foreground and log to standard error until unmounted",
    )
    parser.add_argument(
        "--read-only",
        action="store_true",
        help="change nothing, neither for programs nor on the drives (same as -o ro)",
    )
    parser.add_argument(
        "--degraded",
        action="store_true",
        help="mount without the drives that are missing, as far as redundancy allows",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, service: Service) -> None:
    options = [word for group in arguments.options for word in group.split(",") if word]
    service.mount(
        arguments.config,
        arguments.mountpoint,
        options=tuple(options),
        foreground=arguments.foreground,
        read_only=arguments.read_only or "ro" in options,
        degraded=arguments.degraded,
    )
