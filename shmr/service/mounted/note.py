"""A note beside the catalog while its filesystem is mounted and may be changed.

`catalog.mounted` is made when the daemon has opened the volume, and goes when everything was
written. Found when nobody has the filesystem mounted, it says that the last end was none: a crash,
or changes that no drive took. Whoever unmounts looks for it; nothing else depends on it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def note_of(catalog: Path) -> Path:
    """The note of the catalog in this directory."""
    return catalog.with_name(catalog.name + ".mounted")


def note_beside(log: Path) -> Path:
    """The note of the daemon that has this log."""
    return log.with_suffix(".mounted")


def leave_note(catalog: Path) -> None:
    """Without one, on a full disk for example, nobody is told how it ended."""
    with suppress(OSError):
        note_of(catalog).touch(0o600)


def take_note(catalog: Path) -> None:
    """Everything is written, or nothing was to be."""
    with suppress(OSError):
        note_of(catalog).unlink()
