"""What the catalog keeps in memory is seen by all who read, and reaches batch and disk in time.

Random changes are done on a catalog and on dictionaries; the batches are replayed into a second
catalog, as recovery would. The limits are made so small that everything is thrown out again often.
"""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.catalog import bare, inodes, names
from shmr.catalog.catalog import Catalog
from shmr.errors import IntegrityError
from shmr.format.records import decode_meta
from shmr.format.rows import (
    TRUTH,
    Cookie,
    Dentry,
    Inode,
    Place,
    Row,
    Table,
    encode_bytes,
    key_named,
    key_of,
)
from shmr.units import MIB

FILESYSTEM = bytes(range(16))
PLACE = Place(1, 0, 128, 1, 7)
NUMBERS = range(2, 12)
NAMES = [b"%d" % n for n in range(8)]
Rows = dict[tuple[int, bytes], bytes]


def inode(number: int, links: int = 1, size: int = 0) -> Inode:
    return Inode(number, stat.S_IFREG | 0o644, links, 0, 0, 0, size, 0, 1, 2, 3)


def rows_of(catalog: Catalog) -> Rows:
    return {
        (int(table), key): value
        for table in (*TRUTH, Table.COOKIE)
        for key, value in catalog.scan(table, b"")
    }


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inodes, "CHANGED_MAX", 5)
    monkeypatch.setattr(inodes, "KNOWN_MAX", 3)
    monkeypatch.setattr(names, "NAMES_MAX", 3)
    monkeypatch.setattr(bare, "BARE_MAX", 2)


class Beside:
    """A catalog, what has to be in it, and another one to which its batches are replayed."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.catalog = Catalog(path / "catalog")
        self.replayed = Catalog(path / "replayed")
        self.rows: Rows = {}
        self.cookie = 8

    def close(self) -> None:
        self.catalog.close()
        self.replayed.close()

    def _true(self, row: Row) -> None:
        if row.value is None:
            self.rows.pop((row.table, row.key), None)
        else:
            self.rows[row.table, row.key] = row.value

    def change_inode(self) -> None:
        made = inode(self.rng.choice(NUMBERS), size=self.rng.randrange(9))
        self.catalog.apply((), [made])
        self._true(made.row())

    def put_inode_row(self) -> None:
        row = inode(self.rng.choice(NUMBERS), size=self.rng.randrange(9)).row()
        self.catalog.apply([row])
        self._true(row)

    def remove_inode(self) -> None:
        row = Row(Table.INODE, key_of(self.rng.choice(NUMBERS)), None)
        self.catalog.apply([row])
        self._true(row)

    def mark(self) -> None:
        value = self.rng.choice((b"\x90", None, None))
        table = self.rng.choice((Table.ORPHAN, Table.REAP))
        row = Row(table, key_of(self.rng.choice(NUMBERS)), value)
        self.catalog.apply([row])
        self._true(row)

    def xattr(self) -> None:
        value = self.rng.choice((encode_bytes(b"v"), None))
        row = Row(Table.XATTR, key_named(self.rng.choice(NUMBERS), b"user.x"), value)
        self.catalog.apply([row])
        self._true(row)

    def name(self) -> None:
        directory, name = self.rng.choice((1, 2)), self.rng.choice(NAMES)
        dentry = None
        if self.rng.random() < 0.6:
            dentry = Dentry(self.rng.choice(NUMBERS), stat.S_IFREG, self.cookie)
            self.cookie += 1
        key = key_named(directory, name)
        before = self.catalog.dentry(directory, name)
        if before is not None:
            self._true(Cookie(name, 0, 0).row(directory, before.cookie)._replace(value=None))
        self.catalog.apply((), (), [(directory, name, dentry)])
        if dentry is None:
            self._true(Row(Table.DENTRY, key, None))
        else:
            self._true(dentry.row(directory, name))
            self._true(Cookie(name, dentry.inode, dentry.kind).row(directory, dentry.cookie))

    def ask(self) -> None:
        number, name = self.rng.choice(NUMBERS), self.rng.choice(NAMES)
        found = self.catalog.inode(number)
        assert self.rows.get((1, key_of(number))) == (found.row().value if found else None)
        assert self.catalog.get(Table.INODE, key_of(number)) == (
            found.row().value if found else None
        )
        assert self.catalog.is_orphan(number) == ((5, key_of(number)) in self.rows)
        key = key_named(number, b"user.x")
        assert self.catalog.xattr(number, b"user.x") == self.rows.get((4, key))
        assert self.catalog.xattr(number, b"user.y") is None
        assert self.catalog.has_xattrs(number) == ((4, key) in self.rows)
        dentry = self.catalog.dentry(1, name)
        assert self.rows.get((2, key_named(1, name))) == (dentry.encode() if dentry else None)

    def count(self) -> None:
        assert self.catalog.count(Table.INODE) == sum(table == 1 for table, _ in self.rows)

    def scan(self) -> None:
        assert rows_of(self.catalog) == self.rows

    def commit(self) -> None:
        """The batch goes to the journal, which alone has then to give the same rows."""
        assert self.catalog.batch.size_bytes == self.catalog.batch_bytes
        for payload in self.catalog.take_batch().payloads(MIB):
            self.replayed.replay(decode_meta(payload).rows)
        assert not self.catalog.batch
        assert rows_of(self.replayed) == self.rows

    def checkpoint(self) -> None:
        self.commit()
        self.catalog.checkpoint(FILESYSTEM, PLACE, 1)
        with self.catalog.last_checkpoint() as (place, rows):
            found = {(row.table, row.key): row.value for row in rows}
        assert place == PLACE
        truth = {int(table) for table in TRUTH}
        assert found == {key: value for key, value in self.rows.items() if key[0] in truth}

    def restart(self, path: Path) -> None:
        self.checkpoint()
        self.catalog.close()
        self.catalog = Catalog(path / "catalog")


@pytest.fixture
def beside(tmp_path: Path, few: None, request: pytest.FixtureRequest) -> Iterator[Beside]:
    made = Beside(tmp_path, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("beside", range(8), indirect=True)
def test_all_who_read_see_the_last_change(beside: Beside, tmp_path: Path) -> None:
    often = [
        *[beside.change_inode, beside.put_inode_row, beside.remove_inode, beside.mark] * 2,
        *[beside.xattr, beside.name, beside.name, beside.ask, beside.ask],
    ]
    seldom = [beside.count, beside.scan, beside.commit, beside.checkpoint]
    for step in range(600):
        beside.rng.choice(often)()
        if beside.rng.random() < 0.05:
            beside.rng.choice(seldom)()
        if step % 200 == 199:
            beside.restart(tmp_path)
    beside.scan()
    beside.commit()


def test_what_came_and_went_is_not_in_the_journal(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    for number in NUMBERS:
        catalog.apply([Row(Table.ORPHAN, key_of(number), b"\x90")], [inode(number)])
    for number in NUMBERS:
        gone = [Row(table, key_of(number), None) for table in (Table.ORPHAN, Table.INODE)]
        catalog.apply(gone)
    assert not catalog.batch
    assert catalog.count(Table.INODE) == catalog.count(Table.ORPHAN) - 1 == 0
    catalog.close()


def test_changes_wait_up_to_a_limit_and_count_before_that(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    long = inode(1)._replace(target=b"x" * 4000)
    for number in range(inodes.CHANGED_MAX - 1):
        catalog.apply((), [long._replace(number=number)])
    assert not catalog._batch
    assert catalog.batch_bytes > 4000 * (inodes.CHANGED_MAX - 1)
    waiting = catalog.batch_bytes
    catalog.apply((), [long._replace(number=0)])
    assert catalog.batch_bytes == waiting, "a row that waits anyway takes no more"
    catalog.apply((), [long._replace(number=inodes.CHANGED_MAX)])
    assert len(catalog._batch.rows) == inodes.CHANGED_MAX
    assert catalog.batch_bytes == catalog._batch.size_bytes
    catalog.close()


def test_a_write_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog, replayed = Catalog(tmp_path / "catalog"), Catalog(tmp_path / "replayed")
    catalog.apply((), [inode(number) for number in NUMBERS])
    replayed.replay([Row(t, k, v) for (t, k), v in catalog.take_batch().rows.items()])
    put = catalog._tables.put
    for failing in range(len(NUMBERS)):
        kept = inode(2, size=failing + 1)
        gone = [Row(Table.INODE, key_of(number), None) for number in NUMBERS[1:]]
        catalog.apply(gone, [kept])
        left = iter(range(failing))

        def some(table: int, key: bytes, value: bytes | None, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise MemoryError
            put(table, key, value)

        monkeypatch.setattr(catalog._tables, "put", some)
        with pytest.raises(MemoryError):
            catalog.take_batch()
        assert catalog.inode(3) is None
        monkeypatch.undo()
        batch = catalog.take_batch()
        replayed.replay([Row(t, k, v) for (t, k), v in batch.rows.items()])
        assert rows_of(replayed) == rows_of(catalog)
        catalog.apply((), [inode(number) for number in NUMBERS])
        replayed.replay([Row(t, k, v) for (t, k), v in catalog.take_batch().rows.items()])
    catalog.close()
    replayed.close()


def test_a_mark_that_fails_its_checksum_makes_the_catalog_doubtful(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "catalog")
    catalog.apply([Row(Table.ORPHAN, key_of(9), b"\x90")])
    catalog.checkpoint(FILESYSTEM, PLACE, 1)
    tables = catalog._tables
    tables._transaction.put(key_of(9), b"\0\0\0\0\x90", db=tables._handles[Table.ORPHAN])
    tables.commit()
    catalog.close()
    with pytest.raises(IntegrityError):
        Catalog(tmp_path / "catalog")
