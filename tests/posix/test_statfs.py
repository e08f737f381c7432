"""statvfs(3): numbers that agree with each other and follow what is written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


def test_the_numbers_agree_with_each_other(place: Path) -> None:
    state = os.statvfs(place)
    assert state.f_namemax == 255
    assert state.f_bsize >= 512
    assert state.f_frsize >= 512
    assert state.f_blocks >= state.f_bfree >= state.f_bavail > 0
    assert state.f_files >= state.f_ffree > 0


def test_every_file_of_the_mount_tells_the_same(place: Path) -> None:
    (place / "file").touch()
    descriptor = os.open(place / "file", os.O_RDONLY)
    for state in (os.statvfs(place / "file"), os.fstatvfs(descriptor)):
        assert state.f_blocks == os.statvfs(place).f_blocks
        assert state.f_frsize == os.statvfs(place).f_frsize
    os.close(descriptor)


def test_df_reads_them(place: Path) -> None:
    done = subprocess.run(
        ["df", "--output=size,avail,itotal", "-B1", place],
        check=True,
        timeout=20,
        capture_output=True,
        text=True,
    )
    size, available, _ = map(int, done.stdout.splitlines()[1].split())
    assert 0 < available <= size


def test_what_is_written_is_no_longer_available(place: Path, on_shmr: bool) -> None:
    if not on_shmr:
        pytest.skip("only a filesystem that the test has to itself holds still")
    before = os.statvfs(place)
    size = 32 << 20
    with open(place / "file", "wb") as stream:
        for _ in range(32):
            stream.write(os.urandom(1 << 20))
        stream.flush()
        os.fsync(stream.fileno())
    after = os.statvfs(place)
    sunk = (before.f_bavail - after.f_bavail) * before.f_frsize
    assert size * 3 // 4 <= sunk <= size * 2


def test_every_new_file_takes_an_inode(place: Path, on_shmr: bool) -> None:
    if not on_shmr:
        pytest.skip("only a filesystem that the test has to itself holds still")
    before = os.statvfs(place)
    for index in range(100):
        (place / str(index)).touch()
    after = os.statvfs(place)
    used = (after.f_files - after.f_ffree) - (before.f_files - before.f_ffree)
    assert used == 100
