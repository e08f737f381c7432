"""Which drives are whose, without anything that says so but the drives."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shmr.drive.directory import DirectoryDrive
from shmr.errors import SetupError
from shmr.fsck.decoding.decode import decode
from shmr.fsck.findings import Kind
from shmr.fsck.salvaging.foreign import opened
from tests.fsck.rescued import Rescued, tree_at, unprivileged

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rescued, Rescued]:
    """Two filesystems."""
    both = tuple(Rescued(tmp_path_factory.mktemp("fs"), scheme) for scheme in ("2+1", "mirror"))
    for one in both:
        one.fill()
    return both[0], both[1]


@pytest.fixture
def rescued(made: tuple[Rescued, Rescued], tmp_path: Path) -> Rescued:
    """One of them, to be spoiled."""
    copy = object.__new__(Rescued)
    copy.__dict__.update(made[0].__dict__)
    copy.base = tmp_path / "copy"
    shutil.copytree(made[0].base, copy.base)
    copy.work = str(copy.base / "work")
    copy.cold = [str(copy.base / Path(path).name) for path in made[0].cold]
    return copy


def spoil(drive: str, begins: str) -> None:
    """Bend every file whose name begins so."""
    for path in Path(drive).iterdir():
        if path.name.startswith(begins):
            content = bytearray(path.read_bytes())
            content[30] ^= 1
            path.write_bytes(content)


def test_drives_of_two_filesystems_are_refused_unless_one_is_chosen(
    made: tuple[Rescued, Rescued], tmp_path: Path
) -> None:
    one, two = made
    with opened([one.work]) as first, opened([two.work]) as second:
        ids = [first.filesystem.hex(), second.filesystem.hex()]
    drives = [*one.cold, *two.cold]
    with pytest.raises(SetupError) as refused:
        decode(drives, str(tmp_path / "out"))
    assert all(filesystem in str(refused.value) for filesystem in ids)
    assert all(path in str(refused.value) for path in drives)
    done = decode(drives, str(tmp_path / "out"), filesystem=ids[0][:8])
    assert done.report.exit_code == 0
    assert tree_at(tmp_path / "out") == unprivileged(one.tree)
    for wrong in ("", "0", "ffffffff" if ids[0][:8] != "ffffffff" else "eeeeeeee", "rescued"):
        with pytest.raises(SetupError, match="--filesystem"):
            decode(drives, str(tmp_path / "out"), filesystem=wrong)


@pytest.mark.parametrize("how", ("gone", "bent"))
def test_a_drive_without_its_superblock_is_known_by_its_files(
    rescued: Rescued, tmp_path: Path, how: str
) -> None:
    for drive in (rescued.cold[0], rescued.cold[1], rescued.work):
        if how == "bent":
            spoil(drive, "superblock")
        else:
            os.unlink(Path(drive, "superblock-000001"))
    for index, drives in enumerate((rescued.cold, [*rescued.cold[:2], rescued.work])):
        done = decode(drives, str(tmp_path / f"out{index}"))
        assert done.report.exit_code == 0, done.report.findings
        assert tree_at(tmp_path / f"out{index}") == unprivileged(rescued.tree)
    assert sum("no superblock" in note for note in done.report.notes) == 3


def test_a_workspace_drive_is_known_by_its_segments_alone(rescued: Rescued) -> None:
    os.unlink(Path(rescued.work, "superblock-000001"))
    with opened([rescued.work]) as foreign:
        assert [drive.label for drive in foreign.workspace] == [rescued.work]
        assert not foreign.archive


def test_a_directory_that_is_no_drive_is_told_and_passed_over(
    rescued: Rescued, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "fragment-000000000001-00-000001").write_bytes(b"not at all")
    (tmp_path / "photos" / "superblock-000001").write_bytes(b"neither")
    drives = [str(tmp_path / "photos"), *rescued.cold, str(tmp_path / "nothing")]
    done = decode(drives, str(tmp_path / "out"))
    assert done.report.exit_code == 4
    assert set(done.report.counts) == {Kind.DRIVE_UNUSABLE}
    assert {f.where.drive for f in done.report.findings} == {drives[0], drives[-1]}
    assert tree_at(tmp_path / "out") == unprivileged(rescued.tree)


def test_two_directories_that_claim_to_be_one_drive_are_refused(
    rescued: Rescued, tmp_path: Path
) -> None:
    copy = tmp_path / "a copy"
    shutil.copytree(rescued.cold[0], copy)
    with pytest.raises(SetupError, match="give only one") as refused:
        decode([*rescued.cold, str(copy)], str(tmp_path / "out"))
    assert str(copy) in str(refused.value) and rescued.cold[0] in str(refused.value)


def test_a_drive_that_is_named_twice_is_one(rescued: Rescued, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(rescued.cold[0])
    drives = [*rescued.cold, rescued.cold[1] + "/.", str(link)]
    assert decode(drives, str(tmp_path / "out")).report.exit_code == 0


def test_a_drive_in_use_is_told(rescued: Rescued, tmp_path: Path) -> None:
    holder = DirectoryDrive(rescued.work)
    assert holder.lock()
    done = decode([rescued.work, *rescued.cold], str(tmp_path / "out"))
    assert any("in use" in note for note in done.report.notes)
    assert tree_at(tmp_path / "out") == unprivileged(rescued.tree)
    holder.close()


def test_missing_drives_are_named_by_the_superblocks_of_others(rescued: Rescued) -> None:
    with opened(rescued.cold) as all_there:
        ids = {drive.label: key for key, drive in all_there.archive.items()}
        assert all_there.missing == ()
    with opened(rescued.cold[:2]) as foreign:
        assert foreign.missing == (ids[rescued.cold[2]],)
        assert foreign.label(foreign.missing[0]).endswith("of pool cold")
    assert foreign.name == "rescued"


def test_what_is_no_regular_file_is_neither_opened_nor_followed(
    rescued: Rescued, tmp_path: Path
) -> None:
    """Fifos would be waited at, and links lead elsewhere."""
    os.mkfifo(Path(rescued.cold[0], "superblock-000009"))
    os.mkfifo(Path(rescued.cold[0], "snapshot-000000000900"))
    os.mkdir(Path(rescued.cold[1], "superblock-000007"))
    Path(rescued.cold[1], "fragment-000000000900-00-000001").symlink_to("/dev/zero")
    Path(rescued.cold[2], "journal-000000000901").symlink_to(Path(rescued.work, "lock"))
    os.mkdir(Path(rescued.cold[2], "data-000000000902"))
    done = decode(rescued.cold, str(tmp_path / "out"))
    assert done.report.exit_code == 0, done.report.findings
    assert tree_at(tmp_path / "out") == unprivileged(rescued.tree)
    # In the place of a fragment they are as good as lost: the other two are enough.
    fragment = next(Path(rescued.cold[0]).glob("fragment-*"))
    fragment.unlink()
    os.mkfifo(fragment)
    done = decode(rescued.cold, str(tmp_path / "out2"))
    assert done.report.exit_code == 0, done.report.findings
    assert tree_at(tmp_path / "out2") == unprivileged(rescued.tree)
