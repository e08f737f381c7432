#!/usr/bin/env python3
"""Write amplification of an archive pool: what cleaning costs at a given fullness.

Segments are filled, files in them die by deletes and overwrites, segments with dead bytes are
cleaned when zones are needed. Packing and the choice of victims are the modules of shmr-compact;
but no drive, no clock: one seed, one run.

    tools/simulate_gc.py                            # 80 % full, all scenarios: two minutes
    tools/simulate_gc.py --fullness 0.7             # the same, with less in the pool
    tools/simulate_gc.py --workspace 0.2 --file 0.1 # one scenario
    tools/simulate_gc.py --skew 0.1 --seed 7 --json

The model
    fullness    live bytes of the pool's capacity right after a shift: at its fullest. The rest is
                the over-provisioning; a segment's worth of zones of it is the cleaner's reserve.
    change      half are overwrites of a file; half delete files and make others, of other sizes, in
                their place. Either kills what the archive has of it at once, with nothing written.
    shrink      what is deleted is not made again: measured from the fullness until half is left.
    workspace   so much (of the pool's capacity) is a reason for a shift, the oldest first; what is
                changed again meanwhile is never brought. 0: a segment is brought once there is one.
    keep        this part of the workspace, the newest, is left there: the default rule keeps half.
    purge       when the pool is at its fullest, so much (of its capacity) is deleted at a time, and
                comes back as new files. 0: room is made for one file at a time.
    file        mean size of a file as a part of a segment (exponential); 0: all as small as can be.
    skew        0.1: a tenth of the files gets 90 % of the changes; 0: uniformly random.
    clean at    segments with so much dead are cleaned after each shift, also where zones are free,
                as `clean_at` says; without it only when zones are needed.

    write amplification = (bytes brought + bytes moved by cleaning) / bytes brought
                          all of them written to the archive, data without parity
    per user byte       = the same writes / bytes that users wrote; smaller, because a file that is
                          overwritten in the workspace is brought once. The workspace's own write of
                          each byte is in neither.

What bounds it: of small files that die uniformly at random, in large segments, with nothing
batched, a share u of a victim lives when it is cleaned, where fullness = (u - 1) / ln u: each of
the pool's segments waits for its turn while the dying goes on. Then write amplification =
1 / (1 - u): 2.69 at 80 %, and 1.8 is reached at 68 %. That is the result of
Xiang and Kurkoski ("An Improved Analytic Expression for Write Amplification in NAND Flash", arXiv
1110.4245) for greedy choice; it holds for first in, first out as well. Where nothing tells what
will die, a choice of victims gains only what chance spreads: much when a segment has few files,
nothing when it has many. Batching gains always, for dying is then done before room is needed: with
a share b of the capacity at a time u = (1 - b / fullness) ** ((1 - u) / b), our own derivation.

The bound printed is that of small files that die uniformly: large ones can be better.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from gc_kit.policies import POLICIES
from gc_kit.pool import simulate
from gc_kit.setting import SCENARIOS, Outcome, Setting

GOAL = 1.8
_OPTIONS = ("workspace", "keep", "purge", "file", "skew", "clean_at")


class Progress:
    """How far it is, on a terminal: one line that moves."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._done = 0
        self._told = 0.0

    def of_run(self, share: float) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._told > 0.1:
            self._told = time.monotonic()
            percent = 100 * (self._done + share) / self._runs
            print(f"\r\033[K{percent:3.0f} %", end="", file=sys.stderr, flush=True)

    def end_run(self) -> None:
        self._done += 1
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(named: Sequence[tuple[str, Setting]]) -> Iterator[tuple[str, Setting, dict[str, Outcome]]]:
    """Each scenario with each policy, as they are done."""
    progress = Progress(len(named) * len(POLICIES))
    for name, setting in named:
        outcomes: dict[str, Outcome] = {}
        for policy, choose in POLICIES.items():
            outcomes[policy] = simulate(setting, choose, progress.of_run)
            progress.end_run()
        yield name, setting, outcomes


def _line(name: str, setting: Setting, outcomes: dict[str, Outcome]) -> str:
    figures = "".join(f"{outcomes[policy].amplification:14.2f}" for policy in POLICIES)
    shmr = outcomes["shmr"]
    reached = "yes" if round(shmr.amplification, 2) < GOAL else "no"
    formula = setting.bound()
    bound = "-" if formula is None else f"{formula:.2f}"
    return f"{name:36}{bound:>7}{figures}{shmr.per_user_byte:14.2f}{reached:>7}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/simulate_gc.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Setting()
    parser.add_argument("--fullness", type=float, default=usual.fullness)
    for name in _OPTIONS:
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=float, help="one scenario instead of all")
    parser.add_argument("--shrink", action="store_true", help="one scenario instead of all")
    parser.add_argument("--segments", type=int, default=usual.segments)
    parser.add_argument("--segment-blocks", type=int, default=usual.segment_blocks)
    parser.add_argument(
        "--turnovers", type=float, default=usual.turnovers, help="capacities written"
    )
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--json", action="store_true")
    return parser


def _settings(arguments: argparse.Namespace) -> list[tuple[str, Setting]]:
    base = Setting(
        fullness=arguments.fullness,
        segments=arguments.segments,
        segment_blocks=arguments.segment_blocks,
        turnovers=arguments.turnovers,
        seed=arguments.seed,
    )
    every = (*_OPTIONS, "shrink")
    given: dict[str, Any] = {n: getattr(arguments, n) for n in every if getattr(arguments, n)}
    scenarios: list[tuple[str, dict[str, Any]]]
    scenarios = [("as given", given)] if given else list(SCENARIOS)
    settings = [(name, replace(base, **options)) for name, options in scenarios]
    for _, setting in settings:
        shares = (setting.workspace, setting.keep, setting.purge, setting.skew)
        shares += (setting.clean_at or 0.0,)
        if not 0.0 < setting.fullness < 1.0 or not all(0.0 <= one < 1.0 for one in shares):
            raise SystemExit(
                "--fullness, --workspace, --keep, --purge, --skew, --clean-at: parts of one"
            )
        if max(setting.workspace, setting.purge) >= setting.fullness:
            raise SystemExit("--workspace, --purge: less than --fullness")
        if setting.segments < 16 or setting.segment_blocks < 8 or setting.file < 0.0:
            raise SystemExit("--segments 16 at least, --segment-blocks 8, --file 0")
        if setting.fullness * setting.segments > setting.segments - 3:
            raise SystemExit("--fullness: three segments at least must be left")
    return settings


def main() -> int:
    arguments = _parser().parse_args()
    settings = _settings(arguments)
    told: list[dict[str, object]] = []
    if not arguments.json:
        print(
            f"{arguments.fullness:.0%} full, {arguments.segments} segments of "
            f"{arguments.segment_blocks} blocks, {arguments.turnovers:g} capacities written "
            f"(the later half counts), seed {arguments.seed}\n"
        )
        columns = "".join(f"{policy:>14}" for policy in POLICIES)
        print(f"{'write amplification':36}{'bound':>7}{columns}{'per user byte':>14}{'< 1.8':>7}")
    try:
        for name, setting, outcomes in run(settings):
            if arguments.json:
                found = {
                    policy: {
                        "write_amplification": outcome.amplification,
                        "per_user_byte": outcome.per_user_byte,
                    }
                    for policy, outcome in outcomes.items()
                }
                told.append(
                    {"name": name, **asdict(setting), "bound": setting.bound(), "policies": found}
                )
            else:
                print(_line(name, setting, outcomes), flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted; what was simulated until then is above", file=sys.stderr)
        return 130
    finally:
        if arguments.json:
            print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
