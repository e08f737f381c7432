"""Progress: a bar where somebody watches, lines where a file does, and an end that is clean."""

from __future__ import annotations

import io
import os
import signal

import pytest

from shmr.cli.progress import Progress, stop_asked
from shmr.units import MIB


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(stream: io.StringIO, *, width: int = 100, note: str = "") -> list[str]:
    """A job of 100 MiB at 8 MiB/s; what was written, line by line."""
    clock = Clock()
    with Progress("shift", 100 * MIB, stream=stream, clock=clock, width=lambda: width) as progress:
        for step in range(1, 101):
            clock.now += 0.125
            progress.update(step * MIB, note=note)
    return stream.getvalue().split("\r\x1b[K" if stream.isatty() else "\n")


def test_a_terminal_gets_a_bar_that_is_drawn_anew() -> None:
    drawn = run(Terminal())
    assert drawn[27] == (
        "shift  [===============>..............]   52%  52.0 MiB of 100.0 MiB  8.0 MiB/s  0:06 left"
    )
    assert drawn[-1] == (
        "shift  [==============================]  100%  100.0 MiB of 100.0 MiB  "
        "8.0 MiB/s  0:00 left\n"
    )
    assert 40 < len(drawn) < 60  # not with every one of the hundred updates


@pytest.mark.parametrize("width", [5, 20, 40, 60, 79, 80, 200])
def test_a_line_never_wraps(width: int) -> None:
    for line in run(Terminal(), width=width, note="4.0 MiB/s per drive"):
        assert len(line.rstrip("\n")) < width


def test_a_narrow_terminal_gets_numbers_and_no_bar() -> None:
    assert run(Terminal(), width=60)[-1].startswith("shift  100%  100.0 MiB of 100.0 MiB")


def test_elsewhere_there_is_a_plain_line_every_few_seconds() -> None:
    lines = run(io.StringIO(), note="on 6 drives")
    assert lines[0].startswith("shift:   0%  0 B of 100.0 MiB")
    assert lines[-2].startswith("shift: 100%  100.0 MiB of 100.0 MiB")
    assert lines[-2].endswith("left  on 6 drives")
    assert len(lines) <= 5
    assert not any("\r" in line or "\x1b" in line for line in lines)


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_a_job_of_which_nothing_is_known_shows_nothing(stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="refused"), Progress("shift", 0, stream=stream):
        raise ValueError("refused")
    assert stream.getvalue() == ""


def test_a_job_of_a_moment_has_a_rate() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress("drain", 0, stream=stream, clock=clock) as progress:
        progress.update(0, total_bytes=4 * MIB, note="planning")
        clock.now += 2
        progress.update(4 * MIB, note="verifying")
    assert stream.getvalue().splitlines()[-1] == (
        "drain: 100%  4.0 MiB of 4.0 MiB  2.0 MiB/s  0:00 left  verifying"
    )


def test_a_line_that_stays_stands_above_the_bar() -> None:
    stream = Terminal()
    with Progress("shift", MIB, stream=stream, clock=Clock(), width=lambda: 80) as progress:
        progress.say("segment 7: written")
    assert "\r\x1b[Ksegment 7: written\n\r\x1b[Kshift" in stream.getvalue()


def test_an_interrupted_job_leaves_the_cursor_at_a_new_line() -> None:
    stream = Terminal()
    with (
        pytest.raises(KeyboardInterrupt),
        Progress("shift", MIB, stream=stream, clock=Clock(), width=lambda: 80),
    ):
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("left\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_stops(number: int) -> None:
    stream = io.StringIO()
    before = signal.getsignal(number)
    with stop_asked(stream) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        assert "stopping at the next safe point" in stream.getvalue()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
