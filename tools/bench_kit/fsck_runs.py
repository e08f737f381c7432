"""What the checker's benchmark runs: each contender, once, on an archive that is made beforehand.

Started as a program it is a part of one: `many` makes a filesystem of many small files, `command`
is `shmr-fsck` that tells its memory.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench_kit.archive_runs import (
    TOOLS,
    Failed,
    Ground,
    Site,
    Took,
    child,
    configure,
    filled,
    memory_max_bytes,
    snapraid_command,
    timed,
)
from shmr.units import KIB

FILE_BYTES = 4 * KIB
FILES_PER_DIRECTORY = 500
FOUND = frozenset({0, 1})
"""Exit codes of a rebuild: nothing was to be done, or it was."""


@dataclass(slots=True)
class Stage:
    """An archive of the site's files, and SnapRAID's of the same files on the same disks.

    `drives` are shmr's archive drives, the last of which is lost and rebuilt again and again.
    """

    site: Site
    ground: Ground
    config: Path
    drives: list[Path]
    snapraid: list[str] | None
    data: list[Path]
    rebuilt: int = 0

    @property
    def stored_bytes(self) -> int:
        """Of all that a scrub of shmr reads on archive drives."""
        return sum(path.stat().st_size for path in self.stored())

    def stored(self) -> list[Path]:
        return [path for drive in self.drives for path in stored_on(drive)]


def stored_on(drive: Path) -> list[Path]:
    """The files of a drive that were written in sequence."""
    return sorted([*drive.glob("fragment-*"), *drive.glob("snapshot-*")])


def stage(site: Site, ground: Ground, *, with_snapraid: bool) -> Stage:
    """Make both archives, as fast as the disks are. Raises Failed."""
    config = filled(site, ground)
    timed([child("shift", config, "verified")], cwd=TOOLS)
    command, data = None, []
    if with_snapraid:
        k = site.work.k
        data, parity = [slow / "d" for slow in ground.slow[:k]], ground.slow[k:]
        pairs = zip(site.data, data, strict=True)
        timed([["cp", "-r", str(source), str(there)] for source, there in pairs])
        command = snapraid_command(ground, data, parity)
        timed([[*command, "sync"]])
    return Stage(site, ground, config, [slow / "a" for slow in ground.slow], command, data)


# -- scrub ----------------------------------------------------------------------------------


def scrub(stage: Stage) -> Took:
    stage.ground.begin()
    return _fsck("scrub", stage.config)


def cat(stage: Stage) -> Took:
    """One for each drive, at once, as a scrub reads them; the workspace is next to empty."""
    commands = [["cat", *map(str, stored_on(drive))] for drive in stage.drives]
    stage.ground.begin()
    return _to_nowhere(commands)


def snapraid_scrub(stage: Stage) -> Took:
    assert stage.snapraid is not None
    stage.ground.begin()
    took, _ = timed([[*stage.snapraid, "-p", "full", "scrub"]])
    return took


# -- the rebuild of a drive ------------------------------------------------------------------


def rebuild(stage: Stage) -> Took:
    """The last drive is gone; what it held is written to a new one in its place."""
    lost = stage.drives[-1]
    stage.rebuilt += 1
    new = lost.with_name(f"a{stage.rebuilt}")
    shutil.rmtree(lost)
    if stage.ground.disks is not None:
        stage.ground.disks.trim()
    new.mkdir()
    configure(stage.site, stage.ground, [*stage.drives, new])
    stage.ground.begin()
    took = _fsck("rebuild-drive", stage.config, lost, "--onto", new, good=FOUND)
    stage.drives[-1] = new
    configure(stage.site, stage.ground, stage.drives)
    return took


def copy(stage: Stage) -> Took:
    """k drives are read, and as much as is on one of them is written in place of the last."""
    out = stage.drives[-1].with_name("copy")
    out.mkdir()
    first, *others = stage.drives[: stage.site.work.k]
    commands = [["cat", *map(str, stored_on(drive))] for drive in others]
    commands.append(["cp", *map(str, stored_on(first)), str(out)])
    try:
        stage.ground.begin()
        return _to_nowhere(commands)
    finally:
        shutil.rmtree(out)


def snapraid_fix(stage: Stage) -> Took:
    """All files of one data disk are gone."""
    assert stage.snapraid is not None
    lost = stage.data[0]
    files = len(list(lost.iterdir()))
    shutil.rmtree(lost)
    lost.mkdir()
    stage.ground.begin()
    took, _ = timed([[*stage.snapraid, "-d", "d0", "fix"]])
    back = len(list(lost.iterdir()))
    if back != files:
        raise Failed(f"snapraid fix brought {back} files of {files} back")
    return took


# -- many files ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Many:
    """A filesystem of many small files in an archive, and SnapRAID's of as many."""

    ground: Ground
    config: Path
    snapraid: list[str] | None


def many(site: Site, ground: Ground, files: int, *, with_snapraid: bool) -> Many:
    """Make both, on a site that has no files of its own. Raises Failed."""
    drives = [slow / "a" for slow in ground.slow]
    for directory in (ground.fast / "w", *drives):
        directory.mkdir()
    # The workspace has room for as much as there will be.
    site.size_bytes = files * (FILE_BYTES + KIB)
    config = configure(site, ground, drives)
    subprocess.run(_part("many", config, files), check=True, stdin=subprocess.DEVNULL, cwd=TOOLS)
    timed([child("shift", config, "verified")], cwd=TOOLS)
    command = None
    if with_snapraid:
        k, rng = site.work.k, random.Random(site.work.seed)
        data, parity = [slow / "d" for slow in ground.slow[:k]], ground.slow[k:]
        for number in range(files):
            directory = data[number % k] / f"{number // FILES_PER_DIRECTORY:05}"
            if number % FILES_PER_DIRECTORY < k:
                directory.mkdir(parents=True, exist_ok=True)
            (directory / f"{number:08}").write_bytes(rng.randbytes(FILE_BYTES))
        command = snapraid_command(ground, data, parity)
        timed([[*command, "sync"]])
    return Many(ground, config, command)


def check(made: Many) -> Took:
    made.ground.begin()
    return _fsck("check", made.config)


def snapraid_status(made: Many) -> Took:
    return _snapraid(made, "status")


def snapraid_diff(made: Many) -> Took:
    return _snapraid(made, "diff")


def snapraid_check(made: Many) -> Took:
    return _snapraid(made, "check")


def _snapraid(made: Many, job: str) -> Took:
    assert made.snapraid is not None
    made.ground.begin()
    # Nothing to tell of what it prints for each file.
    took, _ = timed([[*made.snapraid, "-q", job]])
    return took


STAGED: dict[str, dict[str, Callable[[Stage], Took]]] = {
    "scrub": {"shmr": scrub, "cat": cat, "snapraid scrub": snapraid_scrub},
    "rebuild": {"shmr": rebuild, "copy": copy, "snapraid fix": snapraid_fix},
}
LISTED: dict[str, Callable[[Many], Took]] = {
    "shmr": check,
    "snapraid status": snapraid_status,
    "snapraid diff": snapraid_diff,
    "snapraid check": snapraid_check,
}


# -- processes -------------------------------------------------------------------------------


def _part(*words: str | int | Path) -> list[str]:
    return [sys.executable, "-m", "bench_kit.fsck_runs", *map(str, words)]


def _fsck(*words: str | Path, good: frozenset[int] = frozenset({0})) -> Took:
    took, told = timed([_part("command", *words)], cwd=TOOLS, good=good)
    parts = json.loads([line for line in told.splitlines() if line.startswith('{"memory"')][-1])
    return replace(took, parts=parts)


def _to_nowhere(commands: list[list[str]]) -> Took:
    """What they print goes to nobody, and costs nothing."""
    took, _ = timed([["sh", "-c", 'exec "$@" >/dev/null', "sh", *command] for command in commands])
    return took


def _command(words: list[str]) -> int:
    """`shmr-fsck`, and the most memory that it had."""
    from shmr.cli.fsck.main import main

    code = main(words)
    print(json.dumps({"memory": float(memory_max_bytes())}), flush=True)
    return code


def _many(config_path: str, files: int) -> None:
    """A new filesystem with so many files, in directories."""
    from shmr.config import load
    from shmr.format.rows import ROOT
    from shmr.service.assemble import create_filesystem, open_drives, open_filesystem
    from shmr.volume.context import Caller

    config, caller, rng = load(config_path), Caller(0, 0), random.Random(1)
    create_filesystem(config)
    drives = open_drives(config, degraded=False)
    volume = open_filesystem(config, drives, read_only=False, degraded=False)
    try:
        for first, last in _ranges(files):
            name = b"%05d" % (first // FILES_PER_DIRECTORY)
            parent = volume.names.create(ROOT, name, 0o040755, caller).number
            for number in range(first, last):
                inode = volume.names.create(parent, b"%08d" % number, 0o100644, caller).number
                volume.data.write(inode, 0, rng.randbytes(FILE_BYTES))
                volume.handles.forgotten(inode)
            volume.commits.now()
            if first // FILES_PER_DIRECTORY % 40 == 0:
                volume.checkpoints.run()
    finally:
        volume.close()
        drives.close()


def _ranges(files: int) -> Iterator[tuple[int, int]]:
    for first in range(0, files, FILES_PER_DIRECTORY):
        yield first, min(files, first + FILES_PER_DIRECTORY)


if __name__ == "__main__":
    if sys.argv[1] == "many":
        _many(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(_command(sys.argv[2:]))
