"""The archive's benchmark: `shmr-compact` against a copy and against SnapRAID, on the same files.

    tools/bench.py archive                            # 1 GiB, 3 rounds, 4+2: some two minutes
    tools/bench.py archive --disks 40MiB --zone 64MiB # a disk for each drive, of so much a second
    tools/bench.py archive --size 4GiB --rounds 5 --json

Several rounds; in each, in an order drawn anew, nothing cached:

    shmr        files of the workspace go to a pool of k+m drives; the snapshot included
    unverified  the same without VERIFY, which shmr itself has no way to leave out: what it costs
    copy        `cp -r` of as many bytes, data and parity, to k+m directories at once, and synced
    snapraid    `snapraid sync` of the same files on k data directories, with m parities: data is
                where it stays and only parity is written; left out where it is not installed

All are directories of one disk; or, with --disks, each of the k+m is on a slow disk of its own,
made of memory: the drives of shmr's pool, the targets of the copy, SnapRAID's k data and m parity
disks. The workspace, and what is copied, is on one more disk that is not throttled, as fast storage
before slow. The rate holds for reading and for writing, each. What it takes to bring the files to
SnapRAID's data disks, with `cp -r` and a sync, is given apart: shmr does both in one.

Rates are bytes of files per second, from start of the process to its end with everything synced.
CPU is of the process and its children, with the system's part. Needs root, to drop the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench_kit.archive_runs import RUNS, Failed, Site, Took, Work
from bench_kit.disks import MEMORY_MAX_BYTES, CannotMakeDisks, Disks, disks
from bench_kit.targets import can_drop_caches
from shmr.units import GIB, MIB, parse_size

GOAL = 0.8


@dataclass(frozen=True, slots=True)
class Sample:
    """One run in one round."""

    round: int
    name: str
    took: Took


def _measure(site: Site, names: list[str], rounds: int, samples: list[Sample]) -> None:
    rng = random.Random(site.work.seed)
    for number in range(1, rounds + 1):
        for name in rng.sample(names, len(names)):
            print(f"round {number}/{rounds}  {name}", file=sys.stderr, flush=True)
            with site.ground() as ground:
                took = RUNS[name](site, ground)
            samples.append(Sample(number, name, took))
            rate = site.size_bytes / MIB / took.seconds
            print(f"    {took.seconds:.2f} s, {rate:.0f} MiB/s", file=sys.stderr, flush=True)


def _ratio(
    samples: list[Sample], name: str, other: str, seconds: Callable[[Took], float]
) -> tuple[float, float, float] | None:
    """The rate of one as a part of the other's: the median of the rounds' ratios, least, most."""
    of = {(sample.round, sample.name): sample.took for sample in samples}
    ratios = [
        seconds(of[number, other]) / took.seconds
        for (number, found), took in of.items()
        if found == name and (number, other) in of
    ]
    return (median(ratios), min(ratios), max(ratios)) if ratios else None


def _brought(took: Took) -> float:
    return took.seconds + took.parts.get("bring", 0.0)


def as_text(samples: list[Sample], size_bytes: int) -> str:
    lines = [f"{'':10}{'seconds':>10}{'MiB/s':>9}{'spread':>9}{'CPU s/GiB':>11}"]
    for name in RUNS:
        mine = [sample.took for sample in samples if sample.name == name]
        if not mine:
            continue
        times = [took.seconds for took in mine]
        middle = median(times)
        spread = (max(times) - min(times)) / 2 / middle
        cpu = median(took.cpu_s for took in mine) * GIB / size_bytes
        rate = size_bytes / MIB / middle
        lines.append(f"{name:10}{middle:10.2f}{rate:9.0f}{f'±{spread:.0%}':>9}{cpu:11.2f}")
        parts = {part: median(took.parts[part] for took in mine) for part in mine[0].parts}
        if name == "shmr":
            lines.append(
                f"{'':10}write {parts.get('write', 0.0):.2f}, beside it verify "
                f"{parts.get('verify', 0.0):.2f}, snapshot {parts.get('snapshot', 0.0):.2f}; all "
                f"{parts['all']:.2f}, start and end {middle - parts['all']:.2f}"
            )
            lines.append(
                f"{'':10}CPU user {parts['user']:.2f}, system {parts['system']:.2f}; "
                f"{parts['faults']:,.0f} page faults; memory {parts['memory'] / MIB:.0f} MiB"
            )
        elif "bring" in parts:
            lines.append(f"{'':10}to bring the files there before it: {parts['bring']:.2f}")
    lines.append("")
    goals = (
        ("shmr", "copy", GOAL, "", lambda took: took.seconds),
        ("unverified", "copy", GOAL, "", lambda took: took.seconds),
        ("shmr", "snapraid", 1.0, "sync", lambda took: took.seconds),
        ("unverified", "snapraid", 1.0, "sync", lambda took: took.seconds),
        ("shmr", "snapraid", 1.0, "cp and sync", _brought),
    )
    brought = any("bring" in sample.took.parts for sample in samples)
    for name, other, least, what, seconds in goals:
        ratio = _ratio(samples, name, other, seconds)
        if ratio is None or (seconds is _brought and not brought):
            continue
        lines.append(
            f"{name:>10} / {f'{other} {what}':20}{ratio[0]:6.2f} ({ratio[1]:.2f} to "
            f"{ratio[2]:.2f})   at least {least:g}: {'yes' if ratio[0] >= least else 'no'}"
        )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench.py archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", type=_size, default="1GiB", help="bytes of files (default %(default)s)")
    add("--rounds", type=int, default=3)
    add("--k", type=int, default=4, help="data fragments (default %(default)s)")
    add("--m", type=int, default=2, help="parity fragments (default %(default)s)")
    add("--zone", default="256MiB", help="largest fragment (default %(default)s)")
    add("--only", default=",".join(RUNS), help="of %(default)s")
    add("--directory", type=Path, default=None, help="where all directories are made, on one disk")
    add(
        "--disks", type=_size, metavar="RATE",
        help="a disk for each drive, in memory, of so many bytes in a second, such as 40MiB",
    )  # fmt: skip
    add("--seed", type=int, default=1)
    add("--json", action="store_true", help="everything as JSON on stdout")
    add("--profile", type=Path, metavar="FILE", help="py-spy's collapsed stacks of shmr's last run")
    return parser


def _size(text: str) -> int:
    try:
        return parse_size(text.removesuffix("/s"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _disks(undo: ExitStack, base: Path, work: Work, rate: int | None) -> Disks | None:
    """With a rate, disks that are large enough for one run after the other."""
    if rate is None:
        return None
    wide = work.k + work.m
    # The files and their parity, and the workspace; then the fragments, or a copy.
    needed = work.size_bytes * (wide / work.k + 1) + work.size_bytes * wide / work.k
    if needed + 512 * MIB > MEMORY_MAX_BYTES:
        raise CannotMakeDisks(
            f"--size: that many files take {needed / GIB:.1f} GiB of memory; "
            f"{MEMORY_MAX_BYTES / GIB:.0f} are taken at most"
        )
    # Room that is never written takes no memory.
    slow_bytes = 2 * work.size_bytes // work.k + 16 * parse_size(work.zone)
    fast_bytes = 4 * work.size_bytes + 4 * GIB
    made = disks(base, wide, rate, slow_bytes=slow_bytes, fast_bytes=fast_bytes)
    return undo.enter_context(made)


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    names = [name for name in RUNS if name in parsed.only.split(",")]
    if "snapraid" in names and shutil.which("snapraid") is None:
        print("snapraid skipped: not installed (apt install snapraid)", file=sys.stderr)
        names.remove("snapraid")
    if not names or parsed.rounds < 1 or not 1 <= parsed.m <= 6:
        raise SystemExit("--only, --rounds, --m: nothing to measure (SnapRAID has 6 parities)")
    if not can_drop_caches():
        print("not root: caches cannot be dropped, reading is from memory", file=sys.stderr)
    profile = parsed.profile.resolve() if parsed.profile else None
    work = Work(parsed.size, parsed.k, parsed.m, parsed.zone, parsed.seed, profile)
    base = Path(tempfile.mkdtemp(prefix="shmr-bench-", dir=parsed.directory)).resolve()
    samples: list[Sample] = []
    about: dict[str, object] = {}
    code = 0
    try:
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, base, ignore_errors=True)
            site = Site(base, work, _disks(undo, base, work, parsed.disks))
            about |= _about(work, parsed.disks)
            site.make()
            about |= {"size_bytes": site.size_bytes, "files": site.files}
            _measure(site, names, parsed.rounds, samples)
    except KeyboardInterrupt:
        code = 130
        print("\ninterrupted; what was measured until then:", file=sys.stderr)
    except CannotMakeDisks as error:
        code = 1
        print(f"tools/bench.py archive: --disks: {error}", file=sys.stderr)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        code = 1
        print(f"tools/bench.py archive: {error}", file=sys.stderr)
    about["load_after"] = round(os.getloadavg()[0], 1)
    if parsed.json:
        print(json.dumps({"about": about, "samples": list(map(asdict, samples))}, indent=1))
    elif samples:
        print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
        print(as_text(samples, site.size_bytes))
    return code


def _about(work: Work, rate: int | None) -> dict[str, object]:
    return {
        "scheme": f"{work.k}+{work.m}",
        "zone": work.zone,
        "seed": work.seed,
        "disks": "one" if rate is None else f"{rate / MIB:.0f} MiB/s each",
        "cpus": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
    }
