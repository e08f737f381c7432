"""Whether the directories of a configuration keep out of each other's way.

Drives lie neither on nor inside one another, or one would take the other's files for its own.
The catalog may lie in a drive of the pool of priority 0, beside the log, and in no other drive:
an archive drive is only ever written in sequence. The status file, which is replaced every few
seconds, lies in no drive and not in the catalog.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from shmr.config.document import Problems
from shmr.config.values import PoolConfig


def default_catalog(workspace: PoolConfig) -> Path:
    """Where the catalog is if nothing is said: on the first drive of the workspace that is there.

    So a mirror that has lost its first drive goes on: the catalog is made anew from the log. Where
    none is there, on the first.
    """
    there = (
        drive
        for drive in workspace.drives
        if os.path.isdir(drive.path) and (not drive.mounted or os.path.ismount(drive.path))
    )
    return next(there, workspace.drives[0]).path / "catalog"


def check_places(
    pools: Sequence[PoolConfig],
    catalog: Path | None,
    problems: Problems,
) -> None:
    """Report what lies where it must not. `Path()` stands for a path that was no path."""
    drives: dict[Path, tuple[str, int]] = {}
    for pool_index, pool in enumerate(pools):
        for drive_index, drive in enumerate(pool.drives):
            place = f"pools[{pool_index}].drives[{drive_index}]"
            if drive.path == Path():
                continue
            if drive.path == Path("/"):
                problems.add(place, "a drive is a directory of its own, not the root directory")
            elif drive.path in drives:
                problems.add(place, f"{drive.path} is also {drives[drive.path][0]}")
            else:
                drives[drive.path] = place, pool.priority
    for path, (place, _) in drives.items():
        outer = _enclosing(path, drives)
        if outer is not None:
            problems.add(place, f"{path} lies inside {drives[outer][0]} ({outer})")
    if catalog is not None:
        _check_catalog(catalog, drives, problems)


def _check_catalog(catalog: Path, drives: dict[Path, tuple[str, int]], problems: Problems) -> None:
    if catalog in drives:
        place = drives[catalog][0]
        problems.add("catalog", f"{catalog} is {place}; give it a directory of its own")
        return
    outer = _enclosing(catalog, drives)
    if outer is not None and drives[outer][1] > 0:
        place = drives[outer][0]
        problems.add("catalog", f"{catalog} lies inside {place}, which is not of priority 0")
    for path, (place, _) in drives.items():
        if catalog in path.parents:
            problems.add(place, f"{path} lies inside the catalog ({catalog})")


def check_status_file(
    path: Path,
    pools: Sequence[PoolConfig],
    catalog: Path | None,
    config: Path,
    problems: Problems,
) -> None:
    """The status file may be replaced again and again without harm where it lies."""
    taken = {
        drive.path: f"pools[{pool_index}].drives[{drive_index}]"
        for pool_index, pool in enumerate(pools)
        for drive_index, drive in enumerate(pool.drives)
        if drive.path not in (Path(), Path("/"))
    }
    if catalog is not None:
        taken.setdefault(catalog, "the catalog")
    taken[Path(os.path.realpath(config))] = "this configuration"
    outer = path if path in taken else _enclosing(path, taken)
    if outer is not None:
        where = "is" if outer == path else "lies inside"
        problems.add(
            "status_file",
            f"{path} {where} {taken[outer]}; give it a place such as /run/shmr.status",
        )
    elif any(path in other.parents for other in taken):
        problems.add("status_file", f"{path} is a directory; expected the path of a file")


def _enclosing(path: Path, directories: Iterable[Path]) -> Path | None:
    """The nearest of `directories` that `path` lies inside."""
    known = directories if isinstance(directories, dict) else set(directories)
    return next((parent for parent in path.parents if parent in known), None)
