"""A simulated drive that is a shingled disk: it takes appends and whole-zone resets, nothing else.

Beside what every simulated drive does (`shmr.testing.drive` has the fault model):

* A file has one zone, whatever its size; a claim of more than a zone finds none (ENOSPC). Sealing
  gives nothing back, discarding gives back the zone.
* An append goes to where the zone was last written, or is refused (EIO) and counted in
  `other_writes`: also through a second handle, or after the file was opened anew elsewhere.
* Records (`put`) lie in a small conventional area, as the first zones of such disks are.
* `activity` counts what the disk was asked for, so that a test can say that it was left asleep.

A power cut may leave more than the beginning of what was written, which a real zone does not: an
archive drive may also be a directory of a disk that hides its zones.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from shmr.drive.directory import put_small
from shmr.drive.seam import Buffer
from shmr.testing.drive import SimulatedDrive, SimulatedFile, World
from shmr.testing.faults import Fault
from shmr.testing.platter import Platter
from shmr.units import MIB

CONVENTIONAL_BYTES = MIB


class Activity:
    """What a drive was asked for since the last `clear`.

    `operations` by verb of the seam; `reads` and `read_bytes` by file name, from memory too.
    """

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.read_bytes: Counter[str] = Counter()

    @property
    def asleep(self) -> bool:
        """Whether nothing at all was asked for."""
        return not (self.operations or self.reads)

    def clear(self) -> None:
        self.operations.clear()
        self.reads.clear()
        self.read_bytes.clear()

    def note_read(self, name: str, length: int) -> None:
        self.reads[name] += 1
        self.read_bytes[name] += length


class ZonedFile(SimulatedFile):
    """An open file of a `ZonedDrive`: a zone and the place where it goes on."""

    def __init__(self, drive: ZonedDrive, name: str, node: Platter, end: int) -> None:
        super().__init__(drive, name, node, end)
        self._zoned = drive

    def append(self, buffers: Sequence[Buffer]) -> None:
        if any(memoryview(buffer).nbytes for buffer in buffers):
            with self._changing("append"):
                if self.end != self._node.highest:
                    self._zoned.other_writes += 1
                    raise OSError(
                        errno.EIO,
                        f"{self.name}: write at {self.end}, the zone goes on at "
                        f"{self._node.highest}",
                    )
        super().append(buffers)

    def read(self, offset: int, length: int) -> bytes:
        content = super().read(offset, length)
        self._zoned.activity.note_read(self.name, len(content))
        return content

    def read_cached(self, offset: int, length: int) -> bytes | None:
        content = super().read_cached(offset, length)
        if content is not None:
            self._zoned.activity.note_read(self.name, len(content))
        return content


class ZonedDrive(SimulatedDrive):
    """A shingled disk in memory. Made by `add_zoned` only."""

    def __init__(self, world: World, label: str, device: int, zones: int, zone_bytes: int) -> None:
        super().__init__(world, label, device, zones * zone_bytes)
        self.zone_bytes = zone_bytes
        self.activity = Activity()
        self._records: set[str] = set()  # names that lie in the conventional area
        self._putting = ""

    def claim(self, name: str, size_bytes: int) -> SimulatedFile:
        with self.telling("claim"):
            record = name == self._putting
            if name not in self._files:
                (self._records.add if record else self._records.discard)(name)
            if size_bytes > (CONVENTIONAL_BYTES if record else self.zone_bytes):
                raise OSError(errno.ENOSPC, f"no zone has {size_bytes} bytes")
        return super().claim(name, size_bytes)

    def put(self, name: str, content: bytes) -> None:
        with self.world.guard:
            self._putting = name
            try:
                put_small(self, name, content)
            finally:
                self._putting = ""

    def like(self, world: World) -> SimulatedDrive:
        zones = self.capacity_bytes // self.zone_bytes
        return add_zoned(world, self.label, zones=zones, zone_bytes=self.zone_bytes)

    def inherit(
        self,
        drive: SimulatedDrive,
        survive: Callable[[Platter], Platter | None],
        forgetful: Random | None,
    ) -> None:
        assert isinstance(drive, ZonedDrive)
        self._records = set(drive._records)
        super().inherit(drive, survive, forgetful)

    def file(self, name: str, node: Platter, end: int) -> SimulatedFile:
        return ZonedFile(self, name, node, end)

    def footprint(self, name: str, size_bytes: int) -> int:
        return 0 if name in self._records else self.zone_bytes

    def change(self, verb: str, name: str) -> Fault | None:
        self.activity.operations[verb] += 1
        return super().change(verb, name)

    def look(self, verb: str, name: str) -> None:
        self.activity.operations[verb] += 1
        super().look(verb, name)


def add_zoned(
    world: World, label: str | None = None, *, zones: int = 64, zone_bytes: int = 32 * MIB
) -> ZonedDrive:
    """A new empty drive in `world`, on a device of its own."""
    number = len(world.drives)
    drive = ZonedDrive(world, label or f"zoned{number}", number + 1, zones, zone_bytes)
    world.drives.append(drive)
    return drive
