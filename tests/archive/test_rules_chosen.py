"""Rules as a user writes them from docs/configuration.md, and the files that a dry run then names.

The size of each file is a bit of its own, so the bytes of a forecast tell which files it is about.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.cli.compact import main
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.service import compact
from shmr.service.assemble import create_filesystem
from shmr.service.offline import unmounted
from shmr.testing.trial import scratch
from shmr.units import KIB, NS_PER_S
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

CONFIG = """\
filesystem: tests
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 1MiB
    drives: [{{path: {base}/w, size: 64MiB}}]
    {work}
  - name: cold
    priority: 1
    scheme: single
    zone_size: 2MiB
    drives: [{{path: {base}/c, size: 64MiB}}]
    {cold}
  - name: tape
    priority: 2
    scheme: single
    zone_size: 2MiB
    drives: [{{path: {base}/t, size: 64MiB}}]
"""
ME = Caller(0, 0)
HOUR_S = 3600
DAY_S = 24 * HOUR_S
FILES = {
    # name: (path, seconds since it was written, since it was read)
    "rome": ("photos/2019/rome.raw", 400 * DAY_S, 400 * DAY_S),
    "paris": ("photos/2024/paris.raw", 20 * DAY_S, DAY_S),
    "code": ("projects/shmr/code.py", 100 * DAY_S, 2 * DAY_S),
    "debian": ("iso/debian.iso", 60 * DAY_S, 50 * DAY_S),
    "top": ("top.iso", 3 * DAY_S, 3 * DAY_S),
    "notes": ("notes.txt", 2 * HOUR_S, HOUR_S),
    "film": ("videos/film.mkv", 35 * DAY_S, 34 * DAY_S),
    "tar": ("old/archive.tar", 500 * DAY_S, 10 * DAY_S),
}
"""`film` has a second name, best/film.mkv; `tar` lies in the pool cold."""
SIZES = {name: 8 * KIB << bit for bit, name in enumerate(FILES)}


def named(file_bytes: int) -> set[str]:
    found = {name for name, size in SIZES.items() if file_bytes & size}
    assert sum(SIZES[name] for name in found) == file_bytes
    return found


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    with scratch() as place:
        for name in ("w", "c", "t"):
            (place / name).mkdir()
        path = written(place, "rules: []", "")
        config = load(path)
        create_filesystem(config)
        with unmounted(config, read_only=False) as (volume, _):
            now_ns = time.time_ns()
            for name, (where, age_s, read_s) in FILES.items():
                parent = ROOT
                *above, last = where.encode().split(b"/")
                for part in above:
                    known = {
                        bytes(n): inode.number for n, inode, _ in volume.names.entries(parent, 0)
                    }
                    if part not in known:
                        known[part] = volume.names.create(parent, part, 0o040755, ME).number
                    parent = known[part]
                number = volume.names.create(parent, last, 0o100644, ME).number
                volume.data.write(number, 0, bytes(SIZES[name]))
                change = AttributeChange(
                    mtime_ns=now_ns - age_s * NS_PER_S, atime_ns=now_ns - read_s * NS_PER_S
                )
                volume.attributes.set(number, change)
                if name == "film":
                    best = volume.names.create(ROOT, b"best", 0o040755, ME).number
                    volume.names.link(number, best, last)
        compact(path, paths=["old/archive.tar"], target="cold")
        yield place


def written(base: Path, work: str, cold: str) -> Path:
    path = base / "config.yaml"
    path.write_text(CONFIG.format(base=base, work=work, cold=cold))
    return path


@pytest.mark.parametrize(
    ("work", "cold", "expected"),
    [
        ("", "", {}),  # the default: more than half is free
        ("rules: []", "", {}),
        ("rules: [{to: cold, older_than: 30d}]", "", {"cold": "rome code debian film"}),
        (
            "rules: [{to: cold, older_than: 1h}]",
            "",
            {"cold": "rome paris code debian top notes film"},
        ),
        (
            'rules: [{keep: work, path: "projects/**"}, {to: cold, older_than: 30d}]',
            "",
            {"cold": "rome debian film"},
        ),
        (
            'rules: [{to: cold, older_than: 30d}, {keep: work, path: "projects/**"}]',
            "",
            {"cold": "rome code debian film"},  # the first that matches decides
        ),
        ('rules: [{to: cold, path: "*.iso"}]', "", {"cold": "top"}),
        ('rules: [{to: cold, path: "**/*.iso"}]', "", {"cold": "debian top"}),
        ('rules: [{to: cold, path: "/photos/20[12]?/*.raw"}]', "", {"cold": "rome paris"}),
        ('rules: [{to: cold, path: "PHOTOS/**"}]', "", {}),
        ('rules: [{to: cold, path: ["best/**", notes.txt]}]', "", {"cold": "notes film"}),
        ("rules: [{to: cold, not_read_for: 30d}]", "", {"cold": "rome debian film"}),
        ("rules: [{to: cold, not_read_for: 3w, older_than: 50d}]", "", {"cold": "rome debian"}),
        ("rules: [{to: cold, larger_than: 64KiB}]", "", {"cold": "top notes film"}),
        ("rules: [{to: cold, smaller_than: 16KiB}]", "", {"cold": "rome"}),
        (
            "rules: [{to: cold, larger_than: 16KiB, smaller_than: 65537}]",
            "",
            {"cold": "code debian"},
        ),
        (
            "rules: [{to: tape, larger_than: 256KiB}, {to: cold, older_than: 365d}]",
            "",
            {"tape": "film", "cold": "rome"},
        ),
        ("rules: [{to: cold, min_free: 1%}]", "", {}),
        (
            "rules: [{to: cold, min_free: 1%, older_than: 1d}, {to: tape, older_than: 90d}]",
            "",
            {"tape": "rome code"},
        ),
        ("rules: []", "rules: [{to: work, not_read_for: 9d}]", {"work": "tar"}),
        ("rules: []", "rules: [{to: tape, older_than: 365d}]", {"tape": "tar"}),
        (
            "rules: [{to: cold, older_than: 365d}]",
            "rules: [{to: tape, older_than: 365d}]",
            {"cold": "rome", "tape": "tar"},  # what arrives in a pool is not moved on at once
        ),
    ],
)
def test_a_dry_run_names_just_the_files_that_the_rules_mean(
    base: Path,
    work: str,
    cold: str,
    expected: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = written(base, work, cold)
    assert main([str(path), "--dry-run", "--flush", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {one["target"]: named(one["file_bytes"]) for one in told["forecasts"]}
    assert found == {pool: set(names.split()) for pool, names in expected.items()}
    assert all(
        one["files"] == len(found[one["target"]]) and one["shortage"] is None
        for one in told["forecasts"]
    )


def test_a_rule_with_min_free_moves_the_oldest_until_so_much_is_free(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is free to begin with, just above it: each file that goes is one less to go."""
    written(base, "rules: []", "")
    now = next(s for s in compact(base / "config.yaml", dry_run=True).space if s.pool == "work")
    oldest = sorted((name for name in FILES if name != "tar"), key=lambda n: -FILES[n][1])
    for percent in (f"{now.free_bytes / (64 * 2**20) * 100 + 0.2:.3f}%", "99.9%"):
        path = written(base, f"rules: [{{to: cold, min_free: {percent}}}]", "")
        assert main([str(path), "--dry-run", "--flush", "--json"]) == 0
        [told] = json.loads(capsys.readouterr().out)["forecasts"]
        found = named(told["file_bytes"])
        assert found == set(oldest[: len(found)])
        assert len(found) == len(oldest) or not percent.startswith("99.9")


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("rules: [{to: cold, older_than: 1month}]", "pools[0].rules[0].older_than"),
        ("rules: [{to: cold}, {keep: work, older: 1d}]", "pools[0].rules[1].older"),
        ("rules: [{to: col}]", "pools[0].rules[0].to"),
        ("rules: [{keep: cold}]", "pools[0].rules[0].keep"),
        ('rules: [{to: cold, path: ["a/**", "b/**c"]}]', "pools[0].rules[0].path[1]"),
        ("rules: [{to: cold, min_free: 20}]", "pools[0].rules[0].min_free"),
    ],
)
def test_a_mistake_in_a_rule_is_named_with_its_place(
    base: Path, work: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(written(base, work, "")), "--dry-run"]) == 1
    assert f"{said}:" in capsys.readouterr().err
