"""What a request costs the server: `python -m tests.fuse.measure [OPERATIONS] [ROUNDS]`, as root.

Serves a volume in memory, so that what is measured is the way of a request and nothing else.
Prints medians over the rounds: server CPU (/proc/PID/schedstat) and elapsed time, in microseconds
per operation of one client that does nothing but ask. Bind it to one processor (taskset) for
figures that a busy machine disturbs less.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from shmr.fuse.device import unmount


def cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def operations(top: Path, count: int) -> dict[str, Callable[[], None]]:
    def create() -> None:
        for index in range(count):
            os.close(os.open(top / f"file{index}", os.O_CREAT | os.O_WRONLY))

    def look_up() -> None:
        for index in range(count):
            os.path.lexists(top / f"missing{index}")

    def unlink() -> None:
        for index in range(count):
            os.unlink(top / f"file{index}")

    return {"create, close": create, "lookup": look_up, "unlink": unlink}


def measure(count: int) -> dict[str, tuple[float, float]]:
    """CPU and elapsed microseconds of each kind of operation, on a new mount."""
    place = Path(tempfile.mkdtemp(prefix="shmr-measure-"))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.child", str(place)], stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        found = {}
        for name, operation in operations(place, count).items():
            cpu, clock = cpu_s(server.pid), time.perf_counter()
            operation()
            elapsed = time.perf_counter() - clock
            found[name] = ((cpu_s(server.pid) - cpu) * 1e6 / count, elapsed * 1e6 / count)
        return found
    finally:
        unmount(str(place))
        server.communicate(timeout=30)
        place.rmdir()


def main() -> None:
    count, rounds = (int(word) for word in (*sys.argv[1:], "4000", "5")[:2])
    results = [measure(count) for _ in range(rounds)]
    print(f"{'operation':15} {'CPU us':>8} {'elapsed us':>11}")
    for name in results[0]:
        cpu, elapsed = (median(result[name][part] for result in results) for part in (0, 1))
        print(f"{name:15} {cpu:8.1f} {elapsed:11.1f}")


if __name__ == "__main__":
    main()
