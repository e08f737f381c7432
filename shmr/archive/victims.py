"""Which archived segments are cleaned together, and what lives in them.

Left to others: how they are ranked (`shmr.core.victim`), and writing what lives in them anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from shmr.archive.plan import Hold
from shmr.archive.pool import Pool
from shmr.catalog.catalog import Catalog
from shmr.core.placement import DriveFacts, segments_left
from shmr.core.victim import SegmentUse, rest_wins, to_clean, winning
from shmr.format.archived import Archived
from shmr.format.rows import Table, segment_of, split_key
from shmr.log.fragments import FragmentStore

DEAD_SHARE_PRESSED = 0.02
"""When zones are needed, any segment is cleaned that wins a little."""
ALL_BYTES = 1 << 62
"""More than any pool has to win."""
SHORT = 8
"""A segment that lacks this part of what its zones hold, or more, is short."""
ROOM_SHARE = 0.95
"""How much of a segment is sure to be filled: the rest is table, and files that are not cut."""


def victims(
    catalog: Catalog,
    pool: Pool,
    *,
    newest: int,
    room_bytes: int = ALL_BYTES,
    wanted_bytes: int = ALL_BYTES,
    dead_share_min: float | None = None,
    flush: bool = False,
    before: int | None = None,
) -> list[int]:
    """Segments of a pool to be cleaned now, best first, to win `wanted_bytes`.

    Only those with the share of dead bytes that the pool says, unless another is given. So much as
    `room_bytes` can be written before anything is freed. One in which nothing lives is no work.
    Together they win a zone; with `flush` some may only win bytes, which is of use where a fragment
    takes no more of its drive than it has. Only segments with a number below `before`, if it is
    given: what a run has just written is not written again by it.
    """
    return select(
        segment_uses(catalog, pool, before=before),
        hold_of(pool),
        newest=newest,
        room_bytes=room_bytes,
        wanted_bytes=wanted_bytes,
        dead_share_min=pool.clean_at if dead_share_min is None else dead_share_min,
        flush=flush,
    )


def select(
    uses: Collection[tuple[SegmentUse, bool]],
    hold: Hold,
    *,
    newest: int,
    room_bytes: int,
    wanted_bytes: int,
    dead_share_min: float,
    flush: bool = False,
) -> list[int]:
    """`victims` of what is known of each segment (`segment_uses`). Touches nothing."""
    by_number = {use.number: use for use, _ in uses}
    fill_bytes = hold.capacity(1)
    chosen = to_clean(
        by_number.values(),
        newest=newest,
        dead_share_min=dead_share_min,
        wanted_bytes=wanted_bytes,
        room_bytes=room_bytes,
        fill_bytes=fill_bytes,
    )
    found = winning(
        [by_number[number] for number in chosen],
        fill_bytes=fill_bytes,
        room_bytes=room_bytes,
        flush=flush,
    )
    if found or not flush:
        return found
    return to_clean(
        (use for use, shrinks in uses if shrinks),
        newest=newest,
        dead_share_min=dead_share_min,
        wanted_bytes=wanted_bytes,
        room_bytes=room_bytes,
    )


class Segments(Protocol):
    """What is known of archived segments, and how much lives in each: a catalog, or as much."""

    @property
    def live(self) -> Mapping[int, int]: ...

    def archived_segments(self) -> Iterable[tuple[int, Archived]]: ...


def segment_uses(
    catalog: Segments,
    pool: Pool,
    *,
    before: int | None = None,
    gone: Mapping[int, int] = MappingProxyType({}),
) -> list[tuple[SegmentUse, bool]]:
    """The segments of a pool, and whether each would be shorter if it was written anew.

    Only those numbered below `before`. `gone` are bytes of them, by number, that live no more,
    whatever the catalog says. One that was short from the beginning takes a whole zone of each
    drive too: what it lacks counts as dead.
    """
    found: list[tuple[SegmentUse, bool]] = []
    for number, archived in catalog.archived_segments():
        if archived.pool != pool.id or (before is not None and number >= before):
            continue
        hold = Hold(archived.k, pool.zone_bytes, archived.unit_bytes)
        live = max(0, catalog.live.get(number, 0) - gone.get(number, 0))
        size = hold.capacity(archived.extents)
        if archived.used_bytes * SHORT >= size * (SHORT - 1):
            size = archived.used_bytes
        use = SegmentUse(number, size, live)
        found.append((use, hold.short_bytes_max(live) < archived.data_bytes))
    return found


def hold_of(pool: Pool) -> Hold:
    """The space of a new segment of this pool."""
    return Hold(pool.k, pool.zone_bytes, pool.unit_bytes)


def room_bytes(pool: Pool, fragments: FragmentStore, spare_zones: int) -> int:
    """What cleaning may write before anything is freed, with the zones in reserve, roughly."""
    facts, _ = pool.facts(fragments, spare_zones)
    return room_for(pool, facts)


def room_for(pool: Pool, facts: Iterable[DriveFacts]) -> int:
    """`room_bytes` of drives with so much free."""
    segments = segments_left([fact.free_zones for fact in facts], pool.width)
    return int(segments * hold_of(pool).capacity(1) * ROOM_SHARE)


def inodes_in(catalog: Catalog, segments: Sequence[int]) -> list[int]:
    """Files with bytes in these segments: those in the first of them first, then by number.

    So what waits because it does not fill a segment stays in the last. Looks at every extent.
    """
    ranks = {number: rank for rank, number in enumerate(segments)}
    found: dict[int, int] = {}
    for key, value in catalog.scan(Table.EXTENT, b"") if ranks else ():
        data = segment_of(value)
        rank = None if data is None else ranks.get(data[0])
        if rank is not None:
            number = split_key(key)
            found[number] = min(rank, found.get(number, rank))
    return sorted(found, key=lambda number: (found[number], number))


def takes_rest(lives: Sequence[int], hold: Hold) -> bool:
    """Is what does not fill a segment to be written too, from victims with so many live bytes?"""
    return rest_wins(lives, hold.capacity(1))


def segments_of(catalog: Catalog, pool: Pool) -> list[int]:
    """All archived segments of a pool, by number."""
    return [number for number, one in catalog.archived_segments() if one.pool == pool.id]


def dead_bytes(catalog: Catalog, segments: Iterable[int]) -> int:
    """What is dead in these archived segments."""
    total = 0
    for number in segments:
        archived = catalog.archived(number)
        if archived is not None:
            total += archived.used_bytes - catalog.live.get(number, 0)
    return total
