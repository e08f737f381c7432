"""FUSE_INIT: what of the kernel's offer is taken, and which kernels are refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.errors import SetupError
from shmr.fuse import negotiate
from shmr.fuse.negotiate import NEEDED, WANTED, Offer

FLAGS = st.integers(0, 2**32 - 1)
ALL_NEEDED = sum(NEEDED.values())


def request(flags: int, opcode: int = 26, minor: int = 45) -> bytes:
    header = struct.pack("<IIQQIIII", 104, opcode, 2, 0, 0, 0, 0, 0)
    return header + struct.pack("<IIII", 7, minor, 131072, flags) + bytes(48)


@given(FLAGS)
def test_an_offer_is_read_as_it_was_made(flags: int) -> None:
    assert negotiate.parse_offer(request(flags)) == Offer(2, 7, 45, 131072, flags)


@given(FLAGS)
def test_all_that_is_wanted_and_offered_is_taken_and_nothing_else(flags: int) -> None:
    reply = negotiate.reply(Offer(2, 7, 45, 4 << 20, flags | ALL_NEEDED))
    values = struct.unpack_from("<IIIIHHIIH", reply)
    assert values == (7, 31, 4 << 20, WANTED & (flags | ALL_NEEDED), 64, 48, 1 << 20, 1, 256)
    assert len(reply) == 64


@pytest.mark.parametrize("name", NEEDED)
def test_a_kernel_without_what_is_needed_is_named(name: str) -> None:
    with pytest.raises(SetupError, match=name):
        negotiate.reply(Offer(2, 7, 45, 0, ALL_NEEDED & ~NEEDED[name]))


@pytest.mark.parametrize("message", [b"", b"\0" * 40, request(0, opcode=1), request(0)[:50]])
def test_a_first_request_that_is_no_init_is_refused(message: bytes) -> None:
    with pytest.raises(SetupError, match="FUSE_INIT"):
        negotiate.parse_offer(message)


def test_an_old_kernel_is_told_which_one_is_needed() -> None:
    with pytest.raises(SetupError, match=r"FUSE 7\.26.*Linux 5\.12"):
        negotiate.parse_offer(request(0, minor=26))
