"""A full filesystem: ENOSPC to writers, deletes give the space back, nothing is lost."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash.conftest import Make
from tests.crash.damage import log_of
from tests.mounted import MountedFilesystem, wait_until

pytestmark = pytest.mark.mount

GIVEN_BACK_LIMIT_S = 20.0
BLOCK = 16 * 1024
WRITERS = 4


class Filling:
    """Files with known content, made until there is no room for any more."""

    def __init__(self, filesystem: MountedFilesystem, length: Callable[[], int]) -> None:
        self._top = filesystem.path
        self._length = length
        self._rng = random.Random(3)
        self._count = 0
        self.present: dict[Path, bytes] = {}

    def fill(self) -> None:
        refusals = 0
        while refusals < 3:
            self._count += 1
            name = f"{self._count}".ljust(200 if self._length() == 0 else 1, "x")
            path = self._top / name
            content = self._rng.randbytes(self._length())
            try:
                with open(path, "xb") as file:
                    file.write(content)
                    file.flush()
                    if content or self._count % 200 == 0:
                        os.fsync(file.fileno())
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                refusals += 1
                path.unlink(missing_ok=True)
            else:
                self.present[path] = hashlib.md5(content).digest()
        # What was refused is deleted, durably.
        directory = os.open(self._top, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    def delete_half(self) -> None:
        for path in self._rng.sample(sorted(self.present), len(self.present) // 2):
            path.unlink()
            del self.present[path]

    def write_again(self, size: int) -> None:
        """At once, with no pause after the deletes, and several at once: none is refused."""
        contents = {
            self._top / f"again-{self._count}-{index}": self._rng.randbytes(size // WRITERS)
            for index in range(WRITERS)
        }
        with ThreadPoolExecutor(WRITERS) as threads:
            for _ in threads.map(_write, contents, contents.values()):
                pass
        for path, content in contents.items():
            self.present[path] = hashlib.md5(content).digest()

    def wrong(self) -> list[Path]:
        """Files that are missing, too many, or not what was written."""
        found = set(self._top.iterdir())
        return sorted(found ^ self.present.keys()) + [
            path
            for path in sorted(found & self.present.keys())
            if hashlib.md5(path.read_bytes()).digest() != self.present[path]
        ]


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def available(filesystem: MountedFilesystem) -> int:
    facts = os.statvfs(filesystem.path)
    return facts.f_bavail * facts.f_frsize


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("least", "most", "size", "again", "rounds"),
    [
        pytest.param(1 << 20, 8 << 20, "96MiB", 5 << 20, 5, id="big files"),
        pytest.param(1, 20_000, "24MiB", 1 << 20, 3, id="small files", marks=pytest.mark.thorough),
        pytest.param(0, 0, "16MiB", 0, 2, id="names", marks=pytest.mark.thorough),
    ],
)
def test_a_full_filesystem_is_emptied_and_filled_again(
    make_filesystem: Make, least: int, most: int, size: str, again: int, rounds: int
) -> None:
    filesystem = make_filesystem(drives=1, size=size)
    rng = random.Random(1)
    filling = Filling(filesystem, lambda: rng.randint(least, most))
    filesystem.start()
    for _ in range(rounds):
        filling.fill()
        filling.delete_half()
        filling.write_again(again)
        if again:
            wanted = 2 * again
            assert wait_until(lambda: available(filesystem) > wanted, GIVEN_BACK_LIMIT_S)  # noqa: B023
        assert filling.wrong() == []
    filesystem.remount()
    assert filling.wrong() == []
    (filesystem.path / "writable").write_bytes(b"")
    assert "read-only" not in log_of(filesystem)
    assert "unexpectedly" not in log_of(filesystem)


@pytest.mark.timeout(300)
@pytest.mark.thorough
def test_random_overwrites_go_on_when_four_fifths_are_used(make_filesystem: Make) -> None:
    """Twice the filesystem's size, so that the cleaner must win it all back."""
    filesystem = make_filesystem(drives=2, size="64MiB")
    filesystem.start()
    rng = random.Random(4)
    count = int(available(filesystem) * 0.8) // BLOCK
    seeds = [rng.randbytes(16) for _ in range(count)]
    descriptor = os.open(filesystem.path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for index, seed in enumerate(seeds):
            os.pwrite(descriptor, seed * (BLOCK // 16), index * BLOCK)
        for number in range(2 * count):
            index = rng.randrange(count)
            seeds[index] = rng.randbytes(16)
            os.pwrite(descriptor, seeds[index] * (BLOCK // 16), index * BLOCK)
            if number % 100 == 0:
                os.fsync(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    filesystem.remount()
    with open(filesystem.path / "file", "rb") as file:
        for seed in seeds:
            assert file.read(BLOCK) == seed * (BLOCK // 16)
    assert "cleaned segment" in log_of(filesystem)


@pytest.fixture
def small_disk(make_filesystem: Make) -> Iterator[MountedFilesystem]:
    """A filesystem on a disk of 64 MiB, with no limit of its own; the catalog is there too."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    filesystem = make_filesystem(drives=1, size="100GiB")
    drive = filesystem.drives[0]
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", drive], check=True)
    try:
        yield filesystem
    finally:
        filesystem.kill()
        filesystem.stop()
        subprocess.run(["umount", "-l", drive], check=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "most",
    [
        pytest.param(20_000, id="small files", marks=pytest.mark.thorough),
        pytest.param(6 << 20, id="big files"),
    ],
)
def test_a_disk_that_is_really_full_is_emptied_too(
    small_disk: MountedFilesystem, most: int
) -> None:
    rng = random.Random(2)
    filling = Filling(small_disk, lambda: rng.randint(1, most))
    small_disk.start()
    for _ in range(2):
        filling.fill()
        filling.delete_half()
        filling.write_again(100_000)
        assert filling.wrong() == []
    filling.fill()
    small_disk.kill()
    small_disk.start()
    assert filling.wrong() == []
    filling.delete_half()
    filling.write_again(100_000)
    small_disk.remount()
    assert filling.wrong() == []
    assert "read-only" not in log_of(small_disk)
