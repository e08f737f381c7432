#!/usr/bin/env python3
"""A campaign: load, SIGKILL (or unmount), damage to the catalog, mount, judge; round after round.

    tools/kill9.py --rounds 50 --seed 3 --scheme 'mirror: 2' --damage

Each round prints what it did and how long the next mount took; anything acknowledged and lost
ends the campaign with exit code 1 and leaves the filesystem's directories for a look.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.crash.damage import DAMAGES, catalog_of, doubtful
from tests.crash.load import Load
from tests.mounted import MountedFilesystem


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheme", choices=("single", "mirror: 2"), default="single")
    parser.add_argument("--size", default="1GiB", help="limit of each of the two drives")
    parser.add_argument("--each", type=int, default=2, help="workers of each kind")
    parser.add_argument("--changes", type=int, default=3000, help="at most, between two kills")
    parser.add_argument("--damage", action="store_true", help="bend or lose the catalog too")
    parser.add_argument("--under", default=None, help="where to make the drives")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    scheme = "single" if arguments.scheme == "single" else "{mirror: 2}"
    base = Path(tempfile.mkdtemp(prefix="shmr-kill9-", dir=arguments.under))
    filesystem = MountedFilesystem(base, scheme=scheme, size=arguments.size)
    load = Load(filesystem, each=arguments.each)
    print(f"in {base}")
    good = False
    try:
        filesystem.start()
        for number in range(arguments.rounds):
            what = one_round(filesystem, load, rng, arguments)
            lost = load.lost()
            print(f"round {number + 1}/{arguments.rounds}: {what}, {len(lost)} lost", flush=True)
            if lost:
                print("\n".join(lost[:20]))
                return 1
        good = True
        return 0
    finally:
        load.end()
        filesystem.kill()
        filesystem.stop()
        if good:
            shutil.rmtree(base)


def one_round(
    filesystem: MountedFilesystem,
    load: Load,
    rng: random.Random,
    arguments: argparse.Namespace,
) -> str:
    load.begin()
    before = load.count()
    load.run_for(rng.randint(1, arguments.changes))
    if rng.random() < 0.2:
        load.end()
        filesystem.stop()
        what = "unmounted"
    else:
        filesystem.kill()
        load.end()
        what = "killed"
    what += f" after {load.count() - before} changes"
    if arguments.damage:
        name = rng.choice(sorted(DAMAGES))
        DAMAGES[name](catalog_of(filesystem), rng)
        what += f", catalog {name}"
    started = time.monotonic()
    filesystem.start()
    what += f", mounted in {time.monotonic() - started:.2f} s"
    return what + f" ({len(doubtful(filesystem))} set aside)"


if __name__ == "__main__":
    sys.exit(main())
