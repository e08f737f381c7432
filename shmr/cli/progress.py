"""How far a long command is: a bar on a terminal, a plain line now and then elsewhere.

    with Progress("shift", total_bytes) as progress, stop_asked() as stop:
        for step in steps:
            progress.update(step.done_bytes)
            if stop():
                break

It is written to standard error, so that what a command reports can go through a pipe.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TextIO

from shmr.core.meter import Meter, bar, format_left
from shmr.units import format_size

REDRAW_S = 0.2
LINE_S = 5.0
_CLEAR = "\r\x1b[K"
_BAR_STEP, _BAR_MAX = 10, 40


def terminal_width() -> int:
    return shutil.get_terminal_size().columns


class Progress:
    """One job. `update` may be called as often as one likes; most calls do next to nothing."""

    def __init__(
        self,
        what: str,
        total_bytes: int,
        *,
        of_bytes: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        width: Callable[[], int] = terminal_width,
    ) -> None:
        """Unless they are bytes that people know (`of_bytes`), only the share is told."""
        self._what = what
        self._of_bytes = of_bytes
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._width = width
        self._is_terminal = self._stream.isatty()
        self._pause_s = REDRAW_S if self._is_terminal else LINE_S
        self._meter = Meter(total_bytes)
        self._note = ""
        self._drawn_s: float | None = None

    def __enter__(self) -> Progress:
        self.update(0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Where it ended stays to be seen, also where it was interrupted."""
        self._meter.note(self._clock(), self._meter.done_bytes)
        self._draw()
        if self._is_terminal and self._is_begun:
            self._write("\n")

    def update(
        self, done_bytes: int, *, total_bytes: int | None = None, note: str | None = None
    ) -> None:
        """So much is done now. `note` is shown behind the numbers until there is another."""
        if total_bytes is not None:
            self._meter.total_bytes = total_bytes
        if note is not None:
            self._note = note
        now = self._clock()
        self._meter.done_bytes = done_bytes
        if not self._is_begun:
            return
        if self._drawn_s is None or now - self._drawn_s >= self._pause_s:
            self._meter.note(now, done_bytes)
            self._drawn_s = now
            self._draw()

    def say(self, line: str) -> None:
        """A line of its own, that stays."""
        self._write(f"{_CLEAR if self._is_terminal else ''}{line}\n")
        if self._is_terminal:
            self._draw()

    @property
    def _is_begun(self) -> bool:
        """Nothing is shown before anything is known: what is refused at once has no progress."""
        return bool(self._meter.total_bytes or self._note)

    def _draw(self) -> None:
        if not self._is_begun:
            return
        meter = self._meter
        done = ""
        if self._of_bytes:
            done = (
                f"{format_size(meter.done_bytes)} of {format_size(meter.total_bytes)}  "
                f"{format_size(int(meter.rate))}/s  "
            )
        numbers = f"{meter.share:4.0%}  {done}{format_left(meter.left_s)} left"
        tail = f"  {self._note}" if self._note else ""
        if not self._is_terminal:
            self._write(f"{self._what}: {numbers}{tail}\n")
            return
        width = self._width() - 1
        room = width - len(self._what) - len(numbers) - len(tail) - 6
        # In tens, so that it does not change with each digit of the numbers.
        size = min(room, _BAR_MAX) // _BAR_STEP * _BAR_STEP
        shown = f"{bar(meter.share, size)}  " if size > 0 else ""
        self._write(_CLEAR + f"{self._what}  {shown}{numbers}{tail}"[:width])

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextmanager
def stop_asked(stream: TextIO | None = None) -> Iterator[Callable[[], bool]]:
    """Whether somebody pressed Ctrl-C, or the system asks us to end (SIGTERM).

    The first time it is only noted, for the job to stop at its next safe point; the second time
    KeyboardInterrupt is raised wherever the job is. For the main thread.
    """
    asked = 0
    to = sys.stderr if stream is None else stream

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise KeyboardInterrupt
        to.write("\nstopping at the next safe point; once more to stop at once\n")
        to.flush()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
