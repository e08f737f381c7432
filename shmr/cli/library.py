"""The functions of the library that commands call, found when a command runs and not before.

`shmr.service` and `shmr.fsck` need trio, LMDB and more, and take a moment to import. So they are
imported when a command needs them: `--help` is quick, and a machine that lacks one of these gets a
sentence instead of a traceback. This is the only place that does so.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

from shmr.errors import SetupError

if TYPE_CHECKING:
    from shmr.service.looking.overview import Overview
    from shmr.service.looking.topology import Topology


class Service(Protocol):
    """What commands need of `shmr.service`. Every function may raise SetupError."""

    def create(self, config_path: Path) -> None:
        """Make the filesystem that the configuration describes."""

    def mount(
        self,
        config_path: Path,
        mountpoint: Path,
        *,
        options: Sequence[str] = (),
        foreground: bool = False,
        read_only: bool = False,
        degraded: bool = False,
    ) -> None:
        """Mount; returns when the mount answers, or with `foreground` when it has ended."""

    def unmount(self, mountpoint: Path) -> None:
        """Unmount; returns when the daemon has written everything and is gone."""

    def topology(self, config_path: Path, what: str) -> Topology:
        """Where the bytes of a file are, by the number of its inode or by a path."""

    def overview(self, config_path: Path) -> Overview:
        """The state of the filesystem."""


def load_service() -> Service:
    """The module `shmr.service`. Raises SetupError when a Python package is missing."""
    return cast(Service, load("shmr.service"))


def load(module: str) -> ModuleType:
    """A module of ours. Raises SetupError when a Python package that it needs is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] == "shmr":
            raise  # a mistake of ours, not of the machine
        raise SetupError(
            f"cannot be run here: {error}; install shmr's Python packages (pip install shmr)"
        ) from error
