"""Mounting and what is mounted where; the text of mountinfo needs no mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmr.errors import SetupError
from shmr.fuse.device import Mounted, find_mount, is_dead_mount, mount, mounted_filesystem
from shmr.fuse.options import MountOptions

MOUNTINFO = rb"""22 28 0:20 / /proc rw,relatime shared:12 - proc proc rw
40 28 0:35 / /srv/my\040media\134x rw,nosuid shared:2 master:1 - fuse.shmr my\040media rw,user_id=0
41 40 8:1 / /srv/stacked rw - ext4 /dev/sda1 rw
42 40 0:36 / /srv/stacked rw - fuse.shmr media rw
a line that is none
"""


def test_a_mount_is_found_by_its_unescaped_place() -> None:
    found = find_mount(MOUNTINFO, rb"/srv/my media\x")
    assert found == Mounted("fuse.shmr", "my media", "0:35")


def test_the_last_of_stacked_mounts_is_the_one_to_be_seen() -> None:
    assert find_mount(MOUNTINFO, b"/srv/stacked") == Mounted("fuse.shmr", "media", "0:36")


def test_nothing_is_mounted_where_no_line_says_so() -> None:
    assert find_mount(MOUNTINFO, b"/srv") is None
    assert find_mount(b"", b"/") is None


def test_what_is_mounted_is_found_through_a_symlinked_parent(tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to("/")
    assert mounted_filesystem(str(tmp_path / "here" / "proc")) == mounted_filesystem("/proc")
    assert mounted_filesystem("/proc") is not None


def test_an_ordinary_directory_is_no_dead_mount(tmp_path: Path) -> None:
    assert not is_dead_mount(str(tmp_path))
    assert not is_dead_mount(str(tmp_path / "missing"))


def test_a_place_that_is_no_directory_is_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, tmp_path / "missing"):
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(SetupError, match=str(place)):
            mount(str(place), "memory", MountOptions())
        assert set(os.listdir("/proc/self/fd")) == before
