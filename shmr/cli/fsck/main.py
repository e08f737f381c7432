"""The command `shmr-fsck`: finds the subcommand, and turns reports and errors into an exit code.

The codes are those of fsck(8): 0 clean; 1 something was wrong and is repaired; 4 something is wrong
and is left; 8 it could not run, and one message on standard error says why and what to do; 16 the
command line was wrong; 32 interrupted, and the next run goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from shmr.cli.fsck import check, decode, drill, rebuild_catalog, rebuild_drive, repair, scrub
from shmr.cli.main import message_of, version
from shmr.errors import ShmrError

CLEAN, REPAIRED, LEFT, FAILED, USAGE, INTERRUPTED = 0, 1, 4, 8, 16, 32

COMMANDS: tuple[ModuleType, ...] = (
    check,
    scrub,
    repair,
    rebuild_drive,
    rebuild_catalog,
    decode,
    drill,
)
"""Each has `add_parser(commands)`; a parsed subcommand carries its `run(arguments) -> int`."""

_DESCRIPTION = """\
What to reach for when something broke: check, repair, rebuild, and get files out.
"""
_EPILOG = """\
exit codes: 0 clean, 1 repaired, 4 errors left, 8 could not run (standard error says why),
16 wrong command line, 32 interrupted
"""


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2 for a wrong command line, which means "restart" to callers of fsck."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="shmr-fsck",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"shmr-fsck {version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: the process's own); returns the exit code."""
    parsed = build_parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        return code
    except (ShmrError, OSError) as error:
        print(f"shmr-fsck {parsed.command}: {message_of(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"shmr-fsck {parsed.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
