"""A drive that is a directory on its own disk.

What holds here:

* The directory is opened once; every file is reached relative to that descriptor and never
  through a symbolic link, so nobody can slip another file under a name. Files are 0600, made
  with O_EXCL; the directory is made 0700 before the first file is created in it (a directory
  that is only looked at is not changed). Only regular files exist for us: nothing else is opened,
  as that alone may wake whoever waits at a fifo, or rewind a tape.
* Opened `read_only` it is never changed, whatever is asked of it (EROFS).
* `claim` allocates whole, then syncs file and directory. Truncating up is not allocation: where
  the filesystem cannot allocate, zeros are written.
* Every OSError leaves as a DriveError.

Left to others: what holds of an open file (`file`), what the names and the bytes mean, not closing
a file that a thread still reads, and the choice of what to do after an error.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from shmr.drive.calls import Pwritev, allocate, allocated_bytes, first_byte, mount_id
from shmr.drive.file import DirectoryFile
from shmr.drive.seam import Capacity, Drive
from shmr.errors import DriveError

LOCK_NAME = "lock"
SHORT_SHARE = 8
"""Where less than this part of the disk is free, space is given back before `discard` returns."""
READ_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
SMALL_BYTES = 64 * 1024

_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NOT_REGULAR = {stat.S_IFLNK: errno.ELOOP, stat.S_IFDIR: errno.EISDIR}
_CANNOT_LOCK = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
"""What filesystems answer that lock no directory: NFS does not."""


class DirectoryDrive:
    """The drive at `path`. `limit_bytes` caps what our own files may allocate there."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit_bytes: int | None = None,
        read_only: bool = False,
        pwritev: Pwritev = os.pwritev,
    ) -> None:
        self._fd = -1
        self._lock_fds: tuple[int, ...] = ()
        self._found: frozenset[str] | None = None
        """What was there when we made the lock's file; None if it was there too."""
        self._label = os.fspath(path)
        self._limit_bytes = limit_bytes
        self._read_only = read_only
        self.let_go: Callable[[Callable[[], None]], None] | None = None
        """Runs a call that nobody waits for. To free the blocks and the cached pages of 64 MiB took
        35 ms on ext4: with this they go when the last descriptor is closed, somewhere else."""
        self.pwritev = pwritev
        self.reads_nowait = True
        self._private = False
        self._accounts = threading.Lock()
        self._allocated: dict[str, int] = {}
        self._used = 0
        with self.telling("open"):
            self._fd = os.open(
                self._label, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
        try:
            if limit_bytes is not None:
                with self.telling("names"):
                    for name, facts in self._regular():
                        self.account(name, allocated_bytes(facts))
        except BaseException:
            self.close()
            raise

    @property
    def label(self) -> str:
        return self._label

    def device(self) -> int:
        with self.telling("device"):
            return os.fstat(self._fd).st_dev

    def names(self) -> list[str]:
        with self.telling("names"):
            return [entry.name for entry in self._entries() if entry.is_file(follow_symlinks=False)]

    def size(self, name: str) -> int:
        with self.telling("size"):
            facts = os.stat(checked_name(name), dir_fd=self._fd, follow_symlinks=False)
            _require_regular(name, facts)
            return facts.st_size

    def begins(self, name: str) -> int | None:
        with self.telling("begins"):
            facts = os.stat(checked_name(name), dir_fd=self._fd, follow_symlinks=False)
            _require_regular(name, facts)
            fd = os.open(name, os.O_RDONLY | READ_FLAGS, dir_fd=self._fd)
            try:
                return first_byte(fd)
            finally:
                os.close(fd)

    def claim(self, name: str, size_bytes: int) -> DirectoryFile:
        with self.telling("claim"):
            checked_name(name)
            self._require_writable()
            self._make_private()
            self._reserve(name, size_bytes)
            try:
                return self._create(name, size_bytes)
            except BaseException:
                self.account(name, 0)
                raise

    def open(self, name: str, *, end: int = 0) -> DirectoryFile:
        with self.telling("open"):
            facts = os.stat(checked_name(name), dir_fd=self._fd, follow_symlinks=False)
            _require_regular(name, facts)
            # Looked at once more when it is open, and not waited for: it may be another by now.
            flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
            try:
                mode = os.O_RDONLY if self._read_only else os.O_RDWR
                fd = os.open(name, mode | flags, dir_fd=self._fd)
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
                fd = os.open(name, os.O_RDONLY | flags, dir_fd=self._fd)
            try:
                facts = os.fstat(fd)
                _require_regular(name, facts)
                if not 0 <= end <= facts.st_size:
                    raise OSError(errno.EINVAL, f"{name}: end {end} is not inside the file")
                os.set_blocking(fd, True)
            except BaseException:
                os.close(fd)
                raise
            return DirectoryFile(self, name, fd, facts.st_size, end)

    def discard(self, name: str) -> None:
        with self.telling("discard"):
            checked_name(name)
            self._require_writable()
            held = -1 if self.let_go is None else self._held(name)
            try:
                os.unlink(name, dir_fd=self._fd)
                self.account(name, 0)
            finally:
                if held >= 0 and self.let_go is not None:
                    self.let_go(partial(os.close, held))

    def _held(self, name: str) -> int:
        """A descriptor that keeps the space for a moment; -1 where the disk is short of that."""
        facts = os.fstatvfs(self._fd)
        if facts.f_bavail * SHORT_SHARE < facts.f_blocks:
            return -1
        try:
            return os.open(name, os.O_RDONLY | READ_FLAGS, dir_fd=self._fd)
        except OSError:
            return -1  # the unlink tells what is wrong

    def capacity(self) -> Capacity:
        with self.telling("capacity"):
            facts = os.fstatvfs(self._fd)
        total = disk_total = facts.f_blocks * facts.f_frsize
        free = disk_free = facts.f_bavail * facts.f_frsize
        if self._limit_bytes is not None:
            total = min(total, self._limit_bytes)
            free = max(0, min(free, self._limit_bytes - self._used))
        return Capacity(total, free, disk_total, disk_free)

    def _lock_file(self, flags: int) -> int:
        """The file to lock, opened; made if it is not there."""
        with suppress(FileNotFoundError):
            return os.open(LOCK_NAME, flags, dir_fd=self._fd)
        found = frozenset(os.listdir(self._fd))
        fd = os.open(LOCK_NAME, flags | os.O_CREAT, 0o600, dir_fd=self._fd)
        self._found = found
        return fd

    def put(self, name: str, content: bytes) -> None:
        put_small(self, name, content)

    def get(self, name: str) -> bytes:
        return get_small(self, name)

    def close(self) -> None:
        """Release the directory and the lock. Open files live on.

        Where we have made nothing but the lock's file, that goes too: it may be no drive at all,
        but the place where one was to be mounted, or somebody's photos.
        """
        # First they are ours no more: of a drive that hangs, closing may not come back.
        lock_fds, fd, self._lock_fds, self._fd = self._lock_fds, self._fd, (), -1
        found, self._found = self._found, None
        if found is not None:
            with suppress(OSError):
                if found.issuperset(set(os.listdir(fd)) - {LOCK_NAME}):
                    os.unlink(LOCK_NAME, dir_fd=fd)
        for one in (*lock_fds, fd):
            if one >= 0:
                with suppress(OSError):
                    os.close(one)

    def __del__(self) -> None:
        DirectoryDrive.close(self)

    def lock(self) -> bool:
        """Hold the drive until `close` or our end; False when another process does.

        The lock belongs to the open file, so it passes to a forked child and never to a program
        that is started. The directory is locked beside the file: the file looks like what a crash
        leaves behind, and who removes it must not let two processes in.
        """
        if self._lock_fds:
            return True
        flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        taken: list[int] = []
        try:
            with self.telling("lock"):
                taken.append(os.open(".", os.O_RDONLY | os.O_DIRECTORY | flags, dir_fd=self._fd))
                with _passing(_CANNOT_LOCK):
                    fcntl.flock(taken[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Where the drive is write-protected, it can be read, and nobody else can write it.
                with _passing({errno.EROFS}):
                    self._require_writable()
                    taken.append(self._lock_file(os.O_RDWR | flags))
                    fcntl.flock(taken[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            for fd in taken:
                os.close(fd)
            if isinstance(error, DriveError) and isinstance(error.cause, BlockingIOError):
                return False
            raise
        self._lock_fds = tuple(taken)
        return True

    def is_empty(self, *, besides: Collection[str] = ()) -> bool:
        """Whether the directory holds nothing but our lock file, a `lost+found` and `besides`."""
        with self.telling("names"):
            return all(e.name == "lost+found" or e.name in besides for e in self._entries())

    def is_mount_point(self) -> bool:
        """Whether something is mounted at the directory; bind mounts count."""
        with self.telling("mounted"):
            parent = os.open("..", os.O_PATH | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                here, above = os.fstat(self._fd), os.fstat(parent)
                if here.st_dev != above.st_dev or here.st_ino == above.st_ino:
                    return True
                return mount_id(self._fd) != mount_id(parent)
            finally:
                os.close(parent)

    @contextmanager
    def telling(self, operation: str) -> Iterator[None]:
        """Turn an OSError into the DriveError of `operation`."""
        try:
            yield
        except OSError as error:
            raise DriveError(self._label, operation, error) from error

    def account(self, name: str, allocated_bytes: int) -> None:
        """Note what `name` now takes, so that `capacity` need not look at every file."""
        if self._limit_bytes is None:
            return
        with self._accounts:
            self._used += allocated_bytes - self._allocated.pop(name, 0)
            if allocated_bytes:
                self._allocated[name] = allocated_bytes

    def _reserve(self, name: str, size_bytes: int) -> None:
        """Set aside `size_bytes` of the limit for `name`, or ENOSPC; claims come from threads."""
        if self._limit_bytes is None:
            return
        with self._accounts:
            if name in self._allocated:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            if self._used + size_bytes > self._limit_bytes:
                raise OSError(errno.ENOSPC, "the configured size limit is reached")
            self._used += size_bytes
            self._allocated[name] = size_bytes

    def _require_writable(self) -> None:
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def _create(self, name: str, size_bytes: int) -> DirectoryFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=self._fd)
        try:
            allocate(self.pwritev, fd, size_bytes)
            os.fsync(fd)
            os.fsync(self._fd)
            self.account(name, allocated_bytes(os.fstat(fd)))
        except BaseException:
            with suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
            os.close(fd)
            raise
        return DirectoryFile(self, name, fd, size_bytes, 0)

    def _make_private(self) -> None:
        if self._private:
            return
        if stat.S_IMODE(os.fstat(self._fd).st_mode) != 0o700:
            with suppress(PermissionError):
                os.fchmod(self._fd, 0o700)
        self._private = True

    def _entries(self) -> list[os.DirEntry[str]]:
        # A descriptor of its own: the position of a directory is shared between duplicates,
        # and two threads may list at once.
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            with os.scandir(fd) as entries:
                found = [entry for entry in entries if entry.name != LOCK_NAME]
                for entry in found:
                    entry.is_file(follow_symlinks=False)  # while the descriptor can be asked
                return found
        finally:
            os.close(fd)

    def _regular(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in self.names():
            with suppress(FileNotFoundError):
                yield name, os.stat(name, dir_fd=self._fd, follow_symlinks=False)


@contextmanager
def _passing(numbers: Collection[int]) -> Iterator[None]:
    """Let an OSError with one of these numbers pass for success."""
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise


def put_small(drive: Drive, name: str, content: bytes) -> None:
    """`Drive.put` in terms of the other verbs; nothing is left behind on an error."""
    file = drive.claim(name, len(content))
    try:
        file.append([content])
        file.sync()
    except BaseException:
        with suppress(DriveError):
            drive.discard(name)
        raise
    finally:
        file.close()


def get_small(drive: Drive, name: str) -> bytes:
    """`Drive.get` in terms of the other verbs."""
    file = drive.open(name)
    try:
        return file.read(0, SMALL_BYTES)
    finally:
        file.close()


def checked_name(name: str) -> str:
    """`name` if a drive's file may be called that. Raises OSError (EINVAL)."""
    if not name or "/" in name or "\0" in name or name in (".", "..", LOCK_NAME):
        raise OSError(errno.EINVAL, f"{name!r} cannot be the name of a drive's file")
    return name


def _require_regular(name: str, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        number = _NOT_REGULAR.get(stat.S_IFMT(facts.st_mode), errno.EINVAL)
        raise OSError(number, f"{name}: not a regular file")
