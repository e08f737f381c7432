"""What a configuration says, as frozen values; made by `shmr.config.parse`, which checks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shmr.format.fragment import Code
from shmr.units import MIB, NS_PER_S

CODES = tuple(code.name.lower() for code in Code if code is not Code.COPIES)
DEFAULT_CODE = Code.ISA_L_RS_CAUCHY.name.lower()
DEFAULT_ZONE_BYTES = 256 * MIB
DEFAULT_CLEAN_AT = 0.5
DEFAULT_READ_DEADLINE_NS = 10 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Scheme:
    """How a pool survives the loss of drives: `k` parts of data, `m` more that stand in for any.

    single is 1+0 and mirror 1+m with plain copies; erasure has a `code` that computes the m.
    """

    kind: Literal["single", "mirror", "erasure"]
    k: int = 1
    m: int = 0
    code: str | None = None

    @property
    def width(self) -> int:
        """How many different drives one piece of data lies on."""
        return self.k + self.m

    @property
    def copies(self) -> int:
        """How many whole copies exist of each byte: 1 for an erasure code."""
        return 1 if self.kind == "erasure" else self.width

    def __str__(self) -> str:
        if self.kind == "erasure":
            return f"erasure {self.k}+{self.m} ({self.code})"
        return self.kind if self.kind == "single" else f"mirror of {self.copies}"


@dataclass(frozen=True, slots=True)
class DriveConfig:
    """A directory on its own disk.

    `mounted`: refuse the drive when nothing is mounted at `path`. `size_bytes`: use no more than
    this of the disk; None is all of it.
    """

    path: Path
    mounted: bool = False
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the files of a pool that meet all of the conditions given here.

    They go to `pool`, or with `keep` stay in it. Sizes are those of whole files, ages are counted
    from the last write or the last access, `paths` are patterns of which one has to match, and
    `min_free` is a share: the rule counts only while less than that of the pool is free.
    """

    pool: str
    keep: bool = False
    older_than_ns: int | None = None
    not_read_for_ns: int | None = None
    larger_than_bytes: int | None = None
    smaller_than_bytes: int | None = None
    paths: tuple[str, ...] = ()
    min_free: float | None = None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """A named set of drives with one scheme. Priority 0 is where writes land.

    `segment_size_bytes` counts in the pool of priority 0 (None: by the size of the pool),
    `zone_size_bytes` and `clean_at` in all others: a segment with that share of dead bytes is
    worth cleaning. `rules` are for the files in this pool; None: none are given, so the default of
    `shmr.policy` holds.
    """

    name: str
    priority: int
    scheme: Scheme
    drives: tuple[DriveConfig, ...]
    zone_size_bytes: int = DEFAULT_ZONE_BYTES
    segment_size_bytes: int | None = None
    rules: tuple[Rule, ...] | None = None
    clean_at: float = DEFAULT_CLEAN_AT


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration. All paths are absolute; `pools` are in the order of priority.

    `path` is the file it came from. `same_device` allows several drives of a pool on one disk.
    `status_file` is kept up to date by whoever works on the filesystem; None: there is none. An
    archive drive that has not answered within `read_deadline_ns` is passed over.
    """

    filesystem: str
    catalog: Path
    pools: tuple[PoolConfig, ...]
    path: Path
    same_device: bool = False
    status_file: Path | None = None
    read_deadline_ns: int = DEFAULT_READ_DEADLINE_NS

    @property
    def workspace(self) -> PoolConfig:
        """The pool of priority 0."""
        return self.pools[0]
