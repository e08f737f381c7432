"""The status file: what it says, and that nobody ever reads half of it."""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from shmr.config import load
from shmr.drive.directory import DirectoryDrive
from shmr.drive.seam import Capacity
from shmr.errors import SetupError
from shmr.log.findings import Finding
from shmr.log.fragments import FragmentStore
from shmr.log.gather import Gather
from shmr.service.assemble import Drives
from shmr.service.mounted import watch as watching
from shmr.service.mounted.watch import Watch
from shmr.service.status import (
    DriveStatus,
    JobStatus,
    PoolStatus,
    StatusFacts,
    StatusWriter,
    refuse_inside,
    status_text,
)
from shmr.units import GIB, MIB, NS_PER_S
from shmr.volume.membership import PoolDrives

NOW_NS = 1_800_000_000 * NS_PER_S
FACTS = StatusFacts(
    "media",
    "mounted at /srv/media",
    (
        PoolStatus(
            "ssd0",
            "mirror of 2",
            800 * GIB,
            240 * GIB,
            (DriveStatus("/mnt/ssd0-1"), DriveStatus("/mnt/ssd0-2")),
        ),
        PoolStatus(
            "smr0",
            "erasure 2+1 (isa_l_rs_cauchy)",
            0,
            0,
            (DriveStatus("/mnt/smr-1", damaged=2), DriveStatus("/mnt/smr-10", "No such device")),
        ),
    ),
    (
        JobStatus("shift", "ssd0 to smr0", 23 * GIB, 100 * GIB, 210.0 * MIB, 375.4),
        JobStatus("snapshot", "being written"),
    ),
)


def test_the_text_is_in_the_spirit_of_mdstat() -> None:
    assert status_text(FACTS) == (
        "media : mounted at /srv/media\n"
        "\n"
        "ssd0 : mirror of 2\n"
        "      240.0 GiB of 800.0 GiB free [2/2] [UU]\n"
        "      /mnt/ssd0-1  up\n"
        "      /mnt/ssd0-2  up\n"
        "\n"
        "smr0 : erasure 2+1 (isa_l_rs_cauchy)\n"
        "      0 B of 0 B free [2/1] [U_]\n"
        "      /mnt/smr-1   up, 2 damaged units found\n"
        "      /mnt/smr-10  down: No such device\n"
        "\n"
        "shift : ssd0 to smr0\n"
        "      [====>...............]  23.0% (23.0 GiB of 100.0 GiB)  "
        "left=6:15  speed=210.0 MiB/s\n"
        "\n"
        "snapshot : being written\n"
    )


def test_an_idle_filesystem_says_so() -> None:
    assert status_text(StatusFacts("media", "not mounted")) == (
        "media : not mounted\n\nno job is running\n"
    )


def test_the_file_says_when_it_was_written_and_everybody_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "status"
    assert StatusWriter(path).write(FACTS, NOW_NS)
    assert path.read_text() == (
        status_text(FACTS) + f"\nwritten 2027-01-15 08:00:00 UTC by process {os.getpid()}\n"
    )
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["status"]


def test_it_is_replaced_and_never_changed_in_place(tmp_path: Path) -> None:
    path = tmp_path / "status"
    writer = StatusWriter(path)
    writer.write(FACTS, NOW_NS)
    with path.open() as reader:
        writer.write(replace(FACTS, jobs=()), NOW_NS)
        assert reader.read().startswith(status_text(FACTS))
    assert "no job is running" in path.read_text()


def test_nothing_is_written_while_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "status"
    writer = StatusWriter(path)
    assert writer.write(FACTS, NOW_NS)
    before = path.stat().st_ino
    assert not writer.write(FACTS, NOW_NS + 9 * NS_PER_S)
    assert path.stat().st_ino == before


def test_what_a_crash_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path, victim = tmp_path / "status", tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".status.new").symlink_to(victim)
    assert StatusWriter(path).write(FACTS, NOW_NS)
    assert (victim.read_text(), path.is_symlink()) == ("precious", False)


def test_a_file_that_cannot_be_written_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = StatusWriter(tmp_path / "absent" / "status")
    with caplog.at_level(logging.WARNING, "shmr.service"):
        assert not writer.write(FACTS, NOW_NS)
        assert not writer.write(FACTS, NOW_NS)
    assert [record.getMessage() for record in caplog.records] == [
        f"the status file {tmp_path}/absent/status cannot be written: No such file or directory"
    ]
    (tmp_path / "absent").mkdir()
    assert writer.write(FACTS, NOW_NS)


def test_a_path_that_is_no_text_is_shown_all_the_same(tmp_path: Path) -> None:
    pool = PoolStatus("a", "single", 1, 1, (DriveStatus("/mnt/\udcff"),))
    assert StatusWriter(tmp_path / "s").write(replace(FACTS, pools=(pool,)), NOW_NS)
    assert r"/mnt/\udcff  up" in (tmp_path / "s").read_text()


def test_a_status_file_inside_its_own_mount_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "mount")
    refuse_inside(tmp_path / "mount.status", str(tmp_path / "mount"))
    for name in ("mount", "link"):
        with pytest.raises(SetupError, match="lies inside the mount point"):
            refuse_inside(tmp_path / "mount" / "status", str(tmp_path / name))


# -- the daemon's task


def volume_of(workspace: list[DirectoryDrive], gather: Gather) -> Any:
    """What the task asks of a volume."""
    store = SimpleNamespace(drives=workspace)
    reader = SimpleNamespace(store=store)
    context = SimpleNamespace(
        reader=reader, gather=gather, fragments=gather.fragments, read_only="a trial"
    )
    return SimpleNamespace(
        read_only="a trial",
        snapshots=SimpleNamespace(running=False),
        context=context,
        catalog=SimpleNamespace(scan=lambda *range: iter(())),
    )


class HangingDrive(DirectoryDrive):
    """Asked for its capacity it waits until it is let go, as a drive that spins up does."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.asked = 0
        self.let_go = trio.Event()

    def capacity(self) -> Capacity:
        self.asked += 1
        trio.from_thread.run(self.let_go.wait)
        return super().capacity()


def test_a_drive_that_hangs_is_reported_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "PATIENCE_S", 0.05)
    monkeypatch.setattr(watching, "PERIOD_S", 0.01)
    for name in ("fine", "hangs"):
        (tmp_path / name).mkdir()
    config = tmp_path / "media.yaml"
    config.write_text(
        "filesystem: media\nstatus_file: status\npools:\n"
        "  - {name: ssd, priority: 0, scheme: single, drives: [fine, hangs, absent]}\n"
    )

    async def watch() -> None:
        fine, hanging = DirectoryDrive(tmp_path / "fine"), HangingDrive(tmp_path / "hangs")
        drives = Drives((PoolDrives("ssd", (fine, hanging)),), ("absent",), {})
        watch = Watch(load(config), drives, "/srv/media")
        volume = volume_of([fine, hanging], Gather(FragmentStore(b"f" * 16, {})))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run, volume)
                text = await text_with("[U__]")
                assert "does not answer" in text
                assert "absent  down: missing since the mount" in text
                for _ in range(20):
                    await trio.sleep(0.01)
                assert hanging.asked == 1
                hanging.let_go.set()
                await text_with("[UU_]")
                nursery.cancel_scope.cancel()
        watch.ended()
        assert (tmp_path / "status").read_text().startswith("media : not mounted\n")

    async def text_with(marks: str) -> str:
        while True:
            with_file = (tmp_path / "status").exists()
            text = (tmp_path / "status").read_text() if with_file else ""
            if marks in text:
                return text
            await trio.sleep(0.01)

    trio.run(watch)


def test_strangers_and_damaged_units_are_told(tmp_path: Path) -> None:
    for name in ("work", "mine", "strange"):
        (tmp_path / name).mkdir()
    config = tmp_path / "media.yaml"
    config.write_text(
        "filesystem: media\nstatus_file: status\npools:\n"
        "  - {name: ssd, priority: 0, scheme: single, drives: [work]}\n"
        "  - {name: smr, priority: 1, scheme: single, drives: [mine, strange]}\n"
    )

    async def watch() -> None:
        work, mine, strange = (DirectoryDrive(tmp_path / n) for n in ("work", "mine", "strange"))
        gather = Gather(FragmentStore(b"f" * 16, {b"m" * 16: mine}))
        for unit in (3, 4):
            gather.findings.note(Finding(b"m" * 16, 1, 0, 1, unit, "does not match its sum"))
        pools = (PoolDrives("ssd", (work,)), PoolDrives("smr", (mine, strange)))
        watch = Watch(load(config), Drives(pools, (), {}), "/srv/media")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run, volume_of([work], gather))
            with trio.fail_after(60):
                while not (tmp_path / "status").exists():
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(watch)
    text = (tmp_path / "status").read_text()
    assert "[1/1] [U]" in text and "[2/1] [U_]" in text
    assert f"{tmp_path}/mine     up, 2 damaged units found\n" in text
    assert f"{tmp_path}/strange  down: not the drive that belongs there" in text
