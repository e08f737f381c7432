"""A dry run says what the run then does: to the byte on every drive, with dead bytes to clean."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from shmr.config import load
from shmr.drive.file import DirectoryFile
from shmr.drive.seam import Buffer
from shmr.format.rows import ROOT
from shmr.service import compact
from shmr.service.assemble import create_filesystem, open_drives, open_filesystem
from shmr.service.moving.compact import Compaction
from shmr.testing.trial import scratch
from shmr.volume.context import Caller
from shmr.volume.volume import Volume

ME = Caller(0, 0)
CONFIG = """\
filesystem: tests
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 1MiB
    drives: [{{path: {base}/w, size: 96MiB}}]
    rules: [{{to: cold}}]
  - name: cold
    priority: 1
    scheme: {scheme}
    zone_size: 2MiB
    clean_at: 30%
    drives: [{drives}]
"""
SCHEMES = {
    "single": ("single", (30, 30, 44)),
    "mirror": ("{mirror: 2}", (30, 44, 60)),
    "2+1": ("{erasure: {k: 2, m: 1}}", (30, 30, 44, 30, 60)),
    "4+2": ("{erasure: {k: 4, m: 2}}", (30, 30, 30, 44, 30, 30)),
}


@contextmanager
def made(scheme: str) -> Iterator[Path]:
    text, sizes = SCHEMES[scheme]
    with scratch() as base:
        drives = []
        for index, size in enumerate(sizes):
            (base / f"c{index}").mkdir()
            drives.append(f"{{path: {base}/c{index}, size: {size}MiB}}")
        (base / "w").mkdir()
        path = base / "config.yaml"
        path.write_text(CONFIG.format(base=base, scheme=text, drives=", ".join(drives)))
        create_filesystem(load(path))
        yield path


def change(config: Path, work: Callable[[Volume], None]) -> None:
    settings = load(config)
    drives = open_drives(settings, degraded=False)
    volume = open_filesystem(settings, drives, read_only=False, degraded=False)
    work(volume)
    while volume.reaper.step():
        pass
    volume.close()
    drives.close()


def fill(volume: Volume, rng: random.Random, names: Sequence[bytes], mean: int) -> None:
    for name in names:
        number = volume.names.create(ROOT, name, 0o100644, ME).number
        volume.data.write(number, 0, rng.randbytes(1 + int(rng.expovariate(1 / mean))))


def disturb(volume: Volume, rng: random.Random, share: float) -> None:
    """Delete some files, and write over parts of others."""
    for name, inode, _ in list(volume.names.entries(ROOT, 0)):
        if rng.random() < share / 2:
            volume.names.unlink(ROOT, name)
            volume.handles.forgotten(inode.number)
        elif rng.random() < share:
            at = rng.randrange(inode.size)
            volume.data.write(inode.number, at, rng.randbytes(min(100_000, inode.size - at)))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Bytes that are appended to fragments, by the drive's path."""
    written: Counter[str] = Counter()
    append = DirectoryFile.append

    def count(self: DirectoryFile, buffers: Sequence[Buffer]) -> None:
        append(self, buffers)
        if self.name.startswith("fragment-"):
            written[self._drive.label] += sum(memoryview(b).nbytes for b in buffers)

    with monkeypatch.context() as patch:
        patch.setattr(DirectoryFile, "append", count)
        yield written


def foretold(planned: Compaction) -> Counter[str]:
    """Bytes by the drive's path, of all steps."""
    written: Counter[str] = Counter()
    for forecast in planned.forecasts:
        for drive in forecast.drives:
            written[drive.label] += drive.write_bytes
    return +written


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_run_does_what_was_foretold(
    scheme: str, flush: bool, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    with made(scheme) as config:
        k = 1 if scheme in ("single", "mirror") else int(scheme[0])
        change(config, lambda v: fill(v, rng, [b"a%d" % i for i in range(60 * k)], 250_000))
        compact(config)
        change(config, lambda v: disturb(v, rng, 0.9))
        change(config, lambda v: fill(v, rng, [b"b%d" % i for i in range(12 * k)], 250_000))
        planned = compact(config, dry_run=True, flush=flush)
        assert any(forecast.victims for forecast in planned.forecasts)
        with counted(monkeypatch) as written:
            seen: list[tuple[str, int, int]] = []
            done = compact(config, flush=flush, watcher=lambda *told: seen.append(told))
        assert foretold(planned) == written
        # The bar knows of cleaning, and ends at its end.
        assert all(one <= other for (_, one, _), (_, other, _) in pairwise(seen))
        assert all(reached <= total for _, reached, total in seen)
        assert seen[-1][1:] == (done.moved_bytes, done.moved_bytes)
        assert done.segments == sum(forecast.segments for forecast in planned.forecasts)
        assert done.moved_bytes == sum(forecast.file_bytes for forecast in planned.forecasts)
        assert done.waiting_bytes == sum(forecast.waiting_bytes for forecast in planned.forecasts)
        copies = {"single": 1.0, "mirror": 2.0}.get(scheme, 1.5)
        brought = sum(forecast.file_bytes for forecast in planned.forecasts if not forecast.victims)
        assert planned.write_amplification == pytest.approx(written.total() / copies / brought)
        after = {space.pool: space for space in compact(config, dry_run=True).space}
        for space in planned.space:
            # The journal goes on and segments are begun in the workspace; snapshots are kept.
            slack = (10 if space.pool == "work" else 4) * 2**20
            assert space.free_after_bytes == pytest.approx(after[space.pool].free_bytes, abs=slack)
        # That comes to an end: what a run leaves to be cleaned, a few more do.
        for _ in range(4):
            if not compact(config, flush=flush).segments:
                break
        assert not compact(config, flush=flush).segments
