"""The workspace is made anew from too little; what came later is on drives that come back."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.archive.shift import Shift
from shmr.cli.fsck.main import main
from shmr.config import load
from shmr.errors import SetupError
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Kind
from shmr.fsck.mending.repair import repair
from shmr.fsck.rebuilding.catalog import rebuild_catalog
from shmr.fsck.salvaging.salvage import Source
from shmr.log.fragments import FragmentName
from shmr.service.drives.leave import drive_remove
from shmr.service.offline import unmounted
from shmr.testing.tree import differences
from shmr.testing.trial import scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.gaps import Gaps, ended_rows, gap_rows, gaps_of, without
from tests.archive.site import small_limits
from tests.fsck.test_rebuild_catalog import Directories


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


class Lost(Directories):
    """Of three drives only one is there when the workspace is made anew.

    With an `old` snapshot it is from one that this drive kept, because it was away while the others
    got the newer one; else from footers, for this drive keeps none.
    """

    def __init__(self, place: Path, *, old: bool) -> None:
        super().__init__(place)
        self.fill("one", "two")
        self.archive_all()
        away = [drive for drive in self.archive if any(drive.glob("snapshot-*"))][:old]
        self.leave(*away)
        self.fill("late", "later")
        self.archive_all()
        self.come_back(*away)
        bare = [drive for drive in self.archive if not any(drive.glob("snapshot-*"))]
        self.others = [drive for drive in self.archive if drive not in (away or bare)]
        self.later = self.on_drives()
        self.before = self.tree()
        self.make_anew()

    def make_anew(self) -> None:
        """A new workspace from one drive alone; then the others are there again."""
        self.lose_workspace()
        self.leave(*self.others)
        done = rebuild_catalog(self.config, missing_are_lost=True)
        self.source = done.source
        self.come_back(*self.others)

    @staticmethod
    def leave(*directories: Path) -> None:
        for directory in directories:
            directory.rename(directory.with_suffix(".away"))

    @staticmethod
    def come_back(*directories: Path) -> None:
        for directory in directories:
            directory.with_suffix(".away").rename(directory)

    def on_drives(self) -> dict[Path, bytes]:
        """Fragments and copies of snapshots."""
        return {
            path: path.read_bytes()
            for drive in self.archive
            for path in drive.glob("*-*")
            if path.name.startswith(("fragment-", "snapshot-"))
        }

    def generation(self) -> dict[Path, bytes]:
        """What the drives that were away have and the others' snapshot does not know."""
        with unmounted(load(self.config), read_only=True) as (volume, _):
            gaps = volume.archive.gaps()
            found = volume.archive.unknown_in(volume.context.fragments.scan())
        files = {name.file for _, name in found}
        return {
            path: content
            for path, content in self.on_drives().items()
            if path.name in files
            or (path.name.startswith("snapshot-") and int(path.name.rpartition("-")[2]) in gaps)
        }


@pytest.mark.parametrize("old", [True, False], ids=["an older snapshot", "footers alone"])
def test_what_came_back_stays_until_somebody_gives_it_up(
    place: Path, old: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Lost(place, old=old)
    assert made.source == (Source.SNAPSHOT if old else Source.FOOTERS)
    there = made.generation()
    copies = {path for path in there if path.name.startswith("snapshot-")}
    assert len(copies) >= 2 and all(made.later[path] == of for path, of in there.items())
    if old:
        assert len(there) > len(copies)
    report = check(made.config)
    assert report.counts[Kind.UNKNOWN_GENERATION] == len(there) and report.exit_code == 4
    messages = [f.message for f in report.findings if f.kind is Kind.UNKNOWN_GENERATION]
    assert {path.name for path in there} == {message.split()[0] for message in messages}
    assert all("--discard-unknown" in message for message in messages)

    # What is done all day: a mount puts the archive in order, files are archived, it is repaired.
    with unmounted(load(made.config), read_only=False) as (volume, pools):
        run_inline(Shift(volume, pools).recover())
    made.fill("new")
    made.archive_all()
    assert repair(made.config).exit_code == 4
    made.archive_all()
    assert made.generation() == there
    tree = made.tree()
    # That there are newer snapshots keeps nobody from having what the lost one knows.
    into, first = made.base / "out", min(int(path.name.rpartition("-")[2]) for path in copies)
    arguments = ["decode", "--all", "--to", str(into), "--drives", *map(str, made.archive)]
    assert main([*arguments, "--snapshot", str(first)]) in (0, 4)
    for name in ("one", "two", "late", "later"):
        assert (into / name).read_bytes() == random.Random(name).randbytes(100_000), name
    assert main([*arguments, "--snapshot", "7"]) == 8

    assert repair(made.config, discard_unknown=True, dry_run=True).exit_code == 4
    assert made.generation() == there
    capsys.readouterr()
    assert main(["repair", str(made.config), "--discard-unknown", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["repaired_counts"][Kind.UNKNOWN_GENERATION] == len(there)
    assert not there.keys() & made.on_drives().keys()
    assert check(made.config).exit_code == 0
    assert differences(tree, made.tree()) == []
    with unmounted(load(made.config), read_only=True) as (volume, _):
        assert not gaps_of(volume.catalog)


def test_made_anew_again_with_all_drives_nothing_is_lost(place: Path) -> None:
    made = Lost(place, old=True)
    made.lose_workspace()
    assert rebuild_catalog(made.config).source == Source.SNAPSHOT
    assert differences(made.before, made.tree()) == []
    assert check(made.config).counts[Kind.UNKNOWN_GENERATION] == 0


def test_gaps_outlive_another_loss(place: Path) -> None:
    made = Lost(place, old=True)
    there = made.generation()
    with unmounted(load(made.config), read_only=True) as (volume, _):
        before = list(gaps_of(volume.catalog))
    made.fill("new")
    made.archive_all()
    tree = made.tree()
    made.lose_workspace()
    shutil.rmtree(made.catalog)
    assert rebuild_catalog(made.config).source == Source.SNAPSHOT
    assert differences(tree, made.tree()) == []
    with unmounted(load(made.config), read_only=True) as (volume, _):
        after = list(gaps_of(volume.catalog))
    assert set(before) < set(after)
    made.archive_all()
    assert made.generation() == there


def test_a_drive_that_is_still_away_is_not_given_up(place: Path) -> None:
    made = Lost(place, old=True)
    there = made.generation()
    away = made.others[1]
    made.leave(away)
    report = repair(made.config, discard_unknown=True)
    assert any("left alone when it comes back" in note for note in report.notes)
    made.come_back(away)
    left = {path: content for path, content in there.items() if path.parent == away}
    assert left and made.generation() == left
    made.archive_all()
    assert made.generation() == left


def test_a_drive_that_has_what_is_unknown_does_not_leave_unasked(place: Path) -> None:
    made = Lost(place, old=True)
    there = made.generation()
    for drive in {path.parent for path in there}:
        with pytest.raises(SetupError, match=r"on it may be all that is left of a workspace"):
            drive_remove(made.config, str(drive))
    assert made.generation() == there


def test_without_a_loss_strays_go(place: Path) -> None:
    made = Directories(place)
    made.fill("one")
    made.archive_all()
    with unmounted(load(made.config), read_only=False) as (volume, pools):
        assert not gaps_of(volume.catalog)
        (number, archived), *_ = volume.catalog.archived_segments()
        drive = archived.fragments[0].drive
        stray = volume.context.fragments.claim(drive, number, 0, 9, 4096)
        stray.close()
        assert volume.archive.strays() == [(drive, FragmentName(number, 0, 9))]
        # In a gap it would stay, for a row names only another.
        volume.context.apply(gap_rows([(number, number + 1)]))
        assert volume.archive.strays() == []
        volume.context.apply(ended_rows(volume.catalog))
        shift = Shift(volume, pools)
        run_inline(shift.recover())
        assert shift.report.strays == 1 and volume.archive.strays() == []


def test_gaps() -> None:
    gaps = Gaps([(9, 12), (3, 5), (5, 6), (20, 20)])
    assert list(gaps) == [(3, 6), (9, 12)]
    assert [number for number in range(25) if number in gaps] == [3, 4, 5, 9, 10, 11]
    assert list(without(3, 9, [1, 3, 5, 6, 8, 20])) == [(4, 5), (7, 8)]
    assert list(without(3, 3, [])) == [] and not Gaps()
