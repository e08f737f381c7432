"""What can go wrong, in three families with three reactions.

* `Refused`: the caller asked for something impossible. Reply an errno; nothing changed.
* `IntegrityError`: bytes are wrong. Repair from redundancy, count, report; never return them.
* `DriveError`: a device failed. Degrade, or retry elsewhere; a failed log write is never retried.

Beside them `SetupError`: the filesystem cannot be created or mounted as asked. Its message
says what to do next. And `Unfinished`: one of these ended a long job early.
"""

from __future__ import annotations

import errno
import os


class ShmrError(Exception):
    """Every error that shmr raises on purpose."""


class Refused(ShmrError):
    """The request is impossible; `errno` is what the system call returns."""

    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.errno = number


class NoSpace(Refused):
    """ENOSPC: the reserve that this kind of request may use is exhausted."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC)


class IntegrityError(ShmrError):
    """Bytes that were read are not the bytes that were written."""


class DriveError(ShmrError):
    """A drive failed an operation.

    `drive` names it, `operation` is the verb of the drive seam, `cause` the system's error.
    """

    def __init__(self, drive: str, operation: str, cause: OSError) -> None:
        super().__init__(f"drive {drive}: {operation} failed: {cause.strerror or cause}")
        self.drive = drive
        self.operation = operation
        self.cause = cause

    @property
    def errno(self) -> int:
        return self.cause.errno or 0


class SetupError(ShmrError):
    """The filesystem cannot be created, mounted or opened; the message says what to do."""


class ConfigError(SetupError):
    """The configuration has mistakes: `problems` lists all of them, each with its path."""

    def __init__(self, source: str, problems: list[str]) -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{source}: {len(problems)} problem(s):\n{lines}")
        self.source = source
        self.problems = problems


class Unfinished(ShmrError):
    """Something ended a long job early. `done` is the job's report of what was done before."""

    def __init__(self, cause: Exception, done: object) -> None:
        super().__init__(str(cause))
        self.done = done
