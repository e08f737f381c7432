"""`shmr-fsck scrub`, whole: what is damaged is found, repaired, and whole the next time.

Interrupted anywhere, the next run goes on, and every file is read once in a round.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shmr.archive import leave
from shmr.cli.fsck.main import main
from shmr.cli.fsck.scrub import STRANGERS
from shmr.format.fragment import BLOCK
from shmr.fsck.findings import Exit, Kind
from shmr.fsck.scrubbing import note as notes
from shmr.fsck.scrubbing import rounds
from shmr.fsck.scrubbing.scrub import Scrubbed, scrub
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.faults import PowerCut
from shmr.testing.tree import tree_of
from shmr.testing.trial import scratch
from tests.archive.site import UNIT
from tests.fsck.stage import StagedDrive, staged
from tests.fsck.structures import CATALOG, Piece, pieces_of
from tests.fsck.subject import Subject, build, copy_of, limits, open_on

BEGUN = ("degraded", "the last end", "batches were", "the catalog")
"""How notes begin that are not the scrub's."""


@dataclass(frozen=True, slots=True)
class Stage:
    subject: Subject
    world: World
    catalog: Path
    config: Path

    def drive(self, label: str) -> SimulatedDrive:
        return next(drive for drive in self.world.drives if drive.label == label)

    def contents(self) -> dict[tuple[str, str], bytes]:
        """Every byte of every drive."""
        return {
            (drive.label, name): drive.open(name).read(0, drive.size(name))
            for drive in self.world.drives
            for name in drive.names()
        }

    def flip(self, kind: str, rng: random.Random) -> Piece:
        """A bit of some byte that is of this class, and that something depends on."""
        pieces = [one for one in pieces_of(self.subject) if one.kind == kind and one.length]
        piece = rng.choice([one for one in pieces if one.drive != CATALOG])
        at = piece.offset + rng.randrange(piece.length)
        self.drive(piece.drive).flip_bit(piece.name, at, rng.randrange(8))
        return piece

    def fragments(self, k: int) -> list[tuple[SimulatedDrive, str]]:
        """Those of one archived segment of k+m, by index."""
        volume = open_on(self.world, self.catalog, self.subject.copies, self.subject.clock,
                         read_only=True)  # fmt: skip
        try:
            number, archived = next(
                (number, one) for number, one in volume.catalog.archived_segments() if one.k == k
            )
        finally:
            volume.abandon()
        found = []
        for index, placed in enumerate(archived.fragments):
            name = f"fragment-{number:012}-{index:02}-{placed.generation:06}"
            found.append((next(d for d in self.world.drives if name in d.names()), name))
        return found


@pytest.fixture(scope="module", params=[(1, True), (2, False)], ids=["single", "mirror, crashed"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    copies, clean = request.param
    with limits(), scratch() as place:
        yield build(place, copies=copies, clean=clean)


@pytest.fixture
def stage(subject: Subject) -> Iterator[Stage]:
    with (
        scratch() as place,
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        yield Stage(subject, world, catalog, config)


def kinds(found: Scrubbed) -> set[str]:
    return set(found.report.counts)


def files_read(found: Scrubbed) -> int:
    """But for superblocks, which are looked at in each run."""
    return sum(one.files for one in found.coverage) - sum(one.files > 0 for one in found.coverage)


# -- nothing is wrong -----------------------------------------------------------------------------


def test_every_drive_is_covered_and_nothing_on_them_changed(stage: Stage) -> None:
    before = stage.contents()
    found = scrub(stage.config)
    assert found.report.exit_code is Exit.CLEAN
    assert stage.contents() == before
    assert {Path(one.drive).name for one in found.coverage} == {d.label for d in stage.world.drives}
    for one in found.coverage:
        assert one.covered and one.why is None and one.whole_s == one.read_s > 0
        left = sum(left.size_bytes for left in one.left)
        there = stage.drive(Path(one.drive).name)
        sizes = sum(there.size(name) for name in there.names())
        # What was claimed and not written is not read to its end.
        assert one.read_bytes + left <= sizes
        assert one.pool != "" or not one.files


def test_a_round_that_has_ended_is_followed_by_another(stage: Stage) -> None:
    first, second = scrub(stage.config), scrub(stage.config)
    assert files_read(first) == files_read(second) > 0
    assert all(not one.earlier for one in second.coverage)


def test_with_since_only_what_was_not_verified_since_then_is_read(stage: Stage) -> None:
    before = int(time.time()) - 1
    every = files_read(scrub(stage.config))
    again = scrub(stage.config, since_s=before)
    assert files_read(again) == 0
    assert sum(one.earlier for one in again.coverage) == every
    assert files_read(scrub(stage.config, since_s=int(time.time()) + 60)) == every


def test_only_what_is_asked_for_is_read(stage: Stage) -> None:
    deep = scrub(stage.config, pool="deep")
    assert {one.pool for one in deep.coverage} == {"deep"}
    path = deep.coverage[0].drive
    one = scrub(stage.config, drive=path)
    assert [found.drive for found in one.coverage] == [path]
    by_id = scrub(stage.config, drive=deep.coverage[1].id[:8])
    assert [found.id for found in by_id.coverage] == [deep.coverage[1].id]
    assert main(["scrub", str(stage.config), "--drive", "/nowhere"]) == Exit.FAILED
    assert main(["scrub", str(stage.config), "--pool", "warm"]) == Exit.FAILED


# -- damage ---------------------------------------------------------------------------------------

MENDED = {
    "fragment header drives": Kind.FRAGMENT_HEADER,
    "fragment header checksum": Kind.FRAGMENT_HEADER,
    "data unit": Kind.UNIT_DAMAGED,
    "parity unit": Kind.UNIT_DAMAGED,
    "fragment table": Kind.FRAGMENT_TABLE,
    "fragment table padding": Kind.FRAGMENT_TABLE,
    "fragment footer sums": Kind.FRAGMENT_FOOTER,
    "fragment footer table digest": Kind.FRAGMENT_FOOTER,
    "fragment footer padding": Kind.FRAGMENT_FOOTER,
    "fragment footer size": Kind.FRAGMENT_FOOTER,
    "fragment footer's header extents": Kind.FRAGMENT_FOOTER,
    "journal META payload": Kind.JOURNAL_DAMAGED,
    "journal META header sequence": Kind.JOURNAL_DAMAGED,
    "snapshot META payload": Kind.SNAPSHOT_DAMAGED,
    "snapshot COMMIT payload": Kind.SNAPSHOT_DAMAGED,
    "snapshot SEGMENT header checksum": Kind.SNAPSHOT_DAMAGED,
    "kept snapshot META payload": Kind.SNAPSHOT_COPY_DAMAGED,
    "kept snapshot COMMIT header checksum": Kind.SNAPSHOT_COPY_DAMAGED,
    "data SEGMENT header checksum": Kind.CHAIN_BROKEN,
    "data SEGMENT payload": Kind.CHAIN_BROKEN,
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_is_damaged_is_found_repaired_and_then_whole(stage: Stage, kind: str) -> None:
    tree = _tree(stage)
    piece = stage.flip(kind, random.Random(kind))
    seen = scrub(stage.config, repair=False)
    assert kinds(seen) == {MENDED[kind]}, piece
    assert all(finding.remedy for finding in seen.report.findings)
    assert any("shmr-fsck" in note for note in seen.report.notes)
    done = scrub(stage.config)
    assert done.report.exit_code is Exit.REPAIRED, (piece, done.report.findings, done.report.notes)
    assert done.report.repaired_counts == seen.report.counts
    whole = scrub(stage.config)
    assert whole.report.exit_code is Exit.CLEAN, whole.report.findings
    assert all(one.covered for one in whole.coverage)
    assert _tree(stage) == tree


def _tree(stage: Stage) -> object:
    volume = open_on(stage.world, stage.catalog, stage.subject.copies, stage.subject.clock)
    tree = tree_of(volume)
    volume.close()
    return tree


def test_units_of_which_too_few_are_whole_are_a_loss_that_stays(stage: Stage) -> None:
    for drive, name in stage.fragments(2)[:2]:
        drive.flip_bit(name, BLOCK + UNIT // 2, 3)
    for _ in range(2):
        found = scrub(stage.config)
        assert found.report.exit_code is Exit.LEFT
        assert found.report.counts == {Kind.UNIT_DAMAGED: 2}
        for finding in found.report.findings:
            assert finding.is_loss and finding.where.unit == 0 and finding.where.fragment in (0, 1)
        assert any(finding.where.path in finding.message for finding in found.report.findings
                   if finding.where.path)  # fmt: skip


def test_two_fragments_of_a_segment_damaged_in_different_stripes_are_both_mended(
    stage: Stage,
) -> None:
    parts = stage.fragments(4)
    for index, (drive, name) in enumerate(parts[:3]):
        drive.flip_bit(name, BLOCK + index * UNIT + 5, 1)
    done = scrub(stage.config)
    assert done.report.repaired_counts == {Kind.UNIT_DAMAGED: 3}, done.report.notes
    assert scrub(stage.config).report.exit_code is Exit.CLEAN


def test_a_fragment_that_is_gone_is_written_anew(stage: Stage) -> None:
    drive, name = stage.fragments(2)[1]
    drive.discard(name)
    done = scrub(stage.config)
    assert done.report.repaired_counts == {Kind.FRAGMENT_MISSING: 1}
    assert scrub(stage.config).report.exit_code is Exit.CLEAN


def test_a_fragment_that_was_cut_is_written_anew(stage: Stage) -> None:
    drive, name = stage.fragments(2)[0]
    drive.shorten(name, BLOCK + UNIT + 100)
    done = scrub(stage.config)
    assert done.report.exit_code is Exit.REPAIRED
    assert Kind.FRAGMENT_LENGTH in done.report.repaired_counts
    assert scrub(stage.config).report.exit_code is Exit.CLEAN


def test_bytes_of_a_file_in_the_workspace_are_had_from_the_other_copy_or_lost(stage: Stage) -> None:
    volume = open_on(stage.world, stage.catalog, stage.subject.copies, stage.subject.clock,
                     read_only=True)  # fmt: skip
    inode, extent = next(
        (inode, extent)
        for inode, extent in volume.catalog.reading().all_extents()
        if extent.address is not None
        and extent.address.segment in volume.context.reader.store.segments
    )
    at = extent.address
    assert at is not None
    segment = volume.context.reader.store.segments[at.segment]
    volume.abandon()
    header = 64 + (4 * -(-at.payload // 16384) + 7 & ~7)
    stage.world.drives[segment.drives[-1]].flip_bit(segment.name, at.frame + header + at.skip, 0)
    done = scrub(stage.config)
    if stage.subject.copies == 1:
        assert done.report.counts == {Kind.BYTES_DAMAGED: 1}
        [finding] = done.report.findings
        assert finding.is_loss and finding.where.inode == inode
        assert finding.where.path is None or finding.where.path in finding.message
        assert scrub(stage.config).report.counts == done.report.counts
    else:
        assert done.report.repaired_counts == {Kind.BYTES_DAMAGED: 1}
        assert scrub(stage.config).report.exit_code is Exit.CLEAN


def test_a_drive_that_is_missing_is_named(stage: Stage) -> None:
    scrub(stage.config)
    drive, _ = stage.fragments(4)[2]
    drive.lose()
    found = scrub(stage.config)
    assert found.report.counts == {Kind.DRIVE_MISSING: 1}
    [one] = [one for one in found.coverage if not one.covered]
    assert Path(one.drive).name == drive.label and one.why == "it is missing" and one.whole_s > 0


def test_a_mounted_filesystem_is_read_and_left_as_it_is(stage: Stage) -> None:
    stage.flip("data unit", random.Random(5))
    StagedDrive.held.update(stage.config.parent / drive.label for drive in stage.world.drives)
    before = stage.contents()
    found = scrub(stage.config)
    assert found.report.mounted and found.report.as_of_ns is not None
    assert found.report.counts == {Kind.UNIT_DAMAGED: 1}
    # What `repair` looks for is not this.
    [advice] = [note for note in found.report.notes if "shmr-fsck" in note]
    assert f"`shmr umount`), then run `shmr-fsck scrub {stage.config}`" in advice
    assert "repair`" not in advice
    assert stage.contents() == before


# -- interrupted ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_stopped_anywhere_the_next_goes_on_and_reads_every_file_once(
    stage: Stage, seed: int
) -> None:
    rng = random.Random(seed)
    left = asked = 10**6

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    every = files_read(scrub(stage.config, stop=stop))
    asked -= left
    total, runs = 0, 0
    while True:
        # All lanes ask: with less than this none would come to the end of a file.
        left = rng.randrange(asked // 3, asked) if runs else asked // 2
        found = scrub(stage.config, stop=stop)
        runs += 1
        total += files_read(found)
        if found.report.exit_code is not Exit.INTERRUPTED:
            break
    assert found.report.exit_code is Exit.CLEAN
    assert all(one.covered for one in found.coverage)
    assert total == every
    assert runs > 1


class _Killed(BaseException):
    """The process ended, whatever it was about to do."""


def test_killed_anywhere_the_next_goes_on_behind_what_was_noted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = files_read(scrub(stage.config))
    monkeypatch.setattr(rounds, "SAVE_S", 0.0)
    events = 0

    def kill(phase: str, size: int, total: int) -> None:
        nonlocal events
        events += 1
        if events == 25:
            raise _Killed

    with pytest.raises(_Killed):
        scrub(stage.config, watcher=kill)
    found = scrub(stage.config)
    assert found.report.exit_code is Exit.CLEAN
    assert all(one.covered for one in found.coverage)
    earlier = sum(one.earlier for one in found.coverage)
    assert 0 < earlier < every and files_read(found) == every - earlier


def test_damage_that_was_only_told_is_told_again_by_the_run_that_goes_on(stage: Stage) -> None:
    drive, name = stage.fragments(4)[1]
    drive.flip_bit(name, BLOCK, 0)
    scrub(stage.config, repair=False, drive=str(stage.config.parent / drive.label))
    left = 10

    def stop() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    scrub(stage.config, repair=False, stop=stop)
    found = scrub(stage.config, repair=False)
    assert found.report.counts == {Kind.UNIT_DAMAGED: 1}
    [one] = [one for one in found.coverage if one.wrong]
    assert one.whole_s < one.read_s


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, None])
def test_a_damaged_note_is_begun_anew_and_says_so(stage: Stage, content: bytes | None) -> None:
    every = files_read(scrub(stage.config))
    path = notes.note_of(stage.catalog)
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"1", b"2", 1) if content is None else content)
    found = scrub(stage.config, since_s=0)
    assert files_read(found) == every
    assert any("is damaged" in note for note in found.report.notes)
    path.unlink()
    found = scrub(stage.config)
    assert not any("is damaged" in note for note in found.report.notes)


@pytest.mark.parametrize("seed", range(6))
def test_power_may_go_while_it_mends_and_the_next_run_comes_to_the_same(
    subject: Subject, seed: int
) -> None:
    rng = random.Random(seed)
    with (
        scratch() as place,
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        stage = Stage(subject, world, catalog, config)
        for kind in ("data unit", "kept snapshot META payload", "journal META payload"):
            stage.flip(kind, rng)
        world.cut_at(world.operations + rng.randrange(60))
        with pytest.raises(PowerCut):
            scrub(config)
        rebooted = world.reboot(rng)
        with staged(rebooted, place, subject.copies):
            after = Stage(subject, rebooted, catalog, config)
            done = scrub(config)
            assert done.report.exit_code in (Exit.CLEAN, Exit.REPAIRED), done.report.findings
            assert scrub(config).report.exit_code is Exit.CLEAN
            assert _tree(after) in subject.legal


# -- the command ----------------------------------------------------------------------------------


def test_the_command_tells_what_was_covered(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.flip("parity unit", random.Random(1))
    assert main(["scrub", str(stage.config), "--no-repair", "--json"]) == Exit.LEFT
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"unit-damaged": 1} and told["exit_code"] == 4
    assert len(told["coverage"]) == len(stage.world.drives)
    assert main(["scrub", str(stage.config), "--limit-rate", "1GiB"]) == Exit.REPAIRED
    out = capsys.readouterr().out
    assert "LAST WHOLE" in out and "repaired: unit-damaged (1)" in out
    assert main(["scrub", str(stage.config), "--since", "2d"]) == Exit.CLEAN
    count = len(stage.world.drives)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        rf"scrub: {count} of {count} drives read whole, \d.*B and \d+ files that were verified "
        "before; nothing is wrong",
        last,
    )
    with pytest.raises(SystemExit) as ended:
        main(["scrub", str(stage.config), "--since", "tomorrow"])
    assert ended.value.code == Exit.USAGE


def test_of_files_only_strangers_are_told_and_of_drives_those_that_were_not_read(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    work, *_, cold, lost = stage.world.drives
    for name in leave.NAMES:
        if name not in cold.names():
            cold.put(name, b"of shmr")
    for name in ("catalog.log", "catalog.scrub", "catalog.drives"):
        work.put(name, b"of shmr")
    assert main(["scrub", str(stage.config)]) == Exit.CLEAN
    count = len(stage.world.drives)
    out = capsys.readouterr().out
    assert STRANGERS not in out and f"scrub: {count} of {count} drives read whole" in out
    work.put("holiday.jpg", b"!")
    cold.put("holiday.jpg", b"?")
    lost.lose()
    assert main(["scrub", str(stage.config)]) == Exit.LEFT
    *lines, last = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if STRANGERS in line]
    assert line.startswith("2 files are") and work.label in line and cold.label in line
    assert f"scrub: {count - 1} of {count} drives read whole" in last
    assert f"{lost.label} (it is missing)" in last and "1 wrong" in last
