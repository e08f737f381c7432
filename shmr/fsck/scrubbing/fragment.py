"""Every byte of a fragment against its sums: header, units, table, footer (FORMAT.md section 13).

The catalog's row tells how long each part is. So a fragment is read from front to back, without a
jump to its footer and back; its sums are compared when they come by at the end.
"""

from __future__ import annotations

from hashlib import sha256

from shmr.errors import IntegrityError
from shmr.format.archived import Archived
from shmr.format.fragment import (
    BLOCK,
    Footer,
    FragmentHeader,
    decode_footer,
    decode_header,
    unit_sum,
)
from shmr.fsck.scrubbing.reading import READ_BYTES, Damage, Reader, hole_in

_SUM = 16
FIRST_BYTES = BLOCK
"""So much is read first: what follows are units, as many at a time as fit."""
HEADER, UNIT, TABLE, FOOTER, LENGTH = "header", "unit", "table", "footer", "length"
"""The parts that damage is told of."""


def examine(
    reader: Reader, size_bytes: int, filesystem: bytes, segment: int, archived: Archived, index: int
) -> list[Damage]:
    """What is damaged of the fragment that the row means, whose file has `size_bytes`.

    Raises Stopped, GivenUp.
    """
    meant = archived.header(filesystem, segment, index)
    found: list[Damage] = []
    if size_bytes != meant.length:
        why = f"{size_bytes} bytes, and should have {meant.length}"
        found.append(Damage(min(size_bytes, meant.length), meant.length, why, LENGTH))
    first = _header(reader, archived, meant, found)
    sums = _units(reader, meant, found)
    table = _table(reader, meant, found)
    footer = _footer(reader, archived, meant, found)
    if footer is None:
        return found
    if first is not None and first != footer.header:
        found.append(Damage(0, BLOCK, "not the header that its footer repeats", HEADER))
    if table is not None and table != footer.table_digest:
        end = meant.table_offset + meant.table_bytes
        found.append(Damage(meant.table_offset, end, "checksum does not match", TABLE))
    for unit, one in enumerate(sums):
        if one is not None and one != footer.sums[unit * _SUM : (unit + 1) * _SUM]:
            found.append(_unit(meant, unit, "checksum does not match"))
    return found


def _header(
    reader: Reader, archived: Archived, meant: FragmentHeader, found: list[Damage]
) -> FragmentHeader | None:
    content, holes = reader.read(0, BLOCK, BLOCK)
    if holes:
        found.append(Damage(0, BLOCK, holes[0].why, HEADER))
        return None
    try:
        header = decode_header(content)
        archived.check(header, meant.filesystem, meant.segment, meant.fragment)
    except IntegrityError as error:
        found.append(Damage(0, BLOCK, str(error), HEADER))
        return None
    return header


def _units(reader: Reader, meant: FragmentHeader, found: list[Damage]) -> list[bytes | None]:
    """The sum of each unit; None, and told of, where it cannot be read."""
    size = meant.unit_bytes
    step = max(1, READ_BYTES // size) * size
    sums: list[bytes | None] = []
    for start in range(0, meant.data_bytes, step):
        length = min(step, meant.data_bytes - start)
        content, holes = reader.read(BLOCK + start, length, size)
        view = memoryview(content)
        for at in range(0, length, size):
            end = min(at + size, length)
            hole = hole_in(holes, BLOCK + start + at, BLOCK + start + end) if holes else None
            if hole is None:
                sums.append(unit_sum(view[at:end]))
                continue
            found.append(_unit(meant, (start + at) // size, hole.why))
            sums.append(None)
    return sums


def _unit(meant: FragmentHeader, unit: int, why: str) -> Damage:
    start = BLOCK + unit * meant.unit_bytes
    return Damage(start, min(start + meant.unit_bytes, meant.table_offset), why, UNIT, unit)


def _table(reader: Reader, meant: FragmentHeader, found: list[Damage]) -> bytes | None:
    """Its digest; None, and told of, where it cannot be read."""
    digest = sha256()
    end = meant.table_offset + meant.table_bytes
    for at in range(meant.table_offset, end, READ_BYTES):
        content, holes = reader.read(at, min(READ_BYTES, end - at), BLOCK)
        if holes:
            found.append(Damage(meant.table_offset, end, holes[0].why, TABLE))
            return None
        digest.update(content)
    return digest.digest()


def _footer(
    reader: Reader, archived: Archived, meant: FragmentHeader, found: list[Damage]
) -> Footer | None:
    end = meant.footer_offset + meant.footer_bytes
    content, holes = reader.read(meant.footer_offset, meant.footer_bytes, BLOCK)
    try:
        if holes:
            raise IntegrityError(holes[0].why)
        footer = decode_footer(content)
        archived.check(footer.header, meant.filesystem, meant.segment, meant.fragment)
    except IntegrityError as error:
        found.append(Damage(meant.footer_offset, end, str(error), FOOTER))
        return None
    return footer
