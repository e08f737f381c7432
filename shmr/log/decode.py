"""A whole stripe from k of its units, proved before anybody sees it.

The units that go in were each compared with the sum in their fragment's footer. The sums of the
lost ones are not known: they were in the footers that are lost. What proves a decoded unit is that
the k data units, encoded again, give the very parity units that went in. With a code that decodes
every loss of m units (others are not known here) k units determine the stripe: there is one set of
data units only that agrees with all k, and whoever has it can prove it by encoding. So a decoder
that errs is noticed, whatever it returns. Any further unit that is known is compared too.

Not proved this way is a wanted parity unit itself, which is encoded from proved data and used for
nothing but to be written, and verified, again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from itertools import combinations, islice

from shmr.codec import Codec, CodecError
from shmr.errors import IntegrityError, SetupError
from shmr.format.archived import Archived
from shmr.format.fragment import Code
from shmr.units import MIB

STRIPE_MAX = 32 * MIB
"""Bytes of a stripe, of which decoding has several copies in memory: shmr's own have 8 MiB at most,
but whoever forges a fragment may claim 64."""
TRIES_MAX = 32
"""Combinations of k units that are tried when some give nothing."""


def restored(codec: Codec, units: Mapping[int, bytes]) -> list[bytes]:
    """All k+m units of a stripe, from k or more verified ones. Raises CodecError."""
    k = codec.k
    data = codec.decode(units, range(k))
    whole = [data[index] for index in range(k)]
    whole += codec.encode(whole)
    for index, unit in units.items():
        if whole[index] != unit:
            raise CodecError(f"decoded units do not encode to unit {index}, which verified")
    return whole


class Decoder:
    """Restores stripes of any scheme; for any thread, one stripe at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._codecs: dict[tuple[int, int, int], Codec] = {}

    def restore(self, archived: Archived, units: Mapping[int, bytes]) -> list[bytes]:
        """All units of a stripe, by index, from verified ones.

        An error of the library costs another combination of them. Raises IntegrityError.
        """
        stripe_bytes = sum(map(len, units.values())) // len(units) * (archived.k + archived.m)
        if stripe_bytes > STRIPE_MAX:
            raise IntegrityError(f"a stripe of {stripe_bytes} bytes, the limit is {STRIPE_MAX}")
        failure: CodecError | None = None
        with self._lock:
            codec = self._codec(archived)
            for some in _choices(units, codec.k):
                try:
                    whole = restored(codec, some)
                except CodecError as error:
                    failure = error
                    continue
                wrong = [index for index, unit in units.items() if whole[index] != unit]
                if not wrong:
                    return whole
                failure = CodecError(f"units {sorted(some)} contradict unit {wrong[0]}")
        raise failure or CodecError(f"{len(units)} units to decode from, {archived.k} are needed")

    def _codec(self, archived: Archived) -> Codec:
        key = archived.k, archived.m, archived.code
        codec = self._codecs.get(key)
        if codec is None:
            try:
                codec = self._codecs[key] = Codec(archived.k, archived.m, Code(archived.code))
            except SetupError as error:
                raise IntegrityError(f"cannot be decoded here: {error}") from error
        return codec


def _choices(units: Mapping[int, bytes], k: int) -> Iterator[Mapping[int, bytes]]:
    """k of the units at a time: data before parity, lower before higher."""
    for chosen in islice(combinations(sorted(units), k), TRIES_MAX):
        yield {index: units[index] for index in chosen}
