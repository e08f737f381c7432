#!/usr/bin/env python3
"""Flip every bit of a small filesystem, one at a time, and see that none is ever read as data.

    tools/bitflips.py                                  # all kinds of bytes in turn, until Ctrl-C
    tools/bitflips.py --count 10000 --seed 3
    tools/bitflips.py --structure 'journal COMMIT'    # every bit of these
    tools/bitflips.py --list                           # the kinds of bytes, and how many there are

The filesystem is on simulated drives and has every structure of FORMAT.md; four of them: a
workspace of one drive and a mirror of two, left cleanly and by a crash. For each bit, by --stage:

    read    reading everything gives what was written or an error, and where there is redundancy
            no error
    find    check and scrub find it, unless it is harmless by definition (tests/fsck/harmless.py)
    mend    where there is redundancy, repair and scrub mend it; else what is lost stays told

The kinds of bytes take turns, each with an order of its own over all of its bits that the seed
gives; so after a while the small structures are done whole, and only file contents and empty space
are left. Every case runs in a child process, so that one that ends with a signal is told too.

Exit code: 0 every case held, 1 one or more did not (each is told when it happens), 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shmr.testing.trial import scratch
from tests.fsck import flipping
from tests.fsck.harmless import ground_of
from tests.fsck.structures import Flip
from tests.fsck.subject import Subject, Wrong, build, limits

WAYS = {"single-clean": (1, True), "single-crash": (1, False),
        "mirror-clean": (2, True), "mirror-crash": (2, False)}  # fmt: skip
BATCH = 50
LINE_EVERY_S = 10
Case = tuple[str, Flip]
Judge = Callable[[str, Flip], object]
STAGES = ("read", "find", "mend")


def cases(subjects: dict[str, Subject], seed: int, structure: str) -> Iterator[Case]:
    """All bits of all kinds of bytes whose name has `structure` in it, the kinds in turn."""
    turns: deque[tuple[str, Iterator[Flip]]] = deque()
    for title, subject in subjects.items():
        for kind, pieces in flipping.by_kind(subject).items():
            if structure in kind:
                rng = random.Random(f"{seed} {title} {kind}")
                turns.append((title, flipping.every(pieces, rng)))
    while turns:
        title, flips = turns.popleft()
        flip = next(flips, None)
        if flip is not None:
            yield title, flip
            turns.append((title, flips))


def judge_of(stage: str, subjects: dict[str, Subject], place: Path) -> Judge:
    """What is asked of each case."""
    if stage == "read":
        return lambda title, flip: flipping.read_after(subjects[title], flip, place)
    grounds = {title: ground_of(subject, place) for title, subject in subjects.items()}
    ask = flipping.find_after if stage == "find" else flipping.mend_after
    return lambda title, flip: ask(subjects[title], flip, grounds[title], place)


def run(judge: Judge, batch: list[Case]) -> Iterator[str]:
    """The cases of a batch in a child; what did not hold, a paragraph each."""
    while batch:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            _in_child(judge, batch, writing)
        os.close(writing)
        with os.fdopen(reading) as told:
            lines = told.read().split("\0")
        status = os.waitpid(child, 0)[1]
        done = sum(line == "done" for line in lines)
        yield from (line for line in lines if line and line != "done")
        if done < len(batch):
            title, flip = batch[done]
            yield f"{title}: {flip}: the process ended with status {status}"
        batch = batch[done + 1 :]


def _in_child(judge: Judge, batch: list[Case], writing: int) -> None:
    try:
        for title, flip in batch:
            try:
                judge(title, flip)
            except Wrong as wrong:
                os.write(writing, str(wrong).encode(errors="replace")[:4000] + b"\0")
            os.write(writing, b"done\0")
    finally:
        os._exit(0)


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)  # thousands of damages are reported there, as they must be
    with scratch() as place, limits():
        ways = [options.subject] if options.subject else list(WAYS)
        subjects = {
            title: build(place, copies=WAYS[title][0], clean=WAYS[title][1]) for title in ways
        }
        if options.list:
            _list(subjects, options.structure)
            return 0
        left = cases(subjects, options.seed, options.structure)
        return _campaign(judge_of(options.stage, subjects, place), islice(left, options.count))


def _campaign(judge: Judge, left: Iterator[Case]) -> int:
    began = told = time.monotonic()
    count = failures = 0
    try:
        while batch := list(islice(left, BATCH)):
            for wrong in run(judge, batch):
                failures += 1
                print(f"WRONG: {wrong}\n", flush=True)
            count += len(batch)
            if time.monotonic() - told > LINE_EVERY_S:
                told = time.monotonic()
                print(f"{count} bits, {failures} wrong, {told - began:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"interrupted after {count} bits, {failures} wrong", file=sys.stderr)
        return 130
    print(f"{count} bits, {failures} wrong, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


def _list(subjects: dict[str, Subject], structure: str) -> None:
    total: Counter[str] = Counter()
    for subject in subjects.values():
        for kind, pieces in flipping.by_kind(subject).items():
            if structure in kind:
                total[kind] += sum(piece.length for piece in pieces)
    for kind, size in sorted(total.items()):
        print(f"{size:9} {kind}")


def _options() -> argparse.Namespace:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (0)")
    parser.add_argument("--count", type=int, metavar="M", help="stop after this many bits")
    parser.add_argument(
        "--structure",
        default="",
        metavar="TEXT",
        help="only kinds of bytes that are called so",
    )
    parser.add_argument("--stage", choices=STAGES, default="read", help="what is asked (read)")
    parser.add_argument("--subject", choices=tuple(WAYS), help="only this filesystem")
    parser.add_argument("--list", action="store_true", help="tell the kinds of bytes, and end")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
