"""SIGKILL of the daemon under load: what was acknowledged is there after the next mount."""

from __future__ import annotations

import random
import time

import pytest

from tests.crash.conftest import Make
from tests.crash.load import Load

pytestmark = pytest.mark.mount

RECOVERY_LIMIT_S = 10.0


@pytest.mark.parametrize("scheme", ["single", "{mirror: 2}"])
def test_what_was_acknowledged_survives_kill_after_kill(make_filesystem: Make, scheme: str) -> None:
    filesystem = make_filesystem(scheme=scheme)
    load = Load(filesystem, each=1)
    rng = random.Random(7)
    filesystem.start()
    for _ in range(4):
        load.begin()
        load.run_for(rng.randint(20, 400))
        filesystem.kill()
        load.end()
        before = time.monotonic()
        filesystem.start()  # replaces the dead mount by itself
        assert time.monotonic() - before < RECOVERY_LIMIT_S
        assert load.lost() == []
    filesystem.remount()
    assert load.lost() == []
