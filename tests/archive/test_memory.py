"""The memory of a shift is bounded: 512 MiB at 10+4, however much is moved."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

from shmr.archive.plan import LOTS_MAX, Hold, Lot, shipments
from shmr.archive.write import RUN_UNITS, STEP_BYTES, STEPS_AHEAD
from shmr.format.fragment import UNIT_BYTES
from shmr.format.rows import Address
from shmr.log import gather
from shmr.service.moving.compact import READERS
from shmr.units import MIB

K, M = 10, 4
LIMIT_BYTES = 512 * MIB
INTERPRETER_BYTES = 96 * MIB
"""Of a process that has loaded everything: measured below."""

FILL = """
import random, sys
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.service.assemble import create_filesystem, open_drives, open_filesystem
from shmr.volume.context import Caller
config, rng = load(sys.argv[1]), random.Random(1)
create_filesystem(config)
drives = open_drives(config, degraded=False)
volume = open_filesystem(config, drives, read_only=False, degraded=False)
content = rng.randbytes(1 << 20)
for index in range(12):
    inode = volume.names.create(ROOT, b"file%d" % index, 0o100644, Caller(0, 0)).number
    for offset in range(0, 32 << 20, 1 << 20):
        volume.data.write(inode, offset, content)
    volume.commits.now()
volume.close()
drives.close()
"""
SHIFT = """
import json, re, sys
from pathlib import Path
from shmr.service import compact
def most():  # ru_maxrss has that of the process that started this one, too
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
base = most()
done = compact(sys.argv[1], everything=True, target="cold", flush=True)
print(json.dumps([done.moved_bytes, done.segments, base, most()]))
"""
CONFIG = """
filesystem: memory
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    drives: [{{path: {base}/w, size: 1GiB}}]
  - name: cold
    priority: 1
    scheme: {{erasure: {{k: 10, m: 4}}}}
    zone_size: 16MiB
    drives: [{drives}]
"""


def bytes_per_lot() -> float:
    """Memory of a lot in a shipment, its numbers too large to be shared."""
    count = 20_000
    lots = (
        Lot(10**7 + i, 10**6 + i, 4096, Address(10**6 + i, 10**7 + i, 10**5 + i, 10**4 + i))
        for i in range(count)
    )
    tracemalloc.start()
    try:
        [shipment] = shipments(lots, Hold(K, 256 * MIB), flush=True)
        assert len(shipment.stowed) == count
        return tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


def test_the_buffers_of_a_shift_and_what_it_knows_of_its_files_stay_within_the_limit() -> None:
    wide = (K + M) / K
    # Steps that wait for the drives, and the one that is gathered now.
    writing = (STEPS_AHEAD + 1) * STEP_BYTES * wide
    # Joined from pieces of files; units side by side for the coder, and what it returns.
    gathering = READERS * 2 * RUN_UNITS * UNIT_BYTES + 2 * (K + M) * UNIT_BYTES
    # What is read back is looked at where it is, and not copied.
    verifying = STEP_BYTES * wide + 2 * (K + M) * UNIT_BYTES
    # One segment is being verified, one written, one packed.
    knowing = 3 * LOTS_MAX * bytes_per_lot()
    everything = writing + gathering + verifying + knowing + gather.CACHE_BYTES
    assert everything + INTERPRETER_BYTES < LIMIT_BYTES


def test_a_shift_to_14_drives_takes_no_more_memory_than_it_may() -> None:
    with tempfile.TemporaryDirectory(prefix="shmr-memory-") as name:
        base = Path(name)
        paths = [base / f"a{index}" for index in range(K + M)]
        for path in (base / "w", *paths):
            path.mkdir()
        config = base / "config.yaml"
        drives = ", ".join(f"{path}" for path in paths)
        config.write_text(CONFIG.format(base=base, drives=drives), encoding="utf-8")
        run = [sys.executable, "-c"]
        subprocess.run([*run, FILL, str(config)], check=True, timeout=120)
        done = subprocess.run(
            [*run, SHIFT, str(config)], check=True, timeout=120, capture_output=True, text=True
        )
        moved, segments, before, most = json.loads(done.stdout.splitlines()[-1])
    assert moved == 12 * 32 * MIB
    assert segments > 2
    assert before < INTERPRETER_BYTES
    assert most < LIMIT_BYTES - 3 * LOTS_MAX * 512, "without what it knows of very many files"
