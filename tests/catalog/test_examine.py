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
