"""Where each archive drive was when it was last there: `catalog.drives` beside the catalog.

Superblocks and journal know drives by their ids, people by their paths. When a disk has died, this
is what tells which id it was. Advisory (FORMAT.md section 2): lost or damaged, ids still do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_SIZE_MAX = 1 << 20
_ID_DIGITS = 32


def last_seen(catalog: Path) -> dict[bytes, str]:
    """Paths by the ids of drives, as far as they are known."""
    try:
        with _note_of(catalog).open("rb") as file:
            content = json.loads(file.read(_SIZE_MAX))
        return {
            bytes.fromhex(drive): path
            for drive, path in content.items()
            if len(drive) == _ID_DIGITS and isinstance(path, str)
        }
    except (OSError, ValueError, AttributeError):
        return {}


def note_places(catalog: Path, there: Mapping[bytes, str]) -> None:
    """Remember where these drives are. Those that are not there stay as they were.

    A path that another drive has now is no longer that of the one before. Not being able to is no
    error: on a full disk, say.
    """
    before = last_seen(catalog)
    taken = set(there.values())
    after = {drive: path for drive, path in before.items() if path not in taken} | dict(there)
    if after == before:
        return
    note = _note_of(catalog)
    part = note.with_name(note.name + ".new")
    with suppress(OSError):
        content = json.dumps({drive.hex(): path for drive, path in sorted(after.items())}, indent=0)
        with part.open("w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(note)


def _note_of(catalog: Path) -> Path:
    return catalog.with_name(catalog.name + ".drives")
