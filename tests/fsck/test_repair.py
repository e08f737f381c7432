"""`shmr-fsck repair`, whole: found, repaired, then clean; killed anywhere, the next one does it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.catalog import store
from shmr.cli.fsck.main import main
from shmr.errors import SetupError, ShmrError
from shmr.format.rows import (
    ROOT,
    Row,
    Table,
    encode_bytes,
    encode_number,
    extent_removed,
    key_named,
    key_of,
)
from shmr.fsck.checking.check import check
from shmr.fsck.findings import KEPT_PER_KIND, Exit, Finding, Kind, Report, Where
from shmr.fsck.mending.repair import propose, repair, settled
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from shmr.testing.tree import tree_of
from shmr.testing.trial import Files, files_of, lay_down, scratch
from shmr.volume.cleaner import run_inline
from tests.fsck.flipping import contents_of, files_in
from tests.fsck.rows import Rows, rows_of
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


# -- what is broken ------------------------------------------------------------------------


def _no_catalog(world: World, catalog: Path) -> None:
    lay_down(None, catalog)


def _cut_catalog(world: World, catalog: Path) -> None:
    data = catalog / store.DATA
    data.write_bytes(data.read_bytes()[:20_000])


def _row(rows: Rows) -> None:
    rows.put(Row(Table.XATTR, key_named(10**6, b"user.x"), encode_bytes(b"")))


def _usage(rows: Rows) -> None:
    rows.put(Row(Table.USAGE, key_of(10**6), encode_number(7)))


def _gap(rows: Rows) -> None:
    number = next(n for n in range(2, 100) if rows.has(Table.INODE, n) and rows.extents(n))
    rows.put(extent_removed(number, rows.extents(number)[0].offset))


def _in_rows(damage: Callable[[Rows], None]) -> Callable[[World, Path], None]:
    def broken(world: World, catalog: Path) -> None:
        with rows_of(catalog) as rows:
            damage(rows)

    broken.__name__ = damage.__name__
    return broken


def _fragment(world: World, catalog: Path) -> None:
    drive = next(d for d in world.drives if any(n.startswith("fragment") for n in d.names()))
    drive.discard(next(name for name in drive.names() if name.startswith("fragment")))


def _stray(world: World, catalog: Path) -> None:
    """Of a number that nothing ever had."""
    drive = next(d for d in world.drives if any(n.startswith("fragment") for n in d.names()))
    drive.put("fragment-000099999999-00-000001", b"?" * 4096)


DAMAGES = [_no_catalog, _cut_catalog, *map(_in_rows, (_row, _usage, _gap)), _fragment, _stray]


def tree_on(subject: Subject, world: World, catalog: Path) -> object:
    volume = open_on(world, catalog, subject.copies, subject.clock)
    tree = tree_of(volume)
    volume.close()
    return tree


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_found_is_repaired_and_then_clean(
    subject: Subject, place: Path, damage: Callable[[World, Path], None]
) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        damage(world, catalog)
        found = check(config)
        assert not found.is_clean and not any(finding.is_loss for finding in found.findings)
        done = repair(config)
        assert done.exit_code is Exit.REPAIRED, done.findings
        assert done.repaired_counts == found.counts
        assert check(config).is_clean
        again = repair(config)
        assert again.exit_code is Exit.CLEAN and not again.repaired
        assert tree_on(subject, world, catalog) in subject.legal


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_dry_run_says_what_it_would_do_and_changes_nothing(
    subject: Subject, place: Path, damage: Callable[[World, Path], None]
) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        damage(world, catalog)
        catalog.mkdir(exist_ok=True)
        before = contents_of(world), files_in(catalog), sorted(place.iterdir())
        report = repair(config, dry_run=True)
        assert report.exit_code is Exit.LEFT
        assert any(note.startswith("would: ") for note in report.notes)
        assert (contents_of(world), files_in(catalog), sorted(place.iterdir())) == before


def test_what_the_log_has_no_better_is_mended_or_lost(subject: Subject, place: Path) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        with rows_of(catalog) as rows:
            _row(rows)
            _gap(rows)
        volume = open_on(world, catalog, subject.copies, subject.clock)
        run_inline(volume.snapshots.make())
        volume.close()
        done = repair(config)
        assert done.exit_code is Exit.LEFT
        assert set(done.counts) == {Kind.EXTENT_GAP}
        assert all(finding.is_loss for finding in done.findings)
        assert done.repaired_counts[Kind.XATTR_STRAY] == 1
        kept = sorted(place.glob("catalog.doubtful*"))
        # A loss stays told of, and a second run leaves everything else as it is.
        again = repair(config)
        assert again.counts == done.counts and not again.repaired
        assert sorted(place.glob("catalog.doubtful*")) == kept


def test_more_than_a_report_keeps_are_repaired(subject: Subject, place: Path) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        count = 2 * KEPT_PER_KIND + 1
        with rows_of(catalog) as rows:
            for number in range(count):
                key = key_named(10**6 + number, b"user.x")
                rows.put(Row(Table.XATTR, key, encode_bytes(b"")))
        volume = open_on(world, catalog, subject.copies, subject.clock)
        run_inline(volume.snapshots.make())
        volume.close()
        done = repair(config)
        assert done.exit_code is Exit.REPAIRED
        assert done.repaired_counts == {Kind.XATTR_STRAY: count}
        assert len(done.repaired) == KEPT_PER_KIND
        assert check(config).is_clean


def test_what_is_mounted_is_left_alone(subject: Subject, place: Path) -> None:
    with copy_of(subject, place) as (world, _), staged(world, place, subject.copies) as config:
        StagedDrive.held.update(place / drive.label for drive in world.drives)
        before = contents_of(world)
        with pytest.raises(SetupError, match="unmount"):
            repair(config)
        assert contents_of(world) == before


def test_the_command_tells_and_ends_with_the_code(
    subject: Subject, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        lay_down(None, catalog)
        assert main(["repair", str(config), "--dry-run"]) == 4
        assert "would rebuild the catalog from the log" in capsys.readouterr().out
        assert main(["repair", str(config), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["repaired_counts"] == {"catalog-doubtful": 1}
        assert main(["repair", str(config)]) == 0


# -- a log of which durable frames are missing ------------------------------------------------


def _break_log(subject: Subject, world: World, catalog: Path) -> None:
    """Three files, each committed, and the journal damaged between them on all copies; no
    catalog knows what was there."""
    lay_down(None, catalog)
    volume = open_on(world, catalog, subject.copies, subject.clock)
    store = volume.context.reader.store
    for number in range(3):
        volume.names.create(ROOT, b"after%d" % number, 0o100644, ME)
        volume.commits.now()
        if number == 0:
            place = volume.log.place
    name = store.segments[place.segment].name
    volume.abandon()
    for drive in world.drives[: subject.copies]:
        drive.flip_bit(name, place.end + 20, 3)
    lay_down(None, catalog)


def test_what_follows_missing_frames_is_given_up_when_somebody_says_so(
    subject: Subject, place: Path
) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        _break_log(subject, world, catalog)
        before = contents_of(world)
        left = repair(config)
        assert left.exit_code is Exit.LEFT and Kind.LOG_CORRUPT in left.counts
        assert any("--cut-log" in note for note in left.notes)
        assert contents_of(world) == before
        done = repair(config, cut_log=True)
        assert done.exit_code is Exit.REPAIRED, done.findings
        assert check(config).is_clean
        volume = open_on(world, catalog, subject.copies, subject.clock)
        assert volume.read_only is None
        after = {name for name, _, _ in volume.names.entries(ROOT, 0) if name.startswith(b"after")}
        assert after == {b"after0"}
        volume.names.unlink(ROOT, b"after0")
        volume.close()
        assert check(config).is_clean
        # The log stands by itself, too.
        lay_down(None, catalog)
        assert set(check(config).counts) == {Kind.CATALOG_DOUBTFUL}
        assert open_on(world, catalog, subject.copies, subject.clock).close()


def test_a_catalog_left_cleanly_knows_what_its_log_lost(subject: Subject, place: Path) -> None:
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        volume = open_on(world, catalog, subject.copies, subject.clock)
        name = volume.context.reader.store.segments[volume.log.place.segment].name
        tree = tree_of(volume)
        volume.close()
        for drive in world.drives[: subject.copies]:
            drive.discard(name)
        found = check(config)
        assert Kind.LOG_CORRUPT in found.counts
        assert not any(finding.is_loss for finding in found.findings), found.findings
        assert repair(config).exit_code is Exit.REPAIRED
        assert check(config).is_clean
        lay_down(None, catalog)
        assert tree_on(subject, world, catalog) == tree


# -- cut off -------------------------------------------------------------------------------


class Cuts:
    """The drives and the catalog at many moments of a repair: after a power cut, after a kill."""

    def __init__(self, catalog: Path, share: float) -> None:
        self.catalog = catalog
        self.share = share
        self.rng = random.Random(7)
        self.images: list[tuple[Files | None, World]] = []

    def observe(self, world: World) -> None:
        if self.rng.random() < self.share:
            files = files_of(self.catalog)
            self.images += [(files, world.reboot(self.rng)), (files, world.kill())]


def _everything(world: World, catalog: Path) -> None:
    _fragment(world, catalog)
    _stray(world, catalog)
    _in_rows(_row)(world, catalog)


def _cut_off(
    subject: Subject, place: Path, damage: Callable[[World, Path], None], share: float
) -> None:
    """Repair, and repair again whatever cuts of the first run leave, a share of them."""
    with copy_of(subject, place) as (world, catalog):
        damage(world, catalog)
        cuts = Cuts(catalog, share)
        world.observer = cuts.observe
        with staged(world, place, subject.copies) as config:
            assert repair(config).exit_code is Exit.REPAIRED
        world.observer = None
    assert len(cuts.images) > 3
    for index, (files, image) in enumerate(cuts.images):
        with scratch() as other:
            _converges(subject, image, files, other, f"image {index}")


def _converges(
    subject: Subject, world: World, files: Files | None, place: Path, where: str
) -> None:
    catalog = place / "catalog"
    lay_down(files, catalog)
    with staged(world, place, subject.copies) as config:
        assert repair(config).exit_code in (Exit.CLEAN, Exit.REPAIRED), where
        assert check(config).is_clean, where
        assert tree_on(subject, world, catalog) in subject.legal, where


@pytest.mark.parametrize("damage", [_no_catalog, _everything])
def test_a_repair_cut_off_anywhere_is_completed_by_the_next(
    subject: Subject, place: Path, damage: Callable[[World, Path], None]
) -> None:
    _cut_off(subject, place, damage, 0.06)


@pytest.mark.thorough
@pytest.mark.timeout(900)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_cut_off_at_every_operation_is_completed_by_the_next(
    subject: Subject, place: Path, damage: Callable[[World, Path], None]
) -> None:
    _cut_off(subject, place, damage, 1.0)


def _strike(subject: Subject, place: Path, number: int, fault: Fault, persistent: bool) -> bool:
    """A repair with one fault, and a second without it; did the fault strike at all?"""
    with (
        copy_of(subject, place) as (world, catalog),
        staged(world, place, subject.copies) as config,
    ):
        _everything(world, catalog)
        base = world.reads if fault is Fault.READ else world.operations
        world.fail(base + number, fault, persistent=persistent)
        try:
            repair(config)
        except ShmrError:
            assert world.plan.struck
        struck = bool(world.plan.struck)
        world.plan.heal()
        image, files = world.kill(), files_of(catalog)
    with scratch() as other:
        _converges(subject, image, files, other, f"{fault} at {number}")
    return struck


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_in_a_repair_loses_nothing(
    subject: Subject, place: Path, fault: Fault, persistent: bool
) -> None:
    for number in (0, 7, 40):
        if not _strike(subject, place, number, fault, persistent):
            break
    else:
        return
    assert number, "it never struck"


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("fault", list(Fault))
def test_one_fault_at_many_operations_of_a_repair_loses_nothing(
    subject: Subject, place: Path, fault: Fault, persistent: bool
) -> None:
    number = 0
    while _strike(subject, place, number, fault, persistent):
        number += 12 if fault is Fault.READ else 4
    assert number > 10


# -- the plan, by itself -------------------------------------------------------------------


def _report(*findings: Finding) -> Report:
    report = Report("repair")
    for finding in findings:
        report.find(finding)
    return report


def test_the_catalog_comes_first_and_copies_last() -> None:
    wrong = Finding(Kind.LINKS_WRONG, "", remedy="set it")
    fragment = Finding(Kind.FRAGMENT_MISSING, "", remedy="write it anew")
    superblock = Finding(Kind.SUPERBLOCK_OLD, "", remedy="write it anew")
    report = _report(superblock, fragment, wrong)
    does = [action.does for action in propose(report, from_log=True)]
    assert len(does) == 3
    assert "from the log" in does[0] and "fragments" in does[1] and "superblocks" in does[2]
    assert "rows" in propose(report, from_log=False)[0].does


def test_losses_alone_are_no_reason_to_do_anything() -> None:
    assert not propose(
        _report(Finding(Kind.EXTENT_GAP, ""), Finding(Kind.FILE_LOST, "")), from_log=True
    )


def test_only_what_is_not_found_any_more_was_repaired() -> None:
    stays = Finding(Kind.LINKS_WRONG, "", Where(inode=5, path="/a"), "set it")
    goes = Finding(Kind.LINKS_WRONG, "", Where(inode=6), "set it")
    moved = Finding(Kind.LINKS_WRONG, "", Where(inode=5, path="/lost+found/inode-5"), "set it")
    done = settled(_report(stays, goes), _report(moved), [])
    assert done.repaired == [goes] and done.findings == [moved]
    assert done.exit_code is Exit.LEFT
