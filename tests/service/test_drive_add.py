"""Drives join a pool, begin one, come back to it; and a pool ends with its last."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.errors import SetupError, ShmrError
from shmr.format.rows import Row, Table
from shmr.service.offline import unmounted
from shmr.volume.known_pools import known_pools
from tests.place import Place, name_new_pool


def test_only_an_empty_directory_of_the_config_is_added(place: Place) -> None:
    with pytest.raises(SetupError, match=r"add this line(.|\n)*path: .*/e}"):
        service.drive_add(place.config, place.path("e"))
    place.configure("abcde")
    with pytest.raises(SetupError, match="make the directory"):
        service.drive_add(place.config, place.path("e"))
    (place.base / "e").mkdir()
    (place.base / "e" / "letter").write_text("dear")
    with pytest.raises(SetupError, match="not empty"):
        service.drive_add(place.config, place.path("e"))
    (place.base / "e" / "superblock-000002").write_bytes(b"shmrdrv1, and torn")
    with pytest.raises(SetupError, match="superblock-000002"):
        service.drive_add(place.config, place.path("e"))
    # Alone it is what a power cut left of adding the drive.
    (place.base / "e" / "letter").unlink()
    service.drive_add(place.config, place.path("e"))
    service.drive_add(place.config, place.path("e"))
    assert len(place.listed()) == 5 and place.listed()["e"].member
    with pytest.raises(SetupError, match="workspace"):
        service.drive_add(place.config, place.path("work"))
    with pytest.raises(SetupError, match="workspace"):
        service.drive_drain(place.config, place.path("work"))


def test_a_drive_of_another_filesystem_is_not_added(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    shutil.copytree(other.base / "a", place.base / "e")
    place.configure("abcde")
    with pytest.raises(SetupError, match="only an empty directory"):
        service.drive_add(place.config, place.path("e"))


def test_adding_a_drive_warns_of_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ef":
        (place.base / name).mkdir()
    place.configure("abcde")
    service.drive_add(place.config, place.path("e"))
    place.configure("bcdef")
    service.drive_replace(place.config, place.path("b"), place.path("f"))
    assert "/f" not in caplog.text and "/e" not in caplog.text


def test_a_pool_that_is_new_in_the_config_begins_with_its_first_drive(place: Place) -> None:
    name_new_pool(place)
    with pytest.raises(SetupError, match="drive add"):
        service.drive_rebalance(place.config, "cellar")
    told = service.drive_add(place.config, place.path("x"))
    assert "has 1 of the 2 drives" in told[1]
    with pytest.raises(ShmrError, match="2 different drives are needed"):
        service.compact(place.config, everything=True, source="cold", target="cellar")
    place.assert_files()
    assert len(service.drive_add(place.config, place.path("y"), place.path("x"))) == 2
    done = service.compact(
        place.config, everything=True, source="cold", target="cellar", flush=True
    )
    assert done.segments > 0
    for name in "abcdx":
        shutil.rmtree(place.base / name)
    place.assert_files()


def test_a_pool_ends_with_its_last_drive_and_may_then_be_begun_anew(place: Place) -> None:
    name_new_pool(place)
    service.drive_add(place.config, place.path("x"), place.path("y"))
    service.compact(place.config, everything=True, source="cold", target="cellar", flush=True)
    service.drive_remove(place.config, place.path("y"), force=True)
    with pytest.raises(SetupError, match="would be lost: move what they hold first"):
        service.drive_remove(place.config, place.path("x"), force=True)
    place.assert_files()
    service.compact(place.config, everything=True, source="cellar", target="cold", flush=True)
    with pytest.raises(SetupError, match="--force"):
        service.drive_remove(place.config, place.path("x"))
    (told,) = service.drive_remove(place.config, place.path("x"), force=True)
    assert "'cellar' is no more" in told
    with unmounted(load(place.config), read_only=True) as (volume, pools):
        assert [pool.name for pool in pools] == ["cold"]
        known = known_pools(volume.catalog).values()
        assert {pool.name: len(pool.members) for pool in known} == {"cold": 4, "cellar": 0}
    with pytest.raises(SetupError, match="pool 'cellar'; only an empty directory"):
        service.drive_add(place.config, place.path("y"))
    shutil.rmtree(place.base / "y")
    (place.base / "y").mkdir()
    service.drive_add(place.config, place.path("y"), place.path("x"))
    place.assert_files()


def test_drives_that_were_removed_by_force_come_back_with_what_they_hold(place: Place) -> None:
    for name in "ab":
        told = service.drive_remove(place.config, place.path(name), force=True)
        assert "takes it in again" in told[1]
    with pytest.raises(ShmrError, match="is missing"):
        place.assert_files()
    service.drive_add(place.config, place.path("b"))
    place.assert_files()
    service.drive_add(place.config, place.path("a"))
    shutil.rmtree(place.base / "c")
    place.assert_files()


def test_a_pool_is_not_begun_anew_while_its_drives_are_away(place: Place) -> None:
    for name in "abcd":
        (place.base / name).rename(place.base / f"{name}-away")
        (place.base / name).mkdir()
    with pytest.raises(SetupError, match="no drive of it is there; connect them"):
        service.drive_add(place.config, place.path("a"))
    assert {path.name for path in (place.base / "a").iterdir()} <= {"lock"}
    # Nor where the journal does not know of pools yet, as on older filesystems.
    place.config.write_text(place.config.read_text().replace("name: cold", "name: warm"))
    with pytest.raises(SetupError, match="in a pool of which no drive is there"):
        with unmounted(load(place.config), read_only=False) as (volume, _):
            keys = [key for key, _ in volume.catalog.scan(Table.STATE, b"")]
            old = [key for key in keys if key.startswith((b"pool ", b"member "))]
            volume.context.apply([Row(Table.STATE, key, None) for key in old])
        service.drive_add(place.config, place.path("a"))


def test_schemes_are_tried_before_a_pool_relies_on_them(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_new_pool(place)

    def fail(k: int, m: int, code: str | None) -> int:
        raise SetupError(f"{k}+{m} decodes to wrong bytes")

    for module in ("shmr.service.assemble", "shmr.service.drives.add"):
        monkeypatch.setattr(sys.modules[module], "self_test", fail)
    with pytest.raises(SetupError, match=r"1[+]1 decodes to wrong bytes"):
        service.drive_add(place.config, place.path("x"))
    assert not any((place.base / "x").glob("superblock*"))
    (tmp_path / "other").mkdir()
    with pytest.raises(SetupError, match=r"2[+]1 decodes to wrong bytes"):
        Place(tmp_path / "other")
    assert not any((tmp_path / "other").rglob("superblock*"))
