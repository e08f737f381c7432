"""Every structure on the drives, every class of its bytes: a flipped bit is never read as data, and
check and scrub find it, or it is harmless by definition (`tests/fsck/harmless.py` says why), and
what can be mended is.

A sample for each kind of byte, by a seed; `tools/bitflips.py` goes over every bit.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.fsck.checking.check import check
from shmr.fsck.scrubbing.scrub import scrub
from shmr.testing.trial import scratch
from tests.fsck import flipping
from tests.fsck.harmless import ground_of
from tests.fsck.stage import staged
from tests.fsck.structures import covered, pieces_of
from tests.fsck.subject import Subject, build, copy_of, limits, look

WAYS = [(1, True), (1, False), (2, True), (2, False)]
SEED = 4
KINDS = 280
"""At least: fewer would mean that a structure is not in the subject any more."""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    logging.disable(logging.CRITICAL)  # each damage is reported there, as it must be
    with scratch() as directory, limits():
        yield directory
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def subjects(place: Path) -> dict[tuple[int, bool], Subject]:
    return {way: build(place, copies=way[0], clean=way[1]) for way in WAYS}


@pytest.mark.parametrize("way", WAYS)
def test_every_byte_on_the_drives_has_a_name(
    subjects: dict[tuple[int, bool], Subject], way: tuple[int, bool]
) -> None:
    subject = subjects[way]
    pieces = pieces_of(subject)
    sizes = {(d.label, name): d.size(name) for d in subject.world.drives for name in d.names()}
    sizes |= {("", name): len(content) for name, content in subject.files.items()}
    assert covered(subject, pieces) == {file: size for file, size in sizes.items() if size}
    assert len({piece.kind for piece in pieces}) >= KINDS


@pytest.mark.parametrize("way", WAYS)
def test_without_damage_everything_reads_as_it_was_written(
    place: Path, subjects: dict[tuple[int, bool], Subject], way: tuple[int, bool]
) -> None:
    subject = subjects[way]
    for read_only in (False, True):
        with copy_of(subject, place) as (world, catalog):
            assert look(subject, world, catalog, read_only=read_only).is_whole


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_bit_is_never_read_as_data(
    place: Path, subjects: dict[tuple[int, bool], Subject], way: tuple[int, bool], part: int
) -> None:
    """A part of the kinds of bytes of each subject: together every fourth."""
    subject = subjects[way]
    flips = list(flipping.sampled(subject, random.Random(SEED)))[part::16]
    assert len(flips) > KINDS // 18
    for flip in flips:
        flipping.read_after(subject, flip, place)


@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_bit_is_found_or_harmless(
    place: Path, subjects: dict[tuple[int, bool], Subject], way: tuple[int, bool], part: int
) -> None:
    subject = subjects[way]
    ground = ground_of(subject, place)
    flips = list(flipping.sampled(subject, random.Random(SEED)))[5 * part + WAYS.index(way) :: 25]
    found = [flipping.find_after(subject, flip, ground, place) for flip in flips]
    assert any(not told.startswith("harmless") for told in found)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_flipped_bit_is_found_while_it_is_mounted(
    place: Path, subjects: dict[tuple[int, bool], Subject], copies: int
) -> None:
    """What a crash left is what a mount has: drives that are ahead of the last checkpoint."""
    subject = subjects[copies, False]
    with copy_of(subject, place) as (world, _), staged(world, place, copies, mounted=True) as path:
        for report in (check(path), scrub(path).report):
            assert report.mounted and report.is_clean, report.findings
    ground = ground_of(subject, place)
    kinds = ("fragment", "kept", "snapshot", "data unit", "lmdb value of extent")
    flips = list(
        flipping.sampled(subject, random.Random(SEED), wanted=lambda kind: kind.startswith(kinds))
    )[copies::16]
    for flip in flips:
        told = flipping.find_after(subject, flip, ground, place, mounted=True)
        assert "Error" not in told or flip.piece.kind.startswith("lmdb")


@pytest.mark.parametrize("way", WAYS)
def test_a_flipped_bit_is_mended_where_there_is_redundancy(
    place: Path, subjects: dict[tuple[int, bool], Subject], way: tuple[int, bool]
) -> None:
    subject = subjects[way]
    ground = ground_of(subject, place)
    flips = list(flipping.sampled(subject, random.Random(SEED)))[WAYS.index(way) * 13 :: 70]
    assert len(flips) > 3
    for flip in flips:
        flipping.mend_after(subject, flip, ground, place)
