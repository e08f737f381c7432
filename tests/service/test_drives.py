"""`shmr drive`: drives are emptied, replaced, evened out, and leave, while nothing is mounted."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.errors import DriveError, SetupError
from shmr.service.last_seen import last_seen
from shmr.service.offline import unmounted
from shmr.units import MIB
from tests.place import Place


def test_the_list_says_what_each_drive_holds(place: Place) -> None:
    listed = place.listed()
    assert set(listed) == set("abcd")
    assert all(drive.member and drive.state == "normal" for drive in listed.values())
    assert sum(drive.fragments for drive in listed.values()) == 3 * sum(place.widths().values())
    shutil.rmtree(place.base / "b")
    listed = place.listed()
    assert listed["b"].missing and listed["b"].drive is None
    assert listed[None].missing == "missing" and listed[None].fragments > 0


def test_a_drained_drive_can_be_removed(place: Place) -> None:
    with pytest.raises(SetupError, match=r"fragment on it.*only 0 more drives.*--force"):
        service.drive_remove(place.config, place.path("a"))
    done = service.drive_drain(place.config, place.path("a"))
    assert done.is_complete and done.moved > 0 and "remove" in done.advice[0]
    assert place.listed()["a"].state == "drain" and place.listed()["a"].fragments == 0
    place.assert_files()
    assert service.drive_drain(place.config, place.path("a")).moved == 0
    service.drive_remove(place.config, place.path("a"))
    assert {p.name for p in (place.base / "a").iterdir()} <= {"lock"}
    place.configure("bcd")
    place.assert_files()
    assert set(place.listed()) == set("bcd")
    place.fill(1)


def test_what_has_no_place_stays_and_says_so(place: Place) -> None:
    service.drive_drain(place.config, place.path("a"))
    done = service.drive_drain(place.config, place.path("b"))
    assert not done.is_complete and done.left > 0
    assert done.shortage is not None and "being drained" in done.shortage
    assert "drive state" in done.advice[1]
    place.assert_files()
    with pytest.raises(SetupError, match="needs 3"):
        service.drive_remove(place.config, place.path("a"))
        service.drive_remove(place.config, place.path("c"))


@pytest.mark.parametrize("there", [True, False])
def test_a_replaced_drive_is_out_of_the_pool_and_nothing_is_lost(place: Place, there: bool) -> None:
    held = place.listed()["b"].fragments
    (place.base / "e").mkdir()
    place.configure("abcde")
    if not there:
        shutil.rmtree(place.base / "b")
    done = service.drive_replace(place.config, place.path("b"), place.path("e"))
    assert done.is_complete and done.moved == held > 0
    place.configure("acde")
    listed = place.listed()
    assert set(listed) == set("acde") and listed["e"].fragments == held
    place.assert_files()
    # Everything is as redundant as before.
    shutil.rmtree(place.base / "c")
    place.assert_files()


def test_a_blank_disk_takes_the_place_of_one_that_died(place: Place) -> None:
    shutil.rmtree(place.base / "b")
    (place.base / "b").mkdir()
    assert service.drive_replace(place.config, place.path("b"), place.path("b")).is_complete
    assert set(place.listed()) == set("abcd")
    shutil.rmtree(place.base / "a")
    place.assert_files()


def test_a_blank_disk_that_was_stopped_in_the_place_of_another_goes_on(place: Place) -> None:
    held = place.listed()["b"].fragments
    shutil.rmtree(place.base / "b")
    (place.base / "b").mkdir()
    done = service.drive_replace(place.config, place.path("b"), place.path("b"), stop=lambda: True)
    assert done.stopped and done.left == held
    assert service.drive_replace(place.config, place.path("b"), place.path("b")).moved == held
    assert set(place.listed()) == set("abcd")
    # And once more, after its very end.
    again = service.drive_replace(place.config, place.path("b"), place.path("b"))
    assert again.is_complete and not again.moved and "none is missing" in again.advice[0]
    place.assert_files()


def test_a_path_without_a_drive_is_not_taken_for_another_that_is_missing(place: Place) -> None:
    (place.base / "e").mkdir()
    place.configure("abcde")
    service.drive_add(place.config, place.path("e"))
    service.drive_drain(place.config, place.path("b"))
    service.drive_remove(place.config, place.path("b"))
    lost = place.listed()["c"].drive
    assert lost is not None
    shutil.rmtree(place.base / "c")
    note = next(place.base.rglob("catalog.drives"))
    known = note.read_bytes()
    note.unlink()
    for path in (place.path("b"), place.path("c")):
        with pytest.raises(SetupError, match=f"no drive is at .* either.*: {lost[:8]}"):
            service.drive_drain(place.config, path)
        with pytest.raises(SetupError, match="is not known"):
            service.drive_forget(place.config, path, force=True)
    note.write_bytes(known)
    with pytest.raises(SetupError, match=rf"no drive is at .* either.*: {lost[:8]} \(last at"):
        service.drive_drain(place.config, place.path("b"))
    with pytest.raises(SetupError, match="is not known"):
        service.drive_forget(place.config, place.path("b"), force=True)
    assert service.drive_drain(place.config, lost[:8]).is_complete
    service.drive_forget(place.config, lost[:8])
    place.assert_files()


def test_what_was_killed_at_its_very_end_may_be_run_again(place: Place) -> None:
    (place.base / "e").mkdir()
    place.configure("abcde")
    kept = shutil.copytree(place.base / "b", place.base / "b-before")
    assert service.drive_replace(place.config, place.path("b"), place.path("e")).is_complete
    for _ in range(2):
        again = service.drive_replace(place.config, place.path("b"), place.path("e"))
        assert again.is_complete and "out of the config" in again.advice[0]
        (told,) = service.drive_remove(place.config, place.path("b"))
        assert "out of the config" in told
        # The same where only its superblock was left to be removed.
        for name in kept.glob("superblock-*"):
            shutil.copy(name, place.base / "b")
    with pytest.raises(SetupError, match="none is missing"):
        service.drive_drain(place.config, place.path("b"))
    # It comes back as the drive that it was.
    before = place.listed()["a"].drive
    service.drive_add(place.config, place.path("b"))
    assert place.listed()["b"].member and place.listed()["a"].drive == before
    place.fill(2)
    place.assert_files()


def test_a_replacement_that_was_stopped_goes_on(place: Place) -> None:
    place.fill(6, seed=5)  # so that there is enough on any drive, whatever goes where
    (place.base / "e").mkdir()
    place.configure("abcde")
    shutil.rmtree(place.base / "b")
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 3

    done = service.drive_replace(place.config, place.path("b"), place.path("e"), stop=stop)
    assert done.stopped and done.left > 0
    place.assert_files()
    again = service.drive_replace(place.config, place.path("b"), place.path("e"))
    assert again.is_complete and again.moved == done.left
    place.assert_files()


def test_a_lost_drive_is_forgotten_only_by_force_and_rebuilt_all_the_same(place: Place) -> None:
    lost = place.listed()["d"].drive
    assert lost is not None
    shutil.rmtree(place.base / "d")
    with pytest.raises(SetupError, match="--force"):
        service.drive_forget(place.config, lost[:8])
    with pytest.raises(SetupError, match="missing"):
        service.drive_remove(place.config, lost[:8], force=True)
    advice = service.drive_forget(place.config, lost[:8], force=True)
    assert "drain" in advice[1]
    place.configure("abc")
    assert not place.listed()[None].member
    (place.base / "e").mkdir()
    place.configure("abce")
    service.drive_add(place.config, place.path("e"))
    assert service.drive_drain(place.config, lost[:8]).is_complete
    assert set(place.listed()) == set("abce")
    shutil.rmtree(place.base / "a")
    place.assert_files()


def test_a_drive_that_was_removed_is_no_part_of_the_pool_when_it_is_back(place: Place) -> None:
    shutil.move(place.base / "d", place.base / "away")
    service.drive_drain(place.config, place.path("d"))
    service.drive_forget(place.config, place.path("d"), force=True)
    shutil.move(place.base / "away", place.base / "d")
    place.assert_files()
    with unmounted(load(place.config), read_only=True) as (volume, _pools):
        assert len(volume.context.fragments.drives) == 3


def test_a_drive_does_not_take_its_own_place(place: Place) -> None:
    told = service.drive_replace(place.config, place.path("a"), place.path("a"))
    assert not told.moved and "none is missing" in told.advice[0]
    for name in "bc":
        shutil.rmtree(place.base / name)
    with pytest.raises(SetupError, match="give the id of that"):
        service.drive_replace(place.config, place.path("a"), place.path("a"))


@pytest.mark.parametrize("at", [1, 4, 7])
@pytest.mark.parametrize("which", ["the source", "a target", "a bystander"])
def test_a_drive_that_is_pulled_in_the_middle_costs_no_byte(
    place: Place, which: str, at: int
) -> None:
    place.fill(6, seed=5)  # so that there is enough on any drive, whatever goes where
    place.fill(2)
    # Wide enough to lose the one that is pulled, and to have a place for all beside it.
    for name in "efg":
        (place.base / name).mkdir()
    place.configure("abcdefg")
    service.drive_add(place.config, *(place.path(name) for name in "efg"))
    service.drive_state(place.config, place.path("g"), "prefer")
    for name in "ef":
        service.drive_state(place.config, place.path(name), "avoid")
    pulled = {"the source": "a", "a target": "g", "a bystander": "c"}[which]
    calls = 0

    def pull(phase: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            # Its disk is gone: what is open stays open, as it may, and nothing else is there.
            (place.base / pulled).rename(place.base / "pulled")
            for path in (place.base / "pulled").iterdir():
                path.unlink()

    try:
        done = service.drive_drain(place.config, place.path("a"), watcher=pull)
    except DriveError as error:
        assert which == "a target" and place.path("g") in str(error)
    else:
        assert done.is_complete
    assert calls >= at
    place.assert_files()
    again = service.drive_drain(place.config, place.path("a"))
    assert again.is_complete
    # What was pulled is rebuilt in its turn, and then everything is as it should be.
    if which != "the source":
        assert service.drive_drain(place.config, place.path(pulled)).is_complete
        service.drive_forget(place.config, place.path(pulled))
    place.assert_files()
    shutil.rmtree(place.base / "d")
    place.assert_files()


def test_new_drives_get_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where fragments lie depends on the ids of the drives.
    monkeypatch.setattr(os, "urandom", random.Random(5).randbytes)
    place = Place(tmp_path)
    place.fill()
    place.fill(8, seed=2)
    for name in "efgh":
        (place.base / name).mkdir()
    place.configure("abcdefgh")
    for name in "efgh":
        service.drive_add(place.config, place.path(name))
    done = service.drive_rebalance(place.config)
    assert done.is_complete and done.moved > 0
    used = [drive.used_bytes for drive in place.listed().values()]
    # Within three per cent of a drive, or one fragment.
    assert max(used) - min(used) <= 2 * MIB
    place.assert_files()


def test_the_state_of_a_drive_decides_what_it_is_given(place: Place) -> None:
    service.drive_state(place.config, place.path("b"), "drain")
    before = place.listed()["b"].fragments
    place.fill(3)
    assert place.listed()["b"].fragments == before
    service.drive_state(place.config, place.path("b"), "prefer")
    place.fill(3)
    assert place.listed()["b"].fragments >= before + 3
    with pytest.raises(SetupError, match="no state"):
        service.drive_state(place.config, place.path("b"), "best")


def test_of_several_lost_drives_each_is_known_by_the_path_where_it_was(place: Place) -> None:
    ids = {name: drive.drive for name, drive in place.listed().items()}
    for name in "ab":
        shutil.rmtree(place.base / name)
    missing = [drive for drive in service.drive_list(place.config).drives if drive.path is None]
    assert {(drive.drive, drive.was_at) for drive in missing} == {
        (ids[name], place.path(name)) for name in "ab"
    }
    done = service.drive_drain(place.config, place.path("b"), dry_run=True)
    assert done.moved or done.left or done.lost
    assert done == service.drive_drain(place.config, ids["b"] or "", dry_run=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"zz": 1, "00": "/x"}', None])
def test_where_drives_were_is_no_more_than_a_hint(place: Place, content: bytes | None) -> None:
    note = next(place.base.rglob("catalog.drives"))
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    assert last_seen(note.with_name("catalog")) == {}
    for name in "ab":
        shutil.rmtree(place.base / name)
    with pytest.raises(SetupError, match="which drive was there is not known"):
        service.drive_drain(place.config, place.path("b"))
