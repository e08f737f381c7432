"""`shmr mount`: start the daemon and return when the mount answers.

The daemon is a program started anew, not a fork: LMDB and threads do not survive a fork. It says
how it went through a pipe: one line of JSON, then end of file. What it warned of until then (of a
drive that is missing, say) is told too.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shmr.config import Config, load
from shmr.errors import SetupError
from shmr.fuse import device
from shmr.fuse.options import parse_options
from shmr.service.mounted.daemon import Order, log_to_terminal, run

logger = logging.getLogger(__name__)


def mount(
    config_path: str | os.PathLike[str],
    mountpoint: str | os.PathLike[str],
    *,
    options: Sequence[str] = (),
    foreground: bool = False,
    read_only: bool = False,
    degraded: bool = False,
) -> None:
    """Mount; returns when the mount answers, or with `foreground` when it has ended.

    A dead mount that a crash left at the mount point is replaced. Raises SetupError.
    """
    config_path = Path(config_path).absolute()
    config = load(config_path)
    place = os.path.abspath(mountpoint)
    words = [*options, *(["ro"] if read_only else [])]
    parsed = parse_options(words, privileged=os.geteuid() == 0)
    _clear(place)
    order = Order(str(config_path), place, tuple(words), parsed.read_only, degraded)
    if foreground:
        log_to_terminal()
        run(order)
        return
    log = config.catalog.with_name(config.catalog.name + ".log")
    _make_room(config, log.parent)
    _start(order, log)


def _make_room(config: Config, directory: Path) -> None:
    """Make the directory that the log goes to, but never a drive: what is not there is missing.

    Raises SetupError.
    """
    for drive in config.workspace.drives:
        if directory.is_relative_to(drive.path) and not drive.path.is_dir():
            raise SetupError(
                f"drive {drive.path}: No such file or directory, and the catalog is on it; mount "
                "its disk, or name another place for the catalog (`catalog:`): it is made anew "
                "there from the log"
            )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _clear(place: str) -> None:
    """Refuse a mount point that cannot be one; take a dead mount away."""
    there = device.mounted_filesystem(place)
    if there is not None and there.filesystem_type == "fuse.shmr":
        if not device.is_dead_mount(place):
            raise SetupError(
                f"{place}: {there.source} is mounted there already; `shmr umount {place}` first"
            )
        device.unmount(place, lazy=True)
    if os.path.lexists(place) and not os.path.isdir(place):
        raise SetupError(f"{place}: not a directory; a filesystem is mounted on a directory")
    if not os.path.isdir(place):
        raise SetupError(f"{place}: no such directory; make it first: mkdir -p {place}")


def _start(order: Order, log: Path) -> None:
    reader, writer = os.pipe()
    try:
        # The words are on the command line so that `ps` tells which mount a daemon serves.
        command = [sys.executable, "-m", "shmr.service.mounted.daemon", order.encode(), str(writer)]
        process = subprocess.Popen(
            [*command, order.mountpoint, str(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writer,),
            start_new_session=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    finally:
        os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    if said:
        answer = json.loads(said)
        problem = answer["problem"]
        if problem is None:
            for warning in answer["warnings"]:
                logger.warning("%s", warning)
            return
        process.wait()
        raise SetupError(problem)
    _, errors = process.communicate()
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    raise SetupError(f"the daemon ended before it mounted: {' '.join(last)} (see {log})")
