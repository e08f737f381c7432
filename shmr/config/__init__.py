"""The configuration: one YAML file, read once at the edge into frozen values.

    config = load("/etc/shmr/media.yaml")

Below this package a configuration is valid. Every mistake in the file is reported, all of them
at once, each with its path (`pools[1].drives[0].path: ...`), as one `ConfigError`. No other error
comes out of here, whatever the file holds.

Left to others: what depends on the machine of the moment. Whether a drive exists, is mounted, or
shares a disk with another is asked when the filesystem is mounted.
"""

from __future__ import annotations

from shmr.config.reading import load, parse
from shmr.config.values import Config, DriveConfig, PoolConfig, Rule, Scheme

__all__ = ["Config", "DriveConfig", "PoolConfig", "Rule", "Scheme", "load", "parse"]
