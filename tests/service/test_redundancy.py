"""`shmr redundancy`: more parity and less, on real directories."""

from __future__ import annotations

from collections import Counter

import pytest

from shmr import service
from shmr.errors import SetupError
from tests.place import Place, name_new_pool


def test_redundancy_is_raised_and_lowered(place: Place) -> None:
    segments = sum(place.widths().values())
    done = service.redundancy(place.config, "cold", 2)
    assert done.is_complete and done.moved == segments
    assert "m: 2" in done.advice[0]
    assert place.widths() == {4: segments}
    for name in "ab":
        (place.base / name).rename(place.base / f"{name}-away")
    place.assert_files()
    for name in "ab":
        (place.base / f"{name}-away").rename(place.base / name)
    done = service.redundancy(place.config, "cold", 1)
    assert done.is_complete and done.dropped == segments and not done.advice
    assert place.widths() == {3: segments}
    place.assert_files()


def test_copies_become_more_and_fewer(place: Place) -> None:
    name_new_pool(place)
    (place.base / "z").mkdir()
    text = place.config.read_text()
    place.config.write_text(text + "      - {path: z, size: 64MiB}\n")
    service.drive_add(place.config, *(place.path(name) for name in "xyz"))
    service.compact(place.config, everything=True, source="cold", target="cellar", flush=True)
    done = service.redundancy(place.config, "cellar", 2)
    assert done.is_complete and done.moved > 0 and "scheme: {mirror: 3}" in done.advice[0]
    for name in "xz":
        (place.base / name).rename(place.base / f"{name}-away")
    place.assert_files()
    for name in "xz":
        (place.base / f"{name}-away").rename(place.base / name)
    done = service.redundancy(place.config, "cellar", 0)
    assert done.is_complete and done.dropped > 0 and "scheme: single" in done.advice[0]
    assert set(place.widths()) == {1}
    place.assert_files()


def test_redundancy_that_drives_do_not_allow_is_refused(place: Place) -> None:
    done = service.redundancy(place.config, "cold", 3)
    assert not done.is_complete and done.shortage is not None
    place.assert_files()
    for pool, m, why in (
        ("cold", 0, "no scheme"),
        ("work", 1, "workspace"),
        ("warm", 1, "no pool"),
    ):
        with pytest.raises(SetupError, match=why):
            service.redundancy(place.config, pool, m)


def test_parity_stays_where_a_drive_of_the_rest_is_missing(place: Place) -> None:
    segments = sum(place.widths().values())
    assert service.redundancy(place.config, "cold", 2).is_complete
    (place.base / "a").rename(place.base / "away")
    done = service.redundancy(place.config, "cold", 1)
    assert not done.is_complete and done.left == len(done.lost) > 0
    assert place.widths() == Counter({4: done.left, 3: segments - done.left})
    place.assert_files()
    (place.base / "away").rename(place.base / "a")
    assert service.redundancy(place.config, "cold", 1).dropped == done.left
    place.assert_files()
