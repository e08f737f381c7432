"""`shmr-decode.py`, as a stranger runs it: another process, no packages, nothing but the drives.

What comes out is what was put in, or it is said to be missing: never other bytes.
"""

from __future__ import annotations

import ast
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr import service
from shmr.config import load
from shmr.format.fragment import BLOCK, FragmentHeader, decode_header
from shmr.format.rows import ROOT
from shmr.format.superblock import Superblock
from shmr.format.superblock import decode as decode_superblock
from shmr.service.offline import unmounted
from shmr.testing.trial import scratch
from shmr.units import MIB
from shmr.volume.attributes import AttributeChange
from tests.fsck.rescued import ME, Rescued, Shown, tree_at, unprivileged
from tests.fsck.standalone import (
    FAILED,
    INCOMPLETE,
    MEMORY_BYTES,
    MISSING,
    OLDEST,
    PROGRAM,
    WHOLE,
    WRITTEN,
    decode,
    pythons,
)


@pytest.fixture(scope="module", params=["2+1", "mirror"])
def rescued(request: pytest.FixtureRequest) -> Iterator[Rescued]:
    with scratch() as base:
        made = Rescued(base, request.param, spare=1)
        made.fill()
        yield made


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as base:
        yield base


def copied(drives: list[str], place: Path) -> list[Path]:
    """Drives of our own, to be damaged."""
    for drive in drives:
        shutil.copytree(drive, place / Path(drive).name)
    return [place / Path(drive).name for drive in drives]


def superblock_of(drive: str | Path) -> Superblock:
    (path,) = Path(drive).glob("superblock-*")
    return decode_superblock(path.read_bytes())


def header_of(fragment: Path) -> FragmentHeader:
    with open(fragment, "rb") as file:
        return decode_header(file.read(BLOCK))


def number(content: bytes) -> int:
    return int.from_bytes(content, "big")


def assert_parts(tree: dict[bytes, Shown], contents: dict[bytes, bytes], top: Path) -> set[bytes]:
    """What came out under its own name is whole, of what is incomplete every byte is right or zero.

    Returns the paths that are not whole.
    """
    found = tree_at(top)
    for path, shown in found.items():
        if not path.endswith(INCOMPLETE):
            assert shown == tree[path], path
            continue
        path = path.removesuffix(INCOMPLETE)
        expected = contents[path]
        written = Path(os.fsdecode(os.fsencode(top) + path + INCOMPLETE)).read_bytes()
        assert len(written) == len(expected)
        there = number(written.translate(WRITTEN))
        assert number(written) == number(expected) & there, path
    return {path for path in tree if path not in found}


@pytest.fixture(scope="module")
def contents(rescued: Rescued) -> dict[bytes, bytes]:
    """What is in each file, by path."""
    with scratch() as base:
        decode("--drives", *rescued.cold, "--to", base / "all")
        top = base / "all"
        assert tree_at(top) == unprivileged(rescued.tree)
        return {
            path: Path(os.fsdecode(os.fsencode(top) + path)).read_bytes()
            for path, shown in rescued.tree.items()
            if shown[0] == "file"
        }


# -- the program itself ---------------------------------------------------------------------------


def test_it_needs_nothing_but_the_standard_library_of_the_oldest_python() -> None:
    source = PROGRAM.read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=OLDEST)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported <= sys.stdlib_module_names
    assert not imported & {"socket", "subprocess", "pickle", "urllib", "ctypes"}


def test_functions_do_not_call_themselves() -> None:
    """What is read decides nowhere how deep the program goes."""
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    methods = {node for one in tree.body if isinstance(one, ast.ClassDef) for node in one.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            itself = f"self.{node.name}" if node in methods else node.name
            called = {ast.unparse(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
            assert itself not in called


@pytest.mark.parametrize(
    "words", [(), ("--list",), ("--drives",), ("--drives", "/nowhere", "--list")]
)
def test_a_wrong_command_line_is_told(words: tuple[str, ...]) -> None:
    said = decode(*words)
    assert said.code == FAILED and said.notes and not said.out


# -- everything is there --------------------------------------------------------------------------


@pytest.mark.parametrize("python", pythons())
def test_everything_comes_out_as_it_was(rescued: Rescued, place: Path, python: str) -> None:
    drives = list(reversed(rescued.cold))
    said = decode("--drives", *drives, "--to", place / "out", python=python)
    assert said.code == WHOLE, said
    assert tree_at(place / "out") == unprivileged(rescued.tree)
    assert (place / "out" / "one of two").samefile(place / "out" / "photos" / "two of two")
    again = decode("--drives", *drives, "--to", place / "out", python=python)
    assert again.code == WHOLE and "there already" in again.out and " files" not in again.out
    assert tree_at(place / "out") == unprivileged(rescued.tree)


def test_what_is_listed_is_what_is_there(rescued: Rescued) -> None:
    said = decode("--drives", *rescued.cold, "--list")
    assert said.code == WHOLE, said
    lines = said.out.splitlines()
    assert len(lines) == len(rescued.tree) + 1
    assert sum(" /photos/photo" in line for line in lines) == 12
    (link,) = (line for line in lines if " /symlink " in line)
    assert link.startswith("lrwxrwxrwx") and link.endswith(" -> photos/../../etc/passwd")
    assert "\x1b" not in said.out and "\\x1b[2J" in said.out
    assert " bytes are missing" not in said.out


def test_a_directory_or_a_file_comes_out_alone(rescued: Rescued, place: Path) -> None:
    drives = ("--drives", *rescued.cold)
    assert decode(*drives, "--to", place / "a", "--path", "photos/deeper/").code == WHOLE
    assert set(tree_at(place / "a")) == {
        path.removeprefix(b"/photos") for path in rescued.tree if path.startswith(b"/photos/deeper")
    }
    assert decode(*drives, "--to", place / "b", "--path", "/sparse").code == WHOLE
    assert tree_at(place / "b") == {b"/sparse": rescued.tree[b"/sparse"]}
    facts = (place / "b" / "sparse").stat()
    assert facts.st_blocks * 512 < MIB < facts.st_size, "holes are holes"
    listed = decode(*drives, "--list", "--path", "/photos")
    assert listed.code == WHOLE and all(" /photos" in line for line in listed.out.splitlines())
    for path in ("/photos/none", "/sparse/none", ".."):
        said = decode(*drives, "--to", place / "c", "--path", path)
        assert said.code == FAILED and "there is no" in said.notes
    assert decode(*drives, "--to", place / "d", "--inode", "2").code == WHOLE
    assert os.listdir(place / "d") == ["inode-2"]
    assert decode(*drives, "--to", place / "d", "--inode", "999999").code == MISSING


def test_the_drives_are_not_changed_and_not_written_into(rescued: Rescued, place: Path) -> None:
    (drive, *_) = copied(rescued.cold, place)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in drive.iterdir()}
    assert decode("--drives", drive, "--to", place / "out").code in (WHOLE, MISSING)
    for inside in (drive, drive / "new", place / "link"):
        if inside.name == "link":
            inside.symlink_to(drive)
        said = decode("--drives", drive, "--to", inside)
        assert said.code == FAILED and "only read" in said.notes
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in drive.iterdir()} == before


def test_what_is_there_is_left_alone(rescued: Rescued, place: Path) -> None:
    top = place / "out"
    (top / "elsewhere").mkdir(parents=True)
    (top / "empty").write_text("mine")
    (top / "photos").symlink_to(top / "elsewhere")
    said = decode("--drives", *rescued.cold, "--to", top)
    assert said.code == MISSING and "not written: /empty" in said.notes
    assert "not written: /photos" in said.notes
    assert (top / "empty").read_text() == "mine"
    assert os.listdir(top / "elsewhere") == []
    assert (top / "sparse").stat().st_size == 9 * MIB


# -- something is missing -------------------------------------------------------------------------


def test_each_drive_may_be_missing(
    rescued: Rescued, contents: dict[bytes, bytes], place: Path
) -> None:
    tree = unprivileged(rescued.tree)
    mirrored = len(rescued.cold) == 3
    for index, missing in enumerate(rescued.cold):
        drives = [drive for drive in rescued.cold if drive != missing]
        top = place / str(index)
        said = decode("--drives", *drives, "--to", top)
        lost = assert_parts(tree, contents, top)
        held = [header_of(path) for path in Path(missing).glob("fragment-*")]
        needed = any(one.k > 1 and one.fragment < one.k for one in held)
        assert said.code == (MISSING if needed else WHOLE), said
        assert bool(lost) == needed
        identity = superblock_of(missing).drive.hex()
        assert f"not given: {identity}" in said.notes
        listed = decode("--drives", *drives, "--list")
        assert listed.code == said.code
        if not needed:
            continue
        assert not mirrored
        assert f"that drive {identity} of pool 'cold' has" in said.notes
        assert "shmr-fsck decode" in said.notes
        # It comes back, and the same command goes on.
        again = decode("--drives", *rescued.cold, "--to", top)
        assert again.code == WHOLE and tree_at(top) == tree


def test_one_drive_alone_gives_what_it_has(
    rescued: Rescued, contents: dict[bytes, bytes], place: Path
) -> None:
    tree = unprivileged(rescued.tree)
    whole = 0
    for index, drive in enumerate(rescued.cold):
        top = place / str(index)
        said = decode("--drives", drive, "--to", top)
        if any(Path(drive).glob("snapshot-*")):
            whole += len(tree) - len(assert_parts(tree, contents, top))
        else:
            assert "no whole snapshot" in said.notes or said.code == FAILED
    assert whole > (len(tree) if len(rescued.cold) == 3 else 0)


def test_a_damaged_unit_is_never_written(
    rescued: Rescued, contents: dict[bytes, bytes], place: Path
) -> None:
    drives = copied(rescued.cold, place)
    tree = unprivileged(rescued.tree)
    fragments = [path for drive in drives for path in drive.glob("fragment-*")]
    first = [path for path in fragments if header_of(path).fragment == 0]
    for path in first:
        content = bytearray(path.read_bytes())
        content[BLOCK + 10] ^= 4
        path.write_bytes(content)
    said = decode("--drives", *drives, "--to", place / "out")
    lost = assert_parts(tree, contents, place / "out")
    if header_of(first[0]).k == 1:
        assert said.code == WHOLE and not lost
    else:
        assert said.code == MISSING and lost
        assert f"{first[0].parent}/{first[0].name}: unit 0 is damaged" in said.notes


@pytest.mark.parametrize("part", ["header", "footer", "table", "cut", "empty"])
def test_a_fragment_with_other_damage_gives_no_wrong_byte(
    rescued: Rescued, contents: dict[bytes, bytes], place: Path, part: str
) -> None:
    drives = copied(rescued.cold, place)
    tree = unprivileged(rescued.tree)
    for path in sorted(path for drive in drives for path in drive.glob("fragment-*")):
        header = header_of(path)
        if header.fragment:
            continue
        content = bytearray(path.read_bytes())
        at = {
            "header": 60,
            "table": header.table_offset + 5,
            "footer": header.footer_offset + BLOCK + 40,
            "cut": 0,
            "empty": 0,
        }[part]
        content[at] ^= 0x10
        if part == "cut":
            content = content[: len(content) // 2]
        path.write_bytes(b"" if part == "empty" else content)
    said = decode("--drives", *drives, "--to", place / "out")
    lost = assert_parts(tree, contents, place / "out")
    assert said.code == (MISSING if lost else WHOLE), said
    if part in ("header", "table"):
        assert not lost, "the footer repeats the header, and the table is not needed"
    elif len(rescued.cold) == 4:
        assert lost


def test_without_a_snapshot_files_come_out_by_their_numbers(
    rescued: Rescued, contents: dict[bytes, bytes], place: Path
) -> None:
    drives = copied(rescued.cold, place)
    for drive in drives:
        for path in drive.glob("snapshot-*"):
            path.unlink()
    said = decode("--drives", *drives, "--to", place / "out")
    assert said.code == WHOLE and "no whole snapshot" in said.notes
    found = {path.read_bytes() for path in (place / "out").glob("inode-*")}
    wanted = {content for content in contents.values() if content}
    sparse = contents[b"/sparse"].rstrip(b"\0")
    assert found == (wanted - {contents[b"/sparse"]}) | {sparse}
    listed = decode("--drives", *drives, "--list")
    assert listed.code == WHOLE and len(listed.out.splitlines()) == len(found)
    assert decode("--drives", *drives, "--to", place / "b", "--path", "/x").code == FAILED
    (one, *_) = (place / "out").iterdir()
    inode = one.name.removeprefix("inode-")
    assert decode("--drives", *drives, "--to", place / "b", "--inode", inode).code == WHOLE
    assert (place / "b" / one.name).read_bytes() == one.read_bytes()


def test_a_snapshot_is_taken_from_the_copy_that_is_whole(rescued: Rescued, place: Path) -> None:
    drives = copied(rescued.cold, place)
    copies = [path for drive in drives for path in drive.glob("snapshot-*")]
    assert len(copies) == 2
    for index, path in enumerate(copies):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        said = decode("--drives", *drives, "--list")
        if index == 0:
            assert said.code == WHOLE and len(said.out.splitlines()) == len(rescued.tree) + 1
        else:
            assert "cannot be used" in said.notes and "no whole snapshot" in said.notes


# -- the workspace --------------------------------------------------------------------------------


def test_what_was_only_in_the_workspace_is_said_or_read_from_there(place: Path) -> None:
    made = Rescued(place / "fs" if (place / "fs").mkdir() is None else place, "2+1")
    made.fill(later=True)
    before = decode("--drives", *made.cold, "--list")
    assert " /later" not in before.out, "it came after the snapshot"
    with_work = decode("--drives", made.work, *made.cold, "--to", place / "out")
    assert with_work.code == WHOLE, with_work
    assert tree_at(place / "out") == unprivileged(made.tree)
    # A snapshot that knows of it, but not the workspace that has it.
    service.compact(made.config, paths=["/photos"], target="cold", flush=True)
    with unmounted(load(made.config), read_only=False) as (volume, _):
        inode = volume.names.create(ROOT, b"moved", 0o100644, ME)
        volume.data.write(inode.number, 0, b"moved" * 50_000)
    service.compact(made.config, paths=["/moved"], target="cold", flush=True)
    said = decode("--drives", *made.cold, "--to", place / "without")
    assert said.code == MISSING
    assert "not written: /later: bytes 0 to 100000: it was only in the workspace" in said.notes
    assert (place / "without" / "moved").read_bytes() == b"moved" * 50_000
    listed = decode("--drives", *made.cold, "--list")
    assert listed.code == MISSING and "/later  [100000 bytes are missing]" in listed.out


@pytest.mark.parametrize("cut", [False, True])
def test_with_the_workspace_the_tree_is_that_of_the_last_commit(place: Path, cut: bool) -> None:
    (place / "fs").mkdir()
    made = Rescued(place / "fs", "mirror")
    made.fill()
    with unmounted(load(made.config), read_only=False) as (volume, _):
        names, data = volume.names, volume.data
        names.unlink(ROOT, b"sparse")
        names.rename(ROOT, b"photos", ROOT, b"pictures", 0)
        photos = names.lookup(ROOT, b"pictures").number
        photo = names.lookup(photos, b"photo3").number
        data.write(photo, 1000, b"written over" * 1000)
        volume.attributes.set(names.lookup(photos, b"photo4").number, AttributeChange(size=10))
        volume.commits.now()
        for index in range(300):
            one = names.create(photos, b"new%d" % index, 0o100600, ME).number
            data.write(one, 0, b"%d" % index * 100)
            volume.commits.now()
        volume.xattrs.set(photo, b"user.later", b"yes")
    made.look()
    if cut:
        # A batch that does not verify: the one before it is the last.
        with unmounted(load(made.config), read_only=False) as (volume, _):
            volume.names.create(ROOT, b"torn", 0o100600, ME)
        journal = max(Path(made.work).glob("journal-*"))
        content = bytearray(journal.read_bytes())
        content[content.index(b"torn")] ^= 1
        journal.write_bytes(content)
    said = decode("--drives", *made.cold, made.work, "--to", place / "out")
    assert said.code == WHOLE, said
    assert tree_at(place / "out") == unprivileged(made.tree)


# -- what may be forged ---------------------------------------------------------------------------


def test_drives_of_two_filesystems_are_told_apart(rescued: Rescued, place: Path) -> None:
    (place / "fs").mkdir()
    other = Rescued(place / "fs", "mirror")
    said = decode("--drives", *rescued.cold, other.cold[0], "--list")
    assert said.code == FAILED and "2 filesystems" in said.notes
    # A fragment of another filesystem among ours is left out.
    drives = copied(rescued.cold, place)
    other.fill()
    (stray, *_) = (path for cold in other.cold for path in Path(cold).glob("fragment-*"))
    shutil.copy(stray, drives[0] / "fragment-000000000777-00-000001")
    said = decode("--drives", *drives, "--to", place / "out")
    assert said.code == WHOLE and tree_at(place / "out") == unprivileged(rescued.tree)
    for path in (path for drive in drives for path in drive.glob("snapshot-*")):
        path.unlink()
    said = decode("--drives", *drives, "--list")
    assert said.code == WHOLE and "of another filesystem" in said.notes


def test_nothing_is_followed_and_nothing_blocks_in_a_drives_directory(
    rescued: Rescued, place: Path
) -> None:
    drives = copied(rescued.cold, place)
    drive = drives[0]
    os.mkfifo(drive / "fragment-000000000900-00-000001")
    os.mkfifo(drive / "snapshot-000000009999")
    os.mkfifo(drive / "superblock-000099")
    (drive / "fragment-000000000901-00-000001").symlink_to("/dev/zero")
    (drive / "snapshot-000000009998").symlink_to("/dev/zero")
    (drive / "snapshot-000000009997").mkdir()
    (drive / "fragment-000000000902-00-000001").write_bytes(b"shmrfrag" * 3000)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(drive / "data-000000009996"))
        said = decode("--drives", *drives, "--to", place / "out", memory_bytes=MEMORY_BYTES)
    assert said.code == WHOLE, said
    assert tree_at(place / "out") == unprivileged(rescued.tree)
