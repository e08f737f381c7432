"""The archive's benchmark: `shmr-compact` against a copy and against SnapRAID, on the same files.

    tools/bench.py archive                            # 1 GiB, 3 rounds, 4+2: some two minutes
    tools/bench.py archive --size 4GiB --rounds 5 --json

Several rounds; in each, in an order drawn anew, all on directories of one disk, nothing cached:

    shmr      files of the workspace go to a pool of k+m drives; the snapshot included
    copy      `cp -r` of as many bytes, data and parity, to k+m directories, all at once, and synced
    snapraid  `snapraid sync` of the same files on k data directories, with m parities (data itself
              stays where it is); left out where it is not installed

Rates are bytes of files per second, from start of the process to its end with everything synced.
shmr reads back all that it wrote (VERIFY); what that takes is given apart, and the rate without it.
CPU is of the process and its children, with the system's part. Needs root, to drop the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench_kit import CHECKOUT
from bench_kit.targets import can_drop_caches, drop_caches
from shmr.units import GIB, KIB, MIB, parse_size

SIZES = ((0.6, 16 * MIB, 64 * MIB), (0.3, MIB, 8 * MIB), (0.1, 4 * KIB, 256 * KIB))
"""Parts of the bytes that lie in files from one size to another."""
GOAL = 0.8
NAMES = ("shmr", "copy", "snapraid")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and how much of it."""

    size_bytes: int
    rounds: int
    k: int
    m: int
    zone: str
    seed: int
    names: tuple[str, ...]
    profile: Path | None


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `phases` are seconds of the shift's parts, its CPU in and out of the system, and how
    often memory was faulted in."""

    round: int
    name: str
    seconds: float
    cpu_s: float
    phases: dict[str, float]


class Failed(Exception):
    """A program did not do its work; the message has its last words."""


class Site:
    """The directories: `data/0..k-1` with the files, `parity/0..m-1` with as many bytes each as
    one of them has on average, and one directory for each run."""

    def __init__(self, base: Path, options: Options) -> None:
        self.base = base
        self.options = options
        self.data = [base / "data" / str(index) for index in range(options.k)]
        self.parity = [base / "parity" / str(index) for index in range(options.m)]
        self.size_bytes = self.files = 0

    def make(self) -> None:
        """Files of random bytes, the same for one seed, spread over the data directories."""
        options, rng = self.options, random.Random(self.options.seed)
        for directory in (*self.data, *self.parity):
            directory.mkdir(parents=True)
        for share, low, high in SIZES:
            left = int(share * options.size_bytes)
            while left > 0:
                size = min(left, rng.randint(low, high))
                left -= size
                parent = self.data[self.files % options.k]
                _write(parent / f"{self.files:06d}", size, rng)
                self.files += 1
                self.size_bytes += size
        for directory in self.parity:
            _write(directory / "volume", self.size_bytes // options.k, rng)

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """A directory for one run."""
        directory = self.base / name
        directory.mkdir()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.sync()  # so that freeing the space is not charged to who comes next


def _write(path: Path, size: int, rng: random.Random) -> None:
    with open(path, "wb") as file:
        while size:
            size -= file.write(rng.randbytes(min(size, MIB)))


def _timed(commands: list[list[str]], cwd: Path | None = None) -> tuple[float, float, str]:
    """Run them at once; seconds until all ended and everything is synced, their CPU, what they
    printed."""
    drop_caches()
    before, start = os.times(), time.monotonic()
    with tempfile.TemporaryFile() as out:
        running = [
            subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=cwd)
            for command in commands
        ]
        try:
            codes = [process.wait() for process in running]
        except BaseException:
            for process in running:
                process.kill()
                process.wait()
            raise
        os.sync()
        seconds, after = time.monotonic() - start, os.times()
        out.seek(0)
        told = out.read().decode(errors="replace")
    if any(codes):
        raise Failed(f"{commands[0][0]}: exit code {max(codes)}: {told.strip()[-500:]}")
    cpu = after.children_user + after.children_system
    return seconds, cpu - before.children_user - before.children_system, told


# -- the three ------------------------------------------------------------------------------


def _shmr(site: Site, base: Path) -> tuple[float, float, dict[str, float]]:
    options = site.options
    room = f"{2 * site.size_bytes // MIB + 1024}MiB"
    drives = "".join(f"      - {base}/a{index}\n" for index in range(options.k + options.m))
    for name in ("w", *(f"a{index}" for index in range(options.k + options.m))):
        (base / name).mkdir()
    config = base / "config.yaml"
    config.write_text(
        "filesystem: bench\n"
        "same_device: true\n"
        "pools:\n"
        "  - name: work\n"
        "    priority: 0\n"
        "    scheme: single\n"
        f"    drives: [{{path: {base}/w, size: {room}}}]\n"
        "  - name: cold\n"
        "    priority: 1\n"
        f"    scheme: {{erasure: {{k: {options.k}, m: {options.m}}}}}\n"
        f"    zone_size: {options.zone}\n"
        f"    drives:\n{drives}",
        encoding="utf-8",
    )
    child = [sys.executable, "-m", "bench_kit.archive"]
    tools = CHECKOUT / "tools"
    subprocess.run(
        [*child, "fill", str(config), *map(str, site.data)], check=True, stdin=subprocess.DEVNULL,
        cwd=tools,
    )  # fmt: skip
    command = [*child, "shift", str(config)]
    if options.profile is not None:
        spy = ["py-spy", "record", "--format", "raw", "--rate", "200"]
        command = [*spy, "--output", str(options.profile), "--", *command]
    seconds, cpu_s, told = _timed([command], cwd=tools)
    found = json.loads([line for line in told.splitlines() if line.startswith("{")][-1])
    if found.pop("moved_bytes") != site.size_bytes:
        raise Failed("shmr-compact did not move everything")
    return seconds, cpu_s, found


def _copy(site: Site, base: Path) -> tuple[float, float, dict[str, float]]:
    pairs = [*site.data, *site.parity]
    commands = [
        ["cp", "-r", str(source), str(base / f"c{index}")] for index, source in enumerate(pairs)
    ]
    seconds, cpu_s, _ = _timed(commands)
    return seconds, cpu_s, {}


def _snapraid(site: Site, base: Path) -> tuple[float, float, dict[str, float]]:
    lines = [
        f"{'parity' if not index else f'{index + 1}-parity'} {base}/p{index}/parity"
        for index in range(site.options.m)
    ]
    for index in range(site.options.m + 1):
        (base / f"p{index}").mkdir()
        lines.append(f"content {base}/p{index}/content")
    lines += [f"data d{index} {directory}" for index, directory in enumerate(site.data)]
    config = base / "snapraid.conf"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # All directories are on one disk, which it would refuse.
    command = ["snapraid", "--test-skip-device", "-c", str(config), "sync"]
    seconds, cpu_s, _ = _timed([command])
    return seconds, cpu_s, {}


_RUNS: dict[str, Callable[[Site, Path], tuple[float, float, dict[str, float]]]] = {
    "shmr": _shmr,
    "copy": _copy,
    "snapraid": _snapraid,
}


# -- what runs in a process of its own ----------------------------------------------------------


def _fill(config_path: str, directories: list[str]) -> None:
    """A new filesystem with these files in its workspace."""
    from shmr.config import load
    from shmr.format.rows import ROOT
    from shmr.service.assemble import create_filesystem, open_drives, open_filesystem
    from shmr.volume.context import Caller

    config, caller = load(config_path), Caller(0, 0)
    create_filesystem(config)
    drives = open_drives(config, degraded=False)
    volume = open_filesystem(config, drives, read_only=False, degraded=False)
    try:
        for directory in directories:
            for path in sorted(Path(directory).iterdir()):
                inode = volume.names.create(ROOT, os.fsencode(path.name), 0o100644, caller).number
                with open(path, "rb") as file:
                    offset = 0
                    while chunk := file.read(MIB):
                        volume.data.write(inode, offset, chunk)
                        offset += len(chunk)
                volume.commits.now()
    finally:
        volume.close()
        drives.close()


def _shift(config_path: str) -> None:
    """Everything to the archive; prints what each part of it took."""
    from shmr.archive import shift as machine
    from shmr.archive.write import Writing
    from shmr.service import compact

    spent: dict[str, float] = {}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def generator(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
            start = time.monotonic()
            try:
                return (yield from call(*args, **options))
            finally:
                spent[name] = spent.get(name, 0.0) + time.monotonic() - start

        return generator

    patched: Any = machine
    patched.verify = timed("verify", patched.verify)
    patched.Shift.settle = timed("snapshot", machine.Shift.settle)
    patched_writing: Any = Writing
    patched_writing.run = timed("write", Writing.run)
    start = time.monotonic()
    done = compact(config_path, everything=True, target="cold", flush=True)
    spent["all"] = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent |= {"user": used.ru_utime, "system": used.ru_stime, "faults": float(used.ru_minflt)}
    print(json.dumps({"moved_bytes": done.moved_bytes, **spent}))


# -- rounds and the report -------------------------------------------------------------------


def _measure(site: Site, samples: list[Sample]) -> None:
    options, rng = site.options, random.Random(site.options.seed)
    for number in range(1, options.rounds + 1):
        for name in rng.sample(options.names, len(options.names)):
            print(f"round {number}/{options.rounds}  {name}", file=sys.stderr, flush=True)
            with site.scratch(name) as base:
                seconds, cpu_s, phases = _RUNS[name](site, base)
            samples.append(Sample(number, name, seconds, cpu_s, phases))
            rate = site.size_bytes / MIB / seconds
            print(f"    {seconds:.2f} s, {rate:.0f} MiB/s", file=sys.stderr, flush=True)


def _without_verify(sample: Sample) -> float:
    return sample.seconds - sample.phases.get("verify", 0.0)


def _ratio(
    samples: list[Sample], other: str, seconds: Callable[[Sample], float]
) -> tuple[float, float, float] | None:
    """shmr's rate as a part of the other's: the median of the rounds' ratios, least, most."""
    of = {(sample.round, sample.name): sample for sample in samples}
    ratios = [
        of[number, other].seconds / seconds(sample)
        for (number, name), sample in of.items()
        if name == "shmr" and (number, other) in of
    ]
    return (median(ratios), min(ratios), max(ratios)) if ratios else None


def as_text(samples: list[Sample], size_bytes: int) -> str:
    lines = [f"{'':10}{'seconds':>10}{'MiB/s':>9}{'spread':>9}{'CPU s/GiB':>11}"]
    for name in NAMES:
        mine = [sample for sample in samples if sample.name == name]
        if not mine:
            continue
        times = [sample.seconds for sample in mine]
        middle = median(times)
        spread = (max(times) - min(times)) / 2 / middle
        cpu = median(sample.cpu_s for sample in mine) * GIB / size_bytes
        rate = size_bytes / MIB / middle
        lines.append(f"{name:10}{middle:10.2f}{rate:9.0f}{f'±{spread:.0%}':>9}{cpu:11.2f}")
        if name == "shmr":
            parts = {
                part: median(sample.phases.get(part, 0.0) for sample in mine)
                for part in ("write", "verify", "snapshot", "all")
            }
            used = [
                median(sample.phases.get(part, 0.0) for sample in mine)
                for part in ("user", "system", "faults")
            ]
            rest = parts.pop("all") - sum(parts.values())
            told = ", ".join(f"{part} {took:.2f}" for part, took in parts.items())
            start = middle - sum(parts.values()) - rest
            lines.append(f"{'':10}of it {told}, rest {rest:.2f}, start and end {start:.2f}")
            lines.append(
                f"{'':10}CPU of it user {used[0]:.2f}, system {used[1]:.2f}, "
                f"{used[2]:,.0f} page faults"
            )
    lines.append("")
    for other, least in (("copy", GOAL), ("snapraid", 1.0)):
        for what, seconds in (
            ("with verification", lambda sample: sample.seconds),
            ("without", _without_verify),
        ):
            ratio = _ratio(samples, other, seconds)
            if ratio is not None:
                reached = "yes" if ratio[0] >= least else "no"
                lines.append(
                    f"shmr / {other:9}{what:18}{ratio[0]:6.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})"
                    f"   at least {least:g}: {reached}"
                )
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench.py archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", default="1GiB", help="bytes of files (default %(default)s)")
    add("--rounds", type=int, default=3)
    add("--k", type=int, default=4, help="data fragments (default %(default)s)")
    add("--m", type=int, default=2, help="parity fragments (default %(default)s)")
    add("--zone", default="256MiB", help="largest fragment (default %(default)s)")
    add("--only", default=",".join(NAMES), help="of %(default)s")
    add("--directory", type=Path, default=None, help="where all directories are made, on one disk")
    add("--seed", type=int, default=1)
    add("--json", action="store_true", help="everything as JSON on stdout")
    add("--profile", type=Path, metavar="FILE", help="py-spy's collapsed stacks of shmr's last run")
    return parser


def main(arguments: list[str]) -> int:
    parsed = _parser().parse_args(arguments)
    names = [name for name in NAMES if name in parsed.only.split(",")]
    if "snapraid" in names and shutil.which("snapraid") is None:
        print("snapraid skipped: not installed (apt install snapraid)", file=sys.stderr)
        names.remove("snapraid")
    if not names or parsed.rounds < 1 or parsed.m > 6:
        raise SystemExit("--only, --rounds, --m: nothing to measure (SnapRAID has 6 parities)")
    if not can_drop_caches():
        print("not root: caches cannot be dropped, reading is from memory", file=sys.stderr)
    try:
        size = parse_size(parsed.size)
    except ValueError as error:
        raise SystemExit(f"--size: {error}") from None
    profile = parsed.profile.resolve() if parsed.profile else None
    options = Options(
        size, parsed.rounds, parsed.k, parsed.m, parsed.zone, parsed.seed, tuple(names), profile
    )
    base = Path(tempfile.mkdtemp(prefix="shmr-bench-", dir=parsed.directory)).resolve()
    samples: list[Sample] = []
    code = 0
    load = os.getloadavg()[0]
    try:
        site = Site(base, options)
        site.make()
        _measure(site, samples)
    except KeyboardInterrupt:
        code = 130
        print("\ninterrupted; what was measured until then:", file=sys.stderr)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        code = 1
        print(f"tools/bench.py archive: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    about = {
        "size_bytes": site.size_bytes,
        "files": site.files,
        "scheme": f"{options.k}+{options.m}",
        "zone": options.zone,
        "seed": options.seed,
        "cpus": os.cpu_count(),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }
    if parsed.json:
        print(json.dumps({"about": about, "samples": list(map(asdict, samples))}, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
        print(as_text(samples, site.size_bytes))
    return code


if __name__ == "__main__":
    # How the benchmark runs parts of itself.
    if sys.argv[1] == "fill":
        _fill(sys.argv[2], sys.argv[3:])
    else:
        _shift(sys.argv[2])
