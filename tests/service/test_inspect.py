"""Where a file is and how a filesystem does, on drives whose content is known to the byte."""

from __future__ import annotations

import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from shmr.catalog.catalog import Catalog
from shmr.config import load
from shmr.core.stripe import fragment_size
from shmr.errors import SetupError
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import Code, file_name
from shmr.format.records import Stream
from shmr.format.rows import ROOT, Address, Dentry, Extent, Inode
from shmr.log.store import segment_name
from shmr.service.assemble import create_filesystem
from shmr.service.looking.locate import parse_mounts
from shmr.service.looking.next_shift import MoveView
from shmr.service.looking.overview import LogView, Overview, RedundancyView, overview
from shmr.service.looking.survey import survey
from shmr.service.looking.topology import Piece, topology
from shmr.units import KIB, MIB
from shmr.volume.damage import DamagedFragment

SEGMENT, CODED, COPIED = 900, 901, 902
UNIT = 64 * KIB
DATA = 2 * UNIT
SIZE = fragment_size(DATA, 3, UNIT)
FILE, EMPTY, OTHER = 1000, 1001, 1002
REGULAR = stat.S_IFREG | 0o644


@dataclass
class World:
    """A workspace of two copies, an erasure pool 2+1 and a mirror of 2 behind it.

    The file `a` has a hole, bytes in the workspace, in both fragments of the coded segment, and in
    the copied one.
    """

    config: Path
    drives: dict[str, Path]

    def discard(self, drive: str, segment: int, index: int) -> None:
        (self.drives[drive] / file_name(segment, index, 1)).unlink()


@pytest.fixture
def world(tmp_path: Path) -> World:
    names = ["ssd1", "ssd2", "smr1", "smr2", "smr3", "old1", "old2"]
    drives = {name: tmp_path / name for name in names}
    for path in drives.values():
        path.mkdir()
    config = tmp_path / "media.yaml"
    config.write_text(
        f"""
filesystem: inspected-{tmp_path.parent.name}
same_device: true
catalog: {tmp_path}/catalog
pools:
  - {{name: ssd, priority: 0, scheme: {{mirror: 2}}, segment_size: 1MiB, drives: [ssd1, ssd2]}}
  - name: smr
    priority: 1
    scheme: {{erasure: {{k: 2, m: 1}}}}
    zone_size: 1MiB
    drives: [smr1, smr2, smr3]
  - {{name: old, priority: 2, scheme: {{mirror: 2}}, zone_size: 1MiB, drives: [old1, old2]}}
"""
    )
    create_filesystem(load(config))
    _fill(config, drives)
    return World(config, drives)


def _fill(config: Path, drives: dict[str, Path]) -> None:
    catalog = Catalog(load(config).catalog)
    filesystem, place = catalog.filesystem(), catalog.place()
    assert filesystem is not None and place is not None
    found = survey(load(config), filesystem)
    ids = {Path(drive.path).name: drive.drive or b"" for drive in found.drives}
    pools = {name: number for number, name in found.pools.items()}

    def placed(*names: str) -> tuple[Placed, ...]:
        return tuple(Placed(ids[name], 1) for name in names)

    coded = Archived(
        pools["smr"], 2, 1, Code.ISA_L_RS_CAUCHY, UNIT, DATA, 2 * DATA, 3, 1,
        placed("smr1", "smr2", "smr3"),
    )  # fmt: skip
    copied = Archived(
        pools["old"], 1, 1, Code.COPIES, UNIT, DATA, DATA, 1, 1, placed("old1", "old2")
    )
    catalog.apply(
        [
            _inode(FILE, 500 * KIB).row(),
            _inode(EMPTY, 0).row(),
            _inode(OTHER, 4 * KIB).row(),
            Dentry(FILE, stat.S_IFREG, 3).row(ROOT, b"a"),
            coded.row(CODED),
            copied.row(COPIED),
            Extent(0, 10 * KIB, None).row(FILE),
            Extent(10 * KIB, 40 * KIB, Address(SEGMENT, 4096, 40 * KIB, 0)).row(FILE),
            Extent(50 * KIB, 4 * KIB, coded.address(CODED, 0)).row(FILE),
            Extent(54 * KIB, 8 * KIB, coded.address(CODED, DATA - 4 * KIB)).row(FILE),
            Extent(62 * KIB, 4 * KIB, coded.address(CODED, DATA + 4 * KIB)).row(FILE),
            Extent(66 * KIB, DATA, copied.address(COPIED, 0)).row(FILE),
            Extent(0, 4 * KIB, coded.address(CODED, 2 * DATA - 4 * KIB)).row(OTHER),
        ]
    )
    catalog.checkpoint(filesystem, place, COPIED + 1)
    catalog.close()
    for name in ("ssd1", "ssd2"):
        (drives[name] / segment_name(Stream.DATA, SEGMENT)).write_bytes(bytes(MIB))
    for index, name in enumerate(("smr1", "smr2", "smr3")):
        (drives[name] / file_name(CODED, index, 1)).write_bytes(bytes(SIZE))
    for index, name in enumerate(("old1", "old2")):
        (drives[name] / file_name(COPIED, index, 1)).write_bytes(bytes(SIZE))


def _inode(number: int, size: int) -> Inode:
    return Inode(number, REGULAR, 1, 0, 0, 0, size, 0, 1, 2, 3)


def lefts(world: World) -> list[int | None]:
    return [piece.left for piece in topology(world.config, "a").pieces]


def test_each_extent_is_named_with_its_place(world: World) -> None:
    found = topology(world.config, "a")
    assert (found.inode, found.size_bytes) == (FILE, 500 * KIB)
    assert found.pieces == (
        Piece(0, 10 * KIB),
        Piece(10 * KIB, 40 * KIB, "ssd", SEGMENT, (0, 1), 1),
        Piece(50 * KIB, 4 * KIB, "smr", CODED, (0,), 1),
        Piece(54 * KIB, 8 * KIB, "smr", CODED, (0, 1), 1),
        Piece(62 * KIB, 4 * KIB, "smr", CODED, (1,), 1),
        Piece(66 * KIB, DATA, "old", COPIED, (0,), 1),
    )
    workspace, coded, copied = found.segments
    assert (workspace.pool, workspace.scheme, workspace.left) == ("ssd", "mirror of 2", 1)
    assert (coded.pool, coded.scheme) == ("smr", "erasure 2+1 (isa_l_rs_cauchy)")
    assert copied.scheme == "mirror of 2"
    assert [Path(part.drive).name for part in workspace.parts] == ["ssd1", "ssd2"]
    assert [(Path(p.drive).name, p.data, p.missing) for p in coded.parts] == [
        ("smr1", True, None),
        ("smr2", True, None),
        ("smr3", False, None),
    ]


@pytest.mark.parametrize("what", ["a", "/a", "./a", str(FILE)])
def test_a_file_has_several_names(world: World, what: str) -> None:
    assert topology(world.config, what).inode == FILE


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("b", "knows no such path"),
        ("77777", "knows no inode 77777"),
        ("9" * 40, "knows no inode 9999"),
        ("/", "not a regular file"),
        ("a/b", "knows no such path"),
    ],
)
def test_what_is_not_there_is_said(world: World, what: str, problem: str) -> None:
    with pytest.raises(SetupError, match=problem):
        topology(world.config, what)


def test_a_file_without_bytes_lies_nowhere(world: World) -> None:
    assert topology(world.config, str(EMPTY)).pieces == ()


def test_a_lost_parity_fragment_leaves_no_redundancy(world: World) -> None:
    world.discard("smr3", CODED, 2)
    assert lefts(world) == [None, 1, 0, 0, 0, 1]


def test_beyond_redundancy_what_lies_on_lost_drives_is_lost(world: World) -> None:
    world.discard("smr3", CODED, 2)
    world.discard("smr1", CODED, 0)
    assert lefts(world) == [None, 1, -1, -1, 0, 1]


def test_a_lost_drive_is_named_by_its_id(world: World) -> None:
    drive = next(p.drive for p in topology(world.config, "a").segments[1].parts)
    shutil.rmtree(drive)
    coded = topology(world.config, "a").segments[1]
    assert coded.left == 0
    assert coded.parts[0].missing == "its drive is missing"
    assert len(bytes.fromhex(coded.parts[0].drive)) == 16


def test_a_workspace_segment_that_is_nowhere_is_lost(world: World) -> None:
    for name in ("ssd1", "ssd2"):
        (world.drives[name] / segment_name(Stream.DATA, SEGMENT)).unlink()
    assert lefts(world) == [None, -1, 1, 1, 1, 1]


# -- the overview


def test_files_and_bytes_are_counted_by_pool(world: World) -> None:
    found = overview(world.config)
    assert found.files == 2
    ssd, smr, old = found.pools
    assert [(pool.name, pool.priority) for pool in found.pools] == [
        ("ssd", 0),
        ("smr", 1),
        ("old", 2),
    ]
    assert (ssd.files, ssd.live_bytes) == (1, 40 * KIB)
    assert (smr.files, smr.live_bytes, smr.dead_bytes) == (2, 20 * KIB, 2 * DATA - 20 * KIB)
    assert (old.files, old.live_bytes, old.dead_bytes) == (1, DATA, 0)
    assert smr.segments_by_liveness == (0, 1, 0, 0, 0)
    assert old.segments_by_liveness == (0, 0, 0, 0, 1)


def test_bytes_are_counted_by_the_redundancy_they_have_left(world: World) -> None:
    world.discard("smr3", CODED, 2)
    world.discard("smr1", CODED, 0)
    world.discard("old1", COPIED, 0)
    assert overview(world.config).redundancy == (
        RedundancyView("old", 0, DATA),
        RedundancyView("smr", -1, 12 * KIB),
        RedundancyView("smr", 0, 8 * KIB),
        RedundancyView("ssd", 1, 40 * KIB),
    )


def test_drives_are_described(world: World) -> None:
    shutil.rmtree(world.drives["smr2"])
    ssd, smr, _ = overview(world.config).pools
    up, missing, _ = smr.drives
    assert (up.missing, missing.missing) == (None, "No such file or directory")
    assert (missing.drive, missing.total_bytes, missing.dead_bytes) == (None, 0, 0)
    assert up.used_bytes >= SIZE
    # Of the segment's 256 KiB 20 live, and as much of each of its fragments.
    assert up.dead_bytes == int(SIZE * (1 - 20 / 256))
    assert all(drive.total_bytes >= drive.free_bytes > 0 for drive in ssd.drives)


def test_what_is_wrong_with_a_drive_is_counted(world: World) -> None:
    world.discard("smr1", CODED, 0)
    path = world.drives["smr2"] / file_name(CODED, 1, 1)
    path.write_bytes(path.read_bytes()[:-1])
    catalog = Catalog(load(world.config).catalog)
    filesystem, place = catalog.filesystem(), catalog.place()
    assert filesystem is not None and place is not None
    drive = next(d for d in survey(load(world.config), filesystem).drives if "smr2" in d.path)
    assert drive.drive is not None
    catalog.apply([DamagedFragment(drive.drive, CODED, 1, 1).row(7)])
    catalog.checkpoint(filesystem, place, COPIED + 1)
    catalog.close()
    smr = overview(world.config).pools[1]
    assert [(d.damaged_units, d.bad_fragments) for d in smr.drives] == [(0, 1), (7, 1), (0, 0)]
    assert [d.errors for d in smr.drives] == [1, 8, 0]
    part = topology(world.config, "a").segments[1].parts[1]
    assert part.missing == f"has {SIZE - 1} bytes and should have {SIZE}"


def rules(world: World, pool: str, *lines: str) -> None:
    """These are the rules of the pool, which is written on one line or several."""
    text = world.config.read_text()
    if pool == "ssd":
        given = ", ".join(lines)
        text = text.replace("drives: [ssd1, ssd2]", f"drives: [ssd1, ssd2], rules: [{given}]")
    else:
        given = "".join(f"      - {line}\n" for line in lines)
        text = text.replace("[smr1, smr2, smr3]\n", f"[smr1, smr2, smr3]\n    rules:\n{given}")
    world.config.write_text(text)


def test_the_next_shift_is_what_the_rules_say_of_the_last_checkpoint(world: World) -> None:
    rules(world, "ssd", "{older_than: 1s, to: smr}")
    rules(world, "smr", '{path: "a", to: old}', "{smaller_than: 400KiB, to: ssd}")
    assert overview(world.config).next_shift.moves == (
        MoveView("ssd", "smr", 1, 40 * KIB),
        MoveView("smr", "ssd", 1, 4 * KIB),
        MoveView("smr", "old", 1, 16 * KIB),
    )
    # One fragment of the coded segment is 2 % alive.
    assert overview(world.config).next_shift.cleanings == ()
    # A file that was just written is not yet old.
    assert overview(world.config, time_ns=lambda: 3).next_shift.moves[0].source == "smr"
    shutil.rmtree(world.drives["old1"])
    shutil.rmtree(world.drives["old2"])
    # Into a pool of which no drive is there nothing can go.
    assert {view.target for view in overview(world.config).next_shift.moves} == {"smr", "ssd"}


def test_a_drive_of_another_filesystem_is_none_of_ours(world: World, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    config = tmp_path / "stranger.yaml"
    config.write_text(
        "filesystem: other\npools:\n"
        "  - {name: smr, priority: 0, scheme: single, segment_size: 1MiB, drives: [stranger]}\n"
    )
    create_filesystem(load(config))
    shutil.rmtree(world.drives["smr3"])
    stranger.rename(world.drives["smr3"])
    drive = overview(world.config).pools[1].drives[2]
    assert drive.missing == "belongs to another filesystem, 'other'"


def test_the_journal_has_an_age(world: World) -> None:
    found: Overview = overview(world.config)
    assert found.mounts == ()
    assert found.snapshot == LogView(0, 0, None)
    assert found.journal.segments == 1
    assert found.journal.since_ns is not None
    assert found.checkpoint_ns - found.journal.since_ns < 120 * 10**9


def test_looking_changes_nothing_on_the_drives(world: World) -> None:
    def state() -> list[tuple[str, int, int]]:
        return [
            (str(path), path.stat().st_mtime_ns, path.stat().st_size)
            for drive in world.drives.values()
            for path in (drive, *sorted(drive.rglob("*")))
        ]

    before = state()
    overview(world.config)
    topology(world.config, "a")
    assert state() == before


def test_mounts_of_a_filesystem_are_found_by_its_name() -> None:
    text = (
        b"22 1 0:21 / /proc rw - proc proc rw\n"
        b"90 1 0:50 / /srv/a\\040b rw - fuse.shmr media rw\n"
        b"91 1 0:51 / /srv/c rw shared:1 - fuse.shmr other rw\n"
        b"92 1 0:52 / /srv/d rw - ext4 media rw\n"
    )
    assert parse_mounts(text, "media") == ("/srv/a b",)
