"""Files come out of drives as they went in: whatever is missing that may be, in whatever order."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from shmr.cli.fsck.main import main
from shmr.errors import SetupError
from shmr.fsck.decoding.decode import Listed, decode, listing
from shmr.fsck.findings import Kind
from tests.fsck.rescued import SCHEMES, M, Rescued, Shown, tree_at, unprivileged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Rescued]:
    """A filesystem of a scheme, made once; nobody changes it."""
    known: dict[str, Rescued] = {}

    def make(scheme: str) -> Rescued:
        if scheme not in known:
            base = tmp_path_factory.mktemp("drives")
            known[scheme] = Rescued(base, scheme, ids=random.Random(f"{scheme} 0"))
            known[scheme].fill(later=True)
        return known[scheme]

    return make


def assert_same(expected: dict[bytes, Shown], found: dict[bytes, Shown]) -> None:
    for path in sorted(expected.keys() | found.keys()):
        assert found.get(path) == expected.get(path), path


def archived(rescued: Rescued) -> dict[bytes, Shown]:
    """What the snapshot on archive drives knows."""
    return {path: shown for path, shown in rescued.tree.items() if path != b"/later"}


def state_of(*drives: str) -> list[tuple[str, int, int, bytes]]:
    """Everything about drives that looking at them must not change."""
    found = []
    for drive in drives:
        found.append((drive, os.stat(drive).st_mtime_ns, os.stat(drive).st_mode, b""))
        for name in sorted(os.listdir(drive)):
            path = os.path.join(drive, name)
            facts = os.stat(path)
            digest = b""
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            found.append((path, facts.st_mtime_ns, facts.st_mode, digest))
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_everything_comes_back_with_every_attribute(
    made: Callable[[str], Rescued], tmp_path: Path, scheme: str
) -> None:
    rescued = made(scheme)
    drives = [*reversed(rescued.cold), rescued.work]
    before = state_of(*drives)
    done = decode(drives, str(tmp_path / "out"), special=True)
    assert done.report.exit_code == 0, done.report.findings
    assert done.source == "journal"
    assert_same(rescued.tree, tree_at(tmp_path / "out"))
    assert state_of(*drives) == before


def test_the_workspace_alone_gives_what_was_not_archived(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("2+1")
    done = decode([rescued.work], str(tmp_path / "out"))
    found = tree_at(tmp_path / "out")
    assert found[b"/later"] == rescued.tree[b"/later"]
    assert b"/photos/photo0" not in found
    assert done.report.counts[Kind.FILE_INCOMPLETE] > 5
    assert done.report.exit_code == 4
    assert len(done.needed) == 3, "the journal names the drives of the pool"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("workspace", (False, True))
def test_any_m_drives_may_be_missing(
    made: Callable[[str], Rescued], tmp_path: Path, scheme: str, workspace: bool
) -> None:
    rescued = made(scheme)
    expected = unprivileged(rescued.tree if workspace else archived(rescued))
    for lost in combinations(rescued.cold, M[scheme]):
        drives = [path for path in rescued.cold if path not in lost]
        out = tmp_path / "-".join(Path(path).name for path in lost)
        done = decode([*drives, rescued.work] if workspace else drives, str(out))
        assert done.report.exit_code == 0, (lost, done.report.findings)
        assert done.source == ("journal" if workspace else "snapshot")
        assert_same(expected, tree_at(out))
        shutil.rmtree(out)


def test_without_the_workspace_what_the_last_snapshot_knows_comes_back(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("4+2")
    done = decode(rescued.cold, str(tmp_path / "out"), special=True)
    assert done.source == "snapshot" and done.snapshot_ns is not None
    assert_same(archived(rescued), tree_at(tmp_path / "out"))


@pytest.mark.parametrize("lost", list(combinations(range(3), 2)))
def test_with_more_missing_what_is_there_comes_out_and_a_second_run_completes_it(
    made: Callable[[str], Rescued], tmp_path: Path, lost: tuple[int, int]
) -> None:
    rescued = made("2+1")
    drives = [path for index, path in enumerate(rescued.cold) if index not in lost]
    out = tmp_path / "out"
    done = decode([*drives, rescued.work], str(out))
    found = tree_at(out)
    expected = unprivileged(rescued.tree)
    whole = {path: shown for path, shown in found.items() if not path.endswith(b"incomplete")}
    for path, shown in whole.items():
        # Another name of a file may be missing.
        assert (*shown[:2], *shown[3:]) == (*expected[path][:2], *expected[path][3:])
    assert done.report.exit_code == 4
    assert set(done.report.counts) == {Kind.FILE_INCOMPLETE}
    assert len(done.needed) == 2
    for finding in done.report.findings:
        assert finding.where.path is not None and finding.where.inode is not None
    done = decode([*rescued.cold, rescued.work], str(out))
    assert done.report.exit_code == 0
    assert done.counts.present == len([s for s in whole.values() if s[0] != "directory"])
    assert_same(expected, tree_at(out))


def test_what_is_listed_as_whole_is_what_is_written(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("4+2")
    drives = rescued.cold[1:4]
    listed: list[Listed] = []
    done = listing([*drives, rescued.work], listed.append)
    decode([*drives, rescued.work], str(tmp_path / "out"))
    found = tree_at(tmp_path / "out")
    files = {one.path: one.standing for one in listed if one.standing is not None}
    assert {str(standing) for standing in files.values()} == {"whole", "partly", "lost"}
    for path, standing in files.items():
        assert (path in found) == (standing == "whole"), path
        assert (path + b".shmr-incomplete" in found) == (standing == "partly"), path
    assert sum(done.standings.values()) == len(files)
    assert {one.path for one in listed} == {b"/", *rescued.tree}


def test_lost_ranges_are_holes_and_the_rest_is_right(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("4+2")
    decode([*rescued.cold, rescued.work], str(tmp_path / "all"))
    done = decode([*rescued.cold[1:4], rescued.work], str(tmp_path / "some"))
    partly = [p for p in (tmp_path / "some").rglob("*.shmr-incomplete")]
    assert partly and done.counts.incomplete == len(partly)
    for path in partly:
        relative = path.relative_to(tmp_path / "some").with_name(path.stem)
        whole = (tmp_path / "all" / relative).read_bytes()
        found = path.read_bytes()
        assert len(found) == len(whole) and found != whole
        wrong = [at for at in range(len(whole)) if found[at] != whole[at]]
        assert not any(found[at] for at in wrong)
        assert any(found)


def test_one_file_and_one_directory_can_be_had(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("2+1")
    out = tmp_path / "out"
    decode(rescued.cold, str(out), path=b"/photos/photo3")
    decode(rescued.cold, str(out), path=b"photos//deeper/deeper/")
    found = tree_at(out)
    assert found[b"/photo3"] == rescued.tree[b"/photos/photo3"]
    below = {p: s for p, s in rescued.tree.items() if p.startswith(b"/photos/deeper/deeper")}
    assert found.keys() == {b"/photo3", *(p.removeprefix(b"/photos/deeper") for p in below)}
    listed: list[Listed] = []
    listing(rescued.cold, listed.append, path=b"/photos/photo3")
    number = listed[0].inode.number
    decode(rescued.cold, str(out), inode=number)
    assert tree_at(out)[b"/inode-%d" % number] == rescued.tree[b"/photos/photo3"]
    with pytest.raises(SetupError, match="no such path"):
        decode(rescued.cold, str(out), path=b"/photos/nothing")
    with pytest.raises(SetupError, match="no inode"):
        decode(rescued.cold, str(out), inode=2**70)


def test_a_second_run_passes_over_what_is_there_and_replaces_nothing(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("2+1")
    out = tmp_path / "out"
    decode(rescued.cold, str(out))
    (out / "empty").write_bytes(b"somebody's own")
    (out / "photos" / "photo1").unlink()
    (out / "photos" / "dangling").unlink()
    (out / "photos" / "dangling").symlink_to("elsewhere")
    done = decode(rescued.cold, str(out))
    assert done.counts.files == 1
    assert (out / "empty").read_bytes() == b"somebody's own"
    assert os.readlink(out / "photos" / "dangling") == "elsewhere"
    assert [f.where.path for f in done.report.findings] == ["/empty", "/photos/dangling"]
    assert set(done.report.counts) == {Kind.NOT_WRITTEN}
    found = tree_at(out)
    assert found[b"/photos/photo1"] == rescued.tree[b"/photos/photo1"]
    assert found[b"/photos/two of two"] == rescued.tree[b"/photos/two of two"]


@pytest.mark.parametrize("after", (0, 1, 7, 20))
def test_a_run_that_is_stopped_is_gone_on_with(
    made: Callable[[str], Rescued], tmp_path: Path, after: int
) -> None:
    rescued = made("2+1")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > after

    out = tmp_path / "out"
    done = decode(rescued.cold, str(out), stop=stop)
    assert done.report.stopped and done.report.exit_code == 32
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    whole = unprivileged(archived(rescued))
    for path, shown in tree_at(out).items():
        if shown[0] != "directory":
            # Links to it may still be to come.
            assert (*shown[:2], *shown[3:]) == (*whole[path][:2], *whole[path][3:])
    assert decode(rescued.cold, str(out)).report.exit_code == 0
    assert_same(whole, tree_at(out))


def test_nothing_of_a_run_that_was_broken_off_is_left(
    made: Callable[[str], Rescued], tmp_path: Path
) -> None:
    rescued = made("2+1")
    out = tmp_path / "out"

    def break_off(phase: str, size: int, total: int) -> None:
        if size > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(rescued.cold, str(out), watcher=break_off)
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    # One that was killed leaves its scratch space behind; the next run takes it away.
    left = out / ".shmr-decode-0123456789abcdef"
    left.mkdir()
    (left / "whole-17").write_bytes(b"left")
    assert decode(rescued.cold, str(out)).report.exit_code == 0
    assert not left.exists()
    assert_same(unprivileged(archived(rescued)), tree_at(out))


@pytest.mark.parametrize("size", ("8k", "64k", "200k", "1m"))
def test_a_destination_without_room_is_told_and_left_tidy(
    made: Callable[[str], Rescued], tmp_path: Path, size: str
) -> None:
    """Whether it is the names that find no room, or the files."""
    rescued = made("2+1")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", small], check=True)
    try:
        with pytest.raises(SetupError, match=r"room|it goes on"):
            decode(rescued.cold, str(small / "out"))
        assert not [name for name in os.listdir(small / "out") if name.startswith(".")]
        expected = unprivileged(archived(rescued))
        for path, shown in tree_at(small / "out").items():
            if shown[0] == "file":
                assert (*shown[:2], *shown[3:]) == (*expected[path][:2], *expected[path][3:])
    finally:
        subprocess.run(["umount", small], check=True)


# -- the command ----------------------------------------------------------------------------------


def test_the_command_tells_and_ends_as_it_says(
    made: Callable[[str], Rescued], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rescued = made("4+2")
    out = str(tmp_path / "out")
    assert main(["decode", "--drives", *rescued.cold, "--list"]) == 0
    shown = capsys.readouterr()
    assert "\n-rw-r--r-- whole" in shown.out and "symlink -> photos/../../etc" in shown.out
    assert "\x1b" not in shown.out + shown.err
    assert main(["decode", "--drives", *rescued.cold, "--to", out, "--all"]) == 0
    assert "20 files written" in capsys.readouterr().out
    assert main(["decode", "--drives", *rescued.cold[:3], "--to", out + "2", "--all"]) == 4
    assert "file-incomplete" in capsys.readouterr().out
    assert main(["decode", "--drives", *rescued.cold[:3], "--list"]) == 4
    capsys.readouterr()
    assert main(["decode", "--drives", str(tmp_path), "--list"]) == 8
    assert "none of these directories is a drive" in capsys.readouterr().err
    for wrong in (["--all"], ["--to", out], ["--to", out, "--all", "--path", "/"]):
        with pytest.raises(SystemExit) as ended:
            main(["decode", "--drives", *rescued.cold, *wrong])
        assert ended.value.code == 16
    assert main(["decode", "--drives", *rescued.cold, "--to", str(rescued.config), "--all"]) == 8


def test_reports_and_lists_are_json_too(
    made: Callable[[str], Rescued], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rescued = made("2+1")
    assert main(["decode", "--drives", rescued.cold[0], rescued.cold[2], "--list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    paths = {os.fsencode(entry["path"]) for entry in document["entries"]}
    assert paths == {b"/", *archived(rescued)}
    assert document["report"]["source"] == "snapshot"
    out = str(tmp_path / "out")
    drives = [rescued.cold[1], rescued.work]
    assert main(["decode", "--drives", *drives, "--to", out, "--all", "--json"]) == 4
    report = json.loads(capsys.readouterr().out)
    assert report["finding_counts"]["file-incomplete"] == len(report["findings"])
    assert report["counts"]["files"] > 0 and len(report["needed_drives"]) == 2
    assert report["findings"][0]["where"]["path"].startswith("/")
