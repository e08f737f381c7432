"""What the drives lack is put right: found, mended, clean; and no byte of any file is another.

Then the same cut off at every operation, and struck by errors: a second run converges, and nothing
that was readable before is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import pytest

from shmr.archive.control import Control, Stopped
from shmr.archive.shift import Shift
from shmr.errors import ShmrError
from shmr.format.rows import ROOT
from shmr.fsck.checking.places import places
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.mending import copies, fragments
from shmr.fsck.opening import View, view_of
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.trial import Files, files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from shmr.volume.damage import DamagedFragment, damaged_in
from shmr.volume.volume import Volume
from tests.fsck.planted import (
    FRAGMENT,
    WORKSPACE,
    Case,
    archive_drive,
    damage_fragment,
    kept_in,
    opened,
    rewrite,
    swap,
)
from tests.fsck.subject import (
    Subject,
    archive_pools,
    build,
    limits,
    look,
    membership_of,
    open_on,
)

MENDERS = (*fragments.MENDERS, *copies.MENDERS)


@pytest.fixture(scope="module")
def subjects() -> Iterator[dict[int, Subject]]:
    with scratch() as place, limits():
        yield {count: build(place, copies=count) for count in (1, 2)}


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, limits():
        yield directory


def view_on(subject: Subject, world: World, volume: Volume) -> View:
    found = membership_of(world, subject.copies, subject.clock)
    return view_of(volume, "subject", tuple(found.archives.values()))


def repair(
    subject: Subject, world: World, volume: Volume, control: Control | None = None
) -> list[Finding]:
    """A whole repair, as the command makes it; what the check afterwards still finds."""
    found = list(places(view_on(subject, world, volume)))
    pools = archive_pools(world, subject.copies, subject.clock)
    for mender in MENDERS:
        some = [f for f in found if f.kind in mender.kinds and not f.is_loss]
        if some:
            run_inline(mender.mend(volume, pools, some, control or Control()))
    return list(places(view_on(subject, world, volume)))


def planted(subject: Subject, place: Path, plant: Callable[[Case], None]) -> tuple[World, Path]:
    """A damaged copy at rest, and where its catalog is."""
    with opened(subject, place) as case:
        plant(case)
        return case.world, place / "catalog"


def tidy(subject: Subject, world: World, volume: Volume) -> None:
    """What a shift does first: what was cut off is settled, and strays go."""
    run_inline(Shift(volume, archive_pools(world, subject.copies, subject.clock)).recover())


def assert_mended(subject: Subject, world: World, catalog: Path) -> None:
    """Everything reads, and the check finds nothing: now, and when it is opened once more."""
    seen = look(subject, world, catalog)
    assert seen.is_whole, seen
    volume = open_on(world, catalog, subject.copies, subject.clock)
    try:
        notes: list[str] = []
        assert list(places(view_on(subject, world, volume), notes)) == []
        assert volume.archive.strays() == [] and notes == []
    finally:
        volume.close()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("what", WORKSPACE)
def test_damage_in_the_workspace_is_mended(
    subjects: dict[int, Subject], place: Path, what: str, count: int
) -> None:
    plan, subject = WORKSPACE[what], subjects[count]
    lossy = count == 1 and Kind.FILE_LOST in plan.single
    if (what, count) == ("superblock old", 1):
        return  # of one drive none is old
    world, catalog = planted(subject, place, plan.do)
    volume = open_on(world, catalog, count, subject.clock)
    left = repair(subject, world, volume)
    if lossy:
        # What is lost stays, and says so; a second run changes nothing more.
        assert left and all(finding.is_loss for finding in left), left
        again = repair(subject, world, volume)
        assert [f.message for f in again] == [f.message for f in left]
        volume.close()
        look(subject, world, catalog)
        return
    assert left == []
    volume.close()
    assert_mended(subject, world, catalog)


@pytest.mark.parametrize("how", FRAGMENT)
@pytest.mark.parametrize("k", [2, 4])
def test_a_fragment_is_written_anew(
    subjects: dict[int, Subject], place: Path, how: str, k: int
) -> None:
    subject = subjects[1]
    before: list[bytes] = []

    def plant(case: Case) -> None:
        number, archived = case.row(k)
        for index in range(len(archived.fragments)):
            drive, name = case.fragment(number, archived, index)
            before.append(drive.open(name).read(0, drive.size(name)))
        for index in range(archived.m):
            damage_fragment(case, how, k - 1 + index, k)

    world, catalog = planted(subject, place, plant)
    volume = open_on(world, catalog, 1, subject.clock)
    assert repair(subject, world, volume) == []
    # All units are those that were there before.
    with_rows = Case(volume, world, lambda: view_on(subject, world, volume))
    number, archived = with_rows.row(k)
    for index, content in enumerate(before):
        drive, name = with_rows.fragment(number, archived, index)
        end = 4096 + archived.data_bytes
        assert drive.open(name).read(4096, end - 4096) == content[4096:end]
    volume.close()
    assert_mended(subject, world, catalog)


def swap_fragments(case: Case) -> None:
    number, archived = case.row(4)
    swap(case.fragment(number, archived, 0), case.fragment(number, archived, 5))


def stray(case: Case) -> None:
    number, archived = case.row(2)
    drive, name = case.fragment(number, archived, 0)
    rewrite(drive, f"fragment-{10**9:012}-00-000001", drive.open(name).read(0, drive.size(name)))


def lose_kept(case: Case) -> None:
    drive, name = kept_in(case, "deep")[0]
    drive.discard(name)


def flip_kept(case: Case) -> None:
    drive, name = kept_in(case, "cold")[0]
    drive.flip_bit(name, 12, 0)


def bad_archive_superblock(case: Case) -> None:
    drive = archive_drive(case)
    rewrite(drive, "superblock-000002", drive.get("superblock-000001")[:-1] + b"?")


def fragments_of_both(case: Case) -> None:
    damage_fragment(case, "gone", 0, 4)
    damage_fragment(case, "footer", 3, 4)
    damage_fragment(case, "table", 1, 2)


OTHERS = {
    "swapped": swap_fragments,
    "stray": stray,
    "a kept snapshot gone": lose_kept,
    "a kept snapshot bad": flip_kept,
    "an archive drive's superblock": bad_archive_superblock,
    "fragments of two pools": fragments_of_both,
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_damage_is_mended(subjects: dict[int, Subject], place: Path, what: str) -> None:
    world, catalog = planted(subjects[1], place, OTHERS[what])
    volume = open_on(world, catalog, 1, subjects[1].clock)
    assert repair(subjects[1], world, volume) == []
    volume.close()
    assert_mended(subjects[1], world, catalog)


def test_a_fragment_that_reads_found_damaged_is_written_anew(
    subjects: dict[int, Subject], place: Path
) -> None:
    subject = subjects[1]

    def rot(case: Case) -> None:
        number, archived = case.row(2)
        drive, name = case.fragment(number, archived, 0)
        drive.flip_bit(name, 5000, 1)

    world, catalog = planted(subject, place, rot)
    volume = open_on(world, catalog, 1, subject.clock)
    assert list(places(view_on(subject, world, volume))) == []
    case = Case(volume, world, lambda: view_on(subject, world, volume))
    number, archived = case.row(2)
    placed = archived.fragments[0]
    volume.context.apply([DamagedFragment(placed.drive, number, 0, placed.generation).row(1)])
    (finding,) = places(view_on(subject, world, volume))
    assert finding.kind is Kind.UNIT_DAMAGED
    assert repair(subject, world, volume) == []
    assert damaged_in(volume.catalog) == {}
    volume.close()
    assert_mended(subject, world, catalog)


def test_a_loss_stays_until_the_user_removes_what_is_lost(
    subjects: dict[int, Subject], place: Path
) -> None:
    subject = subjects[1]

    def lose(case: Case) -> None:
        WORKSPACE["segment gone"].do(case)
        damage_fragment(case, "gone", 0, 2)
        damage_fragment(case, "footer", 1, 2)

    world, catalog = planted(subject, place, lose)
    volume = open_on(world, catalog, 1, subject.clock)
    left = repair(subject, world, volume)
    assert {f.kind for f in left} >= {Kind.FILE_LOST, Kind.SEGMENT_MISSING, Kind.FRAGMENT_MISSING}
    assert all(finding.is_loss for finding in left)
    for path in {f.where.path for f in left if f.where.path is not None}:
        *above, name = path.encode().strip(b"/").split(b"/")
        directory = ROOT
        for one in above:
            directory = volume.names.lookup(directory, one).number
        number = volume.names.lookup(directory, name).number
        volume.names.unlink(directory, name)
        volume.handles.forgotten(number)
    while volume.reaper.step():
        pass
    volume.checkpoints.run()
    assert repair(subject, world, volume) == []
    tidy(subject, world, volume)
    volume.close()
    volume = open_on(world, catalog, 1, subject.clock)
    assert list(places(view_on(subject, world, volume))) == []
    volume.close()


def test_more_findings_than_a_report_keeps_are_all_mended(
    subjects: dict[int, Subject], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subjects[1]
    world, catalog = planted(subject, place, fragments_of_both)
    monkeypatch.setattr("shmr.fsck.mending.fragments.KEPT_PER_KIND", 1)
    volume = open_on(world, catalog, 1, subject.clock)
    first = next(f for f in places(view_on(subject, world, volume)) if f.where.fragment == 0)
    pools = archive_pools(world, 1, subject.clock)
    assert run_inline(fragments.mend(volume, pools, [first], Control())) == []
    assert list(places(view_on(subject, world, volume))) == []
    volume.close()


# -- cut off, and struck --------------------------------------------------------------------


def everything(case: Case) -> None:
    """Damage of many kinds at once, all of which can be mended."""
    names = ["segment cut", "journal header", "snapshot header"] if len(case.workspace) > 1 else []
    for what in names or ["a dead header", "journal opening"]:
        WORKSPACE[what].do(case)
    fragments_of_both(case)
    lose_kept(case)
    bad_archive_superblock(case)


def cut_anywhere(subject: Subject, place: Path, count: int, tries: int) -> None:
    """A repair of everything, and one of what some of its cuts leave."""
    world, catalog = planted(subject, place, everything)
    volume = open_on(world, catalog, count, subject.clock)
    rng = random.Random(count)
    images: list[tuple[World, Files | None]] = []

    def image(world: World) -> None:
        some = world.reboot(rng) if world.operations % 2 else world.kill()
        images.append((some, files_of(catalog)))

    world.observer = image
    assert repair(subject, world, volume) == []
    world.observer = None
    volume.close()
    assert_mended(subject, world, catalog)
    assert len(images) > 40
    for number, (left, files) in enumerate(images[:: max(1, len(images) // tries)]):
        lay_down(files, place / "again")
        again = open_on(left, place / "again", count, subject.clock)
        assert again.read_only is None, number
        assert repair(subject, left, again) == [], number
        tidy(subject, left, again)
        again.close()
        assert_mended(subject, left, place / "again")


@pytest.mark.parametrize("count", [1, 2])
def test_a_repair_cut_off_anywhere_converges(
    subjects: dict[int, Subject], place: Path, count: int
) -> None:
    cut_anywhere(subjects[count], place, count, 15)


@pytest.mark.thorough
@pytest.mark.parametrize("count", [1, 2])
def test_a_repair_cut_off_at_every_operation_converges(
    subjects: dict[int, Subject], place: Path, count: int
) -> None:
    cut_anywhere(subjects[count], place, count, 10_000)


@pytest.mark.parametrize("fault", [Fault.EIO, Fault.SYNC, Fault.ENOSPC])
def test_a_repair_that_is_struck_loses_nothing(
    subjects: dict[int, Subject], place: Path, fault: Fault
) -> None:
    subject = subjects[2]
    world, catalog = planted(subject, place, everything)
    files = files_of(catalog)
    for number in range(0, 120, 12):
        struck = world.kill()
        lay_down(files, place / "again")
        struck.fail(number, fault)
        try:
            volume = open_on(struck, place / "again", 2, subject.clock)
            try:
                repair(subject, struck, volume)
            finally:
                volume.close()
        except ShmrError:
            pass
        left = struck.kill()
        volume = open_on(left, place / "again", 2, subject.clock)
        assert repair(subject, left, volume) == []
        tidy(subject, left, volume)
        volume.close()
        assert_mended(subject, left, place / "again")


def test_a_repair_that_is_stopped_goes_on(subjects: dict[int, Subject], place: Path) -> None:
    subject = subjects[2]
    world, catalog = planted(subject, place, everything)
    runs = 0
    while True:
        answers = chain(repeat(False, 3 + runs), repeat(True))
        volume = open_on(world, catalog, 2, subject.clock)
        try:
            left = repair(subject, world, volume, Control(stop=partial(next, answers)))
            break
        except Stopped:
            runs += 1
            assert runs < 200
        finally:
            volume.close()
    assert left == [] and runs > 2
    volume = open_on(world, catalog, 2, subject.clock)
    tidy(subject, world, volume)
    volume.close()
    assert_mended(subject, world, catalog)
