"""Simulated drives in memory, and the world that they share.

The fault model: what may happen here, and so may happen to shmr.

1. A write that was not synced may be there after a power cut, or not, or in part. The unit is
   a 512-byte sector; each shows the file as it was after any number of its writes, whatever the
   others show. So writes are dropped, torn and reordered. Sectors whose only writes were dropped
   read as zeros, or as garbage: a size without data.
2. What a completed `sync` covered is there, always, until `flip_bit`, `plant` or `lose`.
3. A completed `claim` is there with its whole size. One that was cut is absent, empty, or there.
   A `seal` that was cut has done nothing, or the sync, or the sync and the truncation.
4. A discarded file may come back, until the next completed claim on the same drive (which syncs
   the directory).
5. A change fails at a chosen number, once or from then on: EIO (it had no effect), ENOSPC (of a
   claim), a short write (a part of the bytes is in the file, the rest failed), a failed sync. A
   read fails likewise. A failed sync loses dirty pages as Linux does: each sector may have
   reached the platter, none will later, and readers may go on seeing the bytes until the reboot.
   After any error of append, sync or seal the open file refuses to be changed again.
6. Nothing else happens: drives do not lie about a completed sync, sectors are atomic, and what is
   read is what is there.

One `World` counts the operations of all its drives, in one order. `world.reboot(rng)` gives a new
world of new drives that hold one image the model permits; asked again with other numbers, the
same world gives another. It may be asked at any moment, also by `world.observer`, which is called
in the middle of every change: one run of a workload shows the images of all its cuts.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from shmr.drive.directory import checked_name, get_small, put_small
from shmr.drive.seam import Buffer, Capacity
from shmr.errors import DriveError
from shmr.testing.faults import Fault, FaultPlan
from shmr.testing.platter import Platter
from shmr.units import GIB

BLOCK = 4096


class World:
    """Some drives under one power switch. One seed replays a run."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.plan = FaultPlan()
        self.drives: list[SimulatedDrive] = []
        self.observer: Callable[[World], None] | None = None
        self.guard = threading.RLock()

    @property
    def operations(self) -> int:
        """Changes so far, over all drives; the number of the next one."""
        return self.plan.operations

    @property
    def reads(self) -> int:
        return self.plan.reads

    def add(self, label: str | None = None, capacity_bytes: int = GIB) -> SimulatedDrive:
        """A new empty drive, on a device of its own."""
        number = len(self.drives)
        drive = SimulatedDrive(self, label or f"drive{number}", number + 1, capacity_bytes)
        self.drives.append(drive)
        return drive

    def cut_at(self, number: int) -> None:
        """Let change `number` raise PowerCut when it has begun, and everything after it."""
        self.plan.cut_at(number)

    def fail(
        self, number: int, fault: Fault, *, persistent: bool = False, drive: str | None = None
    ) -> None:
        """Plan a fault; see `FaultPlan.fail`."""
        self.plan.fail(number, fault, persistent=persistent, drive=drive)

    def reboot(self, rng: random.Random) -> World:
        """A world whose drives hold one image that a power cut now may leave."""
        return self._successor(rng, lambda node: node.after_power_cut(rng), rng)

    def kill(self) -> World:
        """A world after the program was killed and the machine went on: nothing is lost yet.

        What was not synced still may be lost by a later `reboot`.
        """
        return self._successor(self.rng, lambda node: node.copy(), None)

    def _successor(
        self,
        rng: random.Random,
        survive: Callable[[Platter], Platter | None],
        forgetful: random.Random | None,
    ) -> World:
        with self.guard:
            world = World(rng.getrandbits(64))
            for drive in self.drives:
                new = drive.like(world)
                new.inherit(drive, survive, forgetful)
            return world


class SimulatedFile:
    """An open file of a `SimulatedDrive`. Made by the drive only."""

    def __init__(self, drive: SimulatedDrive, name: str, node: Platter, end: int) -> None:
        self._drive = drive
        self._name = name
        self._node = node
        self._end = end
        self._failed = False
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def end(self) -> int:
        return self._end

    def append(self, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        if not data:
            return
        with self._changing("append"):
            if self._end + len(data) > self._node.size:
                raise OSError(errno.EFBIG, f"{self._name}: append past the claimed size")
            if self._end < self._node.highest:
                self._drive.other_writes += 1
            self._node.write(self._end, data)
            fault = self._drive.change("append", self._name)
            if fault is not None:
                self._node.writes.pop()
                if fault is Fault.SHORT:
                    part = self._drive.world.rng.randrange(len(data))
                    self._node.write(self._end, data[:part])
                raise _error(fault)
        self._end += len(data)

    def read(self, offset: int, length: int) -> bytes:
        with self._drive.telling("read"):
            self._check_open()
            self._drive.look("read", self._name)
            return self._node.read(offset, length)

    def read_cached(self, offset: int, length: int) -> bytes | None:
        if not self._drive.cached or self._drive.lost or self._closed:
            return None
        with self._drive.world.guard:
            return self._node.read(offset, length)

    def prefetch(self, offset: int, length: int) -> None:
        """Nothing: what is read is in memory."""

    def sequential(self) -> None:
        """Nothing: what is read is in memory."""

    def write_back(self, offset: int, length: int) -> None:
        """Nothing: what is not synced may be on the platter or not, as it is."""

    def evict(self, offset: int = 0, length: int = 0) -> None:
        """Bytes that a failed sync left in memory only are not seen again."""
        with self._drive.world.guard:
            self._node.ghosts.clear()

    def sync(self) -> None:
        with self._changing("sync"):
            self._flush("sync")

    def seal(self) -> None:
        with self._changing("seal"):
            self._node.sealing = self._end
            try:
                self._flush("seal")
            finally:
                if not self._drive.world.plan.off:
                    self._node.sealing = None
            self._node.truncate(self._end)
            self._drive.recount()

    def close(self) -> None:
        self._closed = True

    def _flush(self, verb: str) -> None:
        fault = self._drive.change(verb, self._name)
        if fault is not None:
            self._node.lose_dirty(self._drive.world.rng)
            raise _error(fault)
        self._node.settle()

    @contextmanager
    def _changing(self, operation: str) -> Iterator[None]:
        with self._drive.telling(operation):
            self._check_open()
            if self._failed:
                raise OSError(errno.EIO, f"{self._name}: not changed again after an error")
            try:
                yield
            except OSError:
                self._failed = True
                raise

    def _check_open(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, f"{self._name}: the file is closed")


class SimulatedDrive:
    """A drive in memory. Made by `World.add` only."""

    def __init__(self, world: World, label: str, device: int, capacity_bytes: int) -> None:
        self.world = world
        self.capacity_bytes = capacity_bytes
        self.cached = True
        """Whether `read_cached` finds its bytes, as it does when memory is plenty."""
        self.lost = False
        self.other_writes = 0
        """Appends below something already written: what a zone would have refused."""
        self._label = label
        self._device = device
        self._files: dict[str, Platter] = {}
        self._gone: dict[str, Platter] = {}
        self._used = 0
        self._locked = False

    @property
    def label(self) -> str:
        return self._label

    def device(self) -> int:
        return self._device

    def names(self) -> list[str]:
        with self.telling("names"):
            self.look("names", "")
            return list(self._files)

    def size(self, name: str) -> int:
        with self.telling("size"):
            self.look("size", name)
            return self._find(name).size

    def begins(self, name: str) -> int | None:
        """Files lie in the order in which they were claimed."""
        with self.telling("begins"):
            self.look("begins", name)
            self._find(name)
            return BLOCK * list(self._files).index(name)

    def claim(self, name: str, size_bytes: int) -> SimulatedFile:
        with self.telling("claim"):
            self._check_there()
            if checked_name(name) in self._files:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
            if self._used + self.footprint(name, size_bytes) > self.capacity_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            node = self._files[name] = Platter(size_bytes)
            fault = self.change("claim", name)
            if fault is not None:
                del self._files[name]
                raise _error(fault)
            node.claiming = False
            self._used += self.footprint(name, size_bytes)
            self._gone.clear()
            return self.file(name, node, 0)

    def open(self, name: str, *, end: int = 0) -> SimulatedFile:
        with self.telling("open"):
            self.look("open", name)
            node = self._find(name)
            if not 0 <= end <= node.size:
                raise OSError(errno.EINVAL, f"{name}: end {end} is not inside the file")
            return self.file(name, node, end)

    def discard(self, name: str) -> None:
        with self.telling("discard"):
            node = self._find(name)
            before = self._gone.get(name)
            del self._files[name]
            self._gone[name] = node
            fault = self.change("discard", name)
            if fault is not None:
                self._files[name] = node
                del self._gone[name]
                if before is not None:
                    self._gone[name] = before
                raise _error(fault)
            self._used -= self.footprint(name, node.size)

    def capacity(self) -> Capacity:
        with self.telling("capacity"):
            self._check_there()
            return Capacity(self.capacity_bytes, max(0, self.capacity_bytes - self._used))

    def put(self, name: str, content: bytes) -> None:
        put_small(self, name, content)

    def get(self, name: str) -> bytes:
        return get_small(self, name)

    def close(self) -> None:
        self._locked = False

    def lock(self) -> bool:
        """As `DirectoryDrive.lock`: False when it is held already."""
        taken, self._locked = self._locked, True
        return not taken

    def is_empty(self) -> bool:
        return not self.names()

    def like(self, world: World) -> SimulatedDrive:
        """A new empty drive of the same kind in `world`."""
        return world.add(self._label, self.capacity_bytes)

    def file(self, name: str, node: Platter, end: int) -> SimulatedFile:
        """An open file; other kinds of drives have other files."""
        return SimulatedFile(self, name, node, end)

    def footprint(self, name: str, size_bytes: int) -> int:
        """What a file of this size takes from the capacity."""
        return _blocks(size_bytes)

    def flip_bit(self, name: str, offset: int, bit: int) -> None:
        """Rot: flip bit `bit` (0..7) of one byte that was synced."""
        node = self._find(name)
        self.plant(name, offset, bytes([node.read(offset, 1)[0] ^ (1 << bit)]))

    def plant(self, name: str, offset: int, content: bytes) -> None:
        """Damage: put `content` on the platter, without an operation being counted."""
        with self.world.guard:
            node = self._find(name)
            node.settle()
            node.plant(offset, content)
            node.size = max(node.size, offset + len(content))
            self.recount()

    def shorten(self, name: str, size_bytes: int) -> None:
        """Damage: cut the file to `size_bytes`."""
        with self.world.guard:
            node = self._find(name)
            node.settle()
            node.truncate(size_bytes)
            self.recount()

    def lose(self) -> None:
        """The drive is gone: everything fails from now on, after a reboot too."""
        self.lost = True

    def forget_discarded(self) -> None:
        """What was discarded is gone for good: it was durably removed long ago."""
        self._gone.clear()

    def inherit(
        self,
        drive: SimulatedDrive,
        survive: Callable[[Platter], Platter | None],
        forgetful: random.Random | None,
    ) -> None:
        """Take over what survives of `drive`; with `forgetful`, discards may be undone."""
        self.cached, self.lost = drive.cached, drive.lost
        for name, node in drive._files.items():
            left = survive(node)
            if left is not None:
                self._files[name] = left
        for name, node in drive._gone.items():
            if forgetful is None:
                if name not in self._files:
                    self._gone[name] = node.copy()
            elif name not in self._files and forgetful.random() < 0.5:
                left = survive(node)
                if left is not None:
                    self._files[name] = left
        self.recount()

    def change(self, verb: str, name: str) -> Fault | None:
        """A change has begun: count it, show it to the observer, say how it fails."""
        self._check_there()
        fault = self.world.plan.change(self._label, verb, name)
        if self.world.observer is not None:
            self.world.observer(self.world)
        return fault

    def look(self, verb: str, name: str) -> None:
        """Count a read, or raise how it fails."""
        self._check_there()
        fault = self.world.plan.reading(self._label, verb, name)
        if fault is not None:
            raise _error(fault)

    def recount(self) -> None:
        """Ask all files again how much they take."""
        self._used = sum(self.footprint(name, node.size) for name, node in self._files.items())

    @contextmanager
    def telling(self, operation: str) -> Iterator[None]:
        """One thread at a time; an OSError becomes the DriveError of `operation`."""
        with self.world.guard:
            try:
                yield
            except OSError as error:
                raise DriveError(self._label, operation, error) from error

    def _find(self, name: str) -> Platter:
        node = self._files.get(checked_name(name))
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return node

    def _check_there(self) -> None:
        if self.lost:
            raise OSError(errno.EIO, "the drive is lost")


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK


def _error(fault: Fault) -> OSError:
    return OSError(fault.number, f"planned fault: {fault.title}")
