"""Erasure coding, one stripe at a time: the only package that knows pyeclib.

* `codec`: units to parity, and any k units to the others.
* `selftest`: whether a scheme really survives what it promises, before anything relies on it.
* `allocator`: what makes the library fast.

pyeclib is loaded when the first erasure code is made, so that everything but erasure pools works
without it.
"""

from __future__ import annotations

from shmr.codec.codec import Codec, CodecError
from shmr.codec.selftest import self_test

__all__ = ["Codec", "CodecError", "self_test"]
