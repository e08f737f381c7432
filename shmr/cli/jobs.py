"""What commands share that write fragments anew: options, progress, Ctrl-C, and the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypedDict, TypeVar

from shmr.cli.progress import Progress, stop_asked
from shmr.cli.show import as_json, table
from shmr.errors import SetupError
from shmr.units import format_size, parse_size

if TYPE_CHECKING:
    from shmr.archive.exposure import AtRisk
    from shmr.service.drives.rehousing import Rehoused
    from shmr.service.following import Stop, Watcher

D = TypeVar("D")


class Asked(TypedDict):
    """What a long call of the library is given besides its own arguments."""

    dry_run: bool
    limit_rate: int | None
    watcher: Watcher | None
    stop: Stop


def add_options(add: Callable[..., argparse.Action]) -> None:
    """The options that all of them have."""
    add("--dry-run", action="store_true", help="only tell what would be done, and change nothing")
    add(
        "--limit-rate",
        metavar="RATE",
        type=rate,
        help="write no more than this in a second, such as 50MiB",
    )
    add("--json", action="store_true", help="print the report as JSON")


def rate(text: str) -> int:
    """Bytes per second, of an option."""
    try:
        found = parse_size(text.removesuffix("/s"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if found < 1:
        raise argparse.ArgumentTypeError("a rate is at least one byte per second")
    return found


def watch(name: str, arguments: argparse.Namespace, call: Callable[[Asked], Rehoused]) -> None:
    """Make a long call with a progress bar, and print what came of it.

    Raises SetupError where something was left, KeyboardInterrupt where it was stopped.
    """
    done = followed(name, arguments, call)
    print(as_json(done) if arguments.json else report(done))
    if done.stopped:
        print("stopped; run it again to go on", file=sys.stderr)
        raise KeyboardInterrupt
    if not done.is_complete:
        what = "can be" if done.dry_run else "could be"
        raise SetupError(f"not all {what} done; see the report")


def followed(name: str, arguments: argparse.Namespace, call: Callable[[Asked], D]) -> D:
    """Make a long call, with a progress bar where it is no dry run."""
    if arguments.dry_run:
        return call(Asked(dry_run=True, limit_rate=arguments.limit_rate, watcher=None, stop=_never))
    with stop_asked() as stop, Progress(name, 0) as progress:

        def show(phase: str, size: int, total: int) -> None:
            progress.update(size, total_bytes=total, note=phase)

        return call(Asked(dry_run=False, limit_rate=arguments.limit_rate, watcher=show, stop=stop))


def _never() -> bool:
    return False


def report(done: Rehoused) -> str:
    """What people read."""
    noun = done.what if done.moved == 1 else done.what + "s"
    if done.dry_run:
        took = f"{format_size(done.moved_bytes)}, about {done.seconds:.0f} s"
        lines = [f"{done.moved} {noun} would be written anew: {took}"]
    else:
        lines = [f"{done.moved} {noun} written anew and verified"]
    if done.dropped:
        would = "would be " if done.dry_run else ""
        lines.append(f"{done.dropped} fragments of parity {would}dropped")
    if done.left:
        lines.append(f"{done.left} {'would be' if done.dry_run else 'are'} left to be done")
    if done.shortage:
        lines.append(f"no place: {done.shortage}")
    lines += [f"a drive failed, and was given nothing more: {failed}" for failed in done.failed]
    if done.risk:
        now = "then" if done.dry_run else "now"
        after = _risks(done.risk_left) or "nothing"
        before = _risks(done.risk)
        lines.append(f"at risk, by drives that may still be lost: {before}; {now}: {after}")
    if done.drives:
        rows = ((d.label, format_size(d.write_bytes), str(d.zones_left)) for d in done.drives)
        lines.append(table(("DRIVE", ">WRITTEN", ">ZONES LEFT"), rows))
    return "\n".join([*lines, *done.lost, *done.advice])


def _risks(risks: Iterable[AtRisk]) -> str:
    return ", ".join(map(str, risks))
