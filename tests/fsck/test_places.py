"""The catalog against the drives: each kind of damage is found as what it is, and nothing else is.

Every case damages a copy of one small filesystem in which everything occurs (`subject`), behind the
back of the volume that is open on it.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from shmr.catalog.reading import open_reading
from shmr.drive.seam import Drive
from shmr.errors import DriveError
from shmr.format.fragment import (
    BLOCK,
    file_name,
)
from shmr.format.superblock import decode as decode_superblock
from shmr.fsck.checking.places import places
from shmr.fsck.findings import Kind
from shmr.fsck.opening import View, view_of
from shmr.log.fragments import FragmentStore
from shmr.log.store import SegmentStore
from shmr.testing.drive import SimulatedDrive, SimulatedFile, World
from shmr.testing.hanging import HangingDrive
from shmr.testing.trial import Trial, files_of, lay_down, scratch
from shmr.testing.workload import Generator, Operation
from shmr.volume.cleaner import run_inline
from shmr.volume.known_pools import known_pools, rows_of_pool
from shmr.volume.membership import ArchivePool, read_superblock, write_superblock
from shmr.volume.volume import Volume
from tests.archive.site import SCHEMES, Site, pool_of
from tests.archive.test_rehouse import empty_drive
from tests.fsck.planted import (
    FRAGMENT,
    WORKSPACE,
    Case,
    archive_drive,
    content_of,
    damage_fragment,
    first_of,
    kept_in,
    opened,
    rewrite,
    swap,
)
from tests.fsck.subject import (
    Subject,
    build,
    limits,
)


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[int, Subject]]:
    with scratch() as place, limits():
        yield {copies: build(place, copies=copies) for copies in (1, 2)}


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, limits():
        yield directory


# -- nothing is wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2])
def test_nothing_is_found_where_nothing_is_wrong(
    subjects: dict[int, Subject], place: Path, copies: int
) -> None:
    with opened(subjects[copies], place) as case:
        notes: list[str] = []
        assert list(places(case.view(), notes)) == []
        assert notes == []
        # And a look changes nothing.
        operations = case.world.operations
        assert case.found() == []
        assert case.world.operations == operations


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_found_whatever_was_done_before(place: Path, copies: int, seed: int) -> None:
    trial = Trial(place, seed=seed, copies=copies, drives=copies + seed % 2)
    trial.start()
    for number, operation in enumerate(Generator(seed).operations(240)):
        trial.run(operation)
        if number % 60 == 59:
            trial.finish()
            assert list(places(view_of(trial.volume))) == []
    trial.run(Operation("commit"))
    trial.remount("clean" if seed % 2 else "kill")
    assert list(places(view_of(trial.volume))) == []
    trial.volume.close()


def view_of_site(site: Site, volume: Volume) -> View:
    zoned = site.zoned()
    there = volume.context.fragments.drives
    pools = tuple(
        ArchivePool(
            pool.name, pool.id, {d: zoned[d] for d in pool.drives if d in there}, pool.drives
        )
        for pool in site.pools
    )
    return view_of(volume, "", pools)


def kinds_in(site: Site, volume: Volume, notes: list[str] | None = None) -> list[Kind]:
    return [finding.kind for finding in places(view_of_site(site, volume), notes)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_found_after_all_that_may_be_done_with_an_archive(
    place: Path, scheme: str
) -> None:
    pool = pool_of(scheme)
    site = Site(place, pool)
    volume = site.open()
    assert kinds_in(site, volume) == []
    site.fill(volume, count=20)
    site.shift(volume, pool)
    assert kinds_in(site, volume) == []
    # Deleted, written over, renamed; cleaned.
    rng = random.Random(3)
    for name in sorted(site.files)[::3]:
        site.delete(volume, name)
    for name in sorted(site.files)[::2]:
        site.write(volume, name, rng.randbytes(30_000), at=10_000)
    kept = sorted(site.files)[0]
    volume.names.rename(1, kept, 1, b"renamed", 0)
    site.files[b"renamed"] = site.files.pop(kept)
    site.numbers[b"renamed"] = site.numbers.pop(kept)
    volume.commits.now()
    assert kinds_in(site, volume) == []
    shift = site.shift(volume, pool)
    run_inline(shift.clean(pool, flush=True))
    notes: list[str] = []
    assert kinds_in(site, volume, notes) == [] and notes == []
    # Some of it goes back, and a drive is emptied.
    site.shift(volume, None, pool)
    assert kinds_in(site, volume) == []
    site.shift(volume, pool)
    drive = next(a for _, a in volume.catalog.archived_segments()).fragments[0].drive
    empty_drive(site, volume, pool, drive)
    assert kinds_in(site, volume, notes) == [] and notes == []
    volume.close()
    volume = site.open()
    assert kinds_in(site, volume, notes) == [] and notes == []
    site.assert_files(volume)
    volume.close()
    # Without the drive that is empty now there is nothing to be missed but the drive.
    volume = site.open(missing=(drive,))
    assert kinds_in(site, volume) == [Kind.DRIVE_MISSING]
    volume.close()


@pytest.mark.parametrize("scheme", ["mirror", "2+1"])
def test_a_drive_that_comes_back_brings_only_what_a_shift_discards(
    place: Path, scheme: str
) -> None:
    pool = pool_of(scheme)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume)
    site.shift(volume, pool)
    drive = next(a for _, a in volume.catalog.archived_segments()).fragments[0].drive
    volume.close()
    volume = site.open(missing=(drive,))
    found = list(places(view_of_site(site, volume)))
    assert {finding.kind for finding in found} == {Kind.DRIVE_MISSING}
    empty_drive(site, volume, pool, drive)
    volume.close()
    volume = site.open()
    notes: list[str] = []
    assert kinds_in(site, volume, notes) == []
    assert any("shmr-compact" in note for note in notes)
    volume.close()


@pytest.mark.parametrize("scheme", ["single", "2+1"])
def test_a_shift_that_was_cut_off_is_nothing_wrong(place: Path, scheme: str) -> None:
    """At any change: what it left is told as a note, and is nothing to repair."""
    pool = pool_of(scheme)
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=6)
    rng = random.Random(1)
    images: list[tuple[World, dict[str, bytes] | None]] = []

    def image(world: World) -> None:
        if world.operations % 2 == 0:
            images.append((world.reboot(rng), files_of(site.catalog)))

    site.world.observer = image
    site.shift(volume, pool)
    site.world.observer = None
    volume.abandon()
    assert len(images) > 20
    for number, (world, files) in enumerate(images):
        catalog = place / f"image{number}"
        lay_down(files, catalog)
        with opened_image(site, world, catalog) as (again, view):
            assert list(places(view)) == [], number
            assert again.read_only is None


@contextmanager
def opened_image(site: Site, world: World, catalog: Path) -> Iterator[tuple[Volume, View]]:
    volume = site.open(world, catalog)
    zoned = site.zoned(world)
    pools = tuple(
        ArchivePool(pool.name, pool.id, {d: zoned[d] for d in pool.drives}, pool.drives)
        for pool in site.pools
    )
    try:
        yield volume, view_of(volume, "", pools)
    finally:
        volume.abandon()


def test_what_changes_while_a_mounted_filesystem_is_looked_at_is_nothing_wrong(
    place: Path,
) -> None:
    """The checkpoint that is looked at is older than what lies on the drives."""
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.fill(volume, count=16)
    site.shift(volume, pool)
    site.fill(volume, count=10, seed=4)
    volume.checkpoints.run()
    lay_down(files_of(site.catalog), place / "before")
    # Moved, cleaned, deleted; snapshots come and go; and the last of it only the journal knows.
    for name in sorted(site.files)[::2]:
        site.delete(volume, name)
    site.shift(volume, pool)
    run_inline(volume.snapshots.make())
    lay_down(files_of(site.catalog), place / "newest")
    for name in sorted(site.files)[:-1]:
        site.delete(volume, name)
    while volume.reaper.step():
        pass
    volume.commits.now()
    run_inline(volume.archive.retiring())
    lay_down(files_of(site.catalog), place / "now")
    assert files_of(place / "now") == files_of(place / "newest")
    with open_reading(place / "before", live=False) as before:
        stale = replace(view_of_site(site, volume), reading=before)
        assert {finding.kind for finding in places(stale)} >= {Kind.SEGMENT_MISSING}
        fresh = partial(open_reading, place / "newest", live=False)
        mounted = replace(stale, fresh=fresh)
        assert list(places(mounted)) == []
        # What is wrong still is found.
        known = dict(before.archived_segments())
        number, archived = next(
            one for one in volume.catalog.archived_segments() if known.get(one[0]) == one[1]
        )
        there = site.zoned()[archived.fragments[1].drive]
        there.discard(file_name(number, 1, archived.fragments[1].generation))
        found = list(places(replace(mounted, reading=before)))
        assert [finding.kind for finding in found] == [Kind.FRAGMENT_MISSING]
    volume.close()


# -- the workspace --------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("what", WORKSPACE)
def test_damage_in_the_workspace_is_found_as_what_it_is(
    subjects: dict[int, Subject], place: Path, copies: int, what: str
) -> None:
    plan = WORKSPACE[what]
    with opened(subjects[copies], place) as case:
        plan.do(case)
        found = case.found()
        assert {finding.kind for finding in found} == (plan.mirror if copies > 1 else plan.single)
        # With two copies everything can be put right; losses name their files.
        for finding in found:
            assert finding.is_loss == (finding.remedy is None)
            if copies > 1:
                assert not finding.is_loss
            if finding.kind is Kind.FILE_LOST:
                assert finding.where.path is not None
                assert finding.message.startswith(finding.where.path)
                assert finding.where.length


def fail_opens(drive: SimulatedDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drive tells what is on it, and can read nothing of it but who it is."""
    usual = drive.open

    def fail(name: str, *, end: int = 0) -> SimulatedFile:
        if name.startswith("superblock"):
            return usual(name, end=end)
        raise DriveError(drive.label, "open", OSError(errno.EIO, "Input/output error"))

    monkeypatch.setattr(drive, "open", fail)


def test_a_copy_that_cannot_be_read_is_told_as_that(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(subjects[2], place) as case:
        fail_opens(case.workspace[1], monkeypatch)
        found = case.found()
        assert {finding.kind for finding in found} == {Kind.SEGMENT_UNREADABLE}
        assert {finding.where.drive for finding in found} == {case.workspace[1].label}
        assert not any(finding.is_loss for finding in found)


def test_a_workspace_drive_that_is_missing_is_a_finding(
    subjects: dict[int, Subject], place: Path
) -> None:
    with opened(subjects[2], place) as case:
        whole = case.view()
        one = SegmentStore(whole.filesystem, whole.store.drives[:1], 1, 0, subjects[2].clock)
        one.scan()
        (finding,) = places(replace(whole, store=one))
        assert finding.kind is Kind.DRIVE_MISSING
        block = read_superblock(case.workspace[1])
        assert block is not None and finding.where.drive == block.drive.hex()


def test_losses_beyond_what_a_report_keeps_are_counted(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(subjects[1], place) as case:
        for segment in case.segments():
            case.workspace[0].discard(segment.name)
        damage_fragment(case, "gone", 0)
        damage_fragment(case, "gone", 1)
        lost = [f for f in case.found() if f.kind is Kind.FILE_LOST]
        assert len(lost) > 4 and all(f.where.path is not None for f in lost)
        monkeypatch.setattr("shmr.fsck.checking.segments.KEPT_PER_KIND", 1)
        monkeypatch.setattr("shmr.fsck.checking.archive.KEPT_PER_KIND", 1)
        fewer = [f for f in case.found() if f.kind is Kind.FILE_LOST]
        assert len(fewer) == len(lost)
        assert sum(f.where.path is not None for f in fewer) == 2


def test_few_extents_at_a_time_find_the_same(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in ("segment cut", "a living header", "a dead header", "two swapped"):
        for copies in (1, 2):
            with opened(subjects[copies], place) as case:
                WORKSPACE[what].do(case)
                whole = case.found()
                monkeypatch.setattr("shmr.fsck.checking.segments.CHUNK", 3)
                parts = case.found()
                monkeypatch.undo()
                kinds = {Kind.FRAME_DAMAGED, Kind.CHAIN_BROKEN, Kind.SEGMENT_SHORT}
                assert [f for f in parts if f.kind in kinds] == [
                    f for f in whole if f.kind in kinds
                ]
                assert {f.kind for f in parts} == {f.kind for f in whole}


# -- the archive ----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("how", FRAGMENT)
def test_a_damaged_fragment_is_found_as_what_it_is(
    subjects: dict[int, Subject], place: Path, how: str, k: int
) -> None:
    with opened(subjects[1], place) as case:
        number, archived = case.row(k)
        for index in range(len(archived.fragments)):
            with opened(subjects[1], place) as other:
                damage_fragment(other, how, index, k)
                (finding,) = other.found()
                assert finding.kind is FRAGMENT[how]
                assert finding.where.segment == number
                assert finding.where.fragment == index
                assert not finding.is_loss


@pytest.mark.parametrize("how", FRAGMENT)
def test_more_damage_than_redundancy_is_a_loss_of_files(
    subjects: dict[int, Subject], place: Path, how: str
) -> None:
    with opened(subjects[1], place) as case:
        damage_fragment(case, how, 0)
        damage_fragment(case, how, 1)
        found = case.found()
        kinds = {finding.kind for finding in found}
        if how in ("header", "another header", "table", "longer"):
            # What a reader needs is there.
            assert kinds == {FRAGMENT[how]}
            assert not any(finding.is_loss for finding in found)
        else:
            assert kinds == {FRAGMENT[how], Kind.FILE_LOST}
            assert all(finding.is_loss for finding in found)
            lost = [f for f in found if f.kind is Kind.FILE_LOST]
            assert {f.where.path for f in lost} <= {"/cold0", "/cold1", "/cold2", "/over"}
            assert lost


def test_swapped_fragments_are_foreign(subjects: dict[int, Subject], place: Path) -> None:
    with opened(subjects[1], place) as case:
        number, archived = case.row(4)
        one, other = (case.fragment(number, archived, index) for index in (0, 5))
        swap(one, other)
        found = case.found()
        assert [finding.kind for finding in found] == [Kind.FRAGMENT_FOREIGN] * 2
        assert [finding.where.fragment for finding in found] == [0, 5]
        assert not any(finding.is_loss for finding in found)


def test_a_drive_that_fails_reads_is_not_one_that_lost_fragments(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(subjects[1], place) as case:
        number, archived = case.row(2)
        drive, _ = case.fragment(number, archived, 1)
        fail_opens(drive, monkeypatch)
        assert case.kinds() - {Kind.SNAPSHOT_COPIES, Kind.SNAPSHOT_COPY_DAMAGED} == {
            Kind.FRAGMENT_UNREADABLE
        }


def test_a_drive_that_hangs_is_waited_for_once(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmr.fsck.checking.patience.PATIENCE_S", 0.05)
    with opened(subjects[1], place) as case:
        view = case.view()
        number, archived = case.row(4)
        drive = archived.fragments[1].drive
        hanging = HangingDrive(view.fragments.drives[drive])
        hanging.hang(opening=True)
        there: dict[bytes, Drive] = {**view.fragments.drives, drive: hanging}
        fragments = FragmentStore(view.filesystem, there)
        archives = tuple(
            replace(pool, drives={one: there[one] for one in pool.drives}) for pool in view.archives
        )
        monkeypatch.setattr("shmr.fsck.checking.places.superblock_findings", lambda view: iter(()))
        found = list(places(replace(view, fragments=fragments, archives=archives)))
        hanging.let_go(failing=True)
        kinds = {finding.kind for finding in found}
        assert kinds - {Kind.SNAPSHOT_COPY_DAMAGED, Kind.SNAPSHOT_COPIES} == {
            Kind.FRAGMENT_UNREADABLE
        }
        (finding,) = (f for f in found if f.where.segment == number)
        assert finding.where.fragment == 1 and not finding.is_loss
        assert "has not answered" in finding.message


def without(case: Case, *drives: bytes) -> View:
    """The view of the same filesystem when drives are not there."""
    view = case.view()
    fragments = view.fragments
    there = {one: drive for one, drive in fragments.drives.items() if one not in drives}
    archives = tuple(
        replace(pool, drives={d: x for d, x in pool.drives.items() if d not in drives})
        for pool in view.archives
    )
    left = type(fragments)(fragments.filesystem, there, drives)
    return replace(view, fragments=left, archives=archives)


def test_a_missing_drive_is_one_finding(subjects: dict[int, Subject], place: Path) -> None:
    with opened(subjects[1], place) as case:
        _, archived = case.row(4)
        drive = archived.fragments[0].drive
        (finding,) = places(without(case, drive))
        assert finding.kind is Kind.DRIVE_MISSING
        assert finding.where.drive == drive.hex()
        assert "1 in segments that can lose 1 more" in finding.message
        assert finding.remedy is not None and drive.hex() in finding.remedy


def test_too_many_missing_drives_cost_files_that_are_named(
    subjects: dict[int, Subject], place: Path
) -> None:
    with opened(subjects[1], place) as case:
        _, archived = case.row(4)
        gone = tuple(placed.drive for placed in archived.fragments[:3])
        found = list(places(without(case, *gone)))
        missing = [f for f in found if f.kind is Kind.DRIVE_MISSING]
        assert len(missing) == 3
        assert all("cannot all be read without it" in f.message for f in missing)
        lost = {f.where.path for f in found if f.kind is Kind.FILE_LOST}
        assert lost and lost <= {"/deep0", "/deep1"}
        assert len(found) == len(missing) + len(lost)


def test_strays_that_no_shift_leaves(subjects: dict[int, Subject], place: Path) -> None:
    with opened(subjects[1], place) as case:
        number, archived = case.row(2)
        drive, name = case.fragment(number, archived, 0)
        content = content_of(drive, name)
        notes: list[str] = []
        # One of a plan that was cut off, and one that was written anew since.
        rewrite(drive, file_name(number, 0, 9), content)
        rewrite(drive, file_name(number - 1, 0, 1), content[:5000])
        assert list(places(case.view(), notes)) == []
        assert len(notes) == 1 and notes[0].startswith("2 fragments")
        # A number that was never given out.
        rewrite(drive, file_name(10**9, 0, 1), content)
        (finding,) = case.found()
        assert finding.kind is Kind.STRAY and finding.where.segment == 10**9
        drive.discard(file_name(10**9, 0, 1))
        # Another filesystem's.
        header = archived.header(b"another one, 16 ", number, 2)
        rewrite(drive, file_name(number, 2, 7), header.encode() + content[BLOCK:])
        (finding,) = case.found()
        assert finding.kind is Kind.STRAY and "another filesystem" in finding.message


@pytest.mark.parametrize("how", ["header", "end", "cut", "another"])
@pytest.mark.parametrize("pool", ["cold", "deep"])
def test_a_damaged_copy_of_a_snapshot_is_found(
    subjects: dict[int, Subject], place: Path, pool: str, how: str
) -> None:
    with opened(subjects[1], place) as case:
        drive, name = kept_in(case, pool)[0]
        size = drive.size(name)
        if how == "header":
            drive.flip_bit(name, 12, 0)
        elif how == "end":
            drive.flip_bit(name, size - 30, 0)
        elif how == "cut":
            drive.shorten(name, size - 8)
        else:
            segment = first_of(case)
            rewrite(drive, name, content_of(case.workspace[0], segment.name))
        assert case.kinds() == {Kind.SNAPSHOT_COPY_DAMAGED, Kind.SNAPSHOT_COPIES}


def test_too_few_copies_of_a_snapshot_are_found(subjects: dict[int, Subject], place: Path) -> None:
    with opened(subjects[1], place) as case:
        copies = kept_in(case, "deep")
        assert len({drive.label for drive, _ in copies}) == 3
        copies[0][0].discard(copies[0][1])
        (finding,) = case.found()
        assert finding.kind is Kind.SNAPSHOT_COPIES and "2 of its drives" in finding.message
        for drive, name in copies[1:]:
            drive.discard(name)
        (finding,) = case.found()
        assert finding.kind is Kind.SNAPSHOT_COPIES


def test_superblocks_of_archive_drives_are_compared_with_the_journal(
    subjects: dict[int, Subject], place: Path
) -> None:
    with opened(subjects[1], place) as case:
        volume = case.volume
        known = next(p for p in known_pools(volume.catalog).values() if p.name == "deep")
        volume.context.apply(
            rows_of_pool(volume.catalog, replace(known, generation=known.generation + 1))
        )
        found = case.found()
        assert {f.kind for f in found} == {Kind.SUPERBLOCK_OLD}
        assert len(found) == len(known.members)
        volume.context.apply(
            rows_of_pool(volume.catalog, replace(known, members=known.members[::-1]))
        )
        assert case.kinds() == {Kind.SUPERBLOCK_OLD}
        volume.context.apply(rows_of_pool(volume.catalog, known))
        assert case.found() == []


@pytest.mark.parametrize("field", ["filesystem", "pool", "drive"])
def test_a_superblock_of_something_else_is_foreign(
    subjects: dict[int, Subject], place: Path, field: str
) -> None:
    with opened(subjects[1], place) as case:
        drive: Drive = archive_drive(case)
        block = decode_superblock(drive.get("superblock-000001"))
        other = b"something else, 16"[:16]
        members = (other, *block.members) if field == "drive" else block.members
        write_superblock(drive, block._replace(**{field: other, "members": members}))
        (finding,) = case.found()
        assert finding.kind is Kind.SUPERBLOCK_FOREIGN


def test_a_newer_superblock_that_does_not_verify_is_found(
    subjects: dict[int, Subject], place: Path
) -> None:
    with opened(subjects[1], place) as case:
        drive = archive_drive(case)
        rewrite(drive, "superblock-000002", drive.get("superblock-000001")[:-1] + b"?")
        (finding,) = case.found()
        assert finding.kind is Kind.SUPERBLOCK_DAMAGED and finding.where.drive == drive.label
