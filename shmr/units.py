"""Sizes and times as people write them, and back.

Binary units only (KiB, MiB, GiB, TiB, PiB); a bare number counts bytes.
"""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB
PIB = 1024 * TIB

NS_PER_S = 1_000_000_000

_SIZES = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": TIB, "PIB": PIB}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Bytes of `text` such as "256MiB" or 4096. Raises ValueError with the accepted form."""
    if isinstance(text, int) and not isinstance(text, bool):
        if text < 0:
            raise ValueError("a size cannot be negative")
        return text
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2].upper() not in _SIZES:
        raise ValueError(f"expected a size such as 256MiB or 100GiB, found {text!r}")
    return int(float(match[1]) * _SIZES[match[2].upper()])


def format_size(size_bytes: int) -> str:
    """`size_bytes` with the largest unit that keeps it at one or above: "1.5 GiB"."""
    for unit, factor in (("PiB", PIB), ("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
