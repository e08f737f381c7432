"""VERIFY: what was written is read back from the drives, before anything points there.

Header, table and footer are those that were written; every unit matches its sum; and the data
units, encoded again, give the parity that is there. Who calls this has had the drives forget what
memory holds of the files (`DriveFile.evict`), and each drive is told ahead what will be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from shmr.archive.control import Control, Phase
from shmr.archive.workers import Workers, results
from shmr.archive.write import STEP_BYTES, FragmentFile, Writing
from shmr.codec import Codec
from shmr.core.stripe import Geometry
from shmr.drive.seam import DriveFile
from shmr.errors import IntegrityError
from shmr.format.fragment import BLOCK, decode_header, decode_table, unit_sum
from shmr.log.fragments import FragmentStore
from shmr.units import MIB
from shmr.volume.cleaner import Work

READ_BYTES = 4 * MIB
"""So much of a drive is read in one call."""


def verify(
    fragments: FragmentStore,
    writing: Writing,
    *,
    codec: Codec,
    workers: Workers,
    control: Control,
) -> Work[None]:
    """Read back the segment that was written. Raises IntegrityError, DriveError, Stopped."""
    archived = writing.archived
    geometry = Geometry(archived.k, archived.m, archived.data_bytes, archived.unit_bytes)
    written = [_Written(fragments, writing, fragment) for fragment in writing.files]
    lanes = workers.checkers
    step = max(1, STEP_BYTES // (archived.k * archived.unit_bytes))
    stripes, size = geometry.stripes, writing.size_bytes
    try:
        yield lambda: results(
            lane.submit(one.check_ends) for lane, one in zip(lanes, written, strict=True)
        )
        for first in range(0, stripes, step):
            control.check()
            end = min(stripes, first + step)
            yield partial(_check_units, written, range(first, end), codec, workers)
            # The bytes of files are said to be spread evenly, so that they add up.
            control.advance(Phase.VERIFY, size * end // stripes - size * first // stripes)
    finally:
        for one in written:
            one.close()


class _Written:
    """A fragment as it is read back; used by one thread at a time."""

    def __init__(self, fragments: FragmentStore, writing: Writing, fragment: FragmentFile) -> None:
        self._fragments = fragments
        self._writing = writing
        self.number = writing.number
        self._header = fragment.header
        self._sums = fragment.sums
        self._name = fragment.file.name
        self._drive = fragments.drives[fragment.drive]
        self._file: DriveFile | None = None
        self._where = (
            f"drive {self._drive.label}: segment {writing.number}, "
            f"fragment {fragment.header.fragment}"
        )

    def check_ends(self) -> None:
        """What stands before and behind the units, and the sums."""
        header, writing, index = self._header, self._writing, self._header.fragment
        file = self._file = self._drive.open(self._name)
        file.prefetch(0, 2 * STEP_BYTES // header.k)
        if decode_header(file.read(0, BLOCK)) != header:
            raise IntegrityError(f"{self._where}: not the header that was written")
        table = file.read(header.table_offset, header.table_bytes)
        footer = self._fragments.footer(writing.number, writing.archived, index)
        if footer.header != header or footer.sums != b"".join(self._sums):
            raise IntegrityError(f"{self._where}: not the footer that was written")
        if table != writing.table:
            raise IntegrityError(f"{self._where}: not the table that was written")
        decode_table(footer, table)

    def units(self, run: range) -> list[memoryview]:
        """These units, each with the sum that it was written with. Raises IntegrityError."""
        size, found = self._header.unit_bytes, []
        assert self._file is not None, "its ends were checked"
        # While these are summed, the drive reads those that come next.
        self._file.prefetch(BLOCK + run.stop * size, len(run) * size)
        some = max(1, READ_BYTES // size)
        for first in range(run.start, run.stop, some):
            at, end = first * size, min(run.stop, first + some) * size
            end = min(end, self._header.data_bytes)
            content = memoryview(self._file.read(BLOCK + at, end - at))
            for unit in range(first, min(run.stop, first + some)):
                part = content[unit * size - at : min((unit + 1) * size, end) - at]
                if unit_sum(part) != self._sums[unit]:
                    raise IntegrityError(f"{self._where}, unit {unit}: checksum does not match")
                found.append(part)
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _check_units(written: Sequence[_Written], run: range, codec: Codec, workers: Workers) -> None:
    """In a job: some stripes, read from all of their drives at once."""
    found = results(
        lane.submit(partial(one.units, run))
        for lane, one in zip(workers.checkers, written, strict=True)
    )
    number = written[0].number
    for unit, *stripe in zip(run, *found, strict=True):
        parity = codec.encode(stripe[: codec.k])
        if any(bytes(there) != made for there, made in zip(stripe[codec.k :], parity, strict=True)):
            raise IntegrityError(f"segment {number}, unit {unit}: parity does not fit its data")
