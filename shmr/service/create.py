"""`shmr create`: make the filesystem explicitly."""

from __future__ import annotations

import os

from shmr.config import load
from shmr.service.assemble import create_filesystem


def create(config_path: str | os.PathLike[str]) -> None:
    """Make the filesystem that the configuration describes. Raises SetupError."""
    create_filesystem(load(config_path))
