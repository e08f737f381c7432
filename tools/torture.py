#!/usr/bin/env python3
"""Break volumes on simulated drives for as long as you like, and see whether they keep their word.

    tools/torture.py                              # one minute of everything
    tools/torture.py --minutes 60 --seed 5000
    tools/torture.py --kind cuts --copies 2 --count 200
    tools/torture.py --kind faults --copies 1 --seed 57 --count 1     # replay one seed

Kinds: cuts (power cuts at every change, and within the recoveries), faults (a drive's error at
any operation), losses (drives lost and bits flipped under two copies), rot (bits flipped under
one), catalogs (LMDB's file bent). Each seed is one workload. Nothing but memory and a scratch
directory is touched.

Exit code: 0 all seeds held, 1 one failed (its seed, history and replay are printed), 130
interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections.abc import Callable

from shmr.testing.damage import catalogs, losses, rot
from shmr.testing.torture import faults, power_cuts
from shmr.testing.trial import Failure

KINDS: dict[str, Callable[[int, int], int]] = {
    "cuts": lambda seed, copies: power_cuts(seed, copies=copies, count=90),
    "faults": lambda seed, copies: faults(seed, copies=copies),
    "losses": lambda seed, copies: losses(seed),
    "rot": lambda seed, copies: rot(seed),
    "catalogs": lambda seed, copies: catalogs(seed, copies=copies),
}
LINE_EVERY_S = 10


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere."""

    def __init__(self, count: int | None, seconds: float | None) -> None:
        self._count = count
        self._seconds = seconds
        self._began = self._told = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self.seeds = 0
        self.images = 0

    def ended(self) -> bool:
        passed = time.monotonic() - self._began
        over = self._seconds is not None and passed >= self._seconds
        return over or (self._count is not None and self.seeds >= self._count)

    def tell(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if not (self._terminal or last or now - self._told >= LINE_EVERY_S):
            return
        self._told = now
        line = f"{self.seeds} seeds, {self.images} images, {now - self._began:.0f} s"
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)
            return
        shares = [(now - self._began) / self._seconds] if self._seconds else []
        shares += [self.seeds / self._count] if self._count else []
        done = int(30 * min(1.0, max(shares, default=0.0)))
        bar = "#" * done + "-" * (30 - done)
        print(f"\r[{bar}] {line}", end="\n" if last else "", file=sys.stderr, flush=True)


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)  # thousands of damages are reported there, as they must be
    seconds = options.minutes * 60 if options.minutes is not None else None
    if seconds is None and options.count is None:
        seconds = 60.0
    progress = Progress(options.count, seconds)
    kinds = [options.kind] if options.kind else list(KINDS)
    seed = options.seed
    try:
        while not progress.ended():
            for kind in kinds:
                for copies in [options.copies] if options.copies else [1, 2]:
                    if not _one(kind, seed, copies, progress):
                        return 1
                    if seconds is not None and progress.ended():
                        break
            progress.seeds += 1
            seed += 1
    except KeyboardInterrupt:
        progress.tell(last=True)
        print(f"interrupted at seed {seed}; all before it held", file=sys.stderr)
        return 130
    progress.tell(last=True)
    return 0


def _one(kind: str, seed: int, copies: int, progress: Progress) -> bool:
    """One seed of one kind; False if it failed, and that is told."""
    try:
        progress.images += KINDS[kind](seed, copies)
    except Failure as failure:
        progress.tell(last=True)
        cause: BaseException = failure
        while cause.__cause__ is not None:
            cause = cause.__cause__
        print(f"FAILED: {failure}\n", "".join(traceback.format_exception(cause)), sep="\n")
        print(f"replay: tools/torture.py --kind {kind} --copies {copies} --seed {seed} --count 1")
        return False
    progress.tell()
    return True


def _options() -> argparse.Namespace:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    parser.add_argument("--count", type=int, metavar="M", help="stop after this many seeds")
    parser.add_argument("--minutes", type=float, metavar="T", help="stop after this time (1)")
    parser.add_argument("--copies", type=int, choices=(1, 2), help="copies kept (both in turn)")
    parser.add_argument("--kind", choices=tuple(KINDS), help="only this kind of torture")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
