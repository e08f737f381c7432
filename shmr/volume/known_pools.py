"""Who belongs to each archive pool, as the journal remembers it.

A superblock that is written makes a change (`members`); this is the memory of it. It tells when
all drives of a pool that are there were away during the last change, when two changes were made
that did not know of each other, and that a pool exists of which no drive is there at all.

The higher generation counts; of two that are equal, what the journal says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from shmr.catalog.catalog import Catalog
from shmr.errors import IntegrityError
from shmr.format.rows import Row, Table, decode_number, encode_number
from shmr.volume.membership import ArchivePool
from shmr.volume.volume import Volume

logger = logging.getLogger(__name__)

_POOL, _MEMBER = b"pool ", b"member "
_ID = 32
"""Hexadecimal digits of an id."""


@dataclass(frozen=True, slots=True)
class KnownPool:
    """A pool and the ids of all its members, as of a generation of its superblocks.

    One without members has ended.
    """

    pool: bytes
    name: str
    generation: int
    members: tuple[bytes, ...]


def known_pools(catalog: Catalog) -> dict[bytes, KnownPool]:
    """All that are remembered, by id. Raises IntegrityError."""

    def states(prefix: bytes) -> Iterator[tuple[bytes, int]]:
        for key, value in catalog.scan(Table.STATE, prefix, prefix):
            yield key, decode_number(value)

    return pools_in(states)


def pools_in(states: Callable[[bytes], Iterable[tuple[bytes, int]]]) -> dict[bytes, KnownPool]:
    """All that are remembered in these state rows, asked for by what their names begin with.

    Raises IntegrityError.
    """
    members: dict[bytes, list[tuple[int, bytes]]] = {}
    for key, at in states(_MEMBER):
        pool, drive = _ids(key, key.removeprefix(_MEMBER).split(b" "))
        members.setdefault(pool, []).append((at, drive))
    found: dict[bytes, KnownPool] = {}
    for key, generation in states(_POOL):
        digits, _, name = key.removeprefix(_POOL).partition(b" ")
        (pool,) = _ids(key, [digits])
        ids = tuple(drive for _, drive in sorted(members.get(pool, [])))
        found[pool] = KnownPool(pool, name.decode(errors="replace"), generation, ids)
    return found


def _ids(key: bytes, parts: Iterable[bytes]) -> list[bytes]:
    try:
        ids = [bytes.fromhex(part.decode("ascii")) for part in parts]
    except ValueError:
        ids = []
    if not ids or any(2 * len(one) != _ID for one in ids):
        raise IntegrityError(f"state row {key!r}: no pool and no member is named by it")
    return ids


def current(catalog: Catalog, seen: KnownPool) -> KnownPool:
    """The pool as it is now: as superblocks have it that were `seen`, or as is remembered."""
    known = known_pools(catalog).get(seen.pool)
    return seen if known is None or known.generation < seen.generation else known


def rows_of_pool(catalog: Catalog, pool: KnownPool) -> list[Row]:
    """Rows that say who belongs to the pool, instead of those before."""
    values = {
        _POOL + pool.pool.hex().encode() + b" " + pool.name.encode(): pool.generation,
        **{_member(pool.pool, drive): at for at, drive in enumerate(pool.members, 1)},
    }
    prefixes = (_POOL + pool.pool.hex().encode() + b" ", _member(pool.pool, b""))
    stale = {
        key
        for prefix in prefixes
        for key, _ in catalog.scan(Table.STATE, prefix, prefix)
        if key not in values
    }
    return [
        *(Row(Table.STATE, key, None) for key in sorted(stale)),
        *(Row(Table.STATE, key, encode_number(value)) for key, value in values.items()),
    ]


def forget(volume: Volume, pool: bytes) -> None:
    """The pool is no more: a drive that is left over does not bring it back. Durable when this
    returns.
    """
    known = known_pools(volume.catalog)[pool]
    remember(volume, replace(known, generation=known.generation + 1, members=()))


def _member(pool: bytes, drive: bytes) -> bytes:
    return _MEMBER + pool.hex().encode() + b" " + drive.hex().encode()


def remember(volume: Volume, pool: KnownPool) -> None:
    """Durable when this returns; nothing happens where it is known already."""
    if known_pools(volume.catalog).get(pool.pool) != pool:
        volume.context.apply(rows_of_pool(volume.catalog, pool))
        volume.commits.now()


def reconcile(volume: Volume, archives: Iterable[ArchivePool]) -> list[str]:
    """An opened volume and the drives that are there agree on who belongs to what.

    What superblocks say is remembered; a drive that was removed while all that are there now were
    away is let go of. Returns what is to be told of that, a sentence each.
    """
    warnings: list[str] = []
    for archive in archives:
        seen = KnownPool(archive.pool, archive.name, archive.generation, archive.members)
        now = current(volume.catalog, seen)
        if now is seen:
            if volume.read_only is None:
                remember(volume, seen)
            continue
        for drive_id, drive in archive.drives.items():
            if drive_id not in now.members:
                volume.context.fragments.drives.pop(drive_id, None)
                warnings.append(
                    f"degraded: archive drive {drive.label} of pool {archive.name!r} counts as "
                    "missing: it was removed from the pool while others were away; take it out of "
                    "the config"
                )
        absent = [drive for drive in now.members if drive not in archive.drives]
        if set(absent) != set(archive.missing):
            warnings.append(
                f"degraded: {len(absent)} of {len(now.members)} drives of archive pool "
                f"{archive.name!r} are missing: " + ", ".join(drive.hex() for drive in absent)
            )
    return warnings
