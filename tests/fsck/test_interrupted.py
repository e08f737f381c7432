"""Commands of the checker that are cut off, killed, or struck by a fault, after random damage.

Nothing that could be read is lost, and a second run comes to what an undisturbed one comes to. Here
some seeds; `tools/fsck_torture.py` goes on with others for as long as one likes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmr.testing.trial import scratch
from tests.fsck.subject import Subject, build, limits
from tests.fsck.torturing import COMMANDS, torture

FOUND = [
    ("repair", 2),  # cut off behind the switch of a fragment: the next did not settle it
    ("repair", 100),
    ("repair", 14),  # a superblock was removed before the new one was durable
    ("rebuild-catalog", 3),  # a superblock torn by the first change: "not empty"
]
"""Seeds that once found something, with what."""
SEEDS = [(name, seed) for name in COMMANDS for seed in (100, 101)]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    logging.disable(logging.CRITICAL)  # each damage is reported there, as it must be
    with scratch() as directory, limits():
        yield directory
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def subjects(place: Path) -> dict[str, Subject]:
    return {
        f"{copies}-{clean}": build(place, copies=copies, clean=clean)
        for copies in (1, 2)
        for clean in (True, False)
    }


@pytest.mark.parametrize(("name", "seed"), FOUND)
def test_what_was_found_once(
    place: Path, subjects: dict[str, Subject], name: str, seed: int
) -> None:
    torture(subjects, name, seed, place)


@pytest.mark.parametrize(("name", "seed"), SEEDS)
def test_a_command_that_is_interrupted_anywhere_is_completed_by_the_next(
    place: Path, subjects: dict[str, Subject], name: str, seed: int
) -> None:
    torture(subjects, name, seed, place, images=1)
