"""How far the scrub is: `catalog.scrub` beside the catalog, advisory (FORMAT.md section 2).

For each drive which of its files were verified, and when; the round that is under way; the last one
that came to its end. Files are told by the numbers of their segments, of which a drive has each
once, in runs: what is not on the drive may lie in between. So a scrub that went once over a drive
of a hundred thousand fragments has one line.

Written whole into another file, synced, and put in its place. Damaged or missing it is begun anew:
all that is lost is what was read already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from shmr.units import MIB

VERSION = 1
SIZE_MAX = 64 * MIB
Run = tuple[int, int, int]
"""First and last number of files that were verified, and when: seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Round:
    """Once over a drive. `began_s` and `ended_s` are seconds since 1970.

    `wrong` counts what was found, `repaired` how much of it was put right. `given_up`: the drive
    could not be read to its end; no other waits for it.
    """

    began_s: int
    ended_s: int = 0
    files: int = 0
    read_bytes: int = 0
    wrong: int = 0
    repaired: int = 0
    given_up: int = 0

    @property
    def is_whole(self) -> bool:
        return self.wrong == self.repaired

    def more(self, *, files: int, read_bytes: int, wrong: int = 0, repaired: int = 0) -> Round:
        return replace(
            self,
            files=self.files + files,
            read_bytes=self.read_bytes + read_bytes,
            wrong=self.wrong + wrong,
            repaired=self.repaired + repaired,
        )


@dataclass(frozen=True, slots=True)
class DriveNote:
    """What is known of one drive. `whole_s`: when the last round began that found nothing wrong, or
    after which nothing was."""

    label: str = ""
    runs: tuple[Run, ...] = ()
    under_way: Round | None = None
    last: Round | None = None
    whole_s: int = 0

    def times(self, numbers: Iterable[int], now_s: int) -> dict[int, int]:
        """When each of these files was verified last; those that never were are left out."""
        found: dict[int, int] = {}
        runs = iter(sorted(self.runs))
        run = next(runs, None)
        for number in sorted(numbers):
            while run is not None and run[1] < number:
                run = next(runs, None)
            if run is None:
                break
            if run[0] <= number and run[2] <= now_s:
                found[number] = run[2]
        return found


def runs_of(times: Mapping[int, int], there: Collection[int]) -> tuple[Run, ...]:
    """The shortest runs that say so of each file that is there."""
    runs: list[Run] = []
    before = False
    for number in sorted(there):
        at = times.get(number)
        if at is None:
            before = False
            continue
        if before and runs[-1][2] == at:
            runs[-1] = (runs[-1][0], number, at)
        else:
            runs.append((number, number, at))
        before = True
    return tuple(runs)


@dataclass(slots=True)
class Note:
    """Of all drives, by their ids in hexadecimal digits."""

    filesystem: str
    drives: dict[str, DriveNote] = field(default_factory=dict)


def note_of(catalog: Path) -> Path:
    """The note of the catalog in this directory."""
    return catalog.with_name(catalog.name + ".scrub")


def read(path: Path, filesystem: str) -> tuple[Note, str | None]:
    """The note, or an empty one and why: None where there never was one."""
    try:
        with open(path, "rb") as file:
            content = file.read(SIZE_MAX + 1)
    except FileNotFoundError:
        return Note(filesystem), None
    except OSError as error:
        return Note(filesystem), f"{path} cannot be read ({error.strerror})"
    try:
        note = _decode(content)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Note(filesystem), f"{path} is damaged"
    if note.filesystem != filesystem:
        return Note(filesystem), f"{path} is of another filesystem"
    return note, None


def write(path: Path, note: Note) -> None:
    """In place of the one that is there; durable when this returns. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        beside.unlink()
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(_encode(note))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encode(note: Note) -> bytes:
    """One line with all of it, and one with the SHA-256 of that."""
    body = {
        "version": VERSION,
        "filesystem": note.filesystem,
        "drives": {name: asdict(drive) for name, drive in sorted(note.drives.items())},
    }
    line = json.dumps(body, separators=(",", ":")).encode()
    return line + b"\n" + sha256(line).hexdigest().encode() + b"\n"


def _decode(content: bytes) -> Note:
    """Raises ValueError, TypeError, KeyError, RecursionError."""
    line, _, rest = content.partition(b"\n")
    if sha256(line).hexdigest().encode() != rest.strip() or len(content) > SIZE_MAX:
        raise ValueError("the sum does not match")
    body = json.loads(line)
    if body["version"] != VERSION:
        raise ValueError("another version")
    drives = {name: _drive(fields) for name, fields in body["drives"].items()}
    return Note(body["filesystem"], drives)


def _drive(fields: dict[str, Any]) -> DriveNote:
    rounds = {name: _round(fields[name]) for name in ("under_way", "last")}
    runs = tuple((int(first), int(last), int(at)) for first, last, at in fields["runs"])
    return DriveNote(str(fields["label"]), runs, whole_s=int(fields["whole_s"]), **rounds)


def _round(fields: dict[str, Any] | None) -> Round | None:
    return None if fields is None else Round(**{name: int(n) for name, n in fields.items()})
