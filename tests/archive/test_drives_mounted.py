"""Drives that are lost and replaced, with the real commands; every file is read by a mount."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive.test_mounted import Compacting, fill, hashes

pytestmark = pytest.mark.mount


@pytest.fixture
def filesystem() -> Iterator[Compacting]:
    """A workspace, an archive pool of 2+2 on five drives, and an empty directory."""
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    found = Compacting(base, drives=7)
    try:
        found.start()
        yield found
    finally:
        try:
            found.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def archive(filesystem: Compacting) -> dict[str, str]:
    """Fill it and move everything; unmounted then. Returns what every file is."""
    fill(filesystem.path)
    before = hashes(filesystem.path)
    filesystem.stop()
    done = filesystem.compact("--all", "--flush")
    assert done.returncode == 0, done.stderr
    return before


def run(filesystem: Compacting, *words: str) -> str:
    done = filesystem.command(*words, limit_s=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_spare(filesystem: Compacting) -> None:
    """The config has the empty directory in the archive pool."""
    line = f"      - {{path: {filesystem.drives[6]}, size: 256MiB}}\n"
    filesystem.config.write_text(filesystem.config.read_text() + line)


def test_a_lost_drive_is_replaced_and_then_others_may_go(filesystem: Compacting) -> None:
    config = str(filesystem.config)
    before = archive(filesystem)
    name_spare(filesystem)
    lost, spare = filesystem.drives[2], filesystem.drives[6]
    shutil.rmtree(lost)
    told = run(filesystem, "drive", "replace", config, str(lost), str(spare))
    assert "written anew and verified" in told
    filesystem.config.write_text(
        "".join(
            line
            for line in filesystem.config.read_text().splitlines(keepends=True)
            if str(lost) + "," not in line
        )
    )
    assert "missing" not in run(filesystem, "drive", "list", config)
    filesystem.start()
    assert hashes(filesystem.path) == before
    refused = filesystem.command("drive", "drain", config, str(spare), limit_s=60)
    assert refused.returncode == 1 and "in use" in refused.stdout
    filesystem.stop()
    for other in (filesystem.drives[3], spare):
        shutil.rmtree(other)
    filesystem.start()
    assert hashes(filesystem.path) == before


def test_a_drain_that_was_killed_goes_on(filesystem: Compacting) -> None:
    config = str(filesystem.config)
    before = archive(filesystem)
    drive = next(d for d in filesystem.drives[1:6] if any(d.glob("fragment-*")))
    words = [sys.executable, "-m", "shmr.cli.main", "drive", "drain", config, str(drive)]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while running.poll() is None:
            if any(n for d in filesystem.drives[1:6] for n in d.glob("fragment-*-000002")):
                break
            assert time.monotonic() < deadline
    finally:
        running.kill()
        running.wait()
    filesystem.start()
    assert hashes(filesystem.path) == before
    filesystem.stop()
    run(filesystem, "drive", "drain", config, str(drive))
    assert not [p for p in drive.iterdir() if p.name.startswith(("fragment", "snapshot"))]
    run(filesystem, "drive", "remove", config, str(drive))
    shutil.rmtree(drive)
    filesystem.start()
    assert hashes(filesystem.path) == before


def test_more_parity_lets_more_drives_go(filesystem: Compacting) -> None:
    config = str(filesystem.config)
    before = archive(filesystem)
    run(filesystem, "redundancy", config, "--pool", "cold", "--m", "3")
    for lost in filesystem.drives[1:4]:
        shutil.rmtree(lost)
    filesystem.start()
    assert hashes(filesystem.path) == before
