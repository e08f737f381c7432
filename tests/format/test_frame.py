"""Frames: what was encoded is decoded, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.errors import IntegrityError
from shmr.format import frame
from shmr.format.frame import GRANULE, LENGTH_MAX, FrameHeader, Kind

u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(Kind)
payloads = st.binary(max_size=300) | st.builds(
    lambda seed, length: (seed * (length // len(seed) + 1))[:length],
    st.binary(min_size=1, max_size=9),
    st.sampled_from((GRANULE - 1, GRANULE, GRANULE + 1, 5 * GRANULE + 7, 200_000)),
)


def encoded(
    payload: bytes = b"", kind: int = Kind.DATA, numbers: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
) -> bytes:
    filesystem, segment, sequence, owner, position, previous = numbers
    _, buffers = frame.encode(
        kind, filesystem, segment, sequence, owner, position, payload, previous
    )
    return b"".join(buffers)


def payload_of(header: FrameHeader, whole: bytes) -> bytes:
    start = frame.header_size(header.length)
    return whole[start : start + header.length]


@given(payloads, kinds, st.tuples(u64, u64, u64, u64, u64, u32))
def test_a_frame_comes_back_as_it_was(payload: bytes, kind: Kind, numbers: tuple[int, ...]) -> None:
    whole = encoded(payload, kind, numbers)
    header = frame.decode(whole)
    found = (header.filesystem, header.segment, header.sequence, header.owner, header.position)
    assert (*found, header.previous) == numbers
    assert (header.kind, header.length) == (kind, len(payload))
    frame.verify(header, payload_of(header, whole))
    assert payload_of(header, whole) == payload
    assert len(whole) == frame.frame_size(len(payload))
    assert len(whole) % frame.ALIGNMENT == 0
    assert frame.peek_length(whole) == len(payload)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_header_or_an_integrity_error(content: bytes) -> None:
    for decode in (frame.decode, frame.peek_length):
        try:
            decode(content)
        except IntegrityError:
            pass


@given(payloads, st.data())
def test_a_changed_byte_of_a_header_is_an_integrity_error(
    payload: bytes, data: st.DataObject
) -> None:
    whole = bytearray(encoded(payload))
    at = data.draw(st.integers(0, frame.header_size(len(payload)) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError):
        frame.decode(whole)


@pytest.mark.parametrize("length", [0, 1, GRANULE, GRANULE + 1, 3 * GRANULE])
def test_any_flipped_bit_of_a_header_is_an_integrity_error(length: int) -> None:
    whole = encoded(bytes(length))
    header = whole[: frame.header_size(length)]
    for bit in range(8 * len(header)):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            frame.decode(flipped)


@given(payloads.filter(len), st.data())
def test_a_changed_byte_of_the_payload_is_an_integrity_error(
    payload: bytes, data: st.DataObject
) -> None:
    header = frame.decode(encoded(payload))
    bent = bytearray(payload)
    bent[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IntegrityError):
        frame.verify(header, bent)


@given(st.data())
def test_granules_verify_alone(data: st.DataObject) -> None:
    payload = bytes(range(256)) * (4 * GRANULE // 256) + b"tail"
    header = frame.decode(encoded(payload))
    first = data.draw(st.integers(0, 4))
    last = data.draw(st.integers(first, 5))
    part = payload[first * GRANULE : last * GRANULE]
    frame.verify(header, part, first * GRANULE)
    with pytest.raises(IntegrityError):
        frame.verify(header, part + b"x", first * GRANULE)
    if part:
        with pytest.raises(IntegrityError):
            frame.verify(header, part, first * GRANULE + 1)


def test_a_header_cut_short_is_an_integrity_error() -> None:
    whole = encoded(bytes(3 * GRANULE))
    for end in range(frame.header_size(3 * GRANULE)):
        with pytest.raises(IntegrityError):
            frame.decode(whole[:end])


@pytest.mark.parametrize("length", [LENGTH_MAX + 1, 2**31, 2**32 - 1])
def test_a_forged_length_asks_for_no_memory(length: int) -> None:
    whole = bytearray(encoded())
    whole[48:52] = length.to_bytes(4, "little")
    for decode in (frame.decode, frame.peek_length):
        with pytest.raises(IntegrityError):
            decode(bytes(whole))


def test_the_largest_payload_is_a_frame() -> None:
    payload = bytes(LENGTH_MAX)
    whole = encoded(payload)
    header = frame.decode(whole[: frame.HEADER_MAX])
    frame.verify(header, payload)


GOLDEN = [
    (
        encoded(),
        "a68a908b01020000010000000000000002000000000000000300000000000000"
        "0400000000000000050000000000000000000000060000000000000000000000",
    ),
    (
        encoded(b"hello", Kind.META, (0x0706050403020100, 2, 3, 0, 0, 0xDEADBEEF)),
        "889638f901030000000102030405060702000000000000000300000000000000"
        "0000000000000000000000000000000005000000efbeadde0000000000000000"
        "4cbb719a00000000"
        "68656c6c6f000000",
    ),
    (
        encoded(bytes(GRANULE + 1))[: frame.header_size(GRANULE + 1)],
        "686f6c6001020000010000000000000002000000000000000300000000000000"
        "0400000000000000050000000000000001400000060000000000000000000000"
        "850b649451537d52",
    ),
]


@pytest.mark.parametrize(("whole", "golden"), GOLDEN, ids=["empty", "hello", "two granules"])
def test_the_bytes_are_those_of_the_format(whole: bytes, golden: str) -> None:
    assert whole.hex() == golden
