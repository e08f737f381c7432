"""`shmr drive` and `shmr redundancy`: what they ask of the library, print and return."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from shmr.archive.exposure import AtRisk
from shmr.archive.forecast import DriveForecast
from shmr.cli.library import Service
from shmr.cli.main import main
from shmr.service.drives.list import DriveList, ListedDrive
from shmr.service.drives.rehousing import Rehoused
from shmr.units import GIB, MIB

CONFIG = Path("media.yaml")
LISTED = DriveList(
    "media",
    (
        ListedDrive("ssd", "/mnt/a", "0a" * 16, True, None, None, 0, GIB, GIB),
        ListedDrive("cold", "/mnt/b", "0b" * 16, True, "avoid", None, 12, 3 * GIB, GIB),
        ListedDrive("cold", None, "0c" * 16, True, "normal", "missing", 7, 0, 0),
    ),
)


class Recorder:
    """A service that remembers what it was asked, and answers the same to all."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **named: object) -> object:
            kept = {key: value for key, value in named.items() if key not in ("watcher", "stop")}
            self.calls.append((name, *arguments, *([kept] if kept else [])))
            return self.answer

        return call


def run(line: str, answer: object = None) -> tuple[int, list[tuple[Any, ...]]]:
    recorder = Recorder(answer)
    code = main(line.split(), load=lambda: cast(Service, recorder))
    return code, recorder.calls


DONE = Rehoused(3, 1000)
ASKED = {"dry_run": False, "limit_rate": None}


@pytest.mark.parametrize(
    ("line", "answer", "call"),
    [
        ("drive list media.yaml", LISTED, ("drive_list", CONFIG)),
        ("drive add media.yaml /mnt/d", ("x",), ("drive_add", CONFIG, Path("/mnt/d"))),
        (
            "drive add media.yaml /mnt/d /mnt/e",
            ("x", "y"),
            ("drive_add", CONFIG, Path("/mnt/d"), Path("/mnt/e")),
        ),
        ("drive remove media.yaml b", ("x",), ("drive_remove", CONFIG, "b", {"force": False})),
        (
            "drive forget media.yaml b --force",
            ("x",),
            ("drive_forget", CONFIG, "b", {"force": True}),
        ),
        ("drive state media.yaml b avoid", None, ("drive_state", CONFIG, "b", "avoid")),
        ("drive drain media.yaml b", DONE, ("drive_drain", CONFIG, "b", ASKED)),
        ("drive replace media.yaml b d", DONE, ("drive_replace", CONFIG, "b", Path("d"), ASKED)),
        ("drive rebalance media.yaml", DONE, ("drive_rebalance", CONFIG, None, ASKED)),
        (
            "drive rebalance media.yaml --pool cold",
            DONE,
            ("drive_rebalance", CONFIG, "cold", ASKED),
        ),
        ("redundancy media.yaml --pool cold --m 3", DONE, ("redundancy", CONFIG, "cold", 3, ASKED)),
        (
            "drive drain media.yaml b --dry-run --limit-rate 5MiB/s",
            DONE,
            ("drive_drain", CONFIG, "b", {"dry_run": True, "limit_rate": 5 * MIB}),
        ),
        (
            "redundancy media.yaml --pool cold --m 3 --limit-rate 1000",
            DONE,
            ("redundancy", CONFIG, "cold", 3, {"dry_run": False, "limit_rate": 1000}),
        ),
    ],
)
def test_a_command_asks_one_thing_of_the_library(
    line: str, answer: object, call: tuple[object, ...]
) -> None:
    code, calls = run(line, answer)
    assert code == 0 and calls == [call]


def test_the_list_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    run("drive list media.yaml", LISTED)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["POOL", "DRIVE", "ID", "STATE", "FRAGMENTS", "USED", "FREE"]
    assert lines[2].split()[:5] == ["cold", "/mnt/b", "0b0b0b0b", "avoid", "12"]
    assert lines[3].split() == ["cold", "-", "0c0c0c0c", "missing", "7", "-", "-"]


def test_reports_are_json_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    run("drive list media.yaml --json", LISTED)
    assert json.loads(capsys.readouterr().out)["drives"][1]["state"] == "avoid"
    run("drive drain media.yaml b --json", DONE)
    assert json.loads(capsys.readouterr().out)["moved"] == 3


def test_what_was_left_is_a_failure_that_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    done = Rehoused(1, 10, 0, 2, "no drive can", ("fragment 1 is lost: gone",), False, ("do so",))
    code, _ = run("drive drain media.yaml b", done)
    out = capsys.readouterr().out
    assert code == 1
    assert out.splitlines() == [
        "1 fragment written anew and verified",
        "2 are left to be done",
        "no place: no drive can",
        "fragment 1 is lost: gone",
        "do so",
    ]


def test_what_is_at_risk_and_what_failed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    risk = (AtRisk(0, 2, 12 * GIB), AtRisk(1, 9, 340 * GIB))
    done = Rehoused(11, 10, failed=("drive /mnt/e: claim failed",), risk=risk, risk_left=risk[1:])
    for more, now in ((done, "1 left: 340.0 GiB"), (replace(done, risk_left=()), "nothing")):
        assert run("drive drain media.yaml b", more)[0] == 0
        assert capsys.readouterr().out.splitlines()[1:] == [
            "a drive failed, and was given nothing more: drive /mnt/e: claim failed",
            "at risk, by drives that may still be lost: 0 left: 12.0 GiB, 1 left: 340.0 GiB; "
            f"now: {now}",
        ]


def test_a_run_that_was_stopped_says_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = run("drive drain media.yaml b", Rehoused(1, 10, 0, 2, stopped=True))
    assert code == 130 and "run it again" in capsys.readouterr().err


def test_a_dry_run_tells_what_each_drive_would_get(capsys: pytest.CaptureFixture[str]) -> None:
    drives = (DriveForecast("/mnt/c", 8 * MIB, 3), DriveForecast("/mnt/d", 0, 7))
    done = Rehoused(2, 8 * MIB, dry_run=True, seconds=1.4, drives=drives)
    code, _ = run("drive drain media.yaml b --dry-run", done)
    out, err = capsys.readouterr()
    assert code == 0 and not err
    assert [line.split() for line in out.splitlines()] == [
        "2 fragments would be written anew: 8.0 MiB, about 1 s".split(),
        ["DRIVE", "WRITTEN", "ZONES", "LEFT"],
        ["/mnt/c", "8.0", "MiB", "3"],
        ["/mnt/d", "0", "B", "7"],
    ]
    code, _ = run("drive drain media.yaml b --dry-run", replace(done, left=1, shortage="full"))
    assert code == 1 and "1 would be left" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["0", "fast", "-1MiB"])
def test_a_rate_that_is_none_is_a_wrong_command_line(rate: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(f"drive drain media.yaml b --limit-rate={rate}", DONE)


@pytest.mark.parametrize(
    "verb", ["list", "add", "remove", "forget", "drain", "replace", "rebalance", "state"]
)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["drive", verb, "--help"])
    assert f"example:\n  shmr drive {verb}" in capsys.readouterr().out
