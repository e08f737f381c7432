"""Who holds a file's lock (flock(2)): for a message that says whom to wait for, or to end."""

from __future__ import annotations

import os


def holder_of(path: str) -> str:
    """The process that holds the lock of the file at `path`, as words: pid and command.

    "another process" where it cannot be told: it is in another container, or ended just now.
    """
    try:
        facts = os.stat(path, follow_symlinks=False)
        pid = _pid(facts.st_dev, facts.st_ino)
        if pid:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                words = stream.read().decode(errors="replace").split("\0")
            command = " ".join(word for word in words if word)
            return f"process {pid} ({command})" if command else f"process {pid}"
    except OSError:
        pass
    return "another process"


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
