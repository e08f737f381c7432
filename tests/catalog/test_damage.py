"""The catalog is a cache of the log: however its file is bent, the next mount has everything."""

from __future__ import annotations

import pytest

from shmr.testing.damage import catalogs


@pytest.mark.parametrize("seed", range(3))
def test_a_bent_catalog_is_noticed_and_rebuilt(seed: int) -> None:
    catalogs(seed, cases=4)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_hundreds_of_bent_catalogs_are_noticed() -> None:
    assert sum(catalogs(seed) for seed in range(1000, 1030)) > 200
