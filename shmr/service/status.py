"""The status file: what goes on, in the spirit of /proc/mdstat, replaced whole.

`status_text` is a pure function of the facts; `StatusWriter` puts what it says into the file.
Whoever works on a filesystem keeps it up to date: the mounted daemon, or the compactor.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shmr.core.meter import bar, format_left, share_of
from shmr.errors import SetupError
from shmr.units import NS_PER_S, format_size

logger = logging.getLogger("shmr.service")

BAR_WIDTH = 20
_INDENT = " " * 6


@dataclass(frozen=True, slots=True)
class DriveStatus:
    """A drive; `down` says why it is. `damaged` units were found on it and not yet mended."""

    path: str
    down: str | None = None
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool; bytes are those of its drives that are up, redundancy included."""

    name: str
    scheme: str
    total_bytes: int
    free_bytes: int
    drives: tuple[DriveStatus, ...]


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job that runs: `what` it is at, and how far where that is known."""

    name: str
    what: str
    done_bytes: int = 0
    total_bytes: int | None = None
    rate: float = 0.0
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """`state` is a sentence without its end: "mounted at /srv/media"."""

    filesystem: str
    state: str
    pools: tuple[PoolStatus, ...] = ()
    jobs: tuple[JobStatus, ...] = ()


def status_text(facts: StatusFacts) -> str:
    """What the file holds, but for the line that says when it was written."""
    lines = [f"{facts.filesystem} : {facts.state}"]
    for pool in facts.pools:
        lines += ["", *_pool(pool)]
    for job in facts.jobs:
        lines += ["", *_job(job)]
    if not facts.jobs:
        lines += ["", "no job is running"]
    return "\n".join(lines) + "\n"


def _pool(pool: PoolStatus) -> list[str]:
    up = sum(drive.down is None for drive in pool.drives)
    marks = "".join("U" if drive.down is None else "_" for drive in pool.drives)
    free, total = format_size(pool.free_bytes), format_size(pool.total_bytes)
    lines = [
        f"{pool.name} : {pool.scheme}",
        f"{_INDENT}{free} of {total} free [{len(pool.drives)}/{up}] [{marks}]",
    ]
    width = max((len(drive.path) for drive in pool.drives), default=0)
    for drive in pool.drives:
        state = "up" if drive.down is None else f"down: {drive.down}"
        if drive.damaged:
            state += f", {drive.damaged} damaged {'unit' if drive.damaged == 1 else 'units'} found"
        lines.append(f"{_INDENT}{drive.path.ljust(width)}  {state}")
    return lines


def _job(job: JobStatus) -> list[str]:
    head = f"{job.name} : {job.what}"
    if job.total_bytes is None:
        return [head]
    share = share_of(job.done_bytes, job.total_bytes)
    done, total = format_size(job.done_bytes), format_size(job.total_bytes)
    return [
        head,
        f"{_INDENT}{bar(share, BAR_WIDTH)}  {share:.1%} ({done} of {total})  "
        f"left={format_left(job.left_s)}  speed={format_size(int(job.rate))}/s",
    ]


class StatusWriter:
    """Keeps the file at `path` in step. Never raises: a status is not worth a mount."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""
        self._problem = ""

    def write(self, facts: StatusFacts, now_ns: int) -> bool:
        """Replace the file if something changed; whoever reads sees the old one or the new one."""
        text = status_text(facts)
        if text == self._written:
            return False
        time = datetime.fromtimestamp(now_ns // NS_PER_S, UTC)
        line = f"\nwritten {time:%Y-%m-%d %H:%M:%S} UTC by process {os.getpid()}\n"
        try:
            self._replace(text + line)
        except OSError as error:
            self._complain(f"the status file {self._path} cannot be written: {error.strerror}")
            return False
        self._written, self._problem = text, ""
        return True

    def _replace(self, text: str) -> None:
        temporary = self._path.with_name(f".{self._path.name}.new")
        # One that a crash left; and nobody may have put a link there.
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600)
        # A drive's path may be no text at all.
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.replace(temporary, self._path)

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem


def refuse_inside(path: Path, mountpoint: str) -> None:
    """Raise SetupError if the status file would lie in the mount that it tells of."""
    place = os.path.realpath(mountpoint)
    if path.is_relative_to(place):
        raise SetupError(
            f"status_file: {path} lies inside the mount point {place}; give it a place such as "
            "/run/shmr.status"
        )
