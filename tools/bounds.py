#!/usr/bin/env python3
"""What must stay bounded, measured on a real mount: memory, waiting, recovery, idleness.

    sudo python tools/bounds.py         # 1,000,000 files, 1,000,000 extents: half an hour
    sudo python tools/bounds.py --files 50000 --extents 50000 --directory /mnt/scratch

memory    resident memory of the daemon (its own, and the catalog's pages that are mapped) after
          making so many files, walking them, listing them with `ls -lR`, and mounting anew
recovery  how long a mount takes after SIGKILL, and after a clean unmount
sparse    a file of 1 PB is made, read and written at its end, and removed
waiting   a file of so many extents is deleted while another program makes and removes a small file
          over and over: its longest wait beside the deletion, and before it for comparison
idle      CPU that the daemon takes in 20 s without a request
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.mounted import MountedFilesystem

PETABYTE = 10**15
IDLE_S = 20.0
PROBE_S = 0.002
FILES_PER_DIRECTORY = 10_000


def say(name: str, text: str) -> None:
    print(f"{name:9} {text}", flush=True)


def daemon_of(filesystem: MountedFilesystem) -> int:
    for process in filesystem.processes():
        if b"shmr.service.mounted.daemon" in Path(f"/proc/{process}/cmdline").read_bytes():
            return process
    raise RuntimeError("the daemon is gone")


def memory(filesystem: MountedFilesystem, moment: str) -> None:
    wanted = {"VmRSS": "resident", "RssAnon": "its own", "RssFile": "of files", "VmHWM": "peak"}
    lines = Path(f"/proc/{daemon_of(filesystem)}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) for line in lines if "kB" in line}
    parts = (f"{text} {found[name] // 1024} MiB" for name, text in wanted.items())
    say("memory", f"{moment}: {', '.join(parts)}")


def many_files(filesystem: MountedFilesystem, count: int) -> None:
    memory(filesystem, "mounted")
    began = time.monotonic()
    for index in range(count):
        if index % FILES_PER_DIRECTORY == 0:
            directory = filesystem.path / f"d{index // FILES_PER_DIRECTORY}"
            directory.mkdir()
        os.close(os.open(directory / f"file{index}", os.O_CREAT | os.O_WRONLY))
    say("memory", f"{count:,} files made in {time.monotonic() - began:.0f} s")
    memory(filesystem, "made")
    found = sum(len(names) for _, _, names in os.walk(filesystem.path))
    assert found == count, f"{found} files found, {count} made"
    memory(filesystem, "walked")
    subprocess.run(["ls", "-lR", filesystem.path], stdout=subprocess.DEVNULL, check=True)
    memory(filesystem, "listed")
    for way in ("SIGKILL", "unmount"):
        filesystem.kill() if way == "SIGKILL" else filesystem.stop()
        began = time.monotonic()
        filesystem.start()
        say("recovery", f"after {way}: mounted in {time.monotonic() - began:.1f} s")
    memory(filesystem, "mounted anew")


def sparse(filesystem: MountedFilesystem) -> None:
    path = filesystem.path / "sparse"
    began = time.monotonic()
    with open(path, "wb+") as file:
        file.truncate(PETABYTE)
        assert os.pread(file.fileno(), 1 << 20, PETABYTE // 2) == bytes(1 << 20)
        os.pwrite(file.fileno(), b"end", PETABYTE - 3)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 4, PETABYTE - 4) == b"\0end"
    path.unlink()
    say("sparse", f"1 PB: {time.monotonic() - began:.2f} s")
    memory(filesystem, "sparse")


class Probe:
    """Makes and removes a small file, over and over, and notes its longest wait."""

    def __init__(self, directory: Path) -> None:
        self.waits_s: list[float] = []
        self._path = directory / "probe"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(PROBE_S):
            began = time.monotonic()
            self._path.touch()
            self._path.unlink()
            self.waits_s.append(time.monotonic() - began)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __str__(self) -> str:
        waits = sorted(self.waits_s)
        at = waits[len(waits) * 99 // 100]
        return f"99 % within {at * 1e3:.1f} ms, longest {waits[-1] * 1e3:.1f} ms of {len(waits)}"


def waiting(filesystem: MountedFilesystem, extents: int) -> None:
    path = filesystem.path / "extents"
    block = os.urandom(4096)
    with open(path, "wb", buffering=0) as file:
        for index in range(extents):
            os.pwrite(file.fileno(), block, 2 * 4096 * index)
        os.fsync(file.fileno())
    time.sleep(2)
    with Probe(filesystem.path) as probe:
        time.sleep(5)
    say("waiting", f"alone: {probe}")
    began = time.monotonic()
    with Probe(filesystem.path) as probe:
        path.unlink()
        seconds = time.monotonic() - began
        time.sleep(max(5.0, extents / 50_000))
    say("waiting", f"deleting {extents:,} extents: {probe}; unlink took {seconds * 1e3:.1f} ms")


def idle(filesystem: MountedFilesystem) -> None:
    process = daemon_of(filesystem)

    def cpu_s() -> float:
        tasks = Path(f"/proc/{process}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    time.sleep(3)
    before = cpu_s()
    time.sleep(IDLE_S)
    say("idle", f"{(cpu_s() - before) / IDLE_S * 100:.2f} % of a CPU over {IDLE_S:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--extents", type=int, default=1_000_000)
    parser.add_argument("--directory", default=None, help="where the drive is made")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="shmr-bounds-", dir=arguments.directory))
    filesystem = MountedFilesystem(base, drives=1, size="20GiB")
    try:
        filesystem.start()
        idle(filesystem)
        sparse(filesystem)
        waiting(filesystem, arguments.extents)
        many_files(filesystem, arguments.files)
        idle(filesystem)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    finally:
        filesystem.kill()
        filesystem.stop()
        shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
