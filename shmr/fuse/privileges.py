"""suid and sgid, and what a change of content or owner leaves of them."""

from __future__ import annotations

import stat


def without_privileges(mode: int, *, member: bool) -> int:
    """`mode` as a change of content or owner leaves it: without suid, and without sgid.

    sgid without group execution is no privilege (it once meant mandatory locking): it stays if
    who makes the change is a `member` of the file's group, as with the kernel's own filesystems.
    """
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP or not member else mode
