"""Damage to copies of the small filesystem in which everything occurs (`subject`).

Each is done behind the back of the volume that is open on the copy, or of one that will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shmr.format.archived import Archived
from shmr.format.fragment import (
    BLOCK,
    decode_footer,
    encode_footer,
    file_name,
)
from shmr.format.frame import Kind as FrameKind
from shmr.format.frame import header_size
from shmr.format.records import Stream
from shmr.format.superblock import decode as decode_superblock
from shmr.fsck.checking.places import places
from shmr.fsck.findings import Finding, Kind
from shmr.fsck.opening import View, view_of
from shmr.log import walk
from shmr.log.store import Segment, segment_name
from shmr.testing.drive import SimulatedDrive, World
from shmr.volume.membership import write_superblock
from shmr.volume.volume import Volume
from tests.fsck.subject import Subject, copy_of, drive_of, membership_of, open_on


class Case(NamedTuple):
    """An open volume, and the drives below it, to be damaged."""

    volume: Volume
    world: World
    view: Callable[[], View]

    @property
    def workspace(self) -> list[SimulatedDrive]:
        return [drive for drive in self.world.drives if drive.label.startswith("work")]

    def found(self) -> list[Finding]:
        return list(places(self.view()))

    def kinds(self) -> set[Kind]:
        return {finding.kind for finding in self.found()}

    def segments(self) -> list[Segment]:
        """Data segments in which something lives, those with most frames first."""
        live = self.volume.catalog.live
        store = self.volume.context.reader.store
        some = [s for s in store.of_stream(Stream.DATA) if live.get(s.number, 0) > 0]
        return sorted(some, key=lambda s: -len(self.frames(s)))

    def frames(self, segment: Segment) -> list[walk.Found]:
        """Its frames behind the first."""
        store = self.volume.context.reader.store
        files = (self.workspace[segment.drives[0]].open(segment.name),)
        opened = walk.opening_of(files, store.filesystem, segment.number)
        assert opened is not None
        first = opened[0]
        return list(walk.walk(files, first.end, first.header.checksum, first.header))

    def named(self, segment: Segment) -> set[int]:
        """Offsets of the frames that extents name."""
        return {
            extent.address.frame
            for _, extent in self.view().reading.all_extents()
            if extent.address is not None and extent.address.segment == segment.number
        }

    def row(self, k: int) -> tuple[int, Archived]:
        """An archived segment of k+m in which something lives."""
        return next(
            (number, archived)
            for number, archived in self.volume.catalog.archived_segments()
            if archived.k == k and self.volume.catalog.live.get(number, 0) > 0
        )

    def fragment(self, number: int, archived: Archived, index: int) -> tuple[SimulatedDrive, str]:
        placed = archived.fragments[index]
        label = self.volume.context.fragments.label(placed.drive)
        return drive_of(self.world, label), file_name(number, index, placed.generation)


@contextmanager
def opened(subject: Subject, place: Path) -> Iterator[Case]:
    with copy_of(subject, place) as (world, catalog):
        found = membership_of(world, subject.copies, subject.clock)
        volume = open_on(world, catalog, subject.copies, subject.clock)
        try:
            yield Case(
                volume,
                world,
                lambda: view_of(volume, "subject", tuple(found.archives.values())),
            )
        finally:
            volume.abandon()


def content_of(drive: SimulatedDrive, name: str) -> bytes:
    file = drive.open(name)
    content = file.read(0, drive.size(name))
    file.close()
    return content


def rewrite(drive: SimulatedDrive, name: str, content: bytes) -> None:
    """Another content under a name that may be there."""
    if name in drive.names():
        drive.discard(name)
    file = drive.claim(name, len(content))
    file.append([content])
    file.seal()
    file.close()


def swap(one: tuple[SimulatedDrive, str], other: tuple[SimulatedDrive, str]) -> None:
    first, second = content_of(*one), content_of(*other)
    rewrite(*one, second)
    rewrite(*other, first)


def inode_of(volume: Volume, name: bytes) -> int:
    return volume.names.lookup(1, name).number


class Plan(NamedTuple):
    """A damage, and the kinds that are found with one copy and with two."""

    do: Callable[[Case], None]
    single: set[Kind]
    mirror: set[Kind]


def first_of(case: Case) -> Segment:
    return case.segments()[0]


def on_first(case: Case, segment: Segment) -> tuple[SimulatedDrive, str]:
    return case.workspace[segment.drives[0]], segment.name


def lose_segment(case: Case) -> None:
    drive, name = on_first(case, first_of(case))
    drive.discard(name)


def cut_segment(case: Case) -> None:
    segment = first_of(case)
    drive, name = on_first(case, segment)
    drive.shorten(name, max(case.named(segment)) - 8)


def flip_opening(case: Case) -> None:
    drive, name = on_first(case, first_of(case))
    drive.flip_bit(name, 20, 3)


def flip_opening_payload(case: Case) -> None:
    drive, name = on_first(case, first_of(case))
    drive.flip_bit(name, header_size(40) + 9, 3)


def flip_living_header(case: Case) -> None:
    segment = first_of(case)
    drive, name = on_first(case, segment)
    drive.flip_bit(name, min(case.named(segment)) + 33, 0)


def flip_dead_header(case: Case) -> None:
    """Of a frame that nothing names, before one that something does."""
    for segment in case.segments():
        living = case.named(segment)
        dead = [f.at for f in case.frames(segment) if f.at not in living and f.at < max(living)]
        if dead:
            drive, name = on_first(case, segment)
            drive.flip_bit(name, dead[0] + 5, 7)
            return
    raise AssertionError("no such frame")


def swap_segments(case: Case) -> None:
    one, other = case.segments()[:2]
    swap(on_first(case, one), on_first(case, other))


def rename_segment(case: Case) -> None:
    segment = first_of(case)
    drive, name = on_first(case, segment)
    rewrite(drive, segment_name(Stream.DATA, segment.number + 1000), content_of(drive, name))
    drive.discard(name)


def journal_of(case: Case) -> Segment:
    """A segment of the journal that counts, with frames in it."""
    store = case.volume.context.reader.store
    floor = case.volume.catalog.state(b"journal_floor")
    return next(
        s
        for s in store.of_stream(Stream.JOURNAL)
        if s.number >= floor and s.number != case.volume.log.place.segment
    )


def lose_journal(case: Case) -> None:
    drive, name = on_first(case, journal_of(case))
    drive.discard(name)


def cut_journal(case: Case) -> None:
    drive, name = on_first(case, journal_of(case))
    drive.shorten(name, drive.size(name) - 16)


def flip_journal(case: Case) -> None:
    segment = journal_of(case)
    drive, name = on_first(case, segment)
    drive.flip_bit(name, case.frames(segment)[-1].at + 17, 1)


def flip_journal_opening(case: Case) -> None:
    drive, name = on_first(case, journal_of(case))
    drive.flip_bit(name, 30, 1)


def snapshot_of(case: Case) -> Segment:
    return case.volume.context.reader.store.of_stream(Stream.SNAPSHOT)[0]


def lose_snapshot(case: Case) -> None:
    drive, name = on_first(case, snapshot_of(case))
    drive.discard(name)


def cut_snapshot(case: Case) -> None:
    drive, name = on_first(case, snapshot_of(case))
    drive.shorten(name, drive.size(name) - 24)


def flip_snapshot(case: Case) -> None:
    segment = snapshot_of(case)
    drive, name = on_first(case, segment)
    drive.flip_bit(name, case.frames(segment)[0].at + 50, 2)


def flip_snapshot_end(case: Case) -> None:
    segment = snapshot_of(case)
    drive, name = on_first(case, segment)
    last = case.frames(segment)[-1]
    assert last.header.kind == FrameKind.COMMIT
    drive.flip_bit(name, last.at + header_size(last.header.length) + 1, 2)


def old_superblock(case: Case) -> None:
    """Of two drives one says less than the other."""
    drive = case.workspace[0]
    block = decode_superblock(drive.get("superblock-000001"))
    write_superblock(drive, block._replace(generation=2))


def bad_superblock(case: Case) -> None:
    """A newer one that does not verify, beside the one that counts."""
    drive = case.workspace[0]
    block = bytearray(drive.get("superblock-000001"))
    block[40] ^= 1
    rewrite(drive, "superblock-000002", bytes(block))


K = Kind
WORKSPACE = {
    "segment gone": Plan(lose_segment, {K.SEGMENT_MISSING, K.FILE_LOST}, {K.COPY_MISSING}),
    "segment cut": Plan(cut_segment, {K.SEGMENT_SHORT, K.FILE_LOST}, {K.SEGMENT_SHORT}),
    "its first header": Plan(flip_opening, {K.SEGMENT_FOREIGN}, {K.SEGMENT_FOREIGN}),
    "its first payload": Plan(flip_opening_payload, {K.SEGMENT_FOREIGN}, {K.SEGMENT_FOREIGN}),
    "a living header": Plan(flip_living_header, {K.FRAME_DAMAGED, K.FILE_LOST}, {K.FRAME_DAMAGED}),
    "a dead header": Plan(flip_dead_header, {K.CHAIN_BROKEN}, {K.CHAIN_BROKEN}),
    "two swapped": Plan(swap_segments, {K.SEGMENT_FOREIGN, K.FILE_LOST}, {K.SEGMENT_FOREIGN}),
    "another name": Plan(rename_segment, {K.SEGMENT_MISSING, K.FILE_LOST}, {K.COPY_MISSING}),
    "journal gone": Plan(lose_journal, {K.SEGMENT_MISSING}, {K.COPY_MISSING}),
    "journal cut": Plan(cut_journal, {K.SEGMENT_SHORT}, {K.SEGMENT_SHORT}),
    "journal header": Plan(flip_journal, {K.JOURNAL_DAMAGED}, {K.JOURNAL_DAMAGED}),
    "journal opening": Plan(flip_journal_opening, {K.SEGMENT_FOREIGN}, {K.SEGMENT_FOREIGN}),
    "snapshot gone": Plan(lose_snapshot, {K.SEGMENT_MISSING}, {K.COPY_MISSING}),
    "snapshot cut": Plan(cut_snapshot, {K.SNAPSHOT_DAMAGED}, {K.SEGMENT_SHORT}),
    "snapshot header": Plan(flip_snapshot, {K.SNAPSHOT_DAMAGED}, {K.SNAPSHOT_DAMAGED}),
    "snapshot end": Plan(flip_snapshot_end, {K.SNAPSHOT_DAMAGED}, {K.SNAPSHOT_DAMAGED}),
    "superblock old": Plan(old_superblock, set(), {K.SUPERBLOCK_OLD}),
    "superblock bad": Plan(bad_superblock, {K.SUPERBLOCK_DAMAGED}, {K.SUPERBLOCK_DAMAGED}),
}


def damage_fragment(case: Case, how: str, index: int = 0, k: int = 2) -> None:
    number, archived = case.row(k)
    drive, name = case.fragment(number, archived, index)
    header = archived.header(case.view().filesystem, number, index)
    content = bytearray(content_of(drive, name))
    if how == "gone":
        drive.discard(name)
    elif how == "cut":
        drive.shorten(name, len(content) - BLOCK)
    elif how == "longer":
        rewrite(drive, name, bytes(content) + bytes(BLOCK))
    elif how in ("header", "table", "footer", "sums"):
        at = {
            "header": 2,
            "table": header.table_offset + 9,
            "footer": header.footer_offset + 100,
            "sums": header.footer_offset + BLOCK + 40,
        }[how]
        drive.flip_bit(name, at, 5)
    elif how in ("generation", "filesystem", "another header"):
        footer = decode_footer(content[header.footer_offset :])
        table = bytes(content[header.table_offset : header.footer_offset])
        sums = [footer.sums[at : at + 16] for at in range(0, len(footer.sums), 16)]
        other = {
            "generation": footer.header._replace(generation=footer.header.generation + 1),
            "filesystem": footer.header._replace(filesystem=b"another one, 16 "),
            "another header": footer.header._replace(created_ns=footer.header.created_ns + 1),
        }[how]
        content[:BLOCK] = other.encode()
        if how != "another header":
            content[header.footer_offset :] = encode_footer(other, table, sums)
        rewrite(drive, name, bytes(content))
    else:
        raise AssertionError(how)


FRAGMENT = {
    "gone": K.FRAGMENT_MISSING,
    "cut": K.FRAGMENT_LENGTH,
    "longer": K.FRAGMENT_LENGTH,
    "header": K.FRAGMENT_HEADER,
    "another header": K.FRAGMENT_HEADER,
    "table": K.FRAGMENT_TABLE,
    "footer": K.FRAGMENT_FOOTER,
    "sums": K.FRAGMENT_FOOTER,
    "generation": K.FRAGMENT_FOREIGN,
    "filesystem": K.FRAGMENT_FOREIGN,
}


def kept_in(case: Case, pool: str) -> list[tuple[SimulatedDrive, str]]:
    """Copies of snapshots on the drives of a pool."""
    return [
        (drive, name)
        for drive in case.world.drives
        if drive.label.startswith(pool)
        for name in sorted(drive.names())
        if name.startswith("snapshot-")
    ]


def archive_drive(case: Case) -> SimulatedDrive:
    return next(drive for drive in case.world.drives if drive.label.startswith("deep"))
