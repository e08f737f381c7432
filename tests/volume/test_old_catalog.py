"""A catalog that was copied, and put back when the log had gone on."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from shmr.units import MIB
from shmr.volume.cleaner import run_inline
from shmr.volume.volume import Volume
from tests.volume.test_durability import ROOT_USER, Machine, commit, names

FILE = stat.S_IFREG | 0o644


def make(volume: Volume, first: int, count: int) -> None:
    for number in range(first, first + count):
        made = volume.names.create(1, b"%d" % number, FILE, ROOT_USER)
        volume.data.write(made.number, 0, b"%d" % number)
    commit(volume)


@pytest.mark.parametrize("snapshots", [0, 1, 2])
@pytest.mark.parametrize("after", ["a clean end", "a crash"])
def test_an_old_catalog_costs_nothing(tmp_path: Path, snapshots: int, after: str) -> None:
    machine = Machine(tmp_path / "catalog", 4 * MIB)
    volume = machine.open()
    make(volume, 0, 50)
    volume.close()
    shutil.copytree(machine.path, tmp_path / "copy")
    volume = machine.open()
    for number in range(snapshots):
        make(volume, 100 * (number + 1), 60)
        volume.names.unlink(1, b"%d" % number)
        run_inline(volume.snapshots.make())
    make(volume, 1000, 20)
    expected = names(volume)
    if after == "a crash":
        volume.abandon()
    else:
        volume.close()
    shutil.rmtree(machine.path)
    shutil.copytree(tmp_path / "copy", machine.path)
    volume = machine.open()
    assert volume.read_only is None
    assert names(volume) == expected
    number = volume.names.lookup(1, b"1000").number
    plan = volume.data.plan_read(number, 0, 100)
    assert bytes(plan.fetch()) == b"1000"
    plan.release()
    assert any("older than the log" in line for line in volume.report) == bool(snapshots)
    volume.close()
