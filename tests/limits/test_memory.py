"""What the daemon keeps resident."""

from __future__ import annotations

import mmap
from pathlib import Path

from shmr.service.mounted import memory
from shmr.units import MIB


def test_pages_of_a_file_are_let_go_beyond_the_limit_and_read_on(tmp_path: Path) -> None:
    other, path = tmp_path / "other", tmp_path / "data.mdb"
    size = memory.MAPPED_MAX_BYTES + 16 * MIB
    with open(path, "wb") as file:
        file.truncate(size)
        file.seek(size - 5)
        file.write(b"known")
    assert not memory.let_go(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[at] for at in range(0, size, mmap.PAGESIZE)) == 0
        assert memory._resident_of_files() > memory.MAPPED_MAX_BYTES
        assert memory.let_go(other)  # another file's pages stay
        assert memory._resident_of_files() > memory.MAPPED_MAX_BYTES
        assert memory.let_go(path)
        assert memory._resident_of_files() < memory.MAPPED_MAX_BYTES
        assert mapped[size - 5 :] == b"known"
