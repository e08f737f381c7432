"""Snapshots written by a process of its own, so that a million rows delay no request.

The child reads the catalog's last checkpoint through LMDB's own locking and writes segments under
numbers that the daemon set aside for it. It talks JSON over its standard input and output.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from shmr.catalog.catalog import checkpoint_of
from shmr.drive.directory import DirectoryDrive
from shmr.errors import DriveError, IntegrityError, NoSpace, SetupError, ShmrError
from shmr.format.rows import Place
from shmr.log import snapshot
from shmr.log.store import Segment, SegmentStore
from shmr.volume.snapshots import Order, Writer

TIMEOUT_S = 6 * 3600


def child_writer(store: SegmentStore, limits: dict[str, int | None]) -> Writer:
    """A writer that starts a child; `limits` are the drives' configured sizes by label."""

    def write(order: Order) -> snapshot.Snapshot:
        drives = [{"path": d.label, "limit": limits[d.label]} for d in store.drives]
        request = {
            "filesystem": store.filesystem.hex(),
            "drives": drives,
            "copies": store.copies,
            "catalog": order.catalog,
            "first_number": order.first_number,
            "segment_bytes": order.segment_bytes,
        }
        done = subprocess.run(
            [sys.executable, "-m", "shmr.service.snapshot"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise SnapshotFailed(f"the snapshot was not written: {' '.join(said)}")
        answer = json.loads(done.stdout)
        segments = tuple(Segment(n, s, tuple(where)) for n, s, where in answer["segments"])
        for segment in segments:
            for index in segment.drives:
                drive = store.drives[index]
                if isinstance(drive, DirectoryDrive):
                    drive.account(segment.name, drive.size(segment.name))
        return snapshot.Snapshot(segments, Place(*answer["place"]))

    return write


class SnapshotFailed(ShmrError):
    """The child could not write the snapshot; the journal stays, nothing is lost."""


def main() -> int:
    """The child: one request from standard input, one answer to standard output."""
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
            numbers = count(request["first_number"])
            made = snapshot.write(store, rows, place, numbers, request["segment_bytes"])
    except (DriveError, IntegrityError, NoSpace, SetupError) as error:
        print(error, file=sys.stderr)
        return 1
    segments = [[s.number, s.stream, s.drives] for s in made.segments]
    json.dump({"segments": segments, "place": list(made.place)}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
