"""`rebuild-catalog`, by the command, on directories."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.catalog import store as catalog_store
from shmr.cli.fsck.main import main
from shmr.config import load
from shmr.errors import SetupError
from shmr.format.archived import archived_removed
from shmr.format.rows import ROOT
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Kind
from shmr.fsck.mending.repair import repair
from shmr.fsck.rebuilding.catalog import rebuild_catalog
from shmr.service import create
from shmr.service.moving.compact import compact
from shmr.service.offline import unmounted
from shmr.testing.tree import Tree, differences, tree_of
from shmr.testing.trial import scratch
from tests.archive.site import ME, small_limits


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


# -- directories ----------------------------------------------------------------------------------


class Directories:
    """A filesystem in directories, with an archive pool of a mirror; never mounted."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.workspace = [base / "w1", base / "w2"]
        self.archive = [base / "a1", base / "a2", base / "a3"]
        for directory in (*self.workspace, *self.archive):
            directory.mkdir()
        self.catalog = base / "catalog"
        self.config = base / "config.yaml"
        self.config.write_text(self.configuration())
        create(self.config)

    def configuration(self, name: str = "tryout") -> str:
        def drives(paths: list[Path]) -> list[str]:
            return [f"      - {{path: {path}, size: 64MiB}}" for path in paths]

        return "\n".join(
            (
                f"filesystem: {name}",
                "same_device: true",
                f"catalog: {self.catalog}",
                "pools:",
                "  - name: fast",
                "    priority: 0",
                "    scheme: {mirror: 2}",
                "    drives:",
                *drives(self.workspace),
                "  - name: cold",
                "    priority: 1",
                "    scheme: {mirror: 2}",
                "    zone_size: 4MiB",
                "    drives:",
                *drives(self.archive),
                "",
            )
        )

    def fill(self, *names: str, size: int = 100_000) -> None:
        with unmounted(load(self.config), read_only=False) as (volume, _):
            for name in names:
                made = volume.names.create(ROOT, os.fsencode(name), 0o100640, ME)
                volume.data.write(made.number, 0, random.Random(name).randbytes(size))

    def archive_all(self) -> None:
        compact(self.config, everything=True, flush=True)

    def tree(self) -> Tree:
        with unmounted(load(self.config), read_only=True) as (volume, _):
            return tree_of(volume)

    def lose_workspace(self) -> None:
        for directory in self.workspace:
            shutil.rmtree(directory)
            directory.mkdir()

    def digest(self) -> dict[str, str]:
        """Every file and directory, and what is in it."""
        found = {}
        for path in sorted(self.base.rglob("*")):
            content = path.read_bytes() if path.is_file() else b""
            facts = path.stat()
            found[str(path)] = f"{facts.st_mode:o} {hashlib.sha256(content).hexdigest()}"
        return found


@pytest.fixture
def made(place: Path) -> Directories:
    directories = Directories(place)
    directories.fill("one", "two", "three")
    directories.archive_all()
    return directories


def test_a_catalog_that_is_lost_comes_back(made: Directories) -> None:
    made.fill("four")
    before = made.tree()
    shutil.rmtree(made.catalog)
    done = rebuild_catalog(made.config)
    assert (done.source, done.aside, done.report.exit_code) == ("journal", None, 1)
    assert done.inodes == 5 and done.gone_bytes == 0
    assert catalog_store.digest_holds(made.catalog), "it was ended cleanly"
    assert differences(before, made.tree()) == []


def test_a_catalog_that_is_doubted_is_kept(made: Directories) -> None:
    before = made.tree()
    data = made.catalog / "data.mdb"
    content = bytearray(data.read_bytes())
    content[9000:9100] = bytes(100)
    data.write_bytes(content)
    done = rebuild_catalog(made.config)
    assert done.aside is not None
    assert (Path(done.aside) / "data.mdb").read_bytes() == content
    assert differences(before, made.tree()) == []


@pytest.mark.parametrize("gone", [False, True])
def test_a_dry_run_changes_nothing(made: Directories, gone: bool) -> None:
    if gone:
        made.lose_workspace()
    before = made.digest()
    done = rebuild_catalog(made.config, dry_run=True)
    assert made.digest() == before
    assert done.dry_run and done.source == ("snapshot" if gone else "journal")
    kind = Kind.WORKSPACE_GONE if gone else Kind.CATALOG_REBUILT
    assert [finding.kind for finding in done.report.findings] == [kind]


def test_a_workspace_that_is_gone_is_made_anew(made: Directories) -> None:
    before = made.tree()
    made.fill("late")
    made.lose_workspace()
    done = rebuild_catalog(made.config)
    assert (done.source, done.report.exit_code, done.inodes) == ("snapshot", 1, 4)
    assert differences(before, made.tree()) == []
    made.fill("five")
    made.archive_all()
    before = made.tree()
    assert set(before) == {b"/", b"/one", b"/two", b"/three", b"/five"}
    made.lose_workspace()
    assert rebuild_catalog(made.config).report.exit_code == 1
    assert differences(before, made.tree()) == []


def test_a_mount_without_a_workspace_says_what_to_do(made: Directories) -> None:
    made.lose_workspace()
    with pytest.raises(SetupError, match="`shmr-fsck rebuild-catalog` makes a new one"):
        made.tree()
    assert rebuild_catalog(made.config).report.exit_code == 1
    shutil.rmtree(made.workspace[1])
    made.workspace[1].mkdir()
    with pytest.raises(SetupError, match=r"`shmr-fsck rebuild-drive CONFIG .*`$"):
        made.tree()


def test_what_is_gone_with_the_workspace_is_named(made: Directories) -> None:
    made.fill("stays", "lost", size=50_000)
    with unmounted(load(made.config), read_only=True) as (volume, _):
        number = volume.names.lookup(ROOT, b"stays").number
    compact(made.config, inodes=[number], flush=True)
    made.lose_workspace()
    done = rebuild_catalog(made.config)
    assert done.report.exit_code == 4
    (loss,) = done.report.findings
    assert loss.kind is Kind.FILE_LOST and loss.where.path == "lost" and loss.is_loss
    assert (done.gone_inodes, done.gone_bytes) == (1, 50_000)


def test_archive_drives_may_be_missing_too(made: Directories) -> None:
    before = made.tree()
    made.lose_workspace()
    shutil.rmtree(made.archive[1])
    done = rebuild_catalog(made.config)
    assert done.gone_bytes == 0
    assert any("a2 is missing" in note for note in done.report.notes)
    assert differences(before, made.tree()) == []


def test_what_a_mount_left_beside_the_catalog_is_in_nobodys_way(made: Directories) -> None:
    text = made.config.read_text().replace(f"catalog: {made.catalog}\n", "")
    before = made.tree()
    made.config.write_text(text)
    made.lose_workspace()
    (made.workspace[0] / "catalog.log").write_text("mount: some drives have no superblock")
    (made.workspace[0] / "catalog").mkdir()
    assert rebuild_catalog(made.config).report.exit_code == 1
    assert (made.workspace[0] / "catalog" / "data.mdb").exists()
    assert (made.workspace[0] / "catalog.log").exists()
    assert differences(before, made.tree()) == []


# -- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("away", [(0, 1), (0, 2), (1, 2)])
def test_the_newest_snapshot_is_not_given_up_for_a_loose_cable(
    made: Directories, away: tuple[int, int]
) -> None:
    before = made.tree()
    made.lose_workspace()
    drives = [made.archive[index] for index in away]
    for drive in drives:
        drive.rename(drive.with_suffix(".away"))
    there = made.digest()
    with pytest.raises(SetupError, match=r"2 drives of pool 'cold' are missing .*connect them"):
        rebuild_catalog(made.config)
    assert made.digest() == there
    done = rebuild_catalog(made.config, dry_run=True, missing_are_lost=True)
    assert done.source in ("footers", "snapshot") and made.digest() == there
    for drive in drives:
        drive.with_suffix(".away").rename(drive)
    assert rebuild_catalog(made.config).report.exit_code == 1
    assert differences(before, made.tree()) == []


def test_a_workspace_that_is_older_than_the_archive_takes_nothing_from_it(
    made: Directories,
) -> None:
    lost = (*made.workspace, made.catalog)
    for directory in lost:
        shutil.copytree(directory, directory.with_suffix(".image"))
    made.fill("four", "five")
    made.archive_all()
    before = made.tree()
    for directory in lost:
        shutil.rmtree(directory)
        directory.with_suffix(".image").rename(directory)
    there = {name: of for name, of in made.digest().items() if "/a" in name}
    kinds = check(made.config).counts
    assert kinds[Kind.ARCHIVE_NEWER] > 2 and not kinds[Kind.STRAY]
    assert repair(made.config).exit_code == 4
    with pytest.raises(SetupError, match=r"the workspace is an older one than the archive"):
        made.archive_all()
    with pytest.raises(SetupError, match=r"nothing is discarded"):
        made.fill("six")
    assert {name: of for name, of in made.digest().items() if "/a" in name} == there
    made.lose_workspace()
    assert rebuild_catalog(made.config).report.exit_code == 1
    assert differences(before, made.tree()) == []


def test_fragments_of_a_segment_whose_row_is_lost_are_no_strays(made: Directories) -> None:
    there = {name: of for name, of in made.digest().items() if "fragment" in name}
    with unmounted(load(made.config), read_only=False) as (volume, _):
        rows = [archived_removed(number) for number, _ in volume.catalog.archived_segments()]
        volume.context.apply(rows)
        volume.commits.now()
    assert check(made.config).counts[Kind.FILE_LOST] == 3
    repair(made.config)
    made.archive_all()
    assert there and there.items() <= made.digest().items()


def test_a_log_that_lost_its_end_does_not_replace_a_catalog_that_has_it(made: Directories) -> None:
    made.fill("four")
    before = made.tree()
    for directory in made.workspace:
        last = max(path for path in directory.iterdir() if path.name.startswith("journal"))
        last.write_bytes(bytes(last.stat().st_size))
    there = made.digest()
    with pytest.raises(SetupError, match=r"the log has lost it.*`shmr-fsck repair`"):
        rebuild_catalog(made.config)
    assert made.digest() == there
    assert repair(made.config).exit_code == 1
    assert differences(before, made.tree()) == []


def test_a_workspace_that_is_not_empty_is_refused(made: Directories) -> None:
    made.lose_workspace()
    (made.workspace[1] / "letters").mkdir()
    with pytest.raises(SetupError, match="w2: not empty"):
        rebuild_catalog(made.config)
    (made.workspace[1] / "letters").rmdir()
    (made.workspace[1] / "data-000000000007").write_bytes(b"something")
    before = made.digest()
    with pytest.raises(SetupError, match=r"w2: not empty .*data-000000000007"):
        rebuild_catalog(made.config)
    assert made.digest() == before


def test_one_lost_drive_of_a_mirror_is_no_reason_to_begin_anew(made: Directories) -> None:
    shutil.rmtree(made.workspace[0])
    made.workspace[0].mkdir()
    before = made.digest()
    with pytest.raises(SetupError, match=r"w1: no superblock, but .*w2.*--degraded"):
        rebuild_catalog(made.config)
    assert made.digest() == before


def test_drives_of_two_filesystems_are_refused(made: Directories, tmp_path: Path) -> None:
    other = Directories(tmp_path)
    made.lose_workspace()
    shutil.rmtree(made.archive[2])
    shutil.copytree(other.archive[2], made.archive[2])
    before = made.digest()
    with pytest.raises(SetupError, match=r"a1 and .*a3 are of two filesystems"):
        rebuild_catalog(made.config)
    assert made.digest() == before


def test_archive_drives_without_anything_are_refused(made: Directories) -> None:
    made.lose_workspace()
    for directory in made.archive:
        for path in directory.iterdir():
            if path.name.startswith(("fragment", "snapshot")):
                path.unlink()
    before = made.digest()
    with pytest.raises(SetupError, match="neither a journal nor a snapshot nor a fragment"):
        rebuild_catalog(made.config)
    assert made.digest() == before
    for directory in made.archive:
        shutil.rmtree(directory)
        directory.mkdir()
    with pytest.raises(SetupError, match="no archive drive of a filesystem"):
        rebuild_catalog(made.config)


def test_a_filesystem_in_use_is_refused(made: Directories) -> None:
    with unmounted(load(made.config), read_only=False), pytest.raises(SetupError, match="in use"):
        rebuild_catalog(made.config)


def test_another_name_than_the_config_has_is_refused(made: Directories) -> None:
    made.lose_workspace()
    made.config.write_text(made.configuration("another"))
    with pytest.raises(SetupError, match="'tryout', the config says 'another'"):
        rebuild_catalog(made.config)


def test_a_log_that_does_not_suffice_leaves_the_catalog(made: Directories) -> None:
    for directory in made.workspace:
        for path in directory.iterdir():
            if path.name.startswith("journal"):
                path.write_bytes(bytes(path.stat().st_size))
    before = made.digest()
    with pytest.raises(SetupError, match="the log does not give the whole catalog"):
        rebuild_catalog(made.config)
    assert made.digest() == before


def test_a_mount_refuses_a_workspace_that_is_not_complete(
    made: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shmr.fsck.rebuilding import new_workspace

    before = made.tree()
    made.lose_workspace()

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(new_workspace, "_compare", cut)
        with pytest.raises(KeyboardInterrupt):
            rebuild_catalog(made.config)
    with pytest.raises(SetupError, match="rebuild-catalog CONFIG` again"):
        made.tree()
    assert rebuild_catalog(made.config).report.exit_code == 1
    assert differences(before, made.tree()) == []


# -- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_came_of_it(
    made: Directories, capsys: pytest.CaptureFixture[str]
) -> None:
    made.lose_workspace()
    assert main(["rebuild-catalog", str(made.config), "--dry-run"]) == 4
    assert "would make a new workspace" in capsys.readouterr().out
    assert main(["rebuild-catalog", str(made.config), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["source"] == "snapshot" and told["repaired_counts"] == {"workspace-gone": 1}
    assert main(["rebuild-catalog", str(made.config)]) == 1
    out = capsys.readouterr().out
    assert "is made anew from the log" in out and "the old catalog is kept as" in out
    shutil.rmtree(made.archive[0])
    for directory in (*made.workspace, *made.archive[1:]):
        shutil.rmtree(directory)
        directory.mkdir()
    assert main(["rebuild-catalog", str(made.config)]) == 8
    assert "no archive drive of a filesystem" in capsys.readouterr().err
