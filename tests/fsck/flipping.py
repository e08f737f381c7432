"""One bit of a subject flipped, and what comes of it: the cases of the bit-flip tests and campaign.

A case is a subject, a piece, the offset of a byte in it and a bit. `Cases` picks them by a seed;
the same seed gives the same cases in the same order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path

from crc32c import crc32c

from shmr.errors import ShmrError
from shmr.fsck.checking.check import check
from shmr.fsck.findings import Report
from shmr.fsck.mending.repair import repair
from shmr.fsck.scrubbing.scrub import scrub
from shmr.testing.drive import World
from shmr.testing.trial import Files, lay_down
from tests.fsck.harmless import Ground, reason
from tests.fsck.stage import staged
from tests.fsck.structures import CATALOG, Flip, Piece, pieces_of
from tests.fsck.subject import Seen, Subject, Wrong, copy_of, drive_of, look


def by_kind(subject: Subject) -> dict[str, list[Piece]]:
    """The pieces of a subject, by what they are, in the order of the kinds' names."""
    found: dict[str, list[Piece]] = {}
    for piece in pieces_of(subject):
        found.setdefault(piece.kind, []).append(piece)
    return dict(sorted(found.items()))


def sampled(
    subject: Subject, rng: random.Random, *, each: int = 1, wanted: Callable[[str], bool] = bool
) -> Iterator[Flip]:
    """`each` flips of every kind that is wanted, at random places."""
    for kind, pieces in by_kind(subject).items():
        if wanted(kind):
            for _ in range(each):
                piece = rng.choice(pieces)
                yield Flip(piece, rng.randrange(piece.length), rng.randrange(8))


def every(pieces: Iterable[Piece], rng: random.Random) -> Iterator[Flip]:
    """Every bit of some pieces once, in an order that goes over all of it from the beginning."""
    bits = [(piece, 8 * piece.length) for piece in pieces]
    total = sum(count for _, count in bits)
    # A step without a common divisor visits every number once, without a list of them.
    step = _coprime(total, rng)
    number = rng.randrange(total)
    for _ in range(total):
        number = (number + step) % total
        left = number
        for piece, count in bits:
            if left < count:
                yield Flip(piece, left // 8, left % 8)
                break
            left -= count


def _coprime(total: int, rng: random.Random) -> int:
    while total > 1:
        step = rng.randrange(1, total)
        if gcd(step, total) == 1:
            return step
    return 1


def apply(flip: Flip, world: World, catalog: Path) -> None:
    """Do it, in a copy of the drives or of the catalog."""
    piece = flip.piece
    offset = piece.offset + flip.at
    if piece.drive == CATALOG:
        path = catalog / piece.name
        content = bytearray(path.read_bytes())
        content[offset] ^= 1 << flip.bit
        path.write_bytes(content)
    else:
        drive_of(world, piece.drive).flip_bit(piece.name, offset, flip.bit)


def must_be_whole(subject: Subject, piece: Piece) -> bool:
    """Is there redundancy that makes up for damage in this piece when the tree is read?

    Only the workspace of a single drive has none; and of a mirror the superblock, which says who
    a drive is.
    """
    in_workspace = piece.drive.startswith("work")
    if not in_workspace:
        return True
    return subject.copies > 1 and not piece.kind.startswith("superblock")


def must_be_mended(subject: Subject, piece: Piece) -> bool:
    """Does anything know better, so that repair and scrub leave nothing to be told?

    As for reading. Besides, who a drive is, is proved by what lies on it; and what a catalog holds
    needs no journal and no snapshot: they are made anew, unless the journal was ahead of it.
    """
    known = ("superblock", "snapshot", *(("journal",) if subject.clean else ()))
    return must_be_whole(subject, piece) or piece.kind.startswith(known)


def read_after(subject: Subject, flip: Flip, place: Path) -> Seen:
    """Open and read a copy with the bit flipped. Raises Wrong.

    Twice: the first opening recovers, and may write; the second finds what that left. Then once
    read-only, which writes nothing; and where the log was struck, once without a catalog.
    """
    with _struck(subject, flip, place) as (world, catalog):
        seen = _judged(subject, flip, world, catalog)
        _judged(subject, flip, world, catalog)
    with _struck(subject, flip, place) as (world, catalog):
        before = contents_of(world), files_in(catalog)
        _judged(subject, flip, world, catalog, read_only=True)
        if (contents_of(world), files_in(catalog)) != before:
            raise Wrong(f"{subject.title}: {flip}: a read-only mount changed something")
    if flip.piece.drive.startswith("work"):
        with _struck(subject, flip, place) as (world, catalog):
            lay_down(None, catalog)
            _judged(subject, flip, world, catalog)
    return seen


@contextmanager
def _struck(subject: Subject, flip: Flip, place: Path) -> Iterator[tuple[World, Path]]:
    with copy_of(subject, place) as (world, catalog):
        apply(flip, world, catalog)
        yield world, catalog


def _judged(
    subject: Subject,
    flip: Flip,
    world: World,
    catalog: Path,
    *,
    read_only: bool = False,
    mended: bool = False,
) -> Seen:
    where = f"{subject.title}: {flip}"
    try:
        in_child = flip.piece.drive == CATALOG
        seen = look(subject, world, catalog, read_only=read_only, in_child=in_child)
    except Exception as error:
        raise Wrong(f"{where}: {error!r}") from error
    must = must_be_mended if mended else must_be_whole
    if must(subject, flip.piece) and not seen.is_whole:
        raise Wrong(f"{where}: redundancy is there and was not used: {seen}")
    return seen


def contents_of(world: World) -> dict[tuple[str, str], tuple[int, int]]:
    """Length and checksum of every file on every drive."""
    return {
        (drive.label, name): (drive.size(name), crc32c(drive.open(name).read(0, drive.size(name))))
        for drive in world.drives
        for name in drive.names()
    }


def files_in(catalog: Path) -> Files:
    return {f.name: f.read_bytes() for f in sorted(catalog.iterdir()) if f.name != "lock.mdb"}


# -- finding --------------------------------------------------------------------------------


def find_after(
    subject: Subject, flip: Flip, ground: Ground, place: Path, *, mounted: bool = False
) -> str:
    """Check and scrub a copy with the bit flipped; what they said, in one line. Raises Wrong.

    They must find it unless nobody has to, and change nothing; `mounted`, by the last checkpoint.
    """
    where = f"{subject.title}: {flip}"
    with _struck(subject, flip, place) as (world, catalog):
        before = contents_of(world), files_in(catalog)
        with staged(world, place, subject.copies, mounted=mounted) as config:
            told = _told_by_all(config, where)
        if (contents_of(world), files_in(catalog)) != before:
            raise Wrong(f"{where}: looking changed something")
    why = reason(ground, flip)
    if not told and why is None:
        raise Wrong(f"{where}: neither check nor scrub found it")
    return ", ".join(sorted(told)) or f"harmless: {why}"


def _told_by_all(config: Path, where: str) -> set[str]:
    """Kinds of findings of check and scrub, and errors for which they could not run."""
    told: set[str] = set()
    for look_at in (check, _scrub):
        try:
            told |= {str(kind) for kind in look_at(config).counts}
        except ShmrError as error:
            told.add(type(error).__name__)
        except Exception as error:
            raise Wrong(f"{where}: {error!r}") from error
    return told


def _scrub(config: Path) -> Report:
    return scrub(config, repair=False).report


# -- mending --------------------------------------------------------------------------------


def mend_after(subject: Subject, flip: Flip, ground: Ground, place: Path) -> str:
    """Repair and scrub a copy with the bit flipped; what is left then, in one line. Raises Wrong.

    Where there is redundancy nothing is left: check and scrub find nothing more, and everything
    reads as it was written. Where there is none what is lost stays told, and nothing else is lost.
    """
    where = f"{subject.title}: {flip}"
    with _struck(subject, flip, place) as (world, catalog):
        before = _judged(subject, flip, world.kill(), _beside(catalog))
        with staged(world, place, subject.copies) as config:
            for mend in (repair, _scrub_and_mend):
                try:
                    mend(config)
                except ShmrError as error:
                    if must_be_mended(subject, flip.piece):
                        raise Wrong(f"{where}: {mend.__name__}: {error!r}") from error
                except Exception as error:
                    raise Wrong(f"{where}: {mend.__name__}: {error!r}") from error
            left = _told_by_all(config, where)
        if left and must_be_mended(subject, flip.piece):
            raise Wrong(f"{where}: after repair and scrub is left: {sorted(left)}")
        after = _judged(subject, flip, world, catalog, mended=True)
        if after.refused > before.refused or (after.error and not before.error):
            raise Wrong(f"{where}: read before: {before}, and after the repair: {after}")
        if after.refused and not left:
            raise Wrong(f"{where}: bytes are lost, and nothing says so any more")
    return ", ".join(sorted(left)) or "clean"


def _beside(catalog: Path) -> Path:
    """Another copy of the catalog."""
    beside = catalog.with_name("catalog.before")
    lay_down(files_in(catalog), beside)
    return beside


def _scrub_and_mend(config: Path) -> Report:
    return scrub(config).report
