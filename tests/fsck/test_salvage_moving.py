"""The workspace is lost while files are moved: nothing comes back that never was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shmr.catalog.reading import Reading, open_reading
from shmr.errors import IntegrityError
from shmr.format.rows import (
    ROOT,
)
from shmr.fsck.salvaging.salvage import Salvaged
from shmr.fsck.salvaging.sources import Source
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.testing.drive import World
from shmr.testing.trial import FILESYSTEM, scratch
from shmr.volume.attributes import AttributeChange
from shmr.volume.volume import Volume
from tests.archive.site import ME, pool_of, small_limits
from tests.fsck.remains import Remains


@pytest.fixture
def place() -> Iterator[Path]:
    with scratch() as directory, small_limits():
        yield directory


class Versions:
    """Files, and every content that each of them ever had."""

    def __init__(self, site: Remains, volume: Volume) -> None:
        self.site, self.volume, self.rng = site, volume, site.rng
        self.numbers: dict[bytes, int] = {}
        self.of: dict[int, list[bytes]] = {}
        """By inode."""
        self.deleted: set[int] = set()

    def step(self) -> None:
        rng, volume = self.rng, self.volume
        name = b"f%d" % rng.randrange(12)
        verb = rng.choice(("write", "write", "patch", "cut", "delete"))
        self.site.clock.tick()
        if name not in self.numbers:
            self.numbers[name] = volume.names.create(ROOT, name, 0o100600, ME).number
            self.of[self.numbers[name]] = [b""]
            verb = "write"
        number = self.numbers[name]
        now = self.of[number][-1]
        if verb == "delete":
            volume.names.unlink(ROOT, name)
            volume.handles.forgotten(number)
            del self.numbers[name]
            self.deleted.add(number)
        elif verb == "cut":
            size = rng.randrange(len(now) + 1)
            volume.attributes.set(number, AttributeChange(size=size))
            self.of[number].append(now[:size])
        else:
            at = 0 if verb == "write" else rng.randrange(len(now) + 1)
            content = rng.randbytes(rng.choice((1, 4096, 30_000, 90_000)))
            volume.data.write(number, at, content)
            self.of[number].append(now[:at] + content + now[at + len(content) :])
        while volume.reaper.step():
            pass
        volume.commits.now()


@pytest.mark.parametrize("seed", range(14))
def test_every_byte_is_one_that_the_file_had_since_the_snapshot(place: Path, seed: int) -> None:
    """The workspace is lost while a shift runs: at any of its operations."""
    site = Remains(place, pool_of("2+1", 0), seed=seed)
    volume = site.open()
    files = Versions(site, volume)
    for _ in range(30):
        files.step()
    site.stay = {number for number in files.numbers.values() if site.rng.random() < 0.4}
    site.shift(volume, site.pools[0])
    there, gone_by_then = dict(files.numbers), set(files.deleted)
    since = {number: len(files.of[number]) - 1 for number in there.values()}
    whole = set(there.values()) - site.stay
    for _ in range(15):
        files.step()
    site.stay = set()
    images: list[World] = []

    def observe(world: World) -> None:
        world.observer = None
        if site.rng.random() < 0.04:
            images.append(world.kill())
        world.observer = observe

    site.world.observer = observe
    site.shift(volume, site.pools[0])
    site.world.observer = None
    volume.abandon()
    for index, image in enumerate([*images, site.world]):
        into = place / f"into{index}"
        salvaged = site.salvaged(into, image, gone=True)
        assert salvaged.source is Source.SNAPSHOT
        gather = Gather(FragmentStore(FILESYSTEM, site.zoned(image)), deadline_s=None)
        with open_reading(into, live=False) as reading:
            for name, number in [*there.items(), *files.numbers.items()]:
                if reading.find(name) == number:
                    versions = files.of[number][since.get(number, 0) :]
                    found = pieces(reading, gather, number, salvaged)
                    assert_had(found, versions)
                    if number in whole:
                        assert b"".join(piece for _, piece in found) in versions
            for number, versions in files.of.items():
                if reading.find(b"lost+found/inode-%d" % number) is not None:
                    assert number not in gone_by_then, "what was deleted comes back"
                    assert_had(pieces(reading, gather, number, salvaged), versions)
        gather.close()


def pieces(
    reading: Reading, gather: Gather, number: int, salvaged: Salvaged
) -> list[tuple[int, bytes]]:
    """What can be read of a file, extent by extent, with its offset."""
    found = []
    for extent in reading.extents(number):
        at = extent.address
        if at is None:
            found.append((extent.offset, bytes(extent.length)))
        elif at.segment not in salvaged.gone:
            row = reading.archived(at.segment)
            assert row is not None
            with suppress(IntegrityError):
                found.append((extent.offset, gather.read(at.segment, row, at.skip, extent.length)))
    return found


def assert_had(found: list[tuple[int, bytes]], versions: list[bytes]) -> None:
    for offset, piece in found:
        assert any(version[offset : offset + len(piece)] == piece for version in versions)
