"""Which files a compaction moves, and from where to where: by the rules, or by name.

States the facts that rules ask for (`shmr.policy`) and puts what they choose in the order in which
it is moved.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shmr.archive.pool import Pool
from shmr.archive.sources import IsSource
from shmr.catalog.catalog import Catalog
from shmr.config import Config
from shmr.errors import DriveError, SetupError
from shmr.format.rows import (
    ROOT,
    Table,
    decode_dentry,
    decode_inode,
    segment_of,
    split_key,
)
from shmr.policy import FileFacts, PoolFacts, choose, needs_paths
from shmr.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Move:
    """These inodes' bytes, in this order, from one of the pools `sources` to `target`."""

    inodes: tuple[int, ...]
    sources: frozenset[str]
    target: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asked for. Nothing at all: what the rules say."""

    inodes: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    source: str | None = None
    target: str | None = None
    everything: bool = False

    @property
    def names_files(self) -> bool:
        return bool(self.inodes or self.paths)


class Places:
    """In which pool a segment is, by name."""

    def __init__(self, config: Config, catalog: Catalog, pools: Iterable[Pool]) -> None:
        self._workspace = config.workspace.name
        self._catalog = catalog
        self._names = {pool.id: pool.name for pool in pools}
        self._known: dict[int, str] = {}

    def pool_of(self, segment: int) -> str:
        """Empty for an archive pool that the configuration does not have."""
        name = self._known.get(segment)
        if name is None:
            archived = self._catalog.archived(segment)
            if archived is None:
                name = self._workspace
            else:
                name = self._names.get(archived.pool, "")
            self._known[segment] = name
        return name


def is_source(config: Config, catalog: Catalog, pools: Iterable[Pool], move: Move) -> IsSource:
    """Whether a segment, by number, is one of those that the move takes from."""
    places = Places(config, catalog, pools)
    return lambda segment: places.pool_of(segment) in move.sources


def pool_named(pools: Iterable[Pool], name: str) -> Pool:
    """The archive pool of this name. Raises SetupError."""
    for pool in pools:
        if pool.name == name:
            return pool
    raise SetupError(f"pool {name!r}: no drive of it is there; connect them")


def chosen(
    config: Config, volume: Volume, pools: list[Pool], wish: Wish, now_ns: int
) -> list[Move]:
    """What to move. Raises SetupError where the wish makes no sense here."""
    names = [pool.name for pool in config.pools]
    for given in (wish.source, wish.target):
        if given is not None and given not in names:
            raise SetupError(f"there is no pool {given!r}; there are: {', '.join(names)}")
    if len(names) < 2:
        raise SetupError("there is no archive pool in the config: nothing can be moved anywhere")
    if wish.source is not None and wish.source == wish.target:
        raise SetupError(f"from pool {wish.source!r} to itself: nothing would move")
    if not (wish.names_files or wish.everything):
        moves = _by_rules(config, volume, pools, now_ns)
        return [
            move
            for move in moves
            if (wish.source is None or wish.source in move.sources)
            and (wish.target is None or wish.target == move.target)
        ]
    target = wish.target or _next(names, wish.source)
    if wish.names_files:
        inodes = _named(volume, wish)
        sources = {wish.source} if wish.source else set(names) - {target}
    else:
        inodes = list(_regular(volume.catalog))
        sources = {wish.source or names[0]}
    if target in sources:
        raise SetupError(f"from pool {target!r} to itself: nothing would move; say --from or --to")
    return [Move(tuple(inodes), frozenset(sources), target)]


def _next(names: list[str], source: str | None) -> str:
    """The pool behind `source` in priority, the first archive pool if none is named."""
    at = names.index(source) if source else 0
    if at + 1 == len(names):
        raise SetupError(f"no pool comes after {source!r}; say --to which it should go")
    return names[at + 1]


# -- by name


def _named(volume: Volume, wish: Wish) -> list[int]:
    catalog = volume.catalog
    found: dict[int, None] = {}
    for number in wish.inodes:
        inode = catalog.inode(number) if 0 < number < 2**63 else None
        if inode is None or not stat.S_ISREG(inode.mode):
            raise SetupError(f"inode {number}: there is no such regular file")
        found[number] = None
    for path in wish.paths:
        found |= dict.fromkeys(_below(catalog, _find(catalog, path)))
    return list(found)


def _find(catalog: Catalog, path: str) -> int:
    """The inode at a path from the top of the filesystem. Raises SetupError."""
    number = ROOT
    for name in os.fsencode(path).split(b"/"):
        if name in (b"", b"."):
            continue
        dentry = catalog.dentry(number, name)
        if dentry is None:
            raise SetupError(
                f"{path}: not found; give the path from the top of the filesystem, without the "
                "mount point"
            )
        number = dentry.inode
    return number


def _below(catalog: Catalog, number: int) -> Iterator[int]:
    """The regular files at and below an inode, by number."""
    waiting, files = [number], set[int]()
    while waiting:
        number = waiting.pop()
        inode = catalog.inode(number)
        if inode is None:
            continue
        if stat.S_ISREG(inode.mode):
            files.add(number)
        elif stat.S_ISDIR(inode.mode):
            waiting += (child for _, child in _children(catalog, number))
    yield from sorted(files)


def _children(catalog: Catalog, directory: int) -> Iterator[tuple[bytes, int]]:
    prefix = directory.to_bytes(8, "big")
    for key, value in catalog.scan(Table.DENTRY, prefix, prefix):
        yield key[8:], decode_dentry(value).inode


def _regular(catalog: Catalog) -> Iterator[int]:
    for key, value in catalog.scan(Table.INODE, b""):
        number = split_key(key)
        if stat.S_ISREG(decode_inode(number, value).mode):
            yield number


# -- by rules


def _by_rules(config: Config, volume: Volume, pools: list[Pool], now_ns: int) -> list[Move]:
    rules = {pool.name: pool.rules for pool in config.pools}
    facts = list(_file_facts(config, volume, pools, paths=needs_paths(rules.values())))
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for choice in choose(facts, pool_facts(config, volume, pools), rules, now_ns):
        grouped[choice.source, choice.target].append(choice.file.inode)
    # The last pool first: what arrives in a pool is not to be moved on at once.
    order = {pool.name: pool.priority for pool in config.pools}
    return [
        Move(tuple(inodes), frozenset({source}), target)
        for (source, target), inodes in sorted(
            grouped.items(), key=lambda item: order[item[0][0]], reverse=True
        )
    ]


def _file_facts(
    config: Config, volume: Volume, pools: list[Pool], *, paths: bool
) -> Iterator[FileFacts]:
    catalog = volume.catalog
    places = Places(config, catalog, pools)
    held: dict[int, Counter[str]] = {}
    for key, value in catalog.scan(Table.EXTENT, b""):
        data = segment_of(value)
        if data is not None:
            held.setdefault(split_key(key), Counter())[places.pool_of(data[0])] += data[1]
    named = _paths(catalog) if paths else {}
    for number, pool_bytes in held.items():
        inode = catalog.inode(number)
        if inode is not None and stat.S_ISREG(inode.mode):
            pool_bytes.pop("", None)
            yield FileFacts(
                number,
                inode.size,
                inode.mtime_ns,
                inode.atime_ns,
                pool_bytes,
                tuple(named.get(number, ())),
            )


def _paths(catalog: Catalog) -> dict[int, list[str]]:
    """The paths of every file, from the top."""
    found: dict[int, list[str]] = defaultdict(list)
    waiting = [(ROOT, b"")]
    while waiting:
        directory, before = waiting.pop()
        for name, number in _children(catalog, directory):
            inode = catalog.inode(number)
            if inode is not None and stat.S_ISDIR(inode.mode):
                waiting.append((number, before + name + b"/"))
            elif inode is not None:
                found[number].append(os.fsdecode(before + name))
    return found


def pool_facts(config: Config, volume: Volume, pools: list[Pool]) -> list[PoolFacts]:
    """What rules may ask of pools, in bytes of files."""
    catalog = volume.catalog
    places = Places(config, catalog, pools)
    used: Counter[str] = Counter()
    for number, live in catalog.live.items():
        used[places.pool_of(number)] += max(0, live)
    usage = volume.usage()
    workspace = config.workspace
    facts = [
        PoolFacts(
            workspace.name,
            workspace.priority,
            usage.blocks * usage.block_size,
            usage.blocks_free * usage.block_size,
            used[workspace.name],
        )
    ]
    known = {pool.name: pool for pool in pools}
    for entry in config.pools[1:]:
        pool = known.get(entry.name)
        if pool is None:
            continue
        total, free = _room(volume, pool)
        facts.append(PoolFacts(pool.name, entry.priority, total, free, used[pool.name]))
    return facts


def _room(volume: Volume, pool: Pool) -> tuple[int, int]:
    """Total and free bytes of files in a pool, roughly."""
    total = free = 0
    for drive_id in pool.drives:
        drive = volume.context.fragments.drives.get(drive_id)
        if drive is None:
            continue
        try:
            capacity = drive.capacity()
        except DriveError:
            continue
        total += capacity.total_bytes
        free += capacity.free_bytes
    return total * pool.k // pool.width, free * pool.k // pool.width
