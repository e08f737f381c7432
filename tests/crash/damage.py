"""Damage to what a filesystem keeps: its catalog and its segments."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.mounted import MountedFilesystem

PAGE = 4096


def catalog_of(filesystem: MountedFilesystem) -> Path:
    """Where the catalog is by default: on the first drive."""
    return filesystem.drives[0] / "catalog"


def doubtful(filesystem: MountedFilesystem) -> list[Path]:
    """The catalogs that were set aside."""
    return sorted(filesystem.drives[0].glob("catalog.doubtful-*"))


def log_of(filesystem: MountedFilesystem) -> str:
    """What the daemons of this filesystem have logged so far."""
    log = filesystem.drives[0] / "catalog.log"
    return log.read_text(errors="replace") if log.exists() else ""


def flip(path: Path, offset: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        value = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([value ^ (1 << bit)]))


def delete(catalog: Path, rng: random.Random) -> None:
    shutil.rmtree(catalog)


def delete_file(catalog: Path, rng: random.Random) -> None:
    (catalog / "data.mdb").unlink()


def cut_to_nothing(catalog: Path, rng: random.Random) -> None:
    with open(catalog / "data.mdb", "r+b") as file:
        file.truncate(0)


def cut_in_half(catalog: Path, rng: random.Random) -> None:
    with open(catalog / "data.mdb", "r+b") as file:
        file.truncate(file.seek(0, 2) // 2 + 7)


def cut_at_a_page(catalog: Path, rng: random.Random) -> None:
    with open(catalog / "data.mdb", "r+b") as file:
        pages = file.seek(0, 2) // PAGE
        file.truncate(rng.randint(1, max(1, pages - 1)) * PAGE)


def flip_bits(catalog: Path, rng: random.Random) -> None:
    size = (catalog / "data.mdb").stat().st_size
    for _ in range(rng.choice((1, 3, 20))):
        flip(catalog / "data.mdb", rng.randrange(size), rng.randrange(8))


def garbage(catalog: Path, rng: random.Random) -> None:
    """One page overwritten with noise."""
    with open(catalog / "data.mdb", "r+b") as file:
        file.seek(rng.randrange(max(1, file.seek(0, 2) // PAGE)) * PAGE)
        file.write(rng.randbytes(PAGE))


Damage = Callable[[Path, random.Random], None]

DAMAGES: dict[str, Damage] = {
    "deleted": delete,
    "data.mdb deleted": delete_file,
    "cut to nothing": cut_to_nothing,
    "cut in half": cut_in_half,
    "cut at a page": cut_at_a_page,
    "flipped bits": flip_bits,
    "a page of noise": garbage,
}
