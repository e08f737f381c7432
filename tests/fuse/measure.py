"""What a request costs the server: `python -m tests.fuse.measure [OPERATIONS] [ROUNDS]`, as root.

Serves a volume in memory, so that what is measured is the way of a request and nothing else, with
both ways to wait for requests in turn: pyfuse3's own, and the gate. Prints medians over the
rounds: server CPU (from /proc/PID/stat) and elapsed time, in microseconds per operation of one
client that does nothing but ask.
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

import pyfuse3

from shmr.fuse import loop, session
from shmr.fuse.device import unmount
from tests.fuse import child

WAYS = ("pyfuse3", "gate")


class Original(loop.Gate):
    """Waits as pyfuse3 does by itself."""

    async def wait(self) -> bool:
        if self._finish is not None and not self._first():
            return True
        return bool(await _ORIGINAL())


_ORIGINAL = vars(pyfuse3)["_wait_fuse_readable"]


def serve(way: str, path: str) -> None:
    """The server's side: `child` with another gate."""
    gates: dict[str, Callable[..., loop.Gate]] = {
        "pyfuse3": Original,
        "gate": loop.Gate,
    }
    vars(session)["Gate"] = gates[way]
    sys.argv = ["child", path]
    child.main()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def measure(way: str, count: int) -> dict[str, tuple[float, float]]:
    """CPU and elapsed microseconds of each kind of operation, on a new mount."""
    place = Path(tempfile.mkdtemp(prefix="shmr-measure-"))
    command = [sys.executable, "-m", "tests.fuse.measure", "serve", way, str(place)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        found = {}
        for name, run in operations(place, count).items():
            before, start = cpu_s(server.pid), time.perf_counter()
            run()
            elapsed = time.perf_counter() - start
            found[name] = (cpu_s(server.pid) - before) / count * 1e6, elapsed / count * 1e6
        return found
    finally:
        unmount(str(place), lazy=True)
        server.wait(30)
        place.rmdir()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[str, list[dict[str, tuple[float, float]]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(measure(way, count))
    print(f"{'':14}" + "".join(f"{way:>22}" for way in WAYS))
    for name in found[WAYS[0]][0]:
        line = f"{name:14}"
        for way in WAYS:
            cpu = median(each[name][0] for each in found[way])
            elapsed = median(each[name][1] for each in found[way])
            line += f"{cpu:9.0f} cpu{elapsed:6.0f} us"
        print(line)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3])
    else:
        main()
