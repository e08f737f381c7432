"""Who finds a filesystem in use is told by whom, and what to do first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shmr.config import load
from shmr.service.assemble import InUse
from shmr.service.mounted.daemon import Order
from shmr.service.offline import unmounted
from tests.place import Place

HOLD = """
import sys
from shmr.drive.directory import DirectoryDrive
drive = DirectoryDrive(sys.argv[1])
print(drive.lock(), flush=True)
sys.stdin.read()
"""
"""Holds the lock of a drive until its standard input ends."""


def refused(place: Place, *words: str) -> tuple[str, int]:
    """The message while a process with these words behind its command line holds the workspace."""
    command = [sys.executable, "-c", HOLD, place.path("work"), *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "True\n"
        with (
            pytest.raises(InUse) as found,
            unmounted(load(place.config), read_only=True),
        ):
            pass
        holder.stdin.close()
        assert holder.wait(30) == 0
        return str(found.value), holder.pid


def test_by_a_mount(tmp_path: Path) -> None:
    place = Place(tmp_path)
    order = Order(str(place.config), "/mnt/a place", (), False, False)
    told, pid = refused(place, "shmr.service.mounted.daemon", order.encode(), "3")
    assert told.startswith(f"filesystem 'tests' is in use: process {pid} (")
    assert told.endswith("mounted at /mnt/a place; run `shmr umount '/mnt/a place'` first")
    assert "{" not in told


@pytest.mark.parametrize("words", [(), ("shmr.service.mounted.daemon", '{"mountpoint": 3}')])
def test_by_another_program(tmp_path: Path, words: tuple[str, ...]) -> None:
    told, pid = refused(Place(tmp_path), *words)
    assert f"process {pid} (" in told and told.endswith("works on it; wait until that has ended")
    assert "umount" not in told and len(told) < 150
