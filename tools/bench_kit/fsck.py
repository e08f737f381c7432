"""The checker's benchmark: `shmr-fsck` against reading, against a copy, and against SnapRAID.

    tools/bench.py fsck                               # 512 MiB, 100,000 files, 3 rounds
    tools/bench.py fsck --disks 40MiB --zone 64MiB    # a disk for each drive, of so much a second
    tools/bench.py fsck --only check --files 1000000 --no-snapraid
    tools/bench.py fsck --size 2GiB --rounds 5 --json

An archive of 4+2 is made once, and SnapRAID's of the same files beside it. Then several rounds; in
each, in an order drawn anew, nothing cached:

    scrub     shmr            `shmr-fsck scrub`: every byte of all drives
              cat             `cat` of the same files to /dev/null, one for each drive, at once
              snapraid scrub  `snapraid -p full scrub`: every byte of its data and parity
    rebuild   shmr            `shmr-fsck rebuild-drive --onto` an empty drive; the lost one is gone
              copy            k drives are read with `cat` and `cp`, one is written, synced
              snapraid fix    `snapraid -d d0 fix`: the files of one data disk are gone
    check     shmr            `shmr-fsck check` of many files of 4 KiB, all of them in the archive
              snapraid        `status` reads its list of files, `diff` looks at each of them,
                              `check` reads all of their bytes

Goals: a scrub at 0.9 of the rate of `cat`, a rebuild at 0.8 of that of the copy, a million files
checked in a minute or two with flat memory. Ratios are of times in one round, the median of all.
Everything is on one disk; with --disks each of the k+m has a slow one of its own, made of memory:
for shmr's drives and SnapRAID's alike (see `tools/bench.py archive --help`). The many files are on
the disk of --directory in any case. Needs root, to drop the page cache. SnapRAID is left out where
it is not installed.
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
from functools import partial
from pathlib import Path
from statistics import median

from bench_kit.archive_runs import Failed, Ground, Site, Took, Work
from bench_kit.disks import MEMORY_MAX_BYTES, CannotMakeDisks, Disks, disks
from bench_kit.fsck_runs import LISTED, STAGED, many, stage
from bench_kit.targets import can_drop_caches
from shmr.units import GIB, MIB, parse_size

GOALS = (("scrub", "cat", 0.9), ("rebuild", "copy", 0.8))
JOBS = ("scrub", "rebuild", "check")
Runs = dict[str, Callable[[], Took]]


@dataclass(frozen=True, slots=True)
class Sample:
    """One run in one round. `size_bytes` is what a scrub or a rebuild of shmr is about."""

    round: int
    job: str
    name: str
    took: Took
    size_bytes: int = 0


class Bench:
    """All that was measured until now."""

    def __init__(self, site: Site, rounds: int, *, with_snapraid: bool) -> None:
        self.site = site
        self.samples: list[Sample] = []
        self._rounds = rounds
        self._snapraid = with_snapraid
        self._rng = random.Random(site.work.seed)

    def stored(self, ground: Ground, jobs: list[str]) -> None:
        """Scrub and rebuild, round after round."""
        _say("an archive is made")
        made = stage(self.site, ground, with_snapraid=self._snapraid)
        for number in range(1, self._rounds + 1):
            for job in self._rng.sample(jobs, len(jobs)):
                drives = 1 if job == "rebuild" else len(made.drives)
                size_bytes = made.stored_bytes * drives // len(made.drives)
                runs: Runs = {name: partial(run, made) for name, run in STAGED[job].items()}
                self._round(number, job, runs, ground, size_bytes)

    def listed(self, site: Site, ground: Ground, files: int) -> None:
        """Check, round after round, on a site without slow disks."""
        _say(f"{files} files are made")
        made = many(site, ground, files, with_snapraid=self._snapraid)
        runs: Runs = {name: partial(run, made) for name, run in LISTED.items()}
        for number in range(1, self._rounds + 1):
            self._round(number, "check", runs, ground, 0)

    def _round(
        self,
        number: int,
        job: str,
        runs: Runs,
        ground: Ground,
        size_bytes: int,
    ) -> None:
        names = [name for name in runs if self._snapraid or not name.startswith("snapraid")]
        for name in self._rng.sample(names, len(names)):
            _say(f"round {number}/{self._rounds}  {job}: {name}")
            try:
                took = runs[name]()
            finally:
                if ground.disks is not None:
                    ground.disks.unlimit()
            self.samples.append(Sample(number, job, name, took, size_bytes))
            _say(f"    {took.seconds:.2f} s")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def as_text(samples: list[Sample], files: int) -> str:
    lines = [f"{'':24}{'seconds':>10}{'spread':>9}{'MiB/s':>9}{'CPU s':>9}{'memory':>11}"]
    for job in JOBS:
        runs = LISTED if job == "check" else STAGED[job]
        for name in runs:
            mine = [one for one in samples if (one.job, one.name) == (job, name)]
            if mine:
                lines.append(_line(f"{job}: {name}", mine))
    lines.append("")
    for job, other, least in GOALS:
        lines += _against(samples, job, other, least)
    for job, other in (("scrub", "snapraid scrub"), ("rebuild", "snapraid fix")):
        lines += _against(samples, job, other, 1.0)
    checks = [one.took.seconds for one in samples if (one.job, one.name) == ("check", "shmr")]
    if checks:
        middle = median(checks)
        lines.append(f"check: {files / middle:,.0f} files a second; a million: "
                     f"{1e6 * middle / files:.0f} s at that rate")  # fmt: skip
    return "\n".join(lines)


def _line(title: str, mine: list[Sample]) -> str:
    times = [one.took.seconds for one in mine]
    middle = median(times)
    size_bytes = median(one.size_bytes for one in mine)
    # What SnapRAID reads for a scrub is as much, but not the same.
    rate = f"{size_bytes / MIB / middle:.0f}" if size_bytes else "-"
    memory = [one.took.parts["memory"] for one in mine if "memory" in one.took.parts]
    shown = f"{median(memory) / MIB:.0f} MiB" if memory else "-"
    spread = f"±{(max(times) - min(times)) / 2 / middle:.0%}"
    cpu = median(one.took.cpu_s for one in mine)
    return f"{title:24}{middle:10.2f}{spread:>9}{rate:>9}{cpu:9.2f}{shown:>11}"


def _against(samples: list[Sample], job: str, other: str, least: float) -> list[str]:
    """The rate of shmr as a part of the other's: the median of the rounds' ratios, least, most."""
    of = {(one.round, one.name): one.took.seconds for one in samples if one.job == job}
    ratios = [
        seconds / of[number, "shmr"]
        for (number, name), seconds in of.items()
        if name == other and (number, "shmr") in of
    ]
    if not ratios:
        return []
    middle = median(ratios)
    return [
        f"{f'{job}: shmr / {other}':32}{middle:6.2f} ({min(ratios):.2f} to {max(ratios):.2f})   "
        f"at least {least:g}: {'yes' if middle >= least else 'no'}"
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench.py fsck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", type=_size, default="512MiB", help="bytes of files (default %(default)s)")
    add("--files", type=int, default=100_000, help="files to check (default %(default)s)")
    add("--rounds", type=int, default=3)
    add("--k", type=int, default=4, help="data fragments (default %(default)s)")
    add("--m", type=int, default=2, help="parity fragments (default %(default)s)")
    add("--zone", default="256MiB", help="largest fragment (default %(default)s)")
    add("--only", default=",".join(JOBS), help="of %(default)s")
    add("--directory", type=Path, default=None, help="where all directories are made, on one disk")
    add(
        "--disks", type=_size, metavar="RATE",
        help="a disk for each drive, in memory, of so many bytes in a second, such as 40MiB",
    )  # fmt: skip
    add("--no-snapraid", action="store_true", help="shmr alone, which takes less time")
    add("--seed", type=int, default=1)
    add("--json", action="store_true", help="everything as JSON on stdout")
    return parser


def _size(text: str) -> int:
    try:
        return parse_size(text.removesuffix("/s"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _disks(undo: ExitStack, base: Path, work: Work, rate: int | None) -> Disks | None:
    """With a rate, disks that are large enough for both archives and a drive that is rebuilt."""
    if rate is None:
        return None
    wide = work.k + work.m
    # The files and their parity, and the workspace; then two archives, and one drive more.
    needed = work.size_bytes * (3 * wide / work.k + 1) + work.size_bytes / work.k
    if needed + 512 * MIB > MEMORY_MAX_BYTES:
        raise CannotMakeDisks(
            f"--size: that many files take {needed / GIB:.1f} GiB of memory; "
            f"{MEMORY_MAX_BYTES / GIB:.0f} are taken at most"
        )
    # Room that is never written takes no memory.
    slow_bytes = 4 * work.size_bytes // work.k + 16 * parse_size(work.zone)
    fast_bytes = 4 * work.size_bytes + 4 * GIB
    return undo.enter_context(disks(base, wide, rate, slow_bytes=slow_bytes, fast_bytes=fast_bytes))


def _measure(bench: Bench, site: Site, plain: Site, jobs: list[str], files: int) -> None:
    """`plain` is a site without slow disks, for the many files."""
    stored = [job for job in jobs if job in STAGED]
    if stored:
        site.make()
        with site.ground() as ground:
            bench.stored(ground, stored)
    if "check" in jobs:
        with plain.ground() as ground:
            bench.listed(plain, ground, files)


def main(arguments: list[str]) -> int:
    """Run it; 130 after Ctrl-C, which prints what there is until then, and 1 where one failed."""
    parsed = _parser().parse_args(arguments)
    jobs = [name for name in JOBS if name in parsed.only.split(",")]
    if not jobs or set(parsed.only.split(",")) - set(JOBS):
        raise SystemExit(f"--only: of {', '.join(JOBS)}")
    with_snapraid = not parsed.no_snapraid and shutil.which("snapraid") is not None
    if not with_snapraid and not parsed.no_snapraid:
        _say("snapraid left out: it is not installed (apt install snapraid)")
    if not can_drop_caches():
        _say("not root: caches cannot be dropped, reading is from memory")
    work = Work(parsed.size, parsed.k, parsed.m, parsed.zone, parsed.seed)
    base = Path(tempfile.mkdtemp(prefix="shmr-bench-", dir=parsed.directory)).resolve()
    samples: list[Sample] = []
    about: dict[str, object] = {
        "scheme": f"{work.k}+{work.m}",
        "zone": work.zone,
        "seed": work.seed,
        "disks": "one" if parsed.disks is None else f"{parsed.disks / MIB:.0f} MiB/s each",
        "cpus": os.cpu_count(),
        "files": parsed.files,
        "load_before": round(os.getloadavg()[0], 1),
    }
    code = 0
    try:
        with ExitStack() as undo:
            undo.callback(shutil.rmtree, base, ignore_errors=True)
            stored = any(job in STAGED for job in jobs)
            made = _disks(undo, base, work, parsed.disks if stored else None)
            site, plain = Site(base, work, made), Site(base, work, None)
            bench = Bench(site, parsed.rounds, with_snapraid=with_snapraid)
            samples = bench.samples
            _measure(bench, site, plain, jobs, parsed.files)
    except KeyboardInterrupt:
        code = 130
        _say("\ninterrupted; what was measured until then:")
    except CannotMakeDisks as error:
        code = 1
        _say(f"tools/bench.py fsck: --disks: {error}")
    except (Failed, OSError, subprocess.SubprocessError) as error:
        code = 1
        _say(f"tools/bench.py fsck: {error}")
    about["load_after"] = round(os.getloadavg()[0], 1)
    if parsed.json:
        print(json.dumps({"about": about, "samples": list(map(asdict, samples))}, indent=1))
    elif samples:
        print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
        print(as_text(samples, parsed.files))
    return code
