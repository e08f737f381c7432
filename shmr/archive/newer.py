"""What archive drives hold that the log never knew: then the log is an older one.

A number is durable in the log before any fragment, or copy of a snapshot, bears it. So where one
has a number that was not given yet, the workspace was put back as it was at an earlier time, or
lost its end. What is there may be the only copy of what was archived since, and no shift may take
it for strays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from shmr.archive.keep import copies_on
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format.fragment import BLOCK, decode_header
from shmr.log import walk
from shmr.log.fragments import FragmentName, FragmentStore

ADVICE = (
    "the workspace is an older one than the archive: put the newer one back. If that is lost, "
    "empty the directories of the workspace, and make it anew with `shmr-fsck rebuild-catalog`; "
    "what only this one has is to be copied out before"
)


def refuse_newer(
    fragments: FragmentStore, found: Mapping[bytes, Iterable[FragmentName]], taken: int
) -> None:
    """Raise SetupError where a file of those `found`, or a copy of a snapshot, has a number that is
    not below `taken`: nothing may be discarded then. Blocking; raises no DriveError."""
    for drive_id, names in found.items():
        drive = fragments.drives[drive_id]
        for name in newer_on(drive, fragments.filesystem, names, taken):
            raise SetupError(
                f"{name} on {drive.label} was written after all that the log knows of, and nothing "
                f"is discarded: {ADVICE}"
            )


def newer_on(
    drive: Drive, filesystem: bytes, names: Iterable[FragmentName], taken: int
) -> Iterator[str]:
    """The files of a drive that have a number not below `taken`, and prove by their beginning that
    it is theirs. `names` are its fragments. Raises no DriveError."""
    for name in sorted(names):
        if name.segment >= taken and _is_fragment(drive, filesystem, name):
            yield name.file
    for copy in sorted(copies_on(drive)):
        number = int(copy.rpartition("-")[2])
        if number >= taken and _is_copy(drive, filesystem, copy, number):
            yield copy


def _is_fragment(drive: Drive, filesystem: bytes, name: FragmentName) -> bool:
    try:
        file = drive.open(name.file)
        try:
            header = decode_header(file.read(0, BLOCK))
        finally:
            file.close()
    except (DriveError, IntegrityError):
        return False
    return (header.filesystem, header.segment) == (filesystem, name.segment)


def _is_copy(drive: Drive, filesystem: bytes, name: str, number: int) -> bool:
    try:
        file = drive.open(name)
        try:
            return walk.opening_of((file,), filesystem, number) is not None
        finally:
            file.close()
    except DriveError:
        return False
