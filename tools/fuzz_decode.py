#!/usr/bin/env python3
"""Mutated drives, decoded: `shmr-fsck decode` never crashes, and writes nothing elsewhere.

    tools/fuzz_decode.py --seconds 600                     # guided by coverage: needs atheris
    tools/fuzz_decode.py --seed 3 --count 5000
    tools/fuzz_decode.py --plain --seed 3 --count 5000     # by chance alone, without atheris
    tools/fuzz_decode.py --replay crash-0123abcd           # one case again, or its bytes in hex

A small filesystem of every structure (tests/fsck/mutated.py) is mutated as a string of bytes says,
each part sealed with the checksum that belongs to it; then all of it is listed and decoded. An
error that is meant for people is right, anything else is a mistake, and so is more memory than
--memory. What is found belongs into tests/fsck/test_mutated.py, as the hex that is printed.

atheris is not needed for anything else: `pip install atheris` (CPython 3.11 to 3.13, Linux).
Without --seconds and --count it goes on until Ctrl-C. Exit code: 0 nothing found, 1 a mistake
(the case is printed, and kept in --keep), 2 atheris is missing.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MEMORY_MIB = 512
"""Of the process: the code that counts coverage takes some of it."""
CASE_SECONDS = 60


def main() -> int:
    arguments = _parse()
    logging.disable(logging.CRITICAL)
    if os.access("/dev/shm", os.W_OK):
        # Each case makes two catalogs, which are synced.
        tempfile.tempdir = "/dev/shm"
    if arguments.replay is not None:
        return replay(arguments.replay)
    if arguments.plain:
        return by_chance(arguments)
    return guided(arguments)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seed", type=int, default=1)
    add("--count", type=int, help="so many cases")
    add("--seconds", type=int, help="for so long")
    add("--plain", action="store_true", help="without atheris: cases by chance")
    add("--replay", metavar="CASE", help="a file with a case, or its bytes in hex")
    add("--corpus", metavar="DIR", help="where cases that reach something new are kept")
    add("--keep", metavar="DIR", default=".", help="where a case that fails is written")
    add("--memory", type=int, default=MEMORY_MIB, metavar="MIB")
    return parser.parse_args()


def replay(case: str) -> int:
    """One case, with its traceback."""
    from tests.fsck.mutated import attempt

    content = Path(case).read_bytes() if Path(case).is_file() else bytes.fromhex(case)
    attempt(content)
    print(f"{content.hex()}: nothing wrong")
    return 0


def by_chance(arguments: argparse.Namespace) -> int:
    """Cases of a seed, one after the other."""
    from tests.fsck.mutated import attempt, cases

    _limit_memory(arguments.memory)
    begun, done, found = time.monotonic(), 0, 0
    try:
        for content in cases(arguments.seed):
            if arguments.count is not None and done >= arguments.count:
                break
            if arguments.seconds is not None and time.monotonic() - begun >= arguments.seconds:
                break
            try:
                attempt(content)
            except Exception:
                found += 1
                print(f"\ncase {done} of seed {arguments.seed}: {content.hex()}")
                traceback.print_exc()
            done += 1
    except KeyboardInterrupt:
        pass
    seconds = time.monotonic() - begun
    print(f"seed {arguments.seed}: {done} cases in {seconds:.0f} s, {found} mistakes")
    return 1 if found else 0


def guided(arguments: argparse.Namespace) -> int:
    """Cases that reach what no other did are kept and changed further."""
    try:
        import atheris
    except ImportError:
        print("atheris is missing: `pip install atheris`, or --plain", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["shmr"]):
        from tests.fsck import mutated

    def one(content: bytes) -> None:
        try:
            mutated.attempt(content)
        except Exception:
            print(f"\nfailed: {content.hex()}", file=sys.stderr)
            raise

    corpus = arguments.corpus or tempfile.mkdtemp(prefix="shmr-corpus-")
    options: list[Any] = [
        sys.argv[0], corpus, f"-seed={arguments.seed}", f"-timeout={CASE_SECONDS}", "-max_len=400",
        f"-rss_limit_mb={arguments.memory}", f"-artifact_prefix={arguments.keep.rstrip('/')}/",
        "-print_final_stats=1",
    ]  # fmt: skip
    if arguments.count is not None:
        options.append(f"-runs={arguments.count}")
    if arguments.seconds is not None:
        options.append(f"-max_total_time={arguments.seconds}")
    if not os.listdir(corpus):
        for index, content in zip(range(50), mutated.cases(arguments.seed), strict=False):
            Path(corpus, f"begin-{index}").write_bytes(content)
    mutated.original()
    atheris.Setup(options, one)
    atheris.Fuzz()  # ends the process by itself
    return 0


def _limit_memory(limit_mib: int) -> None:
    limit = limit_mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
