"""What is not there is told without an exception; what cannot be asked for still raises."""

from __future__ import annotations

import errno
import itertools
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.errors import Refused
from shmr.format.rows import ROOT
from shmr.testing.drive import World
from shmr.testing.model import Model
from shmr.units import MIB
from shmr.volume.context import Caller
from shmr.volume.volume import Volume, open_volume

ROOT_USER = Caller(0, 0)
FILE = stat.S_IFREG | 0o644


@pytest.fixture(params=["volume", "model"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume | Model]:
    clock = itertools.count(10**9).__next__
    if request.param == "model":
        yield Model(clock)
        return
    world = World(1)
    world.add()
    volume = open_volume(
        bytes(range(16)),
        world.drives,
        tmp_path / "catalog",
        clock=clock,
        segment_bytes=MIB,
        in_child=False,
    )
    yield volume
    volume.abandon()


def test_a_name_is_found_or_none(filesystem: Volume | Model) -> None:
    names = filesystem.names
    assert names.find(ROOT, b"file") is None
    made = names.create(ROOT, b"file", FILE, ROOT_USER)
    assert names.find(ROOT, b"file") == made == names.lookup(ROOT, b"file")
    names.unlink(ROOT, b"file")
    assert names.find(ROOT, b"file") is None
    with pytest.raises(Refused) as refusal:
        names.lookup(ROOT, b"file")
    assert refusal.value.errno == errno.ENOENT


def test_a_name_that_nothing_can_have_is_refused(filesystem: Volume | Model) -> None:
    names = filesystem.names
    file = names.create(ROOT, b"file", FILE, ROOT_USER).number
    for parent, name, expected in (
        (file, b"x", errno.ENOTDIR),
        (file, b"x" * 256, errno.ENOTDIR),
        (ROOT, b"x" * 256, errno.ENAMETOOLONG),
        (ROOT, b"", errno.EINVAL),
        (file + 1, b"x", errno.ENOENT),
    ):
        for ask in (names.find, names.lookup):
            with pytest.raises(Refused) as refusal:
                ask(parent, name)
            assert refusal.value.errno == expected, (parent, name)


def test_an_attribute_is_found_or_none(filesystem: Volume | Model) -> None:
    number = filesystem.names.create(ROOT, b"file", FILE, ROOT_USER).number
    xattrs = filesystem.xattrs
    assert xattrs.find(number, b"user.x") is None
    xattrs.set(number, b"user.x", b"")
    assert xattrs.find(number, b"user.x") == b""
    assert xattrs.find(number, b"user.y") is None
    xattrs.remove(number, b"user.x")
    assert xattrs.find(number, b"user.x") is None
    with pytest.raises(Refused) as refusal:
        xattrs.find(number, b"user." + b"x" * 251)
    assert refusal.value.errno == errno.ERANGE
