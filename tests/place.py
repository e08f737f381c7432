"""A small filesystem on real directories that nobody mounts: its drives are changed."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from shmr import service
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.service.drives.list import ListedDrive
from shmr.service.offline import unmounted
from shmr.units import MIB
from shmr.volume.context import Caller

CONFIG = """\
filesystem: tests
catalog: catalog
same_device: {same_device}
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 2MiB
    drives:
      - {{path: work, size: 256MiB}}
  - name: cold
    priority: 10
    scheme: {{erasure: {{k: 2, m: 1}}}}
    zone_size: 2MiB
    drives:
{drives}
"""


class Place:
    """A filesystem in a directory: a workspace, and archive drives a, b, c, ..."""

    def __init__(self, base: Path, names: str = "abcd") -> None:
        self.base = base
        self.config = base / "config.yaml"
        (base / "work").mkdir()
        for name in names:
            (base / name).mkdir()
        self.configure(names)
        service.create(self.config)
        self.files: dict[bytes, bytes] = {}

    def configure(self, names: str, *, same_device: bool = True) -> None:
        drives = "\n".join(f"      - {{path: {name}, size: 64MiB}}" for name in names)
        text = CONFIG.format(drives=drives, same_device=str(same_device).lower())
        self.config.write_text(text)

    def path(self, name: str) -> str:
        return str(self.base / name)

    def fill(self, count: int = 6, *, seed: int = 1) -> None:
        """So many files, in a segment each."""
        rng = random.Random(seed)
        for _ in range(count):
            name = b"file%d" % len(self.files)
            content = rng.randbytes(rng.choice((MIB, MIB // 2, 3 * MIB)))
            with unmounted(load(self.config), read_only=False) as (volume, _pools):
                inode = volume.names.create(ROOT, name, 0o100644, Caller(0, 0))
                for at in range(0, len(content), MIB):
                    volume.data.write(inode.number, at, content[at : at + MIB])
            self.files[name] = content
            service.compact(self.config, paths=["/"], target="cold")

    def assert_files(self) -> None:
        with unmounted(load(self.config), read_only=True) as (volume, _pools):
            for name, content in self.files.items():
                inode = volume.names.lookup(ROOT, name)
                plan = volume.data.plan_read(inode.number, 0, len(content))
                try:
                    assert bytes(plan.fetch()) == content
                finally:
                    plan.release()
            assert volume.archive.strays() == []

    def listed(self) -> dict[str | None, ListedDrive]:
        """Archive drives by their names; None: those that are nowhere."""
        found = service.drive_list(self.config).drives
        return {d.path and Path(d.path).name: d for d in found if d.pool == "cold"}

    def widths(self) -> Counter[int]:
        with unmounted(load(self.config), read_only=True) as (volume, _pools):
            rows = volume.catalog.archived_segments()
            return Counter(len(archived.fragments) for _, archived in rows)


NEW_POOL = """\
  - name: cellar
    priority: 20
    scheme: {mirror: 2}
    zone_size: 2MiB
    drives:
      - {path: x, size: 64MiB}
      - {path: y, size: 64MiB}
"""


def name_new_pool(place: Place) -> None:
    """The config has a pool that was not there when the filesystem was made."""
    for name in "xy":
        (place.base / name).mkdir()
    place.config.write_text(place.config.read_text() + NEW_POOL)
