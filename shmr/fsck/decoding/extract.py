"""Files written below a directory, and nowhere else: the only part of `decode` that writes.

    with destination(path) as scratch:
        extractor = Extractor(scratch, find, special=False)
        extractor.enter(name, inode); extractor.file(...); extractor.leave(inode, xattrs)

Names and contents are whatever somebody wrote, and others may change the directory meanwhile. So:

* Everything is reached through descriptors of directories that were opened without following a
  link, and by one name that no path can be hidden in.
* A file is made in a scratch directory that is ours alone, filled and given its attributes there,
  and gets its name when it is complete. So what stands under a name is whole or was not written by
  us, and a run that was cut off leaves nothing half done under a name.
* Nothing that exists is replaced, but what an earlier run left incomplete. What exists and looks
  the same (size, time of change) is passed over: a second run goes on where the first ended.
* Nothing can act by itself: no device, fifo or socket is made, no bit gives somebody's rights away,
  no attribute that the kernel believes is set, unless all that is asked for (`special`).

Left to others: what there is to write (`tree`), and the bytes (`contents`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from shmr.core.shown import SHOWN_MAX, shown
from shmr.drive.calls import sync_filesystem
from shmr.errors import SetupError
from shmr.format.rows import NAME_MAX, Inode
from shmr.fsck.decoding.contents import Data, Losses, Lost, Part
from shmr.fsck.decoding.dress import Xattr, dress, dress_link, permitted
from shmr.fsck.findings import Finding, Kind, Where
from shmr.fsck.salvaging.scratch import DIRECTORY, Scratch

INCOMPLETE = b".shmr-incomplete"
"""What the name of a file ends with of which bytes are missing."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ENDS_ALL = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, errno.ESTALE,
    errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_COARSE_NS = 2_000_000_000
_FINE_NS = 10_000_000


class Stopped(Exception):
    """Somebody asked for it to stop."""


@dataclass(slots=True)
class Counts:
    """What was written. `bytes` are those of files that were read from drives.

    `present` was there already and looked the same. `incomplete` files lack `lost_bytes`.
    `special` nodes were left out, `unprivileged` files and directories lost suid or sgid, and
    `separate` names of hard links became files of their own.
    """

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    links: int = 0
    nodes: int = 0
    bytes: int = 0
    present: int = 0
    incomplete: int = 0
    lost_bytes: int = 0
    special: int = 0
    unprivileged: int = 0
    separate: int = 0


class Extractor:
    """Writes into one destination, in the order of a walk. Raises SetupError where nothing goes."""

    def __init__(
        self,
        scratch: Scratch,
        find: Callable[[Finding], None],
        *,
        special: bool,
        stop: Callable[[], bool] = lambda: False,
        advance: Callable[[int], None] = lambda size_bytes: None,
    ) -> None:
        """`stop` is asked now and then; `advance` is told of bytes that were written."""
        self.counts = Counts()
        self._scratch = scratch
        self._find = find
        self._special = special
        self._stop = stop
        self._advance = advance
        self._open: list[int] = []
        self._links = True
        """Can files have several names there?"""
        self._serial = 0
        self._path = b""
        self._inode = 0

    def close(self) -> None:
        """Let go of all directories."""
        while self._open:
            os.close(self._open.pop())

    def begin(self, path: bytes, inode: Inode) -> None:
        """What comes next is at this path: for findings. Raises Stopped."""
        self._path, self._inode = path, inode.number
        if self._stop():
            raise Stopped

    def finish(self) -> None:
        """Have everything reach the disk."""
        try:
            sync_filesystem(self._scratch.top)
        except OSError as error:
            self._tell(Kind.NOT_WRITTEN, f"what was written did not all arrive: {error.strerror}")

    # -- directories --------------------------------------------------------------------------

    def top(self) -> None:
        """What is entered next is the destination itself."""
        self._open.append(os.dup(self._scratch.top))

    def leave_top(self, inode: Inode, xattrs: Iterable[Xattr]) -> None:
        """The destination is finished. It gets attributes only if it was made for this."""
        mode = inode.mode | stat.S_IRWXU  # there is still something to be removed from it
        self.leave(inode._replace(mode=mode) if self._scratch.made else None, xattrs)

    def enter(self, name: bytes, inode: Inode) -> bool:
        """Go into a directory, made if it is not there. False if nothing can be written there."""
        try:
            self._open.append(self._directory(name))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                self._other()
            else:
                self._failed(error)
            return False
        self.counts.directories += 1
        return True

    def _directory(self, name: bytes) -> int:
        """Raises OSError; NotADirectoryError where something else has the name."""
        with suppress(FileNotFoundError):
            there = os.open(name, DIRECTORY, dir_fd=self._open[-1])
            facts = os.fstat(there)
            if facts.st_mode & 0o700 != 0o700 and facts.st_uid == os.geteuid():
                with suppress(OSError):
                    os.fchmod(there, stat.S_IMODE(facts.st_mode) | 0o700)
            return there
        # Made where nobody can put another in its place before it is opened.
        made = self._fresh()
        os.mkdir(made, 0o700, dir_fd=self._scratch.inside)
        try:
            fd = os.open(made, DIRECTORY, dir_fd=self._scratch.inside)
            try:
                os.rename(made, name, src_dir_fd=self._scratch.inside, dst_dir_fd=self._open[-1])
            except BaseException:
                os.close(fd)
                raise
        except BaseException:
            with suppress(OSError):
                os.rmdir(made, dir_fd=self._scratch.inside)
            raise
        return fd

    def leave(self, inode: Inode | None, xattrs: Iterable[Xattr] = ()) -> None:
        """The directory is finished: it gets its attributes. None: it stays as it is."""
        fd = self._open.pop()
        try:
            if inode is not None:
                self._dressed(dress(fd, inode, xattrs, special=self._special), inode)
        finally:
            os.close(fd)

    # -- files --------------------------------------------------------------------------------

    def file(
        self, name: bytes, inode: Inode, parts: Iterable[Part], xattrs: Iterable[Xattr]
    ) -> None:
        """A regular file, or what can be had of it, under a name that says so."""
        try:
            if self._is_there(name, inode) or (inode.links > 1 and self._linked(name, inode)):
                self._advance(inode.allocated)
                return
            self._write(name, inode, parts, xattrs)
        except (OSError, OverflowError) as error:
            self._failed(error)

    def _write(
        self, name: bytes, inode: Inode, parts: Iterable[Part], xattrs: Iterable[Xattr]
    ) -> None:
        inside = self._scratch.inside
        made = self._fresh()
        fd = os.open(made, _NEW, 0o600, dir_fd=inside)
        try:
            losses = Losses()
            got = self._fill(fd, inode, parts, losses)
            if losses.count:
                self._incomplete(losses, inode, got)
            if losses.count and not got:
                return
            self._dressed(dress(fd, inode, xattrs, special=self._special), inode)
            if not self._place(made, name, inode, whole=not losses.count):
                return
            self.counts.files += 1
            if inode.links > 1 and self._links:
                # Its other names are made from here: no path leads back to the first.
                kept = _kept(inode, whole=not losses.count)
                os.rename(made, kept, src_dir_fd=inside, dst_dir_fd=inside)
            elif inode.links > 1:
                self.counts.separate += 1
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(made, dir_fd=inside)

    def _fill(self, fd: int, inode: Inode, parts: Iterable[Part], losses: Losses) -> bool:
        """Write what there is of a file; False if that is not a byte. Raises OSError, Stopped."""
        got = False
        for part in parts:
            if isinstance(part, Lost):
                losses.add(part)
            elif isinstance(part, Data):
                got = True
                self._store(fd, part)
            if self._stop():
                raise Stopped
        os.ftruncate(fd, inode.size)
        return got

    def _store(self, fd: int, part: Data) -> None:
        view, at = memoryview(part.content), part.offset
        while view:
            written = os.pwrite(fd, view, at)
            view, at = view[written:], at + written
        self.counts.bytes += len(part.content)
        self._advance(len(part.content))

    def _incomplete(self, losses: Losses, inode: Inode, got: bool) -> None:
        self.counts.lost_bytes += losses.bytes
        if got:
            self.counts.incomplete += 1
        start, end = losses.ranges[0]
        result = "written with holes there" if got else "nothing of it is there"
        message = f"{shown(self._path)}: {losses}; {result}"
        where = Where(
            inode=inode.number,
            path=os.fsdecode(self._path[:SHOWN_MAX]),
            offset=start,
            length=end - start,
        )
        self._find(Finding(Kind.FILE_INCOMPLETE, message, where))

    def _place(self, made: bytes, name: bytes, inode: Inode, *, whole: bool) -> bool:
        """Give what was made its name; False if that is another's."""
        self._forget_incomplete(name, inode)
        if not whole:
            name = _marked(name)
        try:
            self._name(made, name)
        except FileExistsError:
            self._other()
            return False
        return True

    def _name(self, made: bytes, name: bytes) -> None:
        """A name in the current directory for what was made. Raises OSError, FileExistsError."""
        inside, into = self._scratch.inside, self._open[-1]
        if self._links:
            try:
                os.link(made, name, src_dir_fd=inside, dst_dir_fd=into, follow_symlinks=False)
                return
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._links = False
        # Without links the name is taken first, by a file that is then replaced.
        os.close(os.open(name, _NEW, 0o600, dir_fd=into))
        try:
            os.rename(made, name, src_dir_fd=inside, dst_dir_fd=into)
        except BaseException:
            os.unlink(name, dir_fd=into)
            raise

    def _forget_incomplete(self, name: bytes, inode: Inode) -> None:
        """What an earlier run left of this file goes: it had less to read from, or as little."""
        before, into = _marked(name), self._open[-1]
        with suppress(FileNotFoundError):
            if _same_file(os.stat(before, dir_fd=into, follow_symlinks=False), inode):
                os.unlink(before, dir_fd=into)

    def _linked(self, name: bytes, inode: Inode) -> bool:
        """A further name of a file that was written; False if it was not. Raises OSError."""
        inside, into = self._scratch.inside, self._open[-1]
        for whole in (True, False):
            kept, wanted = _kept(inode, whole=whole), name if whole else _marked(name)
            try:
                os.stat(kept, dir_fd=inside, follow_symlinks=False)
            except FileNotFoundError:
                continue
            self._forget_incomplete(name, inode)
            try:
                os.link(kept, wanted, src_dir_fd=inside, dst_dir_fd=into, follow_symlinks=False)
            except OSError as error:
                if error.errno in (errno.EMLINK, errno.EXDEV):
                    return False
                raise
            self.counts.links += 1
            if not whole:
                self.counts.incomplete += 1
                self._tell(Kind.FILE_INCOMPLETE, "incomplete, as another name of it is")
            return True
        return False

    def _is_there(self, name: bytes, inode: Inode) -> bool:
        """Does this name exist? Then nothing is written; it is told if it is another's."""
        into = self._open[-1]
        try:
            facts = os.stat(name, dir_fd=into, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISREG(inode.mode):
            same = _same_file(facts, inode)
        elif stat.S_ISLNK(inode.mode):
            same = stat.S_ISLNK(facts.st_mode) and os.readlink(name, dir_fd=into) == inode.target
        else:
            same = stat.S_IFMT(facts.st_mode) == stat.S_IFMT(inode.mode)
        if not same:
            self._other()
            return True
        self.counts.present += 1
        if stat.S_ISREG(inode.mode) and inode.links > 1 and self._links:
            kept = _kept(inode, whole=True)
            with suppress(OSError):
                os.link(
                    name,
                    kept,
                    src_dir_fd=into,
                    dst_dir_fd=self._scratch.inside,
                    follow_symlinks=False,
                )
        return True

    # -- everything else ----------------------------------------------------------------------

    def symlink(self, name: bytes, inode: Inode, xattrs: Iterable[Xattr]) -> None:
        """A symbolic link, written as one, wherever it leads."""

        def make(made: bytes) -> None:
            os.symlink(inode.target, made, dir_fd=self._scratch.inside)
            self.counts.symlinks += 1

        self._node(name, inode, xattrs, make)

    def node(self, name: bytes, inode: Inode, xattrs: Iterable[Xattr]) -> None:
        """A device, fifo or socket; only counted unless `special` is asked for."""
        if not self._special:
            self.counts.special += 1
            return

        def make(made: bytes) -> None:
            # rdev is as the kernel gave it: 12 bits of major between 8 and 12 of minor.
            rdev = inode.rdev
            device = os.makedev(rdev >> 8 & 0xFFF, rdev & 0xFF | rdev >> 12 & 0xFFF00)
            kind = stat.S_IFMT(inode.mode)
            os.mknod(made, kind | 0o600, device, dir_fd=self._scratch.inside)
            os.chmod(made, permitted(inode.mode, special=True), dir_fd=self._scratch.inside)
            self.counts.nodes += 1

        self._node(name, inode, xattrs, make)

    def _node(
        self, name: bytes, inode: Inode, xattrs: Iterable[Xattr], make: Callable[[bytes], None]
    ) -> None:
        inside = self._scratch.inside
        made = self._fresh()
        try:
            if self._is_there(name, inode) or (inode.links > 1 and self._linked(name, inode)):
                return
            make(made)
            self._dressed(dress_link(inside, made, inode, xattrs, special=self._special), inode)
            try:
                self._name(made, name)
            except FileExistsError:
                self._other()
                return
            if inode.links > 1 and self._links:
                os.rename(made, _kept(inode, whole=True), src_dir_fd=inside, dst_dir_fd=inside)
        except (OSError, OverflowError, ValueError) as error:
            self._failed(error)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(made, dir_fd=inside)

    # -- telling ------------------------------------------------------------------------------

    def _fresh(self) -> bytes:
        self._serial += 1
        return b"made-%d" % self._serial

    def _dressed(self, problems: list[str], inode: Inode) -> None:
        mode = stat.S_IMODE(inode.mode)
        if not stat.S_ISLNK(inode.mode) and permitted(mode, special=self._special) != mode:
            self.counts.unprivileged += 1
        if problems:
            self._tell(Kind.ATTRIBUTES_LEFT, "written without " + ", ".join(problems[:10]))

    def _other(self) -> None:
        self._tell(Kind.NOT_WRITTEN, "another file of this name is there already, and stays")

    def _failed(self, error: Exception) -> None:
        """Something could not be written. Raises SetupError where nothing else could be."""
        if isinstance(error, OSError) and error.errno in _ENDS_ALL:
            raise SetupError(
                f"--to {self._scratch.label}: {error.strerror}, at {shown(self._path)}; when that "
                "is mended run it again: it goes on"
            ) from error
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._tell(Kind.NOT_WRITTEN, f"could not be written: {why}")

    def _tell(self, kind: Kind, why: str) -> None:
        where = Where(inode=self._inode, path=os.fsdecode(self._path[:SHOWN_MAX]))
        self._find(Finding(kind, f"{shown(self._path)}: {why}", where))


def _marked(name: bytes) -> bytes:
    """The name of an incomplete file."""
    return name[: NAME_MAX - len(INCOMPLETE)] + INCOMPLETE


def _kept(inode: Inode, *, whole: bool) -> bytes:
    return b"%s-%d" % (b"whole" if whole else b"partly", inode.number)


def _same_file(facts: os.stat_result, inode: Inode) -> bool:
    """Is that the file, as far as size and time of change tell?

    Where times are kept coarsely (FAT: two seconds, exFAT: 10 ms), they are compared so.
    """
    apart = abs(facts.st_mtime_ns - inode.mtime_ns)
    exact = bool(facts.st_mtime_ns % _FINE_NS)
    return (
        stat.S_ISREG(facts.st_mode)
        and facts.st_size == inode.size
        and (apart == 0 if exact else apart < _COARSE_NS)
    )
