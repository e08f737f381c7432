"""How fast a job goes and how long it still takes, from how far it was when; and a bar of it.

The rate is that of the last seconds: a drive that woke up, or a file of many extents, shows soon,
and one slow moment does not.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0


class Meter:
    """Times are seconds of any clock that does not go back."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        """May be corrected while the job runs."""
        self.done_bytes = 0
        self._points: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, done_bytes: int) -> None:
        """The job is so far now."""
        self.done_bytes = done_bytes
        points = self._points
        points.append((now_s, done_bytes))
        # The first point stays until the second is old enough: a window is never shorter.
        while len(points) > 2 and now_s - points[1][0] >= WINDOW_S:
            points.popleft()

    @property
    def rate(self) -> float:
        """Bytes per second of late; 0 before anything can be said."""
        if len(self._points) < 2:
            return 0.0
        (start_s, start), (end_s, end) = self._points[0], self._points[-1]
        return max(0.0, (end - start) / (end_s - start_s)) if end_s > start_s else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds to go at this rate; None: nobody knows."""
        left = max(0, self.total_bytes - self.done_bytes)
        if not left:
            return 0.0
        return left / self.rate if self.rate > 0 else None

    @property
    def share(self) -> float:
        """How much is done, from 0 to 1; a job of no bytes is done."""
        return share_of(self.done_bytes, self.total_bytes)


def share_of(done_bytes: int, total_bytes: int) -> float:
    return min(1.0, max(0.0, done_bytes / total_bytes)) if total_bytes > 0 else 1.0


def bar(share: float, width: int) -> str:
    """`width` characters between brackets, as in /proc/mdstat: "[====>.....]"."""
    whole = int(min(1.0, max(0.0, share)) * width)
    if whole >= width:
        return "[" + "=" * width + "]"
    return "[" + "=" * whole + ">" + "." * (width - whole - 1) + "]"


def format_left(seconds: float | None) -> str:
    """Hours, minutes and seconds: "1:02:03", "0:07"; more than 100 hours are days: "5 d"."""
    if seconds is None:
        return "?"
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    if hour >= 100:
        return f"{hour // 24} d"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"
