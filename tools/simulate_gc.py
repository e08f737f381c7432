#!/usr/bin/env python3
"""Write amplification of an archive pool: what cleaning costs at a given fullness.

Segments are filled, files in them die by deletes and overwrites, segments with dead bytes are
cleaned when zones are needed. Only numbers: no drive, no clock; one seed, one run.

    tools/simulate_gc.py                            # 80 % full, all scenarios: half a minute
    tools/simulate_gc.py --fullness 0.7             # the same, with less in the pool
    tools/simulate_gc.py --workspace 0.2 --file 0.1 # one scenario
    tools/simulate_gc.py --skew 0.1 --seed 7 --json

The model
    fullness    live bytes of the pool's capacity right after a shift: at its fullest. The rest is
                the over-provisioning; a segment's worth of zones of it is the cleaner's reserve.
    change      half are overwrites of a file; half delete files and make others, of other sizes, in
                their place. Either kills what the archive has of it at once, with nothing written.
    workspace   so much (of the pool's capacity) gathers there before a shift brings it; what is
                changed again meanwhile is never brought. 0: a segment is brought once there is one.
    purge       when the pool is at its fullest, so much (of its capacity) is deleted at a time, and
                comes back as new files. 0: room is made for one file at a time.
    file        mean size of a file as a part of a segment (exponential); 0: all as small as can be.
    skew        0.1: a tenth of the files gets 90 % of the changes; 0: uniformly random.

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
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shmr.core.victim import SegmentUse, to_clean

GOAL = 1.8
Policy = Callable[[list[SegmentUse], int, int, int], list[int]]
"""(segments, newest number, blocks wanted, blocks of room) -> numbers of the victims."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated; see the module's words. Sizes in blocks, the smallest size of a file."""

    fullness: float = 0.8
    workspace: float = 0.0
    purge: float = 0.0
    file: float = 0.0
    skew: float = 0.0
    segments: int = 128
    segment_blocks: int = 64
    turnovers: float = 4.0
    seed: int = 1

    @property
    def capacity(self) -> int:
        return self.segments * self.segment_blocks

    @property
    def batch(self) -> int:
        return max(self.segment_blocks, int(self.workspace * self.capacity))

    def bound(self) -> float:
        """Write amplification by the formula for small files and large segments."""
        live = self.fullness
        batch = max(self.workspace, self.purge, 1e-9)
        power = -math.log1p(-batch / live) / batch
        return 1.0 / (1.0 - _fixed(power))


def _fixed(power: float) -> float:
    """The u below 1 with u = exp(-power (1 - u)), by bisection; power is above 1."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(100):
        middle = (low + high) / 2
        if math.exp(-power * (1.0 - middle)) > middle:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True, slots=True)
class Outcome:
    """Blocks of the measured part of a run."""

    user: int
    brought: int
    moved: int
    cleaned: int

    @property
    def amplification(self) -> float:
        return (self.brought + self.moved) / self.brought

    @property
    def per_user_byte(self) -> float:
        return (self.brought + self.moved) / self.user

    @property
    def victim_live(self) -> float:
        """The share of a victim that lived, on average."""
        return self.moved / self.cleaned if self.cleaned else 0.0


def _by(score: Callable[[SegmentUse, int], float]) -> Policy:
    """The best by a score, as many as shmr would take."""

    def choose(uses: list[SegmentUse], newest: int, wanted: int, room: int) -> list[int]:
        chosen: list[int] = []
        won = live = 0
        for use in sorted(uses, key=lambda use: -score(use, newest)):
            enough = won >= wanted and live % use.size_bytes == 0
            if enough or live >= room or not use.dead_share:
                break
            chosen.append(use.number)
            before, live = live, live + use.live_bytes
            if won >= wanted and live // use.size_bytes > before // use.size_bytes:
                break
            won += use.size_bytes - use.live_bytes
        return chosen

    return choose


def _shmr(uses: list[SegmentUse], newest: int, wanted: int, room: int) -> list[int]:
    return to_clean(
        uses,
        newest=newest,
        dead_share_min=0.0,
        wanted_bytes=wanted,
        room_bytes=room,
        fill_bytes=uses[0].size_bytes,
    )


POLICIES: dict[str, Policy] = {
    "shmr": _shmr,
    "greedy": _by(lambda use, newest: use.dead_share),
    "cost-benefit": _by(
        lambda use, newest: use.dead_share * (newest - use.number + 1) / (2.0 - use.dead_share)
    ),
}


class Pool:
    """The archive pool and the workspace before it. Files are numbers; sizes are in blocks."""

    def __init__(self, setting: Setting, policy: Policy, rng: random.Random) -> None:
        self._setting = setting
        self._policy = policy
        self._rng = rng
        self._sizes: dict[int, int] = {}
        self._files: list[int] = []
        self._place_in_list: dict[int, int] = {}
        self._content: dict[int, dict[int, int]] = {}
        self._where: dict[int, list[int]] = {}
        self._live: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._waiting_blocks = 0
        self._next_segment = self._next_file = 0
        self.live = 0
        self.user = self.brought = self.moved = self.cleaned = 0

    def fill(self) -> None:
        """Up to the fullness, all of it in the archive."""
        peak = int(self._setting.fullness * self._setting.capacity)
        while self.live < peak:
            self._make(min(self._size(), peak - self.live))
            if self._waiting_blocks >= self._setting.batch:
                self.bring()
        self.bring()

    def change(self) -> None:
        """One change by a user: an overwrite, or deletes and a new file."""
        setting = self._setting
        if setting.purge == 0.0 and self._rng.random() < 0.5:
            number = self._any()
            self._forget(number)
            self._wait(number)
            return
        size = self._size()
        peak = int(setting.fullness * setting.capacity)
        if self.live + size > peak:
            while self.live + size > peak - int(setting.purge * setting.capacity):
                self._delete(self._any())
        self._make(size)

    @property
    def is_due(self) -> bool:
        """Is there enough for a shift?"""
        return self._waiting_blocks >= self._setting.batch

    def bring(self) -> None:
        """A shift: room is made, then what waits is written."""
        setting = self._setting
        for number in [number for number, live in self._live.items() if not live]:
            self._retire(number)
        needed = -(-self._waiting_blocks // setting.segment_blocks) + 1  # one more: the reserve
        while (free := setting.segments - len(self._live)) < needed:
            self._clean((needed - free) * setting.segment_blocks, free * setting.segment_blocks)
        waiting, self._waiting, self._waiting_blocks = self._waiting, {}, 0
        self.brought += self._write(waiting)

    def _clean(self, wanted: int, room: int) -> None:
        size = self._setting.segment_blocks
        uses = [SegmentUse(number, size, live) for number, live in self._live.items()]
        victims = self._policy(uses, self._next_segment, wanted, room)
        if not victims:
            raise SystemExit("no room left: the pool is too full for its reserve")
        live = sum(self._live[number] for number in victims)
        # Whole segments only; what is too little for one stays in the last victim.
        budget = min(room, live) // size * size or live
        moving: dict[int, int] = {}
        for number in victims:
            content = self._content[number]
            for file in list(content):
                part = min(content[file], budget)
                if not part:
                    break
                budget -= part
                moving[file] = moving.get(file, 0) + part
                self._live[number] -= part
                content[file] -= part
                if not content[file]:
                    del content[file]
                    self._where[file].remove(number)
        self.moved += self._write(moving)
        for number in victims:
            if not self._live[number]:
                self.cleaned += size
                self._retire(number)

    def _write(self, files: dict[int, int]) -> int:
        """Into new segments, one after the other; what was written."""
        size = self._setting.segment_blocks
        room, written = 0, 0
        for file, blocks in files.items():
            while blocks:
                if not room:
                    self._next_segment += 1
                    segment, room = self._next_segment, size
                    self._live[segment] = 0
                    content = self._content[segment] = {}
                part = min(blocks, room)
                content[file] = part
                self._live[segment] += part
                self._where[file].append(segment)
                blocks -= part
                room -= part
                written += part
        return written

    def _retire(self, number: int) -> None:
        del self._live[number], self._content[number]

    def _size(self) -> int:
        if not self._setting.file:
            return 1
        mean = self._setting.file * self._setting.segment_blocks
        return max(1, round(self._rng.expovariate(1.0 / mean)))

    def _any(self) -> int:
        """A file to change: any, or with a skew mostly one of the first of the list."""
        skew, count = self._setting.skew, len(self._files)
        if skew:
            hot = max(1, int(skew * count))
            if self._rng.random() < 1.0 - skew:
                return self._files[self._rng.randrange(hot)]
            return self._files[self._rng.randrange(hot, count)]
        return self._files[self._rng.randrange(count)]

    def _make(self, size: int) -> None:
        self._next_file += 1
        number = self._next_file
        self._sizes[number] = size
        self._where[number] = []
        self._place_in_list[number] = len(self._files)
        self._files.append(number)
        # A new file takes any place in the list: with a skew it is as often changed as others.
        self._swap(self._rng.randrange(len(self._files)), len(self._files) - 1)
        self.live += size
        self._wait(number)

    def _wait(self, number: int) -> None:
        size = self._sizes[number]
        self.user += size
        if number not in self._waiting:
            self._waiting[number] = size
            self._waiting_blocks += size

    def _delete(self, number: int) -> None:
        self._forget(number)
        waited = self._waiting.pop(number, 0)
        self._waiting_blocks -= waited
        self._swap(self._place_in_list[number], len(self._files) - 1)
        self._files.pop()
        del self._place_in_list[number], self._where[number]
        self.live -= self._sizes.pop(number)

    def _forget(self, number: int) -> None:
        """What the archive has of a file is dead."""
        for segment in self._where[number]:
            self._live[segment] -= self._content[segment].pop(number)
        self._where[number].clear()

    def _swap(self, one: int, other: int) -> None:
        files = self._files
        files[one], files[other] = files[other], files[one]
        self._place_in_list[files[one]] = one
        self._place_in_list[files[other]] = other


def simulate(
    setting: Setting, policy: Policy, progress: Callable[[float], None] = lambda share: None
) -> Outcome:
    """Half of the turnovers bring it into its stride, the other half is measured."""
    pool = Pool(setting, policy, random.Random(setting.seed))
    pool.fill()
    total = setting.turnovers * setting.capacity
    start = pool.user
    at = (0, 0, 0, 0)
    measuring = False
    while (done := pool.user - start) < total or not pool.is_due:
        pool.change()
        if pool.is_due and done < total:
            pool.bring()
            progress(min(1.0, done / total))
            if not measuring and done >= total / 2:
                measuring, at = True, (pool.user, pool.brought, pool.moved, pool.cleaned)
    pool.bring()
    now = (pool.user, pool.brought, pool.moved, pool.cleaned)
    return Outcome(*(after - before for after, before in zip(now, at, strict=True)))


SCENARIOS: tuple[tuple[str, dict[str, float]], ...] = (
    ("small files, nothing batched", {}),
    ("files of 1/10 segment", {"file": 0.1}),
    ("files of 1/2 segment", {"file": 0.5}),
    ("workspace 1/10 of the pool", {"workspace": 0.1}),
    ("workspace 1/5", {"workspace": 0.2}),
    ("workspace 1/4", {"workspace": 0.25}),
    ("workspace 1/10, files 1/10", {"workspace": 0.1, "file": 0.1}),
    ("purges of 1/5 at a time", {"purge": 0.2}),
    ("skewed: 1/10 gets 90 %", {"skew": 0.1}),
)
_OPTIONS = ("workspace", "purge", "file", "skew")


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
    bound = "-" if setting.skew else f"{setting.bound():.2f}"
    return f"{name:30}{bound:>7}{figures}{shmr.per_user_byte:14.2f}{reached:>7}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/simulate_gc.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    usual = Setting()
    parser.add_argument("--fullness", type=float, default=usual.fullness)
    for name in _OPTIONS:
        parser.add_argument(f"--{name}", type=float, help="one scenario instead of all")
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
    given = {name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name)}
    scenarios = [("as given", given)] if given else list(SCENARIOS)
    settings = [(name, replace(base, **options)) for name, options in scenarios]
    for _, setting in settings:
        shares = (setting.workspace, setting.purge, setting.skew)
        if not 0.0 < setting.fullness < 1.0 or not all(0.0 <= one < 1.0 for one in shares):
            raise SystemExit("--fullness, --workspace, --purge, --skew: parts of one")
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
        print(f"{'write amplification':30}{'bound':>7}{columns}{'per user byte':>14}{'< 1.8':>7}")
    try:
        for name, setting, outcomes in run(settings):
            if arguments.json:
                found = {
                    policy: {
                        "write_amplification": outcome.amplification,
                        "per_user_byte": outcome.per_user_byte,
                        "victim_live": outcome.victim_live,
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
