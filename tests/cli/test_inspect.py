"""`shmr inspect`: what the tables say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shmr.cli.inspect import show_overview, show_topology
from shmr.cli.main import main
from shmr.cli.show import age, table
from shmr.service.looking.next_shift import CleaningView, MoveView, NextShift
from shmr.service.looking.overview import DriveView, LogView, Overview, PoolView, RedundancyView
from shmr.service.looking.topology import Piece, SegmentView, Topology
from shmr.service.looking.whereabouts import Part
from shmr.units import GIB, KIB, NS_PER_S

NOW_NS = 1_800_000_000 * NS_PER_S

TOPOLOGY = Topology(
    "media",
    17,
    20 * KIB,
    NOW_NS - 3 * NS_PER_S,
    (
        Piece(0, 4096, "ssd", 5, (0,), 0),
        Piece(4096, 4096, "ssd", 5, (0,), 0),
        Piece(8192, 4096),
        Piece(12288, 4096, "smr", 9, (0, 1), 1),
        Piece(16384, 4096, "smr", 10, (0,), -1),
    ),
    (
        SegmentView(5, "ssd", "single", 0, (Part(0, "/mnt/a", True, None, None),)),
        SegmentView(
            9,
            "smr",
            "erasure 2+1 (isa_l_rs_cauchy)",
            1,
            (
                Part(0, "/mnt/b", True, 1, None),
                Part(1, "/mnt/c", True, 2, None),
                Part(2, "/mnt/d", False, 1, None),
            ),
        ),
        SegmentView(10, "smr", "single", -1, (Part(0, "0" * 32, True, 1, "its drive is missing"),)),
    ),
)
OVERVIEW = Overview(
    "media",
    ("/srv/media",),
    NOW_NS - 5 * NS_PER_S,
    3,
    (
        PoolView(
            "ssd",
            0,
            "single",
            (
                DriveView(
                    "/mnt/a", "0a" * 16, None, 10 * GIB, 4 * GIB, 6 * GIB, GIB, "normal", 3, 2
                ),
                DriveView("/mnt/b", None, "nothing is mounted there", 0, 0, 0, 0),
            ),
            3,
            5 * GIB,
            GIB,
            (0, 1, 2, 3, 40),
        ),
    ),
    (RedundancyView("ssd", -1, 4 * KIB), RedundancyView("ssd", 0, 5 * GIB)),
    LogView(4, GIB, NOW_NS - 3 * 3600 * NS_PER_S),
    LogView(0, 0, None),
    NextShift(
        (MoveView("ssd", "smr", 1, 4 * KIB), MoveView("smr", "ssd", 12, GIB)),
        (CleaningView("smr", 2, 9 * KIB),),
    ),
)


class Service:
    """What `inspect` asks of the library."""

    def topology(self, config_path: Path, what: str) -> Topology:
        assert (config_path, what) == (Path("media.yaml"), "photos/a")
        return TOPOLOGY

    def overview(self, config_path: Path) -> Overview:
        assert config_path == Path("media.yaml")
        return OVERVIEW


def run(line: str) -> int:
    service: Any = Service()
    return main(line.split(), load=lambda: service)


def test_a_topology_is_shown() -> None:
    assert show_topology(TOPOLOGY, NOW_NS) == (
        "inode 17 of media: 20.0 KiB, as of 3 s ago\n"
        "\n"
        "OFFSET  BYTES  EXTENTS  POOL  SEGMENT  LEFT  DRIVES\n"
        "     0   8192        2  ssd         5     0  /mnt/a\n"
        "  8192   4096        1  hole        -     -  -\n"
        " 12288   4096        1  smr         9     1  /mnt/b /mnt/c\n"
        f" 16384   4096        1  smr        10  lost  {'0' * 32}\n"
        "\n"
        "SEGMENT  SCHEME                         LEFT  PART  HOLDS"
        "   DRIVE                             STATE\n"
        "      5  single                            0     0  data"
        "    /mnt/a                            present\n"
        "      9  erasure 2+1 (isa_l_rs_cauchy)     1     0  data"
        "    /mnt/b                            present\n"
        "      9  erasure 2+1 (isa_l_rs_cauchy)     1     1  data"
        "    /mnt/c                            present\n"
        "      9  erasure 2+1 (isa_l_rs_cauchy)     1     2  parity"
        "  /mnt/d                            present\n"
        "     10  single                         lost     0  data"
        f"    {'0' * 32}  its drive is missing"
    )


def test_a_file_without_bytes_has_no_table() -> None:
    empty = Topology("media", 17, 0, NOW_NS, (), ())
    shown = show_topology(empty, NOW_NS)
    assert shown == "inode 17 of media: 0 B, as of 0 s ago\nno bytes are stored"


def test_an_overview_is_shown() -> None:
    assert show_overview(OVERVIEW, NOW_NS) == (
        "filesystem media, mounted at /srv/media, as of 5 s ago: 3 files with data\n"
        "\n"
        "journal   1.0 GiB in 4 segments, begun 3 h ago\n"
        "snapshot  none\n"
        "\n"
        "POOL  SCHEME  FILES  LIVE BYTES  DEAD BYTES\n"
        "ssd   single      3     5.0 GiB     1.0 GiB\n"
        "\n"
        "SEGMENTS THAT LIVE  DEAD  ..25%  ..50%  ..75%  ..100%\n"
        "ssd                    0      1      2      3      40\n"
        "\n"
        "BYTES OF POOL  DRIVES MAY BE LOST  LIVE BYTES\n"
        "ssd                       is lost     4.0 KiB\n"
        "ssd                             0     5.0 GiB\n"
        "\n"
        "DRIVE   POOL      SIZE     USED     FREE     DEAD  ERRORS  STATE\n"
        "/mnt/a  ssd   10.0 GiB  6.0 GiB  4.0 GiB  1.0 GiB       5  up\n"
        "/mnt/b  ssd          -        -        -        -       -  nothing is mounted there\n"
        "\n"
        "the next shift by the rules: 1 file, 4.0 KiB, from ssd to smr; 12 files, 1.0 GiB, "
        "from smr to ssd; 2 segments of smr cleaned, 9.0 KiB written anew"
    )
    idle = show_overview(replace(OVERVIEW, next_shift=NextShift()), NOW_NS)
    assert idle.endswith("\n\nthe next shift by the rules: no file is to move")


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect topology --json media.yaml photos/a") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["inode"], len(found["pieces"])) == (17, 5)
    assert found["segments"][1]["parts"][1]["generation"] == 2
    assert run("inspect overview media.yaml --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pools"][0]["segments_by_liveness"] == [0, 1, 2, 3, 40]
    assert found["redundancy"][0] == {"pool": "ssd", "left": -1, "live_bytes": 4096}


@pytest.mark.parametrize("view", ["topology media.yaml photos/a", "overview media.yaml"])
def test_tables_are_printed_without_json(capsys: pytest.CaptureFixture[str], view: str) -> None:
    assert run(f"inspect {view}") == 0
    assert "media" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("view", ["topology", "overview"])
def test_each_view_has_help_with_an_example(capsys: pytest.CaptureFixture[str], view: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(f"inspect {view} --help")
    assert caught.value.code == 0
    assert f"example:\n  shmr inspect {view} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "119 min"), (7200, "2 h"),
     (2 * 86_400 - 1, "47 h"), (2 * 86_400, "2 d")],
)  # fmt: skip
def test_ages_have_the_largest_unit_of_which_there_are_two(seconds: int, shown: str) -> None:
    assert age(seconds * NS_PER_S) == shown


def test_columns_are_aligned() -> None:
    assert (
        table(("A", ">B"), [("x", "1"), ("long", "1000")]) == "A        B\nx        1\nlong  1000"
    )
    assert table(("A", ">B"), []) == "A  B"
