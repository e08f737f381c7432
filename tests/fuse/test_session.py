"""The life of a mount: it begins whole, and however it ends, nothing stays mounted."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from shmr.fuse import loop
from shmr.fuse.device import is_dead_mount, mounted_filesystem, unmount
from shmr.fuse.options import Atime, MountOptions
from tests.fuse.serving import LIMIT_S, Served, served

pytestmark = pytest.mark.mount

NOBODY = 65534


def mount_line(path: Path) -> str:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return next(line for line in lines if f" {path} " in line)


def test_the_mount_shows_its_type_its_name_and_its_options(point: Path) -> None:
    with served(point, MountOptions(allow_other=True, exec=False, atime=Atime.NEVER)):
        found = mounted_filesystem(str(point))
        assert found is not None
        assert (found.filesystem_type, found.source) == ("fuse.shmr", "memory")
        line = mount_line(point)
        for word in ("nosuid", "nodev", "noexec", "noatime", "allow_other", "default_permissions"):
            assert word in line, line
    assert mounted_filesystem(str(point)) is None


def test_a_read_only_mount_refuses_changes_in_the_kernel(point: Path) -> None:
    with served(point, MountOptions(read_only=True)) as mount:
        with pytest.raises(OSError, match="Read-only"):
            (point / "file").touch()
        assert mount.volume.calls["create"] == 0


def test_the_kernel_reads_ahead_further_than_by_default(mount: Served) -> None:
    found = mounted_filesystem(str(mount.path))
    assert found is not None
    setting = Path(f"/sys/class/bdi/{found.device}/read_ahead_kb")
    assert int(setting.read_text()) == 1024


def test_an_unmount_from_outside_ends_the_server(mount: Served) -> None:
    (mount.path / "file").write_bytes(b"x")
    unmount(str(mount.path))
    mount.wait()
    assert bytes(mount.volume.contents[2]) == b"x"


def test_a_cancelled_server_writes_dirty_pages_back_first(mount: Served) -> None:
    descriptor = os.open(mount.path / "file", os.O_CREAT | os.O_RDWR)
    try:
        os.write(descriptor, b"dirty" * 100_000)
        mount.stop()  # in use: it is taken out of the tree
        assert bytes(mount.volume.contents[2]) == b"dirty" * 100_000
        assert mounted_filesystem(str(mount.path)) is None
        with pytest.raises(OSError, match="not connected"):
            os.fsync(descriptor)
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def open_files() -> list[str]:
    """What the descriptors of this process are."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{descriptor}").split(":")[0])
    return sorted(links)


def test_no_descriptor_is_left_and_a_second_mount_works(point: Path) -> None:
    with served(point):
        (point / "file").touch()
    before = open_files()
    with served(point) as mount:
        assert os.listdir(point) == []
        (point / "other").touch()
        assert mount.volume.calls["create"] == 1
    assert open_files() == before
    assert "/dev/fuse" not in before


def test_a_failing_loop_is_reported_and_leaves_nothing(
    point: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ZeroDivisionError("planned")

    monkeypatch.setattr(loop.Loop, "_answer_some", broken)
    with pytest.raises(BaseException) as caught, served(point):
        pass
    assert isinstance(caught.value, ExceptionGroup | ZeroDivisionError)
    assert "planned" in "".join(traceback.format_exception(caught.value))
    assert mounted_filesystem(str(point)) is None


def test_a_place_that_cannot_be_mounted_is_a_setup_error(point: Path) -> None:
    with pytest.raises(BaseException) as caught, served(point / "missing"):
        pass
    assert "SetupError" in "".join(traceback.format_exception(caught.value))


def child(point: Path, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.fuse.child", str(point), *arguments],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], LIMIT_S)
    assert ready and process.stdout.readline() == b"ready\n"
    return process


def test_a_killed_server_leaves_a_dead_mount_that_can_be_told_and_removed(point: Path) -> None:
    process = child(point)
    assert not is_dead_mount(str(point))
    process.kill()
    process.communicate(timeout=LIMIT_S)
    assert is_dead_mount(str(point))
    with pytest.raises(BaseException) as caught, served(point):
        pass
    assert "dead mount" in "".join(traceback.format_exception(caught.value))
    unmount(str(point), lazy=True)
    assert not is_dead_mount(str(point))
    assert mounted_filesystem(str(point)) is None


def test_a_user_mounts_through_fusermount3_and_sigterm_unmounts(point: Path) -> None:
    if os.stat("/dev/fuse").st_mode & 0o006 != 0o006:
        pytest.skip("needs a /dev/fuse that users may open")
    os.chown(point, NOBODY, NOBODY)
    process = child(point, str(NOBODY))
    line = mount_line(point)
    assert "fuse.shmr memory" in line and f"user_id={NOBODY}" in line
    assert "nosuid" in line and "allow_other" not in line
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert mounted_filesystem(str(point)) is None
