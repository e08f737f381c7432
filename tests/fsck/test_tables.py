"""The catalog against itself: each damage is found, with its kind and no other; a sound one is."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.catalog.reading import open_reading
from shmr.format.archived import decode_archived
from shmr.format.rows import (
    ROOT,
    Cookie,
    Dentry,
    Extent,
    Inode,
    Reap,
    Row,
    Table,
    encode_bytes,
    encode_number,
    extent_removed,
    key_named,
    key_of,
    key_pair,
)
from shmr.fsck.checking.tables.check import tables
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.opening import View, view_of
from shmr.log.fragments import FragmentStore
from shmr.log.store import SegmentStore
from shmr.testing.trial import FILESYSTEM, Trial, scratch, tight_limits
from shmr.testing.workload import Generator
from tests.archive.site import ME, Site, pool_of, small_limits
from tests.fsck.rows import Rows, rows_of

FILE, OTHER, ARCHIVED = b"a", b"b", b"cold"


def at_rest(place: Path) -> Site:
    """A filesystem at rest with a bit of everything."""
    pool = pool_of("2+1")
    site = Site(place, pool)
    volume = site.open()
    site.write(volume, ARCHIVED, b"c" * 50_000)
    site.shift(volume, pool)
    site.write(volume, FILE, b"x" * 10_000)
    site.write(volume, FILE, b"y" * 10_000, at=40_000)
    site.write(volume, OTHER, b"z" * 5_000)
    names = volume.names
    top = names.create(ROOT, b"d", stat.S_IFDIR | 0o755, ME)
    below = names.create(top.number, b"e", stat.S_IFDIR | 0o755, ME)
    names.create(below.number, b"f", stat.S_IFREG | 0o644, ME)
    names.create(below.number, b"pipe", stat.S_IFIFO | 0o644, ME)
    names.create(below.number, b"link", stat.S_IFLNK | 0o777, ME, target=b"../f")
    names.link(site.numbers[FILE], below.number, b"again")
    volume.xattrs.set(site.numbers[FILE], b"user.x", b"1")
    assert volume.close()
    return site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with scratch() as place, small_limits():
        yield at_rest(place)


def found(site: Site, catalog: Path) -> list[Finding]:
    store = SegmentStore(FILESYSTEM, site.world.drives[:1], 1, 0, site.clock)
    store.scan()
    with open_reading(catalog, live=False) as reading:
        return list(tables(View(FILESYSTEM, "", reading, store, FragmentStore(FILESYSTEM, {}))))


# -- damages: each breaks one thing, and what derives from it is as it would be


def _checksum(rows: Rows) -> None:
    rows.raw(Table.XATTR, key_named(rows.find(FILE), b"user.x"), b"1234" + encode_bytes(b"2"))


def _inode_checksum(rows: Rows) -> None:
    """Its names and bytes are there, and nothing is wrong with them."""
    number = rows.find(FILE)
    rows.raw(Table.INODE, key_of(number), b"1234" + rows.inode(number).encode())


def _not_msgpack(rows: Rows) -> None:
    rows.put(Row(Table.XATTR, key_named(rows.find(FILE), b"user.x"), b"\xc1"))


def _short_key(rows: Rows) -> None:
    rows.put(Row(Table.ORPHAN, b"\0\0", b"\x90"))


def _strange_state(rows: Rows) -> None:
    rows.put(Row(Table.STATE, b"held me", encode_number(0)))


def _no_inode(rows: Rows) -> None:
    rows.put(Row(Table.INODE, key_of(rows.find(OTHER)), None))


def _no_directory(rows: Rows) -> None:
    rows.put(Row(Table.INODE, key_of(rows.find(b"d/e")), None))


def _sized_pipe(rows: Rows) -> None:
    rows.change(rows.find(b"d/e/pipe"), size=7)


def _dangling(rows: Rows) -> None:
    rows.put(Row(Table.INODE, key_of(rows.find(b"d/e/f")), None))


def _links(rows: Rows) -> None:
    rows.change(rows.find(FILE), links=1)


def _directory_links(rows: Rows) -> None:
    rows.change(ROOT, links=9)


def _entries(rows: Rows) -> None:
    rows.change(ROOT, entries=2)


def _parent(rows: Rows) -> None:
    rows.change(rows.find(b"d/e"), parent=ROOT)


def _unreachable(rows: Rows) -> None:
    below = rows.find(b"d/e")
    rows.name(below, b"f", None)
    rows.change(below, entries=3)


def _unreachable_directory(rows: Rows) -> None:
    rows.name(ROOT, b"d", None)
    root = rows.inode(ROOT)
    rows.change(ROOT, entries=root.entries - 1, links=root.links - 1)


def _circle(rows: Rows) -> None:
    top, below = rows.find(b"d"), rows.find(b"d/e")
    rows.name(ROOT, b"d", None)
    root = rows.inode(ROOT)
    rows.change(ROOT, entries=root.entries - 1, links=root.links - 1)
    inode = rows.inode(below)
    rows.name(below, b"up", Dentry(top, stat.S_IFDIR, inode.next_cookie))
    rows.change(
        below, entries=inode.entries + 1, links=inode.links + 1, next_cookie=inode.next_cookie + 1
    )
    rows.change(top, parent=below)


def _two_names(rows: Rows) -> None:
    root, below = rows.inode(ROOT), rows.find(b"d/e")
    rows.name(ROOT, b"e", Dentry(below, stat.S_IFDIR, root.next_cookie))
    rows.change(
        ROOT, entries=root.entries + 1, links=root.links + 1, next_cookie=root.next_cookie + 1
    )


def _in_a_file(rows: Rows) -> None:
    number = rows.find(OTHER)
    rows.name(number, b"x", Dentry(rows.find(FILE), stat.S_IFREG, 8))


def _slash(rows: Rows) -> None:
    below = rows.find(b"d/e")
    dentry = rows.dentry(below, b"f")
    rows.name(below, b"f", None)
    rows.name(below, b"../f", dentry)


def _type(rows: Rows) -> None:
    below = rows.find(b"d/e")
    rows.name(below, b"f", rows.dentry(below, b"f")._replace(kind=stat.S_IFLNK))


def _no_cookie(rows: Rows) -> None:
    rows.put(Row(Table.COOKIE, key_pair(ROOT, rows.dentry(ROOT, OTHER).cookie), None))


def _other_cookie(rows: Rows) -> None:
    rows.put(Cookie(b"gone", 5, stat.S_IFREG).row(ROOT, 9_999))


def _shared_cookie(rows: Rows) -> None:
    one, other = rows.dentry(ROOT, FILE), rows.dentry(ROOT, OTHER)
    rows.put(Row(Table.COOKIE, key_pair(ROOT, other.cookie), None))
    rows.put(other._replace(cookie=one.cookie).row(ROOT, OTHER))


def _next_cookie(rows: Rows) -> None:
    rows.change(ROOT, next_cookie=9)


def _gap(rows: Rows) -> None:
    hole = next(e for e in rows.extents(rows.find(FILE)) if e.address is None)
    rows.put(extent_removed(rows.find(FILE), hole.offset))


def _short(rows: Rows) -> None:
    rows.change(rows.find(OTHER), size=6_000)


def _overlap(rows: Rows) -> None:
    number = rows.find(FILE)
    hole = next(e for e in rows.extents(number) if e.address is None)
    rows.put(Extent(hole.offset, hole.length + 1, None).row(number))


def _beyond(rows: Rows) -> None:
    number = rows.find(FILE)
    rows.put(Extent(60_000, 100, None).row(number))


def _across(rows: Rows) -> None:
    rows.change(rows.find(OTHER), size=4_000)


def _of_a_pipe(rows: Rows) -> None:
    rows.put(Extent(0, 100, None).row(rows.find(b"d/e/pipe")))


def _address(rows: Rows) -> None:
    number = rows.find(ARCHIVED)
    extent = rows.extents(number)[0]
    assert extent.address is not None
    more = extent.address._replace(payload=extent.address.payload + 1)
    rows.put(extent._replace(address=more).row(number))


def _allocated(rows: Rows) -> None:
    rows.change(rows.find(FILE), allocated=1)


def _mark(rows: Rows) -> None:
    rows.put(Reap(5_000, 60_000).row(rows.find(FILE)))


def _orphan(rows: Rows) -> None:
    rows.put(Row(Table.ORPHAN, key_of(rows.find(FILE)), b"\x90"))


def _orphan_directory(rows: Rows) -> None:
    rows.put(Row(Table.ORPHAN, key_of(rows.find(b"d/e")), b"\x90"))


def _orphan_of_none(rows: Rows) -> None:
    rows.put(Row(Table.ORPHAN, key_of(900), b"\x90"))


def _stray_xattr(rows: Rows) -> None:
    rows.put(Row(Table.XATTR, key_named(900, b"user.x"), encode_bytes(b"")))


def _usage(rows: Rows) -> None:
    segment = next(e.address for e in rows.extents(rows.find(OTHER)) if e.address).segment
    rows.put(Row(Table.USAGE, key_of(segment), encode_number(1)))


def _next_inode(rows: Rows) -> None:
    rows.put(Row(Table.STATE, b"next_inode", encode_number(3)))


def _archive(rows: Rows) -> None:
    extent = rows.extents(rows.find(ARCHIVED))[0]
    assert extent.address is not None
    archived = decode_archived(rows.get(Table.ARCHIVE, key_of(extent.address.segment)))
    rows.put(archived.row(70_000))


def _snapshot(rows: Rows) -> None:
    rows.put(Row(Table.STATE, b"snapshot", encode_number(1)))


DAMAGES: list[tuple[Callable[[Rows], None], list[Kind]]] = [
    (_checksum, [Kind.ROW_UNREADABLE]),
    (_inode_checksum, [Kind.ROW_UNREADABLE]),
    (_not_msgpack, [Kind.ROW_UNREADABLE]),
    (_short_key, [Kind.ROW_UNREADABLE]),
    (_strange_state, [Kind.ROW_UNREADABLE]),
    (_no_inode, [Kind.INODE_MISSING]),
    (_no_directory, [Kind.INODE_MISSING]),
    (_sized_pipe, [Kind.INODE_WRONG]),
    (_dangling, [Kind.NAME_DANGLING]),
    (_links, [Kind.LINKS_WRONG]),
    (_directory_links, [Kind.LINKS_WRONG]),
    (_entries, [Kind.ENTRIES_WRONG]),
    (_parent, [Kind.PARENT_WRONG]),
    (_unreachable, [Kind.UNREACHABLE]),
    (_unreachable_directory, [Kind.UNREACHABLE]),
    (_circle, [Kind.DIRECTORY_CIRCLE]),
    (_two_names, [Kind.DIRECTORY_LINKED]),
    (_in_a_file, [Kind.NAME_STRAY]),
    (_slash, [Kind.NAME_BAD]),
    (_type, [Kind.NAME_TYPE]),
    (_no_cookie, [Kind.COOKIE_WRONG]),
    (_other_cookie, [Kind.COOKIE_WRONG]),
    (_shared_cookie, [Kind.COOKIE_SHARED]),
    (_next_cookie, [Kind.COOKIE_NEXT]),
    (_gap, [Kind.EXTENT_GAP]),
    (_short, [Kind.EXTENT_GAP]),
    (_overlap, [Kind.EXTENT_OVERLAP]),
    (_beyond, [Kind.EXTENT_BEYOND]),
    (_across, [Kind.EXTENT_BEYOND]),
    (_of_a_pipe, [Kind.EXTENT_BEYOND]),
    (_address, [Kind.EXTENT_ADDRESS]),
    (_allocated, [Kind.ALLOCATED_WRONG]),
    (_mark, [Kind.MARK_WRONG]),
    (_orphan, [Kind.ORPHAN_WRONG]),
    (_orphan_directory, [Kind.ORPHAN_WRONG]),
    (_orphan_of_none, [Kind.ORPHAN_WRONG]),
    (_stray_xattr, [Kind.XATTR_STRAY]),
    (_usage, [Kind.USAGE_WRONG]),
    (_next_inode, [Kind.NUMBER_TAKEN]),
    (_archive, [Kind.NUMBER_TAKEN]),
    (_snapshot, [Kind.STATE_WRONG]),
]


def test_what_is_sound_has_nothing_wrong(site: Site) -> None:
    assert found(site, site.catalog) == []


@pytest.mark.parametrize(
    ("damage", "kinds"), DAMAGES, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_damage_is_found_as_what_it_is(
    site: Site, tmp_path: Path, damage: Callable[[Rows], None], kinds: list[Kind]
) -> None:
    catalog = tmp_path / "catalog"
    shutil.copytree(site.catalog, catalog)
    with rows_of(catalog) as rows:
        damage(rows)
    findings = found(site, catalog)
    assert [finding.kind for finding in findings] == kinds, findings
    assert all(finding.remedy for finding in findings)


def test_every_kind_of_the_tables_has_a_damage() -> None:
    """Those between the first and the last that are planted here."""
    every = list(Kind)
    planted = {kind for _, kinds in DAMAGES for kind in kinds}
    first, last = every.index(Kind.ROW_UNREADABLE), every.index(Kind.STATE_WRONG)
    assert set(every[first : last + 1]) == planted


@pytest.mark.parametrize("seed", range(8))
def test_whatever_was_done_leaves_nothing_wrong(seed: int) -> None:
    """With open orphans, marks, holes, renames: at any time, not only at rest."""
    with scratch() as place, tight_limits():
        trial = Trial(place, seed=seed)
        trial.start()
        for index, operation in enumerate(Generator(seed).operations(100)):
            trial.run(operation)
            if not index % 9:
                assert list(tables(view_of(trial.volume))) == [], trial.done[-9:]
        trial.volume.abandon()


def test_a_name_of_the_inode_0_is_none(site: Site, tmp_path: Path) -> None:
    """Numbers begin at 1; a row of 0 is an inode that no name leads to."""
    catalog = tmp_path / "catalog"
    shutil.copytree(site.catalog, catalog)
    with rows_of(catalog) as rows:
        rows.put(Inode(0, stat.S_IFREG | 0o644, 1, 0, 0, 0, 0, 0, 0, 0, 0).row())
    assert [finding.kind for finding in found(site, catalog)] == [Kind.UNREACHABLE]
