"""Which archived segments are worth cleaning, and what lives in them.

A victim has at least the share of dead bytes that its pool says; of these the best first, by what
is won and age against what has to be moved (`shmr.core.victim`).
"""

from __future__ import annotations

from collections.abc import Collection

from shmr.archive.pool import Pool
from shmr.catalog.catalog import Catalog
from shmr.core.victim import SegmentUse, choose
from shmr.format.rows import Table, segment_of, split_key

VICTIMS_MAX = 64
"""So many are cleaned together: what lives in them fills new segments."""


def victims(catalog: Catalog, pool: Pool, newest: int) -> list[int]:
    """Segments of a pool to be cleaned, best first. Those in which nothing lives are no work."""
    uses = {
        number: SegmentUse(number, archived.used_bytes, catalog.live.get(number, 0))
        for number, archived in catalog.archived_segments()
        if archived.pool == pool.id
    }
    chosen: list[int] = []
    while len(chosen) < VICTIMS_MAX:
        best = choose(uses.values(), newest=newest, dead_share_min=pool.clean_at)
        if best is None:
            break
        chosen.append(best)
        del uses[best]
    return chosen


def inodes_in(catalog: Catalog, segments: Collection[int]) -> list[int]:
    """Files with bytes in these segments, by number. Looks at every extent."""
    wanted = frozenset(segments)
    found: dict[int, None] = {}
    for key, value in catalog.scan(Table.EXTENT, b""):
        data = segment_of(value)
        if data is not None and data[0] in wanted:
            found[split_key(key)] = None
    return list(found)
