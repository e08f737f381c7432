"""Looking at a fragment: is what lies on its drive what the row says? Header, footer and table.

No unit is read. What a reader needs is the footer: a fragment whose header or table alone is
damaged is still read, and written anew all the same.
"""

from __future__ import annotations

import errno
from hashlib import sha256
from typing import NamedTuple

from shmr.drive.seam import DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived
from shmr.format.fragment import BLOCK, FragmentHeader, decode_footer, decode_header, file_name
from shmr.fsck.findings import Kind
from shmr.log.fragments import FragmentStore
from shmr.units import MIB


class Health(NamedTuple):
    """What looking at a fragment came to. `kind`: what is wrong, if something is.

    `readable`: its units can be read, as far as is known without reading them; `has_table`: its
    table can.
    """

    kind: Kind | None
    why: str = ""
    readable: bool = False
    has_table: bool = False


def look(fragments: FragmentStore, number: int, archived: Archived, index: int) -> Health:
    """Look at a fragment whose drive is there. Blocking, any thread."""
    placed = archived.fragments[index]
    drive = fragments.drives[placed.drive]
    name = file_name(number, index, placed.generation)
    try:
        size = drive.size(name)
        file = drive.open(name)
        try:
            return _inside(file, size, fragments.filesystem, number, archived, index)
        finally:
            file.close()
    except DriveError as error:
        if error.errno == errno.ENOENT:
            return Health(Kind.FRAGMENT_MISSING, "it is not there")
        return Health(Kind.FRAGMENT_UNREADABLE, str(error))


def _inside(
    file: DriveFile, size: int, filesystem: bytes, number: int, archived: Archived, index: int
) -> Health:
    """Raises DriveError."""
    wanted = archived.header(filesystem, number, index)
    header: FragmentHeader | None = None
    problem = ""
    try:
        header = decode_header(file.read(0, BLOCK))
    except IntegrityError as error:
        problem = str(error)
    if header is not None:
        try:
            archived.check(header, filesystem, number, index)
        except IntegrityError as error:
            return Health(Kind.FRAGMENT_FOREIGN, str(error))
    if size < wanted.length:
        return Health(Kind.FRAGMENT_LENGTH, f"it has {size} bytes and should have {wanted.length}")
    try:
        footer = decode_footer(file.read(wanted.footer_offset, wanted.footer_bytes))
    except IntegrityError as error:
        return Health(Kind.FRAGMENT_FOOTER, str(error))
    try:
        archived.check(footer.header, filesystem, number, index)
    except IntegrityError as error:
        return Health(Kind.FRAGMENT_FOREIGN, f"in its footer: {error}")
    if header is None:
        return Health(Kind.FRAGMENT_HEADER, problem, True)
    if header != footer.header:
        return Health(Kind.FRAGMENT_HEADER, "the header is not the one in its footer", True)
    if size != wanted.length:
        why = f"it has {size} bytes and should have {wanted.length}"
        return Health(Kind.FRAGMENT_LENGTH, why, True)
    if _table_sum(file, wanted) != footer.table_digest:
        return Health(Kind.FRAGMENT_TABLE, "the table's checksum does not match", True)
    return Health(None, "", True, True)


def _table_sum(file: DriveFile, header: FragmentHeader) -> bytes:
    """The digest of the table as it stands there, of which a piece is in memory at a time."""
    digest = sha256()
    at, end = header.table_offset, header.footer_offset
    while at < end:
        piece = file.read(at, min(MIB, end - at))
        if not piece:
            break
        digest.update(piece)
        at += len(piece)
    return digest.digest()
