"""The LMDB file: opened with the settings that keep its promises, set aside when doubtful.

`sync=True`, never WRITEMAP (measured: with `sync=False` a power cut loses more than the tail, and
with WRITEMAP a stray write reaches the file). LMDB has no page checksums, so after a clean close
the file's own digest is left beside it, and is checked before the next open; after a crash the
rows are examined one by one (`shmr.catalog.examine`).
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lmdb
from crc32c import crc32c

from shmr.errors import IntegrityError, SetupError
from shmr.format.rows import Table
from shmr.units import MIB, TIB

MAP_BYTES = 16 * TIB
"""Address space, not disk: the file grows as it is used."""
DOUBTS = (IntegrityError, lmdb.Error)
"""What a damaged catalog raises: each means that it is to be rebuilt."""
DATA = "data.mdb"
DIGEST = "digest"
_LIB_VERSION = 0
"""py-lmdb 3 ships two engines; 0 is LMDB 0.9, whose file format is the one in the field."""


def exists(path: Path) -> bool:
    return (path / DATA).exists()


def written_ns(path: Path) -> int:
    """When the LMDB file was last written: nanoseconds since 1970."""
    return (path / DATA).stat().st_mtime_ns


def open_environment(
    path: Path, *, read_only: bool = False, live: bool = False
) -> lmdb.Environment:
    """Open or create the LMDB environment in directory `path`.

    `live`: another process may have it open for writing, so readers must be seen by it.

    Raises `SetupError` where it cannot be created, `lmdb.Error` where the file is damaged.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            f"catalog: cannot create {path}: {error.strerror}; make its parent or set `catalog:`"
        ) from error
    return lmdb.open(
        str(path),
        map_size=MAP_BYTES,
        max_dbs=len(Table),
        mode=0o600,
        sync=True,
        metasync=True,
        writemap=False,
        meminit=True,
        readahead=False,
        readonly=read_only,
        lock=live or not read_only,
        max_spare_txns=2,
        lib_version=_LIB_VERSION,
    )


def open_tables(environment: lmdb.Environment, *, create: bool = True) -> dict[int, Any]:
    """A handle for each table; with `create` a missing one is made."""
    return {
        int(table): environment.open_db(table.name.lower().encode(), create=create)
        for table in Table
    }


def _file_digest(path: Path) -> str:
    """CRC-32C and length of the LMDB file, as text."""
    value = 0
    with open(path / DATA, "rb") as file:
        while chunk := file.read(8 * MIB):
            value = crc32c(chunk, value)
        return f"{value:08x} {file.tell()}\n"


def private(path: str, flags: int) -> int:
    """An opener of files that are for their owner alone, whatever the umask."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def leave_digest(path: Path) -> None:
    """Say what the file is, after a clean close. Durable before it is named."""
    temporary = path / (DIGEST + ".new")
    with open(temporary, "w", opener=private) as file:
        file.write(_file_digest(path))
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path / DIGEST)
    _sync_directory(path)


def allocate(path: Path, size_bytes: int, leave_bytes: int) -> bool:
    """Make the LMDB file at least that long, with its space taken; False if there is no room.

    `leave_bytes` of the disk stay free for others. LMDB writes where its map says and never cuts
    the file, so a longer one is as good.
    """
    descriptor = os.open(path / DATA, os.O_RDWR | os.O_CLOEXEC)
    try:
        present = os.fstat(descriptor).st_size
        if present < size_bytes:
            disk = os.fstatvfs(descriptor)
            if disk.f_bavail * disk.f_frsize - (size_bytes - present) < leave_bytes:
                return False
            os.posix_fallocate(descriptor, present, size_bytes - present)
    except OSError as error:
        # Where allocation is not offered, there is no promise to be had.
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    finally:
        os.close(descriptor)
    return True


def private_copy(path: Path) -> TemporaryDirectory[str]:
    """A copy of the catalog for a mount that changes nothing, under the same name.

    Lies where temporary files do, and is gone after `cleanup`. Raises SetupError.
    """
    place = TemporaryDirectory(prefix="shmr-read-only-", ignore_cleanup_errors=True)
    copy = Path(place.name, path.name)
    try:
        for name in (DATA, DIGEST):
            if (path / name).exists():
                copy.mkdir(mode=0o700, exist_ok=True)
                shutil.copyfile(path / name, copy / name)
    except OSError as error:
        place.cleanup()
        raise SetupError(
            f"catalog: a read-only mount works on a copy of {path}, and {place.name} does not take "
            f"it: {error.strerror}; set TMPDIR to where there is room"
        ) from error
    return place


def digest_holds(path: Path) -> bool:
    """True if the file is byte for byte what the last clean close left."""
    try:
        expected = (path / DIGEST).read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return exists(path) and expected == _file_digest(path)


def take_digest(path: Path) -> bool:
    """`digest_holds`; the digest is used up."""
    intact = digest_holds(path)
    if not (path / DIGEST).exists():
        return False
    # Gone before the first write: a stale digest must never vouch for a changed file.
    (path / DIGEST).unlink()
    _sync_directory(path)
    return intact


def set_aside(path: Path) -> Path | None:
    """Move a doubtful catalog out of the way, keep it for a look; returns where it went."""
    if not path.exists():
        return None
    for attempt in range(10_000):
        aside = path.with_name(f"{path.name}.doubtful-{attempt}")
        if not aside.exists():
            os.rename(path, aside)
            _sync_directory(path.parent)
            return aside
    raise SetupError(f"catalog: too many set aside beside {path}; remove {path.name}.doubtful-*")


def adopt(examined: Path, path: Path) -> None:
    """Put the examined copy in the place of the catalog it was copied from."""
    (path / DATA).unlink(missing_ok=True)
    os.rename(examined / DATA, path / DATA)
    _sync_directory(path)
    for leftover in examined.iterdir():
        leftover.unlink()
    examined.rmdir()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(descriptor: int) -> None:
    """fsync: LMDB's own copy does not."""
    os.fsync(descriptor)
