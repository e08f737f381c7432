"""What a shift leaves on archive drives for who finds them, on real directories."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr import service
from shmr.archive import leave
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.service.offline import unmounted
from shmr.testing.trial import scratch
from tests.fsck.rescued import ME, Rescued
from tests.fsck.standalone import PROGRAM


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as base:
        yield base


@pytest.fixture
def rescued(place: Path) -> Rescued:
    made = Rescued(place, "2+1", spare=1)
    made.fill()
    return made


def test_the_shift_leaves_the_program_and_its_pages_on_the_drives(rescued: Rescued) -> None:
    for drive in map(Path, rescued.cold):
        there = {p.name for p in drive.iterdir()}
        if not any(name.startswith(("fragment", "snapshot")) for name in there):
            continue
        assert there >= leave.NAMES
        assert (drive / "shmr-decode.py").read_bytes() == PROGRAM.read_bytes()
        for name, content in leave.contents().items():
            assert (drive / name).read_bytes() == content
            assert stat.S_IMODE((drive / name).stat().st_mode) == 0o600
    assert b"shmr-decode.py --drives" in leave.contents()["README.txt"]


def test_what_is_left_on_a_drive_is_replaced_where_it_differs_and_goes_with_the_drive(
    place: Path,
) -> None:
    (place / "fs").mkdir()
    made = Rescued(place / "fs", "2+1", spare=1)
    made.fill()
    drive = Path(made.cold[0])
    (drive / "shmr-decode.py").write_bytes(bytes(PROGRAM.stat().st_size))
    (drive / "README.txt").write_text("an older one")
    (drive / "FORMAT.md").unlink()
    for cold in made.cold:
        # Whichever drives are written to.
        if Path(cold) != drive:
            for name in leave.NAMES:
                (Path(cold) / name).unlink(missing_ok=True)
    for index in range(4):
        with unmounted(load(made.config), read_only=False) as (volume, _):
            inode = volume.names.create(ROOT, b"more%d" % index, 0o100644, ME)
            volume.data.write(inode.number, 0, b"more" * 10_000)
        service.compact(made.config, everything=True, target="cold", flush=True)
    for cold in map(Path, made.cold):
        for name, content in leave.contents().items():
            assert (cold / name).read_bytes() == content
    service.drive_drain(made.config, str(drive))
    service.drive_remove(made.config, str(drive))
    assert [p.name for p in drive.iterdir() if p.name != "lock"] == []
    made.look()
    assert made.tree
