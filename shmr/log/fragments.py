"""Fragments on the archive drives: which drives are there, and what is read, claimed, discarded.

A fragment is what its footer says, verified and compared with what the catalog knows of the
segment (`Archived.check`); its name means nothing. A unit is returned only if it matches its sum
in that footer.

Blocking, and for any thread; knows nothing of volumes, and nothing of a fragment's siblings: what
to do about one that cannot be read is `shmr.log.gather`'s business. Files are kept open, within
limits, and none is closed while a thread reads it.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from shmr.drive.seam import Drive, DriveFile
from shmr.errors import DriveError, IntegrityError
from shmr.format.archived import Archived
from shmr.format.fragment import (
    BLOCK,
    Footer,
    FragmentHeader,
    decode_footer,
    decode_table,
    file_name,
)
from shmr.units import MIB

logger = logging.getLogger(__name__)

Outcome = bytes | IntegrityError | DriveError
"""A unit, or why there is none."""

OPEN_MAX = 256
FOOTERS_BYTES = 16 * MIB
"""Footers kept: those of a thousand fragments of 256 MiB."""
_RUN_BYTES = 4 * MIB
"""Neighbouring units are read in one call, up to this."""
_NAME = re.compile(r"fragment-(\d{12,})-(\d{2})-(\d{6,})")


class FragmentName(NamedTuple):
    """What the name of a fragment's file says. Which fragment it really is, its footer says."""

    segment: int
    fragment: int
    generation: int

    @property
    def file(self) -> str:
        return file_name(*self)


def parse_name(file: str) -> FragmentName | None:
    """The fragment that a file of this name would be; None for any other file."""
    match = _NAME.fullmatch(file)
    if match is None:
        return None
    name = FragmentName(*map(int, match.groups()))
    return name if name.file == file else None


_Key = tuple[bytes, FragmentName]


class _Opened:
    """A file kept open, and how many threads use it now."""

    __slots__ = ("doomed", "file", "users")

    def __init__(self, file: DriveFile) -> None:
        self.file = file
        self.users = 0
        self.doomed = False


class FragmentStore:
    """All archive drives of a filesystem, by their ids, and the fragments on them.

    `drives` are those that are there, `missing` the ids of members that are not.
    """

    def __init__(
        self, filesystem: bytes, drives: Mapping[bytes, Drive], missing: Iterable[bytes] = ()
    ) -> None:
        self.filesystem = filesystem
        self.drives = dict(drives)
        self.missing = frozenset(missing) - self.drives.keys()
        self._lock = threading.Lock()
        self._open: OrderedDict[_Key, _Opened] = OrderedDict()
        self._footers: OrderedDict[_Key, Footer] = OrderedDict()
        self._footers_bytes = 0
        self.written: set[bytes] = set()
        """Drives on which a fragment was claimed, until somebody takes note of it."""

    def label(self, drive: bytes) -> str:
        """How people call the drive: its path, or its id if it is not there."""
        found = self.drives.get(drive)
        return found.label if found is not None else drive.hex()

    def _drive(self, drive: bytes, operation: str) -> Drive:
        found = self.drives.get(drive)
        if found is None:
            raise DriveError(drive.hex(), operation, OSError(errno.ENODEV, "the drive is missing"))
        return found

    # -- writing ----------------------------------------------------------------------------

    def claim(
        self, drive: bytes, segment: int, index: int, generation: int, length: int
    ) -> DriveFile:
        """A new file of `length` bytes for a fragment: to be appended to, synced, sealed, closed.

        Raises DriveError: ENOSPC (no zone is free), EEXIST (a stray is in the way; discard it).
        """
        name = FragmentName(segment, index, generation)
        self.written.add(drive)
        return self._drive(drive, "claim").claim(name.file, length)

    def discard(self, drive: bytes, segment: int, index: int, generation: int) -> bool:
        """Remove a fragment; False if its drive is missing, where it becomes a stray.

        One that is not there was removed before. Raises DriveError.
        """
        if drive not in self.drives:
            return False
        name = FragmentName(segment, index, generation)
        self.forget(drive, name)
        try:
            self.drives[drive].discard(name.file)
        except DriveError as error:
            if error.errno != errno.ENOENT:
                raise
        return True

    def scan(self) -> dict[bytes, list[FragmentName]]:
        """The fragments on each drive by their names, without opening any, in no order.

        A drive that cannot be listed is left out, and logged.
        """
        found = {}
        for drive_id, drive in self.drives.items():
            try:
                names = map(parse_name, drive.names())
                found[drive_id] = [name for name in names if name is not None]
            except DriveError as error:
                logger.error("%s", error)
        return found

    # -- reading ----------------------------------------------------------------------------

    def footer(self, segment: int, archived: Archived, index: int) -> Footer:
        """The footer of the fragment that the catalog means. Raises DriveError, IntegrityError."""
        key = _key(segment, archived, index)
        with self._lock:
            known = self._footers.get(key)
            if known is not None:
                self._footers.move_to_end(key)
                return known
        header = archived.header(self.filesystem, segment, index)
        with self._using(key) as file:
            content = file.read(header.footer_offset, header.footer_bytes)
        footer = decode_footer(content)
        archived.check(footer.header, self.filesystem, segment, index)
        self._remember(key, footer)
        return footer

    def read(
        self, segment: int, archived: Archived, index: int, units: Collection[int]
    ) -> dict[int, Outcome]:
        """Some units of one fragment, each verified, or why it is not to be had.

        Raises DriveError, IntegrityError where nothing of the fragment can be believed.
        """
        footer = self.footer(segment, archived, index)
        found: dict[int, Outcome] = {}
        with self._using(_key(segment, archived, index)) as file:
            for run in _runs(units, max(1, _RUN_BYTES // archived.unit_bytes)):
                for unit, outcome in _read_run(file, footer.header, run):
                    found[unit] = outcome
                    if isinstance(outcome, bytes):
                        try:
                            footer.verify(unit, outcome)
                        except IntegrityError as error:
                            found[unit] = error
        return found

    def prefetch(
        self, segment: int, archived: Archived, index: int, offset: int, length: int
    ) -> None:
        """Have the drive read these bytes of a fragment's units before they are wanted.

        Raises DriveError.
        """
        length = min(length, archived.data_bytes - offset)
        if length > 0:
            with self._using(_key(segment, archived, index)) as file:
                file.prefetch(BLOCK + offset, length)

    def table(self, segment: int, archived: Archived, index: int) -> bytes:
        """The table of extents as it stands in a fragment, verified against its footer.

        Raises DriveError, IntegrityError.
        """
        footer = self.footer(segment, archived, index)
        header = footer.header
        with self._using(_key(segment, archived, index)) as file:
            table = file.read(header.table_offset, header.table_bytes)
        decode_table(footer, table)
        return table

    def _remember(self, key: _Key, footer: Footer) -> None:
        with self._lock:
            if key in self._footers:
                return
            self._footers[key] = footer
            self._footers_bytes += footer.header.footer_bytes
            while self._footers_bytes > FOOTERS_BYTES and len(self._footers) > 1:
                _, old = self._footers.popitem(last=False)
                self._footers_bytes -= old.header.footer_bytes

    # -- open files -------------------------------------------------------------------------

    @contextmanager
    def _using(self, key: _Key) -> Iterator[DriveFile]:
        """The open file of a fragment. What it raises on a DriveError is opened anew next time."""
        with self._lock:
            opened = self._open.get(key)
            if opened is not None:
                opened.users += 1
                self._open.move_to_end(key)
        if opened is None:
            drive, name = key
            opened = self._opened(key, self._drive(drive, "open").open(name.file))
        try:
            yield opened.file
        except DriveError:
            self.forget(*key)
            raise
        finally:
            with self._lock:
                opened.users -= 1
                last = opened.doomed and not opened.users
            if last:
                opened.file.close()

    def _opened(self, key: _Key, file: DriveFile) -> _Opened:
        """Keep `file` open, or take the one that another thread opened meanwhile."""
        surplus = [file]
        with self._lock:
            opened = self._open.get(key)
            if opened is None:
                opened = self._open[key] = _Opened(file)
                surplus = [self._open.pop(old).file for old in self._idle()]
            opened.users += 1
        for other in surplus:
            other.close()
        return opened

    def _idle(self) -> list[_Key]:
        """Files beyond the limit that nobody uses, those not used for longest."""
        excess = len(self._open) - OPEN_MAX
        if excess <= 0:
            return []
        # The last one is the one just opened.
        idle = [key for key in list(self._open)[:-1] if not self._open[key].users]
        return idle[:excess]

    def forget(self, drive: bytes, name: FragmentName) -> None:
        """Close the file and drop its footer: it goes, or did not behave."""
        key = drive, name
        with self._lock:
            footer = self._footers.pop(key, None)
            if footer is not None:
                self._footers_bytes -= footer.header.footer_bytes
            opened = self._open.pop(key, None)
            if opened is not None:
                opened.doomed = True
                if opened.users:
                    opened = None
        if opened is not None:
            opened.file.close()

    def in_use(self) -> set[bytes]:
        """The drives of which files are open."""
        with self._lock:
            return {drive for drive, _ in self._open}

    def close(self, drive: bytes) -> None:
        """Close all files of a drive; those that a thread still reads, when it ends."""
        with self._lock:
            keys = [key for key in self._open if key[0] == drive]
        for key in keys:
            self.forget(*key)


def _key(segment: int, archived: Archived, index: int) -> _Key:
    placed = archived.fragments[index]
    return placed.drive, FragmentName(segment, index, placed.generation)


def _runs(units: Collection[int], longest: int) -> Iterator[range]:
    """Neighbouring units together, rising."""
    first = last = -1
    for unit in sorted(set(units)):
        if first >= 0 and unit == last + 1 and unit - first < longest:
            last = unit
            continue
        if first >= 0:
            yield range(first, last + 1)
        first = last = unit
    if first >= 0:
        yield range(first, last + 1)


def _read_run(
    file: DriveFile, header: FragmentHeader, run: range
) -> Iterator[tuple[int, bytes | DriveError]]:
    """Some units that follow each other, not verified, in one call where that works."""
    size = header.unit_bytes
    end = min(len(run) * size, header.data_bytes - run.start * size)
    try:
        content = file.read(BLOCK + run.start * size, end)
    except DriveError as error:
        if len(run) == 1:
            yield run.start, error
            return
        # One bad sector is no reason to lose the units around it.
        for unit in run:
            yield from _read_run(file, header, range(unit, unit + 1))
        return
    if len(run) == 1:
        yield run.start, content
        return
    for unit in run:
        at = (unit - run.start) * size
        yield unit, content[at : at + size]
