"""Drive directories of which nothing is known: no configuration says what they are.

    with opened(paths) as foreign:
        foreign.filesystem, foreign.workspace, foreign.archive

Who a drive is says its superblock; where that is lost, the footers of its fragments and the first
frames of its segments. All must be of one filesystem, or somebody chooses one. Which pool is the
workspace tell the files: only that one has journals.

Nothing is changed, and nothing but regular files is opened. What is read here was written by
whoever held the drives: every length is checked before it is believed.

Left to others: what the filesystem holds (`salvage`).
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import TypeVar

from shmr.drive.impatient import Answer, ImpatientDrive
from shmr.drive.seam import Drive
from shmr.errors import DriveError, IntegrityError, SetupError
from shmr.format import superblock
from shmr.format.fragment import Footer, decode_footer, peek_footer_size
from shmr.format.frame import Kind as FrameKind
from shmr.format.records import decode_opening
from shmr.format.superblock import Superblock
from shmr.fsck.findings import Finding, Kind, Where
from shmr.log import walk
from shmr.log.fragments import parse_name

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""A drive that has not answered after this is left out: a disk that sleeps needs some seconds."""
NAMES_MAX = 1 << 19
"""Most files of a drive: 20 TB in zones of 64 MiB are 300,000."""
FILESYSTEM_DIGITS_MIN = 4
_SAMPLES = 16
"""So many files are asked who a drive is, when its superblock does not say."""
_TAIL_BYTES = 40
_SUPERBLOCK = re.compile(r"superblock-(\d{6})")
_SEGMENT = re.compile(r"(journal|data|snapshot)-(\d{12,})")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a drive directory.

    `id` is None where nothing on the drive tells it. `block` is its superblock. `workspace`: it has
    segments of a journal or of data; `fragments`: it has fragments.
    """

    drive: Drive
    filesystem: bytes
    id: bytes | None
    block: Superblock | None
    workspace: bool
    fragments: bool


@dataclass(frozen=True, slots=True)
class Foreign:
    """The drives of one filesystem that are there.

    `workspace` are those with segments, `archive` the others by id. A drive that does not tell its
    id has one that was made up: no row names it, but it may have a snapshot. `pools` says of every
    drive that a superblock names which pool it belongs to; `missing` are those that are not there.
    `findings` say what could not be used, `notes` what
    people should know.
    """

    filesystem: bytes
    name: str
    workspace: tuple[Drive, ...]
    archive: Mapping[bytes, Drive]
    pools: Mapping[bytes, str] = field(default_factory=dict)
    missing: tuple[bytes, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    def label(self, drive: bytes) -> str:
        """How people call a drive: its path; of one that is not there id and pool."""
        there = self.archive.get(drive)
        if there is not None:
            return there.label
        pool = self.pools.get(drive)
        return drive.hex() if pool is None else f"{drive.hex()} of pool {pool}"


@contextmanager
def opened(paths: Sequence[str], filesystem: str | None = None) -> Iterator[Foreign]:
    """Open drive directories, in any order. Closed at the end.

    `filesystem` is the beginning of an id, where they are of several. Raises SetupError where no
    drive of a filesystem is among them, or it is not clear of which.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    drives = _opened(paths, findings)
    try:
        yield recognized(drives, filesystem, findings, notes)
    finally:
        for drive in drives:
            with suppress(DriveError):
                drive.close()


def _opened(paths: Sequence[str], findings: list[Finding]) -> list[Drive]:
    """The directories, each once, locked where nobody else holds them."""
    found: list[ImpatientDrive] = []
    wanted = dict.fromkeys(os.path.realpath(path) for path in paths)
    opening = {
        path: Answer(
            f"opening {path}",
            partial(ImpatientDrive, path, patience_s=PATIENCE_S, read_only=True),
        )
        for path in wanted
    }
    until = time.monotonic() + PATIENCE_S
    for path, answer in opening.items():
        try:
            found.append(answer.within(until - time.monotonic()))
        except (DriveError, TimeoutError) as error:
            findings.append(_unusable(path, str(error)))
    return list(found)


def recognized(
    drives: Sequence[Drive],
    filesystem: str | None,
    findings: list[Finding],
    notes: list[str],
) -> Foreign:
    """Find out whose drives these are. Raises SetupError."""
    known: list[Known] = []
    for drive in drives:
        try:
            found = _known(drive)
        except (DriveError, IntegrityError) as error:
            findings.append(_unusable(drive.label, str(error)))
            continue
        if found is None:
            findings.append(_unusable(drive.label, "nothing of shmr was found there"))
        else:
            known.append(found)
    chosen = _chosen(known, filesystem, findings)
    mine = []
    for one in known:
        if one.filesystem == chosen:
            mine.append(one)
        else:
            notes.append(f"{one.drive.label}: of filesystem {one.filesystem.hex()}, left out")
    _refuse_twins(mine)
    for one in mine:
        lock = getattr(one.drive, "lock", None)
        with suppress(DriveError):
            if lock is not None and not lock():
                notes.append(
                    f"{one.drive.label}: in use by another process (mounted?); what is written "
                    "meanwhile may be missed or look damaged"
                )
    notes += map(_described, mine)
    return _sorted(chosen, mine, findings, notes)


def _described(one: Known) -> str:
    """What a drive is: who has lost the configuration writes a new one from this."""
    what = "a drive of the workspace" if one.workspace else "an archive drive"
    if one.block is None:
        return f"{one.drive.label}: {what}"
    return f"{one.drive.label}: {what}, of pool {_shown(one.block.pool_name)!r}"


def _chosen(known: Sequence[Known], text: str | None, findings: Sequence[Finding]) -> bytes:
    """The filesystem that is meant. Raises SetupError."""
    names: dict[bytes, str] = {}
    where: dict[bytes, list[str]] = {}
    for one in known:
        where.setdefault(one.filesystem, []).append(one.drive.label)
        if one.block is not None:
            names[one.filesystem] = _shown(one.block.filesystem_name)
    if not where:
        why = "".join(f"\n  {finding.message}" for finding in findings)
        raise SetupError(
            f"none of these directories is a drive of shmr: give those that hold `superblock-...`, "
            f"`journal-...` or `fragment-...`{why}"
        )
    found = sorted(where)
    if text is not None:
        begins = text.lower()
        found = [one for one in found if one.hex().startswith(begins) or names.get(one) == text]
        if len(begins) < FILESYSTEM_DIGITS_MIN or len(found) != 1:
            count = "no" if not found else "more than one"
            raise SetupError(
                f"--filesystem {text!r}: {count} filesystem is called so{_told(where, names)}"
            )
    if len(found) > 1:
        raise SetupError(
            "these drives are of several filesystems: give those of one, or say which with "
            f"--filesystem{_told(where, names)}"
        )
    return found[0]


def _told(where: Mapping[bytes, Sequence[str]], names: Mapping[bytes, str]) -> str:
    return "".join(
        f"\n  {one.hex()} {names.get(one, '(its name is not known)')}: {', '.join(paths)}"
        for one, paths in sorted(where.items())
    )


def _refuse_twins(mine: Sequence[Known]) -> None:
    """No two directories may be one drive. Raises SetupError."""
    seen: dict[bytes, str] = {}
    for one in mine:
        if one.id is not None and one.id in seen:
            raise SetupError(
                f"{seen[one.id]} and {one.drive.label} both say that they are drive "
                f"{one.id.hex()}: one is a copy of the other; give only one of them"
            )
        if one.id is not None:
            seen[one.id] = one.drive.label


def _sorted(
    filesystem: bytes, mine: Sequence[Known], findings: list[Finding], notes: list[str]
) -> Foreign:
    """Which drive is for what, and which are missing."""
    newest: dict[bytes, Superblock] = {}
    for one in mine:
        block = one.block
        if block is not None and (
            block.pool not in newest or block.generation > newest[block.pool].generation
        ):
            newest[block.pool] = block
    working = {one.block.pool for one in mine if one.workspace and one.block is not None}
    workspace: list[Drive] = []
    archive: dict[bytes, Drive] = {}
    for one in mine:
        block = one.block
        if one.workspace or (block is not None and block.pool in working):
            if block is not None and one.id not in newest[block.pool].members:
                notes.append(
                    f"{one.drive.label}: the workspace went on without it; it is left out, as what "
                    "it says is older"
                )
                continue
            workspace.append(one.drive)
        if one.fragments or not one.workspace:
            archive[one.id or _made_up(one.drive)] = one.drive
        if one.block is None:
            told = "its id is not known" if one.id is None else f"it is drive {one.id.hex()}"
            notes.append(f"{one.drive.label}: no superblock that verifies; by its files {told}")
    pools = {
        member: _shown(block.pool_name) for block in newest.values() for member in block.members
    }
    there = {one.id for one in mine}
    missing = tuple(member for member in pools if member not in there)
    name = next((_shown(block.filesystem_name) for block in newest.values()), "")
    return Foreign(
        filesystem,
        name,
        tuple(workspace),
        archive,
        pools,
        missing,
        tuple(findings),
        tuple(notes),
    )


def _made_up(drive: Drive) -> bytes:
    return sha256(b"no id: " + os.fsencode(drive.label)).digest()[:16]


def _unusable(path: str, why: str) -> Finding:
    message = why if path in why else f"{path}: {why}"
    return Finding(Kind.DRIVE_UNUSABLE, message, Where(drive=path))


def _shown(name: bytes) -> str:
    """A name out of a superblock, which may be anything."""
    text = name[:64].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# -- one drive ------------------------------------------------------------------------------------


def _known(drive: Drive) -> Known | None:
    """What a drive says of itself; None if that is nothing. Raises DriveError, IntegrityError."""
    names = drive.names()
    if len(names) > NAMES_MAX:
        raise IntegrityError(f"{drive.label}: {len(names)} files, that is no drive of shmr")
    block = _superblock(drive, names)
    segments = [match for name in names if (match := _SEGMENT.fullmatch(name))]
    workspace = any(match[1] != "snapshot" for match in segments)
    fragments = sorted(name for name in names if parse_name(name) is not None)
    if block is not None:
        return Known(drive, block.filesystem, block.drive, block, workspace, bool(fragments))
    votes: Counter[tuple[bytes, bytes]] = Counter()
    for name in _samples(fragments):
        with suppress(DriveError, IntegrityError):
            header = footer_of(drive, name).header
            votes[header.filesystem, header.drives[header.fragment]] += 1
    if votes:
        filesystem, drive_id = votes.most_common(1)[0][0]
        return Known(drive, filesystem, drive_id, None, workspace, True)
    filesystems = Counter(_segment_filesystems(drive, segments))
    if filesystems:
        return Known(drive, filesystems.most_common(1)[0][0], None, None, workspace, False)
    return None


def _samples(names: Sequence[T]) -> Sequence[T]:
    """Some of them, from first to last."""
    return names[:: max(1, len(names) // _SAMPLES)]


def _superblock(drive: Drive, names: Sequence[str]) -> Superblock | None:
    """The newest superblock that verifies. Raises IntegrityError for one of a newer shmr."""
    for name in islice(
        sorted((n for n in names if _SUPERBLOCK.fullmatch(n)), reverse=True), _SAMPLES
    ):
        try:
            block = superblock.decode(drive.get(name))
        except (DriveError, IntegrityError) as error:
            logger.warning("%s: %s: %s", drive.label, name, error)
            continue
        if block.incompat & ~superblock.INCOMPAT:
            raise IntegrityError(f"{drive.label}: written by a newer shmr, which is needed here")
        return block
    return None


def footer_of(drive: Drive, name: str) -> Footer:
    """The footer of a fragment, of which nothing else is known.

    Raises DriveError, IntegrityError.
    """
    size = drive.size(name)
    file = drive.open(name)
    try:
        footer_bytes = peek_footer_size(file.read(max(0, size - _TAIL_BYTES), _TAIL_BYTES))
        if footer_bytes > size:
            raise IntegrityError(f"{name}: {size} bytes, its footer alone has {footer_bytes}")
        return decode_footer(file.read(size - footer_bytes, footer_bytes))
    finally:
        file.close()


def _segment_filesystems(drive: Drive, segments: Sequence[re.Match[str]]) -> Iterator[bytes]:
    """The filesystems that the first frames of some segments name."""
    by_name: list[re.Match[str]] = sorted(segments, key=lambda match: match[0])
    for match in _samples(by_name):
        with suppress(DriveError, IntegrityError):
            file = drive.open(match[0])
            try:
                header = walk.read_header(file, 0)
                if header.kind == FrameKind.SEGMENT and header.segment == int(match[2]):
                    payload = walk.read_payload(file, walk.Found(0, header))
                    yield decode_opening(payload).filesystem
            finally:
                file.close()
