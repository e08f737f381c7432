"""`shmr-decode.py` run as a stranger runs it: another process, no packages, nothing but drives."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from shmr.archive import leave
from shmr.units import MIB

PROGRAM = Path(leave.__file__).with_name("shmr-decode.py")
INCOMPLETE = b".shmr-incomplete"
WHOLE, MISSING, FAILED = 0, 4, 8
MEMORY_BYTES = 256 * MIB
OLDEST = (3, 8)
WRITTEN = bytes([0] + [255] * 255)
"""By this table zeros stay zeros."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a run said."""

    code: int
    out: str
    notes: str


def pythons() -> list[str]:
    """Every Python from 3.8 on that this machine has, by its path; ours is one of them."""
    found = {sys.executable}
    for minor in range(8, 30):
        path = shutil.which(f"python3.{minor}")
        if path is None:
            continue
        answer = subprocess.run(
            [path, "-I", "-S", "-c", "import sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if answer.returncode == 0:
            found.add(answer.stdout.strip())
    return sorted(found)


def decode(
    *words: object,
    python: str = sys.executable,
    memory_bytes: int | None = None,
    limit_s: float = 60,
) -> Said:
    """Run the program without the packages and variables of this process."""

    def limit() -> None:
        if memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))

    done = subprocess.run(
        [python, "-I", "-S", str(PROGRAM), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={"PATH": "/nowhere", "LC_ALL": "C.UTF-8"},
        cwd="/",
        preexec_fn=limit,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)
