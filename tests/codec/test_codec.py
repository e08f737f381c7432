"""The codec: whatever is lost within m comes back, and nothing but bytes reaches the library."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shmr.codec import Codec, CodecError
from shmr.core.stripe import Geometry
from shmr.errors import SetupError
from shmr.format.fragment import BLOCK, UNIT_BYTES, UNIT_MAX, Code
from shmr.units import KIB

CODES = [code for code in Code if code is not Code.COPIES]
codes = pytest.mark.parametrize("code", CODES, ids=lambda code: code.name.lower())


def units(count: int, size: int = BLOCK, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(size) for _ in range(count)]


def stripe_of(codec: Codec, size: int = BLOCK, seed: int = 0) -> list[bytes]:
    data = units(codec.k, size, seed)
    return [*data, *codec.encode(data)]


def without(stripe: Sequence[bytes], lost: Sequence[int]) -> dict[int, bytes]:
    return {index: unit for index, unit in enumerate(stripe) if index not in lost}


@codes
@pytest.mark.parametrize(("k", "m"), [(2, 1), (4, 2), (8, 3)])
def test_every_loss_of_up_to_m_units_comes_back(k: int, m: int, code: Code) -> None:
    codec = Codec(k, m, code)
    stripe = stripe_of(codec)
    for count in range(m + 1):
        for lost in combinations(range(k + m), count):
            found = codec.decode(without(stripe, lost), lost)
            assert found == {index: stripe[index] for index in lost}


@codes
@pytest.mark.parametrize(("k", "m"), [(4, 2), (8, 3)])
def test_every_choice_of_k_units_gives_the_data(k: int, m: int, code: Code) -> None:
    codec = Codec(k, m, code)
    stripe = stripe_of(codec, seed=1)
    for chosen in combinations(range(k + m), k):
        found = codec.decode({index: stripe[index] for index in chosen}, range(k))
        assert [found[index] for index in range(k)] == stripe[:k]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_scheme_brings_back_what_is_asked_for(data: st.DataObject) -> None:
    k = data.draw(st.integers(1, 12))
    m = data.draw(st.integers(0, 5))
    code = Code.COPIES if k == 1 else data.draw(st.sampled_from(CODES))
    codec = Codec(k, m, code)
    stripe = stripe_of(codec, data.draw(st.sampled_from((BLOCK, 3 * BLOCK))), seed=k)
    lost = data.draw(st.lists(st.integers(0, k + m - 1), unique=True, max_size=m))
    wanted = data.draw(st.lists(st.integers(0, k + m - 1)))
    found = codec.decode(without(stripe, lost), wanted)
    assert found == {index: stripe[index] for index in wanted}


@codes
@pytest.mark.parametrize(
    "size", [BLOCK, 12 * KIB, 64 * KIB, UNIT_BYTES - BLOCK, UNIT_BYTES, UNIT_MAX]
)
def test_units_of_every_size_come_back(size: int, code: Code) -> None:
    codec = Codec(3, 2, code)
    stripe = stripe_of(codec, size)
    assert {len(unit) for unit in stripe} == {size}
    assert codec.decode(without(stripe, (0, 3)), (0, 3)) == {0: stripe[0], 3: stripe[3]}


@pytest.mark.parametrize("special", [bytes(BLOCK), b"\xff" * BLOCK, b"\x0b\x0c" * (BLOCK // 2)])
def test_content_makes_no_difference_to_the_headers(special: bytes) -> None:
    codec = Codec(4, 2, Code.ISA_L_RS_CAUCHY)
    data = [special] * 4
    stripe = [*data, *codec.encode(data)]
    for lost in combinations(range(6), 2):
        assert codec.decode(without(stripe, lost), lost) == {n: stripe[n] for n in lost}


def test_a_fresh_codec_decodes_what_another_wrote() -> None:
    stripe = stripe_of(Codec(8, 3, Code.ISA_L_RS_CAUCHY))
    other = Codec(8, 3, Code.ISA_L_RS_CAUCHY)
    assert other.decode(without(stripe, (1, 4, 9)), (1, 4, 9)) == {n: stripe[n] for n in (1, 4, 9)}


@codes
def test_parity_rows_do_not_depend_on_how_many_there_are(code: Code) -> None:
    """So raising m adds fragments and changes none."""
    data = units(6)
    rows = [Codec(6, m, code).encode(data) for m in range(1, 6)]
    for fewer, more in pairwise(rows):
        assert more[: len(fewer)] == fewer


@codes
def test_parity_of_a_part_is_a_part_of_the_parity(code: Code) -> None:
    """So the last, short stripe needs no rule of its own."""
    codec = Codec(5, 2, code)
    data = units(5, 4 * BLOCK)
    whole = codec.encode(data)
    for at in range(0, 4 * BLOCK, BLOCK):
        part = codec.encode([memoryview(unit)[at : at + BLOCK] for unit in data])
        assert part == [unit[at : at + BLOCK] for unit in whole]


@pytest.mark.parametrize(
    ("k", "m", "code", "expected"),
    [
        (4, 2, Code.ISA_L_RS_CAUCHY, ["1d7e892ae2df17b5", "e8df58e83c007bae"]),
        (8, 3, Code.ISA_L_RS_CAUCHY, ["19496001992a8398", "08dd3c9b81f5b8b7", "3a944454a2a13748"]),
        (4, 2, Code.LIBERASURECODE_RS_VAND, ["f5c1f25286a7a5ea", "e5a7acef5b0a1b20"]),
        (
            8,
            3,
            Code.LIBERASURECODE_RS_VAND,
            ["856f8515a0016acb", "e866a429852abc5b", "72ddf1285975999a"],
        ),
    ],
)
def test_golden_parity(k: int, m: int, code: Code, expected: list[str]) -> None:
    """Parity on drives must be decodable for ever: another library has to compute the same."""
    content = hashlib.shake_256(b"shmr").digest(k * BLOCK)
    data = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    parity = Codec(k, m, code).encode(data)
    assert [hashlib.sha256(unit).hexdigest()[:16] for unit in parity] == expected


def test_copies_are_copies() -> None:
    [unit] = units(1)
    assert Codec(1, 0, Code.COPIES).encode([unit]) == []
    assert Codec(1, 2, Code.COPIES).encode([bytearray(unit)]) == [unit, unit]
    assert Codec(1, 2, Code.COPIES).decode({2: unit}, [0, 1, 2]) == {0: unit, 1: unit, 2: unit}
    with pytest.raises(CodecError, match="0 units to decode from, 1 are needed"):
        Codec(1, 2, Code.COPIES).decode({}, [0])


def test_without_redundancy_nothing_comes_back() -> None:
    codec = Codec(3, 0, Code.ISA_L_RS_CAUCHY)
    data = dict(enumerate(units(3)))
    assert codec.encode(list(data.values())) == []
    assert codec.decode(data, [2, 0]) == {0: data[0], 2: data[2]}
    del data[1]
    with pytest.raises(CodecError, match="2 units to decode from, 3 are needed"):
        codec.decode(data, [1])


def test_too_few_units_are_an_error_and_too_many_are_not() -> None:
    codec = Codec(4, 2, Code.ISA_L_RS_CAUCHY)
    stripe = stripe_of(codec)
    with pytest.raises(CodecError, match="3 units to decode from, 4 are needed"):
        codec.decode(without(stripe, (0, 1, 2)), [0])
    assert codec.decode(without(stripe, (3,)), [3, 5]) == {3: stripe[3], 5: stripe[5]}
    assert codec.decode(dict(enumerate(stripe)), []) == {}


def test_what_is_not_a_unit_never_reaches_the_library() -> None:
    codec = Codec(2, 1, Code.ISA_L_RS_CAUCHY)
    good = bytes(BLOCK)
    for bad in (
        [good],
        [good, good[:-1]],
        [good[:100]] * 2,
        [b""] * 2,
        [bytes(UNIT_MAX + BLOCK)] * 2,
    ):
        with pytest.raises(CodecError):
            codec.encode(bad)
    wrong: list[tuple[dict[int, bytes], list[int]]] = [
        ({0: good, 2: good[:-1]}, [1]),
        ({0: bytearray(good), 2: good}, [1]),  # type: ignore[dict-item]
        ({0: memoryview(good), 2: good}, [1]),  # type: ignore[dict-item]
        ({0: "text", 2: good}, [1]),  # type: ignore[dict-item]
        ({0: None, 2: good}, [1]),  # type: ignore[dict-item]
        ({0: b"", 2: b""}, [1]),
        ({0: good, 3: good}, [1]),
        ({0: good, -1: good}, [1]),
        ({0: good, 2: good}, [3]),
    ]
    for given_units, wanted in wrong:
        with pytest.raises(CodecError):
            codec.decode(given_units, wanted)


def test_an_error_of_the_library_is_a_codec_error(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(2, 1, Code.ISA_L_RS_CAUCHY)
    stripe = stripe_of(codec)
    library = codec._library
    assert library is not None

    def fails(*_: object) -> list[bytes]:
        raise MemoryError

    def lies(*_: object) -> list[bytes]:
        return [b"short"]

    for method in (fails, lies):
        monkeypatch.setattr(library, "reconstruct", method)
        monkeypatch.setattr(library, "encode", method)
        with pytest.raises(CodecError):
            codec.decode(without(stripe, (1,)), (1,))
        with pytest.raises(CodecError):
            codec.encode(stripe[:2])


@pytest.mark.parametrize(
    ("k", "m", "code"),
    [
        (0, 1, Code.COPIES),
        (1, -1, Code.COPIES),
        (2, 1, Code.COPIES),
        (1, 1, Code.ISA_L_RS_CAUCHY),
        (30, 3, Code.ISA_L_RS_CAUCHY),
        (1, 32, Code.COPIES),
    ],
)
def test_what_is_no_scheme_is_refused(k: int, m: int, code: Code) -> None:
    with pytest.raises(SetupError, match=rf"{k}\+{m}"):
        Codec(k, m, code)


@pytest.mark.parametrize("code", CODES)
def test_a_whole_segment_survives_the_loss_of_drives(code: Code) -> None:
    """Encode stripe by stripe, lose fragments, decode only what a read touches."""
    shape = Geometry(4, 2, 5 * BLOCK, 2 * BLOCK)
    codec = Codec(shape.k, shape.m, code)
    space = random.Random(3).randbytes(shape.space_bytes)
    fragments = [bytearray() for _ in range(shape.width)]
    for stripe in range(shape.stripes):
        starts = [shape.unit_address(fragment, stripe) for fragment in range(shape.k)]
        data = [space[at : at + shape.unit_size(stripe)] for at in starts]
        for fragment, unit in zip(fragments, [*data, *codec.encode(data)], strict=True):
            fragment += unit
    assert b"".join(fragments[: shape.k]) == space
    for lost in combinations(range(shape.width), 2):
        for address, length in ((0, len(space)), (3 * BLOCK + 1, 9), (7 * BLOCK - 5, 4 * BLOCK)):
            needed = shape.needed(shape.touched(address, length), lost)
            assert needed is not None
            there = {
                place: bytes(
                    fragments[place.fragment][
                        place.unit * shape.unit_bytes : (place.unit + 1) * shape.unit_bytes
                    ]
                )
                for place in needed
            }
            content = b""
            for piece in shape.pieces(address, length):
                stripe_units = {p.fragment: u for p, u in there.items() if p.unit == piece.unit}
                unit = codec.decode(stripe_units, [piece.fragment])[piece.fragment]
                content += unit[piece.offset : piece.offset + piece.length]
            assert content == space[address : address + length]


WITHOUT_PYECLIB = """
import sys
sys.modules["pyeclib"] = None
import shmr, shmr.codec
from shmr.codec import Codec, self_test
from shmr.errors import SetupError
from shmr.format.fragment import Code
assert Codec(1, 1, Code.COPIES).encode([bytes(4096)]) == [bytes(4096)]
assert self_test(1, 2, None) == 3
try:
    self_test(4, 2, "isa_l_rs_cauchy")
except SetupError as error:
    assert "pyeclib cannot be loaded" in str(error) and "pip install pyeclib" in str(error)
else:
    raise AssertionError("expected a SetupError")
"""


def test_only_erasure_codes_need_pyeclib() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYECLIB], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
