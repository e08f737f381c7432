"""Units to parity, and any k units of a stripe to the others.

What holds here, because the library forgives nothing (it crashes on a forged header, aborts the
process on anything but bytes, and decodes a flipped bit into silent garbage):

* It gets bytes objects whose number, type and length were checked, and no others. Whether they are
  the right bytes is the caller's to verify before, and what comes out, after.
* The header that it wants before each unit is made by the library itself, from an encode of
  zeros, in this process; it depends on the size of the unit only. None is ever stored.
* It gets exactly k units to decode from, chosen here: data before parity, lower before higher. So
  what `self_test` tried is what happens. To try another combination, give other units.
* Its errors come out as `CodecError`.

Copies (k = 1) and no redundancy (m = 0) need no library. Of the codes only those are known that
decode every loss of m units: isa_l_rs_vand does not.

Speed, on one of two shared cores of an EPYC, units of 256 KiB, in GB of data per second, the
joining and slicing of units included:

    code                     4+2   8+3   10+4
    isa_l_rs_cauchy          3.6   3.3   2.8    encode
                             6.2   7.7   7.7    decode one unit (GB of the stripe)
                             3.8   3.3   2.7    decode m units
    liberasurecode_rs_vand   0.30  0.17  0.12   encode

Cutting units into slices that fit the cache gains nothing. The interpreter lock is held meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from shmr.codec.allocator import keep_freed_memory
from shmr.errors import IntegrityError, SetupError
from shmr.format.fragment import BLOCK, UNIT_MAX, WIDTH_MAX, Code

if TYPE_CHECKING:
    from pyeclib.ec_iface import ECDriver

Buffer = bytes | bytearray | memoryview

_ADVICE = "erasure pools need pyeclib (python -m pip install pyeclib); all others work without it"


class CodecError(IntegrityError):
    """A stripe could not be encoded or decoded; another combination of its units may do."""


class Codec:
    """One scheme. Raises SetupError if there is no such scheme, or pyeclib cannot do it here.

    Used by one thread at a time.
    """

    def __init__(self, k: int, m: int, code: Code) -> None:
        if k < 1 or m < 0 or k + m > WIDTH_MAX:
            raise SetupError(f"{k}+{m}: k is at least 1, and k + m at most {WIDTH_MAX}")
        if (code is Code.COPIES) != (k == 1):
            raise SetupError(f"{k}+{m}: copies are for k = 1, which needs no {code.name.lower()}")
        self.k = k
        self.m = m
        self.code = code
        computes = k > 1 and m > 0
        self._library = _open_library(k, m, code.name.lower()) if computes else None
        # Two sizes of units occur in a segment: whole ones and the last.
        self._headers = lru_cache(maxsize=8)(self._make_headers)

    @property
    def width(self) -> int:
        """How many units a stripe has."""
        return self.k + self.m

    def encode(self, units: Sequence[Buffer]) -> list[bytes]:
        """The m parity units of one stripe, from its k data units, all of one size.

        Raises CodecError.
        """
        if len(units) != self.k:
            raise CodecError(f"{len(units)} units to encode, expected {self.k}")
        size = _common_size(units)
        if self._library is None:
            return [bytes(units[0])] * self.m
        header = len(self._headers(size)[0])
        coded = self._encode(b"".join(units), size + header)
        return [unit[header:] for unit in coded[self.k :]]

    def decode(self, units: Mapping[int, bytes], wanted: Sequence[int]) -> dict[int, bytes]:
        """The `wanted` units of one stripe, by index, from at least k verified others.

        Indexes count data from 0, then parity from k. Raises CodecError.
        """
        if not all(0 <= index < self.width for index in (*units, *wanted)):
            raise CodecError(f"units {sorted({*units, *wanted})}: there are {self.width}")
        if not all(type(unit) is bytes for unit in units.values()):
            raise CodecError("a unit to decode from is not of type bytes")
        missing = [index for index in dict.fromkeys(wanted) if index not in units]
        sources = sorted(units)[: self.k]
        if missing and len(sources) < self.k:
            raise CodecError(f"{len(sources)} units to decode from, {self.k} are needed")
        size = _common_size(list(units.values())) if units else 0
        found = {index: units[index] for index in wanted if index in units}
        if self._library is None:
            return found | {index: units[sources[0]] for index in missing}
        if missing:
            found |= self._reconstruct(units, sources, missing, size)
        return found

    def _reconstruct(
        self, units: Mapping[int, bytes], sources: list[int], missing: list[int], size: int
    ) -> dict[int, bytes]:
        headers = self._headers(size)
        whole = [headers[index] + units[index] for index in sources]
        assert self._library is not None
        try:
            rebuilt = self._library.reconstruct(whole, missing)
        except Exception as error:
            # The library raises a dozen types, MemoryError and ValueError among them.
            raise CodecError(f"decoding units {missing} from {sources}: {error}") from error
        found = {}
        for index, unit in zip(missing, rebuilt, strict=True):
            header = headers[index]
            if len(unit) != len(header) + size or not unit.startswith(header):
                raise CodecError(f"decoding units {missing} from {sources}: not what was asked for")
            found[index] = unit[len(header) :]
        return found

    def _make_headers(self, size: int) -> tuple[bytes, ...]:
        """What the library puts before each unit of `size` bytes."""
        coded = self._encode(bytes(self.k * size), None)
        header = len(coded[0]) - size
        if header <= 0 or any(len(unit) != header + size for unit in coded):
            raise CodecError(f"units of {size} bytes came back as {len(coded[0])} bytes")
        return tuple(unit[:header] for unit in coded)

    def _encode(self, data: bytes, expected_bytes: int | None) -> list[bytes]:
        assert self._library is not None
        try:
            coded = self._library.encode(data)
        except Exception as error:
            raise CodecError(f"encoding {self.k}+{self.m}: {error}") from error
        wrong = expected_bytes is not None and any(len(unit) != expected_bytes for unit in coded)
        if len(coded) != self.width or wrong:
            raise CodecError(f"encoding {self.k}+{self.m}: not what was asked for")
        return coded


def _common_size(units: Sequence[Buffer]) -> int:
    """The size of all units in bytes: a multiple of 4 KiB, at most 2 MiB. Raises CodecError."""
    sizes = {memoryview(unit).nbytes for unit in units}
    size = min(sizes)
    if len(sizes) != 1 or size % BLOCK or not 0 < size <= UNIT_MAX:
        raise CodecError(f"units of {sorted(sizes)} bytes in one stripe")
    return size


def _open_library(k: int, m: int, name: str) -> ECDriver:
    # Here and not above: pyeclib looks for all of its backends when it is loaded, and an
    # installation that is broken must not keep the filesystem from its mount.
    try:
        from pyeclib.ec_iface import ECDriver
    except Exception as error:
        raise SetupError(
            f"{name} {k}+{m}: pyeclib cannot be loaded ({error}); {_ADVICE}"
        ) from error
    keep_freed_memory()
    try:
        return ECDriver(k=k, m=m, ec_type=name)
    except Exception as error:
        raise SetupError(f"{name} {k}+{m}: pyeclib refuses it ({error}); {_ADVICE}") from error
