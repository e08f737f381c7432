"""FUSE_INIT: what libfuse sees of the request, what the kernel sees of the reply."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.errors import SetupError
from shmr.fuse import negotiate
from shmr.fuse.negotiate import HIDDEN, UNWANTED, WANTED, Offer, edit_reply, edit_request

FLAGS = st.integers(0, 2**32 - 1)


def request(flags: int, opcode: int = 26) -> bytes:
    header = struct.pack("<IIQQIIII", 104, opcode, 2, 0, 0, 0, 0, 0)
    return header + struct.pack("<IIII", 7, 45, 131072, flags) + bytes(48)


def reply(flags: int, max_write: int = 1 << 20) -> bytes:
    body = struct.pack("<IIIIHHIIH", 7, 31, 65536, flags, 0, 0, max_write, 1, 32)
    return struct.pack("<IiQ", 80, 0, 2) + body + bytes(34)


def reply_flags(message: bytes) -> int:
    return int(struct.unpack_from("<I", message, 28)[0])


@given(FLAGS)
def test_libfuse_sees_all_of_the_offer_but_splicing(flags: int) -> None:
    edited = edit_request(request(flags))
    assert negotiate.parse_request(edited) == Offer(7, 45, 131072, flags & ~HIDDEN)
    assert edited[:52] == request(flags)[:52]
    assert edited[56:] == request(flags)[56:]


@given(offered=FLAGS, answered=FLAGS)
def test_the_kernel_is_asked_for_what_it_offered_and_for_nothing_unwanted(
    offered: int, answered: int
) -> None:
    flags = reply_flags(edit_reply(reply(answered), Offer(7, 45, 131072, offered)))
    assert not flags & UNWANTED
    assert flags & ~answered & ~offered == 0
    assert flags & WANTED & offered == WANTED & offered


def test_limits_of_the_reply_are_ours() -> None:
    edited = edit_reply(reply(0, max_write=1 << 24), Offer(7, 45, 4 << 20, 0))
    values = struct.unpack_from("<IIIIHHIIH", edited, 16)
    assert values == (7, 31, 4 << 20, 0, 64, 48, 1 << 20, 1, 256)
    assert edited[:16] == reply(0)[:16]
    assert len(edited) == len(reply(0))


@pytest.mark.parametrize("message", [b"", b"\0" * 40, request(0, opcode=1), request(0)[:50]])
def test_a_first_request_that_is_no_init_is_refused(message: bytes) -> None:
    with pytest.raises(SetupError, match="FUSE_INIT"):
        negotiate.parse_request(message)


@pytest.mark.parametrize("message", [b"", struct.pack("<IiQ", 16, -71, 2)])
def test_a_libfuse_that_declines_is_named(message: bytes) -> None:
    with pytest.raises(SetupError, match="newer libfuse3"):
        edit_reply(message, Offer(9, 1, 0, 0))
