"""What an archive drive says of itself: left on it for whoever finds it, with shmr or without.

    README.txt       what the drive is, in plain words
    shmr-decode.py   lists its files and copies them out, with Python alone
    FORMAT.md        what every byte of it means

They mean nothing to shmr, and are nobody's business but this module's: a drive that cannot take
them is as good as one that has them. Files of these names whose content differs are replaced, as
after an update of shmr, or where a power cut left them torn.
"""

from __future__ import annotations

import errno
import logging
from functools import cache
from importlib import resources

from shmr.drive.seam import Drive
from shmr.errors import DriveError

logger = logging.getLogger(__name__)

_FROM = {
    "README.txt": "shmr.archive.leave",
    "shmr-decode.py": "shmr.archive.leave",
    "FORMAT.md": "shmr.format",
}
NAMES = frozenset(_FROM)


@cache
def contents() -> dict[str, bytes]:
    """What is left on a drive, by name."""
    return {
        name: resources.files(package).joinpath(name).read_bytes()
        for name, package in _FROM.items()
    }


def leave_on(drive: Drive, *, spare_bytes: int) -> None:
    """See that the drive has them, as long as it has `spare_bytes` beside. Blocking, any thread.

    Reads them, so it is for a drive that is awake. Never raises a DriveError: it is logged.
    """
    try:
        there = NAMES.intersection(drive.names())
        for name, content in contents().items():
            if name in there:
                if _is(drive, name, content):
                    continue
                drive.discard(name)
            if drive.capacity().free_bytes < spare_bytes + len(content):
                logger.info("drive %s has no room for %s", drive.label, name)
                continue
            drive.put(name, content)
    except DriveError as error:
        logger.warning("not left on the drive for who finds it: %s", error)


def take_from(drive: Drive) -> None:
    """They go, as the drive will be nobody's. Raises DriveError."""
    for name in NAMES.intersection(drive.names()):
        try:
            drive.discard(name)
        except DriveError as error:
            if error.errno != errno.ENOENT:
                raise


def _is(drive: Drive, name: str, content: bytes) -> bool:
    """Is that the content of the file?"""
    if drive.size(name) != len(content):
        return False
    file = drive.open(name)
    try:
        return file.read(0, len(content)) == content
    finally:
        file.close()
