"""Which files a compaction moves, and from where to where: by the rules, or by name.

States the facts that rules ask for (`shmr.policy`) and puts what they choose in the order in which
it is moved.
"""

from __future__ import annotations

import os
import stat
import struct
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from shmr.archive.pool import Pool
from shmr.archive.sources import IsSource
from shmr.catalog.catalog import Catalog
from shmr.config import Config
from shmr.core.ordered import Ordered
from shmr.errors import DriveError, SetupError
from shmr.format.rows import (
    ROOT,
    Table,
    decode_dentry,
    decode_inode,
    segment_of,
    split_key,
)
from shmr.policy import Candidate, Chooser, FileFacts, PoolFacts, Verdict, matches, patterns
from shmr.volume.volume import Volume


@dataclass(frozen=True, slots=True)
class Move:
    """These inodes' bytes, in this order, from one of the pools `sources` to `target`.

    Many numbers are an array: there may be millions.
    """

    inodes: Sequence[int]
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
    inodes: Sequence[int]
    if wish.names_files:
        inodes = _named(volume, wish)
        sources = {wish.source} if wish.source else set(names) - {target}
    else:
        inodes = array("Q", _regular(volume.catalog))
        sources = {wish.source or names[0]}
    if target in sources:
        raise SetupError(f"from pool {target!r} to itself: nothing would move; say --from or --to")
    return [Move(inodes, frozenset(sources), target)]


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
    chooser = Chooser(pool_facts(config, volume, pools), rules, now_ns)
    files = _file_facts(config, volume, pools, patterns(rules.values()))
    grouped: dict[tuple[str, str], array[int]] = defaultdict(lambda: array("Q"))
    for candidate, verdict in decided(chooser, files):
        grouped[verdict.source, verdict.target].append(candidate.inode)
    # The last pool first: what arrives in a pool is not to be moved on at once.
    order = {pool.name: pool.priority for pool in config.pools}
    return [
        Move(inodes, frozenset({source}), target)
        for (source, target), inodes in sorted(
            grouped.items(), key=lambda item: order[item[0][0]], reverse=True
        )
    ]


def decided(chooser: Chooser, files: Iterable[FileFacts]) -> Iterator[tuple[Candidate, Verdict]]:
    """What goes, in the order of deciding; in little memory, also of a million files."""
    packing = _Packing(chooser.rules_max)
    candidates = Ordered(packing.size_bytes)
    for file in files:
        for candidate in chooser.candidates(file):
            candidates.add(packing.pack(candidate))
    for record in candidates:
        candidate = packing.unpack(record)
        verdict = chooser.decide(candidate)
        if verdict is not None:
            yield candidate, verdict


class _Packing:
    """Candidates as bytes that sort as they do."""

    def __init__(self, rules_max: int) -> None:
        self._fields = struct.Struct(">QQHQ")
        self._rules_bytes = -(-rules_max // 8)
        self.size_bytes = self._fields.size + self._rules_bytes

    def pack(self, candidate: Candidate) -> bytes:
        written_ns, inode, pool, size_bytes, rules = candidate
        record = self._fields.pack(written_ns + _BIAS, inode, pool, size_bytes)
        return record + rules.to_bytes(self._rules_bytes, "big")

    def unpack(self, record: bytes) -> Candidate:
        written_ns, inode, pool, size_bytes = self._fields.unpack_from(record)
        rules = int.from_bytes(record[self._fields.size :], "big")
        return Candidate(written_ns - _BIAS, inode, pool, size_bytes, rules)


_BIAS = 1 << 63


def _file_facts(
    config: Config, volume: Volume, pools: list[Pool], globs: Sequence[str]
) -> Iterator[FileFacts]:
    """Every regular file that has bytes anywhere, by number, one after the other."""
    catalog = volume.catalog
    places = Places(config, catalog, pools)
    matched = _Matched(catalog, globs)
    rows = catalog.scan(Table.EXTENT, b"")
    for number, extents in groupby(rows, key=lambda row: split_key(row[0])):
        held: Counter[str] = Counter()
        for _, value in extents:
            data = segment_of(value)
            if data is not None:
                held[places.pool_of(data[0])] += data[1]
        inode = catalog.inode(number) if held else None
        if inode is not None and stat.S_ISREG(inode.mode):
            held.pop("", None)
            yield FileFacts(
                number,
                inode.size,
                inode.mtime_ns,
                inode.atime_ns,
                held,
                matched=matched.of(number),
            )


class _Matched:
    """Which patterns match a path of a file; asked by rising inode numbers."""

    def __init__(self, catalog: Catalog, globs: Sequence[str]) -> None:
        self._globs = tuple(globs)
        self._sets: dict[int, frozenset[str]] = {0: frozenset()}
        mask_bytes = -(-len(globs) // 8)
        found = Ordered(8 + mask_bytes)
        if globs:
            for number, path in _paths(catalog):
                mask = sum(matches(path, glob) << bit for bit, glob in enumerate(globs))
                if mask:
                    found.add(number.to_bytes(8, "big") + mask.to_bytes(mask_bytes, "big"))
        self._found = iter(found)
        self._next: bytes | None = next(self._found, None)

    def of(self, number: int) -> frozenset[str]:
        mask = 0
        while self._next is not None and (at := int.from_bytes(self._next[:8], "big")) <= number:
            if at == number:
                mask |= int.from_bytes(self._next[8:], "big")
            self._next = next(self._found, None)
        if mask not in self._sets:
            globs = (glob for bit, glob in enumerate(self._globs) if mask >> bit & 1)
            self._sets[mask] = frozenset(globs)
        return self._sets[mask]


def _paths(catalog: Catalog) -> Iterator[tuple[int, str]]:
    """Every path of every file, from the top, with its inode's number."""
    ways = [(b"", _children(catalog, ROOT))]
    while ways:
        before, children = ways[-1]
        for name, number in children:
            inode = catalog.inode(number)
            if inode is not None and stat.S_ISDIR(inode.mode):
                ways.append((before + name + b"/", _children(catalog, number)))
                break
            if inode is not None:
                yield number, os.fsdecode(before + name)
        else:
            ways.pop()


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
