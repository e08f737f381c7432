"""A mounted filesystem with an archive, for tests: three pools of small zones, and real commands.

`ArchiveMount` has a workspace and the archive pools `coded` (4+2), `twin` (a mirror of 2) and
`lone` (single). Files are moved there by `shmr-compact` as a person does it. A drive may be put
behind a `Hatch`: a bindfs mount whose process is stopped and goes on, so that the drive hangs as a
disk does, for real and for as long as a test wants.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.mounted import MARK, MountedFilesystem, is_mounted, wait_until

POOLS = {"coded": ("{erasure: {k: 4, m: 2}}", 6), "twin": ("{mirror: 2}", 2), "lone": ("single", 1)}
BINDFS = shutil.which("bindfs")
LIMIT_S = 60.0


class ArchiveMount(MountedFilesystem):
    """One filesystem; `archive` are the drive directories by pool."""

    def __init__(self, base: Path, *, deadline: str = "10s", zone: str = "4MiB") -> None:
        self.deadline, self.zone = deadline, zone
        self.archive = {
            name: [base / f"{name}-{index}" for index in range(count)]
            for name, (_, count) in POOLS.items()
        }
        for directory in self.all_archive:
            directory.mkdir()
        super().__init__(base, drives=1)

    @property
    def all_archive(self) -> list[Path]:
        return [directory for drives in self.archive.values() for directory in drives]

    @property
    def log(self) -> Path:
        return self.drives[0] / "catalog.log"

    @property
    def compact_log(self) -> Path:
        return self.base / "compact.log"

    def _configuration(self, size: str, scheme: str) -> str:
        lines = [
            super()._configuration(size, scheme).rstrip("\n"),
            *(line for name in POOLS for line in self._pool(name)),
            f"read_deadline: {self.deadline}",
        ]
        return "\n".join(lines) + "\n"

    def _pool(self, name: str) -> list[str]:
        return [
            f"  - name: {name}",
            f"    priority: {1 + list(POOLS).index(name)}",
            f"    scheme: {POOLS[name][0]}",
            f"    zone_size: {self.zone}",
            "    drives:",
            *(f"      - {{path: {drive}}}" for drive in self.archive[name]),
        ]

    def mount(self) -> str:
        """What `shmr mount` says."""
        words = ("mount", str(self.config), str(self.path), "-o", self.options)
        done = self.command(*words, limit_s=LIMIT_S)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def fill(self, seed: int, sizes: dict[str, int]) -> dict[str, bytes]:
        """In the directory of each pool's name, files of these sizes; their contents by path."""
        dice = random.Random(seed)
        contents = {}
        for pool in POOLS:
            (self.path / pool).mkdir(exist_ok=True)
            for name, size in sizes.items():
                contents[f"{pool}/{name}"] = content = dice.randbytes(size)
                (self.path / pool / name).write_bytes(content)
        return contents

    def compactor(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`shmr-compact`, started; what it says is in `compact_log`."""
        with open(self.compact_log, "wb") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "shmr.cli.compact", str(self.config), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=dict(os.environ, **{MARK: str(self.base)}),
            )

    def compact(self, *arguments: str) -> None:
        """Run `shmr-compact` to its end."""
        assert self.compactor(*arguments).wait(LIMIT_S) == 0, self.compact_log.read_text()

    def archive_all(self) -> None:
        """Each directory goes to the pool that it is named after."""
        for pool in POOLS:
            self.compact("--path", f"/{pool}", "--to", pool)

    def read(self, name: str) -> bytes:
        """The file as its drives have it now: the kernel keeps nothing of it."""
        file = os.open(self.path / name, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            with open(file, "rb", closefd=False) as content:
                return content.read()
        finally:
            os.close(file)

    def daemon(self) -> int:
        (pid,) = self.processes()
        return pid


class Hatch:
    """A drive's directory behind bindfs, whose process can be stopped."""

    def __init__(self, directory: Path) -> None:
        assert BINDFS is not None
        self.directory = directory
        self.behind = directory.with_name(f"behind-{directory.name}")
        os.rename(directory, self.behind)
        directory.mkdir()
        self._process = subprocess.Popen(
            [BINDFS, "-f", "--no-allow-other", str(self.behind), str(directory)],
            stdin=subprocess.DEVNULL,
        )
        if not wait_until(lambda: is_mounted(directory), LIMIT_S):
            self.remove()
            raise AssertionError("bindfs did not mount")

    def hang(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

        def is_stopped() -> bool:
            status = Path(f"/proc/{self._process.pid}/task")
            states = [(task / "stat").read_text() for task in status.iterdir()]
            return all(state.rpartition(") ")[2][0] in "Tt" for state in states)

        assert wait_until(is_stopped, LIMIT_S)

    def let_go(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Take the mount away, whatever state it is in; the directory is as it was."""
        self.let_go()
        subprocess.run(["umount", "-l", str(self.directory)], check=False, timeout=LIMIT_S)
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(LIMIT_S)
        self.directory.rmdir()
        os.rename(self.behind, self.directory)
