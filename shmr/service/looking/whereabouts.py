"""Which drives the bytes of a segment lie on, and how many of them may still be lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shmr.catalog.reading import Reading, open_reading
from shmr.config import Config
from shmr.core.stripe import Geometry, fragment_size
from shmr.errors import IntegrityError
from shmr.format.archived import Archived
from shmr.format.fragment import Code, file_name
from shmr.format.records import Stream
from shmr.format.rows import Address
from shmr.log.store import segment_name
from shmr.service.looking.survey import Survey, Surveyed, survey

LOST = -1
"""Redundancy left to bytes of which too much is missing."""
_DATA = re.compile(r"data-(\d{12,})")


@dataclass(frozen=True, slots=True)
class Part:
    """A fragment of an archived segment, or a copy of a workspace segment.

    `drive` is its path, or its id where no drive with it is there; `missing` says why it cannot be
    read. `generation` is None for a copy. `data`: it holds file bytes as they are.
    """

    index: int
    drive: str
    data: bool
    generation: int | None
    missing: str | None


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A segment. `size_bytes` is what it can hold of files, once; `left` the parts that may go.

    `left` is -1 where too few are there to read all of it.
    """

    segment: int
    pool: str
    scheme: str
    archived: bool
    size_bytes: int
    k: int
    data_bytes: int
    unit_bytes: int
    parts: tuple[Part, ...]

    @property
    def present(self) -> int:
        return sum(part.missing is None for part in self.parts)

    @property
    def left(self) -> int:
        return max(LOST, self.present - self.k)

    def touched(self, address: Address, length: int) -> tuple[int, ...]:
        """The parts from which `length` bytes at `address` are read when nothing is missing."""
        if not self.archived:
            return tuple(part.index for part in self.parts)
        geometry = Geometry(self.k, len(self.parts) - self.k, self.data_bytes, self.unit_bytes)
        try:
            found = {piece.fragment for piece in geometry.pieces(address.skip, length)}
        except ValueError as error:
            raise IntegrityError(f"segment {self.segment}: no such address: {error}") from error
        return tuple(sorted(found))

    def left_of(self, address: Address, length: int) -> int:
        """How many parts may still go without losing these bytes; -1 if they are lost.

        Where too few are left to decode, what lies on drives that are there can still be read.
        """
        if self.left != LOST:
            return self.left
        there = all(self.parts[index].missing is None for index in self.touched(address, length))
        return 0 if there and self.parts else LOST


class Finder:
    """Finds segments in a checkpoint and on the drives that were surveyed.

    The filesystem may change meanwhile. What the checkpoint refers to was there when it was opened:
    so the survey is one from before, and what it lacks is looked for once more, by `look_again`.
    """

    def __init__(
        self, config: Config, reading: Reading, survey: Survey, look_again: Callable[[], Survey]
    ) -> None:
        self._config = config
        self._reading = reading
        self._survey = survey
        self._look_again: Callable[[], Survey] | None = look_again
        self._files = {drive.path: dict(drive.files) for drive in survey.drives}
        self._by_id = survey.by_id()
        self._workspace = [d for d in survey.drives if d.pool == config.workspace.name]
        self._found: dict[int, Whereabouts] = {}

    def find(self, segment: int) -> Whereabouts:
        """Raises IntegrityError for a damaged row."""
        found = self._found.get(segment)
        if found is None:
            archived = self._reading.archived(segment)
            found = self._copies(segment) if archived is None else self.fragments(segment, archived)
            self._found[segment] = found
        return found

    def data_segments(self) -> list[int]:
        """The workspace's data segments, as the drives have them."""
        names = {name for drive in self._workspace for name in self._files[drive.path]}
        return sorted(int(match[1]) for name in names if (match := _DATA.fullmatch(name)))

    def _copies(self, segment: int) -> Whereabouts:
        """A segment that is in no archive lies in the workspace, on the drives that have it."""
        pool, name = self._config.workspace, segment_name(Stream.DATA, segment)
        having = [drive for drive in self._workspace if self._has(drive, name)]
        if not having and self._again():
            having = [drive for drive in self._workspace if self._has(drive, name)]
        parts = [Part(i, drive.path, True, None, None) for i, drive in enumerate(having)]
        size = max((self._files[drive.path][name] for drive in having), default=0)
        return Whereabouts(
            segment, pool.name, str(pool.scheme), False, size, 1, size, 0, tuple(parts)
        )

    def fragments(self, segment: int, archived: Archived) -> Whereabouts:
        """An archived segment, whose row is known."""
        parts = []
        for index, placed in enumerate(archived.fragments):
            drive = self._by_id.get(placed.drive)
            name = file_name(segment, index, placed.generation)
            label = self._label(placed.drive)
            size = fragment_size(archived.data_bytes, archived.extents, archived.unit_bytes)
            missing = self._why(drive, name, size)
            parts.append(Part(index, label, index < archived.k, placed.generation, missing))
        pool = self._survey.pools.get(archived.pool) or f"pool {archived.pool.hex()}"
        return Whereabouts(
            segment,
            pool,
            _scheme(archived),
            True,
            archived.used_bytes,
            archived.k,
            archived.data_bytes,
            archived.unit_bytes,
            tuple(parts),
        )

    def _label(self, drive: bytes) -> str:
        found = self._by_id.get(drive)
        return found.path if found is not None else drive.hex()

    def _why(self, drive: Surveyed | None, name: str, size: int) -> str | None:
        """Why a fragment cannot be read, as far as looking at the directory tells."""
        if drive is None:
            return "its drive is missing"
        if not self._has(drive, name) and not (self._again() and self._has(drive, name)):
            return "not on its drive"
        found = self._files[drive.path][name]
        return None if found == size else f"has {found} bytes and should have {size}"

    def _has(self, drive: Surveyed, name: str) -> bool:
        return name in self._files[drive.path]

    def _again(self) -> bool:
        """Look at the drives once more; False if that was done already."""
        if self._look_again is None:
            return False
        for drive in self._look_again().drives:
            self._files.setdefault(drive.path, {}).update(drive.files)
        self._look_again = None
        return True


def _scheme(archived: Archived) -> str:
    if archived.code != Code.COPIES:
        return f"erasure {archived.k}+{archived.m} ({Code(archived.code).name.lower()})"
    return "single" if not archived.m else f"mirror of {1 + archived.m}"


@contextmanager
def looking(config: Config) -> Iterator[tuple[Reading, Finder, Survey]]:
    """The last checkpoint, the drives, and what finds one in the other. No lock, no change.

    Raises SetupError, IntegrityError.
    """
    with open_reading(config.catalog) as reading:
        filesystem = reading.filesystem()

    def look() -> Survey:
        return survey(config, filesystem)

    before = look()
    with open_reading(config.catalog) as reading:
        yield reading, Finder(config, reading, before, look), before
