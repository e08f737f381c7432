"""An older checkpoint goes on being read while the newest is looked at, in one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shmr.catalog.reading import open_readings

_WRITER = """
import sys
from pathlib import Path
from shmr.catalog.catalog import Catalog
from shmr.format.rows import Place
catalog = Catalog(Path(sys.argv[1]))
catalog.set_state(b"number", int(sys.argv[2]))
catalog.checkpoint(bytes(16), Place(1, 0, 0, int(sys.argv[2]), 0), 7)
catalog.close()
"""


def write(path: Path, number: int) -> None:
    subprocess.run([sys.executable, "-c", _WRITER, str(path), str(number)], check=True, timeout=60)


def test_the_newest_checkpoint_beside_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "catalog"
    write(path, 1)
    with open_readings(path) as newest, newest() as old:
        assert old.state(b"number") == 1
        for number in (2, 3):
            write(path, number)
            with newest() as new:
                assert new.state(b"number") == number and new.next_segment() == 7
                assert new.place().sequence == number
                assert old.state(b"number") == 1
        assert [name for name, _ in old.states(b"num")] == [b"number"]
