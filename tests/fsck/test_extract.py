"""Nothing is written but below one directory, whatever is in there and whatever names say."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shmr.errors import SetupError
from shmr.format.rows import SIZE_MAX, Inode
from shmr.fsck.decoding.contents import Data, Hole, Lost, Part
from shmr.fsck.decoding.extract import Extractor, Stopped
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.salvaging.scratch import destination

WHEN = 1_600_000_000_123_456_789


def inode(number: int, mode: int, size: int = 0, **fields: Any) -> Inode:
    plain = Inode(number, mode, 1, os.geteuid(), os.getegid(), 0, size, size, WHEN, WHEN, WHEN)
    return plain._replace(**fields)


def regular(number: int, size: int, **fields: Any) -> Inode:
    return inode(number, stat.S_IFREG | fields.pop("mode", 0o640), size, **fields)


DIRECTORY = inode(3, stat.S_IFDIR | 0o750)


class Writing:
    """An extractor at work on a directory."""

    def __init__(self, to: Path, **options: Any) -> None:
        self.to = to
        self.found: list[Finding] = []
        self._options = {"special": False, **options}

    @contextmanager
    def begun(self) -> Iterator[Extractor]:
        with destination(str(self.to)) as scratch:
            extractor = Extractor(scratch, self.found.append, **self._options)
            extractor.top()
            try:
                yield extractor
                extractor.finish()
            finally:
                extractor.close()

    def file(self, name: bytes, what: Inode, *parts: Part, **xattrs: bytes) -> None:
        with self.begun() as extractor:
            extractor.begin(b"/" + name, what)
            extractor.file(name, what, parts, ((k.encode(), v) for k, v in xattrs.items()))

    @property
    def kinds(self) -> list[Kind]:
        return [finding.kind for finding in self.found]


@pytest.fixture
def writing(tmp_path: Path) -> Writing:
    return Writing(tmp_path / "out")


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """Something outside that nothing may happen to."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "file").write_bytes(b"precious")
    os.chmod(place / "file", 0o600)
    before = [(p, p.stat().st_mtime_ns, p.stat().st_mode) for p in (place, place / "file")]
    yield place
    assert os.listdir(place) == ["file"]
    assert (place / "file").read_bytes() == b"precious"
    assert [(p, p.stat().st_mtime_ns, p.stat().st_mode) for p in (place, place / "file")] == before


def test_a_file_gets_bytes_mode_and_times(writing: Writing) -> None:
    writing.file(b"a", regular(2, 10), Data(0, b"01234"), Hole(5, 3), Data(8, b"89"))
    facts = (writing.to / "a").stat()
    assert (writing.to / "a").read_bytes() == b"01234\0\0\089"
    assert stat.S_IMODE(facts.st_mode) == 0o640 and facts.st_mtime_ns == WHEN
    assert os.listdir(writing.to) == ["a"] and not writing.found


def test_links_that_wait_in_the_destination_are_not_followed(
    writing: Writing, victim: Path
) -> None:
    writing.to.mkdir()
    for name in ("file", "dangling.shmr-incomplete", "directory", "link"):
        (writing.to / name).symlink_to(victim / ("file" if name != "directory" else ""))
    (writing.to / "lost.shmr-incomplete").symlink_to(victim / "file")
    with writing.begun() as extractor:
        extractor.file(b"file", regular(2, 8), [Data(0, b"replaced")], ())
        extractor.file(b"lost", regular(4, 8), [Data(0, b"re"), Lost(2, 6, "why")], ())
        assert not extractor.enter(b"directory", DIRECTORY)
        target = os.fsencode(victim / "file")
        extractor.symlink(b"link", inode(5, stat.S_IFLNK | 0o777, target=target), ())
    assert writing.kinds.count(Kind.NOT_WRITTEN) == 3
    assert all((writing.to / name).is_symlink() for name in os.listdir(writing.to))


def test_a_symlink_that_was_written_is_not_gone_through(writing: Writing, victim: Path) -> None:
    """Two names that are one on such a disk, or a name twice: the second finds a link."""
    with writing.begun() as extractor:
        target = os.fsencode(victim)
        extractor.symlink(b"x", inode(5, stat.S_IFLNK | 0o777, target=target), ())
        assert not extractor.enter(b"x", DIRECTORY)
        extractor.file(b"x", regular(2, 8), [Data(0, b"replaced")], ())
    assert os.readlink(writing.to / "x") == str(victim)
    assert writing.kinds == [Kind.NOT_WRITTEN] * 2


def test_a_directory_that_is_swapped_while_it_is_written_catches_nothing(
    writing: Writing, victim: Path
) -> None:
    """What was opened stays what it is, wherever its name leads now."""
    with writing.begun() as extractor:
        assert extractor.enter(b"d", DIRECTORY)
        os.rename(writing.to / "d", writing.to / "elsewhere")
        (writing.to / "d").symlink_to(victim)
        extractor.file(b"file", regular(2, 8), [Data(0, b"replaced")], ())
        assert extractor.enter(b"deeper", DIRECTORY)
        extractor.leave(DIRECTORY)
        extractor.leave(DIRECTORY)
    assert (writing.to / "elsewhere" / "file").read_bytes() == b"replaced"
    assert stat.S_IMODE((writing.to / "elsewhere").stat().st_mode) == 0o750


def test_the_scratch_space_cannot_be_moved_away(
    writing: Writing, victim: Path, tmp_path: Path
) -> None:
    with destination(str(writing.to)) as scratch:
        os.rename(writing.to / scratch.name, tmp_path / "moved")
        (writing.to / scratch.name).symlink_to(victim)
        extractor = Extractor(scratch, writing.found.append, special=False)
        extractor.top()
        extractor.file(b"a", regular(2, 1), [Data(0, b"a")], ())
        assert scratch.catalog.parent.resolve() == tmp_path / "moved"
        extractor.close()
    assert (writing.to / "a").read_bytes() == b"a"


@pytest.mark.parametrize("mode", (0o4755, 0o2755, 0o6755, 0o1755))
def test_bits_that_give_rights_away_are_kept_on_request_only(tmp_path: Path, mode: int) -> None:
    for special in (False, True):
        writing = Writing(tmp_path / str(special), special=special)
        with writing.begun() as extractor:
            extractor.file(b"f", regular(2, 0, mode=mode), (), ())
            extractor.enter(b"d", inode(3, stat.S_IFDIR | mode))
            extractor.leave(inode(3, stat.S_IFDIR | mode))
        for name in ("f", "d"):
            found = stat.S_IMODE((writing.to / name).stat().st_mode)
            assert found == (mode if special else mode & 0o1777)
        assert extractor.counts.unprivileged == (0 if special or mode & 0o1000 else 2)


@pytest.mark.root
def test_nodes_are_made_on_request_only(tmp_path: Path) -> None:
    kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK,
             "sock": stat.S_IFSOCK}  # fmt: skip
    for special in (False, True):
        writing = Writing(tmp_path / str(special), special=special)
        with writing.begun() as extractor:
            for name, kind in kinds.items():
                node = inode(2, kind | 0o604, rdev=1 << 8 | 3)
                extractor.node(name.encode(), node, ())
        if not special:
            assert os.listdir(writing.to) == [] and extractor.counts.special == 4
            continue
        for name, kind in kinds.items():
            facts = (writing.to / name).stat()
            assert facts.st_mode == kind | 0o604 and facts.st_mtime_ns == WHEN
        assert (writing.to / "char").stat().st_rdev == os.makedev(1, 3)


@pytest.mark.root
def test_what_the_kernel_believes_is_set_on_request_only(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    for special in (False, True):
        writing = Writing(tmp_path / str(special), special=special)
        xattrs = {"user.a": b"1", "security.capability": capability, "trusted.b": b"2"}
        writing.file(b"f", regular(2, 0), **xattrs)
        expected = {"user.a", "trusted.b"} | ({"security.capability"} if special else set())
        assert set(os.listxattr(writing.to / "f")) == expected
        assert not writing.found


def test_attributes_that_cannot_be_are_told(writing: Writing) -> None:
    with writing.begun() as extractor:
        xattrs = [
            (b"user." + b"x" * 260, b""),
            (b"user.\0", b""),
            (b"nowhere.a", b""),
            (b"user.b", None),
            (b"system.posix_acl_access", b"no ACL"),
            (b"user.\x1b[2J", b"y"),
        ]
        extractor.file(b"f", regular(2, 0), (), xattrs)
        if os.geteuid() == 0:
            extractor.file(b"g", regular(4, 0, uid=2**40), (), ())
            extractor.file(b"h", regular(5, 0, uid=2**32 - 1), (), ())
    assert set(writing.kinds) == {Kind.ATTRIBUTES_LEFT}
    assert "\x1b" not in writing.found[0].message
    assert os.listxattr(writing.to / "f") == ["user.\x1b[2J"]


def test_files_that_exist_are_not_replaced(writing: Writing) -> None:
    writing.to.mkdir()
    (writing.to / "a").write_bytes(b"mine")
    (writing.to / "d").write_bytes(b"mine")
    with writing.begun() as extractor:
        extractor.file(b"a", regular(2, 4), [Data(0, b"ours")], ())
        assert not extractor.enter(b"d", DIRECTORY)
    assert (writing.to / "a").read_bytes() == (writing.to / "d").read_bytes() == b"mine"
    assert writing.kinds == [Kind.NOT_WRITTEN] * 2


def test_a_name_that_appears_while_the_file_is_written_is_not_replaced(writing: Writing) -> None:
    def parts() -> Iterator[Part]:
        yield Data(0, b"ours")
        (writing.to / "a").write_bytes(b"mine")

    with writing.begun() as extractor:
        extractor.file(b"a", regular(2, 4), parts(), ())
    assert (writing.to / "a").read_bytes() == b"mine"
    assert writing.kinds == [Kind.NOT_WRITTEN]
    assert os.listdir(writing.to) == ["a"]


@pytest.mark.parametrize("links", (True, False))
def test_hard_links_are_kept_where_the_disk_has_them(
    writing: Writing, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _refusing(errno.EPERM))
    shared = regular(2, 4, links=3)
    with writing.begun() as extractor:
        for name in (b"a", b"b"):
            extractor.file(name, shared, [Data(0, b"both")], ())
        extractor.enter(b"d", DIRECTORY)
        extractor.file(b"c", shared, [Data(0, b"both")], ())
        extractor.leave(DIRECTORY)
    names = ("a", "b", "d/c")
    assert all((writing.to / name).read_bytes() == b"both" for name in names)
    inodes = {(writing.to / name).stat().st_ino for name in names}
    assert len(inodes) == (1 if links else 3)
    assert extractor.counts.separate == (0 if links else 3)
    assert not writing.found
    assert sorted(os.listdir(writing.to)) == ["a", "b", "d"]


def test_without_links_nothing_is_replaced_either(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refusing(errno.EOPNOTSUPP))

    def parts() -> Iterator[Part]:
        yield Data(0, b"ours")
        (writing.to / "a").write_bytes(b"mine")

    with writing.begun() as extractor:
        extractor.file(b"a", regular(2, 4), parts(), ())
        extractor.symlink(b"l", inode(5, stat.S_IFLNK | 0o777, target=b"x"), ())
    assert (writing.to / "a").read_bytes() == b"mine"
    assert os.readlink(writing.to / "l") == "x"
    assert writing.kinds == [Kind.NOT_WRITTEN]


def _refusing(number: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_an_incomplete_file_says_so_and_a_better_one_takes_its_place(writing: Writing) -> None:
    what = regular(2, 300_000, links=2)
    some = [Data(0, b"x" * 100_000), Lost(100_000, 100_000, "gone"), Lost(200_000, 1, "gone")]
    with writing.begun() as extractor:
        for name in (b"a", b"b"):
            extractor.file(name, what, [*some, Data(200_001, b"y" * 99_999)], ())
    assert sorted(os.listdir(writing.to)) == ["a.shmr-incomplete", "b.shmr-incomplete"]
    assert (writing.to / "a.shmr-incomplete").stat().st_size == 300_000
    assert "bytes 100000..200001 cannot be had (gone)" in writing.found[0].message
    assert writing.kinds == [Kind.FILE_INCOMPLETE] * 2
    with writing.begun() as extractor:
        for name in (b"a", b"b"):
            extractor.file(name, what, [Data(0, b"z" * 300_000)], ())
    assert sorted(os.listdir(writing.to)) == ["a", "b"]
    assert (writing.to / "b").read_bytes() == b"z" * 300_000
    assert len(writing.found) == 2


def test_somebody_elses_incomplete_file_stays(writing: Writing) -> None:
    writing.to.mkdir()
    (writing.to / "a.shmr-incomplete").write_bytes(b"mine")
    writing.file(b"a", regular(2, 4), Data(0, b"12"), Lost(2, 2, "gone"))
    assert (writing.to / "a.shmr-incomplete").read_bytes() == b"mine"
    assert Kind.NOT_WRITTEN in writing.kinds
    writing.file(b"a", regular(2, 4), Data(0, b"1234"))
    assert sorted(os.listdir(writing.to)) == ["a", "a.shmr-incomplete"]


def test_names_of_255_bytes_find_room_for_the_mark(writing: Writing) -> None:
    writing.file(b"n" * 255, regular(2, 4), Data(0, b"12"), Lost(2, 2, "gone"))
    (name,) = os.listdir(writing.to)
    assert len(name) == 255 and name.endswith(".shmr-incomplete")


@pytest.mark.parametrize("size", (2**40, 2**50, SIZE_MAX))
def test_a_claimed_size_takes_no_space(writing: Writing, size: int) -> None:
    writing.file(b"huge", regular(2, size), Hole(0, size))
    taken = sum(path.stat().st_blocks for path in writing.to.iterdir())
    assert taken < 100
    # Where the disk has no such files it is told, and nothing is left.
    assert len(writing.found) == 1 - len(os.listdir(writing.to))


def test_a_full_disk_ends_it_and_says_that_it_goes_on(
    writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", _refusing(errno.ENOSPC))
    with pytest.raises(SetupError, match="it goes on"):
        writing.file(b"a", regular(2, 4), Data(0, b"1234"))
    assert os.listdir(writing.to) == []


def test_stopped_in_the_middle_of_a_file_nothing_of_it_is_left(tmp_path: Path) -> None:
    asked = iter((False, False, False, True))
    writing = Writing(tmp_path / "out", stop=lambda: next(asked))
    with pytest.raises(Stopped):
        writing.file(b"a", regular(2, 100), *(Data(at, b"x") for at in range(100)))
    assert os.listdir(writing.to) == []


def test_a_destination_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "none" / "none", Path("/proc/self")):
        with pytest.raises(SetupError, match="--to"), destination(str(path)):
            raise AssertionError("it was taken")
