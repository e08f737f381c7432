"""What an unmount waits for: the daemon's end, or that it holds no drive any more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.errors import SetupError
from shmr.service.mounted.unmount import LOOK_S, Daemon, await_end

HOLDER = """\
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
print("free", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a lock, lets go of it when told to, and ends when told again."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield made
    finally:
        made.kill()
        made.communicate(timeout=60)


def daemon(process: subprocess.Popen[str]) -> Daemon:
    return Daemon(process.pid, os.pidfd_open(process.pid))


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_a_daemon_that_holds_drives_is_waited_for_and_one_that_only_cannot_end_is_not(
    holder: subprocess.Popen[str],
) -> None:
    assert hear(holder) == "held\n"
    with pytest.raises(SetupError, match="still writes"):
        await_end(daemon(holder), "/mnt", LOOK_S)
    tell(holder)
    assert hear(holder) == "free\n"
    await_end(daemon(holder), "/mnt")
    assert holder.poll() is None


def test_a_daemon_that_ends_with_its_drives_locked_has_ended(
    holder: subprocess.Popen[str],
) -> None:
    assert hear(holder) == "held\n"
    found = daemon(holder)
    holder.kill()
    await_end(found, "/mnt")
