"""VERIFY: what was written is read back from the drives, before anything points there.

Header, table and footer are those that were written; every unit matches its sum; and the data
units, encoded again, give the parity that is there. Who calls this has had the drives forget what
memory holds of the files (`DriveFile.evict`).
"""

from __future__ import annotations

from functools import partial

from shmr.archive.control import Control, Phase
from shmr.archive.workers import Workers, results
from shmr.archive.write import STEP_BYTES, FragmentFile, Writing
from shmr.codec import Codec
from shmr.core.stripe import Geometry
from shmr.errors import IntegrityError
from shmr.format.fragment import BLOCK, decode_header, decode_table
from shmr.log.fragments import FragmentStore
from shmr.volume.cleaner import Work


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
    yield lambda: results(
        lane.submit(partial(_check_ends, fragments, writing, fragment))
        for lane, fragment in zip(workers.lanes, writing.files, strict=True)
    )
    step = max(1, STEP_BYTES // (archived.k * archived.unit_bytes))
    stripes, size = geometry.stripes, writing.size_bytes
    for first in range(0, stripes, step):
        control.check()
        end = min(stripes, first + step)
        yield partial(_check_units, fragments, writing, range(first, end), codec, workers)
        # The bytes of files are said to be spread evenly, so that they add up.
        control.advance(Phase.VERIFY, size * end // stripes - size * first // stripes)


def _check_ends(fragments: FragmentStore, writing: Writing, fragment: FragmentFile) -> None:
    """What stands before and behind the units, and the sums."""
    index, drive = fragment.header.fragment, fragments.label(fragment.drive)
    where = f"drive {drive}: segment {writing.number}, fragment {index}"
    file = fragments.drives[fragment.drive].open(fragment.file.name)
    try:
        if decode_header(file.read(0, BLOCK)) != fragment.header:
            raise IntegrityError(f"{where}: not the header that was written")
        table = file.read(fragment.header.table_offset, fragment.header.table_bytes)
    finally:
        file.close()
    footer = fragments.footer(writing.number, writing.archived, index)
    if footer.header != fragment.header or footer.sums != b"".join(fragment.sums):
        raise IntegrityError(f"{where}: not the footer that was written")
    if table != writing.table:
        raise IntegrityError(f"{where}: not the table that was written")
    decode_table(footer, table)


def _check_units(
    fragments: FragmentStore, writing: Writing, units: range, codec: Codec, workers: Workers
) -> None:
    """In a job: some stripes, read from all of their drives at once."""
    archived, number = writing.archived, writing.number
    reads = [
        lane.submit(partial(fragments.read, number, archived, index, units))
        for index, lane in enumerate(workers.lanes)
    ]
    found = results(reads)
    for unit in units:
        stripe = [outcomes[unit] for outcomes in found]
        for outcome in stripe:
            if not isinstance(outcome, bytes):
                raise outcome
        if codec.encode(stripe[: codec.k]) != stripe[codec.k :]:
            raise IntegrityError(f"segment {number}, unit {unit}: parity does not fit its data")
