#!/usr/bin/env python3
"""Break the commands of shmr-fsck while they run, after random damage, and see what is left.

    tools/fsck_torture.py                              # one minute of all commands
    tools/fsck_torture.py --minutes 60 --seed 5000
    tools/fsck_torture.py --command repair --seed 57 --count 1      # replay one seed

Each seed: a small filesystem on simulated drives, some damage (bits, files, drives, the catalog,
the workspace), and one of repair, scrub, rebuild-drive and rebuild-catalog. It is run undisturbed;
then the power is cut at some of its operations, or it is killed there; then drives fail at some of
them, once or for good. What could be read stays readable and the same at every moment, and a second
run comes to what the undisturbed one came to. Only memory and a scratch directory are touched.

Exit code: 0 all seeds held, 1 one or more did not (each is told), 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shmr.testing.trial import scratch
from tests.fsck.subject import build, limits
from tests.fsck.torturing import COMMANDS, Broken, torture

LINE_EVERY_S = 10


def main() -> int:
    options = _options()
    logging.disable(logging.CRITICAL)  # thousands of damages are reported there, as they must be
    names = [options.command] if options.command else list(COMMANDS)
    seconds = None if options.minutes is None else options.minutes * 60
    if seconds is None and options.count is None:
        seconds = 60.0
    began = told = time.monotonic()
    seeds = cases = failures = 0
    with scratch() as place, limits():
        subjects = {
            f"{copies}-{clean}": build(place, copies=copies, clean=clean)
            for copies in (1, 2)
            for clean in (True, False)
        }
        try:
            while options.count is None or seeds < options.count:
                for name in names:
                    if seconds is not None and time.monotonic() - began > seconds:
                        options.count = seeds
                        break
                    try:
                        seed = options.seed + seeds
                        cases += torture(subjects, name, seed, place, full=options.full)
                    except Broken as broken:
                        failures += 1
                        _tell(broken, name, seed, full=options.full)
                    if time.monotonic() - told > LINE_EVERY_S:
                        told = time.monotonic()
                        print(f"{seeds} seeds, {cases} cases, {failures} broken", file=sys.stderr)
                seeds += 1
        except KeyboardInterrupt:
            print(f"interrupted at seed {options.seed + seeds}", file=sys.stderr)
            return 130
    print(f"{seeds} seeds, {cases} cases, {failures} broken, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


def _tell(broken: Broken, name: str, seed: int, *, full: bool) -> None:
    print(f"BROKEN: {broken}")
    cause: BaseException = broken
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if not isinstance(cause, Broken):
        print("".join(traceback.format_exception(cause, limit=-6)))
    options = f"--command {name} --seed {seed} --count 1" + " --full" * full
    print(f"replay: tools/fsck_torture.py {options}\n", flush=True)


def _options() -> argparse.Namespace:
    summary, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=more, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    parser.add_argument("--count", type=int, metavar="M", help="stop after this many seeds")
    parser.add_argument("--minutes", type=float, metavar="T", help="stop after this time (1)")
    parser.add_argument("--full", action="store_true", help="drives have next to no room")
    parser.add_argument("--command", choices=tuple(COMMANDS), help="only this command")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
