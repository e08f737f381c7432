"""A drive that does not answer is not waited for without an end, and is used again when it does."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shmr.drive import impatient
from shmr.drive.directory import DirectoryDrive
from shmr.drive.impatient import Answer, ImpatientDrive
from shmr.errors import DriveError

VERBS: dict[str, Callable[[ImpatientDrive], object]] = {
    "device": lambda drive: drive.device(),
    "names": lambda drive: drive.names(),
    "size": lambda drive: drive.size("file"),
    "discard": lambda drive: drive.discard("file"),
    "capacity": lambda drive: drive.capacity(),
    "put": lambda drive: drive.put("other", b"content"),
    "get": lambda drive: drive.get("file"),
    "lock": lambda drive: drive.lock(),
    "is_empty": lambda drive: drive.is_empty(),
    "is_mount_point": lambda drive: drive.is_mount_point(),
}


class Disk:
    """What stands still below the verbs of all directories."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = 0

    def hanging(self, verb: Callable[..., object]) -> Callable[..., object]:
        def hang(*arguments: object, **options: object) -> object:
            self.asked += 1
            assert self.answers.wait(60)
            return verb(*arguments, **options)

        return hang


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.answers.set()


def opened(tmp_path: Path) -> ImpatientDrive:
    drive = ImpatientDrive(tmp_path, patience_s=0.05)
    drive._patience_s = 60.0
    drive.put("file", b"content")
    drive._patience_s = 0.05
    return drive


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gives_up_and_the_drive_is_used_again_when_it_answers(
    verb: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = opened(tmp_path)
    monkeypatch.setattr(DirectoryDrive, verb, disk.hanging(getattr(DirectoryDrive, verb)))
    for _ in range(3):
        with pytest.raises(DriveError, match="does not answer") as failure:
            VERBS[verb](drive)
        assert failure.value.errno == errno.ETIMEDOUT
    assert disk.asked == 1
    (late,) = drive._late
    disk.answers.set()
    try:
        late.within(60.0)
    except DriveError as error:
        assert error.errno != errno.ETIMEDOUT
    drive._patience_s = 60.0
    drive.names()
    drive.close()


def test_closing_leaves_a_drive_that_hangs_behind(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive = opened(tmp_path)
    monkeypatch.setattr(impatient, "CLOSING_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(DirectoryDrive, "close", disk.hanging(DirectoryDrive.close))
        drive.close()
        assert disk.asked == 1
        disk.answers.set()
    other = ImpatientDrive(tmp_path, patience_s=60.0)
    assert other.lock()
    other.close()


def test_an_answer_is_what_the_call_returned_or_raised() -> None:
    assert Answer("a call", lambda: 5).within(60.0) == 5
    with pytest.raises(ZeroDivisionError):
        Answer("a call", lambda: 1 // 0).within(60.0)
