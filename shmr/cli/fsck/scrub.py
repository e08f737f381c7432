"""`shmr-fsck scrub`: read every byte, verify it, and repair what can be."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from shmr.cli.fsck.show import as_plain, show_report
from shmr.cli.jobs import rate
from shmr.cli.library import load
from shmr.cli.progress import Progress, stop_asked
from shmr.cli.show import age, table
from shmr.units import NS_PER_S, format_size

if TYPE_CHECKING:
    from shmr.fsck.scrubbing.rounds import Coverage
    from shmr.fsck.scrubbing.scrub import Scrubbed
    from shmr.service.following import Stop, Watcher

_DESCRIPTION = """\
Read every byte of the drives of the filesystem that CONFIG describes, and verify it: segments,
fragments (parity too), superblocks and copies of snapshots. All drives are read side by side, each
in the order in which its files lie there. If the filesystem is not mounted, what is damaged is
repaired where something knows better; while it is mounted nothing is changed.

A scrub may be stopped at any time with Ctrl-C, or killed: the next one goes on where it was. When
all of a drive was read the round is at its end, and the next scrub begins a new one.
"""
_EPILOG = """\
WHEN is an age (90min, 12h, 30d, 8w) or a date (2026-11-01, 2026-11-01T03:00, local time). With it
only files are read that no scrub has verified since then, whatever round is under way: what was
written since the last scrub is among them. So a scrub with `--since 30d` each night, stopped in the
morning, reads every byte about once a month.

example:
  shmr-fsck scrub /etc/shmr/media.yaml
  shmr-fsck scrub /etc/shmr/media.yaml --since 30d --limit-rate 100MiB
  shmr-fsck scrub /etc/shmr/media.yaml --drive /mnt/smr3 --no-repair --json
"""
_AGE = re.compile(r"(\d+)(min|h|d|w)")
STRANGERS = "no part of the filesystem"
"""What the library says of files that are none of shmr's: `inventory.STRANGERS`."""
_UNITS_S = {"min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class ScrubLibrary(Protocol):
    """What this command needs of `shmr.fsck.scrubbing.scrub`."""

    def scrub(
        self,
        config_path: Path,
        *,
        pool: str | None,
        drive: str | None,
        since_s: int | None,
        limit_rate: int | None,
        repair: bool,
        watcher: Watcher | None,
        stop: Stop,
    ) -> Scrubbed: ...


def add_parser(commands: Any) -> None:
    """Add `scrub` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "scrub",
        help="read and verify every byte of every drive",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("config", metavar="CONFIG", type=Path, help="the YAML configuration")
    add("--pool", metavar="P", help="only the drives of this pool")
    add("--drive", metavar="D", help="only this drive: its path, or the beginning of its id")
    add("--since", metavar="WHEN", type=when, help="only what was not verified since then")
    add(
        "--limit-rate",
        metavar="RATE",
        type=rate,
        help="read no more than this in a second, of all drives together, such as 100MiB",
    )
    add("--no-repair", action="store_true", help="only tell what is damaged, and change nothing")
    add("--json", action="store_true", help="print the report as JSON")


def when(text: str) -> int:
    """Seconds since 1970, of an age or a date that has been."""
    found = _AGE.fullmatch(text.strip())
    now_s = int(time.time())
    if found is not None:
        return max(0, now_s - int(found[1]) * _UNITS_S[found[2]])
    try:
        at_s = int(datetime.fromisoformat(text.strip()).timestamp())
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"expected an age such as 30d or a date such as 2026-11-01, found {text!r}"
        ) from None
    if not 0 <= at_s <= now_s:
        raise argparse.ArgumentTypeError(f"{text}: not a time that has been")
    return at_s


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code."""
    library = cast(ScrubLibrary, load("shmr.fsck.scrubbing.scrub"))
    with stop_asked() as stop, Progress("scrub", 0) as progress:

        def show(phase: str, size: int, total: int) -> None:
            progress.update(size, total_bytes=total, note=phase)

        done = library.scrub(
            arguments.config,
            pool=arguments.pool,
            drive=arguments.drive,
            since_s=arguments.since,
            limit_rate=arguments.limit_rate,
            repair=not arguments.no_repair,
            watcher=show,
            stop=stop,
        )
    if arguments.json:
        plain = as_plain(done.report)
        plain["coverage"] = [dataclasses.asdict(one) for one in done.coverage]
        print(json.dumps(plain, indent=2))
    else:
        told = show_report(done.report, extent=show_extent(done.coverage))
        print("\n".join([show_coverage(done.coverage), told]))
    return int(done.report.exit_code)


def show_coverage(coverage: Sequence[Coverage]) -> str:
    """What people read of the drives: of what it is said that nothing is wrong."""
    heads = ("DRIVE", "POOL", ">FILES", ">READ", ">EARLIER", ">WRONG", ">REPAIRED", ">LAST READ",
             ">LAST WHOLE")  # fmt: skip
    rows = [
        (
            one.drive,
            one.pool,
            str(one.files),
            format_size(one.read_bytes),
            str(one.earlier),
            str(one.wrong),
            str(one.repaired),
            _ago(one.read_s),
            _ago(one.whole_s),
        )
        for one in coverage
    ]
    beside = [line for one in coverage for line in _beside(one)]
    return "\n".join([table(heads, rows), *beside, *_strangers(coverage)])


def show_extent(coverage: Sequence[Coverage]) -> str:
    """How much was read, and which drives were not, or not to their end."""
    whole = sum(one.covered for one in coverage)
    size = format_size(sum(one.read_bytes for one in coverage))
    told = f"{whole} of {len(coverage)} drives read whole, {size}"
    earlier = sum(one.earlier for one in coverage)
    if earlier:
        told += f" and {earlier} files that were verified before"
    left = [f"{one.drive} ({one.why})" for one in coverage if not one.covered]
    return told + (f", but not {', '.join(left)}" if left else "")


def _strangers(coverage: Sequence[Coverage]) -> Iterator[str]:
    """In one line for all drives."""
    found = [(one, left) for one in coverage for left in one.left if left.why == STRANGERS]
    if found:
        files = sum(left.files for _, left in found)
        size = format_size(sum(left.size_bytes for _, left in found))
        drives = ", ".join(one.drive for one, _ in found)
        noun = "file is" if files == 1 else "files are"
        yield f"{files} {noun} {STRANGERS} and not read ({size}), on {drives}"


def _beside(one: Coverage) -> Iterator[str]:
    """What a drive's row does not say."""
    if not one.covered:
        yield f"{one.drive}: not covered, or not all of it: {one.why}"
    for left in one.left:
        if left.why == STRANGERS:
            continue
        noun = "file" if left.files == 1 else "files"
        size = format_size(left.size_bytes)
        yield f"{one.drive}: {left.files} {noun} not read ({size}): {left.why}"
    if one.harmless:
        yield f"{one.drive}: {one.harmless} damaged places in which no file's bytes are"


def _ago(at_s: int) -> str:
    return f"{age(time.time_ns() - at_s * NS_PER_S)} ago" if at_s else "never"
