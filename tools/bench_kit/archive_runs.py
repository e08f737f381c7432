"""What the archive's benchmark runs: each contender, once, on directories of its own.

Started as a program it is a part of one: `fill` makes a filesystem, `shift` moves it.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench_kit import CHECKOUT
from bench_kit.disks import Disks
from bench_kit.targets import drop_caches
from shmr.units import KIB, MIB

TOOLS = CHECKOUT / "tools"
SIZES = ((0.6, 16 * MIB, 64 * MIB), (0.3, MIB, 8 * MIB), (0.1, 4 * KIB, 256 * KIB))
"""Parts of the bytes that lie in files from one size to another."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be moved, copied or protected."""

    size_bytes: int
    k: int
    m: int
    zone: str
    seed: int
    profile: Path | None = None


@dataclass(frozen=True, slots=True)
class Took:
    """One run. `parts` are seconds of what it consists of, some of them side by side, and for shmr
    its CPU in and out of the system, and how often memory was faulted in."""

    seconds: float
    cpu_s: float
    parts: dict[str, float] = field(default_factory=dict)


class Failed(Exception):
    """A program did not do its work; the message has its last words."""


class Site:
    """The files, and where runs have their directories.

    `data/0..k-1` has the files, `parity/0..m-1` as many bytes each as one of them has on average.
    On one disk everything is below `base`; with `disks`, what is read first is on the fast one.
    """

    def __init__(self, base: Path, work: Work, disks: Disks | None) -> None:
        self.work = work
        self.disks = disks
        self._base = base if disks is None else disks.fast.mountpoint
        self.data = [self._base / "data" / str(index) for index in range(work.k)]
        self.parity = [self._base / "parity" / str(index) for index in range(work.m)]
        self.size_bytes = self.files = 0

    def make(self) -> None:
        """Files of random bytes, the same for one seed, spread evenly over the data directories."""
        work, rng = self.work, random.Random(self.work.seed)
        for directory in (*self.data, *self.parity):
            directory.mkdir(parents=True)
        fill = dict.fromkeys(self.data, 0)
        for share, low, high in SIZES:
            left = int(share * work.size_bytes)
            while left > 0:
                size = min(left, rng.randint(low, high))
                left -= size
                parent = min(fill, key=lambda directory: fill[directory])
                _write(parent / f"{self.files:06d}", size, rng)
                fill[parent] += size
                self.files += 1
                self.size_bytes += size
        for directory in self.parity:
            _write(directory / "volume", self.size_bytes // work.k, rng)

    @contextmanager
    def ground(self) -> Iterator[Ground]:
        """Directories for one run; the disks are as slow as they are to be at `Ground.begin`."""
        fast = self._base / "run"
        slow = [fast / f"{index}" for index in range(self.work.k + self.work.m)]
        if self.disks is not None:
            slow = [disk.mountpoint / "run" for disk in self.disks.slow]
        for directory in (fast, *slow):
            directory.mkdir()
        try:
            yield Ground(fast, slow, self.disks)
        finally:
            if self.disks is not None:
                self.disks.unlimit()
            for directory in (*slow, fast):
                shutil.rmtree(directory, ignore_errors=True)
            os.sync()  # so that freeing the space is not charged to who comes next
            if self.disks is not None:
                self.disks.trim()


@dataclass(frozen=True, slots=True)
class Ground:
    """Directories of one run: `fast`, and `slow` for the k+m that are written to."""

    fast: Path
    slow: list[Path]
    disks: Disks | None

    def begin(self) -> None:
        """What is needed before is there; from here on it counts."""
        os.sync()
        if self.disks is not None:
            self.disks.limit()
        drop_caches()


def _write(path: Path, size: int, rng: random.Random) -> None:
    with open(path, "wb") as file:
        while size:
            size -= file.write(rng.randbytes(min(size, MIB)))


def timed(
    commands: list[list[str]], cwd: Path | None = None, *, good: frozenset[int] = frozenset({0})
) -> tuple[Took, str]:
    """Run them at once; how long until all ended and everything is synced, and what they
    printed. Raises Failed where one ends with an exit code that is not `good`."""
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
    if not good.issuperset(codes):
        raise Failed(f"{' '.join(commands[0])}: exit codes {codes}: {told.strip()[-500:]}")
    cpu = after.children_user + after.children_system
    return Took(seconds, cpu - before.children_user - before.children_system), told


# -- the contenders -------------------------------------------------------------------------


def configure(site: Site, ground: Ground, drives: Sequence[Path]) -> Path:
    """A configuration with a workspace on the fast disk, and these archive drives."""
    work = site.work
    workspace = ground.fast / "w"
    room = f"{site.size_bytes * (1 if site.disks else 2) // MIB + 1024}MiB"
    lines = "".join(f"      - {drive}\n" for drive in drives)
    config = ground.fast / "config.yaml"
    config.write_text(
        "filesystem: bench\n"
        f"same_device: {'false' if site.disks else 'true'}\n"
        "pools:\n"
        "  - name: work\n"
        "    priority: 0\n"
        "    scheme: single\n"
        f"    drives: [{{path: {workspace}, size: {room}}}]\n"
        "  - name: cold\n"
        "    priority: 1\n"
        f"    scheme: {{erasure: {{k: {work.k}, m: {work.m}}}}}\n"
        f"    zone_size: {work.zone}\n"
        f"    drives:\n{lines}",
        encoding="utf-8",
    )
    return config


def child(*words: str | Path) -> list[str]:
    """The command of a part of this module, to be run in `TOOLS`."""
    return [sys.executable, "-m", "bench_kit.archive_runs", *map(str, words)]


def filled(site: Site, ground: Ground) -> Path:
    """The configuration of a new filesystem with the files in its workspace."""
    drives = [slow / "a" for slow in ground.slow]
    for directory in (ground.fast / "w", *drives):
        directory.mkdir()
    config = configure(site, ground, drives)
    subprocess.run(
        child("fill", config, *site.data), check=True, stdin=subprocess.DEVNULL, cwd=TOOLS
    )
    return config


def shmr(site: Site, ground: Ground, *, verified: bool = True) -> Took:
    work = site.work
    config = filled(site, ground)
    command = child("shift", config, "verified" if verified else "unverified")
    if work.profile is not None and verified:
        spy = ["py-spy", "record", "--format", "raw", "--rate", "200"]
        command = [*spy, "--output", str(work.profile), "--", *command]
    ground.begin()
    took, told = timed([command], cwd=TOOLS)
    parts = json.loads([line for line in told.splitlines() if line.startswith("{")][-1])
    if parts.pop("moved_bytes") != site.size_bytes:
        raise Failed("shmr-compact did not move everything")
    return Took(took.seconds, took.cpu_s, parts)


def unverified(site: Site, ground: Ground) -> Took:
    return shmr(site, ground, verified=False)


def copy(site: Site, ground: Ground) -> Took:
    pairs = zip([*site.data, *site.parity], ground.slow, strict=True)
    ground.begin()
    took, _ = timed([["cp", "-r", str(source), str(slow / "c")] for source, slow in pairs])
    return took


def snapraid(site: Site, ground: Ground) -> Took:
    k = site.work.k
    data, parity = site.data, ground.slow[k:]
    parts: dict[str, float] = {}
    if site.disks is not None:
        # What it protects has to be on the disks first, one of them for each directory.
        data = [slow / "d" for slow in ground.slow[:k]]
        ground.begin()
        pairs = zip(site.data, data, strict=True)
        took, _ = timed([["cp", "-r", str(source), str(there)] for source, there in pairs])
        parts = {"bring": took.seconds, "bring_cpu": took.cpu_s}
    command = snapraid_command(ground, data, parity)
    ground.begin()
    took, _ = timed([[*command, "sync"]])
    return Took(took.seconds, took.cpu_s, parts)


def snapraid_command(ground: Ground, data: Sequence[Path], parity: Sequence[Path]) -> list[str]:
    """SnapRAID with a new configuration of these disks: what the name of a job is added to."""
    lines = [
        f"{'parity' if not index else f'{index + 1}-parity'} {slow}/parity"
        for index, slow in enumerate(parity)
    ]
    lines += [f"content {directory}/content" for directory in (*parity, ground.fast)]
    lines += [f"data d{index} {directory}" for index, directory in enumerate(data)]
    config = ground.fast / "snapraid.conf"
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    # On one disk, which it would refuse.
    one_disk = [] if ground.disks else ["--test-skip-device"]
    return ["snapraid", *one_disk, "-c", str(config)]


RUNS: dict[str, Callable[[Site, Ground], Took]] = {
    "shmr": shmr,
    "unverified": unverified,
    "copy": copy,
    "snapraid": snapraid,
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


def _shift(config_path: str, *, verified: bool) -> None:
    """Everything to the archive; prints what each part of it took, some of them side by side."""
    from shmr.archive import ship
    from shmr.archive.shift import Shift
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

    def nothing(*args: Any, **options: Any) -> Generator[Any, Any, None]:
        yield from ()

    patched: Any = ship
    patched.verify = timed("verify", patched.verify if verified else nothing)
    patched_shift: Any = Shift
    patched_shift.settle = timed("snapshot", Shift.settle)
    patched_writing: Any = Writing
    patched_writing.run = timed("write", Writing.run)
    start = time.monotonic()
    done = compact(config_path, everything=True, target="cold", flush=True)
    spent["all"] = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent |= {
        "user": used.ru_utime,
        "system": used.ru_stime,
        "faults": float(used.ru_minflt),
        "memory": float(memory_max_bytes()),
    }
    print(json.dumps({"moved_bytes": done.moved_bytes, **spent}))


def memory_max_bytes() -> int:
    """Of this process; ru_maxrss would have that of the one that started it, too."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * KIB
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "fill":
        _fill(sys.argv[2], sys.argv[3:])
    else:
        _shift(sys.argv[2], verified=sys.argv[3] == "verified")
