"""Fixtures of all tests: where the tests of a mounted filesystem take place.

`--directory DIR` runs them in a directory that exists, on whatever filesystem it is: that is how
the suite itself is judged (everything must pass on ext4). Without it they run on a shmr
filesystem that is made of plain directories and mounted once for the whole run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mounted import MountedFilesystem

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--directory",
        metavar="DIR",
        default=None,
        help="run the posix and programs tests in DIR instead of on a new shmr mount",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs root, to become other users")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a mount, so that `-m "not mount"` leaves it out."""
    if config.getoption("--directory") is not None:
        return
    for item in items:
        if {"top", "mounted"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("mount")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root, to become other users")


def _prepared(directory: Path) -> Path:
    """`directory`, resolved; refused unless other users can reach it."""
    place = directory.resolve()
    for ancestor in (place, *place.parents):
        if not stat.S_IMODE(ancestor.stat().st_mode) & stat.S_IXOTH:
            pytest.exit(f"--directory: other users cannot pass {ancestor} (chmod o+x)", 4)
    return place


@pytest.fixture(scope="session")
def mounted() -> Iterator[MountedFilesystem]:
    """One mounted shmr filesystem for the whole run."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse to mount a filesystem")
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    filesystem = MountedFilesystem(base)
    try:
        filesystem.start()
        yield filesystem
    finally:
        try:
            filesystem.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def top(request: pytest.FixtureRequest) -> Path:
    """The directory that all tests of a mounted filesystem share."""
    chosen = request.config.getoption("--directory")
    if chosen is not None:
        return _prepared(Path(chosen))
    filesystem: MountedFilesystem = request.getfixturevalue("mounted")
    return filesystem.path


@pytest.fixture
def on_shmr(request: pytest.FixtureRequest) -> bool:
    """Whether the filesystem under test is shmr."""
    return request.config.getoption("--directory") is None


@pytest.fixture
def place(top: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A fresh directory, mode 0755 whatever the umask, that this test has for itself.

    Removed afterwards with the system's own program: it copes with names of any bytes, with
    trees deeper than PATH_MAX, and fails aloud when a directory cannot be emptied.
    """
    before = os.umask(0o022)
    directory = top / f"test-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        os.umask(before)
        subprocess.run(["rm", "-rf", "--", str(directory)], check=True, timeout=120)
