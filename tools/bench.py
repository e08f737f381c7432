#!/usr/bin/env python3
"""The same work on shmr, the native filesystem, bindfs and mergerfs, in turn.

Several rounds; in each, every group of rows runs on every target, in an order drawn anew, on
fresh directories of one disk. Prints medians, ratios, the server's CPU per operation and which of
shmr's goals are reached. Says nothing about seconds: the machine decides those. docs/performance.md
explains the rows.

    tools/bench.py                                    # everything: some 20 minutes
    tools/bench.py --rounds 3 --size 256MiB --files 4000
    tools/bench.py --targets shmr,bindfs --rows create,unlink
    tools/bench.py --profile create                   # needs py-spy
    tools/bench.py archive --help                     # shmr-compact against a copy and SnapRAID
    tools/bench.py fsck --help                        # shmr-fsck against cat, a copy and SnapRAID

Run as root, or the caches cannot be dropped and the cold rows are left out. Ctrl-C unmounts,
removes what was made and prints what was measured until then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench_kit import archive, fsck
from bench_kit.measure import RowFailed, measure
from bench_kit.report import Results, Sample, as_json, as_text
from bench_kit.rows import CHUNK, GROUPS, PAGE, ROWS, Row, Site, rows_of
from bench_kit.targets import (
    TARGETS,
    Mount,
    Place,
    Target,
    can_drop_caches,
    drop_caches,
    is_mounted,
)

from shmr.units import format_size, parse_size

DEFAULT_TARGETS = "shmr,native,bindfs,mergerfs"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how much of it."""

    targets: tuple[Target, ...]
    rows: frozenset[str]
    rounds: int
    size_bytes: int
    files: int
    requests: int
    durable_writes: int
    directory: Path
    seed: int
    limit_s: float
    cpus: tuple[int, ...]
    profile: str | None = None

    def site(self, mount: Mount) -> Site:
        return Site(
            mount.root,
            mount.is_fuse,
            self.size_bytes,
            self.files,
            self.requests,
            self.durable_writes,
            self.seed,
        )

    def about(self) -> dict[str, object]:
        return {
            "targets": {target.name: target.options for target in self.targets},
            "rounds": self.rounds,
            "size_bytes": self.size_bytes,
            "files": self.files,
            "requests": self.requests,
            "durable_writes": self.durable_writes,
            "seed": self.seed,
            "cpus": len(self.cpus),
            "kernel": platform.release(),
            "python": platform.python_version(),
        }


class Progress:
    """Where the run is, on stderr: one line that moves on a terminal, else a line per row."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._start = time.monotonic()
        self._moves = sys.stderr.isatty()

    def begin(self, what: str) -> None:
        if self._moves:
            width = 20
            filled = width * self._done // max(self._steps, 1)
            bar = "#" * filled + "." * (width - filled)
            self._show(f"[{bar}] {self._done}/{self._steps}{self._left()}  {what}", "\r")

    def end(self, what: str, *, steps: int = 1) -> None:
        self._done += steps
        if not self._moves:
            self._show(f"[{self._done}/{self._steps}]{self._left()} {what}", "\n")

    def say(self, what: str) -> None:
        self._show(what, "\n")

    def _left(self) -> str:
        if not self._done:
            return ""
        left_s = (time.monotonic() - self._start) / self._done * (self._steps - self._done)
        return f", about {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left"

    def _show(self, text: str, end: str) -> None:
        clear = "\r\033[K" if self._moves else ""
        print(f"{clear}{text}", end=end, file=sys.stderr, flush=True)


def run(options: Options, samples: list[Sample]) -> None:
    """Measure everything, adding to `samples`, which so survives an interruption."""
    rng = random.Random(options.seed)
    plan = [(group, rows_of(group, options.rows)) for group in GROUPS]
    plan = [(group, _possible(rows)) for group, rows in plan if rows]
    per_target = sum(len(rows) for _, rows in plan)
    progress = Progress(options.rounds * len(options.targets) * per_target)
    for number in range(1, options.rounds + 1):
        for group, rows in plan:
            for target in rng.sample(options.targets, len(options.targets)):
                _run_group(options, number, group, rows, target, samples, progress)
    progress.begin("done")
    progress.say("")


def _possible(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.kind != "cold" or can_drop_caches()]


def _run_group(
    options: Options,
    number: int,
    group: str,
    rows: list[Row],
    target: Target,
    samples: list[Sample],
    progress: Progress,
) -> None:
    """The rows of one group on one target, on fresh directories that are removed afterwards."""
    done = 0
    try:
        with _scratch(options.directory) as base, Mount(target, Place(base)) as mount:
            for row in rows:
                what = f"round {number}/{options.rounds}  {target.name}  {row.name}"
                progress.begin(what)
                try:
                    sample = _run_row(options, number, mount, row)
                except (RowFailed, OSError) as error:
                    raise RowFailed(f"{error}{mount.death()}") from error
                if row.name in options.rows:
                    samples.append(sample)
                done += 1
                progress.end(f"{what}  {sample.per_second:,.0f} {row.unit}")
    except (RowFailed, OSError, subprocess.SubprocessError) as error:
        failed = rows[min(done, len(rows) - 1)].name
        samples.append(Sample(number, target.name, failed, failure=str(error)))
        progress.say(f"round {number}, {target.name}, {failed}: {error}")
        progress.end(f"rest of group {group} left out", steps=len(rows) - done)


def _run_row(options: Options, number: int, mount: Mount, row: Row) -> Sample:
    site = options.site(mount)
    if row.kind == "cold":
        mount.make_cold()
    elif row.kind == "write":
        os.sync()
    if row.prepare is not None:
        row.prepare(site)
    with _profiled(options, mount, row):
        before = mount.cpu_s()
        measured = measure(row.workers(site), cpu_s=mount.cpu_s, limit_s=options.limit_s)
    cpu_us = measured.cpu_us_per_operation
    if row.kind == "write" and before is not None:
        after = mount.wait_quiet()
        cpu_us = None if after is None else (after - before) * 1e6 / max(measured.operations, 1)
    return Sample(number, mount.target.name, row.name, measured.per_second, cpu_us)


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="shmr-bench-", dir=directory))
    try:
        yield base
    finally:
        if not is_mounted(Place(base).mountpoint):
            shutil.rmtree(base, ignore_errors=True)
            os.sync()  # so that freeing the space is not charged to who comes next
        else:
            print(f"still mounted, not removed: {base}", file=sys.stderr)


@contextmanager
def _profiled(options: Options, mount: Mount, row: Row) -> Iterator[None]:
    """Watch the server with py-spy during the row, when --profile asks for it."""
    if options.profile != row.name or mount.pid is None:
        yield
        return
    output = Path.cwd() / f"profile-{row.name}.txt"
    command = ["py-spy", "record", "--pid", str(mount.pid), "--format", "raw", "--rate", "500"]
    with subprocess.Popen([*command, "--output", str(output)], start_new_session=True) as spy:
        time.sleep(1.0)  # it reads the server's symbols first
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)
            spy.wait(timeout=30)
    print(f"collapsed stacks: {output}", file=sys.stderr)


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise SystemExit(f"unknown {what} {', '.join(unknown)}; there are: {', '.join(known)}")
    return list(dict.fromkeys(names))


def _bind(text: str) -> None:
    """Keep this process, and all it starts, on the named CPUs."""
    try:
        os.sched_setaffinity(0, {int(cpu) for cpu in text.split(",")})
    except (ValueError, OSError) as error:
        raise SystemExit(f"--cpus {text}: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--targets", default=DEFAULT_TARGETS, help=f"of {', '.join(TARGETS)}")
    add("--rows", default="all", help=f"all, or of {', '.join(ROWS)}")
    add("--rounds", type=int, default=5)
    add("--size", default="1GiB", help="the big file (default %(default)s)")
    add("--files", type=int, default=20000, help="half empty, half of 4 KiB (default %(default)s)")
    add("--requests", type=int, default=20000, help="random requests per row (default %(default)s)")
    add("--durable-writes", type=int, default=400, help="of one writer (default %(default)s)")
    add("--directory", type=Path, default=None, help="where all directories are made, on one disk")
    add("--seed", type=int, default=1)
    add("--cpus", help="bind clients and servers to these CPUs, such as 0 or 0,2 (default: any)")
    add("--limit", type=float, default=900.0, help="seconds a row may take (default %(default)s)")
    add("--json", action="store_true", help="everything as JSON on stdout")
    add("--profile", metavar="ROW", help="one round of this row on shmr, watched by py-spy")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    rows = list(ROWS) if arguments.rows == "all" else _names(arguments.rows, list(ROWS), "row")
    targets = [TARGETS[name] for name in _names(arguments.targets, list(TARGETS), "target")]
    rounds = arguments.rounds
    if arguments.profile:
        rows, targets = _names(arguments.profile, list(ROWS), "row"), [TARGETS["shmr"]]
        rounds = 1
    for target in list(targets):
        if reason := target.missing():
            print(f"{target.name} left out: {reason}", file=sys.stderr)
            targets.remove(target)
    if not targets:
        raise SystemExit("nothing to measure")
    try:
        size_bytes = parse_size(arguments.size)
    except ValueError as error:
        raise SystemExit(f"--size: {error}") from None
    if size_bytes % CHUNK or not size_bytes:
        raise SystemExit("--size: a multiple of 1 MiB")
    least = min(rounds, arguments.files // 2, arguments.requests, arguments.durable_writes)
    if least < 1:
        raise SystemExit("--rounds, --files (two at least), --requests, --durable-writes: too few")
    if not can_drop_caches():
        print("not root: caches cannot be dropped, cold rows are left out", file=sys.stderr)
    return Options(
        tuple(targets),
        frozenset(rows),
        rounds,
        size_bytes,
        arguments.files,
        min(arguments.requests, size_bytes // PAGE),
        arguments.durable_writes,
        (arguments.directory or Path(tempfile.gettempdir())).resolve(),
        arguments.seed,
        arguments.limit,
        tuple(sorted(os.sched_getaffinity(0))),
        arguments.profile,
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first one stops the run; more must not cut the unmounting short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    if sys.argv[1:2] in (["archive"], ["fsck"]):
        signal.signal(signal.SIGINT, _interrupt)
        signal.signal(signal.SIGTERM, _interrupt)
        return (archive if sys.argv[1] == "archive" else fsck).main(sys.argv[2:])
    arguments = _parser().parse_args()
    if arguments.profile and shutil.which("py-spy") is None:
        print("--profile skipped: py-spy is not installed (pip install py-spy)", file=sys.stderr)
        return 0
    if arguments.cpus:
        _bind(arguments.cpus)
    options = _options(arguments)
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    samples: list[Sample] = []
    interrupted = False
    try:
        drop_caches()
        run(options, samples)
    except KeyboardInterrupt:
        interrupted = True
        print("\ninterrupted; what was measured until then:", file=sys.stderr)
    results = Results(samples, [target.name for target in options.targets])
    if arguments.json:
        print(json.dumps(as_json(results, options.about()), indent=1))
    else:
        print(_heading(options), end="\n\n")
        print(as_text(results))
    return 130 if interrupted else 1 if results.failures() else 0


def _heading(options: Options) -> str:
    lines = [
        f"{options.rounds} rounds, {format_size(options.size_bytes)}, {options.files} files, "
        f"{options.requests} random requests, seed {options.seed}; "
        f"CPUs {','.join(map(str, options.cpus))}; "
        f"Linux {platform.release()}, Python {platform.python_version()}",
        *(f"  {target.name:10} {target.options}" for target in options.targets),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
