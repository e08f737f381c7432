"""`shmr-fsck check`, whole: the catalog's file, the log, a mounted filesystem. Nothing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.catalog import store
from shmr.cli.fsck.main import main
from shmr.format.frame import Kind as FrameKind
from shmr.format.rows import Row, Table
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Exit, Kind, Report
from shmr.log import walk
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from tests.fsck.flipping import contents_of, files_in
from tests.fsck.rows import rows_of
from tests.fsck.stage import StagedDrive, staged
from tests.fsck.subject import ME, Subject, build, copy_of, limits, open_on


@pytest.fixture(scope="module", params=[(1, True), (2, False)], ids=["single", "mirror, crashed"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    copies, clean = request.param
    with limits(), scratch() as place:
        yield build(place, copies=copies, clean=clean)


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory:
        yield directory


def kinds(report: Report) -> set[str]:
    return set(report.counts)


def test_what_is_sound_has_nothing_wrong_and_is_not_touched(subject: Subject, place: Path) -> None:
    with copy_of(subject, place) as (world, catalog):
        before = contents_of(world), files_in(catalog), world.operations
        with staged(world, place, subject.copies) as config:
            report = check(config)
        assert report.is_clean and report.exit_code is Exit.CLEAN
        assert (contents_of(world), files_in(catalog), world.operations) == before
        told = "the last end was no clean one" in " ".join(report.notes)
        assert told == (not subject.clean)


@pytest.mark.parametrize("how", ["gone", "cut", "bent", "empty", "another's"])
def test_a_catalog_that_is_of_no_use_is_a_finding(subject: Subject, place: Path, how: str) -> None:
    with copy_of(subject, place) as (world, catalog):
        data = catalog / store.DATA
        if how == "gone":
            lay_down(None, catalog)
        elif how == "cut":
            data.write_bytes(data.read_bytes()[:20_000])
        elif how == "bent":
            data.write_bytes(data.read_bytes().replace(b"next_inode", b"next_inodf"))
        elif how == "empty":
            data.write_bytes(b"")
        else:
            with rows_of(catalog) as rows:
                value = rows.get(Table.PLACE, b"filesystem")
                rows.put(Row(Table.PLACE, b"filesystem", value[:-1] + b"?"))
        before = contents_of(world)
        with staged(world, place, subject.copies) as config:
            report = check(config)
        assert kinds(report) == {Kind.CATALOG_DOUBTFUL}, report.findings
        assert report.exit_code is Exit.LEFT
        assert contents_of(world) == before


def test_a_catalog_older_than_the_log_is_a_finding(subject: Subject, place: Path) -> None:
    with copy_of(subject, place) as (world, catalog):
        old = files_of(catalog)
        volume = open_on(world, catalog, subject.copies, subject.clock)
        for _ in range(2):
            volume.names.create(1, b"new%d" % volume.log.place.sequence, 0o100644, ME)
            run_inline(volume.snapshots.make())
        volume.close()
        lay_down(old, catalog)
        with staged(world, place, subject.copies) as config:
            report = check(config)
        assert kinds(report) == {Kind.CATALOG_DOUBTFUL}
        assert "older than the log" in report.findings[0].message


def test_durable_frames_that_are_missing_are_a_loss(subject: Subject, place: Path) -> None:
    """Of a journal on all its copies, where no catalog knows what was there."""
    with copy_of(subject, place) as (world, catalog):
        lay_down(None, catalog)
        volume = open_on(world, catalog, subject.copies, subject.clock)
        for number in range(3):
            volume.names.create(1, b"late%d" % number, 0o100644, ME)
            volume.commits.now()
        segment = volume.log.place.segment
        name = volume.context.reader.store.segments[segment].name
        files = volume.context.reader.store.copies_of(segment)
        opened = walk.opening_of(files, volume.context.reader.store.filesystem, segment)
        assert opened is not None
        first = opened[0]
        frames = list(walk.walk(files, first.end, first.header.checksum, first.header))
        victim = next(frame for frame in frames if frame.header.kind == FrameKind.META)
        volume.abandon()
        for drive in world.drives[: subject.copies]:
            drive.flip_bit(name, victim.at + 20, 3)
        lay_down(None, catalog)
        with staged(world, place, subject.copies) as config:
            report = check(config)
        assert Kind.LOG_CORRUPT in report.counts
        assert any(f.is_loss for f in report.findings if f.kind is Kind.LOG_CORRUPT)


def test_a_mounted_filesystem_is_looked_at_as_of_its_last_checkpoint(
    subject: Subject, place: Path
) -> None:
    with copy_of(subject, place) as (world, catalog):
        volume = open_on(world, catalog, subject.copies, subject.clock)
        # One process cannot have a catalog open twice: this is what another would see.
        seen = files_of(catalog)
        world = world.kill()
        volume.abandon()
        lay_down(seen, catalog)
        before = contents_of(world)
        with staged(world, place, subject.copies) as config:
            StagedDrive.held.update(place / drive.label for drive in world.drives)
            report = check(config)
        assert report.mounted and report.as_of_ns is not None
        assert report.is_clean, report.findings
        assert contents_of(world) == before


def test_it_stops_when_it_is_asked_to(subject: Subject, place: Path) -> None:
    with (
        copy_of(subject, place) as (world, _),
        staged(world, place, subject.copies) as config,
    ):
        report = check(config, stop=lambda: True)
    assert report.stopped and report.exit_code is Exit.INTERRUPTED


def test_progress_ends_at_all_of_it(subject: Subject, place: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    with (
        copy_of(subject, place) as (world, _),
        staged(world, place, subject.copies) as config,
    ):
        check(config, watcher=lambda *one: seen.append(one))
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert 0.95 * seen[-1][2] <= seen[-1][1] <= seen[-1][2]


def test_the_command_tells_and_ends_with_the_code(
    subject: Subject, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        assert main(["check", str(config)]) == 0
        assert "nothing is wrong" in capsys.readouterr().out
        lay_down(None, catalog)
        assert main(["check", str(config), "--json"]) == 4
        told = json.loads(capsys.readouterr().out)
        assert told["counts"] == {"catalog-doubtful": 1}
        assert told["exit_code"] == 4 and told["job"] == "check"
        assert main(["check", str(place / "none.yaml")]) == 8
        assert "none.yaml" in capsys.readouterr().err
