"""The trial of a scheme: it passes what is right and notices what is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import pytest

from shmr.codec import Codec, CodecError, codec, self_test
from shmr.codec.selftest import ALL_MAX, SAMPLE, losses
from shmr.errors import SetupError

CAUCHY, VAND = "isa_l_rs_cauchy", "liberasurecode_rs_vand"


@pytest.mark.parametrize(
    ("k", "m", "code", "tried"),
    [
        (1, 0, None, 1),
        (1, 3, None, 4),
        (4, 2, CAUCHY, 15),
        (8, 3, CAUCHY, 165),
        (10, 4, CAUCHY, 1001),
        (6, 5, CAUCHY, 462),
        (22, 4, CAUCHY, SAMPLE),
        (4, 2, VAND, 15),
        (8, 3, VAND, 165),
    ],
)
def test_schemes_that_work_pass(k: int, m: int, code: str | None, tried: int) -> None:
    assert self_test(k, m, code) == tried


def test_a_code_that_cannot_decode_every_loss_is_refused_with_the_reason() -> None:
    with pytest.raises(SetupError, match="cannot decode every loss"):
        self_test(4, 2, "isa_l_rs_vand")
    with pytest.raises(SetupError, match="jerasure_rs_vand is no code that shmr knows: use isa_l"):
        self_test(4, 2, "jerasure_rs_vand")
    with pytest.raises(SetupError, match="flat"):
        self_test(4, 2, "flat_xor_hd_3")
    with pytest.raises(SetupError, match="copies are for k = 1"):
        self_test(4, 2, None)


@pytest.mark.parametrize(("k", "m"), [(2, 1), (4, 2), (6, 5), (10, 4)])
def test_all_losses_are_tried_where_they_are_few(k: int, m: int) -> None:
    assert comb(k + m, m) <= ALL_MAX
    assert set(losses(k, m)) == set(combinations(range(k + m), m))


@pytest.mark.parametrize(("k", "m"), [(22, 4), (16, 16), (10, 22), (24, 8)])
def test_a_choice_of_losses_has_the_worst_and_every_unit(k: int, m: int) -> None:
    chosen = list(losses(k, m))
    assert len(chosen) == len(set(chosen)) == SAMPLE
    assert chosen == list(losses(k, m))
    assert all(len(set(lost)) == m and lost == tuple(sorted(lost)) for lost in chosen)
    assert {unit for lost in chosen for unit in lost} == set(range(k + m))
    most = min(k, m)
    worst = comb(k, most) * comb(m, m - most)
    assert sum(sum(unit < k for unit in lost) == most for lost in chosen) >= min(worst, SAMPLE // 8)
    assert tuple(range(m)) in chosen
    assert tuple(range(k, k + m)) in chosen


def test_one_loss_that_decodes_to_wrong_bytes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Codec.decode

    def wrong(codec: Codec, units: Mapping[int, bytes], wanted: Sequence[int]) -> dict[int, bytes]:
        found = right(codec, units, wanted)
        if tuple(wanted) == (2, 5):
            found[2] = found[2][:-1] + bytes([found[2][-1] ^ 1])
        return found

    monkeypatch.setattr(Codec, "decode", wrong)
    with pytest.raises(SetupError, match=r"isa_l_rs_cauchy 4\+2: the loss of units \[2, 5\]"):
        self_test(4, 2, CAUCHY)


def test_the_trial_finds_what_is_wrong_with_isa_l_rs_vand(monkeypatch: pytest.MonkeyPatch) -> None:
    right = codec._open_library
    monkeypatch.setattr(codec, "_open_library", lambda k, m, _: right(k, m, "isa_l_rs_vand"))
    assert self_test(4, 2, CAUCHY) == 15
    with pytest.raises(SetupError, match=r"6\+5: decoding units"):
        self_test(6, 5, CAUCHY)


def test_an_error_while_trying_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> dict[int, bytes]:
        raise CodecError("out of order")

    monkeypatch.setattr(Codec, "decode", fails)
    with pytest.raises(SetupError, match=r"isa_l_rs_cauchy 4\+2: out of order"):
        self_test(4, 2, CAUCHY)
