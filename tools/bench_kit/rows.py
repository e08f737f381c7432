"""The work: what each row of the table does, as workers for `measure`.

Rows come in three groups that share their files: one big file, a tree of small ones, and durable
writers. Within a group the rows run in the order written here, on a fresh filesystem; a row whose
`always` is set runs even when it was not asked for, because the others need what it makes.

The order in which a row visits pages and files depends on the seed only, so every target gets the
same requests.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench_kit.measure import Worker

PAGE = 4096
CHUNK = 1024 * 1024
FILES_PER_DIRECTORY = 200

Kind = Literal["cold", "warm", "write"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a row works, and how much of it there is."""

    root: Path
    is_fuse: bool
    size_bytes: int
    files: int
    requests: int
    durable_writes: int
    seed: int

    @property
    def big(self) -> Path:
        return self.root / "big"

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    def pages(self, purpose: str) -> list[int]:
        """Distinct random page offsets of the big file, in the order they are visited."""
        count = self.size_bytes // PAGE
        rng = random.Random(f"{self.seed}/{purpose}")
        return [n * PAGE for n in rng.sample(range(count), min(self.requests, count))]

    def half(self, which: Literal["empty", "small"]) -> dict[str, list[str]]:
        """The files of one half of the tree, by their directory."""
        names = [f"{which}-{n:07d}" for n in range(self.files // 2)]
        found: dict[str, list[str]] = {}
        for start in range(0, len(names), FILES_PER_DIRECTORY):
            directory = f"{self.tree}/{which}-{start // FILES_PER_DIRECTORY:05d}"
            group = names[start : start + FILES_PER_DIRECTORY]
            found[directory] = [f"{directory}/{name}" for name in group]
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    `kind`: cold rows begin with everything forgotten, warm rows at once after their `prepare`,
    write rows begin with nothing dirty and are charged for what the server puts off.
    """

    name: str
    unit: str
    group: Literal["big", "tree", "durable"]
    kind: Kind
    workers: Callable[[Site], list[Worker]]
    prepare: Callable[[Site], None] | None = None
    always: bool = False


def _random_bytes(site: Site, size_bytes: int) -> bytes:
    return random.Random(site.seed).randbytes(size_bytes)


def _write_all(descriptor: int, payload: bytes, offset: int) -> None:
    while payload:
        written = os.pwrite(descriptor, payload, offset)
        payload, offset = payload[written:], offset + written


# The big file ------------------------------------------------------------------------------------


def _sequential_write(site: Site) -> Worker:
    payload = _random_bytes(site, CHUNK)
    yield 0
    descriptor = os.open(site.big, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    for offset in range(0, site.size_bytes, CHUNK):
        _write_all(descriptor, payload, offset)
    os.fsync(descriptor)
    os.close(descriptor)
    yield site.size_bytes // CHUNK


def _sequential_read(site: Site) -> Worker:
    buffer = bytearray(CHUNK)
    yield 0
    descriptor = os.open(site.big, os.O_RDONLY)
    total = 0
    while count := os.readv(descriptor, [buffer]):
        total += count
    os.close(descriptor)
    if total != site.size_bytes:
        raise OSError(f"read {total} bytes of {site.size_bytes}")
    yield site.size_bytes // CHUNK


def _warm_below(site: Site) -> None:
    """Bring the big file into the page cache of the disk, and out of the FUSE mount's own.

    So each random read is one request to the server, which finds the bytes in memory.
    """
    descriptor = os.open(site.big, os.O_RDONLY)
    try:
        while os.read(descriptor, CHUNK):
            pass
        if site.is_fuse:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _random_reads(site: Site, offsets: list[int]) -> Worker:
    descriptor = os.open(site.big, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no reading ahead: 4 KiB each
    buffer = [bytearray(PAGE)]
    yield 0
    for offset in offsets:
        if os.preadv(descriptor, buffer, offset) != PAGE:
            raise OSError(f"short read at {offset}")
    yield len(offsets)


def _random_readers(count: int) -> Callable[[Site], list[Worker]]:
    def workers(site: Site) -> list[Worker]:
        offsets = site.pages(f"read {count}")
        return [_random_reads(site, offsets[n::count]) for n in range(count)]

    return workers


def _random_overwrite(site: Site) -> Worker:
    payload = _random_bytes(site, PAGE)
    offsets = site.pages("overwrite")
    descriptor = os.open(site.big, os.O_RDWR)
    yield 0
    for offset in offsets:
        _write_all(descriptor, payload, offset)
    os.fsync(descriptor)
    yield len(offsets)


# The tree ----------------------------------------------------------------------------------------


def _create(site: Site, which: Literal["empty", "small"]) -> Worker:
    payload = _random_bytes(site, PAGE) if which == "small" else b""
    half = site.half(which)
    os.makedirs(site.tree, exist_ok=True)
    yield 0
    operations = 0
    for directory, paths in half.items():
        os.mkdir(directory)
        for path in paths:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            if payload:
                _write_all(descriptor, payload, 0)
            os.close(descriptor)
        operations += 1 + len(paths)
    yield operations


def _all_files(site: Site) -> dict[str, list[str]]:
    return {**site.half("empty"), **site.half("small")}


def _stat(site: Site) -> Worker:
    paths = [path for group in _all_files(site).values() for path in group]
    random.Random(f"{site.seed}/stat").shuffle(paths)
    yield 0
    for path in paths:
        os.stat(path)
    yield len(paths)


def _list(site: Site) -> Worker:
    """The program everybody uses, with all it asks beside stat(2) (ACLs, for one)."""
    entries = sum(1 + len(paths) for paths in _all_files(site).values())
    yield 0
    subprocess.run(
        ["ls", "-lR", str(site.tree)],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        check=True,
    )
    yield entries


def _unlink(site: Site) -> Worker:
    groups = _all_files(site)
    yield 0
    operations = 0
    for directory, paths in groups.items():
        for path in paths:
            os.unlink(path)
        os.rmdir(directory)
        operations += 1 + len(paths)
    yield operations


# Durable writers ---------------------------------------------------------------------------------


def _durable_writes(site: Site, path: Path, count: int) -> Worker:
    payload = _random_bytes(site, PAGE)
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.fsync(descriptor)
    yield 0
    for n in range(count):
        _write_all(descriptor, payload, n * PAGE)
        os.fdatasync(descriptor)
    yield count


def _durable_writers(count: int) -> Callable[[Site], list[Worker]]:
    def workers(site: Site) -> list[Worker]:
        # Fewer for each when there are many, so that a row takes about as long on any count.
        each = max(site.durable_writes // (1 if count == 1 else 4 if count < 64 else 8), 1)
        paths = [site.root / f"durable-{count}-{n}" for n in range(count)]
        return [_durable_writes(site, path, each) for path in paths]

    return workers


def _one(worker: Callable[[Site], Worker]) -> Callable[[Site], list[Worker]]:
    return lambda site: [worker(site)]


def _before(worker: Callable[[Site], Worker]) -> Callable[[Site], None]:
    """The same work once untimed, so that what can be remembered of it is."""

    def prepare(site: Site) -> None:
        for _ in worker(site):
            pass

    return prepare


ROWS = {
    row.name: row
    for row in (
        Row("seq_write", "MiB/s", "big", "write", _one(_sequential_write), always=True),
        Row("seq_read_cold", "MiB/s", "big", "cold", _one(_sequential_read)),
        Row("seq_read_warm", "MiB/s", "big", "warm", _one(_sequential_read),
            _before(_sequential_read)),
        Row("rand_read_1", "reads/s", "big", "warm", _random_readers(1), _warm_below),
        Row("rand_read_16", "reads/s", "big", "warm", _random_readers(16), _warm_below),
        Row("rand_write", "writes/s", "big", "write", _one(_random_overwrite)),
        Row("create", "files/s", "tree", "write", _one(lambda s: _create(s, "empty")), always=True),
        Row("create_small", "files/s", "tree", "write", _one(lambda s: _create(s, "small")),
            always=True),
        Row("stat_cold", "files/s", "tree", "cold", _one(_stat)),
        Row("stat_warm", "files/s", "tree", "warm", _one(_stat), _before(_stat)),
        Row("ls_cold", "entries/s", "tree", "cold", _one(_list)),
        Row("ls_warm", "entries/s", "tree", "warm", _one(_list), _before(_list)),
        Row("unlink", "files/s", "tree", "write", _one(_unlink)),
        Row("durable_1", "writes/s", "durable", "write", _durable_writers(1)),
        Row("durable_16", "writes/s", "durable", "write", _durable_writers(16)),
        Row("durable_64", "writes/s", "durable", "write", _durable_writers(64)),
    )
}  # fmt: skip
GROUPS = ("big", "tree", "durable")


def rows_of(group: str, wanted: frozenset[str]) -> list[Row]:
    """The rows of a group to run for `wanted`: none, or those with what they need first."""
    rows = [row for row in ROWS.values() if row.group == group]
    while rows and rows[-1].name not in wanted:
        rows.pop()
    return [row for row in rows if row.always or row.name in wanted]
