"""Is the catalog that a crash left behind whole? Every row is checked, in a process of its own.

LMDB trusts its file: a truncated or bent one can end the process with a signal, and rows can
vanish from a scan with all others intact. So a child makes a compacted copy (which rebuilds the
list of free pages and fails on a leak), checks the checksum of every row, the order of the keys,
that as many rows were seen as the table claims, and that each is found where it is looked up
(`shmr.catalog.pages`). Only then the copy takes the catalog's place.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import lmdb

from shmr.catalog import store
from shmr.catalog.checksum import checked
from shmr.catalog.pages import well_formed
from shmr.errors import IntegrityError
from shmr.format.rows import Table
from shmr.units import MIB

TIMEOUT_S = 3600
SPARE_BYTES = 16 * MIB
"""What a copy must leave free."""


def examine(path: Path, *, in_child: bool = True) -> bool:
    """True if the catalog at `path` is whole; it is then replaced by its compacted copy.

    False leaves it untouched. `in_child=False` is for simulations, which damage no pages.
    """
    copy = path.with_name(path.name + ".examined")
    shutil.rmtree(copy, ignore_errors=True)
    try:
        whole = look(path, copy, in_child=in_child)
        if whole and store.exists(copy):
            store.adopt(copy, path)
        return whole
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def look(path: Path, copy: Path, *, in_child: bool = True) -> bool:
    """`examine` that changes nothing: `copy`, not there yet, is the compacted copy if one fits."""
    if not in_child:
        return copy_and_check(path, copy)
    command = [sys.executable, "-m", "shmr.catalog.examine", str(path), str(copy)]
    return subprocess.run(command, timeout=TIMEOUT_S, check=False).returncode == 0


def copy_and_check(path: Path, copy: Path) -> bool:
    """Copy the catalog and check every row of the copy; the original's where no copy fits.

    On a full disk the catalog must not look doubtful for want of room: then the list of free
    pages and the headers of pages go unexamined; everything else is checked, by its key too.
    """
    data = path / store.DATA
    # LMDB maps what its header claims; a shorter file would be SIGBUS later.
    if not data.is_file() or data.stat().st_size % 4096 or data.stat().st_size < 8192:
        return False
    copy.mkdir(mode=0o700)
    try:
        with store.open_environment(path, read_only=True) as source:
            if (source.info()["last_pgno"] + 1) * source.stat()["psize"] > data.stat().st_size:
                return False
            if shutil.disk_usage(copy).free < data.stat().st_size + SPARE_BYTES:
                return all(_whole(source, table, look_up=True) for table in Table)
            with open(copy / store.DATA, "wb", opener=store.private) as target:
                source.copyfd(target.fileno(), compact=True)
                target.flush()
                store.sync_file(target.fileno())
        with store.open_environment(copy, read_only=True) as examined:
            with examined.begin() as transaction:
                formed = well_formed(copy / store.DATA, iter(transaction.cursor()))
            return formed and all(_whole(examined, table) for table in Table)
    except (lmdb.Error, IntegrityError):
        return False


def _whole(environment: lmdb.Environment, table: Table, *, look_up: bool = False) -> bool:
    """Every row of `table` verifies, in order, and none vanished. Raises IntegrityError.

    With `look_up` each is found by its key too: that takes twice as long.
    """
    handle = environment.open_db(table.name.lower().encode(), create=False)
    count, last = 0, b""
    with environment.begin(db=handle) as transaction:
        for key, stored in transaction.cursor():
            checked(table, key, stored)
            if key <= last or (look_up and transaction.get(key) != stored):
                return False
            last = key
            count += 1
        return count == transaction.stat(handle)["entries"]


if __name__ == "__main__":
    sys.exit(0 if copy_and_check(Path(sys.argv[1]), Path(sys.argv[2])) else 1)
