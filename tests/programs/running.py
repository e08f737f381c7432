"""Running programs: bounded in time, with what they said in the failure.

`needs` is the mark of a test that wants programs of the system; it is skipped, naming them,
where they are missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

LIMIT_S = 60.0


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip the test unless all `programs` are installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs the program {', '.join(missing)}")


def run(
    *words: str | Path,
    cwd: Path,
    limit_s: float = LIMIT_S,
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
    accept: Sequence[int] = (0,),
) -> str:
    """What the program wrote to both streams; fails with it on any exit code but `accept`."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=limit_s,
        user=user,
        group=group,
        extra_groups=None if user is None else [],
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode in accept, f"{words[0]} ended with {done.returncode}:\n{output[-4000:]}"
    return output
