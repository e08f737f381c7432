"""The model filesystem: its own claims, in cases. Against a real one: test_model_against_linux."""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Callable
from functools import partial

import pytest

from shmr.core import acl
from shmr.core.acl import Acl, Entry, Tag
from shmr.errors import Refused
from shmr.format.rows import ROOT, SIZE_MAX, Inode
from shmr.testing.model import Model
from shmr.testing.model_names import EXCHANGE, NOREPLACE
from shmr.testing.tree import differences, tree_of
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

ROOT_USER = Caller(0, 0)
USER = Caller(1000, 100, 0o022)
FILE, DIRECTORY = stat.S_IFREG | 0o666, stat.S_IFDIR | 0o777


@pytest.fixture
def model() -> Model:
    return Model(itertools.count(1).__next__)


def file(model: Model, name: bytes, parent: int = ROOT, mode: int = FILE) -> Inode:
    return model.names.create(parent, name, mode, USER)


def directory(model: Model, name: bytes, parent: int = ROOT) -> Inode:
    return model.names.create(parent, name, DIRECTORY, USER)


def refused(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(Refused) as caught:
        call()
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def test_a_new_file_has_the_callers_ids_and_what_the_umask_leaves(model: Model) -> None:
    made = file(model, b"a")
    assert (made.mode, made.uid, made.gid, made.links) == (stat.S_IFREG | 0o644, 1000, 100, 1)
    assert made.atime_ns == made.mtime_ns == made.ctime_ns == model.attributes.get(ROOT).mtime_ns
    assert model.names.lookup(ROOT, b"a") == made


def test_a_setgid_directory_gives_its_group_and_itself_to_directories(model: Model) -> None:
    top = directory(model, b"top")
    model.attributes.set(top.number, AttributeChange(mode=0o2755, gid=7))
    assert file(model, b"f", top.number).gid == 7
    below = directory(model, b"d", top.number)
    assert (below.gid, below.mode & stat.S_ISGID) == (7, stat.S_ISGID)
    assert not file(model, b"g", top.number).mode & stat.S_ISGID


def test_a_default_acl_takes_the_place_of_the_umask(model: Model) -> None:
    top = directory(model, b"top")
    default = Acl(
        (
            Entry(Tag.OWNER, 7),
            Entry(Tag.USER, 6, 5),
            Entry(Tag.GROUP, 5),
            Entry(Tag.MASK, 7),
            Entry(Tag.OTHER, 2),
        )
    )
    model.xattrs.set(top.number, acl.DEFAULT, acl.encode(default))
    made = file(model, b"f", top.number)
    assert stat.S_IMODE(made.mode) == 0o662
    assert model.xattrs.list(made.number) == [acl.ACCESS]
    below = directory(model, b"d", top.number)
    assert model.xattrs.list(below.number) == [acl.ACCESS, acl.DEFAULT]
    link = model.names.create(top.number, b"l", stat.S_IFLNK, USER, target=b"t")
    assert (stat.S_IMODE(link.mode), model.xattrs.list(link.number)) == (0o777, [])


def test_an_access_acl_and_the_mode_keep_in_step(model: Model) -> None:
    number = file(model, b"a").number
    entries = [Entry(Tag.OWNER, 6), Entry(Tag.GROUP, 4), Entry(Tag.OTHER, 0)]
    model.xattrs.set(number, acl.ACCESS, acl.encode(Acl(tuple(entries))))
    assert stat.S_IMODE(model.attributes.get(number).mode) == 0o640
    assert model.xattrs.list(number) == [], "the mode says it all"
    entries[1:1] = [Entry(Tag.USER, 7, 5)]
    entries[3:3] = [Entry(Tag.MASK, 7)]
    model.xattrs.set(number, acl.ACCESS, acl.encode(Acl(tuple(entries))))
    assert stat.S_IMODE(model.attributes.get(number).mode) == 0o670
    model.attributes.set(number, AttributeChange(mode=0o600))
    stored = acl.decode(model.xattrs.get(number, acl.ACCESS))
    assert stored is not None
    assert (stored.permissions(Tag.MASK), stored.permissions(Tag.GROUP)) == (0, 4)


def test_an_access_acl_takes_setgid_from_strangers_to_the_group(model: Model) -> None:
    entries = (Entry(Tag.OWNER, 7), Entry(Tag.GROUP, 7), Entry(Tag.OTHER, 0))
    value = acl.encode(Acl(entries))
    number = file(model, b"a").number
    for caller, kept in (
        (Caller(1000, 5), False),
        (Caller(1000, 5, 0, lambda: frozenset({100})), True),
        (Caller(1000, 100), True),
        (Caller(0, 0), True),
    ):
        model.attributes.set(number, AttributeChange(mode=0o2770))
        model.xattrs.set(number, acl.ACCESS, value, caller)
        assert bool(model.attributes.get(number).mode & stat.S_ISGID) == kept


def test_link_counts_and_entries_follow_every_change(model: Model) -> None:
    one, two = directory(model, b"one"), directory(model, b"two")
    inner = directory(model, b"inner", one.number)

    def counts() -> list[tuple[int, int]]:
        return [
            (inode.links, inode.entries)
            for inode in map(model.attributes.get, (ROOT, one.number, two.number, inner.number))
        ]

    assert counts() == [(4, 2), (3, 1), (2, 0), (2, 0)]
    model.names.rename(one.number, b"inner", two.number, b"moved")
    assert counts() == [(4, 2), (2, 0), (3, 1), (2, 0)]
    model.names.rename(ROOT, b"one", two.number, b"moved", EXCHANGE)
    assert counts() == [(4, 2), (2, 0), (3, 1), (2, 0)]
    assert model.names.lookup(ROOT, b"one").number == inner.number
    f = file(model, b"f")
    model.names.rename(ROOT, b"f", two.number, b"moved", EXCHANGE)
    assert counts() == [(5, 3), (2, 0), (2, 1), (2, 0)]
    model.names.unlink(two.number, b"moved")
    assert counts() == [(5, 3), (2, 0), (2, 0), (2, 0)]
    refused(errno.ENOENT, lambda: model.attributes.get(f.number))
    model.names.rename(ROOT, b"f", ROOT, b"two")
    assert model.attributes.get(ROOT).links == 4


def test_rename_refuses_as_linux_does(model: Model) -> None:
    names = model.names
    a = directory(model, b"a").number
    b = directory(model, b"b", a).number
    file(model, b"f")
    file(model, b"g", b)
    long = b"x" * 256
    for number, arguments in (
        (errno.ENOENT, (ROOT, b"none", ROOT, b"z", 0)),
        (errno.ENOENT, (ROOT, b"none", ROOT, long, 0)),
        (errno.ENAMETOOLONG, (ROOT, b"f", ROOT, long, 0)),
        (errno.EINVAL, (ROOT, b"f", ROOT, b"z", 3)),
        (errno.EINVAL, (ROOT, b"f", ROOT, b"z", 4)),
        (errno.EEXIST, (ROOT, b"f", ROOT, b"a", NOREPLACE)),
        (errno.EEXIST, (ROOT, b"f", ROOT, b"f", NOREPLACE)),
        (errno.ENOENT, (ROOT, b"f", ROOT, b"z", EXCHANGE)),
        (errno.ENOENT, (ROOT, b"a", b, b"z", EXCHANGE)),
        (errno.EINVAL, (ROOT, b"a", b, b"z", 0)),
        (errno.EINVAL, (ROOT, b"a", a, b"b", 0)),
        (errno.EINVAL, (ROOT, b"a", b, b"g", EXCHANGE)),
        (errno.EINVAL, (b, b"g", ROOT, b"a", EXCHANGE)),
        (errno.ENOTEMPTY, (b, b"g", ROOT, b"a", 0)),
        (errno.ENOTDIR, (ROOT, b"a", ROOT, b"f", 0)),
        (errno.EISDIR, (ROOT, b"f", a, b"b", 0)),
    ):
        refused(number, partial(names.rename, *arguments))
    inode = names.lookup(ROOT, b"f").number
    refused(errno.ENOTDIR, lambda: names.rename(inode, b"f", ROOT, b"z"))
    refused(errno.ENOTDIR, lambda: names.rename(ROOT, b"a", inode, b"z"))


def test_a_rename_onto_another_name_of_the_same_file_does_nothing(model: Model) -> None:
    model.names.link(file(model, b"a").number, ROOT, b"b")
    before = model.tree()
    model.names.rename(ROOT, b"a", ROOT, b"b")
    model.names.rename(ROOT, b"a", ROOT, b"b", EXCHANGE)
    assert model.tree() == before


def test_what_is_removed_lives_until_it_is_closed(model: Model) -> None:
    number = file(model, b"a").number
    top = directory(model, b"d").number
    model.handles.opened(number)
    model.handles.opened(top)
    model.names.unlink(ROOT, b"a")
    model.names.rmdir(ROOT, b"d")
    model.data.write(number, 0, b"still")
    assert model.attributes.get(number).links == 0
    refused(errno.ENOENT, lambda: file(model, b"x", top))
    refused(errno.ENOENT, lambda: model.names.link(number, ROOT, b"again"))
    refused(errno.ENOENT, lambda: model.restarted().attributes.get(number))
    assert model.copy().data.read(number, 0, 9) == b"still"
    model.handles.closed(number)
    refused(errno.ENOENT, lambda: model.attributes.get(number))


def test_under_a_kernel_it_lives_until_it_is_forgotten(model: Model) -> None:
    model.handles.keep_known = True
    number = file(model, b"a").number
    model.names.unlink(ROOT, b"a")
    assert model.attributes.get(number).links == 0
    model.handles.forgotten(number)
    refused(errno.ENOENT, lambda: model.attributes.get(number))


def test_files_are_sparse_and_truncation_leaves_zeros(model: Model) -> None:
    number = file(model, b"a").number
    model.data.write(number, 10**15, b"far")
    assert model.data.read(number, 10**15 - 2, 100) == b"\0\0far"
    model.data.write(number, 4090, b"123456789")
    model.attributes.set(number, AttributeChange(size=4094))
    model.data.truncate(number, 10_000)
    assert model.data.read(number, 4088, 12) == b"\0\0" + b"1234" + bytes(6)
    assert model.data.read(number, 20_000, 1) == b""
    model.data.write(number, 50_000, b"")
    assert model.attributes.get(number).size == 10_000


def test_sizes_have_limits_and_only_files_have_bytes(model: Model) -> None:
    number = file(model, b"a").number
    refused(errno.EFBIG, lambda: model.data.write(number, SIZE_MAX, b"x"))
    refused(errno.EFBIG, lambda: model.data.truncate(number, SIZE_MAX + 1))
    refused(errno.EINVAL, lambda: model.data.truncate(number, -1))
    refused(errno.EISDIR, lambda: model.data.write(ROOT, 0, b"x"))
    refused(errno.EISDIR, lambda: model.attributes.set(ROOT, AttributeChange(size=0)))
    pipe = file(model, b"p", mode=stat.S_IFIFO | 0o600).number
    refused(errno.EINVAL, lambda: model.data.truncate(pipe, 0))


def test_xattrs_refuse_as_linux_does(model: Model) -> None:
    number = file(model, b"a").number
    xattrs = model.xattrs
    refused(errno.ENODATA, lambda: xattrs.get(number, b"user.x"))
    refused(errno.ENODATA, lambda: xattrs.remove(number, b"user.x"))
    refused(errno.E2BIG, lambda: xattrs.set(number, b"user.x", bytes(65_537)))
    refused(errno.ERANGE, lambda: xattrs.set(number, b"user." + b"x" * 251, b""))
    refused(errno.EINVAL, lambda: xattrs.set(number, acl.ACCESS, b"rubbish"))
    entries = (Entry(Tag.OWNER, 7), Entry(Tag.GROUP, 7), Entry(Tag.OTHER, 0))
    value = acl.encode(Acl(entries))
    refused(errno.EACCES, lambda: xattrs.set(number, acl.DEFAULT, value))
    xattrs.remove(number, acl.ACCESS)
    xattrs.set(number, b"user.x", b"1")
    xattrs.set(number, b"user.x", b"2")
    assert (xattrs.list(number), xattrs.get(number, b"user.x")) == ([b"user.x"], b"2")


def test_privileges_are_killed_where_they_could_be_used(model: Model) -> None:
    for before, after in ((0o6775, 0o775), (0o6765, 0o2765), (0o1644, 0o1644)):
        number = file(model, b"a").number
        model.attributes.set(number, AttributeChange(mode=before))
        model.attributes.kill_privileges(number)
        assert stat.S_IMODE(model.attributes.get(number).mode) == after
        model.names.unlink(ROOT, b"a")


def test_a_directory_is_read_on_from_a_cookie(model: Model) -> None:
    for name in (b"a", b"b", b"c"):
        file(model, name)
    (first, _, cookie), *rest = model.names.entries(ROOT, 0)
    model.names.unlink(ROOT, first)
    file(model, b"d")
    model.names.rename(ROOT, b"d", ROOT, b"b")
    assert [name for name, _, _ in model.names.entries(ROOT, cookie)] == [b"b", b"c"]
    assert len(rest) == 2


def test_a_copy_goes_its_own_way(model: Model) -> None:
    number = file(model, b"a").number
    model.data.write(number, 0, b"before")
    copy = model.copy()
    before = copy.tree()
    model.data.write(number, 0, b"after!")
    model.xattrs.set(number, b"user.x", b"1")
    model.names.rename(ROOT, b"a", ROOT, b"b")
    assert copy.tree() == before
    copy.names.unlink(ROOT, b"a")
    assert model.data.read(number, 0, 9) == b"after!"


def test_trees_show_every_difference(model: Model) -> None:
    number = file(model, b"a").number
    model.names.link(number, directory(model, b"d").number, b"b")
    other = model.copy()
    assert differences(model.tree(), tree_of(other)) == []
    assert model.tree()[b"/d/b"].same_as == b"/a"
    other.data.write(number, 3, b"x")
    file(other, b"new")
    found = "\n".join(differences(model.tree(), other.tree()))
    for expected in ("b'/a': size: expected 0, found 4", "b'/a': content", "b'/new': not expected"):
        assert expected in found


def test_huge_files_are_compared_at_their_edges(model: Model) -> None:
    number = file(model, b"a").number
    model.data.truncate(number, 10**15)
    other = model.copy()
    other.data.write(number, 10**15 - 1, b"x")
    assert [line.split(":")[1] for line in differences(model.tree(), other.tree())] == [" content"]
