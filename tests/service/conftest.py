"""What tests of drives share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.place import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.fill()
    return found
