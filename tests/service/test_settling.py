"""The daemon puts in order what a shift that was cut off left; a drive that hangs keeps nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from shmr.archive.shift import Shift
from shmr.log.log import SyncJob
from shmr.service.mounted.committer import Committer
from shmr.service.mounted.maintenance import Maintenance
from shmr.testing.hanging import HangingDrive
from shmr.volume.cleaner import run_inline
from shmr.volume.holds import held
from shmr.volume.volume import Volume
from tests.archive.site import Site, pool_of, small_limits

LIMIT_S = 60.0
Ended = Callable[[Exception | None], None]


class CutOff(Exception):
    """Where the shift ends in this test."""


@pytest.fixture(params=["before", "behind"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Files on their way to a mirror: cut off before the switch, or behind it."""
    with small_limits(), pytest.MonkeyPatch.context() as patch:
        made = Site(tmp_path, pool_of("mirror"))
        volume = made.open()
        made.fill(volume)

        def cut_off(*_: object, **__: object) -> None:
            raise CutOff

        if request.param == "before":
            patch.setattr(volume.archive, "switch", cut_off)
        else:
            patch.setattr(volume.snapshots, "make", cut_off)
        with pytest.raises(CutOff):
            shift = Shift(volume, made.pools)
            run_inline(shift.to_archive(made.lots(volume), made.pools[0], flush=True))
        volume.commits.now()
        volume.abandon()
        yield made


def sync(job: SyncJob, ended: Ended) -> None:
    job.run()
    ended(None)


def serve(volume: Volume, site: Site, until: Callable[[], bool]) -> None:
    """Maintenance of a mounted volume, until something is so: looked at in a thread."""

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                committer = Committer(volume, sync)
                nursery.start_soon(committer.run)
                nursery.start_soon(Maintenance(volume, committer, site.pools).run)
                while not await trio.to_thread.run_sync(until):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_the_archive_is_in_order_soon_after_the_mount(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    volume = site.open()
    assert held(volume.catalog) or volume.archive.strays()
    with caplog.at_level("INFO", "shmr.service"):
        serve(volume, site, lambda: "the archive is in order" in caplog.text)
    assert held(volume.catalog) == {}
    site.assert_files(volume)
    site.assert_nothing_astray(volume)
    volume.close()
    volume = site.open()
    site.assert_files(volume)
    volume.close()


@pytest.mark.parametrize("site", ["behind"], indirect=True)
def test_a_drive_that_hangs_while_it_is_put_in_order_is_left_behind(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    volume = site.open()
    fragments = volume.context.fragments
    drives = {drive_id: HangingDrive(drive) for drive_id, drive in fragments.drives.items()}
    fragments.drives.update(drives)
    for drive in drives.values():
        drive.hang(opening=True)
    try:
        # Copies of the snapshot are read back: the first of them hangs.
        serve(volume, site, lambda: any(drive.waiting for drive in drives.values()))
        assert held(volume.catalog)
        volume.close()
        volume = site.open()
        with caplog.at_level("INFO", "shmr.service"):
            serve(volume, site, lambda: "the archive is in order" in caplog.text)
        assert held(volume.catalog) == {}
        site.assert_files(volume)
        site.assert_nothing_astray(volume)
        volume.close()
    finally:
        # Not before: the thread that was left behind would go on, as none does whose process ended.
        for drive in drives.values():
            drive.let_go(failing=True)
