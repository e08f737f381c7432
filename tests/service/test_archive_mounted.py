"""Archived files on a real mount: read as all others, with archive drives there and not there."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.config import load
from shmr.format.fragment import ArchivedExtent
from shmr.service.assemble import open_drives, open_filesystem
from shmr.volume.archived import Moved
from tests.archived import Pool
from tests.mounted import MountedFilesystem

pytestmark = pytest.mark.mount

DRIVES = 6
CONTENTS = {
    "large": random.Random(1).randbytes(700_000),
    "small": b"hello",
    "patched": random.Random(2).randbytes(300_000),
}


class Archived(MountedFilesystem):
    """A workspace of one drive, and an archive pool of six that is erasure coded 4+2."""

    def __init__(self, base: Path) -> None:
        self.archive = [base / f"smr-{index}" for index in range(DRIVES)]
        for directory in self.archive:
            directory.mkdir()
        super().__init__(base, drives=1)

    def _configuration(self, size: str, scheme: str) -> str:
        lines = [
            super()._configuration(size, scheme).rstrip("\n"),
            "  - name: cold",
            "    priority: 1",
            "    scheme: {erasure: {k: 4, m: 2}}",
            "    drives:",
            *(f"      - {{path: {drive}}}" for drive in self.archive),
        ]
        return "\n".join(lines) + "\n"

    def mount(self) -> str:
        """What `shmr mount` says."""
        done = self.command("mount", str(self.config), str(self.path), limit_s=60.0)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def shift(self) -> None:
        """Archive every file, by the shortest way, while nothing is mounted."""
        config = load(self.config)
        drives = open_drives(config, degraded=False)
        volume = open_filesystem(config, drives, read_only=False, degraded=False)
        try:
            pool = Pool(4, 2)
            pool.filesystem = volume.context.fragments.filesystem
            pool.drives = dict(volume.context.fragments.drives)  # type: ignore[arg-type]
            number = volume.context.reader.store.number()
            volume.commits.now()
            content = bytearray()
            table: list[ArchivedExtent] = []
            sources = []
            for _, inode, _ in volume.names.entries(1, 0):
                for extent in volume.catalog.extents(inode.number, 0, inode.size):
                    plan = volume.context.reader.plan(inode.number, [extent])
                    sources.append((inode.number, extent, len(content)))
                    table.append(ArchivedExtent(inode.number, *extent[:2], len(content)))
                    content += plan.fetch()
                    plan.release()
            archived = pool.write(number, bytes(content), table)
            moved = []
            for inode_number, extent, at in sources:
                assert extent.address is not None
                target = archived.address(number, at)
                moved.append(Moved(inode_number, *extent[:2], extent.address, target))
            assert volume.archive.switch(number, archived, moved) == len(content)
        finally:
            volume.close()
            drives.close()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@pytest.fixture(scope="module")
def filesystem() -> Iterator[Archived]:
    """Three files, archived; then one of them written to again."""
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    made = Archived(base)
    try:
        made.start()
        for name, content in CONTENTS.items():
            (made.path / name).write_bytes(content)
        made.stop()
        made.shift()
        made.mount()
        with open(made.path / "patched", "r+b") as file:
            file.seek(100_000)
            file.write(b"patch")
        made.stop()
        yield made
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def expected(name: str) -> bytes:
    content = CONTENTS[name]
    return content if name != "patched" else content[:100_000] + b"patch" + content[100_005:]


def right(filesystem: Archived) -> bool:
    return all(filesystem.read(name) == expected(name) for name in CONTENTS)


def test_archived_files_are_read_and_nothing_is_complained_of(filesystem: Archived) -> None:
    assert filesystem.mount() == ""
    try:
        assert right(filesystem)
        assert (filesystem.path / "large").stat().st_blocks * 512 >= 700_000
    finally:
        filesystem.stop()


def take_away(directory: Path) -> None:
    """The directory is not there."""


def leave_empty(directory: Path) -> None:
    """The disk is not mounted: an empty directory."""
    directory.mkdir()


def put_a_file(directory: Path) -> None:
    """No directory, and nothing that can be one."""
    directory.write_bytes(b"")


def put_another(directory: Path) -> None:
    """A disk of another filesystem."""
    directory.mkdir()
    other = MountedFilesystem(Path(tempfile.mkdtemp(dir=directory.parent)), drives=1)
    try:
        assert other.command("create", str(other.config), limit_s=60.0).returncode == 0
        for file in other.drives[0].iterdir():
            if file.is_file():
                shutil.copy(file, directory)
    finally:
        shutil.rmtree(other.base)


@pytest.mark.parametrize("way", [take_away, leave_empty, put_a_file, put_another])
def test_two_drives_less_are_told_and_cost_nothing(
    filesystem: Archived, way: Callable[[Path], None]
) -> None:
    lost = [filesystem.archive[index] for index in (0, 4)]
    aside = [directory.with_name(f"aside-{directory.name}") for directory in lost]
    for directory, other in zip(lost, aside, strict=True):
        os.rename(directory, other)
        way(directory)
    try:
        said = filesystem.mount()
        assert all(str(directory) in said for directory in lost), said
        assert "2 of 6 drives of archive pool 'cold' are missing" in said
        assert right(filesystem)
    finally:
        filesystem.stop()
        for directory, other in zip(lost, aside, strict=True):
            if directory.is_dir():
                shutil.rmtree(directory)
            directory.unlink(missing_ok=True)
            os.rename(other, directory)


def test_every_byte_flipped_somewhere_is_right_and_in_the_log(filesystem: Archived) -> None:
    damaged = filesystem.archive[1:3]
    intact = {}
    for directory in damaged:
        (fragment,) = directory.glob("fragment-*")
        intact[fragment] = fragment.read_bytes()
        bent = bytearray(intact[fragment])
        for at in itertools.chain(range(5000, len(bent) - 40_000, 4096), [100]):
            bent[at] ^= 1
        fragment.write_bytes(bent)
    log = filesystem.drives[0] / "catalog.log"
    filesystem.mount()
    try:
        assert right(filesystem)
        said = log.read_text()
        for directory in damaged:
            assert f"drive {directory}: segment " in said
    finally:
        filesystem.stop()
        for fragment, content in intact.items():
            fragment.write_bytes(content)


def test_one_damage_too_many_is_eio_and_the_log_names_the_place(filesystem: Archived) -> None:
    lost = filesystem.archive[:3]
    for directory in lost:
        os.rename(directory, directory.with_name(f"aside-{directory.name}"))
    try:
        said = filesystem.mount()
        assert "3 of 6 drives" in said and "can do without 2" in said
        with pytest.raises(OSError, match="Input/output error"):
            filesystem.read("large")
        assert sorted(os.listdir(filesystem.path)) == sorted(CONTENTS)
        log = (filesystem.drives[0] / "catalog.log").read_text()
        assert "fragment 0 on drive" in log and "unit 0" in log
        (filesystem.path / "new").write_bytes(b"new")
        assert filesystem.read("new") == b"new"
        (filesystem.path / "new").unlink()
    finally:
        filesystem.stop()
        for directory in lost:
            os.rename(directory.with_name(f"aside-{directory.name}"), directory)
