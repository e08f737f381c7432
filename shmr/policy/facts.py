"""What a decision may depend on, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file. `pool_bytes` says how much of it lies in which pool, by name.

    `paths` are its names from the top, without a slash before them; bytes that are not UTF-8 are
    surrogates, as `os.fsdecode` makes them. They may be left out where no rule asks for them
    (`shmr.policy.needs_paths`), or where they were compared already: `matched` are patterns of
    which one path or another was found to match.
    """

    inode: int
    size_bytes: int
    written_ns: int
    accessed_ns: int
    pool_bytes: Mapping[str, int]
    paths: tuple[str, ...] = ()
    matched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool, in bytes of files: what redundancy takes is not counted.

    `free_bytes` is all that can be had, with what the cleaner would win.
    """

    name: str
    priority: int
    total_bytes: int
    free_bytes: int
    used_bytes: int

    @property
    def free_share(self) -> float:
        """From 0 to 1; a pool without any room is full."""
        return self.free_bytes / self.total_bytes if self.total_bytes > 0 else 0.0
