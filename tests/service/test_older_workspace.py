"""An older workspace comes back beside an archive that went on without it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.errors import SetupError
from shmr.fsck.checking.check import check
from shmr.fsck.mending.repair import repair
from shmr.fsck.rebuilding.catalog import rebuild_catalog
from shmr.service.lineage import keep_unknown, refuse_older
from shmr.service.offline import unmounted
from tests.place import Place

OF_THE_WORKSPACE = ("work", "catalog")


def put_aside(place: Place, to: Path) -> None:
    to.mkdir()
    for name in OF_THE_WORKSPACE:
        if (place.base / name).exists():
            shutil.move(place.base / name, to / name)
    (place.base / "work").mkdir()


def put_back(place: Place, back: Path) -> None:
    for name in OF_THE_WORKSPACE:
        shutil.rmtree(place.base / name, ignore_errors=True)
        if (back / name).exists():
            shutil.copytree(back / name, place.base / name)


def archive_of(place: Place) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for drive in "abcd"
        for path in (place.base / drive).iterdir()
        if path.name.startswith(("fragment", "snapshot"))
    }


@pytest.fixture(params=["made anew", "an image"])
def newer(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The older workspace is in place, the archive has files of a newer one, which is returned."""
    old, new = tmp_path / "old", tmp_path / "new"
    if request.param == "made anew":
        put_aside(place, old)
        rebuild_catalog(place.config)
    else:
        old.mkdir()
        for name in OF_THE_WORKSPACE:
            if (place.base / name).exists():
                shutil.copytree(place.base / name, old / name)
    place.fill(2, seed=9)
    put_aside(place, new)
    put_back(place, old)
    return new


def test_nothing_is_changed_with_an_older_workspace(place: Place, newer: Path) -> None:
    before = archive_of(place)
    for job in (
        lambda: service.compact(place.config, everything=True, flush=True),
        lambda: service.drive_drain(place.config, place.path("a")),
        lambda: unmounted(load(place.config), read_only=False).__enter__(),
    ):
        with pytest.raises(SetupError, match="older one than the archive"):
            job()
    assert check(place.config).counts
    repair(place.config)
    assert archive_of(place) == before
    with unmounted(load(place.config), read_only=True) as (volume, _):
        assert volume.read_only is not None
    put_back(place, newer)
    place.assert_files()
    assert check(place.config).is_clean


def test_what_a_log_that_was_cut_knew_is_remembered_and_left_alone(place: Place) -> None:
    before = archive_of(place)
    numbers = sorted({int(path.split("-")[-3]) for path in before if "fragment" in path})
    with unmounted(load(place.config), read_only=False) as (volume, _):
        # As if the end of the log, from the middle of the archive on, had been given up.
        volume.taken = numbers[len(numbers) // 2]
        highest = max(int(path.split("-")[-1]) for path in before if "snapshot" in path)
        with pytest.raises(SetupError, match="older one than the archive"):
            refuse_older(volume)
        cut = volume.taken
        keep_unknown(volume)
        assert volume.taken is None
        assert list(volume.archive.gaps()) == [(cut, max(highest, numbers[-1]) + 1)]
        assert volume.context.reader.store.next_number > max(highest, numbers[-1])
    with unmounted(load(place.config), read_only=False) as (volume, _):
        assert all(number in volume.archive.gaps() for number in numbers if number >= cut)
    assert archive_of(place) == before
