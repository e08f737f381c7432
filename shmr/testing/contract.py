"""What every drive must do, as tests to inherit.

    class TestMyDrive(DriveContract):
        def drive(self) -> MyDrive: ...   # a new and empty one at each call

The tests are plain methods with plain asserts: any runner that collects `test_` methods runs
them. `reopened` gives a drive on the same storage, as the next start of the program would;
`mostly_full` one that has little room, or None where that cannot be had. Faults and power cuts
are not in here: a real drive cannot be asked for them.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from functools import partial

from shmr.drive.seam import Drive
from shmr.errors import DriveError

MIB = 1024 * 1024


def fails_with(number: int, operation: str, call: Callable[[], object]) -> DriveError:
    """Assert that `call` raises the DriveError of `operation` with this errno; return it."""
    try:
        call()
    except DriveError as error:
        assert error.errno == number, f"expected errno {number}, found {error.errno}: {error}"
        assert error.operation == operation, f"expected {operation}, found {error.operation}"
        return error
    raise AssertionError(f"expected {operation} to fail with errno {number}")


def pattern(length: int, start: int = 0) -> bytes:
    """Bytes in which a piece from a wrong place is seen."""
    return b"".join(index.to_bytes(4, "big") for index in range(start // 4, (start + length) // 4))


class DriveContract:
    """Inherit, and say how to make a drive."""

    def drive(self) -> Drive:
        raise NotImplementedError

    def reopened(self, drive: Drive) -> Drive:
        raise NotImplementedError

    def mostly_full(self) -> tuple[Drive, int] | None:
        """A drive, and a size in bytes that is more than it has left."""
        return None

    def test_an_empty_drive_has_no_names(self) -> None:
        assert self.drive().names() == []

    def test_a_claimed_file_is_empty_and_has_its_whole_size(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 64 * 1024)
        assert (file.name, file.end) == ("a", 0)
        assert drive.size("a") == 64 * 1024
        assert drive.names() == ["a"]
        assert file.read(0, 100) == bytes(100)

    def test_a_name_is_claimed_once(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 4096)
        file.append([b"first"])
        fails_with(errno.EEXIST, "claim", lambda: drive.claim("a", 8192))
        assert drive.size("a") == 4096
        assert file.read(0, 5) == b"first"

    def test_a_failed_claim_leaves_nothing_behind(self) -> None:
        given = self.mostly_full()
        if given is None:
            return
        drive, too_much = given
        before = sorted(drive.names()), drive.capacity().free_bytes
        for _ in range(3):
            fails_with(errno.ENOSPC, "claim", lambda: drive.claim("big", too_much))
        assert (sorted(drive.names()), drive.capacity().free_bytes) == before
        fails_with(errno.ENOENT, "size", lambda: drive.size("big"))

    def test_appends_into_a_claimed_file_succeed_when_the_drive_is_full(self) -> None:
        given = self.mostly_full()
        if given is None:
            return
        drive, _ = given
        file = drive.claim("a", 256 * 1024)
        self.fill(drive)
        for _ in range(4):
            file.append([pattern(64 * 1024)])
        file.sync()
        assert file.read(0, MIB) == pattern(64 * 1024) * 4

    def fill(self, drive: Drive) -> None:
        size, number = 16 * MIB, 0
        while size >= 4096:
            try:
                drive.claim(f"fill{number}", size).close()
                number += 1
            except DriveError as error:
                assert error.errno == errno.ENOSPC
                size //= 2

    def test_what_cannot_be_a_name_is_refused(self) -> None:
        drive = self.drive()
        for name in ("", ".", "..", "a/b", "/a", "a\0b", "lock"):
            fails_with(errno.EINVAL, "claim", partial(drive.claim, name, 0))
            fails_with(errno.EINVAL, "open", partial(drive.open, name))
            fails_with(errno.EINVAL, "discard", partial(drive.discard, name))
        assert drive.names() == []

    def test_appends_follow_each_other(self) -> None:
        file = self.drive().claim("a", MIB)
        file.append([b"one"])
        file.append([b"", b"two", bytearray(b"three"), memoryview(b"--four--")[2:6], b""])
        file.append([])
        assert file.end == 15
        assert file.read(0, 15) == b"onetwothreefour"
        assert file.read(3, 3) == b"two"

    def test_thousands_of_buffers_are_one_append(self) -> None:
        file = self.drive().claim("a", MIB)
        content = pattern(40_000)
        file.append([content[start : start + 8] for start in range(0, len(content), 8)])
        assert file.end == len(content)
        assert file.read(0, len(content)) == content

    def test_buffers_may_be_changed_after_the_append(self) -> None:
        file = self.drive().claim("a", 4096)
        buffer = bytearray(b"before")
        file.append([memoryview(buffer)])
        buffer[:] = b"after!"
        assert file.read(0, 6) == b"before"

    def test_a_read_ends_with_the_claimed_size(self) -> None:
        file = self.drive().claim("a", 4096)
        file.append([b"x" * 96])
        assert file.read(90, 10_000) == b"x" * 6 + bytes(4000)
        assert file.read(4096, 10) == b""
        assert file.read(1 << 40, 10) == b""
        assert file.read(10, 0) == b""

    def test_a_cached_read_is_the_same_or_nothing(self) -> None:
        file = self.drive().claim("a", 128 * 1024)
        file.append([pattern(100_000)])
        ranges = ((0, 100_000), (5000, 10), (99_990, 20), (131_072, 1), (131_000, 4096), (0, 0))
        for offset, length in ranges:
            assert file.read_cached(offset, length) in (None, file.read(offset, length))
        assert file.read_cached(1 << 40, 10) in (None, b"")

    def test_an_evicted_file_reads_the_same(self) -> None:
        file = self.drive().claim("a", 128 * 1024)
        file.append([pattern(100_000)])
        file.evict()
        assert file.read(0, 100_000) == pattern(100_000)
        file.sync()
        file.evict()
        assert file.read(0, 100_000) == pattern(100_000)
        file.append([b"more"])
        assert file.read(100_000, 4) == b"more"
        file.sync()
        file.sequential()
        for offset, length in ((0, 4096), (5000, 1), (96 * 1024, 0), (1 << 40, 10)):
            file.evict(offset, length)
            assert file.read(0, 100_004) == pattern(100_000) + b"more"
        file.close()
        file.evict()

    def test_where_a_file_begins_is_its_own_or_unknown(self) -> None:
        drive = self.drive()
        for name in ("a", "b", "c"):
            file = drive.claim(name, 64 * 1024)
            file.append([name.encode()])
            file.sync()
            file.close()
        begins = [drive.begins(name) for name in ("a", "b", "c")]
        assert begins == [drive.begins(name) for name in ("a", "b", "c")]
        known = [one for one in begins if one is not None]
        assert len(set(known)) == len(known) and min(known, default=0) >= 0
        fails_with(errno.ENOENT, "begins", lambda: drive.begins("d"))

    def test_an_append_past_the_claimed_size_is_refused_whole(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 4096)
        file.append([b"x" * 4000])
        fails_with(errno.EFBIG, "append", lambda: file.append([b"y" * 97]))
        assert file.end == 4000
        assert file.read(4000, 4096) == bytes(96)
        assert drive.size("a") == 4096

    def test_a_file_is_not_changed_after_a_failed_append(self) -> None:
        file = self.drive().claim("a", 4096)
        fails_with(errno.EFBIG, "append", lambda: file.append([b"y" * 5000]))
        fails_with(errno.EIO, "append", lambda: file.append([b"y"]))
        fails_with(errno.EIO, "sync", file.sync)
        fails_with(errno.EIO, "seal", file.seal)
        assert file.read(0, 4) == bytes(4)

    def test_a_sealed_file_ends_where_its_content_ends(self) -> None:
        drive = self.drive()
        file = drive.claim("a", MIB)
        file.append([pattern(5000)])
        file.seal()
        assert drive.size("a") == file.end == 5000
        assert file.read(0, MIB) == pattern(5000)
        assert file.read_cached(4000, MIB) in (None, pattern(1000, 4000))
        fails_with(errno.EFBIG, "append", lambda: file.append([b"x"]))

    def test_sealing_gives_the_rest_of_the_claim_back(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 16 * MIB)
        before = drive.capacity().free_bytes
        file.append([bytes(8192)])
        file.seal()
        assert drive.capacity().free_bytes - before >= 8 * MIB

    def test_an_empty_and_a_full_file_can_be_sealed(self) -> None:
        drive = self.drive()
        drive.claim("empty", 4096).seal()
        full = drive.claim("full", 4096)
        full.append([pattern(4096)])
        full.seal()
        assert (drive.size("empty"), drive.size("full")) == (0, 4096)

    def test_a_reopened_drive_has_what_was_synced(self) -> None:
        drive = self.drive()
        file = drive.claim("a", MIB)
        file.append([pattern(10_000)])
        file.sync()
        drive.put("small", b"record")
        file.close()
        drive.close()
        again = self.reopened(drive)
        assert sorted(again.names()) == ["a", "small"]
        assert again.get("small") == b"record"
        assert again.size("a") == MIB
        assert again.open("a").read(0, 10_000) == pattern(10_000)

    def test_an_opened_file_goes_on_where_it_is_told(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 4096)
        file.append([b"abcdef"])
        file.close()
        file = drive.open("a", end=6)
        assert file.end == 6
        file.append([b"ghi"])
        file.sync()
        assert file.read(0, 9) == b"abcdefghi"
        assert drive.open("a").read(0, 9) == b"abcdefghi"

    def test_an_end_outside_of_the_file_is_refused(self) -> None:
        drive = self.drive()
        drive.claim("a", 4096).close()
        fails_with(errno.EINVAL, "open", lambda: drive.open("a", end=4097))
        fails_with(errno.EINVAL, "open", lambda: drive.open("a", end=-1))
        assert drive.open("a", end=4096).end == 4096

    def test_what_is_not_there_cannot_be_used(self) -> None:
        drive = self.drive()
        fails_with(errno.ENOENT, "open", lambda: drive.open("a"))
        fails_with(errno.ENOENT, "open", lambda: drive.get("a"))
        fails_with(errno.ENOENT, "size", lambda: drive.size("a"))
        fails_with(errno.ENOENT, "discard", lambda: drive.discard("a"))

    def test_a_discarded_file_is_gone_but_for_those_who_have_it_open(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 4096)
        file.append([b"still"])
        drive.discard("a")
        assert drive.names() == []
        assert file.read(0, 5) == b"still"
        fails_with(errno.ENOENT, "open", lambda: drive.open("a"))
        drive.claim("a", 4096)
        assert drive.open("a").read(0, 5) == bytes(5)

    def test_claims_and_discards_show_in_the_capacity(self) -> None:
        drive = self.drive()
        empty = drive.capacity()
        assert 0 < empty.free_bytes <= empty.total_bytes
        drive.claim("a", 16 * MIB).close()
        assert empty.free_bytes - drive.capacity().free_bytes >= 8 * MIB
        drive.discard("a")
        assert drive.capacity().free_bytes - empty.free_bytes >= -8 * MIB

    def test_small_records_are_written_once(self) -> None:
        drive = self.drive()
        drive.put("record", b"content")
        assert drive.get("record") == b"content"
        assert drive.size("record") == 7
        fails_with(errno.EEXIST, "claim", lambda: drive.put("record", b"other"))
        assert drive.get("record") == b"content"
        drive.put("empty", b"")
        assert drive.get("empty") == b""

    def test_get_reads_no_more_than_64_kib(self) -> None:
        drive = self.drive()
        drive.put("large", pattern(100_000))
        assert drive.get("large") == pattern(65_536)

    def test_closing_never_fails_and_ends_the_use(self) -> None:
        drive = self.drive()
        file = drive.claim("a", 4096)
        file.close()
        file.close()
        fails_with(errno.EBADF, "read", lambda: file.read(0, 1))
        fails_with(errno.EBADF, "append", lambda: file.append([b"x"]))
        assert file.read_cached(0, 1) is None

    def test_threads_may_claim_read_and_sync_at_once(self) -> None:
        drive = self.drive()
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                file = drive.claim(f"file{number}", 64 * 1024)
                content = pattern(8192, number * 8192)
                for start in range(0, len(content), 1024):
                    file.append([content[start : start + 1024]])
                    assert file.read(0, start + 1024) == content[: start + 1024]
                file.sync()
                file.close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert errors == []
        for number in range(4):
            assert drive.open(f"file{number}").read(0, 8192) == pattern(8192, number * 8192)

    def test_a_drive_names_its_label_in_errors(self) -> None:
        drive = self.drive()
        error = fails_with(errno.ENOENT, "open", lambda: drive.open("absent"))
        assert error.drive == drive.label
        assert drive.label in str(error)
        assert isinstance(drive.device(), int)
