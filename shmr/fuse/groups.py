"""Who belongs to which group: what the kernel knows of a request's sender and does not send."""

from __future__ import annotations

from shmr.fuse.protocol import GID, PID, Head


def groups_of(pid: int) -> frozenset[int]:
    """The further groups of process `pid` (proc_pid_status(5)); none when they cannot be known."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"Groups:"):
                    return frozenset(map(int, line.split()[1:]))
    except (OSError, ValueError):
        pass
    return frozenset()


def in_group(gid: int, head: Head) -> bool:
    """Whether who sent a request is in group `gid`."""
    return gid == head[GID] or gid in groups_of(head[PID])
