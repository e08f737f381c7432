"""Bent segments and lost drives: right bytes or EIO, never wrong ones; and a word about it."""

from __future__ import annotations

import errno
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.crash.conftest import Make
from tests.crash.damage import catalog_of, flip, log_of
from tests.crash.load import digest_of, inconsistencies, make_durable
from tests.mounted import MountedFilesystem, MountFailed
from tests.posix.calls import refused

pytestmark = pytest.mark.mount

HEADER_BYTES = 200


def segments(filesystem: MountedFilesystem, stream: str) -> list[Path]:
    return sorted(path for drive in filesystem.drives for path in drive.glob(f"{stream}-*"))


def copies(filesystem: MountedFilesystem, content: bytes) -> list[tuple[Path, int]]:
    """Where `content` begins in the data segments: file and offset of each copy."""
    found = []
    for path in segments(filesystem, "data"):
        at = path.read_bytes().find(content[:4096])
        if at >= 0:
            found.append((path, at))
    return found


def flip_in(place: tuple[Path, int], distance: int) -> None:
    flip(place[0], place[1] + distance, 3)


@pytest.mark.parametrize(
    "distance", [0, 4096, 600_000, -40], ids=["first byte", "page", "far", "header"]
)
def test_a_flipped_bit_of_data_is_an_error_and_never_wrong_bytes(
    make_filesystem: Make, distance: int
) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    content = random.Random(1).randbytes(1 << 20)
    path = filesystem.path / "file"
    path.write_bytes(content)
    (filesystem.path / "other").write_bytes(b"whole")
    number = path.stat().st_ino
    filesystem.stop()
    (place,) = copies(filesystem, content)
    flip_in(place, distance)
    filesystem.start()
    with refused(errno.EIO):
        path.read_bytes()
    for offset in range(0, len(content), 4096):
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            try:
                assert file.read(4096) == content[offset : offset + 4096]
            except OSError as error:
                assert error.errno == errno.EIO
    assert (filesystem.path / "other").read_bytes() == b"whole"
    segment = int(place[0].name.partition("-")[2])
    assert re.search(rf"inode {number} .*segment {segment}\b", log_of(filesystem))


def test_a_mirror_answers_from_the_good_copy_and_moves_off_the_bad_one(
    make_filesystem: Make,
) -> None:
    filesystem = make_filesystem(scheme="{mirror: 2}")
    filesystem.start()
    content = random.Random(1).randbytes(1 << 20)
    path = filesystem.path / "file"
    path.write_bytes(content)
    filesystem.stop()
    both = copies(filesystem, content)
    assert len(both) == 2
    # Each copy is bad in another place.
    flip_in(both[0], 70_000)
    flip_in(both[1], 600_000)
    filesystem.start()
    assert path.read_bytes() == content
    assert "bad copy in segment" in log_of(filesystem)


@pytest.mark.parametrize("scheme", ["single", "{mirror: 2}"])
def test_a_flipped_bit_of_the_journal_is_survived_or_told(
    make_filesystem: Make, scheme: str
) -> None:
    """Without a catalog the whole journal is needed: read-only with a reason, or the other copy."""
    filesystem = make_filesystem(scheme=scheme)
    filesystem.start()
    for number in range(40):
        (filesystem.path / str(number)).write_bytes(b"%d" % number * 100)
        make_durable(filesystem.path)
    wanted = digest_of(filesystem.path)
    filesystem.stop()
    first = segments(filesystem, "journal")[0]
    used = len(first.read_bytes().rstrip(b"\0"))
    flip(first, used // 2, 5)
    shutil.rmtree(catalog_of(filesystem))
    filesystem.start()
    assert inconsistencies(filesystem.path) == []
    if scheme == "single":
        with refused(errno.EROFS):
            (filesystem.path / "new").write_bytes(b"")
        assert re.search(r"read-only: .*durable", log_of(filesystem))
        found = digest_of(filesystem.path)
        assert found == {name: wanted[name] for name in found}
        assert 0 < len(found) < len(wanted)
    else:
        assert digest_of(filesystem.path) == wanted
        (filesystem.path / "new").write_bytes(b"goes on")


def test_a_flipped_bit_of_the_journal_behind_the_checkpoint_harms_nothing(
    make_filesystem: Make,
) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    (filesystem.path / "file").write_bytes(b"content")
    filesystem.stop()
    first = segments(filesystem, "journal")[0]
    flip(first, HEADER_BYTES, 1)
    filesystem.start()
    assert (filesystem.path / "file").read_bytes() == b"content"


def test_a_lost_drive_of_a_mirror_is_refused_then_gone_without(make_filesystem: Make) -> None:
    filesystem = make_filesystem(scheme="{mirror: 2}")
    filesystem.start()
    for number in range(20):
        (filesystem.path / str(number)).write_bytes(random.Random(number).randbytes(100_000))
    wanted = digest_of(filesystem.path)
    filesystem.stop()
    gone = filesystem.drives[1].rename(filesystem.base / "taken out")
    with pytest.raises(MountFailed, match=r"drive-1: No such file or directory; "):
        filesystem.start()
    filesystem.start("--degraded")
    assert digest_of(filesystem.path) == wanted
    (filesystem.path / "later").write_bytes(b"written without the other drive")
    wanted = digest_of(filesystem.path)
    filesystem.stop()
    gone.rename(filesystem.drives[1])
    for arguments in ((), ("--degraded",)):
        with pytest.raises(MountFailed, match="drive-1: left behind by a degraded mount"):
            filesystem.start(*arguments)
    shutil.rmtree(filesystem.drives[1])
    filesystem.start("--degraded")
    assert digest_of(filesystem.path) == wanted


def test_drives_that_went_on_without_each_other_never_mount_together(
    make_filesystem: Make,
) -> None:
    filesystem = make_filesystem(scheme="{mirror: 2}")
    catalog = filesystem.base / "catalog"
    with open(filesystem.config, "a") as config:
        config.write(f"catalog: {catalog}\n")
    filesystem.start()
    filesystem.stop()
    places = filesystem.drives
    away = [filesystem.base / f"away-{index}" for index in range(2)]
    places[1].rename(away[1])
    filesystem.start("--degraded")
    (filesystem.path / "on the first").write_bytes(b"content")
    filesystem.stop()
    places[0].rename(away[0])
    away[1].rename(places[1])
    # Its journal does not know what the catalog holds as durable.
    filesystem.start("--degraded")
    with refused(errno.EROFS):
        (filesystem.path / "on the second").write_bytes(b"content")
    filesystem.stop()
    away[0].rename(places[0])
    for arguments in ((), ("--degraded",)):
        with pytest.raises(MountFailed, match="each was mounted degraded without the other"):
            filesystem.start(*arguments)


def test_a_catalog_without_any_segment_is_no_new_filesystem(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    (filesystem.path / "file").write_bytes(b"content")
    filesystem.stop()
    for stream in ("data", "journal", "snapshot"):
        for path in segments(filesystem, stream):
            path.unlink()
    with pytest.raises(MountFailed, match="hold no segment at all"):
        filesystem.start()
