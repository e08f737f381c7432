"""Which archived segments are cleaned together, and what lives in them.

Left to others: how they are ranked (`shmr.core.victim`), and writing what lives in them anew.
"""

from __future__ import annotations

from collections.abc import Collection

from shmr.archive.plan import Hold
from shmr.archive.pool import Pool
from shmr.catalog.catalog import Catalog
from shmr.core.placement import segments_left
from shmr.core.victim import SegmentUse, to_clean
from shmr.format.rows import Table, segment_of, split_key
from shmr.log.fragments import FragmentStore

DEAD_SHARE_PRESSED = 0.02
"""When zones are needed, any segment is cleaned that wins a little."""
ALL_BYTES = 1 << 62
"""More than any pool has to win."""
_ROOM_SHARE = 0.9
"""How much of a segment is sure to be filled: the rest is table, and files that are not cut."""


def victims(
    catalog: Catalog,
    pool: Pool,
    *,
    newest: int,
    room_bytes: int = ALL_BYTES,
    wanted_bytes: int = ALL_BYTES,
    dead_share_min: float | None = None,
) -> list[int]:
    """Segments of a pool to be cleaned now, best first, to win `wanted_bytes`.

    Only those with the share of dead bytes that the pool says, unless another is given. So much as
    `room_bytes` can be written before anything is freed. One in which nothing lives is no work.
    """
    return to_clean(
        (
            SegmentUse(number, archived.used_bytes, catalog.live.get(number, 0))
            for number, archived in catalog.archived_segments()
            if archived.pool == pool.id
        ),
        newest=newest,
        dead_share_min=pool.clean_at if dead_share_min is None else dead_share_min,
        wanted_bytes=wanted_bytes,
        room_bytes=room_bytes,
        fill_bytes=Hold(pool.k, pool.zone_bytes, pool.unit_bytes).capacity(1),
    )


def room_bytes(pool: Pool, fragments: FragmentStore, spare_zones: int) -> int:
    """What cleaning may write before anything is freed, with the zones in reserve, roughly."""
    facts, _ = pool.facts(fragments, spare_zones)
    segments = segments_left([fact.free_zones for fact in facts], pool.width)
    hold = Hold(pool.k, pool.zone_bytes, pool.unit_bytes)
    return int(segments * hold.capacity(1) * _ROOM_SHARE)


def inodes_in(catalog: Catalog, segments: Collection[int]) -> list[int]:
    """Files with bytes in these segments, by number. Looks at every extent."""
    wanted = frozenset(segments)
    found: dict[int, None] = {}
    for key, value in catalog.scan(Table.EXTENT, b""):
        data = segment_of(value)
        if data is not None and data[0] in wanted:
            found[split_key(key)] = None
    return list(found)


def dead_bytes(catalog: Catalog, segments: Collection[int]) -> int:
    """What is dead in these archived segments."""
    total = 0
    for number in segments:
        archived = catalog.archived(number)
        if archived is not None:
            total += archived.used_bytes - catalog.live.get(number, 0)
    return total
