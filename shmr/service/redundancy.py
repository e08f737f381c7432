"""`shmr redundancy`: how many drives what is in a pool may lose.

More is written beside what is there, which stays as it is: parity does not depend on how much of it
there is. Less is a matter of rows, once all that stays was read and verified.
"""

from __future__ import annotations

import os

from shmr.archive.redistribute import plan_parity
from shmr.codec import self_test
from shmr.config import PoolConfig, load
from shmr.errors import SetupError
from shmr.format.fragment import WIDTH_MAX
from shmr.service.following import Stop, Watcher, nobody_stops
from shmr.service.offline import unmounted
from shmr.service.rehousing import Job, Rehoused, room_of, rows_of


def redundancy(
    config_path: str | os.PathLike[str],
    pool_name: str,
    m: int,
    *,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """Everything in the pool may lose any `m` drives. Goes on where an earlier run ended.

    Raises SetupError, DriveError, NoSpace, IntegrityError; what was done before stays done.
    """
    config = load(config_path)
    entry = next((pool for pool in config.pools if pool.name == pool_name), None)
    if entry is None:
        raise SetupError(f"the config has no pool {pool_name!r}")
    if entry is config.workspace:
        raise SetupError(
            f"pool {pool_name!r} is the workspace, whose copies cannot be changed yet: this works "
            "for archive pools"
        )
    k = entry.scheme.k
    if m < (1 if k > 1 else 0) or k + m > WIDTH_MAX:
        least = 1 if k > 1 else 0
        raise SetupError(f"{k}+{m} is no scheme: m is {least} to {WIDTH_MAX - k} here")
    self_test(k, m, entry.scheme.code)
    with unmounted(config, read_only=False) as (volume, pools):
        pool = next((pool for pool in pools if pool.name == pool_name), None)
        if pool is None:
            raise SetupError(f"pool {pool_name!r}: no drive of it is there; connect them")
        job = Job(volume, pools, watcher, stop)
        job.recover()
        rows = {n: a for n, a in rows_of(volume, pool).items() if a.k == k}
        room = room_of(volume, pool)
        job.carry_out(plan_parity(rows, m, room, same_device=pool.same_device))
        surplus = sum(max(0, archived.m - m) for archived in rows.values())
        for number in sorted(rows):
            job.do(job.rehousing.drop(number, k + m))
        job.do(job.rehousing.settle())
        rows = {n: a for n, a in rows_of(volume, pool).items() if a.k == k}
        more = sum(max(0, archived.m - m) for archived in rows.values())
        less = sum(max(0, m - archived.m) for archived in rows.values())
        advice = () if m == entry.scheme.m else (_line(entry, m),)
        return job.told(less + more, dropped=surplus - more, advice=advice)


def _line(entry: PoolConfig, m: int) -> str:
    """What the config has to say from now on."""
    if entry.scheme.k > 1:
        code = entry.scheme.code
        scheme = f"{{erasure: {{k: {entry.scheme.k}, m: {m}, code: {code}}}}}"
    else:
        scheme = "single" if not m else f"{{mirror: {1 + m}}}"
    return (
        f"new segments are still written as the config says: in pool {entry.name!r} change the "
        f"line to `scheme: {scheme}`"
    )
