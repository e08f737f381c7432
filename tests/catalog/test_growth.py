"""How large the catalog's file becomes, and that its space is taken before it is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmr.catalog import store
from shmr.catalog.catalog import Catalog, checkpoint_of
from shmr.catalog.examine import examine
from shmr.format.rows import Place, Reap, Row, Table, key_of
from shmr.units import KIB

FILESYSTEM = bytes(range(16))
PLACE = Place(1, 0, 128, 1, 7)


@pytest.mark.parametrize("table", [Table.ORPHAN, Table.REAP])
def test_rows_that_come_and_go_do_not_grow_the_catalog(tmp_path: Path, table: Table) -> None:
    catalog = Catalog(tmp_path / "catalog")
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    before = catalog.size_bytes()
    for number in range(2, 2000):
        catalog.apply([Row(table, key_of(number), b"")])
        catalog.apply([Row(table, key_of(number), None)])
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    assert catalog.size_bytes() < before + 256 * KIB
    catalog.close()


def test_the_row_that_keeps_a_table_is_seen_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    catalog = Catalog(path)
    mark = Reap(0, 5).row(9)
    catalog.apply([mark])
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    assert list(catalog.scan(Table.ORPHAN, b"")) == []
    assert list(catalog.scan(Table.REAP, b"")) == [(mark.key, mark.value)]
    with catalog.last_checkpoint() as (_, rows):
        assert list(rows) == [mark]
    catalog.close()
    with checkpoint_of(path) as (_, rows):
        assert list(rows) == [mark]
    assert examine(path)


def test_the_space_of_the_next_epochs_is_taken_ahead(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    facts = (tmp_path / "catalog" / store.DATA).stat()
    assert facts.st_size >= catalog.size_bytes() + 256 * KIB
    assert facts.st_blocks * 512 >= facts.st_size
    assert not catalog.short
    catalog.close()


def test_a_disk_without_room_for_it_is_told(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    catalog.leave_bytes = 1 << 60
    long = b"x" * 1000
    for number in range(2, 3000):
        catalog.apply([Row(Table.XATTR, key_of(number) + b"name", long)])
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    assert catalog.short
    catalog.leave_bytes = 0
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    assert not catalog.short
    catalog.close()
