"""`shmr-fsck rebuild-drive`: a drive is lost, and everything that was on it is there again."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from shmr import service
from shmr.cli.fsck.main import main
from shmr.cli.jobs import report
from shmr.config import load
from shmr.errors import SetupError
from shmr.format.rows import ROOT
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Kind
from shmr.fsck.rebuilding.drive import rebuild_drive
from shmr.log.store import is_segment
from shmr.service.offline import unmounted
from shmr.units import MIB
from shmr.volume.context import Caller
from tests.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.fill()
    return found


def lose(place: Place, name: str) -> int:
    """The drive is gone; how many fragments it had."""
    held = place.listed()[name].fragments
    assert held > 0
    shutil.rmtree(place.base / name)
    return held


def configure_new(place: Place, names: str, new: str = "e") -> str:
    (place.base / new).mkdir()
    place.configure(names)
    return place.path(new)


@pytest.mark.parametrize("there", [True, False])
def test_what_was_on_a_drive_is_written_anew_on_a_new_one(place: Place, there: bool) -> None:
    new = configure_new(place, "abcde")
    held = place.listed()["b"].fragments if there else lose(place, "b")
    told: list[str] = []
    done = rebuild_drive(
        place.config, place.path("b"), onto=new, watcher=lambda phase, *_: told.append(phase)
    )
    assert done.is_complete and done.moved == held
    # What is on it counts as lost, also if it is there: no more can be.
    (risk,) = done.risk
    assert (risk.left, risk.segments) == (0, held) and not done.risk_left
    assert told[0].endswith(f"0 left: {str(risk).partition(': ')[2]}") and "left" not in told[-1]
    place.configure("acde")
    assert set(place.listed()) == set("acde") and place.listed()["e"].fragments == held
    shutil.rmtree(place.base / "c")
    place.assert_files()


def test_what_was_on_a_drive_is_written_anew_on_the_others(place: Place) -> None:
    held = lose(place, "b")
    told = rebuild_drive(place.config, place.path("b"), dry_run=True)
    done = rebuild_drive(place.config, place.path("b"))
    assert (told.moved, told.risk, told.risk_left) == (done.moved, done.risk, done.risk_left)
    assert done.is_complete and done.moved == held and "forget" in done.advice[0]
    assert not rebuild_drive(place.config, place.path("b")).moved
    shutil.rmtree(place.base / "a")
    place.assert_files()


def test_a_missing_drive_is_told_of_once_with_the_command_that_is_next(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    drive = place.listed()["a"].drive
    assert drive is not None
    shutil.rmtree(place.base / "a")
    assert main(["check", str(place.config)]) == 4
    out, err = capfd.readouterr()
    told = (err + out).splitlines()
    [line] = [line for line in told if place.path("a") in line]
    assert drive in line and "No such file" in line
    assert f"`shmr-fsck rebuild-drive {place.config} {drive}`" in told[-1]
    assert [one for one in told if drive in one] == [line, told[-1]]
    # When nothing is on it any more, there is nothing to be rebuilt.
    done = rebuild_drive(place.config, drive)
    forget = f"`shmr drive forget {place.config} {drive}`"
    assert done.is_complete and forget in done.advice[0]
    found = check(place.config)
    assert set(found.counts) == {Kind.DRIVE_MISSING} and forget in found.next_step
    assert "forget" in found.findings[0].message and "rebuild-drive" not in str(found)
    place.configure("bcd")
    service.drive_forget(place.config, drive)
    assert check(place.config).is_clean


def test_what_a_failing_drive_does_not_give_is_decoded(place: Place) -> None:
    fragments = sorted((place.base / "b").glob("fragment-*"))
    for number, path in enumerate(fragments):
        content = bytearray(path.read_bytes())
        content[5000 + number] ^= 4
        path.write_bytes(content)
    done = rebuild_drive(place.config, place.path("b"), onto=configure_new(place, "abcde"))
    assert done.is_complete and done.moved == len(fragments)
    place.configure("acde")
    shutil.rmtree(place.base / "a")
    place.assert_files()


def test_a_rebuild_that_is_stopped_goes_on_and_writes_nothing_twice(place: Place) -> None:
    new = configure_new(place, "abcde")
    held, runs, moved, calls = lose(place, "b"), 0, 0, 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 4

    done = None
    while done is None or done.stopped:
        calls = 0
        done = rebuild_drive(place.config, place.path("b"), onto=new, stop=stop)
        runs, moved = runs + 1, moved + done.moved
        place.assert_files()
    assert runs > 1 and done.is_complete and moved == held


def test_a_drive_that_is_too_small_takes_what_it_can_and_the_others_the_rest(place: Place) -> None:
    new = configure_new(place, "abcde")
    text = place.config.read_text()
    place.config.write_text(text.replace("path: e, size: 64MiB", "path: e, size: 7MiB"))
    listed = place.listed()
    most, other = sorted("abcd", key=lambda name: listed[name].fragments)[-1:-3:-1]
    held = lose(place, most)
    done = rebuild_drive(place.config, place.path(most), onto=new)
    assert done.is_complete and done.moved == held
    assert 0 < place.listed()["e"].fragments < held
    shutil.rmtree(place.base / other)
    place.assert_files()


def test_a_new_drive_that_fails_is_done_without(place: Place) -> None:
    new = configure_new(place, "abcde")
    listed = place.listed()
    most = max("abcd", key=lambda name: listed[name].fragments)
    held = lose(place, most)
    calls = 0

    def fail(phase: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            # Its disk is gone: what is open stays open, as it may, and nothing else is there.
            (place.base / "e").rename(place.base / "pulled")
            for path in (place.base / "pulled").iterdir():
                path.unlink()

    done = rebuild_drive(place.config, place.path(most), onto=new, watcher=fail)
    assert new in done.failed[0] and done.moved >= held
    place.configure("abcd".replace(most, ""))
    place.assert_files()


def test_a_drive_that_holds_siblings_of_everything_is_refused_at_once(place: Place) -> None:
    service.drive_drain(place.config, place.path("b"))
    # What b held is on a, c and d now: each segment has a fragment on every one of them.
    before = place.listed()["a"].state
    with pytest.raises(SetupError, match=r"another fragment of every segment.*nothing was changed"):
        rebuild_drive(place.config, place.path("a"), onto=place.path("c"))
    with pytest.raises(SetupError, match="another fragment of every segment"):
        service.drive_replace(place.config, place.path("a"), place.path("c"))
    assert place.listed()["a"].state == before == "normal"
    place.assert_files()


def test_too_many_lost_drives_are_a_loss_that_is_told(place: Place) -> None:
    new = configure_new(place, "abcde")
    lost = place.listed()["a"].drive
    assert lost is not None
    lose(place, "a")
    lose(place, "c")
    done = rebuild_drive(place.config, lost, onto=new)
    assert not done.is_complete and done.lost and done.risk_left[0].left == -1
    # What can be is restored all the same.
    assert done.moved + len(done.lost) == done.left + done.moved


@pytest.mark.parametrize("option", ["--dry-run", "--json", None])
def test_the_command_tells_by_its_exit_code(
    place: Place, option: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    new = configure_new(place, "abcde")
    held = lose(place, "b")
    line = ["rebuild-drive", str(place.config), place.path("b"), "--onto", new]
    code = main([*line, option] if option else line)
    assert code == (4 if option == "--dry-run" else 1)
    printed = capsys.readouterr().out
    if option == "--json":
        found = json.loads(printed)
        assert found["moved"] == held and found["risk"][0]["left"] == 0 and not found["risk_left"]
    else:
        assert f"{held} fragments" in printed
    if option != "--dry-run":
        assert main(line) == 0


def test_the_command_says_what_is_lost_and_what_is_wrong(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rebuild-drive", str(place.config), place.path("z")]) == 8
    assert "no drive" in capsys.readouterr().err
    lost = place.listed()["a"].drive
    lose(place, "a")
    lose(place, "c")
    assert main(["rebuild-drive", str(place.config), str(lost)]) == 4
    printed = capsys.readouterr().out
    assert "is lost" in printed and "too few left" in printed


MIRRORED = """\
filesystem: tests
catalog: catalog
same_device: true
pools:
  - name: work
    priority: 0
    scheme: {{mirror: 2}}
    segment_size: 2MiB
    drives:
{drives}
"""


class Mirrored:
    """A filesystem with nothing but a mirrored workspace on x and y."""

    def __init__(self, base: Path) -> None:
        self.base, self.config = base, base / "config.yaml"
        for name in "xy":
            (base / name).mkdir()
        self.configure("xy")
        service.create(self.config)
        self.content = random.Random(3).randbytes(5 * MIB)
        with unmounted(load(self.config), read_only=False) as (volume, _pools):
            inode = volume.names.create(ROOT, b"file", 0o100644, Caller(0, 0))
            for at in range(0, len(self.content), MIB):
                volume.data.write(inode.number, at, self.content[at : at + MIB])

    def configure(self, names: str) -> None:
        drives = "\n".join(f"      - {{path: {name}, size: 128MiB}}" for name in names)
        self.config.write_text(MIRRORED.format(drives=drives))

    def path(self, name: str) -> str:
        return str(self.base / name)

    def segments(self, name: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (self.base / name).iterdir() if is_segment(p.name)}

    def assert_file(self) -> None:
        with unmounted(load(self.config), read_only=True) as (volume, _pools):
            inode = volume.names.lookup(ROOT, b"file")
            plan = volume.data.plan_read(inode.number, 0, len(self.content))
            try:
                assert bytes(plan.fetch()) == self.content
            finally:
                plan.release()


@pytest.fixture
def mirrored(tmp_path: Path) -> Mirrored:
    return Mirrored(tmp_path)


@pytest.mark.parametrize("new", ["x", "z"])
def test_a_lost_drive_of_a_mirrored_workspace_is_copied_anew(mirrored: Mirrored, new: str) -> None:
    shutil.rmtree(mirrored.base / "x")
    (mirrored.base / new).mkdir()
    mirrored.configure(new + "y")
    told = rebuild_drive(mirrored.config, mirrored.path(new), dry_run=True)
    assert f"{told.moved} segments would be written anew" in report(told)
    assert told.moved > 0 and not list((mirrored.base / new).glob("data-*"))
    done = rebuild_drive(mirrored.config, mirrored.path(new))
    assert done.is_complete and done.moved > 0
    again = rebuild_drive(mirrored.config, mirrored.path(new))
    assert again.is_complete and not again.moved
    mirrored.assert_file()
    # Either of the two is enough from now on.
    shutil.rmtree(mirrored.base / "y")
    with pytest.raises(SetupError, match="y"):
        mirrored.assert_file()
    (mirrored.base / "y").mkdir()
    assert rebuild_drive(mirrored.config, mirrored.path("y")).is_complete
    mirrored.assert_file()
    assert mirrored.segments(new) == mirrored.segments("y")


def test_a_copy_of_the_workspace_that_is_stopped_goes_on(mirrored: Mirrored) -> None:
    shutil.rmtree(mirrored.base / "x")
    (mirrored.base / "x").mkdir()
    runs = calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls > 1 + 3 * runs

    while True:
        calls = 0
        done = rebuild_drive(mirrored.config, mirrored.path("x"), stop=stop)
        runs += 1
        if not done.stopped:
            break
        # As a kill in the middle of one leaves it: it is there, and has zeros behind its middle.
        (some, *_) = sorted(p for p in (mirrored.base / "x").iterdir() if is_segment(p.name))
        size = some.stat().st_size
        with some.open("r+b") as file:
            file.truncate(size // 2 // 4096 * 4096)
            file.truncate(size)
        assert runs < 20
    assert runs > 2 and done.is_complete
    mirrored.assert_file()


def test_a_drive_of_the_workspace_with_anything_on_it_is_refused(mirrored: Mirrored) -> None:
    kept = shutil.copytree(mirrored.base / "x", mirrored.base / "kept")
    shutil.rmtree(mirrored.base / "x")
    (mirrored.base / "x").mkdir()
    (mirrored.base / "x" / "precious").write_text("!")
    with pytest.raises(SetupError, match="not empty"):
        rebuild_drive(mirrored.config, mirrored.path("x"))
    assert (mirrored.base / "x" / "precious").read_text() == "!"
    # What looks like a copy that was cut off, and is not.
    shutil.rmtree(mirrored.base / "x")
    shutil.copytree(kept, mirrored.base / "x")
    for path in (mirrored.base / "x").glob("superblock-*"):
        path.unlink()
    for path in (mirrored.base / "x").glob("data-*"):
        content = bytearray(path.read_bytes())
        content[5000] ^= 1
        path.write_bytes(content)
    before = mirrored.segments("x")
    with pytest.raises(SetupError, match="is not that of"):
        rebuild_drive(mirrored.config, mirrored.path("x"))
    assert mirrored.segments("x") == before


def test_a_drive_of_the_workspace_that_is_there_needs_nothing(mirrored: Mirrored) -> None:
    done = rebuild_drive(mirrored.config, mirrored.path("x"))
    assert done.is_complete and not done.moved and "whole" in done.advice[0]


def test_a_workspace_without_a_second_copy_cannot_be_rebuilt_and_it_is_said_what_can(
    place: Place,
) -> None:
    with pytest.raises(SetupError, match="rebuild-catalog"):
        rebuild_drive(place.config, place.path("work"))
