"""A drive whose superblock is damaged or gone gets it back where what it holds proves who it is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.cli.fsck.show import show_report
from shmr.config import load
from shmr.errors import SetupError, ShmrError
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Exit, Kind
from shmr.fsck.mending import identity
from shmr.fsck.mending.repair import repair
from shmr.fsck.scrubbing.scrub import scrub
from shmr.testing.drive import SimulatedDrive, World
from shmr.testing.faults import PowerCut
from shmr.testing.trial import files_of, lay_down, scratch
from shmr.volume.membership import read_superblock
from tests.fsck.planted import content_of, rewrite
from tests.fsck.stage import staged
from tests.fsck.subject import Subject, build, copy_of, drive_of, limits, look

FIRST = "superblock-000001"


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[int, Subject]]:
    with limits(), scratch() as place:
        yield {copies: build(place, copies=copies) for copies in (1, 2)}


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, limits():
        yield directory


def harm(drive: SimulatedDrive, how: str) -> None:
    if how == "gone":
        drive.discard(FIRST)
    elif how == "empty":
        rewrite(drive, FIRST, b"")
    else:
        drive.flip_bit(FIRST, 60, 2)


def with_fragments(world: World) -> list[SimulatedDrive]:
    return [d for d in world.drives if any(n.startswith("fragment") for n in d.names())]


@pytest.mark.parametrize("how", ["gone", "empty", "flipped"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_superblock_is_written_anew(
    subjects: dict[int, Subject], place: Path, copies: int, how: str
) -> None:
    subject = subjects[copies]
    with copy_of(subject, place) as (world, _):
        archive = with_fragments(world)
        labels = [drive.label for drive in (*world.drives[:copies], archive[0], archive[-1])]
    for label in labels:
        with copy_of(subject, place) as (world, catalog):
            drive = drive_of(world, label)
            before = read_superblock(drive)
            assert before is not None
            harm(drive, how)
            with staged(world, place, copies) as config:
                content = content_of(drive, FIRST) if how != "gone" else b""
                report = check(config)
                # It is there: neither missing nor to be taken out or rebuilt.
                assert set(report.counts) == {Kind.SUPERBLOCK_DAMAGED}
                assert report.next_step.startswith(f"next: `shmr-fsck repair {config}`")
                told = repair(config, dry_run=True)
                assert told.exit_code is Exit.LEFT and told.counts == report.counts
                if label not in [drive.label for drive in world.drives[:copies]]:
                    read = scrub(config).report
                    assert set(read.counts) == {Kind.SUPERBLOCK_DAMAGED}
                    assert f"`shmr-fsck repair {config}`" in read.next_step
                for word in ("rebuild-drive", "out of the config", "is missing"):
                    assert word not in show_report(report) + show_report(told, foretold=True)
                assert how == "gone" or content_of(drive, FIRST) == content
                report = repair(config)
                assert report.exit_code is Exit.REPAIRED, report.findings
                assert Kind.SUPERBLOCK_DAMAGED in report.repaired_counts
                assert check(config).is_clean and repair(config).exit_code is Exit.CLEAN
            after = read_superblock(drive)
            assert after is not None and after.filesystem == before.filesystem
            if copies > 1 or not label.startswith("work"):
                assert after[2:5] == before[2:5] and after.members == before.members
            assert look(subject, world, catalog).is_whole


def test_without_a_catalog_too(subjects: dict[int, Subject], place: Path) -> None:
    with copy_of(subjects[1], place) as (world, catalog):
        lay_down(None, catalog)
        harm(world.drives[0], "flipped")
        with staged(world, place, 1) as config:
            assert repair(config).exit_code is Exit.REPAIRED
        assert look(subjects[1], world, catalog).is_whole


def test_of_an_empty_drive_a_flipped_bit_is_found_by_its_checksum(
    subjects: dict[int, Subject], place: Path
) -> None:
    for at, bit in ((3, 0), (100, 4)):
        with copy_of(subjects[1], place) as (world, _):
            drive = next(d for d in world.drives[1:] if d not in with_fragments(world))
            before = read_superblock(drive)
            drive.flip_bit(FIRST, at, bit)
            with staged(world, place, 1) as config:
                assert repair(config).exit_code is Exit.REPAIRED
            after = read_superblock(drive)
            assert before is not None and after is not None
            assert after.generation >= before.generation
            assert (after[:5], after.members) == (before[:5], before.members)
            # Two of them are no more than anything else might be.
            name = max(name for name in drive.names() if name.startswith("superblock"))
            for other in (60, 61):
                drive.flip_bit(name, other, bit)
            with staged(world, place, 1) as config:
                assert set(repair(config).counts) == {Kind.DRIVE_MISSING}


def test_what_proves_nothing_is_left_as_it_is(subjects: dict[int, Subject], place: Path) -> None:
    # A drive without fragments: it may be any that is missing.
    with copy_of(subjects[1], place) as (world, _):
        bare = next(d for d in world.drives[1:] if d not in with_fragments(world))
        harm(bare, "gone")
        with staged(world, place, 1) as config:
            report = repair(config)
            assert set(report.counts) == {Kind.DRIVE_MISSING}
            assert FIRST not in bare.names()
    # Both copies of a mirror: neither can be told from the other.
    with copy_of(subjects[2], place) as (world, _):
        for drive in world.drives[:2]:
            harm(drive, "flipped")
        with staged(world, place, 2) as config, pytest.raises(SetupError):
            repair(config)
    # Fragments of two drives on one.
    with copy_of(subjects[1], place) as (world, _):
        one, other = with_fragments(world)[:2]
        name = next(name for name in other.names() if name.startswith("fragment"))
        rewrite(one, name, content_of(other, name))
        harm(one, "gone")
        with staged(world, place, 1) as config:
            assert Kind.SUPERBLOCK_DAMAGED not in check(config).counts
    # An empty workspace drive: its disk is not mounted.
    with copy_of(subjects[1], place) as (world, _):
        for name in world.drives[0].names():
            world.drives[0].discard(name)
        with staged(world, place, 1) as config, pytest.raises(SetupError):
            repair(config)


def test_a_workspace_of_another_filesystem_is_not_adopted(
    subjects: dict[int, Subject], place: Path
) -> None:
    with copy_of(subjects[1], place) as (world, _):
        drive = world.drives[0]
        harm(drive, "gone")
        # As if the archive drives were another's.
        for other in world.drives[1:]:
            block = read_superblock(other)
            assert block is not None
            rewrite(other, FIRST, block._replace(filesystem=b"another one, 16 ").encode())
        with staged(world, place, 1) as config:
            with pytest.raises(ShmrError):
                repair(config)
            assert FIRST not in drive.names()


@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_cut_off_anywhere_it_is_done_again(
    subjects: dict[int, Subject], place: Path, how: str
) -> None:
    subject = subjects[1]
    rng = random.Random(2)
    for label in ("work0", "deep0"):
        with copy_of(subject, place) as (world, catalog):
            files = files_of(catalog)
            drive = drive_of(world, label)
            harm(drive, how)
            cut = 0
            while True:
                tried = world.kill()
                lay_down(files, catalog)
                tried.cut_at(cut)
                with staged(tried, place, 1) as config:
                    try:
                        identity.restore(load(config))
                        break
                    except PowerCut:
                        cut += 1
                left = tried.reboot(rng)
                with staged(left, place, 1) as config:
                    assert repair(config).exit_code in (Exit.REPAIRED, Exit.CLEAN)
                assert look(subject, left, catalog).is_whole
            assert cut > 2
