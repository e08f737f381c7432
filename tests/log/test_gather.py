"""Reads of archived segments: right bytes through any m losses, beyond it an error."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from itertools import combinations

import pytest

from shmr.codec import Codec, CodecError
from shmr.core.stripe import UnitPlace
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived
from shmr.format.fragment import BLOCK, Code
from shmr.log import decode
from shmr.log.decode import restored
from shmr.log.gather import Gather
from tests.archived import NUMBER, UNIT, Segment

SCHEMES = [(1, 0), (1, 1), (1, 2), (2, 1), (4, 2), (8, 3), (10, 4)]
ERASURE = [(4, 2), (8, 3)]


@pytest.mark.parametrize(("k", "m"), SCHEMES)
def test_what_was_written_is_read(k: int, m: int) -> None:
    segment = Segment(k, m)
    reader = segment.pool.gather()
    assert segment.read_all(reader) == segment.content
    assert reader.findings.all() == []


@pytest.mark.parametrize(("k", "m"), SCHEMES)
def test_any_range_is_read(k: int, m: int) -> None:
    segment = Segment(k, m)
    reader = segment.pool.gather(without=segment.ids(range(m)))
    dice = random.Random(k + m)
    end = len(segment.content)
    for _ in range(60):
        start = dice.randrange(end)
        length = dice.randrange(min(end - start, 3 * UNIT) + 1)
        found = reader.read(NUMBER, segment.archived, start, length)
        assert found == segment.content[start : start + length]


@pytest.mark.parametrize(("k", "m"), SCHEMES[:5])
def test_a_range_that_the_segment_has_not_is_refused(k: int, m: int) -> None:
    segment = Segment(k, m)
    end = len(segment.content)
    for start, length in ((0, end + 1), (end, 1), (-1, 5), (end + 5, 0)):
        with pytest.raises(IntegrityError, match="ends at"):
            segment.pool.gather().read(NUMBER, segment.archived, start, length)


@pytest.mark.parametrize(("k", "m"), [(1, 0), (1, 1), (1, 2), *ERASURE])
def test_every_loss_of_at_most_m_drives_costs_nothing(k: int, m: int) -> None:
    segment = Segment(k, m)
    for lost in segment.losses():
        reader = segment.pool.gather(without=segment.ids(lost))
        assert segment.read_all(reader) == segment.content, lost


@pytest.mark.parametrize(("k", "m"), [(1, 0), (1, 1), (4, 2)])
def test_every_loss_of_more_is_an_error_that_names_drive_segment_and_unit(k: int, m: int) -> None:
    segment = Segment(k, m)
    for lost in combinations(segment.all, m + 1):
        reader = segment.pool.gather(without=segment.ids(lost))
        data = [index for index in lost if index < k]
        if not data:
            assert segment.read_all(reader) == segment.content
            continue
        with pytest.raises(DriveError) as failure:
            segment.read_all(reader)
        drive = segment.ids(data[:1])[0].hex()
        said = str(failure.value)
        assert f"segment {NUMBER}, fragment {data[0]} on drive {drive}, unit 0" in said


def test_files_that_are_gone_are_as_good_as_lost_drives() -> None:
    segment = Segment(4, 2)
    for index in (0, 3):
        name = segment.pool.file_of(NUMBER, segment.archived, index)
        segment.pool.drive_of(segment.archived, index).discard(name)
    reader = segment.pool.gather()
    assert segment.read_all(reader) == segment.content
    assert {(f.fragment, f.unit) for f in reader.findings.all()} == {(0, None), (3, None)}


# -- damage --------------------------------------------------------------------------------------


def header_byte(segment: Segment, stripe: int) -> int:
    return 40


def unit_byte(segment: Segment, stripe: int) -> int:
    return BLOCK + stripe * UNIT + 1234


def table_byte(segment: Segment, stripe: int) -> int:
    return segment.header.table_offset + 3


def footer_byte(segment: Segment, stripe: int) -> int:
    return segment.header.footer_offset + BLOCK + 33 + stripe


def checksum_byte(segment: Segment, stripe: int) -> int:
    return segment.header.length - 1


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (header_byte, 0),
        (unit_byte, 1),
        (table_byte, 0),
        (footer_byte, 1),
        (checksum_byte, 1),
    ],
)
@pytest.mark.parametrize(("k", "m"), [(1, 2), *ERASURE])
def test_a_flipped_byte_on_up_to_m_fragments_costs_nothing(
    k: int, m: int, where: Callable[[Segment, int], int], found: int
) -> None:
    patterns = list(Segment(k, m).losses())
    if len(patterns) > 40:
        patterns = random.Random(1).sample(patterns, 40)
    segment = Segment(k, m)
    intact = {index: segment.file(index) for index in segment.all}
    for damaged in patterns:
        for index in damaged:
            segment.pool.flip(NUMBER, segment.archived, index, where(segment, index % 3))
        reader = segment.pool.gather()
        assert segment.read_all(reader) == segment.content, damaged
        noted = {finding.fragment for finding in reader.findings.all()}
        assert noted <= set(damaged)
        if found:
            assert noted >= {index for index in damaged if index < k and (k > 1 or index == 0)}
        for index in damaged:
            segment.in_place_of(index, intact[index])


@pytest.mark.parametrize(("k", "m"), [(1, 0), (1, 1), (4, 2)])
def test_one_damage_too_many_is_an_error_and_the_rest_is_read(k: int, m: int) -> None:
    segment = Segment(k, m)
    for index in range(m + 1):
        segment.pool.flip(NUMBER, segment.archived, index, unit_byte(segment, 1))
    reader = segment.pool.gather()
    first = segment.pool.drive_of(segment.archived, 0).label
    with pytest.raises(IntegrityError, match=f"fragment 0 on drive {first}, unit 1"):
        segment.read_all(reader)
    for start, length in ((0, UNIT), (2 * UNIT, 2000)):
        found = reader.read(NUMBER, segment.archived, start, length)
        assert found == segment.content[start : start + length]


def test_damage_in_different_stripes_may_be_on_every_fragment() -> None:
    segment = Segment(4, 2, stripes=6)
    for index in segment.all:
        segment.pool.flip(NUMBER, segment.archived, index, unit_byte(segment, index))
    reader = segment.pool.gather()
    assert segment.read_all(reader) == segment.content
    assert {(f.fragment, f.unit) for f in reader.findings.all()} >= {(i, i) for i in range(4)}


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_gives_the_right_bytes_or_an_error(seed: int) -> None:
    dice = random.Random(seed)
    segment = Segment(*dice.choice(SCHEMES))
    length = len(segment.file(0))
    for index in segment.all:
        for _ in range(dice.choice((0, 0, 1, 1, 2, 5))):
            match dice.randrange(4):
                case 0:
                    other = segment.file(dice.choice(segment.all))
                    segment.in_place_of(index, other)
                case 1:
                    at = dice.randrange(length)
                    name = segment.pool.file_of(NUMBER, segment.archived, index)
                    drive = segment.pool.drive_of(segment.archived, index)
                    drive.plant(name, at, dice.randbytes(min(5000, length - at)))
                case _:
                    segment.pool.flip(NUMBER, segment.archived, index, dice.randrange(length))
    reader = segment.pool.gather()
    for start in range(0, len(segment.content), 2 * UNIT):
        size = min(2 * UNIT, len(segment.content) - start)
        try:
            found = reader.read(NUMBER, segment.archived, start, size)
        except IntegrityError:
            continue
        assert found == segment.content[start : start + size]


@pytest.mark.parametrize(("k", "m"), [(1, 1), (4, 2)])
def test_fragments_swapped_for_each_other_are_passed_over(k: int, m: int) -> None:
    segment = Segment(k, m)
    one, other = segment.file(0), segment.file(1)
    segment.in_place_of(0, other)
    if m > 1:
        segment.in_place_of(1, one)
    reader = segment.pool.gather()
    assert segment.read_all(reader) == segment.content
    assert {f.fragment for f in reader.findings.all()} == {0, 1} if m > 1 else {0}


def test_a_fragment_of_another_segment_is_passed_over() -> None:
    segment = Segment(4, 2)
    other = segment.pool.write(NUMBER + 1, bytes(len(segment.content)))
    segment.in_place_of(2, segment.pool.content_of(NUMBER + 1, other, 2))
    assert segment.read_all(segment.pool.gather()) == segment.content


def test_a_fragment_rolled_back_to_an_older_generation_is_passed_over() -> None:
    segment = Segment(4, 2)
    old = segment.file(1)
    segment.archived = segment.pool.write(NUMBER, segment.content, generation=2)
    segment.in_place_of(1, old)
    reader = segment.pool.gather()
    assert segment.read_all(reader) == segment.content
    (finding,) = reader.findings.all()
    assert (finding.fragment, finding.generation) == (1, 2)
    assert "generation is 1, expected 2" in finding.why


# -- what is read --------------------------------------------------------------------------------


def test_an_intact_read_touches_the_drives_of_its_bytes_only() -> None:
    segment = Segment(4, 2)
    reader = segment.pool.gather()
    reader.read(NUMBER, segment.archived, 10, UNIT)
    awake = [not drive.activity.asleep for drive in segment.pool.drives.values()]
    assert awake == [True, False, False, False, False, False]
    assert segment.pool.reads() == 2  # the footer, and two units that are neighbours


def test_a_degraded_read_decodes_the_touched_stripe_only() -> None:
    segment = Segment(4, 2, stripes=8)
    reader = segment.pool.gather(without=segment.ids([1]))
    for index in segment.all:
        if index != 1:
            reader.fragments.footer(NUMBER, segment.archived, index)
    segment.pool.lull()
    start = segment.archived.data_bytes + 3 * UNIT + 100
    assert reader.read(NUMBER, segment.archived, start, 50) == segment.content[start : start + 50]
    read = sum(d.activity.read_bytes.total() for d in segment.pool.drives.values())
    assert (segment.pool.reads(), read) == (4, 4 * UNIT)


def test_one_bad_unit_is_decoded_and_its_neighbours_are_not() -> None:
    segment = Segment(4, 2, stripes=8)
    segment.pool.flip(NUMBER, segment.archived, 0, unit_byte(segment, 3))
    reader = segment.pool.gather()
    for index in segment.all:
        reader.fragments.footer(NUMBER, segment.archived, index)
    segment.pool.lull()
    assert reader.read(NUMBER, segment.archived, 0, 8 * UNIT) == segment.content[: 8 * UNIT]
    # All eight of fragment 0 at once; then of stripe 3 four others.
    assert segment.pool.reads() == 5


def test_a_unit_that_was_read_is_not_read_again_soon() -> None:
    segment = Segment(4, 2)
    reader = Gather(segment.pool.store(without=segment.ids([0])), deadline_s=None)
    assert reader.cached(NUMBER, segment.archived, 0, 100) is None
    reader.read(NUMBER, segment.archived, 0, 100)
    segment.pool.lull()
    assert reader.read(NUMBER, segment.archived, 100, 900) == segment.content[100:1000]
    assert reader.cached(NUMBER, segment.archived, 50, 60) == segment.content[50:110]
    assert reader.cached(NUMBER, segment.archived, 0, UNIT + 1) is None
    assert segment.pool.asleep()


def test_what_is_kept_has_a_limit() -> None:
    segment = Segment(1, 0, stripes=5)
    reader = Gather(segment.pool.store(), deadline_s=None, cache_bytes=2 * UNIT)
    assert segment.read_all(reader) == segment.content
    kept = [
        unit
        for unit in range(5)
        if reader.cached(NUMBER, segment.archived, unit * UNIT, 1) is not None
    ]
    assert len(kept) == 2


@pytest.mark.parametrize(("k", "m"), [(1, 2), (4, 2), (8, 3)])
def test_any_unit_can_be_had_whole_for_writing_its_fragment_anew(k: int, m: int) -> None:
    segment = Segment(k, m)
    units = segment.pool.units(segment.archived, segment.content)
    for lost in list(combinations(segment.all, m))[:20]:
        reader = segment.pool.gather(without=segment.ids(lost))
        places = [UnitPlace(index, unit) for index in lost for unit in range(3)]
        found = reader.units(NUMBER, segment.archived, places)
        assert found == {place: units[place.fragment][place.unit] for place in places}


# -- decoding ------------------------------------------------------------------------------------


class Lying(Codec):
    """A codec whose library errs when certain units are given, or always."""

    wrong: Callable[[Sequence[int]], bool] = staticmethod(lambda sources: True)

    def _reconstruct(self, units, sources, missing, size):  # type: ignore[no-untyped-def]
        found = super()._reconstruct(units, sources, missing, size)
        if self.wrong(sources):
            bent = bytearray(found[missing[-1]])
            bent[len(bent) // 2] ^= 4
            found[missing[-1]] = bytes(bent)
        return found


@pytest.mark.parametrize(("k", "m"), [(2, 1), *ERASURE])
def test_a_decoder_that_errs_is_noticed(k: int, m: int) -> None:
    segment = Segment(k, m)
    units = segment.pool.units(segment.archived, segment.content)
    whole = [units[index][0] for index in segment.all]
    codec = Lying(k, m, Code.ISA_L_RS_CAUCHY)
    for lost in list(segment.losses())[1:]:
        known = {index: whole[index] for index in segment.all if index not in lost}
        some = dict(list(known.items())[:k])
        if all(index in some for index in range(k)):
            assert restored(codec, some) == whole
            continue
        with pytest.raises(CodecError, match="do not encode"):
            restored(codec, some)


def test_a_decoder_that_errs_costs_another_combination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "Codec", Lying)
    monkeypatch.setattr(Lying, "wrong", staticmethod(lambda sources: 4 in sources))
    segment = Segment(4, 2)
    reader = segment.pool.gather(without=segment.ids([0]))
    assert segment.read_all(reader) == segment.content


def test_a_decoder_that_always_errs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "Codec", Lying)
    segment = Segment(4, 2)
    reader = segment.pool.gather(without=segment.ids([0]))
    with pytest.raises(DriveError, match="do not encode"):
        segment.read_all(reader)


# -- what is said --------------------------------------------------------------------------------


def test_damage_is_told_once_with_its_place_and_noted_for_the_scrubber(
    caplog: pytest.LogCaptureFixture,
) -> None:
    segment = Segment(4, 2)
    segment.pool.flip(NUMBER, segment.archived, 2, unit_byte(segment, 1))
    reader = segment.pool.gather()
    with caplog.at_level(logging.ERROR, "shmr.log"):
        for _ in range(3):
            segment.read_all(reader)
    label = segment.pool.drive_of(segment.archived, 2).label
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"drive {label}: segment {NUMBER}, fragment 2, unit 1: ")
    (finding,) = reader.findings.take()
    assert finding[:5] == (*segment.ids([2]), NUMBER, 2, 1, 1)
    assert reader.findings.all() == []


def test_a_dying_drive_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    segment = Segment(1, 1, stripes=40)
    for unit in range(40):
        segment.pool.flip(NUMBER, segment.archived, 0, unit_byte(segment, unit))
    reader = segment.pool.gather()
    with caplog.at_level(logging.ERROR, "shmr.log"):
        assert segment.read_all(reader) == segment.content
    assert len(caplog.records) == 10
    assert len(reader.findings.all()) == 40


def test_rows_that_lie_about_the_shape_are_an_error() -> None:
    segment = Segment(4, 2)
    lies: list[Archived] = [
        segment.archived._replace(data_bytes=segment.archived.data_bytes - BLOCK, used_bytes=5000),
        segment.archived._replace(used_bytes=segment.archived.used_bytes - 1),
        segment.archived._replace(extents=2000),
        segment.archived._replace(unit_bytes=2 * UNIT),
        segment.archived._replace(code=Code.LIBERASURECODE_RS_VAND),
    ]
    for lie in lies:
        with pytest.raises(IntegrityError):
            segment.pool.gather().read(NUMBER, lie, 0, 5000)
