"""`shmr mount` and `shmr umount` as a person meets them: one line when it fails, code 1."""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.conftest import Make
from tests.crash.load import digest_of
from tests.mounted import CHECKOUT, MountedFilesystem, is_mounted, wait_until

pytestmark = pytest.mark.mount

LIMIT_S = 60.0


def fails(filesystem: MountedFilesystem, *arguments: str | Path) -> str:
    """What the command says: it must fail with code 1 and one line that names the command.

    (Mistakes in the configuration are the exception: each has a line.)
    """
    done = filesystem.command(*map(str, arguments), limit_s=LIMIT_S)
    assert done.returncode == 1, done.stdout
    assert done.stdout.startswith(f"shmr {arguments[0]}: ")
    assert done.stdout.count("\n") == 1 or "problem(s)" in done.stdout, done.stdout
    return done.stdout


def test_what_cannot_be_mounted_is_told_in_a_line(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    config, place = filesystem.config, filesystem.path
    assert "no such file" in fails(filesystem, "mount", "/nonexistent.yaml", place).lower()
    assert "mkdir" in fails(filesystem, "mount", config, filesystem.base / "missing")
    plain = filesystem.base / "plain"
    plain.write_text("")
    assert "not a directory" in fails(filesystem, "mount", config, plain)
    assert "nonsense" in fails(filesystem, "mount", config, place, "-o", "nonsense")
    (filesystem.drives[1] / "stranger").write_text("mine")
    assert "not empty" in fails(filesystem, "create", config)
    message = fails(filesystem, "mount", config, place)
    assert "drive-1" in message or "create" in message
    shutil.rmtree(filesystem.drives[1])
    assert "drive-1" in fails(filesystem, "mount", config, place)
    filesystem.drives[1].write_text("a file")
    assert "drive-1" in fails(filesystem, "mount", config, place)
    filesystem.drives[1].unlink()
    filesystem.drives[1].symlink_to(filesystem.drives[0])
    assert "drives[1]" in (message := fails(filesystem, "mount", config, place))
    assert "is also" in message
    assert not is_mounted(place)


def test_drives_of_another_filesystem_are_refused(make_filesystem: Make) -> None:
    one, other = make_filesystem(), make_filesystem()
    for filesystem in (one, other):
        filesystem.start()
        filesystem.stop()
    one.drives[1].rename(one.base / "mine")
    other.drives[1].rename(one.drives[1])
    assert "another" in fails(one, "mount", one.config, one.path)
    one.config.write_text(one.config.read_text().replace("filesystem: tests", "filesystem: them"))
    assert "'tests'" in fails(one, "mount", one.config, one.path)


def test_a_filesystem_is_mounted_once(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    (filesystem.path / "file").write_bytes(b"content")
    config, place = filesystem.config, filesystem.path
    assert "mounted there already" in fails(filesystem, "mount", config, place)
    second = filesystem.base / "second"
    second.mkdir()
    for arguments in ((), ("--read-only",), ("--degraded",)):
        message = fails(filesystem, "mount", *arguments, config, second)
        assert "in use" in message and f"process {filesystem.processes()[0]} " in message
    assert fails(filesystem, "create", config)
    assert not is_mounted(second)
    assert (place / "file").read_bytes() == b"content"
    filesystem.stop()


def test_an_unmount_that_could_not_write_everything_says_so(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    with open(filesystem.path / "durable", "wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
    (daemon,) = filesystem.processes()
    resource.prlimit(daemon, resource.RLIMIT_FSIZE, (0, 0))  # as if every drive failed
    with pytest.raises(OSError), open(filesystem.path / "late", "wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())
    assert "could not be written" in fails(filesystem, "umount", filesystem.path)
    assert not is_mounted(filesystem.path)
    filesystem.start()
    assert (filesystem.path / "durable").read_bytes() == b"content"
    filesystem.stop()


def test_a_busy_mount_is_not_unmounted_and_works_on(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    with open(filesystem.path / "file", "wb") as file:
        message = fails(filesystem, "umount", filesystem.path)
        assert "in use" in message and "fuser" in message
        file.write(b"content")
    filesystem.stop()
    assert "nothing is mounted" in fails(filesystem, "umount", filesystem.path)
    assert "nothing is mounted" in fails(filesystem, "umount", filesystem.base / "missing")
    assert "not shmr" in fails(filesystem, "umount", "/proc")
    filesystem.start()
    assert (filesystem.path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in use"])
def test_a_signal_unmounts_and_loses_nothing(
    make_filesystem: Make, number: signal.Signals, busy: bool
) -> None:
    """Also what is only in the kernel's page cache, and although somebody has a file open."""
    filesystem = make_filesystem()
    filesystem.start()
    content = os.urandom(3 << 20)
    file = open(filesystem.path / "file", "wb", buffering=0)  # noqa: SIM115
    file.write(content)
    if not busy:
        file.close()
    (daemon,) = filesystem.processes()
    handle = os.pidfd_open(daemon)
    os.kill(daemon, number)
    assert select.select([handle], [], [], LIMIT_S)[0], "the daemon did not end"
    os.close(handle)
    assert not is_mounted(filesystem.path)
    try:
        file.close()
    except OSError:
        assert busy
    filesystem.start()
    assert (filesystem.path / "file").read_bytes() == content


def test_umount_returns_when_the_daemon_is_gone(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    for size in (0, 40 << 20):
        filesystem.start()
        (filesystem.path / "file").write_bytes(bytes(size))
        done = filesystem.command("umount", str(filesystem.path), limit_s=LIMIT_S)
        assert (done.returncode, done.stdout) == (0, "")
        assert filesystem.processes() == []
        assert not is_mounted(filesystem.path)


def test_a_foreground_mount_lives_until_it_is_unmounted(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    command = ["-m", "shmr.cli.main", "mount", "--foreground"]
    process = subprocess.Popen(
        [sys.executable, *command, filesystem.config, filesystem.path],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(lambda: is_mounted(filesystem.path), LIMIT_S)
    (filesystem.path / "file").write_bytes(b"content")
    assert process.poll() is None
    done = filesystem.command("umount", str(filesystem.path), limit_s=LIMIT_S)
    assert (done.returncode, done.stdout) == (0, "")
    _, log = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "mounted at" in log
    filesystem.start()
    assert (filesystem.path / "file").read_bytes() == b"content"


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "unmounted"])
def test_a_read_only_mount_changes_no_byte(make_filesystem: Make, clean: bool) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    for index in range(20):
        path = filesystem.path / str(index)
        with open(path, "wb") as file:
            file.write(os.urandom(10_000))
            os.fsync(file.fileno())
    wanted = digest_of(filesystem.path)
    filesystem.stop() if clean else filesystem.kill()
    before = _drives(filesystem)
    filesystem.start("--read-only")
    assert digest_of(filesystem.path) == wanted
    for call in (lambda: (filesystem.path / "new").write_bytes(b""), (path.unlink)):
        with pytest.raises(OSError, match="Read-only"):
            call()
    filesystem.stop()
    assert _drives(filesystem) == before
    filesystem.start()
    assert digest_of(filesystem.path) == wanted


def _drives(filesystem: MountedFilesystem) -> dict[str, str]:
    """What the drives hold, but for the log, which tells of the read-only mount itself."""
    return {
        f"{drive.name}/{name}": digest
        for drive in filesystem.drives
        for name, digest in digest_of(drive).items()
        if not name.startswith("catalog.log")
    }


def test_only_the_owner_reads_what_is_on_the_drives(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    for drive in filesystem.drives:
        drive.chmod(0o755)
    before = os.umask(0)
    try:
        filesystem.start()
    finally:
        os.umask(before)
    (filesystem.path / "file").write_bytes(b"secret")
    filesystem.kill()
    # What recovery makes anew, and what a clean end leaves.
    before = os.umask(0)
    try:
        filesystem.start()
    finally:
        os.umask(before)
    filesystem.stop()
    found = 0
    for drive in filesystem.drives:
        assert stat.S_IMODE(drive.stat().st_mode) == 0o700
        for path in drive.rglob("*"):
            found += 1
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    assert found > 5
