"""`shmr-compact` on directories: what it moves by rules, what it says, how it ends."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from shmr.cli.compact import build_parser, main
from shmr.config import load
from shmr.errors import SetupError, Unfinished
from shmr.format.fragment import file_name
from shmr.format.rows import ROOT
from shmr.service import compact
from shmr.service.assemble import create_filesystem, open_drives, open_filesystem
from shmr.service.moving.compact import Compaction, Route
from shmr.testing.trial import scratch
from shmr.units import MIB
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller
from shmr.volume.volume import Volume

ME = Caller(0, 0)
CONFIG = """\
filesystem: tests
same_device: true
status_file: {base}/status
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 1MiB
    drives: [{{path: {base}/w, size: 64MiB}}]
    rules:
      - {{keep: work, path: ["keep/**"]}}
      - {{to: cold, older_than: 1d}}
  - name: cold
    priority: 1
    scheme: {{mirror: 2}}
    zone_size: 2MiB
    drives: [{{path: {base}/c1}}, {{path: {base}/c2}}]
"""


@pytest.fixture
def config() -> Iterator[Path]:
    """A filesystem of three old files, one of them to be kept, and a new one."""
    with scratch() as base:
        yield filled(base, CONFIG)


def filled(base: Path, text: str) -> Path:
    """The configuration of such a filesystem, which is made."""
    path = base / "config.yaml"
    path.write_text(text.format(base=base))
    for name in ("w", "c1", "c2", "c3"):
        (base / name).mkdir()
    settings = load(path)
    create_filesystem(settings)
    drives = open_drives(settings, degraded=False)
    volume = open_filesystem(settings, drives, read_only=False, degraded=False)
    directory = volume.names.create(ROOT, b"keep", 0o040755, ME).number
    rng = random.Random(1)
    for parent, name, old in (
        (ROOT, b"old1", True),
        (ROOT, b"old2", True),
        (directory, b"old3", True),
        (ROOT, b"new", False),
    ):
        number = volume.names.create(parent, name, 0o100644, ME).number
        volume.data.write(number, 0, rng.randbytes(300_000))
        if old:
            volume.attributes.set(number, AttributeChange(mtime_ns=10**18))
    volume.close()
    drives.close()
    return path


def test_what_the_rules_call_cold_moves(config: Path) -> None:
    planned = compact(config, flush=True, dry_run=True)
    [forecast] = planned.forecasts
    assert (forecast.target, forecast.files, forecast.file_bytes) == ("cold", 2, 600_000)
    assert forecast.redundancy == 1 and forecast.written_bytes > 1_200_000
    done = compact(config, flush=True)
    assert (done.moved_bytes, done.segments, done.unreadable) == (600_000, 1, {})
    assert compact(config, flush=True).moved_bytes == 0


def test_too_little_for_a_segment_waits(config: Path) -> None:
    done = compact(config)
    assert (done.moved_bytes, done.waiting_bytes) == (0, 600_000)


def test_a_dry_run_changes_nothing(config: Path) -> None:
    base = config.parent
    before = {path: path.stat().st_mtime_ns for path in base.glob("*/*-0*")}
    compact(config, everything=True, flush=True, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in base.glob("*/*-0*")} == before


def test_progress_goes_to_all_of_the_bytes_and_the_status_file_tells_the_end(config: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    compact(config, everything=True, flush=True, watcher=lambda *told: seen.append(told))
    assert seen[-1][1:] == (1_200_000, 1_200_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert "not mounted" in (config.parent / "status").read_text()


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"target": "nowhere", "everything": True}, "no pool 'nowhere'"),
        ({"source": "cold", "everything": True}, "no pool comes after 'cold'"),
        ({"source": "work", "target": "work", "everything": True}, "nothing would move"),
        ({"paths": ("old9",)}, "old9: not found"),
        ({"inodes": (4711,)}, "inode 4711: there is no such regular file"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_with_the_reason(
    config: Path, wish: dict[str, object], said: str
) -> None:
    with pytest.raises(SetupError, match=said):
        compact(config, **wish)  # type: ignore[arg-type]


def test_a_pool_without_enough_drives_is_an_error_that_names_it(config: Path) -> None:
    (config.parent / "c2").rename(config.parent / "away")
    with pytest.raises(Unfinished, match=r"pool 'cold': 2 different drives are needed") as found:
        compact(config, flush=True)
    assert cast(Compaction, found.value.done).routes == (Route(("work",), "cold", 0),)
    (config.parent / "away").rename(config.parent / "c2")
    assert compact(config, flush=True).moved_bytes == 600_000


def test_a_drive_that_fails_is_done_without_and_the_command_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with scratch() as base:
        third = "{{path: {base}/c2}}, {{path: {base}/c3}}"
        config = filled(base, CONFIG.replace("{{path: {base}/c2}}", third))
        [planned] = compact(config, everything=True, flush=True, dry_run=True).forecasts
        chosen = max(planned.drives, key=lambda drive: drive.write_bytes).label
        for number in range(100):
            for index in range(2):
                # In the way of whatever the drive would take.
                (Path(chosen) / file_name(number, index, 1)).mkdir()
        assert main([str(config), "--all", "--flush", "--to", "cold"]) == 1
        said = capsys.readouterr().out
        assert "moved 1.1 MiB" in said
        assert f"drive {chosen}: claim failed: File exists: others took its part" in said
        assert said.count("others took its part") == 1
        assert compact(config, everything=True, flush=True).moved_bytes == 0


def test_nothing_is_made_where_there_is_no_filesystem() -> None:
    with scratch() as base:
        path = base / "config.yaml"
        path.write_text(CONFIG.format(base=base))
        for name in ("w", "c1", "c2"):
            (base / name).mkdir()
        with pytest.raises(SetupError, match="no filesystem yet"):
            compact(path)
        assert not list(base.glob("*/superblock-*"))


def test_the_command_reports_and_ends_with_its_codes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config), "--flush", "--dry-run"]) == 0
    assert "to cold: 585.9 KiB of 2 files, in 1 segments" in capsys.readouterr().out
    assert main([str(config), "--flush"]) == 0
    assert "moved 585.9 KiB from work to cold\n1 segment written" in capsys.readouterr().out
    assert main([str(config), "--from", "work"]) == 0
    assert "nothing was moved: the rules call nothing cold" in capsys.readouterr().out
    assert main([str(config), "--all", "--from", "cold", "--to", "work", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["moved_bytes"] == 600_000
    assert main([str(config), "--path", "old9"]) == 1
    assert "shmr-compact: old9: not found" in capsys.readouterr().err
    assert main([str(config), "--path", ""]) == 1
    said = capsys.readouterr()
    assert "an empty path" in said.err and not said.out


def test_a_wrong_command_line_ends_with_2() -> None:
    for words in ([], ["c", "--limit-rate", "0"], ["c", "--limit-rate", "much"], ["c", "--x"]):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args(words)
        assert end.value.code == 2


def test_dead_bytes_make_room_in_a_full_pool(config: Path) -> None:
    """Every segment is a fifth dead: less than `clean_at`, but zones have run out."""
    base = config.parent
    text = config.read_text().replace("/c1}", "/c1, size: 24MiB}")
    config.write_text(text.replace("/c2}", "/c2, size: 24MiB}"))
    settings = load(config)

    def change(work: Callable[[Volume], None]) -> None:
        drives = open_drives(settings, degraded=False)
        volume = open_filesystem(settings, drives, read_only=False, degraded=False)
        work(volume)
        volume.close()
        drives.close()

    def fill(volume: Volume) -> None:
        rng = random.Random(2)
        for index in range(90):
            number = volume.names.create(ROOT, b"fill%d" % index, 0o100644, ME).number
            volume.data.write(number, 0, rng.randbytes(190_000))

    def delete(volume: Volume) -> None:
        for index in range(0, 90, 5):
            number = volume.names.lookup(ROOT, b"fill%d" % index).number
            volume.names.unlink(ROOT, b"fill%d" % index)
            volume.handles.forgotten(number)

    change(fill)
    with pytest.raises(Unfinished, match="pool 'cold': 2 different drives are needed, 0"):
        compact(config, everything=True, flush=True)
    before = len(list(base.glob("c1/fragment-*")))
    change(delete)
    done = compact(config, everything=True, flush=True)
    assert done.retired > 0 and done.waiting_bytes == 0
    assert len(list(base.glob("c1/fragment-*"))) <= before + 1
    # The last of what was moved and the last of what was cleaned are short: one zone for both.
    segments = len(list(base.glob("c1/fragment-*")))
    assert compact(config, everything=True, flush=True).retired == 2
    assert len(list(base.glob("c1/fragment-*"))) == segments - 1
    planned = compact(config, everything=True, flush=True, dry_run=True)
    assert [forecast.file_bytes for forecast in planned.forecasts] == [0]


SMALL = """\
filesystem: small
same_device: true
pools:
  - {{name: work, priority: 0, scheme: single, drives: [{{path: {base}/w, size: 200MiB}}]}}
  - name: cold
    priority: 1
    scheme: {{erasure: {{k: 2, m: 1}}}}
    zone_size: 2MiB
    drives:
      - {{path: {base}/c1, size: 20MiB}}
      - {{path: {base}/c2, size: 20MiB}}
      - {{path: {base}/c3, size: 20MiB}}
      - {{path: {base}/c4, size: 20MiB}}
"""


@pytest.mark.parametrize("seed", [1, 8])
def test_a_compaction_of_a_pool_that_is_nearly_full_ends(seed: int) -> None:
    """Seed 1: the same short segments were once written anew for ever, for no zone was won."""
    rng = random.Random(seed)
    with scratch() as base:
        path = base / "config.yaml"
        path.write_text(SMALL.format(base=base))
        for name in ("w", "c1", "c2", "c3", "c4"):
            (base / name).mkdir()
        settings = load(path)
        create_filesystem(settings)
        files: dict[bytes, int] = {}
        full = 0
        for turn in range(7):
            drives = open_drives(settings, degraded=False)
            volume = open_filesystem(settings, drives, read_only=False, degraded=False)
            share = rng.choice([0.05, 0.3, 0.6])
            for name in [name for name in files if rng.random() < share]:
                number = volume.names.lookup(ROOT, name).number
                volume.names.unlink(ROOT, name)
                volume.handles.forgotten(number)
                del files[name]
            wanted = 30 * MIB if turn == 1 else rng.choice([3, 10, 30]) * MIB
            while wanted > 0 and sum(files.values()) < 90 * MIB:
                size = 1 + int(rng.choice([5_000, 50_000, 400_000, 1_500_000]) * rng.random())
                name = b"%d-%d" % (turn, len(files))
                number = volume.names.create(ROOT, name, 0o100644, ME).number
                volume.data.write(number, 0, rng.randbytes(size))
                files[name] = size
                wanted -= size
            volume.close()
            drives.close()
            full += _is_full(path, flush=rng.random() < 0.7)
        assert full, "the pool was never full: nothing was tried"


def _is_full(config: Path, *, flush: bool) -> bool:
    """Compact everything; False if all found place. It must not write on and on."""

    def bound(what: str, done: int, total: int) -> None:
        assert done <= total + 100 * MIB, "more was moved than the pool can hold"

    try:
        compact(config, everything=True, flush=flush, watcher=bound)
    except Unfinished as error:
        assert "different drives are needed" in str(error)
        return True
    return False


def test_what_is_interrupted_in_the_middle_is_as_if_it_was_killed(config: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compact(config, everything=True, flush=True, watcher=interrupt)
    done = compact(config, everything=True, flush=True)
    assert done.moved_bytes == 1_200_000
    assert done.strays == 2
