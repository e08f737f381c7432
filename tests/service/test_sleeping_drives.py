"""What asks for names and attributes wakes no archive drive, nor does a mount that is idle.

Seen from the drives' side: inotify tells of every file that is opened, read or changed there, and
strace of every system call of the daemon that names one. And with all drives hanging (see
`test_hanging_drive`) the same programs end as if nothing were.
"""

from __future__ import annotations

import ctypes
import os
import re
import select
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.archive_mount import BINDFS, POOLS, ArchiveMount, Hatch
from tests.mounted import wait_until

pytestmark = pytest.mark.mount

LIMIT_S = 60.0
SIZES = {"large": 500_000, "small": 5}
STRACE = shutil.which("strace")
PROGRAMS = {
    "ls": ["ls", "-lRa", "."],
    "find": ["find", ".", "-newermt", "2000-01-01", "-size", "+1k", "-printf", "%p %s %b %T@\n"],
    "du": ["du", "-ab", "--apparent-size", "."],
    "du blocks": ["du", "-a", "."],
    "stat": ["stat", "coded/large", "twin/large", "lone/large"],
    "cp": ["cp", "-a", "--attributes-only", ".", "{aside}"],
    "rsync": ["rsync", "-anvHAX", "./", "{aside}/none/"],
    "getfacl": ["getfacl", "-R", "."],
    "df": ["df", "."],
    "touch": ["touch", "-d", "2020-02-02", "coded/large", "lone/small"],
    "chmod": ["chmod", "-R", "u+x", "."],
    "mv": ["mv", "lone/small", "lone/renamed"],
    "mv back": ["mv", "lone/renamed", "lone/small"],
    "ln": ["ln", "twin/large", "twin/linked"],
    "rm": ["rm", "twin/linked"],
}
_EVENT = struct.Struct("iIII")
_ALL_EVENTS = 0xFFF


class Listener:
    """What happens to the files of some directories, by inotify(7)."""

    def __init__(self, directories: list[Path]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._fd >= 0
        self._names: dict[int, Path] = {}
        for directory in directories:
            watch = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _ALL_EVENTS)
            assert watch > 0, os.strerror(ctypes.get_errno())
            self._names[watch] = directory

    def heard(self) -> set[str]:
        """The files of which anything was heard since the last time."""
        found = set()
        while select.select([self._fd], [], [], 0)[0]:
            events = os.read(self._fd, 1 << 16)
            at = 0
            while at < len(events):
                watch, _, _, length = _EVENT.unpack_from(events, at)
                name = events[at + _EVENT.size :][:length].rstrip(b"\0")
                found.add(str(self._names[watch] / os.fsdecode(name)))
                at += _EVENT.size + length
        return found

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture(scope="module")
def filesystem() -> Iterator[ArchiveMount]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    made = ArchiveMount(base, deadline="2s")
    try:
        made.start()
        made.fill(9, SIZES)
        made.stop()
        made.archive_all()
        yield made
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def await_order(filesystem: ArchiveMount) -> None:
    """What the mount looks for on the drives when it begins is done."""
    text = filesystem.log.read_text
    said = text().count("the archive is in order")
    assert filesystem.mount() == ""
    assert wait_until(lambda: text().count("the archive is in order") > said, LIMIT_S)


def run_all(filesystem: ArchiveMount) -> None:
    """Every program that is there, in the mount."""
    aside = Path(tempfile.mkdtemp(dir=filesystem.base))
    for words in PROGRAMS.values():
        if shutil.which(words[0]) is None:
            continue
        done = subprocess.run(
            [word.format(aside=aside) for word in words],
            cwd=filesystem.path,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
    shutil.rmtree(aside)


def test_names_and_attributes_open_and_read_nothing_on_archive_drives(
    filesystem: ArchiveMount,
) -> None:
    await_order(filesystem)
    listener = Listener(filesystem.all_archive)
    try:
        run_all(filesystem)
        assert listener.heard() == set()
        # That it would be heard, if there were anything.
        filesystem.read("lone/large")
        (heard,) = listener.heard()
        assert Path(heard).name.startswith("fragment-")
        assert Path(heard).parent in filesystem.archive["lone"]
    finally:
        listener.close()
        filesystem.stop()


@pytest.mark.skipif(STRACE is None or os.geteuid() != 0, reason="needs strace, and root for it")
def test_no_system_call_of_the_daemon_names_an_archive_drive(filesystem: ArchiveMount) -> None:
    assert STRACE is not None
    await_order(filesystem)
    said = filesystem.base / "strace"
    traced = subprocess.Popen(
        [STRACE, "-f", "-y", "-o", str(said), "-p", str(filesystem.daemon())],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    drives = re.compile("|".join(re.escape(str(drive)) for drive in filesystem.all_archive))
    try:
        assert traced.stderr is not None and b"attached" in traced.stderr.readline()
        run_all(filesystem)
        assert "/dev/fuse" in said.read_text()
        assert drives.findall(said.read_text()) == []
        filesystem.read("twin/large")
        assert wait_until(lambda: drives.search(said.read_text()) is not None, LIMIT_S)
    finally:
        traced.terminate()
        traced.communicate(timeout=LIMIT_S)
        filesystem.stop()


@pytest.mark.skipif(BINDFS is None or os.geteuid() != 0, reason="needs bindfs, and root for it")
def test_names_and_attributes_are_served_while_every_archive_drive_hangs(
    filesystem: ArchiveMount,
) -> None:
    hatches: list[Hatch] = []
    try:
        for drive in filesystem.all_archive:
            hatches.append(Hatch(drive))
        await_order(filesystem)
        for hatch in hatches:
            hatch.hang()
        run_all(filesystem)
        assert "does not answer" not in "\n".join(
            line for line in filesystem.log.read_text().splitlines() if "fragment" in line
        )
        assert sorted(os.listdir(filesystem.path)) == sorted(POOLS)
    finally:
        for hatch in hatches:
            hatch.let_go()
        filesystem.stop()
        for hatch in hatches:
            hatch.remove()
