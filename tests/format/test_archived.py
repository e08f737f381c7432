"""What the catalog knows of an archived segment: round trips, hostile bytes, a golden vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.errors import IntegrityError
from shmr.format.archived import Archived, Placed, archived_removed, decode_archived
from shmr.format.fragment import (
    BLOCK,
    EXTENTS_MAX,
    LENGTH_MAX,
    UNIT_BYTES,
    UNIT_MAX,
    WIDTH_MAX,
    Code,
)
from shmr.format.rows import Address, Table, decode_extent, key_of

FILESYSTEM, POOL = bytes(range(16)), bytes(range(32, 48))


def placed(count: int, generation: int = 1) -> tuple[Placed, ...]:
    return tuple(Placed(bytes([1, index]) + bytes(14), generation) for index in range(count))


ONE = Archived(POOL, 2, 1, Code.ISA_L_RS_CAUCHY, UNIT_BYTES, 8192, 9000, 3, 5, placed(3))


@st.composite
def archived(draw: st.DrawFn) -> Archived:
    k = draw(st.integers(1, WIDTH_MAX))
    m = draw(st.integers(0, WIDTH_MAX - k))
    data_bytes = draw(st.integers(1, LENGTH_MAX // BLOCK)) * BLOCK
    drives = draw(
        st.lists(
            st.binary(min_size=16, max_size=16).filter(any),
            min_size=k + m,
            max_size=k + m,
            unique=True,
        )
    )
    return Archived(
        draw(st.binary(min_size=16, max_size=16)),
        k,
        m,
        Code.COPIES if k == 1 else draw(st.sampled_from([Code(1), Code(2)])),
        draw(st.integers(1, UNIT_MAX // BLOCK)) * BLOCK,
        data_bytes,
        draw(st.integers(1, k * data_bytes)),
        draw(st.integers(1, EXTENTS_MAX)),
        draw(st.integers(0, 2**64 - 1)),
        tuple(Placed(drive, draw(st.integers(1, 2**32 - 1))) for drive in drives),
    )


@given(archived(), st.integers(1, 2**63 - 1))
def test_a_row_comes_back(one: Archived, segment: int) -> None:
    row = one.row(segment)
    assert (row.table, row.key) == (Table.ARCHIVE, key_of(segment))
    assert row.value is not None and decode_archived(row.value) == one
    assert archived_removed(segment) == (Table.ARCHIVE, key_of(segment), None)


@given(archived(), st.data())
def test_a_mutated_row_is_a_row_or_an_integrity_error(one: Archived, data: st.DataObject) -> None:
    bent = bytearray(one.encode())
    bent[data.draw(st.integers(0, len(bent) - 1))] = data.draw(st.integers(0, 255))
    cut = bent[: data.draw(st.integers(0, len(bent)))]
    for content in (bytes(bent), bytes(cut), bytes(bent) + b"\0"):
        try:
            found = decode_archived(content)
        except IntegrityError:
            continue
        assert decode_archived(found.encode()) == found


@given(st.binary(max_size=200))
def test_any_bytes_are_a_row_or_an_integrity_error(content: bytes) -> None:
    try:
        decode_archived(content)
    except IntegrityError:
        pass


@dataclass(frozen=True)
class Beyond:
    """A field and a value that it cannot have."""

    field: str
    value: object


@pytest.mark.parametrize(
    "beyond",
    [
        Beyond("pool", bytes(15)),
        Beyond("pool", "text"),
        Beyond("k", 0),
        Beyond("k", WIDTH_MAX),
        Beyond("m", -1),
        Beyond("m", 2),
        Beyond("code", 3),
        Beyond("code", 0),
        Beyond("unit_bytes", 0),
        Beyond("unit_bytes", BLOCK + 1),
        Beyond("unit_bytes", 2 * UNIT_MAX),
        Beyond("data_bytes", 0),
        Beyond("data_bytes", 4097),
        Beyond("data_bytes", LENGTH_MAX + BLOCK),
        Beyond("used_bytes", 0),
        Beyond("used_bytes", 2 * 8192 + 1),
        Beyond("extents", 0),
        Beyond("extents", EXTENTS_MAX + 1),
        Beyond("created_ns", -1),
        Beyond("created_ns", True),
        Beyond("fragments", placed(2)),
        Beyond("fragments", (*placed(2), placed(1)[0])),
        Beyond("fragments", (*placed(2), (bytes(16), 1))),
        Beyond("fragments", (*placed(2), (b"x" * 15, 1))),
        Beyond("fragments", (*placed(2), (b"x" * 16, 0))),
        Beyond("fragments", (*placed(2), (b"x" * 16, 2**32))),
        Beyond("fragments", (*placed(2), (b"x" * 16,))),
        Beyond("fragments", (*placed(2), 7)),
    ],
    ids=repr,
)
def test_a_field_beyond_its_limits_is_refused(beyond: Beyond) -> None:
    fields = ONE._asdict() | {beyond.field: beyond.value}
    with pytest.raises(IntegrityError):
        decode_archived(msgpack.packb(list(fields.values())))


def test_a_fragment_is_checked_against_its_row() -> None:
    header = ONE.header(FILESYSTEM, 9, 1)
    ONE.check(header, FILESYSTEM, 9, 1)
    ONE.check(header._replace(m=2, drives=(*header.drives, b"x" * 16)), FILESYSTEM, 9, 1)
    ONE.check(header._replace(created_ns=99), FILESYSTEM, 9, 1)
    changes: list[tuple[str, Any]] = [
        ("filesystem", POOL),
        ("segment", 8),
        ("fragment", 0),
        ("generation", 2),
        ("k", 3),
        ("code", 2),
        ("unit_bytes", BLOCK),
        ("data_bytes", BLOCK),
        ("used_bytes", 8999),
        ("extents", 4),
        ("drives", header.drives[::-1][1:]),
    ]
    for field, value in changes:
        with pytest.raises(IntegrityError, match="another fragment"):
            ONE.check(header._replace(**{field: value}), FILESYSTEM, 9, 1)


def test_an_address_is_one_that_an_extent_may_have() -> None:
    at = ONE.address(9, 8990)
    assert at == Address(9, 0, 9000, 8990)
    value = msgpack.packb([10, *at])
    assert decode_extent(0, value).address == at
    with pytest.raises(IntegrityError):
        decode_extent(0, msgpack.packb([11, *at]))


def test_the_bytes_are_those_of_the_format() -> None:
    one = ONE._replace(fragments=placed(3, 300))
    assert one.encode().hex() == (
        "9ac410" + POOL.hex() + "020101ce00040000cd2000cd23280305"
        "9392c4100100" + "00" * 14 + "cd012c92c4100101" + "00" * 14 + "cd012c92c4100102"
        "" + "00" * 14 + "cd012c"
    )
