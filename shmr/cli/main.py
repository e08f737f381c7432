"""The command `shmr`: finds the subcommand, and turns errors into a line and an exit code.

Exit codes: 0 done; 1 it could not be done, and one message on standard error says why and what
to do; 2 the command line was wrong; 130 interrupted. They are stable.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from collections.abc import Callable, Sequence

from shmr.cli import create, drive, inspect, mount, redundancy, umount
from shmr.cli.library import Service, load_service
from shmr.errors import ShmrError

DONE, FAILED, INTERRUPTED = 0, 1, 130

COMMANDS = (mount, umount, create, inspect, drive, redundancy)

_EPILOG = """\
exit codes: 0 done, 1 failed (standard error says why), 2 wrong command line, 130 interrupted

example:
  shmr mount /etc/shmr/media.yaml /srv/media
  shmr umount /srv/media
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; a parsed subcommand carries its `run`."""
    parser = argparse.ArgumentParser(
        prog="shmr",
        description="A filesystem for a little fast storage and a lot of shingled storage.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shmr {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def version() -> str:
    """What pip has installed."""
    try:
        return importlib.metadata.version("shmr")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: run from its source)"


def main(
    arguments: Sequence[str] | None = None,
    *,
    load: Callable[[], Service] = load_service,
) -> int:
    """Run the command line `arguments` (default: the process's own); returns the exit code."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed, load())
    except (ShmrError, OSError) as error:
        print(f"shmr {parsed.command}: {message_of(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"shmr {parsed.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return DONE


def message_of(error: Exception) -> str:
    """An error as people read it, without a traceback."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
