"""The full round on a real mount, beside a twin: the same tree on the native filesystem.

There and back through pools of every scheme, changed after each move, with m drives away each time;
with a compactor that is killed; and at last with m drives gone for good. Whatever a program can see
of the tree is that of the twin.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from shmr.units import KIB, MIB
from tests.archive.test_mounted import Compacting, live_bytes

pytestmark = pytest.mark.mount

SCHEMES = {
    "work": ("single", 1),
    "six": ("{erasure: {k: 4, m: 2}}", 7),
    "vand": ("{erasure: {k: 2, m: 1, code: liberasurecode_rs_vand}}", 3),
    "two": ("{mirror: 2}", 3),
    "one": ("single", 2),
}
"""Scheme and number of drives of every pool, the workspace first."""
MAY_BE_LOST = {"six": 2, "vand": 1, "two": 1, "one": 0}
DRIVES = sum(count for _, count in SCHEMES.values())


class Round(Compacting):
    """A mount with a pool of every scheme, and its twin."""

    @property
    def twin(self) -> Path:
        return self.base / "twin"

    def drives_of(self, pool: str) -> list[Path]:
        names = list(SCHEMES)
        first = sum(SCHEMES[name][1] for name in names[: names.index(pool)])
        return self.drives[first : first + SCHEMES[pool][1]]

    def _configuration(self, size: str, scheme: str) -> str:
        lines = ["filesystem: tests", "same_device: true", "pools:"]
        for number, (pool, (how, _)) in enumerate(SCHEMES.items()):
            unit = "zone_size: 2MiB" if number else "segment_size: 1MiB"
            lines += [f"  - name: {pool}", f"    priority: {10 * number}", f"    scheme: {how}"]
            lines += [f"    {unit}", "    drives:"]
            lines += [f"      - {{path: {d}, size: 128MiB}}" for d in self.drives_of(pool)]
        return "\n".join(lines) + "\n"

    def both(self, change: Callable[[Path], None]) -> None:
        """The same change here and there."""
        for top in (self.path, self.twin):
            change(top)

    def move(self, source: str, target: str) -> None:
        """All that lies in a pool goes to another."""
        done = self.compact("--all", "--flush", "--json", "--from", source, "--to", target)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["waiting_bytes"], told["unreadable"]) == (0, {})

    def assert_same(self) -> None:
        here, there = look(self.path), look(self.twin)
        different = {n for n in here.keys() | there.keys() if here.get(n) != there.get(n)}
        assert not different, {n: (here.get(n), there.get(n)) for n in sorted(different)[:3]}

    @contextmanager
    def mounted_without(self, lost: list[Path]) -> Iterator[None]:
        """Mounted while these drives are not there."""
        for drive in lost:
            drive.rename(drive.with_suffix(".away"))
        try:
            self.start()
            yield
            self.stop()
        finally:
            for drive in lost:
                drive.with_suffix(".away").rename(drive)


@pytest.fixture
def filesystem() -> Iterator[Round]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    found = Round(base, drives=DRIVES)
    found.twin.mkdir()
    try:
        found.start()
        yield found
    finally:
        try:
            found.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def look(top: Path) -> dict[str, tuple[object, ...]]:
    """What programs see below a directory: names, attributes, bytes, hard links."""
    found: dict[str, tuple[object, ...]] = {}
    names: dict[int, set[str]] = {}
    for path in sorted(top.rglob("*")):
        name, status = str(path.relative_to(top)), path.lstat()
        if stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            others = names.setdefault(status.st_ino, set())
            others.add(name)
            place = status.st_size, status.st_nlink, status.st_mtime_ns
            found[name] = oct(status.st_mode), content, others, *place
        elif stat.S_ISLNK(status.st_mode):
            found[name] = "link", os.readlink(path)
        else:
            found[name] = (oct(status.st_mode),)
    return found


def fill(top: Path) -> None:
    rng = random.Random(5)
    for number in range(60):
        place = top / f"directory{number % 7}"
        place.mkdir(exist_ok=True)
        size = rng.choice((0, 1, 4096, 20_000, 150_000, 700_000))
        path = place / f"file{number}"
        path.write_bytes(rng.randbytes(size))
        date(path, number)
    (top / "pointer").symlink_to("directory1/file1")
    (top / "large").write_bytes(rng.randbytes(5 * MIB))
    date(top / "large", 0)


def date(path: Path, number: int) -> None:
    second = 1_600_000_000 + number
    os.utime(path, (second, second))


def change(top: Path, seed: int, count: int = 60) -> None:
    """So many changes to files that are there, as programs make them; all follows from the seed."""
    rng = random.Random(seed)
    for number in range(count):
        files = sorted(p for p in top.rglob("*") if p.is_file() and not p.is_symlink())
        path = rng.choice(files)
        rng.choice(CHANGES)(path, rng, top / f"new{seed}-{number}")
        if path.exists():
            date(path, 1000 * seed + number)


def append(path: Path, rng: random.Random, new: Path) -> None:
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 90_000)))


def patch(path: Path, rng: random.Random, new: Path) -> None:
    with path.open("r+b") as file:
        for _ in range(rng.randrange(1, 6)):
            file.seek(rng.randrange(path.stat().st_size + 1))
            file.write(rng.randbytes(rng.randrange(1, 20_000)))


def cut(path: Path, rng: random.Random, new: Path) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size + 1))


def grow(path: Path, rng: random.Random, new: Path) -> None:
    """Longer, with a hole in between."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size + rng.randrange(MIB))
        file.write(b"the end")


def punch(path: Path, rng: random.Random, new: Path) -> None:
    size = path.stat().st_size
    if size > 8 * KIB:
        offset = rng.randrange(size - 1)
        length = rng.randrange(1, size - offset)
        subprocess.run(["fallocate", "-p", "-o", str(offset), "-l", str(length), path], check=True)


def rename(path: Path, rng: random.Random, new: Path) -> None:
    path.rename(new)
    date(new, 1)


def link(path: Path, rng: random.Random, new: Path) -> None:
    new.hardlink_to(path)


def replace(path: Path, rng: random.Random, new: Path) -> None:
    new.write_bytes(rng.randbytes(rng.randrange(60_000)))
    new.replace(path)


def unlink_open(path: Path, rng: random.Random, new: Path) -> None:
    """What is still open is read when its name is gone."""
    content = path.read_bytes()
    with path.open("rb") as file:
        path.unlink()
        assert file.read() == content


CHANGES = (append, patch, cut, grow, punch, rename, link, replace, unlink_open)


@pytest.mark.timeout(300)
def test_there_and_back_through_every_scheme_beside_a_twin(filesystem: Round) -> None:
    rng = random.Random(11)
    filesystem.both(fill)
    filesystem.stop()
    source = "work"
    for seed, target in enumerate(("six", "vand", "two", "one", "work"), start=1):
        filesystem.move(source, target)
        if "work" not in (source, target):
            filesystem.move("work", target)
        lost = rng.sample(filesystem.drives_of(target), MAY_BE_LOST.get(target, 0))
        with filesystem.mounted_without(lost):
            filesystem.assert_same()
            for top in (filesystem.path, filesystem.twin):
                change(top, seed)
            filesystem.assert_same()
        source = target
    assert [live_bytes(filesystem, pool) for pool in MAY_BE_LOST] == [0] * 4
    filesystem.start()
    filesystem.assert_same()


def test_what_is_left_without_m_drives_goes_back_to_the_workspace(filesystem: Round) -> None:
    filesystem.both(fill)
    filesystem.stop()
    filesystem.move("work", "six")
    filesystem.start()
    filesystem.both(lambda top: change(top, 21))
    filesystem.stop()
    for lost in filesystem.drives_of("six")[2:4]:
        shutil.rmtree(lost)
    filesystem.start()
    filesystem.assert_same()
    filesystem.stop()
    filesystem.move("six", "work")
    for lost in filesystem.drives_of("six")[4:]:
        shutil.rmtree(lost)
    filesystem.start("--degraded")
    filesystem.assert_same()


@pytest.mark.parametrize("seed", range(2))
def test_a_compactor_killed_on_its_way_between_two_pools(filesystem: Round, seed: int) -> None:
    rng = random.Random(102 + seed)
    source, target = rng.sample(sorted(SCHEMES), 2)
    filesystem.both(fill)
    filesystem.stop()
    if source != "work":
        filesystem.move("work", source)
    kill_while_moving(filesystem, source, target, after=rng.randrange(1, 30))
    filesystem.start()
    filesystem.assert_same()
    filesystem.both(lambda top: change(top, seed, 20))
    filesystem.stop()
    filesystem.move(source, target)
    assert fragments_known(filesystem) == fragments_there(filesystem)
    filesystem.start()
    filesystem.assert_same()


def fragments_there(filesystem: Round) -> int:
    return sum(1 for drive in filesystem.drives for _ in drive.glob("fragment-*"))


def fragments_known(filesystem: Round) -> int:
    done = filesystem.command("drive", "list", "--json", str(filesystem.config), limit_s=60)
    return sum(drive["fragments"] for drive in json.loads(done.stdout)["drives"])


def kill_while_moving(filesystem: Round, source: str, target: str, *, after: int) -> None:
    """SIGKILL when the drives of both pools have changed so many times."""
    words = [sys.executable, "-m", "shmr.cli.compact", str(filesystem.config), "--all", "--flush"]

    def names() -> set[str]:
        drives = filesystem.drives_of(source) + filesystem.drives_of(target)
        return {str(path) for drive in drives for path in drive.iterdir()}

    running = subprocess.Popen(
        [*words, "--from", source, "--to", target],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seen, changes = names(), 0
        while changes < after:
            with suppress(subprocess.TimeoutExpired):
                running.wait(0.002)
                break
            now = names()
            changes += len(now ^ seen)
            seen = now
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
