"""`shmr drive`: the drives of a filesystem's archive pools."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from shmr.cli.jobs import Asked, add_options, watch
from shmr.cli.library import Service
from shmr.cli.show import as_json, table
from shmr.units import format_size

if TYPE_CHECKING:
    from shmr.service.drives.list import DriveList
    from shmr.service.drives.rehousing import Rehoused

STATES = ("prefer", "normal", "avoid", "drain")

_DESCRIPTION = """\
Show and change the drives of the archive pools of the filesystem that CONFIG describes. Only `list`
works while it is mounted. DRIVE is a path that the config has, or the beginning of an id that
`list` shows. What works long may be stopped with Ctrl-C, and goes on when it is run again.
"""
_EPILOG = """\
example:
  shmr drive list /etc/shmr/media.yaml
  shmr drive replace /etc/shmr/media.yaml /mnt/smr3 /mnt/smr7
"""
_LIST = """\
Tell which drives there are: their ids, what they are meant for, and how many fragments they hold.
"""
_ADD = """\
Make empty directories, which the config names, drives of their pools. The first drive of a pool
that is new in the config begins it. A drive that had left its pool comes back with what it holds.
"""
_REMOVE = """\
Take a drive that is there, and has been drained, out of its pool.
"""
_FORGET = """\
Take a drive that will not come back out of its pool. What it held is better rebuilt first, with
`drain` or `replace`.
"""
_DRAIN = """\
Move every fragment off a drive, and give it nothing any more. Those of a drive that is missing are
rebuilt from the others.
"""
_REPLACE = """\
Move or rebuild everything that is on OLD onto NEW, then take OLD out of the pool. NEW is an empty
directory that the config names, or a drive of the pool.
"""
_REBALANCE = """\
Move fragments from fuller drives to emptier ones, until all are about as full.
"""
_STATE = """\
Say what a drive is meant for: `prefer`, `normal` and `avoid` are taken in this order for what is
written, `drain` takes nothing.
"""


class DriveService(Protocol):
    """What this command needs of `shmr.service`."""

    def drive_list(self, config_path: Path) -> DriveList: ...

    def drive_add(self, config_path: Path, *paths: Path) -> tuple[str, ...]: ...

    def drive_remove(self, config_path: Path, drive: str, *, force: bool) -> tuple[str, ...]: ...

    def drive_forget(self, config_path: Path, drive: str, *, force: bool) -> tuple[str, ...]: ...

    def drive_state(self, config_path: Path, drive: str, state: str) -> None: ...

    def drive_drain(self, config_path: Path, drive: str, **asked: Unpack[Asked]) -> Rehoused: ...

    def drive_replace(
        self, config_path: Path, old: str, new: Path, **asked: Unpack[Asked]
    ) -> Rehoused: ...

    def drive_rebalance(
        self, config_path: Path, pool_name: str | None, **asked: Unpack[Asked]
    ) -> Rehoused: ...


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "drive",
        help="show and change the drives of archive pools",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(
        name: str, brief: str, description: str, example: str, run: Callable[..., None]
    ) -> Callable[..., argparse.Action]:
        made = verbs.add_parser(
            name,
            help=brief,
            description=description,
            epilog=f"example:\n  shmr drive {name} /etc/shmr/media.yaml{example}\n",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("config", metavar="CONFIG", type=Path, help="the YAML configuration")
        made.set_defaults(run=run)
        return made.add_argument

    drive_help = "a path that the config has, or the beginning of an id"
    force_help = "also where redundancy is lowered or bytes are lost"
    add = verb("list", "the drives of all pools", _LIST, "", run_list)
    add("--json", action="store_true", help="print JSON")
    add = verb("add", "an empty directory becomes a drive", _ADD, " /mnt/smr7", run_add)
    add("paths", metavar="PATH", type=Path, nargs="+", help="a directory that the config names")
    add = verb("remove", "take out a drive that is there", _REMOVE, " /mnt/smr3", run_remove)
    add("drive", metavar="DRIVE", help=drive_help)
    add("--force", action="store_true", help=force_help)
    add = verb("forget", "take out a drive that is lost", _FORGET, " 5e1c08aa", run_forget)
    add("drive", metavar="DRIVE", help=drive_help)
    add("--force", action="store_true", help=force_help)
    add = verb("drain", "move everything off a drive", _DRAIN, " /mnt/smr3", run_drain)
    add("drive", metavar="DRIVE", help=drive_help)
    add_options(add)
    places = " /mnt/smr3 /mnt/smr7"
    add = verb("replace", "put one drive in the place of another", _REPLACE, places, run_replace)
    add("old", metavar="OLD", help=drive_help)
    add("new", metavar="NEW", type=Path, help="a directory that the config names")
    add_options(add)
    add = verb("rebalance", "even out how full drives are", _REBALANCE, "", run_rebalance)
    add("--pool", metavar="P", help="only this pool (default: all archive pools)")
    add_options(add)
    add = verb("state", "what a drive is meant for", _STATE, " /mnt/smr3 avoid", run_state)
    add("drive", metavar="DRIVE", help=drive_help)
    add("state", choices=STATES, help="prefer, normal, avoid or drain")


def run_list(arguments: argparse.Namespace, service: Service) -> None:
    found = cast(DriveService, service).drive_list(arguments.config)
    print(as_json(found) if arguments.json else show_drives(found))


def show_drives(found: DriveList) -> str:
    """The table that people read."""
    rows = [
        (
            drive.pool,
            drive.path or (f"(was {drive.was_at})" if drive.was_at else "-"),
            "-" if drive.drive is None else drive.drive[:8],
            drive.missing or drive.state or "-",
            str(drive.fragments),
            "-" if drive.missing else format_size(drive.used_bytes),
            "-" if drive.missing else format_size(drive.free_bytes),
        )
        for drive in found.drives
    ]
    heads = ("POOL", "DRIVE", "ID", "STATE", ">FRAGMENTS", ">USED", ">FREE")
    return table(heads, rows)


def run_add(arguments: argparse.Namespace, service: Service) -> None:
    add = cast(DriveService, service).drive_add
    print("\n".join(add(arguments.config, *arguments.paths)))


def run_remove(arguments: argparse.Namespace, service: Service) -> None:
    remove = cast(DriveService, service).drive_remove
    print("\n".join(remove(arguments.config, arguments.drive, force=arguments.force)))


def run_forget(arguments: argparse.Namespace, service: Service) -> None:
    forget = cast(DriveService, service).drive_forget
    print("\n".join(forget(arguments.config, arguments.drive, force=arguments.force)))


def run_state(arguments: argparse.Namespace, service: Service) -> None:
    cast(DriveService, service).drive_state(arguments.config, arguments.drive, arguments.state)


def run_drain(arguments: argparse.Namespace, service: Service) -> None:
    drain = cast(DriveService, service).drive_drain
    watch("drain", arguments, lambda asked: drain(arguments.config, arguments.drive, **asked))


def run_replace(arguments: argparse.Namespace, service: Service) -> None:
    change = cast(DriveService, service).drive_replace
    watch(
        "replace",
        arguments,
        lambda asked: change(arguments.config, arguments.old, arguments.new, **asked),
    )


def run_rebalance(arguments: argparse.Namespace, service: Service) -> None:
    balance = cast(DriveService, service).drive_rebalance
    watch("rebalance", arguments, lambda asked: balance(arguments.config, arguments.pool, **asked))
