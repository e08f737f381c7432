"""Drives that somebody made to do harm: a clear report, little memory, nothing written elsewhere.

Every case runs the command in a process of its own that may take 256 MiB.
"""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest

from shmr.codec import Codec
from shmr.format import frame
from shmr.format.archived import Archived, Placed
from shmr.format.fragment import (
    EXTENTS_MAX,
    ArchivedExtent,
    Code,
    FragmentHeader,
    encode_footer,
    encode_table,
    file_name,
)
from shmr.format.frame import LENGTH_MAX, Kind
from shmr.format.records import Commit, DataEnd, Opening, Stream, encode_meta
from shmr.format.rows import (
    ROOT,
    SIZE_MAX,
    Address,
    Dentry,
    Extent,
    Inode,
    Place,
    Row,
    Table,
    encode_bytes,
    key_named,
    key_of,
    key_pair,
)
from tests.fsck.confined import Ended, confined
from tests.fsck.forged import FILESYSTEM, POOL, Forged, bent_header, bent_superblock, drive_id

ROOT_ROW = Inode(ROOT, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 7, 7, 7, 0, 8, ROOT).row()


def regular(number: int, size: int = 0, **fields: int) -> Inode:
    return Inode(number, stat.S_IFREG | 0o644, 1, 0, 0, 0, size, 0, 7, 7, 7)._replace(**fields)


def directory(number: int, parent: int = ROOT) -> Row:
    mode = stat.S_IFDIR | 0o755
    return Inode(number, mode, 2, 0, 0, 0, 0, 0, 7, 7, 7, 0, 8, parent).row()


def named(parent: int, name: bytes, inode: int, kind: int = stat.S_IFREG) -> Row:
    return Row(Table.DENTRY, key_named(parent, name), Dentry(inode, kind, 8).encode())


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    return Forged(tmp_path / "drive")


class Result:
    """What came of listing and decoding: how it ended, and all that was written."""

    def __init__(self, out: Path, codes: list[int], ended: Ended) -> None:
        self.out = out
        self.code = codes[-1]
        self.ended = ended
        self.paths = sorted(_below(os.fsencode(out))) if out.exists() else []


def decoded_all(
    base: Path, cases: Sequence[Sequence[Path]], *, special: bool = False
) -> list[Result]:
    """List and decode the drives of each case, all in one process."""
    place = base / "place"
    place.mkdir(exist_ok=True)
    outs = [place / f"out{at}" for at in range(len(cases))]
    before = _around(base, place) | {out.name for out in outs}
    lines: list[list[str]] = []
    for drives, out in zip(cases, outs, strict=True):
        command = ["decode", "--drives", *map(str, drives)]
        flags = ["--special"] if special else []
        lines += [[*command, "--list"], [*command, "--to", str(out), "--all", *flags]]
    ended = confined(*lines)
    assert _around(base, place) <= before, "written elsewhere"
    for shown in (ended.out, ended.err):
        assert all(letter.isprintable() or letter == "\n" for letter in shown), "raw bytes"
    codes = [ended.codes[at : at + 2] for at in range(0, len(lines), 2)]
    return [Result(out, some, ended) for out, some in zip(outs, codes, strict=True)]


def decoded(base: Path, *drives: Path, special: bool = False) -> Result:
    return decoded_all(base, [drives], special=special)[0]


def _around(*places: Path) -> set[str]:
    return {name for place in (*places, "/") for name in os.listdir(place)}


def _below(top: bytes) -> Iterator[bytes]:
    """Every path, however deep."""
    waiting = [b""]
    while waiting:
        place = waiting.pop()
        with os.scandir(os.path.join(top, place)) as entries:
            for entry in entries:
                path = os.path.join(place, entry.name)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


# -- trees ----------------------------------------------------------------------------------------


def test_a_plain_snapshot_is_read(forged: Forged, tmp_path: Path) -> None:
    """The forger can write what is right: so what follows is refused for what is wrong in it."""
    forged.snapshot([ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()])
    result = decoded(tmp_path, forged.path)
    assert result.code == 0 and result.paths == [b"a"]


def test_names_that_no_file_may_have_are_not_written(tmp_path: Path) -> None:
    names = (b"..", b".", b"", b"/", b"../../escaped", b"/tmp/escaped", b"a/b", b"a\0b", b"x" * 256)
    cases = []
    for index, name in enumerate(names):
        forged = Forged(tmp_path / f"drive{index}")
        row = Row(Table.DENTRY, key_named(ROOT, name), Dentry(2, stat.S_IFREG, 8).encode())
        forged.snapshot([ROOT_ROW, row, regular(2).row(), named(ROOT, b"right", 2)])
        cases.append([forged.path])
    for name, result in zip(names, decoded_all(tmp_path, cases), strict=True):
        # A key that is too long no frame may have: then the snapshot is none.
        too_long = len(name) > 255
        assert result.paths == ([] if too_long else [b"right"]), name
        assert result.code == (8 if too_long else 4)


def test_a_directory_that_is_its_own_parent_is_entered_once(forged: Forged, tmp_path: Path) -> None:
    kind = stat.S_IFDIR
    forged.snapshot(
        [
            ROOT_ROW, directory(2), directory(3, 2), directory(4, 4),
            named(ROOT, b"a", 2, kind), named(2, b"b", 3, kind), named(3, b"c", 2, kind),
            named(3, b"root", ROOT, kind), named(2, b"self", 2, kind), named(4, b"x", 4, kind),
            named(ROOT, b"z", 3, kind), named(ROOT, b"none", 99, kind),
        ]
    )  # fmt: skip
    result = decoded(tmp_path, forged.path)
    assert result.code == 4
    assert result.paths == [b"a", b"a/b"]


def test_many_names_for_each_directory_are_not_many_trees(forged: Forged, tmp_path: Path) -> None:
    """Two names for each of 60 levels would be 2^60 paths."""
    rows = [ROOT_ROW]
    for level in range(60):
        number = level + 2
        rows.append(directory(number))
        for name in (b"x", b"y"):
            rows.append(named(number - 1, name, number, stat.S_IFDIR))
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.code == 4 and len(result.paths) == 60


def test_a_tree_that_is_too_deep_is_cut_and_goes_on_elsewhere(
    forged: Forged, tmp_path: Path
) -> None:
    rows = [ROOT_ROW]
    for number in range(2, 5002):
        above = number - 1
        rows += [directory(number, above), named(above, b"d", number, stat.S_IFDIR)]
    rows += [named(ROOT, b"after", 9000), regular(9000).row()]
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.code == 4 and b"after" in os.listdir(os.fsencode(result.out))
    assert "nested deeper" in result.ended.out
    # What is below is had by its number.
    again = confined(
        ["decode", "--drives", str(forged.path), "--to", str(result.out), "--inode", "4500"]
    )
    assert again.code == 0 and (result.out / "inode-4500" / "d" / "d").is_dir()
    # Deeper than Python's own way of removing trees can go.
    subprocess.run(["rm", "-rf", "--", str(result.out)], check=True, timeout=60)


def test_numbers_far_apart_take_no_memory(tmp_path: Path) -> None:
    cases = []
    for far in (1 << 13, 1 << 40):
        rows = [ROOT_ROW]
        for at in range(1, 2000):
            rows += [directory(at * far), named(ROOT, b"%d" % at, at * far, stat.S_IFDIR)]
        forged = Forged(tmp_path / f"drive{far}")
        forged.snapshot(rows)
        cases.append([forged.path])
    for result in decoded_all(tmp_path, cases):
        assert result.code == 0 and len(result.paths) == 1999


def test_symlinks_are_written_and_nothing_through_them(forged: Forged, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = Inode(2, stat.S_IFLNK | 0o777, 1, 0, 0, 0, 7, 0, 7, 7, 7, target=os.fsencode(outside))
    empty, zero = link._replace(number=3, target=b""), link._replace(number=4, target=b"a\0b")
    forged.snapshot(
        [
            ROOT_ROW, link.row(), empty.row(), zero.row(), regular(5).row(), directory(6),
            named(ROOT, b"a", 2, stat.S_IFLNK), named(ROOT, b"b", 3), named(ROOT, b"c", 4),
            # The type in a name is not that of the inode.
            named(ROOT, b"d", 5, stat.S_IFLNK), named(ROOT, b"e", 6, stat.S_IFREG),
            named(2, b"through a link", 5), named(6, b"f", 2, stat.S_IFDIR),
        ]
    )  # fmt: skip
    result = decoded(tmp_path, forged.path)
    assert result.paths == [b"a", b"d", b"e", b"e/f"]
    assert os.readlink(result.out / "a") == str(outside) and not os.listdir(outside)
    assert result.code == 4


def test_fields_beyond_all_limits_are_refused_one_by_one(forged: Forged, tmp_path: Path) -> None:
    odd = [
        regular(2, uid=2**63), regular(3, gid=2**32 - 1), regular(4, links=2**63),
        regular(5, mtime_ns=2**64 - 1, atime_ns=-(2**63)), regular(6, rdev=2**63),
        regular(7)._replace(mode=0xFFFF), regular(8)._replace(mode=0),
        regular(9)._replace(mode=stat.S_IFCHR | 0o666, rdev=2**64 - 1),
        regular(10, SIZE_MAX), regular(11, 2**40, allocated=2**63),
    ]  # fmt: skip
    rows = [ROOT_ROW, *(one.row() for one in odd)]
    rows += [named(ROOT, b"f%d" % one.number, one.number) for one in odd]
    rows.append(Extent(0, SIZE_MAX, None).row(10))
    rows.append(Extent(0, 2**40, None).row(11))
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path, special=True)
    assert result.code == 4
    assert {b"f5", b"f6"} <= set(result.paths)
    assert not {b"f7", b"f8"} & set(result.paths)
    assert sum(path.stat().st_blocks for path in result.out.iterdir()) < 1000


def test_attributes_may_be_anything(forged: Forged, tmp_path: Path) -> None:
    rows = [ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()]
    for index in range(3000):
        key = key_named(2, b"user.%d" % index)
        rows.append(Row(Table.XATTR, key, encode_bytes(b"x" * 100)))
    for name in (b"system.posix_acl_access", b"system.posix_acl_default", b"trusted.overlay.opaque",
                 b"security.selinux", b"user.\0", b"\xff" * 200, b"nothing"):  # fmt: skip
        rows.append(Row(Table.XATTR, key_named(2, name), encode_bytes(b"\2\0\0\0\xff" * 9)))
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.paths == [b"a"] and result.code == 4
    assert "security.selinux" not in os.listxattr(result.out / "a")


# -- bytes ----------------------------------------------------------------------------------------


def archived_row(number: int, **fields: object) -> Row:
    plain = Archived(
        POOL, 1, 0, Code.COPIES, 4096, 1 << 20, 1 << 20, 1, 7, (Placed(drive_id(0), 1),)
    )
    return plain._replace(**fields).row(number)


def fragment_header(number: int, **fields: object) -> FragmentHeader:
    plain = FragmentHeader(
        FILESYSTEM, number, 1, 0, 1, 0, Code.COPIES, 4096, 1 << 20, 1 << 20, 1, 7, (drive_id(0),)
    )
    return plain._replace(**fields)


def test_extents_that_lead_anywhere_are_lost_bytes(forged: Forged, tmp_path: Path) -> None:
    """Nothing is asked of a drive that no writer could have meant."""
    huge = 2**62
    places = [
        Address(9, 0, huge, 0), Address(9, huge, LENGTH_MAX, 0), Address(9, 2**63, 8, 0),
        Address(9, 0, huge, huge - 8), Address(2**62, 0, 8, 0), Address(30, 0, 1 << 20, 5),
        Address(30, 4096, 1 << 20, 0), Address(30, 0, 2**40, 2**39),
    ]  # fmt: skip
    rows = [ROOT_ROW, archived_row(30)]
    for index, place in enumerate(places):
        number = index + 2
        rows += [
            named(ROOT, b"f%d" % index, number),
            regular(number, 8).row(),
            Row(Table.EXTENT, key_pair(number, 0), msgpack.packb([8, *place])),
        ]
    number = 100
    rows += [named(ROOT, b"wide", number), regular(number, SIZE_MAX).row()]
    rows.append(Row(Table.EXTENT, key_pair(number, 0), msgpack.packb([huge, 30, 0, huge, 0])))
    rows.append(Row(Table.EXTENT, key_pair(number, huge), msgpack.packb([9, 9, 0, huge, 0])))
    forged.segment(Stream.DATA, 9, [(Kind.DATA, b"x" * 100)], owner=2)
    forged.fragment(fragment_header(30), [bytes(4096)] * 256)
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.code == 4
    assert set(result.paths) <= {b"f5"}


def test_extents_that_overlap_and_gaps_are_told_and_end(forged: Forged, tmp_path: Path) -> None:
    rows = [ROOT_ROW, named(ROOT, b"a", 2), regular(2, 2**50).row()]
    for index in range(5000):
        length = 2**49 - index
        rows.append(Row(Table.EXTENT, key_pair(2, index * 3), msgpack.packb([length])))
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.code == 4 and result.paths == []


def test_one_fragment_referred_to_by_all_files_fills_no_disk(
    forged: Forged, tmp_path: Path
) -> None:
    """A million bytes on the drive, and files that claim tens of gigabytes of them."""
    size = 1 << 20
    rows = [ROOT_ROW, archived_row(30)]
    for number in range(2, 3000):
        place = Extent(0, size, Address(30, 0, size, 0))
        rows += [named(ROOT, b"%d" % number, number), regular(number, size).row()]
        rows.append(place.row(number))
    forged.fragment(fragment_header(30), [bytes(4096)] * 256)
    forged.snapshot(rows)
    result = decoded(tmp_path, forged.path)
    assert result.code == 8 and "forged" in result.ended.err
    written = sum(path.stat().st_size for path in result.out.iterdir())
    assert written < 100 << 20


def test_fragments_that_claim_much_and_are_short_are_refused(tmp_path: Path) -> None:
    cases = []
    for data_bytes in (4096, 1 << 31, (1 << 32) - (1 << 26)):
        forged = Forged(tmp_path / f"drive{data_bytes}")
        for extents, unit_bytes in ((1, 4096), (EXTENTS_MAX, 4096), (EXTENTS_MAX, 2 << 20)):
            header = fragment_header(
                40 + extents % 7, data_bytes=data_bytes, used_bytes=data_bytes,
                extents=extents, unit_bytes=unit_bytes,
            )  # fmt: skip
            forged.write(file_name(header.segment, 0, 1), header.encode())
        rows = [ROOT_ROW, archived_row(41, data_bytes=data_bytes, used_bytes=data_bytes)]
        forged.snapshot([*rows, regular(2).row(), named(ROOT, b"a", 2)])
        cases.append([forged.path])
    for result in decoded_all(tmp_path, cases):
        assert result.code in (0, 4) and b"a" in result.paths


@pytest.mark.thorough
@pytest.mark.parametrize("known", (True, False))
def test_a_sparse_fragment_of_four_gigabytes_costs_no_memory(
    forged: Forged, tmp_path: Path, known: bool
) -> None:
    """Its footer has 16 MiB of sums, its table 2 MiB of extents; all is as it should be."""
    count, length = 1 << 16, 60 * 1024
    extents = [ArchivedExtent(2 + at % 5, at * length, length, at * length) for at in range(count)]
    used = count * length
    shape = {"data_bytes": used, "used_bytes": used, "extents": count, "unit_bytes": 4096}
    sparse(forged, fragment_header(30, **shape), encode_table(extents))
    path = "/lost+found/inode-2"
    if known:
        path = "/a"
        place = Extent(0, 50 << 20, Address(30, 0, used, 0))
        rows = [ROOT_ROW, archived_row(30, **shape), named(ROOT, b"a", 2), place.row(2)]
        forged.snapshot([*rows, regular(2, 50 << 20).row()])
    command = ["decode", "--drives", str(forged.path)]
    to = ["--to", str(tmp_path / "out")]
    ended = confined([*command, "--list"], [*command, *to, "--path", path])
    # Inodes 3 to 6 no snapshot knows: they are in lost+found.
    assert ended.codes == [4, 4]


def sparse(forged: Forged, header: FragmentHeader, table: bytes) -> None:
    """A fragment of zeros that takes nothing but header, table and footer."""

    zeros = sha256(bytes(header.unit_bytes)).digest()[:16]
    name = forged.path / file_name(header.segment, header.fragment, header.generation)
    with open(name, "wb") as file:
        file.write(header.encode())
        file.seek(header.table_offset)
        file.write(table.ljust(header.table_bytes, b"\0"))
        file.write(encode_footer(header, table, [zeros] * header.units))


# -- containers -----------------------------------------------------------------------------------


def many(count: int, one: bytes) -> bytes:
    """An array of so many."""
    return b"\xdd" + count.to_bytes(4, "big") + one * count


BOMBS = {
    "deep": b"\x91" * (LENGTH_MAX - 1) + b"\xc0",
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "huge arrays in arrays": b"\x92" + b"\xdd\x00\x1f\xff\xff" * 300_000,
    "a huge byte string": b"\x92\x90\xc6\xff\xff\xff\xff",
    "a map": b"\x92\x90\xdf\xff\xff\xff\xff",
    "an extension": b"\x92\x90\xc9\xff\xff\xff\xff\x01",
    "two million small rows": b"\x92\x90" + many(2**21 - 10, b"\x90"),
    "two million nothings": b"\x92\x90" + many(2**21 - 10, b"\xc0"),
    "half a million drops": b"\x92" + many(2**19 - 4, b"\x93\x01\x02\x03") + b"\x90",
    "floats": b"\x92\x90" + many(200_000, b"\xcb12345678"),
    "text": b"\x92\x90\x91\xa5hello",
    "nothing": b"",
}
"""msgpack that is small on the drive, and large or deep where it is unpacked."""


@pytest.mark.parametrize("turn", range(4))
def test_bombs_of_msgpack_are_refused(tmp_path: Path, turn: int) -> None:
    """As frames of a snapshot and of a journal, and as values of rows."""
    cases = []
    for index, bomb in list(enumerate(BOMBS.values()))[turn::4]:
        framed = Forged(tmp_path / f"framed{index}")
        framed.raw_snapshot([encode_meta((), [ROOT_ROW]), bomb], 5)
        framed.journal([encode_meta((), [ROOT_ROW]), bomb], 1)
        rows = [ROOT_ROW, named(ROOT, b"a", 2), regular(2).row(), named(ROOT, b"b", 3)]
        for table, key in (
            (Table.INODE, key_of(3)), (Table.DENTRY, key_named(ROOT, b"c")),
            (Table.EXTENT, key_pair(2, 0)), (Table.XATTR, key_named(2, b"user.x")),
            (Table.ARCHIVE, key_of(7)), (Table.STATE, b"next_inode"), (Table.REAP, key_of(2)),
            (Table.ORPHAN, key_of(2)),
        ):  # fmt: skip
            rows.append(Row(table, key, bomb[:60_000]))
        valued = Forged(tmp_path / f"valued{index}", 1)
        valued.snapshot(rows, 6)
        cases += [[valued.path], [framed.path, valued.path]]
    results = decoded_all(tmp_path, cases)
    for valued_only, both in zip(results[::2], results[1::2], strict=True):
        assert valued_only.code == 4 and valued_only.paths == [b"a"]
        assert both.code in (0, 4)


def test_bombs_in_superblocks_are_refused(tmp_path: Path) -> None:
    cases = []
    for index, bomb in enumerate(BOMBS.values()):
        forged = Forged(tmp_path / f"drive{index}")
        forged.snapshot([ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()])
        forged.write("superblock-000002", bent_superblock(bomb[:65_000]))
        cases.append([forged.path])
    for result in decoded_all(tmp_path, cases):
        assert result.code == 0 and result.paths == [b"a"]


def test_headers_bent_in_every_field_are_refused(forged: Forged, tmp_path: Path) -> None:
    """Each with the checksum that belongs to it, as the whole of a footer."""
    forged.snapshot([ROOT_ROW, archived_row(30), named(ROOT, b"a", 2), regular(2).row()])
    header = fragment_header(30)
    fields = ((8, 4), (12, 4), (16, 8), (32, 8), (40, 4), (44, 1), (45, 1), (46, 1), (47, 1),
              (48, 4), (52, 4), (56, 8), (64, 8), (72, 8), (80, 8), (88, 8), (600, 8))  # fmt: skip
    number = 31
    for at, size in fields:
        for value in (b"\xff" * size, bytes(size), b"\x7f" + b"\xff" * (size - 1), b"\1" * size):
            bent = bent_header(header, at, value)
            forged.write(file_name(number, 0, 1), bent + bytes(8192))
            forged.write(file_name(number, 1, 1), bytes(8192) + footer_of(bent, header))
            number += 1
    result = decoded(tmp_path, forged.path)
    assert result.code in (0, 4) and b"a" in result.paths


def footer_of(header_bytes: bytes, header: FragmentHeader) -> bytes:
    """A footer around the bytes of a header."""

    size = header.footer_bytes
    content = (header_bytes + bytes(size))[: size - 40] + size.to_bytes(8, "little")
    return content + sha256(content).digest()


@pytest.mark.thorough
@pytest.mark.parametrize(("k", "m"), ((2, 14), (8, 8), (14, 2), (15, 17), (30, 2)))
def test_the_widest_stripes_of_the_largest_units_are_decoded_in_bounds(
    tmp_path: Path, k: int, m: int
) -> None:
    """Units of 2 MiB, as many drives missing as may be; stripes of more than 32 MiB are refused."""
    unit = 2 << 20
    ids = tuple(drive_id(at) for at in range(k + m))
    content = random.Random(k).randbytes(unit)
    data = [content[at:] + content[:at] for at in range(k)]
    units = [*data, *Codec(k, m, Code.ISA_L_RS_CAUCHY).encode(data)]
    shape = {
        "k": k, "m": m, "code": Code.ISA_L_RS_CAUCHY, "unit_bytes": unit, "data_bytes": unit,
        "used_bytes": k * unit, "extents": 1,
    }  # fmt: skip
    table = encode_table([ArchivedExtent(2, 0, k * unit, 0)])
    row = archived_row(30, **shape, fragments=tuple(Placed(one, 1) for one in ids))
    place = Extent(0, k * unit, Address(30, 0, k * unit, 0))
    rows = [ROOT_ROW, row, named(ROOT, b"a", 2), regular(2, k * unit).row(), place.row(2)]
    drives = []
    for index in range(min(m, k), min(m, k) + k):
        forged = Forged(tmp_path / f"drive{index}", index)
        forged.fragment(
            fragment_header(30, **shape, fragment=index, drives=ids), [units[index]], table
        )
        forged.snapshot(rows)
        drives.append(forged.path)
    result = decoded(tmp_path, *drives)
    if k + m > 16:
        assert result.code == 4 and "the limit is" in result.ended.out
        return
    assert result.code == 0
    assert (result.out / "a").read_bytes() == b"".join(data)


def test_fragments_of_another_filesystem_are_not_read(forged: Forged, tmp_path: Path) -> None:
    size = 1 << 20
    header = fragment_header(30, filesystem=bytes(16))
    forged.fragment(header, [b"theirs".ljust(4096)] * 256)
    place = Extent(0, size, Address(30, 0, size, 0))
    forged.snapshot(
        [ROOT_ROW, archived_row(30), named(ROOT, b"a", 2), regular(2, size).row(), place.row(2)]
    )
    result = decoded(tmp_path, forged.path)
    assert result.code == 4 and result.paths == []
    assert "another fragment" in result.ended.out


@pytest.mark.parametrize("twin", (False, True))
def test_drives_that_do_not_belong_together(tmp_path: Path, twin: bool) -> None:
    """Two with one id; two of two filesystems."""
    one = Forged(tmp_path / "one")
    two = Forged(tmp_path / "two", filesystem=FILESYSTEM if twin else bytes(range(16)))
    for drive in (one, two):
        drive.snapshot([ROOT_ROW])
    result = decoded(tmp_path, one.path, two.path)
    assert result.code == 8 and result.paths == []
    assert str(one.path) in result.ended.err and str(two.path) in result.ended.err


def test_segments_of_which_each_goes_on_from_the_other(forged: Forged, tmp_path: Path) -> None:
    """Snapshots and journals that are a ring, and two segments of one number."""
    forged.snapshot([ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()], 5)
    for stream in (Stream.SNAPSHOT, Stream.JOURNAL):
        for number, previous in ((10, 11), (11, 10), (12, 12)):
            looped(forged, stream + 0, number + 10 * stream, previous + 10 * stream)
    result = decoded(tmp_path, forged.path)
    assert result.code in (0, 4, 8)
    forged.snapshot([ROOT_ROW], 77)
    forged.journal([encode_meta((), [ROOT_ROW])], 77)
    assert decoded(tmp_path, forged.path).code in (0, 4, 8)


def looped(forged: Forged, stream: int, number: int, previous: int) -> None:
    """A segment that claims to go on from another."""

    short = int.from_bytes(forged.filesystem[:8], "little")
    opening = Opening(forged.filesystem, stream, 2**63, 7, previous, 2**62, 0)
    _, buffers = frame.encode(Kind.SEGMENT, short, number, 0, 0, 0, opening.encode(), 0)
    name = f"{Stream(stream).name.lower()}-{number:012}"
    forged.write(name, b"".join(bytes(one) for one in buffers))


def test_numbers_at_the_end_of_all_numbers(forged: Forged, tmp_path: Path) -> None:
    last = 10**12 - 1
    forged.snapshot(
        [
            ROOT_ROW, named(ROOT, b"a", 2), regular(2).row(), archived_row(2**63 - 1),
            Row(Table.STATE, b"next_inode", msgpack.packb([2**64 - 1])),
            Row(Table.STATE, b"snapshot", msgpack.packb([2**64 - 1])),
            Row(Table.STATE, b"journal_floor", msgpack.packb([2**64 - 1])),
            Row(Table.STATE, b"held 99999999999999999999999999", msgpack.packb([0])),
        ],
        last,
    )  # fmt: skip
    result = decoded(tmp_path, forged.path)
    assert result.code in (0, 4) and result.paths == [b"a"]


def test_places_in_the_journal_may_be_anywhere(tmp_path: Path) -> None:
    last = 2**64 - 1
    places = [Place(1, 0, last, 9, 0), Place(1, last, 0, 9, 0), Place(last, 0, 0, last, last),
              Place(1, 2**63, 2**63, 9, 0), Place(1, 0, 2**62, 0, 0)]  # fmt: skip
    meta = encode_meta((), [ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()])
    cases = []
    for index, place in enumerate(places):
        forged = Forged(tmp_path / f"drive{index}")
        forged.raw_snapshot([meta], place=place)
        forged.journal([meta])
        ends = (DataEnd(7, last, 0, last, 0), DataEnd(7, last, 0, 0, 0))
        commit = Commit(last, last, last, ends)
        frames = [(Kind.META, meta), (Kind.COMMIT, commit.encode())]
        forged.segment(Stream.JOURNAL, 3, frames)
        forged.segment(Stream.DATA, 7, [(Kind.DATA, b"x")], owner=last, position=last)
        cases.append([forged.path])
    for result in decoded_all(tmp_path, cases):
        assert result.code in (0, 4) and result.paths == [b"a"]


def test_what_only_footers_know_may_be_anything(forged: Forged, tmp_path: Path) -> None:
    """No snapshot: tables with extents that overlap, of every file, at every offset."""
    extents = [ArchivedExtent(1 + at % 3, (at * 7) % 50, 4096, at * 4096) for at in range(256)]
    extents[5] = ArchivedExtent(2**63 - 1, 2**63 - 5000, 4096, extents[5].address)
    extents[6] = ArchivedExtent(ROOT, 0, 4096, extents[6].address)
    for number in range(30, 60):
        header = fragment_header(number, extents=len(extents))
        forged.fragment(header, [bytes([number]) * 4096] * 256, encode_table(extents))
    result = decoded(tmp_path, forged.path)
    assert result.code == 4
    assert all(path.startswith(b"lost+found") for path in result.paths)


def test_many_files_of_no_use_are_passed_over(forged: Forged, tmp_path: Path) -> None:
    forged.snapshot([ROOT_ROW, named(ROOT, b"a", 2), regular(2).row()], 5)
    for number in range(100, 900):
        forged.write(file_name(number, number % 30, 1), b"")
        forged.write(f"snapshot-{number + 1000:012}", bytes(64))
        forged.write(f"superblock-{number:06}", b"shmrdrv1")
    os.mkfifo(forged.path / "fragment-000000000009-00-000001")
    (forged.path / "snapshot-000000000099").symlink_to("/dev/zero")
    (forged.path / "superblock-999999").symlink_to("/dev/zero")
    result = decoded(tmp_path, forged.path)
    assert result.code == 0 and result.paths == [b"a"]
