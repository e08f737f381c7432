"""`shmr-decode.py`, as a stranger runs it: another process, no packages, nothing but the drives.

What comes out is what was put in, or it is said to be missing: never other bytes.
"""

from __future__ import annotations

import ast
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shmr import service
from shmr.archive import leave
from shmr.config import load
from shmr.format.fragment import BLOCK, FragmentHeader, decode_header
from shmr.format.rows import ROOT
from shmr.format.superblock import Superblock
from shmr.format.superblock import decode as decode_superblock
from shmr.service.offline import unmounted
from shmr.testing.trial import scratch
from shmr.units import MIB
from shmr.volume.attributes import AttributeChange
from tests.fsck.forged_drive import DRIVE, POOL, ForgedDrive
from tests.fsck.rescued import ME, Rescued, Shown, tree_at, unprivileged

PROGRAM = Path(leave.__file__).with_name("shmr-decode.py")
INCOMPLETE = b".shmr-incomplete"
WHOLE, MISSING, FAILED = 0, 4, 8
MEMORY_BYTES = 256 * MIB
OLDEST = (3, 8)
WRITTEN = bytes([0] + [255] * 255)
"""By this table zeros stay zeros."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a run said."""

    code: int
    out: str
    notes: str


def pythons() -> list[str]:
    """Every Python from 3.8 on that this machine has, by its path; ours is one of them."""
    found = {sys.executable}
    for minor in range(8, 30):
        path = shutil.which(f"python3.{minor}")
        if path is None:
            continue
        answer = subprocess.run(
            [path, "-I", "-S", "-c", "import sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if answer.returncode == 0:
            found.add(answer.stdout.strip())
    return sorted(found)


def decode(
    *words: object,
    python: str = sys.executable,
    memory_bytes: int | None = None,
    limit_s: float = 60,
) -> Said:
    """Run the program without the packages and variables of this process."""

    def limit() -> None:
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    done = subprocess.run(
        [python, "-I", "-S", str(PROGRAM), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={"PATH": "/nowhere", "LC_ALL": "C.UTF-8"},
        cwd="/",
        preexec_fn=limit,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


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


# -- what is left on drives -----------------------------------------------------------------------


def test_the_shift_leaves_the_program_and_its_pages_on_the_drives(rescued: Rescued) -> None:
    for drive in map(Path, rescued.cold):
        there = {p.name for p in drive.iterdir()}
        if not any(name.startswith(("fragment", "snapshot")) for name in there):
            continue
        assert there >= leave.NAMES
        assert (drive / "shmr-decode.py").read_bytes() == PROGRAM.read_bytes()
        for name, content in leave.contents().items():
            assert (drive / name).read_bytes() == content
            assert stat.S_IMODE((drive / name).stat().st_mode) == 0o600
    assert b"shmr-decode.py --drives" in leave.contents()["README.txt"]


def test_what_is_left_on_a_drive_is_replaced_where_it_differs_and_goes_with_the_drive(
    place: Path,
) -> None:
    (place / "fs").mkdir()
    made = Rescued(place / "fs", "2+1", spare=1)
    made.fill()
    drive = Path(made.cold[0])
    (drive / "shmr-decode.py").write_bytes(bytes(PROGRAM.stat().st_size))
    (drive / "README.txt").write_text("an older one")
    (drive / "FORMAT.md").unlink()
    for cold in made.cold:
        # Whichever drives are written to.
        if Path(cold) != drive:
            for name in leave.NAMES:
                (Path(cold) / name).unlink(missing_ok=True)
    for index in range(4):
        with unmounted(load(made.config), read_only=False) as (volume, _):
            inode = volume.names.create(ROOT, b"more%d" % index, 0o100644, ME)
            volume.data.write(inode.number, 0, b"more" * 10_000)
        service.compact(made.config, everything=True, target="cold", flush=True)
    for cold in map(Path, made.cold):
        for name, content in leave.contents().items():
            assert (cold / name).read_bytes() == content
    service.drive_drain(made.config, str(drive))
    service.drive_remove(made.config, str(drive))
    assert [p.name for p in drive.iterdir() if p.name != "lock"] == []
    made.look()
    assert made.tree


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


@pytest.fixture
def forged(place: Path) -> ForgedDrive:
    return ForgedDrive(place / "drive")


def run_forged(forged: ForgedDrive, place: Path) -> tuple[Said, Said]:
    """What a listing says, and copying everything out, with little memory."""
    listed = decode("--drives", forged.path, "--list", memory_bytes=MEMORY_BYTES)
    to = ("--to", place / "top" / "out")
    return listed, decode("--drives", forged.path, *to, memory_bytes=MEMORY_BYTES)


def test_names_lead_nowhere_else(forged: ForgedDrive, place: Path) -> None:
    (place / "top").mkdir()
    forged.inode(2, stat.S_IFDIR | 0o755)
    forged.inode(3, stat.S_IFREG | 0o644)
    forged.inode(4, stat.S_IFLNK | 0o777, target=os.fsencode(place))
    forged.name(ROOT, b"a link", 4)
    forged.name(ROOT, b"directory", 2)
    names = [b"..", b".", b"", b"../up", b"/absolute", b"a link/through", b"nul\0"]
    for name in names:
        forged.name(ROOT, name, 3)
        forged.name(2, name, 2)
    forged.name(2, b"fine", 3)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert listed.notes.count("is not a name") == 2 * len(names)
    assert set(os.listdir(place / "top" / "out")) == {"a link", "directory"}
    assert os.listdir(place / "top" / "out" / "directory") == ["fine"]
    assert set(os.listdir(place)) == {"top", "drive"}
    assert os.listdir(place / "top") == ["out"]
    assert copied_out.code in (WHOLE, MISSING)


def test_directories_that_go_in_circles_end(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFDIR | 0o755)
    forged.inode(3, stat.S_IFDIR | 0o755)
    forged.name(ROOT, b"a", 2)
    forged.name(2, b"b", 3)
    forged.name(3, b"a", 2)
    forged.name(3, b"root", ROOT)
    forged.name(ROOT, b"again", 3)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert listed.code == WHOLE and len(listed.out.splitlines()) < 12
    assert copied_out.code == MISSING and "two names" in copied_out.notes


def test_a_deep_tree_is_gone_through(forged: ForgedDrive, place: Path) -> None:
    depth = 2000
    for number in range(2, depth):
        forged.inode(number, stat.S_IFDIR | 0o500)
        forged.name(number - 1, b"d", number)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert len(listed.out.splitlines()) == depth - 1
    assert copied_out.code == WHOLE and f"{depth - 2} directories" in copied_out.out
    # Python's own way of removing trees is a recursion.
    subprocess.run(["rm", "-rf", str(place / "top")], check=True, timeout=60)


def test_paths_end_somewhere(forged: ForgedDrive, place: Path) -> None:
    for number in range(2, 90):
        forged.inode(number, stat.S_IFDIR | 0o700)
        forged.name(number - 1, b"d" * 250, number)
    forged.snapshot()
    listed, copied_out = run_forged(forged, place)
    assert "too deep" in listed.notes and "too deep" in copied_out.notes
    assert copied_out.code == MISSING


def test_nothing_that_acts_by_itself_is_made(forged: ForgedDrive, place: Path) -> None:
    kinds = (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0, 0o170000)
    for number, kind in enumerate(kinds, 10):
        forged.inode(number, kind | 0o666, rdev=1 << 8 | 3)
        forged.name(ROOT, b"node%d" % number, number)
    forged.inode(20, stat.S_IFREG | 0o6755)
    forged.name(ROOT, b"suid", 20)
    forged.inode(21, stat.S_IFDIR | 0o2755)
    forged.name(ROOT, b"sgid", 21)
    for name in (b"security.capability", b"trusted.overlay.opaque", b"user.fine"):
        forged.attribute(20, name, b"\1\0\0\2" + bytes(16))
    forged.snapshot()
    _, said = run_forged(forged, place)
    out = place / "top" / "out"
    assert set(os.listdir(out)) == {"suid", "sgid"} and "6 left out" in said.out
    assert stat.S_IMODE((out / "suid").stat().st_mode) == 0o755
    assert stat.S_IMODE((out / "sgid").stat().st_mode) == 0o755
    assert os.listxattr(out / "suid") == ["user.fine"]


def test_numbers_beyond_all_limits_are_no_more_than_told(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFREG | 0o644, size=2**63 - 1)
    forged.inode(3, stat.S_IFREG | 0o644, size=10, uid=2**40, mtime_ns=2**64 - 1)
    forged.inode(4, stat.S_IFREG | 0o644, size=2**64 - 1)
    forged.inode(5, stat.S_IFREG | 0o644, size=4096)
    forged.inode(6, stat.S_IFREG | 0o644, size=4096)
    forged.inode(7, stat.S_IFREG | 0o644, size=2**62)
    for number in range(2, 9):
        forged.name(ROOT, b"file%d" % number, number)
    forged.extent(2, 0, 2**62)
    forged.extent(3, 0, 10)
    forged.extent(5, 0, 4096, 9, 0, 4096, 0)
    forged.extent(6, 0, 4096, 10, 0, 2**63, 2**63)
    forged.extent(7, 0, 2**62, 9, 0, 2**62, 0)
    forged.archived(9, POOL, 1, 0, 0, 4096, 2**62, 2**62, 1, 1, [[DRIVE, 1]])
    forged.archived(10, POOL, 200, 55, 1, 4096, 4096, 4096, 1, 1, [[DRIVE, 1]] * 255)
    forged.snapshot()
    listed, said = run_forged(forged, place)
    assert listed.code == said.code == MISSING
    assert set(os.listdir(place / "top" / "out")) <= {"file2", "file3"}


@pytest.mark.parametrize(
    "payload",
    [
        b"\x92\x90\xdd\xff\xff\xff\xff",
        b"\x92\x90\xdc\xff\xff" + b"\xc6\x7f\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\x90\x91\x93\x03\xc6\xff\xff\xff\xff",
        b"\x92\x90\x91\x93\x02\xc4\x00\xc0",
        b"\x92\x90\x91\x93\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x01a\xc0",
        b"\xc1",
        b"\x80",
        b"\x92\x91\x93\x01\x02\xd3\x80\x00\x00\x00\x00\x00\x00\x00\x90",
        b"",
        b"\x90" + bytes(MIB),
        b"\x92\x90\xdd\x00\x10\x00\x00" + b"\x93\x02\xa0\xc0" * 262_144,
        b"\x92\x90\xdd\x00\x07\xff\xf0" + b"\x90" * 524_272 + b"\x90",
    ],
)
def test_no_msgpack_takes_memory_or_time(forged: ForgedDrive, place: Path, payload: bytes) -> None:
    forged.snapshot(payloads=[payload])
    listed, _ = run_forged(forged, place)
    assert listed.code in (WHOLE, FAILED)
    assert "cannot be used" in listed.notes or "inode 1 is not there" in listed.notes


def test_snapshots_that_go_on_from_each_other_in_circles_end(forged: ForgedDrive) -> None:
    forged.snapshot(5)
    for number, previous in ((6, 7), (7, 6), (8, 8), (9, 5)):
        forged.snapshot(number, previous=previous)
    listed = decode("--drives", forged.path, "--list")
    assert listed.code == WHOLE and len(listed.out.splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"unit_bytes": 0},
        {"unit_bytes": 2**32 - 4096},
        {"unit_bytes": 5000},
        {"data_bytes": 2**62},
        {"data_bytes": 0},
        {"extents": 2**32 - 1, "length": 2**62},
        {"k": 255, "m": 255},
        {"k": 0},
        {"fragment": 9},
        {"used_bytes": 2**63},
        {"length": 2**64 - 1},
        {"data_bytes": 2**31, "length": 4096 + 2**31 + 4096 + 16 * 2**19 + 8192},
        {},
    ],
)
def test_lengths_of_a_fragment_are_not_believed(
    forged: ForgedDrive, place: Path, fields: dict[str, int]
) -> None:
    forged.fragment("fragment-000000000009-00-000001", **fields)
    listed, said = run_forged(forged, place)
    assert (listed.code, said.code) == (FAILED, FAILED) and not listed.out
    assert "left out: " in listed.notes
    # With a row that says so, too.
    forged.inode(2, stat.S_IFREG | 0o644, size=4096)
    forged.name(ROOT, b"file", 2)
    forged.extent(2, 0, 4096, 9, 0, 4096, 0)
    forged.archived(9, POOL, 1, 0, 0, 4096, 4096, 4096, 1, 1, [[DRIVE, 1]])
    forged.snapshot()
    _, said = run_forged(forged, place)
    assert said.code == MISSING and os.listdir(place / "top" / "out") == []


def test_a_file_of_which_a_row_is_missing_is_incomplete(forged: ForgedDrive, place: Path) -> None:
    forged.inode(2, stat.S_IFREG | 0o644, size=8192)
    forged.name(ROOT, b"file", 2)
    forged.extent(2, 4096, 4096)
    forged.name(ROOT, b"nothing", 77)
    forged.snapshot()
    listed, said = run_forged(forged, place)
    assert "/file  [4096 bytes are missing]" in listed.out
    assert said.code == MISSING and "no row says where they are" in said.notes
    assert "inode 77 is not there" in said.notes
    assert os.listdir(place / "top" / "out") == []
