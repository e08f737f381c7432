"""`shmr-fsck drill`: a loss is rehearsed, nothing is changed, and what would have hurt is told."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from shmr.catalog import store
from shmr.cli.fsck.main import main
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.fsck.findings import Kind
from shmr.fsck.rehearsing.choice import chosen, is_sampled
from shmr.fsck.rehearsing.drill import drill
from shmr.service.offline import unmounted
from shmr.testing.drive import World
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.units import KIB, MIB
from shmr.volume.context import Caller
from tests.archive.test_mounted import Compacting, fill
from tests.fsck.rows import rows_of
from tests.fsck.stage import staged
from tests.fsck.subject import build, limits
from tests.place import Place

Look = dict[str, tuple[bytes, int, int]]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Files in the archive and one in the workspace."""
    found = Place(tmp_path)
    found.fill()
    write(found, b"new", 3 * MIB)
    return found


def write(place: Place, name: bytes, size: int) -> None:
    content = random.Random(size).randbytes(size)
    with unmounted(load(place.config), read_only=False) as (volume, _pools):
        inode = volume.names.create(ROOT, name, 0o100640, Caller(0, 0))
        volume.xattrs.set(inode.number, b"user.note", b"x" * 50)
        for at in range(0, size, MIB):
            volume.data.write(inode.number, at, content[at : at + MIB])
    place.files[name] = content


def look(base: Path) -> Look:
    """Every file, its content, and when it and its inode were changed."""
    return {
        str(path.relative_to(base)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_ctime_ns,
        )
        for path in base.rglob("*")
        if path.name not in ("lock", "lock.mdb")
    }


def seed_without(place: Place, name: str) -> int:
    """A seed by which this drive is taken away."""
    for seed in range(50):
        if drill(place.config, share=0.0, seed=seed).away["cold"] == (place.path(name),):
            return seed
    raise AssertionError("every drive has its turn")


# -- sound ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_drill_on_a_sound_filesystem_passes_and_changes_no_byte(place: Place, seed: int) -> None:
    scratch = place.base / "scratch"
    scratch.mkdir()
    before = look(place.base)
    done = drill(place.config, share=1.0, seed=seed, scratch=scratch)
    assert done.report.is_clean, done.report.findings
    after = look(place.base)
    assert before.keys() == after.keys()
    # That something was made in it, and removed.
    assert {name for name in before if before[name] != after[name]} <= {"scratch"}
    assert done.compared.rows > 20 and not done.compared.differing
    assert done.compared.digest == done.compared.rebuilt
    assert done.tried.segments == sum(place.widths().values()) and done.tried.files == 1
    assert done.tried.decoded_bytes == done.tried.compared_bytes
    assert (done.unarchived.files, done.unarchived.size_bytes) == (1, 3 * MIB)
    assert done.unarchived.unknown == 1
    assert set(done.seconds) == {"rebuild", "compare", "alone", "read"}


def test_every_drive_has_its_turn(place: Place) -> None:
    away = [drill(place.config, share=0.0, seed=seed).away["cold"] for seed in range(4)]
    assert sorted(away) == [(place.path(name),) for name in "abcd"]


def test_a_drive_that_is_missing_is_the_one_that_is_taken_away(place: Place) -> None:
    lost = place.listed()["c"].drive
    shutil.rmtree(place.base / "c")
    for seed in range(4):
        done = drill(place.config, share=1.0, seed=seed)
        assert done.report.is_clean and done.away["cold"] == (lost,)
        assert done.tried.decoded_bytes > 0 and not done.tried.compared_bytes


def test_a_sample_is_a_part_of_the_contents_and_another_each_time(place: Place) -> None:
    some = drill(place.config, share=0.2, seed=3)
    assert 0 < some.tried.segments < sum(place.widths().values())
    none = drill(place.config, share=0.0, seed=3)
    # One of each pool, at least.
    assert none.tried.segments == 1


def test_the_progress_is_told_and_the_rate_kept_to(place: Place) -> None:
    told: list[tuple[str, int, int]] = []
    done = drill(
        place.config,
        share=1.0,
        seed=1,
        limit_rate=64 * MIB,
        watcher=lambda *one: told.append(one),
    )
    assert {"comparing rows", "reading"} <= {phase for phase, _, _ in told}
    assert done.seconds["read"] >= 0.9 * done.tried.read_bytes / (64 * MIB)


def test_a_drill_that_is_stopped_says_so_and_leaves_nothing(place: Place) -> None:
    scratch = place.base / "scratch"
    scratch.mkdir()
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 6

    done = drill(place.config, share=1.0, seed=1, scratch=scratch, stop=stop)
    assert done.report.stopped and int(done.report.exit_code) == 32
    assert not list(scratch.iterdir())


def test_a_scratch_directory_that_cannot_be_written_to_is_no_finding(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As where its disk is full.
    monkeypatch.setattr(store, "MAP_BYTES", 64 * KIB)
    assert main(["drill", str(place.config)]) == 8
    assert "scratch" in capsys.readouterr().err


def test_what_a_killed_drill_left_goes_with_the_next(place: Place) -> None:
    scratch = place.base / "scratch"
    left = scratch / ".shmr-drill-0123456789abcdef" / "rebuilt0"
    left.mkdir(parents=True)
    (scratch / "mine").write_text("!")
    assert drill(place.config, share=0.0, seed=1, scratch=scratch).report.is_clean
    assert [path.name for path in scratch.iterdir()] == ["mine"]


# -- damage ---------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def kinds(place: Place, seed: int = 1) -> set[str]:
    done = drill(place.config, share=1.0, seed=seed)
    assert done.report.is_clean == (int(done.report.exit_code) == 0)
    assert all(finding.message and finding.remedy for finding in done.report.findings)
    return set(done.report.counts)


def test_damaged_copies_of_the_snapshot_fail_it(place: Place) -> None:
    for path in place.base.glob("[abcd]/snapshot-*"):
        flip(path, path.stat().st_size // 2)
    assert kinds(place) == {Kind.REBUILD_ALONE}


def test_lost_copies_of_the_snapshot_fail_it(place: Place) -> None:
    for path in place.base.glob("[abcd]/snapshot-*"):
        path.unlink()
    assert kinds(place) == {Kind.REBUILD_ALONE}


def test_a_damaged_unit_fails_it_where_the_loss_leaves_no_other(place: Place) -> None:
    fragments = {
        name: {path.name.split("-")[1] for path in (place.base / name).glob("fragment-*")}
        for name in "abcd"
    }
    one, other = next(
        pair for pair in combinations("abcd", 2) if fragments[pair[0]] & fragments[pair[1]]
    )
    segment = min(fragments[one] & fragments[other])
    (path,) = (place.base / one).glob(f"fragment-{segment}-*")
    seeds = {name: seed_without(place, name) for name in (one, other)}
    flip(path, 4096 + 77)
    # With its own drive away nothing needs it; it is told all the same where it is looked at: data
    # that are away are compared with. Else it is one too many.
    is_data = int(path.name.split("-")[2]) < 2
    assert kinds(place, seeds[one]) == ({Kind.UNIT_DAMAGED} if is_data else set())
    assert kinds(place, seeds[other]) == {Kind.REBUILD_UNREADABLE}
    done = drill(place.config, share=1.0, seed=seeds[other])
    assert f"segment {int(segment)}" in done.report.findings[0].message


def test_a_damaged_journal_fails_it(place: Place) -> None:
    journals = sorted((place.base / "work").glob("journal-*"))
    found = set[str]()
    for path in journals:
        kept = path.read_bytes()
        for at in range(200, len(kept.rstrip(b"\0")), 4096):
            flip(path, at)
            found |= kinds(place)
            path.write_bytes(kept)
    assert Kind.REBUILD_FAILED in found


def test_damaged_bytes_in_the_workspace_fail_it(place: Place) -> None:
    for path in (place.base / "work").glob("data-*"):
        if path.stat().st_size > MIB:
            flip(path, path.stat().st_size // 2)
    assert kinds(place) == {Kind.REBUILD_UNREADABLE}


@pytest.mark.parametrize("change", [{"mode": 0o100755}, {"mtime_ns": 5}, {"uid": 7}, {"size": 1}])
def test_a_row_that_the_log_knows_otherwise_fails_it(place: Place, change: dict[str, int]) -> None:
    with rows_of(place.base / "catalog") as rows:
        rows.change(rows.find(b"new"), **change)
    done = drill(place.config, share=0.0, seed=0)
    assert set(done.report.counts) == {Kind.REBUILD_DIFFERS}
    (finding,) = done.report.findings
    assert finding.message.startswith("/new: a row of table inode differs")
    assert done.compared.differing == 1 and done.compared.digest != done.compared.rebuilt


# -- the command ----------------------------------------------------------------------------


def test_the_command_tells_by_its_exit_code(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["drill", str(place.config), "--all", "--seed", "2"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "seed 2" in printed and "nothing is wrong" in printed
    assert "if the workspace were lost now: 1 files, 3.0 MiB are not yet" in printed
    assert main([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 0 and found["seed"] == 2 and found["unarchived"]["files"] == 1
    assert main(["drill", str(place.config), "--scratch", "/nowhere"]) == 8
    assert "--scratch" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["drill", str(place.config), "--sample", "200%"])
    assert ended.value.code == 16
    for path in place.base.glob("[abcd]/snapshot-*"):
        path.unlink()
    assert main(line) == 4
    assert "no whole copy of a snapshot is left" in capsys.readouterr().out


@pytest.fixture
def mounted() -> Iterator[Compacting]:
    """2+2 on five drives, filled, moved, mounted, and with a little more in the workspace."""
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    found = Compacting(base, drives=6)
    try:
        found.start()
        fill(found.path)
        found.stop()
        done = found.compact("--all", "--flush")
        assert done.returncode == 0, done.stderr
        found.start()
        yield found
    finally:
        try:
            found.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


@pytest.mark.mount
def test_it_works_while_somebody_writes_to_the_mount(mounted: Compacting) -> None:
    ended = threading.Event()

    def work() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            path = mounted.path / f"busy{number % 50}"
            path.write_bytes(random.Random(number).randbytes(200_000))
            if number % 3 == 0:
                path.unlink()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for seed in range(3):
            done = drill(mounted.config, share=1.0, seed=seed)
            assert done.report.is_clean, done.report.findings
            assert done.report.mounted and len(done.away["cold"]) == 2
            assert done.tried.decoded_bytes == done.tried.compared_bytes > 0
    finally:
        ended.set()
        worker.join()


# -- choices --------------------------------------------------------------------------------


@pytest.mark.parametrize(("drives", "spare"), [(6, 2), (11, 3), (3, 0), (2, 2), (14, 4)])
def test_seeds_that_follow_each_other_meet_every_choice(drives: int, spare: int) -> None:
    every = list(combinations(range(drives), spare))
    met = [chosen(range(drives), spare, 5 * len(every) + seed) for seed in range(len(every))]
    assert sorted(met) == every
    assert chosen(range(drives), spare, 3) == chosen(range(drives), spare, 3)


def test_what_is_gone_already_is_among_those_taken_away() -> None:
    for seed in range(20):
        assert chosen(range(6), 2, seed, gone=(4, 5)) == ()
        (one,) = chosen(range(6), 2, seed, gone=(4,))
        assert one != 4
        assert chosen(range(6), 2, seed, gone=(1, 2, 3)) == ()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_a_sample_has_its_share_and_meets_all_in_time(share: float) -> None:
    taken = [sum(is_sampled(number, share, seed) for number in range(5000)) for seed in range(9)]
    assert all(abs(count - 5000 * share) <= 50 for count in taken)
    if share:
        rounds = int(1 / share) + 1
        met = {n for seed in range(rounds) for n in range(500) if is_sampled(n, share, seed)}
        assert len(met) == 500


# -- everything that there is ---------------------------------------------------------------


@pytest.mark.parametrize("way", [(1, True), (1, False), (2, True), (2, False)])
def test_a_drill_on_everything_that_formats_have_passes_whatever_it_takes_away(
    way: tuple[int, bool],
) -> None:
    copies, clean = way
    with scratch() as directory, limits():
        subject = build(directory, copies=copies, clean=clean)
        world, catalog = subject.world.kill(), directory / "catalog"
        lay_down(subject.files, catalog)
        before = contents_of(world)
        files, operations = files_of(catalog), world.operations
        with staged(world, directory, copies) as config:
            for seed in range(15):
                done = drill(config, share=1.0, seed=seed)
                assert done.report.is_clean, (seed, done.report.findings)
                assert done.away["deep"] and done.away["cold"] and done.compared.rows > 30
                assert len(done.away["work"]) == copies - 1
        assert world.operations == operations and files_of(catalog) == files
        assert before == contents_of(world)


def contents_of(world: World) -> dict[str, dict[str, bytes]]:
    return {
        drive.label: {name: drive.open(name).read(0, drive.size(name)) for name in drive.names()}
        for drive in world.drives
    }
