"""A shmr filesystem made of plain directories, mounted for tests, ended without traces.

`MountedFilesystem` owns one base directory with the drives, the configuration and the mount
point. It drives the real commands, as a person does. What it promises: after `stop()` nothing is
mounted and no process of this filesystem is alive, whatever went wrong before; if the daemon had
to be killed for that, `stop()` says so by raising. It leaves the choice of what to test, and the
removal of the base directory, to its callers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 60.0
MARK = "SHMR_TEST_FILESYSTEM"


class MountFailed(AssertionError):
    """A command of shmr failed, or the daemon did not do what it should."""


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether `condition` came true within `limit_s` seconds; asks often, at least once."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at `path`, alive or dead; never touches the mount itself."""
    wanted = os.fsencode(os.path.realpath(path.parent)) + b"/" + os.fsencode(path.name)
    with open("/proc/self/mountinfo", "rb") as mounts:
        places = [line.split(b" ")[4] for line in mounts]
    return wanted in [place.decode("unicode_escape").encode("latin-1") for place in places]


def _is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return False


class MountedFilesystem:
    """One shmr filesystem below `base`: `path` is its mount point, `config` its YAML file."""

    def __init__(
        self,
        base: Path,
        *,
        drives: int = 2,
        size: str = "8GiB",
        scheme: str = "single",
        options: str = "allow_other",
    ) -> None:
        self.base = base
        self.path = base / "mount"
        self.config = base / "config.yaml"
        self.options = options
        self.drives = [base / f"drive-{index}" for index in range(drives)]
        base.chmod(0o755)  # tests run as other users too, and these must reach the mount
        for directory in (self.path, *self.drives):
            directory.mkdir()
        self.config.write_text(self._configuration(size, scheme))

    def _configuration(self, size: str, scheme: str) -> str:
        lines = [
            "filesystem: tests",
            "same_device: true",
            "pools:",
            "  - name: work",
            "    priority: 0",
            f"    scheme: {scheme}",
            "    drives:",
        ]
        lines += [f"      - {{path: {drive}, size: {size}}}" for drive in self.drives]
        return "\n".join(lines) + "\n"

    def command(self, *arguments: str, limit_s: float) -> subprocess.CompletedProcess[str]:
        """Run `shmr ARGUMENTS`; what it wrote is in stdout, both streams together.

        Output goes through a file: a daemon that inherits a pipe would keep it open for life.
        """
        environment = dict(os.environ, **{MARK: str(self.base)})
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")])
        )
        with open(self.base / "command.log", "w+b") as log:
            done = subprocess.run(
                [sys.executable, "-m", "shmr.cli.main", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                timeout=limit_s,
                check=False,
            )
            log.seek(0)
            output = log.read().decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, output)

    def processes(self) -> list[int]:
        """Every living process of this filesystem: the daemon and what it started.

        Known by the mark in the environment or by the mount point among the arguments.
        """
        mark = os.fsencode(f"{MARK}={self.base}")
        point = os.fsencode(self.path)
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as environment:
                    marked = mark in environment.read().split(b"\0")
                with open(f"/proc/{entry}/cmdline", "rb") as words:
                    arguments = words.read().split(b"\0")
            except OSError:
                continue  # it ended, or it is not ours
            ours = point in arguments and any(b"shmr" in word for word in arguments[:4])
            if (marked or ours) and _is_alive(int(entry)):
                found.append(int(entry))
        return found

    def start(self, *extra: str) -> None:
        """Mount, with `extra` arguments; raises MountFailed with what the command said."""
        arguments = ["mount", *extra, str(self.config), str(self.path)]
        if self.options:
            arguments += ["-o", self.options]
        try:
            done = self.command(*arguments, limit_s=START_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise MountFailed(f"mount did not return within {START_LIMIT_S:.0f} s") from error
        if done.returncode != 0:
            raise MountFailed(f"mount ended with {done.returncode}: {done.stdout}")
        if not is_mounted(self.path):
            raise MountFailed(f"mount returned 0 but nothing is mounted: {done.stdout}")

    def stop(self) -> None:
        """Unmount; raises MountFailed if that took force. Nothing is left in any case.

        A dead mount, as `kill()` leaves it, is taken away without a complaint.
        """
        complaints: list[str] = []
        if is_mounted(self.path) and self.processes():
            complaints += self._unmount()
        if not wait_until(lambda: not self.processes(), STOP_LIMIT_S):
            complaints.append("the daemon did not end after the unmount")
            self.kill()
        if is_mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=False)
        assert not is_mounted(self.path), "a mount is left"
        assert not self.processes(), "a process is left"
        if complaints:
            raise MountFailed("; ".join(complaints))

    def _unmount(self) -> list[str]:
        """Ask the daemon to go; by force when it does not. Returns the complaints."""
        try:
            done = self.command("umount", str(self.path), limit_s=STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            complaint = f"umount did not return within {STOP_LIMIT_S:.0f} s"
        else:
            if done.returncode == 0 and not is_mounted(self.path):
                return []
            complaint = f"umount ended with {done.returncode}: {done.stdout}"
        self.kill()
        subprocess.run(["umount", "-l", str(self.path)], check=False)
        return [complaint]

    def kill(self) -> None:
        """SIGKILL every process of this filesystem, and wait for them to be gone.

        The dead mount stays, as after a crash; `start()` must replace it.
        """
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not wait_until(lambda: not self.processes(), STOP_LIMIT_S):
            raise MountFailed("processes survive SIGKILL")

    def remount(self) -> None:
        """Unmount if the daemon lives, then mount again: nothing cached survives."""
        if self.processes():
            self.stop()
        self.start()
