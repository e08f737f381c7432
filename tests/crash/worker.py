"""Programs that write and fsync, and say what was acknowledged; and the judge of what is left.

Each kind of worker has `work`, which changes its own directory for ever, and `judge`, which looks
at that directory after a crash and names what it misses. What an fsync acknowledged goes as a line
into a file outside of the filesystem under test, which survives the daemon's death. Content is
computed from its name, so the judge needs nothing else.

Run as a program: `python -m tests.crash.worker KIND DIRECTORY ACKNOWLEDGED`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

Tell = Callable[[str], None]
RECORD_HEAD = 12
BLOCK = 4096
BLOCKS = 200
KEEP = 20


def content(*words: object) -> bytes:
    """Bytes that belong to `words`: between nothing and 40 KiB of them."""
    seed = hashlib.sha256(repr(words).encode()).digest()
    length = random.Random(seed).choice((0, 1, 37, 700, 4096, 5000, 40_000))
    return (seed * (length // len(seed) + 1))[:length]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(path: Path, payload: bytes) -> None:
    """A file that is durable, but not its name."""
    with open(path, "xb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


# -- append: records at the end of one file -------------------------------------------------


def _record(name: str, index: int) -> bytes:
    payload = content(name, index)
    return b"%011d\n" % len(payload) + payload


def work_append(place: Path, tell: Tell) -> None:
    path = place / "log"
    with open(path, "ab") as file:
        _sync_directory(place)
        for index in itertools.count(_records(path)):
            file.write(_record(place.name, index))
            file.flush()
            os.fsync(file.fileno())
            tell(f"{index}")


def _records(path: Path) -> int:
    """How many whole records stand at the beginning of the file, before the first torn one."""
    found, at = 0, 0
    everything = path.read_bytes()
    while everything.startswith(record := _record(path.parent.name, found), at) and record:
        at += len(record)
        found += 1
    if at != len(everything):
        # As a program does that finds its log torn: what was not acknowledged goes.
        os.truncate(path, at)
    return found


def judge_append(place: Path, told: list[str]) -> Iterator[str]:
    if not told:
        return
    size = (place / "log").stat().st_size
    found = _records(place / "log")
    if found <= int(told[-1]):
        yield f"{place}/log ({size} bytes): {found} records, but {told[-1]} was acknowledged"


# -- create: new files, each named after it was complete ------------------------------------


def work_create(place: Path, tell: Tell) -> None:
    """Odd files are renamed to their name; older ones are deleted."""
    known = [int(name.name) for name in place.iterdir() if name.name.isdigit()]
    for leftover in place.glob("new-*"):
        leftover.unlink()
    for index in itertools.count(max(known, default=-1) + 1):
        final = place / str(index)
        first = place / f"new-{index}" if index % 2 else final
        _put(first, content(place.name, index))
        if first != final:
            os.rename(first, final)
        _sync_directory(place)
        tell(f"{index}")
        if index >= KEEP and index % 3 == 0:
            tell(f"-{index - KEEP}")  # from here on it may be gone
            (place / str(index - KEEP)).unlink(missing_ok=True)
            _sync_directory(place)
            tell(f"={index - KEEP}")  # and now it must be


def judge_create(place: Path, told: list[str]) -> Iterator[str]:
    wanted = {int(word) for word in told if word[0] not in "-="}
    wanted -= {int(word[1:]) for word in told if word[0] == "-"}
    gone = {int(word[1:]) for word in told if word[0] == "="}
    for index in sorted(wanted):
        path = place / str(index)
        if not path.exists():
            yield f"{path}: acknowledged, but not there"
    for path in place.iterdir():
        if not path.name.isdigit():
            continue
        if int(path.name) in gone:
            yield f"{path}: its deletion was acknowledged, but it is there"
        elif int(path.name) not in wanted and int(path.name) % 2 == 0:
            continue  # named before it was complete, and not acknowledged
        elif path.read_bytes() != content(place.name, int(path.name)):
            yield f"{path}: other bytes than were written"


# -- replace: one file, replaced by rename ----------------------------------------------------


def work_replace(place: Path, tell: Tell) -> None:
    current = place / "current"
    first = int(current.read_bytes().split(b"\n", 1)[0]) + 1 if current.exists() else 0
    (place / "next").unlink(missing_ok=True)
    for index in itertools.count(first):
        _put(place / "next", b"%d\n" % index + content(place.name, index))
        os.rename(place / "next", current)
        _sync_directory(place)
        tell(f"{index}")


def judge_replace(place: Path, told: list[str]) -> Iterator[str]:
    if not told:
        return
    version, _, payload = (place / "current").read_bytes().partition(b"\n")
    if int(version) < int(told[-1]):
        yield f"{place}/current: version {version!r}, but {told[-1]} was acknowledged"
    if payload != content(place.name, int(version)):
        yield f"{place}/current: version {version!r} is not whole"


# -- overwrite: blocks in place ---------------------------------------------------------------


def _block(index: int, version: int) -> bytes:
    seed = hashlib.sha256(b"%d %d" % (index, version)).digest()
    return (b"%8d%20d" % (index, version) + seed * (BLOCK // len(seed)))[:BLOCK]


def _version(index: int, block: bytes) -> int | None:
    """The version that `block` is, -1 for one never written, None if it is none."""
    if not any(block):
        return -1
    words = block[:28]
    if not words[8:].strip().isdigit():
        return None
    version = int(words[8:])
    return version if block == _block(index, version) else None


def work_overwrite(place: Path, tell: Tell) -> None:
    path = place / "blocks"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if os.fstat(descriptor).st_size == 0:
        os.ftruncate(descriptor, BLOCKS * BLOCK)
        os.fsync(descriptor)
        _sync_directory(place)
    versions = []
    for index in range(BLOCKS):
        found = _version(index, os.pread(descriptor, BLOCK, index * BLOCK))
        versions.append(-1 if found is None else found)
    rng = random.Random(sum(versions))
    for version in itertools.count(max(versions) + 1):
        some = rng.sample(range(BLOCKS), rng.randint(1, 5))
        for index in some:
            os.pwrite(descriptor, _block(index, version), index * BLOCK)
        os.fdatasync(descriptor)
        tell(" ".join(f"{index}:{version}" for index in some))


def judge_overwrite(place: Path, told: list[str]) -> Iterator[str]:
    least = {}
    for word in " ".join(told).split():
        index, _, version = word.partition(":")
        least[int(index)] = int(version)
    if not least:
        return
    everything = (place / "blocks").read_bytes()
    for index, wanted in sorted(least.items()):
        found = _version(index, everything[index * BLOCK : (index + 1) * BLOCK])
        if found is None or found < wanted:
            yield f"{place}/blocks {index}: version {found}, but {wanted} was acknowledged"


class Kind(NamedTuple):
    work: Callable[[Path, Tell], None]
    judge: Callable[[Path, list[str]], Iterator[str]]


KINDS = {
    "append": Kind(work_append, judge_append),
    "create": Kind(work_create, judge_create),
    "replace": Kind(work_replace, judge_replace),
    "overwrite": Kind(work_overwrite, judge_overwrite),
}


def main(kind: str, directory: str, acknowledged: str) -> None:
    file = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def tell(line: str) -> None:
        os.write(file, line.encode() + b"\n")

    try:
        KINDS[kind].work(Path(directory), tell)
    except OSError as error:
        # The mount died under us: that is the end of the work, and what was told stands.
        print(f"{kind}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
