"""Holes of a volume: the range is zeros, its space is dead, all else stays; and they are found."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmr.errors import IntegrityError, NoSpace, Refused
from shmr.format.rows import SIZE_MAX, Inode, extent_removed
from shmr.testing.audit import audit
from shmr.testing.trial import Trial, scratch, tight_limits
from shmr.testing.workload import CALLER, FAVOURITE, MAINTENANCE, Operation, payload
from shmr.units import GIB, KIB, MIB
from shmr.volume import holes
from shmr.volume.volume import Volume

FILE = 0o100644
PAGE = 4 * KIB


@pytest.fixture
def trial() -> Iterator[Trial]:
    with scratch() as place, tight_limits():
        made = Trial(place)
        made.start()
        yield made
        if hasattr(made, "volume"):
            made.volume.abandon()


@pytest.fixture
def volume(trial: Trial) -> Volume:
    return trial.volume


def file(volume: Volume, content: bytes = b"", name: bytes = b"file") -> int:
    number = volume.names.create(1, name, FILE, CALLER).number
    volume.data.write(number, 0, content)
    return number


def pages(volume: Volume, count: int) -> int:
    """A file of one extent for each page."""
    number = file(volume)
    for page in range(count):
        volume.data.write(number, page * PAGE, payload(page, PAGE))
    return number


def content(volume: Volume, number: int) -> bytes:
    plan = volume.data.plan_read(number, 0, volume.attributes.get(number).size)
    try:
        return bytes(plan.fetch())
    finally:
        plan.release()


def shape(volume: Volume, number: int) -> list[tuple[int, int, str]]:
    """All extents of a file, those beyond its end too."""
    extents = volume.catalog.extents(number, 0, SIZE_MAX)
    return [(e.offset, e.end, "hole" if e.address is None else "data") for e in extents]


def facts(inode: Inode) -> tuple[int, int]:
    return inode.size, inode.allocated


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def live_bytes(volume: Volume) -> int:
    return sum(volume.catalog.live.values())


# -- punch ------------------------------------------------------------------------------------


def test_a_punched_range_is_zeros_and_its_bytes_are_dead(volume: Volume) -> None:
    written = payload(1, 10_000)
    number = file(volume, written)
    before = live_bytes(volume)
    volume.holes.punch(number, 1000, 3000)
    assert content(volume, number) == written[:1000] + bytes(3000) + written[4000:]
    assert facts(volume.attributes.get(number)) == (10_000, 7000)
    assert before - live_bytes(volume) == 3000
    assert shape(volume, number) == [
        (0, 1000, "data"),
        (1000, 4000, "hole"),
        (4000, 10_000, "data"),
    ]
    assert audit(volume) == []


def test_a_punch_moves_mtime_and_ctime_but_not_atime(trial: Trial) -> None:
    number = file(trial.volume, b"content")
    made = trial.volume.attributes.get(number)
    trial.clock.tick()
    trial.volume.holes.punch(number, 0, 1)
    found = trial.volume.attributes.get(number)
    assert found.mtime_ns == found.ctime_ns == trial.clock.now > made.ctime_ns
    assert found.atime_ns == made.atime_ns


def test_the_parts_of_a_punch_behind_the_end_have_no_effect(volume: Volume) -> None:
    number = file(volume, b"0123456789")
    volume.holes.punch(number, 6, 2**62)
    volume.holes.punch(number, 10, 5)
    volume.holes.punch(number, 1000, 5)
    assert content(volume, number) == b"012345\0\0\0\0"
    volume.holes.punch(number, 0, SIZE_MAX)
    assert facts(volume.attributes.get(number)) == (10, 0)
    assert shape(volume, number) == [(0, 10, "hole")]


def test_a_hole_takes_in_the_holes_it_touches(volume: Volume) -> None:
    number = pages(volume, 5)
    for page in (0, 4, 2):
        volume.holes.punch(number, page * PAGE, PAGE)
    assert len(shape(volume, number)) == 5
    volume.holes.punch(number, PAGE, PAGE)
    volume.holes.punch(number, 3 * PAGE, PAGE)
    assert shape(volume, number) == [(0, 5 * PAGE, "hole")]
    assert volume.attributes.get(number).allocated == 0


def test_a_punch_within_a_hole_changes_no_extent(volume: Volume) -> None:
    number = file(volume, b"data")
    volume.data.truncate(number, MIB)
    before = shape(volume, number)
    rows = volume.catalog.epoch_rows
    volume.holes.punch(number, 100 * KIB, 100 * KIB)
    assert shape(volume, number) == before
    assert volume.catalog.epoch_rows == rows + 1, "the inode"


def test_a_punch_over_any_number_of_extents_is_a_few_rows_of_the_journal(volume: Volume) -> None:
    number = pages(volume, 200)
    volume.checkpoints.run()
    volume.holes.punch(number, 100, 199 * PAGE)
    batch = volume.catalog.batch
    assert len(batch.rows) + len(batch.drops) <= 5
    assert len(shape(volume, number)) == 3
    assert audit(volume) == []


@pytest.mark.parametrize("how", ["clean", "kill", "rebuild"])
def test_what_a_punch_made_is_there_after_a_mount(trial: Trial, how: str) -> None:
    """Extents written, punched and written again in one batch, and in batches before it."""
    for kept in (False, True):
        number = trial.volume.names.create(1, b"%d" % kept, FILE, CALLER).number
        for page in range(20):
            trial.volume.data.write(number, page * PAGE, payload(page, PAGE))
        if kept:
            trial.volume.checkpoints.run()
        trial.volume.holes.punch(number, 100, 15 * PAGE)
        trial.volume.data.write(number, 3 * PAGE, b"again")
        trial.volume.holes.zero(number, 19 * PAGE, 10 * PAGE, keep_size=False)
    numbers = [trial.volume.names.lookup(1, name).number for name in (b"0", b"1")]
    wanted = [(shape(trial.volume, n), content(trial.volume, n)) for n in numbers]
    job = trial.volume.commits.begin()
    assert job is not None
    job.run()
    trial.volume.commits.end(job)
    if how == "clean":
        trial.volume.close()
    else:
        trial.volume.abandon()
        trial.world = trial.world.kill()
    catalog = trial.place / ("other" if how == "rebuild" else "catalog")
    trial.volume = trial.mount(catalog=catalog)
    assert [(shape(trial.volume, n), content(trial.volume, n)) for n in numbers] == wanted
    assert audit(trial.volume) == []


def test_what_can_never_fit_is_refused_without_a_look_at_every_extent(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = pages(volume, 40)
    monkeypatch.setattr(volume.catalog, "extents", lambda *_: pytest.fail("it looks"))
    with pytest.raises(NoSpace):
        volume.holes.allocate(number, 0, 1 << 50, keep_size=False)


def test_what_a_truncation_left_makes_way_in_steps_for_a_file_that_grows(volume: Volume) -> None:
    number = pages(volume, 40)
    volume.data.truncate(number, 10 * PAGE)
    assert not volume.attributes.makes_way(number, 10 * PAGE), "it does not grow"
    steps = 0
    while volume.attributes.makes_way(number, 30 * PAGE):
        steps += 1
        assert audit(volume) == []
    assert steps > 1
    assert volume.attributes.get(number).size == 10 * PAGE
    volume.data.truncate(number, 30 * PAGE)
    assert content(volume, number)[10 * PAGE :] == bytes(20 * PAGE)
    assert audit(volume) == []
    assert not volume.attributes.makes_way(number + 1, PAGE), "there is no such file"


def test_a_file_whose_tail_the_reaper_has_not_taken_yet_is_punched_and_grows(
    volume: Volume,
) -> None:
    number = pages(volume, 40)
    volume.data.truncate(number, 10 * PAGE)
    assert volume.reaper.mark_of(number) is not None
    volume.holes.punch(number, 5 * PAGE, 100 * PAGE)
    assert volume.reaper.mark_of(number) is not None, "nobody had to wait for it"
    assert audit(volume) == []
    volume.holes.zero(number, 9 * PAGE, 20 * PAGE, keep_size=False)
    assert content(volume, number)[5 * PAGE :] == bytes(24 * PAGE)
    assert audit(volume) == []
    volume.holes.allocate(number, 0, 50 * PAGE, keep_size=False)
    assert volume.reaper.mark_of(number) is None
    assert facts(volume.attributes.get(number)) == (50 * PAGE, 5 * PAGE)
    assert audit(volume) == []


def test_a_read_planned_before_a_punch_has_the_bytes_from_before(volume: Volume) -> None:
    number = file(volume, b"content")
    plan = volume.data.plan_read(number, 0, 7)
    volume.holes.punch(number, 0, 7)
    volume.checkpoints.run()
    assert bytes(plan.fetch()) == b"content"
    plan.release()


def test_parts_that_reach_gives_punch_the_whole(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "LOOK_MAX", 7)
    number = pages(volume, 50)
    offset, end = 100, 60 * PAGE
    parts = 0
    while offset < end:
        part = volume.holes.reach(number, offset, end - offset)
        touched = list(volume.catalog.extents(number, offset, offset + part))
        assert len(touched) <= 7
        volume.holes.punch(number, offset, part)
        offset += part
        parts += 1
    assert parts > 5
    assert shape(volume, number) == [(0, 100, "data"), (100, 50 * PAGE, "hole")]
    assert audit(volume) == []


# -- zero and allocate ------------------------------------------------------------------------


@pytest.mark.parametrize("keep_size", [True, False])
def test_a_zeroed_range_grows_the_file_unless_it_keeps_its_size(
    volume: Volume, keep_size: bool
) -> None:
    number = file(volume, b"0123456789")
    volume.holes.zero(number, 4, 2, keep_size=keep_size)
    volume.holes.zero(number, 8, 12, keep_size=keep_size)
    volume.holes.zero(number, 100, 50, keep_size=keep_size)
    size = 10 if keep_size else 150
    assert content(volume, number) == b"0123\0\x0067".ljust(size, b"\0")
    assert facts(volume.attributes.get(number)) == (size, 6)
    assert shape(volume, number)[-1] == (8, size, "hole")


def test_an_allocated_range_keeps_its_data_and_takes_no_space(volume: Volume) -> None:
    number = file(volume, b"0123456789")
    volume.holes.allocate(number, 5, MIB, keep_size=True)
    assert facts(volume.attributes.get(number)) == (10, 10)
    volume.holes.allocate(number, 5, MIB, keep_size=False)
    volume.holes.allocate(number, 2 * MIB, MIB, keep_size=False)
    assert facts(volume.attributes.get(number)) == (3 * MIB, 10)
    assert shape(volume, number) == [(0, 10, "data"), (10, 3 * MIB, "hole")]
    assert audit(volume) == []


def test_more_than_the_workspace_can_take_is_not_allocated(volume: Volume) -> None:
    number = file(volume, b"content")
    for keep_size in (False, True):
        with pytest.raises(NoSpace):
            volume.holes.allocate(number, 0, 2 * GIB, keep_size=keep_size)
    assert shape(volume, number) == [(0, 7, "data")]


def test_what_is_data_already_needs_no_room() -> None:
    """A file larger than what is free is allocated again where it is."""
    with scratch() as place, tight_limits():
        small = Trial(place, capacity_bytes=6 * MIB)
        small.start()
        volume = small.volume
        number = file(volume)
        size = 0
        with pytest.raises(NoSpace):
            while True:
                volume.data.write(number, size, payload(size, 64 * KIB))
                size += 64 * KIB
        usage = volume.usage()
        assert usage.blocks_free * usage.block_size < size
        volume.holes.allocate(number, 0, size, keep_size=False)
        with pytest.raises(NoSpace):
            volume.holes.allocate(number, size, size, keep_size=False)
        volume.holes.punch(number, 0, size)
        assert facts(volume.attributes.get(number)) == (size, 0)
        volume.abandon()


def test_ranges_and_files_that_cannot_be_are_refused_as_linux_does(volume: Volume) -> None:
    number = file(volume, b"content")
    fifo = volume.names.create(1, b"fifo", stat.S_IFIFO | 0o644, CALLER).number
    link = volume.names.create(1, b"link", stat.S_IFLNK, CALLER, target=b"file").number

    for call in (
        volume.holes.punch,
        lambda *range_: volume.holes.zero(*range_, keep_size=False),
        lambda *range_: volume.holes.allocate(*range_, keep_size=True),
    ):
        refused(errno.EINVAL, lambda: call(number, -1, 5))  # noqa: B023
        refused(errno.EINVAL, lambda: call(number, 0, 0))  # noqa: B023
        refused(errno.EINVAL, lambda: call(number, 5, -1))  # noqa: B023
        refused(errno.EFBIG, lambda: call(number, 1, SIZE_MAX))  # noqa: B023
        refused(errno.EISDIR, lambda: call(1, 0, 5))  # noqa: B023
        refused(errno.ESPIPE, lambda: call(fifo, 0, 5))  # noqa: B023
        refused(errno.ENODEV, lambda: call(link, 0, 5))  # noqa: B023
        refused(errno.ENOENT, lambda: call(4711, 0, 5))  # noqa: B023
    assert content(volume, number) == b"content"


def test_a_read_only_volume_refuses_changes_and_finds_holes(volume: Volume) -> None:
    number = file(volume, b"content")
    volume.holes.punch(number, 0, 3)
    volume.context.read_only = "for a test"
    refused(errno.EROFS, lambda: volume.holes.punch(number, 0, 5))
    refused(errno.EROFS, lambda: volume.holes.zero(number, 0, 5, keep_size=True))
    refused(errno.EROFS, lambda: volume.holes.allocate(number, 0, 5, keep_size=True))
    assert volume.holes.seek(number, 0, hole=False) == 3


def test_the_largest_file_there_can_be_is_zeroed_and_punched(volume: Volume) -> None:
    number = file(volume, b"x")
    volume.holes.zero(number, 1, SIZE_MAX - 1, keep_size=False)
    volume.data.write(number, SIZE_MAX - 1, b"y")
    assert volume.holes.seek(number, 1, hole=False) == SIZE_MAX - 1
    assert volume.holes.seek(number, SIZE_MAX - 1, hole=True) == SIZE_MAX
    volume.holes.punch(number, 0, SIZE_MAX)
    assert shape(volume, number) == [(0, SIZE_MAX, "hole")]


# -- all of them against the model ------------------------------------------------------------

whole_pages = st.integers(0, 7).map(lambda page: page * PAGE)
offsets = whole_pages | whole_pages | st.integers(0, 8 * PAGE)
lengths = st.sampled_from((PAGE, PAGE, 2 * PAGE)) | st.integers(1, 8 * PAGE)
changes = st.one_of(
    st.tuples(st.just("write"), offsets, lengths, st.integers(0, 99)),
    st.tuples(st.just("write"), offsets, lengths, st.integers(0, 99)),
    st.tuples(st.just("cut"), offsets),
    st.tuples(st.just("punch"), offsets, lengths),
    st.tuples(st.just("punch"), offsets, lengths),
    st.tuples(st.sampled_from(("zero", "allocate")), offsets, lengths, st.booleans()),
    st.tuples(st.just("seek"), offsets, st.booleans()),
)
maintenance = st.tuples(st.sampled_from(("commit", "checkpoint", "clean", "reap")))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(changes | changes | maintenance, min_size=5, max_size=40), st.booleans())
def test_any_changes_of_one_file_are_those_of_the_model(
    operations: list[tuple[str, *tuple[int, ...]]], rebuilt: bool
) -> None:
    with scratch() as place, tight_limits():
        trial = Trial(place)
        trial.start()
        trial.run(Operation("create", (FAVOURITE, FILE, 0, b"")))
        for verb, *arguments in operations:
            on_file = verb not in MAINTENANCE
            trial.run(Operation(verb, (FAVOURITE, *arguments) if on_file else ()))
        trial.run(Operation("seek", (FAVOURITE, 0, False)))
        trial.compare()
        trial.run(Operation("commit"))
        trial.remount("rebuild" if rebuilt else "kill")
        trial.run(Operation("seek", (FAVOURITE, 0, False)))
        trial.volume.abandon()


# -- seek -------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 2, 4096])
def test_seeks_find_data_and_holes_from_any_offset(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The file: 3 bytes of data, a hole to 10, data in two extents to 14, a hole to 20."""
    monkeypatch.setattr(holes, "LOOK_MAX", step)
    number = file(volume, b"abc")
    volume.data.truncate(number, 20)
    volume.data.write(number, 10, b"de")
    volume.data.write(number, 12, b"fg")
    is_data = [offset < 3 or 10 <= offset < 14 for offset in range(20)]
    for offset in range(20):
        later = range(offset, 20)
        data = next((at for at in later if is_data[at]), None)
        if data is None:
            refused(errno.ENXIO, lambda: volume.holes.seek(number, offset, hole=False))  # noqa: B023
        else:
            assert volume.holes.seek(number, offset, hole=False) == data
        hole = next((at for at in later if not is_data[at]), 20)
        assert volume.holes.seek(number, offset, hole=True) == hole
    for offset in (-1, 20, 21, 2**63):
        for hole in (True, False):
            refused(errno.ENXIO, lambda: volume.holes.seek(number, offset, hole=hole))  # noqa: B023


def test_behind_the_end_of_data_is_a_hole(volume: Volume) -> None:
    number = file(volume, b"content")
    assert volume.holes.seek(number, 3, hole=True) == 7
    empty = file(volume, name=b"empty")
    refused(errno.ENXIO, lambda: volume.holes.seek(empty, 0, hole=True))


def test_only_files_are_sought_in(volume: Volume) -> None:
    refused(errno.EISDIR, lambda: volume.holes.seek(1, 0, hole=True))
    fifo = volume.names.create(1, b"fifo", stat.S_IFIFO | 0o644, CALLER).number
    refused(errno.EINVAL, lambda: volume.holes.seek(fifo, 0, hole=True))


def test_a_missing_extent_is_an_error_and_never_a_hole(volume: Volume) -> None:
    number = pages(volume, 3)
    volume.context.apply([extent_removed(number, PAGE)])
    with pytest.raises(IntegrityError):
        volume.holes.seek(number, 0, hole=True)
    with pytest.raises(IntegrityError):
        volume.holes.seek(number, PAGE, hole=False)
