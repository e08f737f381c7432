"""`shmr drive` and `shmr redundancy` on real directories, while nothing is mounted."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.errors import DriveError, SetupError, ShmrError
from shmr.format.rows import ROOT, Row, Table
from shmr.service.drive_list import ListedDrive
from shmr.service.offline import unmounted
from shmr.service.rehousing import Rehoused
from shmr.units import MIB
from shmr.volume.context import Caller
from shmr.volume.damage import note_damage
from shmr.volume.known_pools import known_pools

CONFIG = """\
filesystem: tests
catalog: catalog
same_device: {same_device}
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 2MiB
    drives:
      - {{path: work, size: 256MiB}}
  - name: cold
    priority: 10
    scheme: {{erasure: {{k: 2, m: 1}}}}
    zone_size: 2MiB
    drives:
{drives}
"""


class Place:
    """A filesystem in a directory: a workspace, and archive drives a, b, c, ..."""

    def __init__(self, base: Path, names: str = "abcd") -> None:
        self.base = base
        self.config = base / "config.yaml"
        (base / "work").mkdir()
        for name in names:
            (base / name).mkdir()
        self.configure(names)
        service.create(self.config)
        self.files: dict[bytes, bytes] = {}

    def configure(self, names: str, *, same_device: bool = True) -> None:
        drives = "\n".join(f"      - {{path: {name}, size: 64MiB}}" for name in names)
        text = CONFIG.format(drives=drives, same_device=str(same_device).lower())
        self.config.write_text(text)

    def path(self, name: str) -> str:
        return str(self.base / name)

    def fill(self, count: int = 6, *, seed: int = 1) -> None:
        """So many files, in a segment each."""
        rng = random.Random(seed)
        for _ in range(count):
            name = b"file%d" % len(self.files)
            content = rng.randbytes(rng.choice((MIB, MIB // 2, 3 * MIB)))
            with unmounted(load(self.config), read_only=False) as (volume, _pools):
                inode = volume.names.create(ROOT, name, 0o100644, Caller(0, 0))
                for at in range(0, len(content), MIB):
                    volume.data.write(inode.number, at, content[at : at + MIB])
            self.files[name] = content
            service.compact(self.config, paths=["/"], target="cold")

    def assert_files(self) -> None:
        with unmounted(load(self.config), read_only=True) as (volume, _pools):
            for name, content in self.files.items():
                inode = volume.names.lookup(ROOT, name)
                plan = volume.data.plan_read(inode.number, 0, len(content))
                try:
                    assert bytes(plan.fetch()) == content
                finally:
                    plan.release()
            assert volume.archive.strays() == []

    def listed(self) -> dict[str | None, ListedDrive]:
        """Archive drives by their names; None: those that are nowhere."""
        found = service.drive_list(self.config).drives
        return {d.path and Path(d.path).name: d for d in found if d.pool == "cold"}

    def widths(self) -> Counter[int]:
        with unmounted(load(self.config), read_only=True) as (volume, _pools):
            rows = volume.catalog.archived_segments()
            return Counter(len(archived.fragments) for _, archived in rows)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.fill()
    return found


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
    for path in (place.path("b"), place.path("c")):
        with pytest.raises(SetupError, match=f"no drive is at .* either.*: {lost[:8]}"):
            service.drive_drain(place.config, path)
        with pytest.raises(SetupError, match="is not known"):
            service.drive_forget(place.config, path, force=True)
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
    (place.base / "e").mkdir()
    place.configure("abcde")
    shutil.rmtree(place.base / "b")
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 7

    done = service.drive_replace(place.config, place.path("b"), place.path("e"), stop=stop)
    assert done.stopped and done.left > 0
    place.assert_files()
    again = service.drive_replace(place.config, place.path("b"), place.path("e"))
    assert again.is_complete and again.moved == done.left
    place.assert_files()


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


def test_a_dry_run_tells_what_is_lost(place: Place) -> None:
    for name in "ab":
        shutil.rmtree(place.base / name)
    lost = next(drive for drive in place.listed().values() if drive.missing == "missing")
    assert lost.drive is not None
    told = service.drive_drain(place.config, lost.drive, dry_run=True)
    assert told.lost and not told.is_complete and "is lost" in told.lost[0]


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


def test_the_overview_foretells_what_the_compactor_does(place: Place) -> None:
    rules = """\
    rules:
      - {larger_than: 1MiB, to: work}
"""
    place.config.write_text(place.config.read_text() + rules)
    large = {name: len(c) for name, c in place.files.items() if len(c) > MIB}
    found = service.overview(place.config).next_shift
    (move,) = found.moves
    assert large and (move.files, move.size_bytes) == (len(large), sum(large.values()))
    cleaned = sum(view.live_bytes for view in found.cleanings)
    assert cleaned > 0
    assert service.compact(place.config).moved_bytes == move.size_bytes + cleaned
    assert service.overview(place.config).next_shift.moves == ()
    place.assert_files()


def test_damage_that_was_found_is_remembered_until_the_drive_is_empty(place: Place) -> None:
    path = next((place.base / "a").glob("fragment-*"))
    whole = path.read_bytes()
    path.write_bytes(bytes(byte ^ 255 for byte in whole))
    with unmounted(load(place.config), read_only=False) as (volume, _):
        for name, content in place.files.items():
            inode = volume.names.lookup(ROOT, name)
            plan = volume.data.plan_read(inode.number, 0, len(content))
            assert bytes(plan.fetch()) == content
            plan.release()
        found = len(volume.context.gather.findings.all())
    # What a later one finds less of is no news.
    with unmounted(load(place.config), read_only=False) as (volume, _):
        note_damage(volume.context)

    def errors() -> dict[str, int]:
        drives = service.overview(place.config).pools[1].drives
        return {Path(drive.path).name: drive.errors for drive in drives}

    # A fragment of parity is not read.
    assert errors() == {"a": found, "b": 0, "c": 0, "d": 0}
    service.drive_drain(place.config, place.path("a"))
    assert errors() == {"a": 0, "b": 0, "c": 0, "d": 0}
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


NEW_POOL = """\
  - name: cellar
    priority: 20
    scheme: {mirror: 2}
    zone_size: 2MiB
    drives:
      - {path: x, size: 64MiB}
      - {path: y, size: 64MiB}
"""


def name_new_pool(place: Place) -> None:
    """The config has a pool that was not there when the filesystem was made."""
    for name in "xy":
        (place.base / name).mkdir()
    place.config.write_text(place.config.read_text() + NEW_POOL)


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


def test_a_drive_does_not_take_its_own_place(place: Place) -> None:
    told = service.drive_replace(place.config, place.path("a"), place.path("a"))
    assert not told.moved and "none is missing" in told.advice[0]
    for name in "bc":
        shutil.rmtree(place.base / name)
    with pytest.raises(SetupError, match="give the id of that"):
        service.drive_replace(place.config, place.path("a"), place.path("a"))


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

    for module in ("shmr.service.assemble", "shmr.service.drive_add"):
        monkeypatch.setattr(sys.modules[module], "self_test", fail)
    with pytest.raises(SetupError, match=r"1[+]1 decodes to wrong bytes"):
        service.drive_add(place.config, place.path("x"))
    assert not any((place.base / "x").glob("superblock*"))
    (tmp_path / "other").mkdir()
    with pytest.raises(SetupError, match=r"2[+]1 decodes to wrong bytes"):
        Place(tmp_path / "other")
    assert not any((tmp_path / "other").rglob("superblock*"))


@pytest.mark.parametrize("at", [1, 4, 7])
@pytest.mark.parametrize("which", ["the source", "a target", "a bystander"])
def test_a_drive_that_is_pulled_in_the_middle_costs_no_byte(
    place: Place, which: str, at: int
) -> None:
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


def test_new_drives_get_their_share(place: Place) -> None:
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


def test_redundancy_is_raised_and_lowered(place: Place) -> None:
    segments = sum(place.widths().values())
    done = service.redundancy(place.config, "cold", 2)
    assert done.is_complete and done.moved == segments
    assert "m: 2" in done.advice[0]
    assert place.widths() == {4: segments}
    for name in "ab":
        (place.base / name).rename(place.base / f"{name}-away")
    place.assert_files()
    for name in "ab":
        (place.base / f"{name}-away").rename(place.base / name)
    done = service.redundancy(place.config, "cold", 1)
    assert done.is_complete and done.dropped == segments and not done.advice
    assert place.widths() == {3: segments}
    place.assert_files()


def test_copies_become_more_and_fewer(place: Place) -> None:
    name_new_pool(place)
    (place.base / "z").mkdir()
    text = place.config.read_text()
    place.config.write_text(text + "      - {path: z, size: 64MiB}\n")
    service.drive_add(place.config, *(place.path(name) for name in "xyz"))
    service.compact(place.config, everything=True, source="cold", target="cellar", flush=True)
    done = service.redundancy(place.config, "cellar", 2)
    assert done.is_complete and done.moved > 0 and "scheme: {mirror: 3}" in done.advice[0]
    for name in "xz":
        (place.base / name).rename(place.base / f"{name}-away")
    place.assert_files()
    for name in "xz":
        (place.base / f"{name}-away").rename(place.base / name)
    done = service.redundancy(place.config, "cellar", 0)
    assert done.is_complete and done.dropped > 0 and "scheme: single" in done.advice[0]
    assert set(place.widths()) == {1}
    place.assert_files()


def test_redundancy_that_drives_do_not_allow_is_refused(place: Place) -> None:
    done = service.redundancy(place.config, "cold", 3)
    assert not done.is_complete and done.shortage is not None
    place.assert_files()
    for pool, m, why in (
        ("cold", 0, "no scheme"),
        ("work", 1, "workspace"),
        ("warm", 1, "no pool"),
    ):
        with pytest.raises(SetupError, match=why):
            service.redundancy(place.config, pool, m)


def test_parity_stays_where_a_drive_of_the_rest_is_missing(place: Place) -> None:
    segments = sum(place.widths().values())
    assert service.redundancy(place.config, "cold", 2).is_complete
    (place.base / "a").rename(place.base / "away")
    done = service.redundancy(place.config, "cold", 1)
    assert not done.is_complete and done.left == len(done.lost) > 0
    assert place.widths() == Counter({4: done.left, 3: segments - done.left})
    place.assert_files()
    (place.base / "away").rename(place.base / "a")
    assert service.redundancy(place.config, "cold", 1).dropped == done.left
    place.assert_files()
