"""An archive drive that hangs, for real: its readers wait for so long, others not at all.

The drives' directories are bindfs mounts whose processes are stopped (SIGSTOP) and go on (SIGCONT).
What waits for what is told by the order in which things end, never by a clock.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shmr.format.fragment import UNIT_BYTES
from tests.archive_mount import BINDFS, POOLS, ArchiveMount, Hatch
from tests.mounted import wait_until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(BINDFS is None or os.geteuid() != 0, reason="needs bindfs, and root for it"),
]

SIZES = {"large": 3_000_000, "small": 5}
LIMIT_S = 60.0


class Site:
    """A filesystem whose files are archived, and some of its drives behind hatches."""

    def __init__(self, base: Path) -> None:
        self.mount = ArchiveMount(base)
        self.contents: dict[str, bytes] = {}
        self.hatches: list[Hatch] = []

    def prepare(self) -> None:
        self.mount.start()
        self.contents = self.mount.fill(3, SIZES)
        self.mount.stop()
        self.mount.archive_all()

    def begin(self, deadline: str) -> str:
        """Mount; what it says. The longest that a read can take is seven deadlines."""
        text = self.mount.config.read_text()
        text = re.sub("read_deadline: .*", f"read_deadline: {deadline}", text)
        self.mount.config.write_text(text)
        return self.mount.mount()

    def hatch(self, pool: str, index: int) -> Hatch:
        made = Hatch(self.mount.archive[pool][index])
        self.hatches.append(made)
        return made

    def holder(self, pool: str) -> int:
        """Which drive holds the first bytes of the pool's files."""
        (index,) = [
            index
            for index, drive in enumerate(self.mount.archive[pool])
            if list(drive.glob("fragment-*-00-*"))
        ]
        return index

    def right(self, *pools: str) -> bool:
        return all(
            self.mount.read(name) == content
            for name, content in self.contents.items()
            if name.partition("/")[0] in pools
        )

    def part(self, name: str, at: int) -> bool:
        """Some bytes, and no others: the kernel reads nothing ahead."""
        file = os.open(self.mount.path / name, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(file, 100, at) == self.contents[name][at : at + 100]
        finally:
            os.close(file)

    def said(self, about: str = "") -> str:
        """The lines of the log with these words."""
        return "\n".join(line for line in self.mount.log.read_text().splitlines() if about in line)

    def close(self) -> None:
        for hatch in self.hatches:
            hatch.let_go()
        try:
            self.mount.stop()
        finally:
            for hatch in self.hatches:
                hatch.remove()
            self.hatches.clear()


@pytest.fixture(scope="module")
def archived() -> Iterator[Site]:
    base = Path(tempfile.mkdtemp(prefix="shmr-test-"))
    made = Site(base)
    try:
        made.prepare()
        yield made
    finally:
        try:
            made.close()
        finally:
            shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def site(archived: Site) -> Iterator[Site]:
    yield archived
    archived.close()


@contextmanager
def emptied(paths: Iterable[Path]) -> Iterator[None]:
    """These files hold zeros, whoever has them open."""
    intact = {path: path.read_bytes() for path in paths}
    try:
        for path, content in intact.items():
            overwrite(path, bytes(len(content)))
        yield
    finally:
        for path, content in intact.items():
            overwrite(path, content)


def overwrite(path: Path, content: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(content)


class Later:
    """A call in a thread, and whether it has ended."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.found: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.found = self._call()
        except OSError as error:
            self.found = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> object:
        self._thread.join(LIMIT_S)
        assert self.ended
        return self.found


def metadata(top: Path) -> list[str]:
    """All that a person does with names and attributes."""
    target = top / "made"
    target.mkdir()
    (target / "file").write_bytes(b"new")
    os.rename(target / "file", target / "other")
    os.utime(target / "other", (1, 2))
    with open(target / "other", "rb") as file:
        assert file.read() == b"new"
        os.fsync(file.fileno())
    (target / "other").unlink()
    target.rmdir()
    os.statvfs(top)
    run = subprocess.run(
        ["ls", "-lR", str(top)], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    return run.stdout.splitlines()


def test_nothing_waits_for_a_drive_that_nothing_stands_in_for_but_its_readers(site: Site) -> None:
    """The reader waits until the drive goes on; all else ends meanwhile; then it gets its bytes."""
    lone = site.hatch("lone", 0)
    assert site.begin("3s") == ""
    lone.hang()
    reader = Later(lambda: site.mount.read("lone/large"))
    assert wait_until(lambda: "does not answer" in site.mount.log.read_text(), LIMIT_S)
    assert site.right("coded", "twin")
    assert metadata(site.mount.path)
    assert site.mount.path.joinpath("lone/large").stat().st_size == SIZES["large"]
    assert not reader.ended
    lone.let_go()
    assert reader.result() == site.contents["lone/large"]
    assert site.right(*POOLS)


@pytest.mark.parametrize("pool", ["coded", "twin"])
def test_redundancy_serves_the_readers_of_a_drive_that_hangs_and_it_is_used_again(
    site: Site, pool: str
) -> None:
    hanging = site.hatch(pool, site.holder(pool))
    assert site.begin("1s") == ""
    hanging.hang()
    # No answer can come from it: it is stopped until the bytes are there.
    assert site.part(f"{pool}/large", 0)
    assert f"drive {hanging.directory}: read failed: the drive does not answer" in site.said()
    hanging.let_go()
    others = [drive for drive in site.mount.archive[pool] if drive != hanging.directory]
    with emptied(path for drive in others for path in drive.glob("fragment-*")):
        # Nothing stands in for it any more, and what was not read yet is on it alone.
        assert site.part(f"{pool}/large", UNIT_BYTES + 1000)


def test_as_many_drives_as_m_may_hang_at_once_and_all_but_them_are_read(site: Site) -> None:
    first = site.holder("coded")
    hatches = [site.hatch("coded", index) for index in (first, (first + 1) % 6)]
    hatches.append(site.hatch("lone", 0))
    assert site.begin("3s") == ""
    for hatch in hatches:
        hatch.hang()
    readers = [Later(lambda: site.mount.read("lone/large")) for _ in range(8)]
    assert site.right("coded", "twin")
    assert metadata(site.mount.path)
    assert not any(reader.ended for reader in readers)
    for hatch in hatches:
        hatch.let_go()
    assert all(reader.result() == site.contents["lone/large"] for reader in readers)


def test_a_read_that_nothing_stands_in_for_fails_in_the_end(site: Site) -> None:
    lone = site.hatch("lone", 0)
    assert site.begin("0.2s") == ""
    lone.hang()
    with pytest.raises(OSError, match="Input/output error"):
        site.mount.read("lone/small")
    place = rf"segment \d+, fragment 0 on drive {lone.directory}, unit \d+: .*does not answer"
    assert re.search(f"answered EIO: .*{place}", site.said())
    lone.let_go()
    assert site.right(*POOLS)


def test_an_unmount_ends_while_a_drive_hangs_and_somebody_reads_it(site: Site) -> None:
    hatches = [site.hatch("coded", site.holder("coded")), site.hatch("lone", 0)]
    assert site.begin("1s") == ""
    assert site.mount.read("lone/small") == site.contents["lone/small"]
    for hatch in hatches:
        hatch.hang()
    assert site.right("coded")
    reader = subprocess.Popen(
        ["cat", str(site.mount.path / "lone" / "large")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_until(lambda: "fragment 0" in site.said("lone-0"), LIMIT_S)
        for pid in site.mount.processes():
            os.kill(pid, signal.SIGTERM)
        # Neither is let go before the daemon has ended.
        assert wait_until(lambda: not site.mount.processes(), LIMIT_S)
        site.mount.stop()
        assert reader.wait(LIMIT_S) != 0
    finally:
        reader.kill()
        reader.wait()
    for hatch in hatches:
        hatch.let_go()
    assert site.begin("1s") == ""
    assert site.right(*POOLS)


def test_a_mount_says_which_drives_hang_and_comes_up_without_them(site: Site) -> None:
    hatches = [site.hatch("coded", 2), site.hatch("twin", 1), site.hatch("lone", 0)]
    for hatch in hatches:
        hatch.hang()
    said = site.begin("0.5s")
    for hatch in hatches:
        assert f"drive {hatch.directory} is missing: it has not answered within 3 s" in said
    assert site.right("coded", "twin")
    with pytest.raises(OSError, match="Input/output error"):
        site.mount.read("lone/large")
    config = str(site.mount.config)
    looked = site.mount.command("inspect", "overview", "--json", config, limit_s=LIMIT_S)
    drives = [d for pool in json.loads(looked.stdout)["pools"] for d in pool["drives"]]
    silent = {d["path"] for d in drives if "does not answer" in (d["missing"] or "")}
    assert silent == {str(hatch.directory) for hatch in hatches}
    site.mount.stop()
    for hatch in hatches:
        hatch.let_go()
    assert site.begin("0.5s") == ""
    assert site.right(*POOLS)
