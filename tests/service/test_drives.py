"""`shmr drive` and `shmr redundancy` on real directories, while nothing is mounted."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.errors import SetupError
from shmr.format.rows import ROOT
from shmr.service.drive_list import ListedDrive
from shmr.service.offline import unmounted
from shmr.units import MIB
from shmr.volume.context import Caller

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
    with pytest.raises(SetupError, match=r"fragment on it.*only 0 more.*--force"):
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
    assert place.widths() == {4: done.left, 3: segments - done.left}
    place.assert_files()
    (place.base / "away").rename(place.base / "a")
    assert service.redundancy(place.config, "cold", 1).dropped == done.left
    place.assert_files()
