"""Python's own tests of files, run with their temporary directory on the filesystem."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests.programs.running import run

pytestmark = pytest.mark.programs


@pytest.mark.parametrize(
    "module",
    [
        "test_os",
        "test_shutil",
        "test_pathlib",
        "test_mmap",
        "test_tempfile",
        "test_glob",
        "test_fileio",
        "test_largefile",
        "test_dbm_dumb",
        "test_mailbox",
        "test_fcntl",
        "test_posix",
    ],
)
def test_python_s_own_tests_pass(place: Path, module: str) -> None:
    if importlib.util.find_spec("test") is None or not _exists(module):
        pytest.skip(f"this Python comes without {module}")
    run(
        sys.executable, "-m", "test", f"--tempdir={place}", "--timeout=100", module,
        cwd=place,
        limit_s=110,
        environment={"TMPDIR": str(place), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert not [name for name in os.listdir(place) if name.startswith("test_python_worker")]


def _exists(module: str) -> bool:
    return importlib.util.find_spec(f"test.{module}") is not None
