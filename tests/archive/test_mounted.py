"""The whole round with the real commands: fill, unmount, compact, mount, lose drives, read all."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import MountedFilesystem

pytestmark = pytest.mark.mount

CONFIG = """\
filesystem: tests
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 2MiB
    drives:
      - {{path: {drives[0]}, size: 512MiB}}
  - name: cold
    priority: 10
    scheme: {{erasure: {{k: 2, m: 2}}}}
    zone_size: 4MiB
    drives:
      - {{path: {drives[1]}, size: 256MiB}}
      - {{path: {drives[2]}, size: 256MiB}}
      - {{path: {drives[3]}, size: 256MiB}}
      - {{path: {drives[4]}, size: 256MiB}}
      - {{path: {drives[5]}, size: 256MiB}}
"""


class Compacting(MountedFilesystem):
    """A mount with an archive pool of 2+2 on five drives."""

    def _configuration(self, size: str, scheme: str) -> str:
        return CONFIG.format(drives=self.drives)

    def compact(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "shmr.cli.compact", str(self.config), *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )


@pytest.fixture
def filesystem() -> Iterator[Compacting]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    found = Compacting(base, drives=6)
    try:
        found.start()
        yield found
    finally:
        try:
            found.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def fill(top: Path) -> None:
    rng = random.Random(3)
    for number in range(40):
        place = top / f"directory{number % 5}"
        place.mkdir(exist_ok=True)
        size = rng.choice((0, 1, 100, 4096, 50_000, 300_000, 2_000_000))
        (place / f"file{number}").write_bytes(rng.randbytes(size))


def hashes(top: Path) -> dict[str, str]:
    return {
        str(path.relative_to(top)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(top.rglob("*"))
        if path.is_file()
    }


def live_bytes(filesystem: Compacting, pool: str) -> int:
    done = filesystem.command("inspect", "overview", "--json", str(filesystem.config), limit_s=60)
    pools = json.loads(done.stdout)["pools"]
    return int(next(p["live_bytes"] for p in pools if p["name"] == pool))


def test_files_are_the_same_after_a_shift_and_without_m_drives(filesystem: Compacting) -> None:
    fill(filesystem.path)
    before = hashes(filesystem.path)
    refused = filesystem.compact("--all")
    assert refused.returncode == 1 and "in use" in refused.stderr
    filesystem.stop()
    planned = filesystem.compact("--all", "--flush", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    wanted = json.loads(planned.stdout)["forecasts"][0]["file_bytes"]
    assert wanted == live_bytes(filesystem, "work") > 0
    done = filesystem.compact("--all", "--flush", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moved_bytes"] == wanted
    assert live_bytes(filesystem, "work") == 0
    filesystem.start()
    assert hashes(filesystem.path) == before
    filesystem.stop()
    for lost in filesystem.drives[2:4]:
        shutil.rmtree(lost)
    filesystem.start()
    assert hashes(filesystem.path) == before


def test_files_go_there_and_back_by_name(filesystem: Compacting) -> None:
    fill(filesystem.path)
    before = hashes(filesystem.path)
    inode = (filesystem.path / "directory1/file1").stat().st_ino
    filesystem.stop()
    done = filesystem.compact("--path", "/directory2", "--inode", str(inode))
    assert done.returncode == 0, done.stderr
    there = live_bytes(filesystem, "cold")
    assert 0 < there < live_bytes(filesystem, "work")
    done = filesystem.compact("--all", "--from", "cold", "--to", "work")
    assert done.returncode == 0, done.stderr
    assert live_bytes(filesystem, "cold") == 0
    filesystem.start()
    assert hashes(filesystem.path) == before


def test_nothing_is_cold_by_default_where_there_is_room(filesystem: Compacting) -> None:
    fill(filesystem.path)
    filesystem.stop()
    done = filesystem.compact()
    assert done.returncode == 0, done.stderr
    assert live_bytes(filesystem, "cold") == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_ended_is_completed_by_the_next(filesystem: Compacting, how: int) -> None:
    fill(filesystem.path)
    before = hashes(filesystem.path)
    filesystem.stop()
    words = [sys.executable, "-m", "shmr.cli.compact", str(filesystem.config), "--all"]
    running = subprocess.Popen(
        [*words, "--flush", "--limit-rate", "4MiB"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not any(filesystem.drives[1].glob("fragment-*")):
            assert time.monotonic() < deadline and running.poll() is None
            time.sleep(0.01)
        running.send_signal(how)
        assert running.wait(60) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
    filesystem.start()
    assert hashes(filesystem.path) == before
    filesystem.stop()
    done = filesystem.compact("--all", "--flush", "--json")
    assert done.returncode == 0, done.stderr
    assert live_bytes(filesystem, "work") == 0
    filesystem.start()
    assert hashes(filesystem.path) == before
