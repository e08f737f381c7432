"""The catalog is a cache of the log: without it, or with a bent one, the next mount comes up."""

from __future__ import annotations

import os
import random

import pytest

from tests.crash.conftest import Make
from tests.crash.damage import DAMAGES, catalog_of, doubtful, flip_bits
from tests.crash.load import Load, digest_of, inconsistencies, make_durable
from tests.mounted import MountedFilesystem

pytestmark = pytest.mark.mount

MUST_BE_SET_ASIDE = {"cut to nothing", "cut in half"}


def plant(filesystem: MountedFilesystem, name: str, rng: random.Random) -> dict[str, str]:
    """A directory with files of all kinds of sizes, durable; returns what the tree then holds."""
    place = filesystem.path / name
    place.mkdir()
    for number in range(60):
        directory = place / str(number % 7)
        directory.mkdir(exist_ok=True)
        path = directory / f"file {number}"
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 5000, 300_000))))
        os.setxattr(path, "user.number", str(number).encode())
    os.link(place / "0" / "file 0", place / "hard link")
    os.symlink("nowhere", place / "symlink")
    make_durable(place)
    return digest_of(filesystem.path)


@pytest.mark.parametrize("clean", [False, True], ids=["killed", "unmounted"])
def test_a_damaged_catalog_is_kept_aside_and_rebuilt(make_filesystem: Make, clean: bool) -> None:
    filesystem = make_filesystem()
    rng = random.Random(5)
    filesystem.start()
    for name, damage in DAMAGES.items():
        wanted = plant(filesystem, name, rng)
        filesystem.stop() if clean else filesystem.kill()
        aside = len(doubtful(filesystem))
        damage(catalog_of(filesystem), rng)
        damaged = (catalog_of(filesystem) / "data.mdb").exists()
        filesystem.start()
        assert digest_of(filesystem.path) == wanted, name
        assert inconsistencies(filesystem.path) == [], name
        assert os.getxattr(filesystem.path / name / "3" / "file 3", "user.number") == b"3"
        if name in MUST_BE_SET_ASIDE:
            assert damaged
            assert len(doubtful(filesystem)) == aside + 1, name
        probe = filesystem.path / f"probe {name}"
        probe.write_bytes(b"goes on")  # and it is no read-only mount


def test_the_damaged_catalog_itself_is_not_touched(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    plant(filesystem, "tree", random.Random(1))
    filesystem.kill()
    DAMAGES["cut in half"](catalog_of(filesystem), random.Random(1))
    before = (catalog_of(filesystem) / "data.mdb").read_bytes()
    filesystem.start()
    (aside,) = doubtful(filesystem)
    assert (aside / "data.mdb").read_bytes() == before


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_flipped_bits_of_many_seeds(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    filesystem.start()
    wanted = plant(filesystem, "tree", random.Random(2))
    for seed in range(25):
        filesystem.stop() if seed % 2 else filesystem.kill()
        flip_bits(catalog_of(filesystem), random.Random(seed))
        filesystem.start()
        assert digest_of(filesystem.path) == wanted, seed
        assert inconsistencies(filesystem.path) == [], seed


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_kill_under_load_and_a_lost_catalog(make_filesystem: Make) -> None:
    filesystem = make_filesystem()
    load = Load(filesystem, each=1)
    rng = random.Random(11)
    filesystem.start()
    for name, damage in DAMAGES.items():
        load.begin()
        load.run_for(rng.randint(10, 500))
        filesystem.kill()
        load.end()
        damage(catalog_of(filesystem), rng)
        filesystem.start()
        assert load.lost() == [], name
