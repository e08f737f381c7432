"""Which flipped bits nobody has to find, and why: they are of no consequence by definition.

Everything else on the drives of a filesystem is found by check and scrub together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from shmr.errors import IntegrityError
from shmr.format import frame
from shmr.format.frame import FrameHeader, Kind
from shmr.format.records import decode_commit
from shmr.format.rows import Table, decode_extent, split_pair
from tests.fsck.structures import CATALOG, Flip
from tests.fsck.subject import Subject, copy_of, open_on

PADDING = "zeros behind a payload, up to a multiple of 8: under no checksum, and read by nobody"
UNUSED = "claimed and not written yet: whoever appends there writes it anew"
DEAD = "no extent names this frame, nor one behind it in its segment"
UNREAD = "no byte of this granule is part of a file any more"
TORN = "no COMMIT says that it was durable: after a crash it may be there or not"
LEFT = "for people who find the drive: shmr reads it only to write it anew where it differs"
DIGEST = "says only that the catalog need not be examined: it is, then"
CACHE = "no row and no way to one: LMDB takes no notice, or finds the checkpoint before this one"

_LMDB = """
*padding *between *page?number *free?page *page?never?used *behind?the?value
*of?free?list *meta:?address *meta:?map?size *meta:?page?header *meta:?rest *meta:?transaction
*meta:?free?list* *older?meta:*
""".split()
"""Of the pages of the catalog, where `CACHE` holds; and some bits of `_SOME`."""
_SOME = ("lmdb key of a branch", "lmdb newer meta: tables' record", "lmdb leaf node: header",
         "lmdb branch node: header")  # fmt: skip
"""A key of a branch may be any between its neighbours. Of a record in a meta page LMDB reads some
fields, and some flags of a node mean nothing."""


@dataclass(slots=True)
class Ground:
    """What of a subject's workspace anybody depends on.

    `named`: of each data segment the offset behind the last frame that an extent names. `living`:
    the offsets of granules of which a file has a byte. `durable`: of a segment, by its file's name,
    the offset behind the last frame that a COMMIT knows durable; if it has frames behind that.
    """

    named: dict[int, int] = field(default_factory=dict)
    living: dict[int, set[int]] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)


def ground_of(subject: Subject, place: Path) -> Ground:
    found = Ground()
    with copy_of(subject, place) as (world, catalog):
        volume = open_on(world, catalog, subject.copies, subject.clock, read_only=True)
        for key, value in volume.catalog.scan(Table.EXTENT, b""):
            extent = decode_extent(split_pair(key)[1], value)
            at = extent.address
            if at is not None and volume.catalog.archived(at.segment) is None:
                end = at.frame + frame.frame_size(at.payload)
                found.named[at.segment] = max(end, found.named.get(at.segment, 0))
                first = at.skip - at.skip % frame.GRANULE
                payload = at.frame + frame.header_size(at.payload)
                found.living.setdefault(at.segment, set()).update(
                    range(payload + first, payload + at.skip + extent.length, frame.GRANULE)
                )
        volume.abandon()
    _find_durable(subject, found)
    return found


def _find_durable(subject: Subject, found: Ground) -> None:
    drive = subject.world.drives[0]
    journal: list[tuple[str, int, FrameHeader]] = []
    ends: dict[int, int] = {}
    sequence = 0
    for name in sorted(drive.names()):
        if not name.startswith("journal"):
            continue
        content = drive.open(name).read(0, drive.size(name))
        at = 0
        while at < len(content):
            try:
                header = frame.decode(content[at:])
            except IntegrityError:
                break
            journal.append((name, at, header))
            if header.kind == Kind.COMMIT:
                start = at + frame.header_size(header.length)
                commit = decode_commit(content[start : start + header.length])
                sequence = max(sequence, commit.durable_seq)
                for end in commit.ends:
                    ends[end.segment] = end.durable.end if end.durable else 0
            at += frame.frame_size(header.length)
    for name, at, header in journal:
        if header.sequence >= sequence:
            found.durable[name] = min(at, found.durable.get(name, at))
    found.durable |= {f"data-{segment:012}": end for segment, end in ends.items()}


def reason(ground: Ground, flip: Flip) -> str | None:
    """Why nobody has to find it; None if somebody has to."""
    piece = flip.piece
    kind, offset = piece.kind, piece.offset + flip.at
    if piece.drive == CATALOG:
        if kind == "digest":
            return DIGEST
        mute = any(fnmatchcase(kind, pattern) for pattern in _LMDB)
        return CACHE if mute or kind in _SOME else None
    if kind.startswith("left for"):
        return LEFT
    if kind.endswith(" padding") and kind.split()[-2] in Kind.__members__:
        return PADDING
    if kind.endswith("behind the last frame"):
        return UNUSED
    if offset >= ground.durable.get(piece.name, 1 << 62):
        return TORN
    if piece.name.startswith("data-"):
        segment = int(piece.name.removeprefix("data-"))
        if offset >= ground.named.get(segment, 0):
            return DEAD
        granule = offset - flip.at % frame.GRANULE
        if kind == "data DATA payload" and granule not in ground.living.get(segment, ()):
            return UNREAD
    return None
