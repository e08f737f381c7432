"""Long drive commands: progress, dry runs, limited rates, the status file."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from shmr import service
from shmr.service.drives.rehousing import Rehoused
from shmr.units import MIB
from tests.place import Place


def test_progress_is_told(place: Place) -> None:
    told: list[tuple[str, int, int]] = []
    service.drive_drain(place.config, place.path("a"), watcher=lambda *one: told.append(one))
    _phase, done, total = told[-1]
    assert 0 < done <= total and total - done < MIB
    assert {"writing", "verifying"} <= {phase for phase, _, _ in told}


def tree(base: Path) -> dict[str, bytes]:
    found = (p for p in base.rglob("*") if p.is_file() and p.name not in ("lock", "lock.mdb"))
    return {str(p.relative_to(base)): p.read_bytes() for p in found}


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("verb", ["drain", "replace", "rebalance", "raise", "lower"])
def test_a_dry_run_changes_nothing_and_is_what_happens_then(
    place: Place, verb: str, lost: bool
) -> None:
    (place.base / "e").mkdir()
    place.configure("abcde")
    if verb in ("drain", "rebalance", "lower"):
        service.drive_add(place.config, place.path("e"))
    if verb == "lower":
        service.redundancy(place.config, "cold", 2)
    if lost:
        shutil.rmtree(place.base / "b")

    def call(*, dry_run: bool) -> Rehoused:
        if verb == "drain":
            return service.drive_drain(place.config, place.path("b"), dry_run=dry_run)
        if verb == "replace":
            old, new = place.path("b"), place.path("e")
            return service.drive_replace(place.config, old, new, dry_run=dry_run)
        if verb == "rebalance":
            return service.drive_rebalance(place.config, dry_run=dry_run)
        return service.redundancy(
            place.config, "cold", 2 if verb == "raise" else 1, dry_run=dry_run
        )

    before = tree(place.base)
    told = call(dry_run=True)
    assert tree(place.base) == before
    used = {name: drive.used_bytes for name, drive in place.listed().items() if name is not None}
    done = call(dry_run=False)
    if verb == "lower" and lost:
        # That a fragment cannot be read is found by reading it.
        assert told.dropped == done.dropped + done.left
    else:
        assert (told.moved, told.dropped, told.left) == (done.moved, done.dropped, done.left)
    assert told.dry_run and (told.moved or told.dropped) and not told.stopped
    assert sum(drive.write_bytes for drive in told.drives) == told.moved_bytes
    if verb == "replace":
        (given,) = (drive for drive in told.drives if drive.write_bytes)
        assert given.label == place.path("e")
        # A superblock and a copy of the snapshot beside.
        assert 0 <= place.listed()["e"].used_bytes - given.write_bytes - used["e"] < MIB


def test_a_dry_run_tells_what_is_lost(tmp_path: Path) -> None:
    place = Place(tmp_path, "abc")
    place.fill(3)
    for name in "ef":
        (place.base / name).mkdir()
    place.configure("abcef")
    service.drive_add(place.config, place.path("e"), place.path("f"))
    lost = place.listed()["a"].drive
    assert lost is not None
    for name in "ab":
        shutil.rmtree(place.base / name)
    told = service.drive_drain(place.config, lost, dry_run=True)
    assert (told.moved, len(told.lost)) == (0, sum(place.widths().values()))
    assert not told.is_complete and "is lost: of 2 others it takes, 1 are there" in told.lost[0]
    done = service.drive_drain(place.config, lost)
    assert (done.moved, len(done.lost)) == (0, len(told.lost))


def test_the_rate_is_kept_to(place: Place) -> None:
    begun, held = time.monotonic(), place.listed()["a"].fragments
    rate = 8 * MIB
    done = service.drive_drain(place.config, place.path("a"), limit_rate=rate)
    assert done.moved == held
    # The last step is paid for by nobody: it may be a whole fragment, of two zones at most.
    assert time.monotonic() - begun >= (done.moved_bytes - 2 * MIB) / rate


def test_the_status_file_tells_of_the_job(place: Place) -> None:
    status = place.base / "status"
    place.config.write_text(place.config.read_text() + f"status_file: {status}\n")
    seen: list[str] = []

    def look(phase: str, done: int, total: int) -> None:
        seen.append(status.read_text())

    service.drive_drain(place.config, place.path("a"), watcher=look)
    assert "tests : drives are being changed" in seen[-1]
    assert "\ndrain : " in seen[-1] and "[UUUU]" in seen[-1]
    assert status.read_text().startswith("tests : not mounted")
    status.unlink()
    service.drive_rebalance(place.config, dry_run=True)
    assert not status.exists()
