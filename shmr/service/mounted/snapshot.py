"""Snapshots written by a process of its own, so that a million rows delay no request.

The child reads the catalog's last checkpoint through LMDB's own locking and writes segments under
numbers that the daemon set aside for it. It talks JSON over its standard input and output.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from shmr.catalog.catalog import checkpoint_of
from shmr.drive.directory import DirectoryDrive
from shmr.errors import DriveError, IntegrityError, NoSpace, SetupError, ShmrError
from shmr.format.records import Stream
from shmr.format.rows import Place
from shmr.log import snapshot
from shmr.log.store import Segment, SegmentStore, segment_name
from shmr.volume.snapshots import Order, Writer

POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


class SnapshotChildren:
    """Starts children and ends them; `limits` are the drives' configured sizes by label."""

    def __init__(self, limits: dict[str, int | None]) -> None:
        self._limits = limits
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End a child that runs, and start none: the daemon wants to go."""
        self._stopped.set()

    def writer(self, store: SegmentStore) -> Writer:
        """A writer for this store; it blocks, and may run in any thread."""

        def write(order: Order) -> snapshot.Snapshot:
            try:
                answer = json.loads(self._run(_request(store, order, self._limits)))
            except BaseException:
                _sweep(store, order)
                raise
            segments = tuple(Segment(n, s, tuple(where)) for n, s, where in answer["segments"])
            for segment in segments:
                for index in segment.drives:
                    drive = store.drives[index]
                    if isinstance(drive, DirectoryDrive):
                        drive.account(segment.name, drive.size(segment.name))
            return snapshot.Snapshot(segments, Place(*answer["place"]))

        return write

    def _run(self, request: str) -> bytes:
        """Start a child, give it the request, wait for its answer. Raises SnapshotFailed."""
        child = subprocess.Popen(
            [sys.executable, "-m", "shmr.service.mounted.snapshot", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        given: bytes | None = request.encode()
        while True:
            try:
                answer, errors = child.communicate(given, timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                given = None
                if self._stopped.is_set():
                    child.kill()
        if child.returncode != 0:
            said = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise SnapshotFailed(f"the snapshot was not written: {' '.join(said)}")
        return answer


def _request(store: SegmentStore, order: Order, limits: dict[str, int | None]) -> str:
    return json.dumps(
        {
            "filesystem": store.filesystem.hex(),
            "drives": [{"path": d.label, "limit": limits[d.label]} for d in store.drives],
            "copies": store.copies,
            "catalog": order.catalog,
            "first_number": order.first_number,
            "number_count": order.number_count,
            "segment_bytes": order.segment_bytes,
        }
    )


def _sweep(store: SegmentStore, order: Order) -> None:
    """Discard what a child that was ended left behind."""
    numbers = range(order.first_number, order.first_number + order.number_count)
    names = {segment_name(Stream.SNAPSHOT, number) for number in numbers}
    for drive in store.drives:
        for name in names.intersection(drive.names()):
            drive.discard(name)


class SnapshotFailed(ShmrError):
    """The child could not write the snapshot; the journal stays, nothing is lost."""


def die_with_parent(parent: int) -> None:
    """Have the kernel end us with the daemon: alone, we would write to drives we hold no lock on.

    prctl(2), PR_SET_PDEATHSIG. The daemon may be gone before the call.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main() -> int:
    """The child: one request from standard input, one answer to standard output."""
    die_with_parent(int(sys.argv[1]))
    request = json.load(sys.stdin)
    drives = [DirectoryDrive(d["path"], limit_bytes=d["limit"]) for d in request["drives"]]
    store = SegmentStore(
        bytes.fromhex(request["filesystem"]),
        drives,
        request["copies"],
        request["segment_bytes"],
        time.time_ns,
    )
    try:
        with checkpoint_of(Path(request["catalog"])) as (place, rows):
            first = request["first_number"]
            numbers = iter(range(first, first + request["number_count"]))
            made = snapshot.write(store, rows, place, numbers, request["segment_bytes"])
    except (DriveError, IntegrityError, NoSpace, SetupError) as error:
        print(error, file=sys.stderr)
        return 1
    segments = [[s.number, s.stream, s.drives] for s in made.segments]
    json.dump({"segments": segments, "place": list(made.place)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
