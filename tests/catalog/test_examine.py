"""Examining a catalog: on a full disk it must not look doubtful for want of room."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from shmr.catalog import store
from shmr.catalog.catalog import Catalog
from shmr.catalog.examine import examine
from shmr.format.rows import Place, Row, Table, encode_number, key_named

Usage = namedtuple("Usage", "total used free")


def catalog_at(path: Path) -> None:
    catalog = Catalog(path)
    rows = [Row(Table.XATTR, key_named(1, b"%d" % n), encode_number(n)) for n in range(100)]
    catalog.apply(rows)
    catalog.checkpoint(bytes(16), Place(1, 0, 64, 1, 0), 2)
    catalog.close()


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_whole_catalog_is_whole_with_room_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    path = tmp_path / "catalog"
    catalog_at(path)
    before = (path / store.DATA).stat().st_ino
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    assert examine(path, in_child=False)
    assert ((path / store.DATA).stat().st_ino == before) == (free == 0)
    catalog = Catalog(path)
    assert catalog.count(Table.XATTR) == 100
    catalog.close()
    assert not path.with_name("catalog.examined").exists()


def with_a_bit_flipped(path: Path, offset: int, bit: int) -> None:
    content = bytearray((path / store.DATA).read_bytes())
    content[offset] ^= 1 << bit
    (path / store.DATA).write_bytes(content)


def catalog_with_branches(path: Path) -> dict[int, int]:
    """With more rows than a page has, and a value with pages of its own.

    Returns where a page of each kind begins: 1 is a branch, 2 a leaf, 4 a long value.
    """
    catalog = Catalog(path)
    rows = [Row(Table.XATTR, key_named(1, b"%04d" % n), encode_number(n)) for n in range(1000)]
    catalog.apply([*rows, Row(Table.XATTR, key_named(2, b"long"), bytes(9000))])
    catalog.checkpoint(bytes(16), Place(1, 0, 64, 1, 0), 2)
    catalog.close()
    assert examine(path, in_child=False)
    compact = (path / store.DATA).read_bytes()
    page = 2
    first: dict[int, int] = {}
    while page < len(compact) // 4096:
        base = page * 4096
        kind = compact[base + 10]
        first.setdefault(kind, base)
        page += int.from_bytes(compact[base + 12 : base + 16], "little") if kind == 4 else 1
    return first


def test_a_page_that_could_be_read_but_never_written_makes_the_catalog_doubtful(
    tmp_path: Path,
) -> None:
    """With the flag of a value's own pages, a leaf's rows all verify, and each commit fails.

    Where the free space of a page ends elsewhere, the next row is written over another.
    """
    path = tmp_path / "catalog"
    pages = catalog_with_branches(path)
    assert set(pages) == {1, 2, 4}
    for kind, base in pages.items():
        bit = 2 if kind != 4 else 3
        with_a_bit_flipped(path, base + 10, bit)
        assert not examine(path, in_child=True), kind
        with_a_bit_flipped(path, base + 10, bit)
    for kind in (1, 2):
        with_a_bit_flipped(path, pages[kind] + 14, 1)
        assert not examine(path, in_child=True), kind
        with_a_bit_flipped(path, pages[kind] + 14, 1)
    assert examine(path, in_child=False)


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_row_that_is_there_and_not_found_makes_the_catalog_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """A key of a branch leads astray who looks a row up, and not who goes along the leaves."""
    path = tmp_path / "catalog"
    base = catalog_with_branches(path)[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free, 0, free))
    content = (path / store.DATA).read_bytes()
    second = base + int.from_bytes(content[base + 18 : base + 20], "little")
    length = int.from_bytes(content[second + 6 : second + 8], "little")
    for at in (second + 8, second + 8 + length - 1):
        with_a_bit_flipped(path, at, 3)
        assert not examine(path, in_child=False), at
        with_a_bit_flipped(path, at, 3)
    assert examine(path, in_child=False)
