"""`shmr-fsck` in a process that may take 256 MiB and no longer than some seconds.

RLIMIT_DATA and not RLIMIT_AS: LMDB reserves addresses, which are no memory. The last line on
standard output is JSON: the exit codes, and the most memory that was in use (KiB). That is asked of
/proc, as ru_maxrss counts what the parent had when the process was made.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shmr.cli.fsck.main import main
from shmr.units import MIB

MEMORY_BYTES = 256 * MIB
SECONDS = 30
"""Of a processor. How long that takes others decide, who use the machine too."""
WAIT_SECONDS = 110
FILE_BYTES = 512 * MIB


class Ended(NamedTuple):
    codes: list[int]
    out: str
    err: str
    peak_kib: int

    @property
    def code(self) -> int:
        """Of the last command line."""
        return self.codes[-1]


def confined(*lines: Sequence[str]) -> Ended:
    """Run command lines in such a process; asserts that it ended by itself, with a sentence."""
    command = [sys.executable, "-m", "tests.fsck.confined"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command,
        input=json.dumps(lines).encode(),
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, f"ended with {done.returncode}: {err[-4000:]}"
    assert "Traceback" not in err and "Exception ignored" not in err, err
    shown, _, last = out.rstrip("\n").rpartition("\n")
    verdict = json.loads(last)
    assert verdict["peak_kib"] * 1024 <= MEMORY_BYTES, verdict
    assert all(code in (0, 4, 8) for code in verdict["codes"]), verdict
    return Ended(verdict["codes"], shown, err, verdict["peak_kib"])


def run() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    codes = [main(line) for line in json.load(sys.stdin)]
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    print("\n" + json.dumps({"codes": codes, "peak_kib": int(peak.split()[1])}))


if __name__ == "__main__":
    run()
