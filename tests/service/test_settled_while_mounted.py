"""A killed `shmr-compact` leaves nothing behind that the next mount does not put in order."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.config import load
from shmr.service.assemble import open_drives, open_filesystem
from shmr.volume.holds import held
from tests.archive_mount import ArchiveMount
from tests.mounted import wait_until

pytestmark = pytest.mark.mount

LIMIT_S = 60.0
SIZES = {"large": 1_500_000, "middle": 200_000, "small": 5}


class Site(ArchiveMount):
    """A filesystem to which files are added, which are archived, if nobody kills it."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, zone="1MiB")
        self.contents: dict[str, bytes] = {}
        self.rounds = 0

    def add(self) -> None:
        """New files in each directory."""
        self.rounds += 1
        sizes = {f"{name}{self.rounds}": size for name, size in SIZES.items()}
        self.contents |= self.fill(self.rounds, sizes)

    def right(self) -> bool:
        return all(self.read(name) == content for name, content in self.contents.items())

    def await_order(self) -> str:
        """What the daemon says when the archive is in order."""

        def lines() -> list[str]:
            return [line for line in self.log.read_text().splitlines() if "archive is in" in line]

        before = self.in_order
        assert wait_until(lambda: len(lines()) > before, LIMIT_S), self.log.read_text()
        self.in_order = len(lines())
        return lines()[-1]

    in_order = 0

    def files(self, pattern: str) -> int:
        return sum(len(list(drive.glob(pattern))) for drive in self.all_archive)

    def assert_nothing_left(self) -> None:
        """While nothing is mounted: no holds, no strays, and snapshots of one time."""
        config = load(self.config)
        drives = open_drives(config, degraded=False)
        try:
            volume = open_filesystem(config, drives, read_only=True, degraded=False)
            try:
                assert held(volume.catalog) == {}
                assert volume.archive.strays() == []
            finally:
                volume.close()
        finally:
            drives.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    made = Site(base)
    try:
        made.mount()
        made.add()
        assert "order: 0 strays discarded, 0 moves completed, 0 arch" in made.await_order()
        made.stop()
        yield made
    finally:
        try:
            made.stop()
        finally:
            shutil.rmtree(base, ignore_errors=True)


def first_fragment(site: Site) -> Callable[[], bool]:
    before = site.files("fragment-*")
    return lambda: site.files("fragment-*") > before


def half_the_fragments(site: Site) -> Callable[[], bool]:
    before = site.files("fragment-*")
    return lambda: site.files("fragment-*") >= before + 9


def new_snapshot(site: Site) -> Callable[[], bool]:
    """Behind SWITCH: the sources are held."""
    before = {path for drive in site.all_archive for path in drive.glob("snapshot-*")}
    return lambda: any(
        path not in before for drive in site.all_archive for path in drive.glob("snapshot-*")
    )


def snapshot_in_the_workspace(site: Site) -> Callable[[], bool]:
    work = site.drives[0]
    before = set(work.glob("snapshot-*"))
    return lambda: not before.issuperset(work.glob("snapshot-*"))


@pytest.mark.parametrize(
    ("moment", "pool"),
    [
        (first_fragment, "coded"),
        (first_fragment, "lone"),
        (half_the_fragments, "coded"),
        (snapshot_in_the_workspace, "twin"),
        (new_snapshot, "coded"),
        (new_snapshot, "twin"),
    ],
)
def test_what_a_killed_compactor_left_is_put_in_order_by_the_next_mount(
    site: Site, moment: Callable[[Site], Callable[[], bool]], pool: str
) -> None:
    come = moment(site)
    running = site.compactor("--all", "--flush", "--from", "work", "--to", pool)
    try:
        assert wait_until(lambda: come() or running.poll() is not None, LIMIT_S)
        running.kill()
    finally:
        ended = running.wait(LIMIT_S)
    assert ended == -signal.SIGKILL, site.compact_log.read_text()
    assert site.mount() == ""
    site.add()
    assert site.right()
    said = site.await_order()
    if moment is first_fragment:
        assert "order: 0 strays discarded, 0 moves" not in said
    assert site.right()
    site.stop()
    site.assert_nothing_left()
