"""Waiting for drives that may have to wake, and not for ever for one that hangs.

A thread that waits for a disk cannot be called back: it is left behind.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from shmr.drive.impatient import Answer
from shmr.errors import DriveError

T = TypeVar("T")

PATIENCE_S = 120.0
"""A drive that has not answered for so long, to a few dozens of reads, is not asked again."""
_PULSE_S = 0.5


def waited(drive: str, answer: Answer[T], pulse: Callable[[], None] = lambda: None) -> T:
    """What `answer` comes to; `pulse` is called meanwhile, and may raise what ends the waiting.

    Raises DriveError if it takes too long, and what the call raised.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        left = until - time.monotonic()
        try:
            return answer.within(min(_PULSE_S, left))
        except TimeoutError:
            if left <= 0:
                late = OSError(errno.ETIMEDOUT, f"it has not answered for {PATIENCE_S:g} s")
                raise DriveError(drive, "look", late) from None
        pulse()
