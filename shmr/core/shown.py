"""Names and paths as people may see them: what could steer a terminal is written as an escape."""

from __future__ import annotations

SHOWN_MAX = 4096
"""Bytes of a path that are shown."""


def shown(path: bytes) -> str:
    """A path, or a name, on one line; bytes that are no UTF-8 are escaped too."""
    cut = path[:SHOWN_MAX]
    text = cut.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(
            letter if letter.isprintable() else letter.encode("unicode_escape").decode()
            for letter in text
        )
    return text if len(cut) == len(path) else text + "..."
