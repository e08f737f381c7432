"""Who holds a file's lock (flock(2)): for a message that says whom to wait for, or to end."""

from __future__ import annotations

import os
from contextlib import suppress


def holder_of(path: str) -> str:
    """The process that holds the lock of the file at `path`, as words: pid and program.

    "another process" where it cannot be told: it is in another container, or ended just now.
    """
    pid = pid_of(path)
    program = ""
    with suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
        program = stream.read().strip()
    if not pid:
        return "another process"
    return f"process {pid} ({program})" if program else f"process {pid}"


def pid_of(path: str) -> int:
    """Of the process that holds the lock of the file at `path`; 0 where it cannot be told."""
    try:
        facts = os.stat(path, follow_symlinks=False)
        return _pid(facts.st_dev, facts.st_ino)
    except OSError:
        return 0


def _pid(device: int, inode: int) -> int:
    """From /proc/locks (proc_locks(5)); 0 if nobody holds it."""
    where = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    with open("/proc/locks", encoding="ascii") as locks:
        for line in locks:
            # 3: FLOCK  ADVISORY  WRITE 4711 fd:01:123 0 EOF; a waiter has -> behind the number.
            words = line.split()
            if words[1] == "FLOCK" and words[5] == where:
                return int(words[4])
    return 0
