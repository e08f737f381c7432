"""What the catalog knows of an archived segment: its shape, and which fragments count.

A segment is archived when its row exists, and a fragment counts when a row names it: the drive by
its id, the segment, the index by its place in the row, and the generation. Fragments that no row
names are strays (FORMAT.md sections 6 and 13).

The bytes of an archived segment are reached by the same extents as all others: the frame is 0, the
payload the segment's `used_bytes`, and `skip` the address in the segment's address space.
"""

from __future__ import annotations

from typing import NamedTuple

import msgpack

from shmr.errors import IntegrityError
from shmr.format.fragment import (
    BLOCK,
    EXTENTS_MAX,
    LENGTH_MAX,
    UNIT_MAX,
    WIDTH_MAX,
    Code,
    FragmentHeader,
)
from shmr.format.rows import Address, Row, Table, key_of
from shmr.format.unpack import expect, unpack_list

_ID = 16
_pack = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Placed(NamedTuple):
    """Where one fragment is: on which drive (its id), and how often it was written anew."""

    drive: bytes
    generation: int


class Archived(NamedTuple):
    """An archived segment. The number is the row's key; these fields are its value, in this order.

    The names are those of the fragments' header (`shmr.format.fragment.FragmentHeader`); `pool` is
    the id of the pool, and `fragments` has k+m entries, by index.
    """

    pool: bytes
    k: int
    m: int
    code: int
    unit_bytes: int
    data_bytes: int
    used_bytes: int
    extents: int
    created_ns: int
    fragments: tuple[Placed, ...]

    def encode(self) -> bytes:
        assert _holds(self), f"out of limits: {self}"
        return bytes(_pack(self))

    def row(self, segment: int) -> Row:
        return Row(Table.ARCHIVE, key_of(segment), self.encode())

    def address(self, segment: int, at: int) -> Address:
        """Where an extent is whose first byte lies at `at` of the segment's address space."""
        return Address(segment, 0, self.used_bytes, at)

    def header(self, filesystem: bytes, segment: int, index: int) -> FragmentHeader:
        """The header that fragment `index` has, were it written now."""
        return FragmentHeader(
            filesystem,
            segment,
            self.fragments[index].generation,
            index,
            self.k,
            self.m,
            self.code,
            self.unit_bytes,
            self.data_bytes,
            self.used_bytes,
            self.extents,
            self.created_ns,
            tuple(placed.drive for placed in self.fragments),
        )

    def check(self, found: FragmentHeader, filesystem: bytes, segment: int, index: int) -> None:
        """Raise IntegrityError unless `found` is of the fragment that this row names.

        Not compared is what may have changed since it was written: m, the drives of the other
        fragments, and when. That the same numbers never meant other bytes is why this suffices.
        """
        wanted = self.header(filesystem, segment, index)
        for name in _LASTING:
            one, other = getattr(wanted, name), getattr(found, name)
            if one != other:
                shown = [v.hex() if isinstance(v, bytes) else v for v in (one, other)]
                raise IntegrityError(f"another fragment: {name} is {shown[1]}, expected {shown[0]}")
        if index >= len(found.drives) or found.drives[index] != self.fragments[index].drive:
            raise IntegrityError("another fragment: it was written for another drive")


_LASTING = (
    "filesystem", "segment", "fragment", "generation", "k", "code", "unit_bytes", "data_bytes",
    "used_bytes", "extents",
)  # fmt: skip


def archived_removed(segment: int) -> Row:
    """The segment is no longer archived: its fragments are strays."""
    return Row(Table.ARCHIVE, key_of(segment), None)


def decode_archived(value: bytes) -> Archived:
    """Raises IntegrityError."""
    fields = unpack_list(value, "archived segment")
    expect(list(map(type, fields)) == [bytes] + [int] * 8 + [list], "archived segment")
    fragments = []
    for placed in fields[9]:
        expect(type(placed) is list and list(map(type, placed)) == [bytes, int], "fragment")
        fragments.append(Placed(*placed))
    fields[9] = tuple(fragments)
    archived = Archived(*fields)
    expect(_holds(archived), "archived segment")
    return archived


def _holds(archived: Archived) -> bool:
    """Are all fields within their limits? They are those of a fragment's header."""
    pool, k, m, code, unit_bytes, data_bytes, used_bytes, extents, created_ns, fragments = archived
    drives = {placed.drive for placed in fragments}
    return (
        len(pool) == _ID
        and k > 0
        and m >= 0
        and k + m <= WIDTH_MAX
        and code in set(Code)
        and (code == Code.COPIES) == (k == 1)
        and 0 < unit_bytes <= UNIT_MAX
        and not unit_bytes % BLOCK
        and 0 < data_bytes <= LENGTH_MAX
        and not data_bytes % BLOCK
        and 0 < used_bytes <= k * data_bytes
        and 0 < extents <= EXTENTS_MAX
        and 0 <= created_ns < 2**64
        and len(fragments) == len(drives) == k + m
        and all(len(drive) == _ID and any(drive) for drive in drives)
        and all(0 < placed.generation < 2**32 for placed in fragments)
    )
