"""Mounting: a descriptor of /dev/fuse that the kernel knows as a filesystem at a place.

Done without libfuse, so that the descriptor is ours before the first request is answered, and
so that each way to fail says what to do. Root mounts with mount(2); a user asks `fusermount3`,
which hands the descriptor over a socket. Nothing here reads from the descriptor, and nothing
here touches the mounted tree except `is_dead_mount`: a look at a filesystem that is not served
yet would wait for ever.

Sources: mount(2), umount2(2), the kernel's Documentation/filesystems/fuse.rst (mount options),
util/fusermount.c of libfuse 3 (the socket protocol).
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
from dataclasses import dataclass

from shmr.errors import SetupError
from shmr.fuse.options import Atime, MountOptions

DEVICE = "/dev/fuse"
FILESYSTEM_TYPE = "fuse.shmr"
READ_AHEAD_KIB = 1024

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_NOEXEC = 8
_ATIME_FLAGS = {Atime.NEVER: 1 << 10, Atime.RELATIVE: 1 << 21}
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """What is mounted at a place: the top one if several are stacked."""

    filesystem_type: str
    source: str
    device: str  # "major:minor", the same while it is mounted


@dataclass(frozen=True, slots=True)
class Device:
    """A mount that we made: `descriptor` carries its requests."""

    descriptor: int
    mountpoint: str
    device: str

    def is_mounted(self) -> bool:
        """Whether this very mount is (still) the one to be seen at its place."""
        present = mounted_filesystem(self.mountpoint)
        return present is not None and present.device == self.device

    def unmount(self, *, lazy: bool = False) -> None:
        """Unmount this mount, and no other that has taken its place. OSError EBUSY: in use."""
        if self.is_mounted():
            unmount(self.mountpoint, lazy=lazy)

    def read_ahead(self) -> None:
        """Let the kernel read ahead further than its default of 128 KiB, where we may say so.

        Only once the connection is negotiated: that resets the value.
        """
        with (
            contextlib.suppress(OSError),
            open(f"/sys/class/bdi/{self.device}/read_ahead_kb", "w", encoding="ascii") as setting,
        ):
            setting.write(str(READ_AHEAD_KIB))


def mount(mountpoint: str, source: str, options: MountOptions) -> Device:
    """Mount at `mountpoint` under the name `source`. Raises SetupError."""
    place = os.path.realpath(mountpoint)
    kind = _kind(place)
    if os.geteuid() == 0:
        descriptor = _mount_as_root(place, source, options, kind)
    else:
        descriptor = _mount_as_user(place, source, options)
    present = mounted_filesystem(place)
    if present is None:
        os.close(descriptor)
        raise SetupError(f"{place}: the mount vanished at once; look into the system's log")
    return Device(descriptor, place, present.device)


def _kind(place: str) -> int:
    """The type bits of the directory to mount on. Raises SetupError."""
    try:
        os.statvfs(place)  # a dead mount fails here, and not always in the next line
        mode = os.stat(place).st_mode
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise SetupError(f"{place}: a dead mount is there; unmount it first") from error
        raise SetupError(f"{place}: cannot mount there: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise SetupError(f"{place}: not a directory; a filesystem is mounted on a directory")
    return stat.S_IFMT(mode)


def _mount_as_root(place: str, source: str, options: MountOptions, kind: int) -> int:
    descriptor = _open_device()
    data = f"fd={descriptor},rootmode={kind:o},user_id=0,group_id=0,default_permissions"
    if options.allow_other:
        data += ",allow_other"
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(place),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(_flags(options)),
        data.encode(),
    )
    if done != 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        advice = {
            errno.ENODEV: "the kernel has no FUSE; try: modprobe fuse",
            errno.EPERM: "not permitted here; in a container, it needs CAP_SYS_ADMIN",
        }.get(number, os.strerror(number))
        raise SetupError(f"{place}: mount failed: {advice}")
    return descriptor


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        advice = {
            errno.ENOENT: "it does not exist; try: modprobe fuse",
            errno.ENODEV: "the kernel has no FUSE; try: modprobe fuse",
            errno.EPERM: "not permitted; in a container, pass the device with --device",
            errno.EACCES: "not permitted; its mode should be 0666",
        }.get(error.errno or 0, error.strerror)
        raise SetupError(f"{DEVICE}: {advice}") from error


def _flags(options: MountOptions) -> int:
    flags = _ATIME_FLAGS[options.atime]
    for wanted, flag in (
        (options.read_only, _MS_RDONLY),
        (not options.suid, _MS_NOSUID),
        (not options.dev, _MS_NODEV),
        (not options.exec, _MS_NOEXEC),
    ):
        if wanted:
            flags |= flag
    return flags


def _mount_as_user(place: str, source: str, options: MountOptions) -> int:
    words = [f"fsname={source.replace(',', '_')}", "subtype=shmr", "default_permissions"]
    words += ["ro"] if options.read_only else []
    words += [] if options.exec else ["noexec"]
    words += ["noatime"] if options.atime is Atime.NEVER else []
    words += ["allow_other"] if options.allow_other else []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = subprocess.run(
            [_fusermount(), "-o", ",".join(words), "--", place],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        theirs.close()
        descriptor = _receive_descriptor(ours)
    if descriptor is None:
        said = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise SetupError(f"{place}: fusermount3 could not mount: {said}")
    return descriptor


def _receive_descriptor(ours: socket.socket) -> int | None:
    """The descriptor that comes over `ours`, not inherited by programs we start."""
    room = array.array("i", [0])
    _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(room.itemsize))
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            room.frombytes(content[: room.itemsize])
            os.set_inheritable(room[1], False)
            return room[1]
    return None


def _fusermount() -> str:
    program = shutil.which("fusermount3")
    if program is None:
        raise SetupError("fusermount3 is missing, a user cannot mount; install the package fuse3")
    return program


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount what is on top at `mountpoint`; never follows a symlink at its end.

    `lazy` takes it out of the tree at once, though in use. OSError EBUSY: in use, or why not.
    """
    if os.geteuid() == 0:
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if _libc.umount2(os.fsencode(mountpoint), flags) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), mountpoint)
        return
    command = [_fusermount(), "-u", *(["-z"] if lazy else []), "--", mountpoint]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        number = errno.EBUSY if "busy" in said else errno.EPERM
        raise OSError(number, said or "fusermount3 failed", mountpoint)


def is_dead_mount(path: str) -> bool:
    """Whether a mount is at `path` whose server is gone (ENOTCONN, as after a crash).

    Asked with statfs(2): the attributes of a dead mount's root are still in the kernel's cache.
    """
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def mounted_filesystem(path: str) -> Mounted | None:
    """What is mounted exactly at `path`, without touching it; None if nothing is."""
    directory, name = os.path.split(os.path.abspath(path))
    wanted = os.fsencode(os.path.join(os.path.realpath(directory), name))
    with open("/proc/self/mountinfo", "rb") as lines:
        return find_mount(lines.read(), wanted)


def find_mount(mountinfo: bytes, place: bytes) -> Mounted | None:
    """The last entry of a mountinfo text (proc_pid_mountinfo(5)) whose mount point is `place`."""
    found = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        fields, tail = before.split(b" "), after.split(b" ")
        if len(fields) > 4 and len(tail) > 1 and _unescape(fields[4]) == place:
            found = Mounted(
                filesystem_type=os.fsdecode(tail[0]),
                source=os.fsdecode(_unescape(tail[1])),
                device=fields[2].decode("ascii"),
            )
    return found


def _unescape(field: bytes) -> bytes:
    """Blanks, newlines and backslashes stand in mountinfo as three octal digits."""
    return _ESCAPE.sub(lambda digits: bytes([int(digits[1], 8) & 0xFF]), field)
