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
from shmr.service.drives.find import pool_named
from shmr.service.drives.rehousing import Job, Rehoused
from shmr.service.following import Stop, Terms, Watcher, nobody_stops
from shmr.service.offline import unmounted


def redundancy(
    config_path: str | os.PathLike[str],
    pool_name: str,
    m: int,
    *,
    dry_run: bool = False,
    limit_rate: int | None = None,
    watcher: Watcher | None = None,
    stop: Stop = nobody_stops,
) -> Rehoused:
    """Everything in the pool may lose any `m` drives. Goes on where an earlier run ended.

    `limit_rate` is in bytes per second.
    Raises SetupError, DriveError, NoSpace, IntegrityError; what was done before stays done.
    """
    config, terms = load(config_path), Terms(watcher, stop, limit_rate, dry_run)
    entry = next((pool for pool in config.pools if pool.name == pool_name), None)
    k = 1 if entry is None else entry.scheme.k
    least = 1 if k > 1 else 0
    if entry is not None and entry is not config.workspace:
        if m < least or k + m > WIDTH_MAX:
            raise SetupError(f"{k}+{m} is no scheme: m is {least} to {WIDTH_MAX - k} here")
        self_test(k, m, entry.scheme.code)
    with unmounted(config, read_only=dry_run) as (volume, pools):
        pool = pool_named(config, pools, pool_name)
        assert entry is not None, "a pool of the config was found"
        with Job("redundancy", config, volume, pools, terms) as job:
            every = job.rows(pool)
            rows = {n: a for n, a in every.items() if a.k == k}
            plan = plan_parity(rows, m, job.room(pool), same_device=pool.same_device)
            job.carry_out(pool, plan)
            surplus = sum(max(0, archived.m - m) for archived in rows.values())
            wide = {n: a for n, a in rows.items() if a.m > m}
            job.more(sum(archived.data_bytes * (k + m) for archived in wide.values()))
            for number in sorted(wide):
                job.do(job.rehousing.drop(number, k + m))
            job.do(job.rehousing.settle())
            now = {n: a for n, a in job.rows(pool).items() if a.k == k}
            more = 0 if dry_run else sum(max(0, archived.m - m) for archived in now.values())
            less = sum(max(0, m - archived.m) for archived in now.values())
            advice = [] if m == entry.scheme.m else [_line(entry, m)]
            if job.shortage is not None:
                advice = [
                    f"of pool {pool_name!r} {len(job.room(pool))} drives are there: with {k}+{m} "
                    f"it needs {k + m} with room; add drives (`shmr drive add`) and run it again"
                ]
            if len(every) > len(rows):
                advice.append(
                    f"{len(every) - len(rows)} segments have another k than {k} and stay as they "
                    "are; moved to another pool and back (`shmr-compact --from --to`) they have it"
                )
            return job.told(less + more, dropped=surplus - more, advice=tuple(advice))


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
