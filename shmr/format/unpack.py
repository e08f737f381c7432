"""msgpack under limits: from checksummed bytes to a list of checked fields.

A value is unpacked only after its checksum was verified, and even then under explicit limits,
because a checksum proves who wrote it, not that the writer was sane.
"""

from __future__ import annotations

from typing import Any

import msgpack

from shmr.errors import IntegrityError


def unpack_list(buffer: bytes | memoryview, what: str) -> list[Any]:
    """The msgpack array in `buffer`, which must hold nothing else. Raises IntegrityError."""
    size = len(buffer)
    try:
        value = msgpack.unpackb(
            buffer,
            raw=True,
            strict_map_key=False,
            max_str_len=0,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=0,
            max_ext_len=0,
        )
    except Exception as error:
        # msgpack raises a dozen unrelated types for bad input; each means the same here.
        raise IntegrityError(f"{what}: not the msgpack expected ({error})") from error
    if type(value) is not list:
        raise IntegrityError(f"{what}: expected a list")
    return value


def expect(condition: bool, what: str) -> None:
    """Raise IntegrityError naming `what` unless `condition` holds."""
    if not condition:
        raise IntegrityError(f"{what}: fields are out of their limits")
