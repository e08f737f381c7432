"""Owner, mode, times and extended attributes of what was written out, as far as it may have them.

In this order: the owner first, for a change of it takes rights away; attributes while the owner may
still write; then mode and ACLs; times last, as all before changes them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

from shmr.core.acl import ACCESS, DEFAULT
from shmr.format.rows import NAME_MAX, Inode

Xattr = tuple[bytes, bytes | None]
"""Name and content; None: it cannot be decoded."""
_ID_END = 2**32 - 1
"""The last one says "leave it as it is" to chown(2)."""
XATTRS_MAX = 16 * 1024
"""More have no place in the 64 KiB of their names."""
_SECURITY = b"security."


def permitted(mode: int, *, special: bool) -> int:
    """The bits that a file may have: without suid and sgid unless they are asked for."""
    return mode & (0o7777 if special else 0o1777)


def dress(fd: int, inode: Inode, xattrs: Iterable[Xattr], *, special: bool) -> list[str]:
    """Give an open file or directory its attributes; returns what it had to be left without."""
    left: list[str] = []

    _owner(inode, partial(os.fchown, fd, inode.uid, inode.gid), left)
    late = _set_xattrs(partial(os.setxattr, fd), xattrs, left, special=special)
    mode = permitted(stat.S_IMODE(inode.mode), special=special)
    _try("mode", partial(os.fchmod, fd, mode), left)
    for name, content in late:
        _try(_label(name), partial(os.setxattr, fd, name, content), left)
    _try("times", partial(os.utime, fd, ns=(inode.atime_ns, inode.mtime_ns)), left)
    return left


def dress_link(
    directory: int, name: bytes, inode: Inode, xattrs: Iterable[Xattr], *, special: bool
) -> list[str]:
    """The same for what cannot be opened: a symlink, or a node, in a directory that is ours."""
    left: list[str] = []

    chown = partial(os.chown, name, dir_fd=directory, follow_symlinks=False)
    _owner(inode, partial(chown, inode.uid, inode.gid), left)
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    setxattr = partial(os.setxattr, path, follow_symlinks=False)
    for key, content in _set_xattrs(setxattr, xattrs, left, special=special):
        _try(_label(key), partial(setxattr, key, content), left)
    times = inode.atime_ns, inode.mtime_ns
    utime = partial(os.utime, name, dir_fd=directory, follow_symlinks=False)
    _try("times", partial(utime, ns=times), left)
    return left


def _owner(inode: Inode, set_owner: Callable[[], None], left: list[str]) -> None:
    """Only root can give files away: for others they stay their own, which needs no telling."""
    if os.geteuid() != 0:
        return
    if max(inode.uid, inode.gid) >= _ID_END:
        left.append("owner (there is no such id)")
    else:
        _try("owner", set_owner, left)


def _set_xattrs(
    setxattr: Callable[[bytes, bytes], None],
    xattrs: Iterable[Xattr],
    left: list[str],
    *,
    special: bool,
) -> list[tuple[bytes, bytes]]:
    """Set all but ACLs and what the kernel believes; those that come later are returned."""
    late: list[tuple[bytes, bytes]] = []
    for name, content in islice(xattrs, XATTRS_MAX):
        if content is None or not 0 < len(name) <= NAME_MAX or b"\0" in name:
            left.append(f"{_label(name)} (damaged)")
        elif name in (ACCESS, DEFAULT):
            late.append((name, content))
        elif name.startswith(_SECURITY):
            if special:
                late.append((name, content))
        else:
            _try(_label(name), partial(setxattr, name, content), left)
    return late


def _try(what: str, call: Callable[[], None], left: list[str]) -> None:
    try:
        call()
    except (OSError, OverflowError, ValueError) as error:
        left.append(f"{what} ({_why(error)})")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _label(name: bytes) -> str:
    text = name[:NAME_MAX].decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]
