"""A directory that files are written into, with scratch space in it that goes at the end.

The scratch space is a directory of mode 0700 with a name that nobody can know before. What a run
left behind that was killed is found by its name, and by nobody holding it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from shmr.errors import SetupError

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""How a directory is opened that somebody else may have put there."""
_NAME = re.compile(r"\.shmr-(decode|drill)-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Scratch:
    """A directory to write into, and one inside it that is ours alone, by name and descriptor."""

    top: int
    inside: int
    name: str
    label: str
    made: bool = False
    """Was the directory made for this?"""

    @property
    def catalog(self) -> Path:
        """Where a catalog can be made, reached by the descriptor where the system lets us."""
        through = Path(f"/proc/self/fd/{self.inside}")
        return (through if through.exists() else Path(self.label, self.name)) / "catalog"


@contextmanager
def destination(path: str) -> Iterator[Scratch]:
    """The directory at `path`, made if it is not there, with scratch space that goes at the end.

    What a run left that was killed goes first. Raises SetupError.
    """
    made = True
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        made = False
    except OSError as error:
        raise SetupError(f"--to {path}: {error.strerror}; give a directory") from error
    with scratch_in(path, "decode", "--to") as scratch:
        yield replace(scratch, made=made)


@contextmanager
def scratch_in(path: str, job: str, option: str) -> Iterator[Scratch]:
    """Scratch space in the directory at `path`, for a job (its names have that) as `destination`.

    `option` is how people gave the path. Raises SetupError.
    """
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SetupError(f"{option} {path}: {error.strerror}; give a directory") from error
    try:
        _remove_left(top)
        name = f".shmr-{job}-{os.urandom(8).hex()}"
        try:
            os.mkdir(name, 0o700, dir_fd=top)
            inside = os.open(name, DIRECTORY, dir_fd=top)
        except OSError as error:
            raise SetupError(
                f"{option} {path}: {error.strerror}; nothing can be written"
            ) from error
        try:
            with suppress(OSError):
                fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Scratch(top, inside, name, path)
        finally:
            os.close(inside)
            shutil.rmtree(name, ignore_errors=True, dir_fd=top)
    finally:
        os.close(top)


def _remove_left(top: int) -> None:
    """Scratch directories of runs that were killed: nobody holds them."""
    with os.scandir(top) as entries:
        left = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    for name in left:
        with suppress(OSError):
            inside = os.open(name, DIRECTORY, dir_fd=top)
            try:
                if os.fstat(inside).st_uid == os.geteuid():
                    fcntl.flock(inside, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(name, ignore_errors=True, dir_fd=top)
            finally:
                os.close(inside)
