"""The daemon's process: logging, memory, the volume, and the mount around it.

Started by `mount`; tells its parent once how it went, and lives until it is unmounted, gets
SIGTERM or SIGINT. The volume is opened before the mount and closed after it, so that nobody ever
sees a tree that recovery has not finished.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import TextIOWrapper
from typing import NoReturn

import trio

from shmr.archive.pool import Pool
from shmr.catalog.store import private
from shmr.config import load
from shmr.errors import ShmrError
from shmr.fuse.operations import Operations
from shmr.fuse.options import Atime, MountOptions, parse_options
from shmr.fuse.session import serve
from shmr.service.assemble import open_drives, open_filesystem
from shmr.service.mounted import memory
from shmr.service.mounted.committer import Committer
from shmr.service.mounted.maintenance import Maintenance
from shmr.service.mounted.note import leave_note, take_note
from shmr.service.mounted.snapshot import SnapshotChildren
from shmr.service.mounted.syncing import Syncing
from shmr.service.mounted.watch import Watch
from shmr.service.offline import archive_pools
from shmr.service.status import refuse_inside
from shmr.units import MIB
from shmr.volume.volume import Volume

logger = logging.getLogger("shmr.service")

NICENESS = -10
WARNINGS_MAX = 100
"""Told to whoever mounts; the log has all of them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to mount where, and how."""

    config: str
    mountpoint: str
    options: tuple[str, ...]
    read_only: bool
    degraded: bool

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> Order:
        fields = json.loads(text)
        return Order(**{**fields, "options": tuple(fields["options"])})


Ready = Callable[[], None]


def run(order: Order, ready: Ready = lambda: None, opened: Ready = lambda: None) -> None:
    """Mount and serve until the end.

    `opened` is called when the volume is open, `ready` when the mount answers.

    Raises SetupError and ShmrError for what kept it from mounting.
    """
    memory.keep()
    _allow_open_files()
    _go_first()
    config = load(order.config)
    options = parse_options(order.options, privileged=os.geteuid() == 0)
    if config.status_file is not None:
        refuse_inside(config.status_file, order.mountpoint)
    drives = open_drives(config, degraded=order.degraded)
    watch = Watch(config, drives, order.mountpoint)
    syncing = Syncing()
    snapshots = SnapshotChildren(drives.limits)
    drives.let_go(syncing.write_back)
    try:
        volume = open_filesystem(
            config,
            drives,
            read_only=order.read_only,
            degraded=order.degraded,
            parallel=syncing.parallel,
            make_writer=snapshots.writer,
            background=syncing.read_ahead,
        )
        try:
            opened()
            if volume.read_only is None:
                leave_note(config.catalog)
                volume.log.background = syncing.write_back
            elif not order.read_only:
                take_note(config.catalog)
            for sentence in volume.report:
                logger.info("recovery: %s", sentence)
            if volume.read_only:
                logger.warning("read-only: %s", volume.read_only)
            trio.run(
                _serve,
                volume,
                archive_pools(config, drives, volume),
                order,
                config.filesystem,
                options,
                ready,
                snapshots.stop,
                syncing,
                watch,
            )
        except BaseExceptionGroup as group:
            raise _only(group) from None
        finally:
            if volume.close():
                take_note(config.catalog)
            logger.info("closed")
            watch.ended()
    finally:
        syncing.close()
        drives.close()


def _allow_open_files() -> None:
    """As many open segments as the system lets us have: the default of 1024 is soon reached."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _go_first() -> None:
    """Answer before those who wait for the answer run on, as root may arrange.

    Each reply wakes a client, and with few cores the clients would take the processor away from
    whom all the others wait for.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def _only(error: BaseException) -> BaseException:
    """The one error inside groups of one, which is what a failed mount looks like to trio."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _serve(
    volume: Volume,
    pools: Sequence[Pool],
    order: Order,
    source: str,
    options: MountOptions,
    ready: Ready,
    leaving: Ready,
    syncing: Syncing,
    watch: Watch,
) -> None:
    committer = Committer(volume, syncing.start)
    maintenance = Maintenance(volume, committer, pools)
    operations = Operations(
        volume,
        commit=committer.ask,
        make_room=maintenance.make_room,
        count_reads=options.atime is not Atime.NEVER,
    )
    committer.later = operations.when_idle
    async with trio.open_nursery() as background:
        # Handlers wait for these, so they outlive the mount.
        background.start_soon(committer.run)
        background.start_soon(maintenance.run)
        background.start_soon(watch.run, volume)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_signal, nursery.cancel_scope)

                async def mounted(*, task_status: trio.TaskStatus[None]) -> None:
                    await serve(
                        operations, order.mountpoint, source, options, task_status=task_status
                    )
                    # Unmounted by somebody: no signal is waited for any more.
                    nursery.cancel_scope.cancel()

                await nursery.start(mounted)
                logger.info("mounted at %s", order.mountpoint)
                ready()
        finally:
            leaving()
            background.cancel_scope.cancel()


async def _until_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("%s: unmounting", signal.Signals(number).name)
            scope.cancel()
            return


class _PrivateLog(logging.handlers.RotatingFileHandler):
    """Names of files appear in it: for its owner alone, as all else on a drive."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding="utf-8", opener=private)


class _Warnings(logging.Handler):
    """Hears what is logged as a warning or worse, for whoever waits for the mount."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard: list[str] = []
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._heard) < WARNINGS_MAX:
            self._heard.append(record.getMessage())

    def heard(self) -> list[str]:
        """All there was; nothing is heard from now on."""
        logging.getLogger().removeHandler(self)
        return self._heard


def log_to_terminal() -> None:
    """Log to standard error: in the foreground."""
    _attach(logging.StreamHandler())


def log_to_file(path: str) -> Callable[[], None]:
    """Log to `path`, a MiB at most and three old ones, from when what is returned is called.

    Until then messages are held in memory: the file may lie on a drive on which a filesystem is
    still to be made, and that is only done where nothing is.
    """
    held = logging.handlers.MemoryHandler(1_000_000, flushLevel=logging.CRITICAL + 1)
    _attach(held)

    def begin() -> None:
        logging.getLogger().removeHandler(held)
        file: logging.Handler
        try:
            file = _PrivateLog(path, maxBytes=MIB, backupCount=3)
        except OSError:
            # A write-protected drive, mounted read-only: the system's log, or nowhere.
            there = os.path.exists("/dev/log")
            file = logging.handlers.SysLogHandler("/dev/log") if there else logging.NullHandler()
        _attach(file)
        held.setTarget(file)
        held.close()

    return begin


def _attach(handler: logging.Handler) -> None:
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(logging.Formatter(form))
    logging.getLogger().addHandler(handler)
    logging.getLogger("shmr").setLevel(logging.INFO)


def main(arguments: list[str]) -> int:
    """The process that `mount` starts: ORDER PIPE MOUNTPOINT LOG."""
    order, pipe, log = Order.decode(arguments[0]), int(arguments[1]), arguments[3]
    os.set_inheritable(pipe, False)
    os.umask(0o077)
    told = False
    warnings = _Warnings()

    def tell(problem: str | None) -> None:
        nonlocal told
        if not told:
            told = True
            said = {"problem": problem, "warnings": warnings.heard()}
            os.write(pipe, json.dumps(said).encode())
            os.close(pipe)

    opened = log_to_file(log)
    try:
        run(order, lambda: tell(None), opened)
    except ShmrError as error:
        logger.error("%s", error)
        tell(str(error))
        return 1
    except BaseException as error:
        logger.exception("the daemon ends unexpectedly")
        tell(f"the daemon failed: {error!r} (see {log})")
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End the process at once: everything is closed, but for what is left to threads that wait for
    a drive that hangs. Tidying up would close that again, and wait with them."""
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    _end(main(sys.argv[1:]))
