"""A mounted filesystem, from mount to unmount: device, negotiation, gate and pyfuse3 together.

pyfuse3 keeps its session in globals: one mount at a time per process.

How it ends
- Somebody unmounts: the device says so, the workers end, `serve` returns.
- `serve` is cancelled: it unmounts, and goes on answering while the kernel writes dirty pages
  back. When the tree is in use, those pages are asked for, the mount is taken out of the tree,
  and after a moment its last users get errors.
- Something raises: the same without grace. In every case nothing that it mounted stays mounted.

What handlers wait for (`commit`, `make_room`) must work until `serve` has returned.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
from collections.abc import Iterator

import pyfuse3
import trio

from shmr.errors import SetupError
from shmr.fuse import device
from shmr.fuse.device import Device
from shmr.fuse.loop import Gate
from shmr.fuse.negotiate import Negotiation
from shmr.fuse.operations import WORKERS, Operations
from shmr.fuse.options import MountOptions

logger = logging.getLogger("shmr.fuse")

# How long users of a mount that is taken away may go on.
GRACE_S = 2.0
_HOOK = "_wait_fuse_readable"

_libc = ctypes.CDLL(None, use_errno=True)


async def serve(
    operations: Operations,
    mountpoint: str,
    source: str,
    options: MountOptions,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount, answer requests until the end, leave nothing mounted.

    `source` is the name that mount(8) shows. With `nursery.start`, started when the mount has
    answered. Cancel it to unmount. Raises SetupError if it cannot be mounted.
    """
    mounted = await trio.to_thread.run_sync(device.mount, mountpoint, source, options)
    try:
        with _connected(operations, mounted) as gate:
            await _answer(mounted, gate, task_status)
    finally:
        # The descriptor is closed: what is still mounted is dead, and nothing can wait for it.
        if mounted.is_mounted():
            mounted.unmount(lazy=True)


@contextlib.contextmanager
def _connected(operations: Operations, mounted: Device) -> Iterator[Gate | None]:
    """pyfuse3 on the device; at the end the descriptor is closed. None: without a gate of ours."""
    module = vars(pyfuse3)
    original = module.get(_HOOK)
    negotiation = None
    gate = None
    descriptor = mounted.descriptor
    try:
        if original is None:
            logger.warning(
                "this pyfuse3 has no %s: requests take longer, umasks win over ACLs", _HOOK
            )
        else:
            negotiation = Negotiation(descriptor)
            descriptor = negotiation.descriptor
            gate = Gate(descriptor, negotiation.finish)
            module[_HOOK] = gate.wait
            operations.before_waiting = gate.hand_over
        try:
            pyfuse3.init(operations, f"/dev/fd/{descriptor}", set())
        except RuntimeError as error:
            os.close(descriptor)
            raise SetupError(f"libfuse refuses to begin: {error}") from error
        try:
            yield gate
        finally:
            pyfuse3.close(unmount=False)
    finally:
        if original is not None:
            module[_HOOK] = original
        if negotiation is not None:
            negotiation.close()


async def _answer(mounted: Device, gate: Gate | None, status: trio.TaskStatus[None]) -> None:
    """Answer requests until the mount has ended, by whatever cause."""
    failures: list[Exception] = []
    answered = False
    ended = trio.Event()
    leaving = trio.CancelScope(shield=True)

    async def loop(served: trio.CancelScope) -> None:
        with trio.CancelScope(shield=True):
            try:
                await pyfuse3.main(min_tasks=1, max_tasks=WORKERS)
            except Exception as error:
                failures.append(error)
            finally:
                # Nobody answers any more: who waits for an answer is let go.
                ended.set()
                served.cancel()
                leaving.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(loop, nursery.cancel_scope)
        try:
            await _first_answer(mounted)
            answered = True
            status.started()
            await ended.wait()
        finally:
            if not ended.is_set():
                with leaving:
                    await _leave(mounted, gate, ended)
    if failures:
        raise failures[0]
    if not answered:
        raise SetupError(f"{mounted.mountpoint}: unmounted before it could answer")


async def _first_answer(mounted: Device) -> None:
    """Return when the mount has answered a program's request."""
    try:
        await trio.to_thread.run_sync(os.statvfs, mounted.mountpoint, abandon_on_cancel=True)
    except OSError as error:
        message = f"{mounted.mountpoint}: mounted, but does not answer: {error.strerror}"
        raise SetupError(message) from error
    mounted.read_ahead()


async def _leave(mounted: Device, gate: Gate | None, ended: trio.Event) -> None:
    """Unmount; the requests which that causes are answered meanwhile."""
    try:
        await trio.to_thread.run_sync(mounted.unmount, abandon_on_cancel=True)
    except OSError as error:
        logger.warning("%s: %s; taking it out of the tree", mounted.mountpoint, error.strerror)
        await trio.to_thread.run_sync(_take_away, mounted, abandon_on_cancel=True)
    with trio.move_on_after(GRACE_S):
        await ended.wait()
        return
    if gate is not None:
        gate.close()
    pyfuse3.terminate()
    await ended.wait()


def _take_away(mounted: Device) -> None:
    """Ask for the dirty pages of open files, then unmount although it is in use."""
    try:
        descriptor = os.open(mounted.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _libc.syncfs(descriptor)
        finally:
            os.close(descriptor)
        mounted.unmount(lazy=True)
    except OSError as error:
        logger.error("%s: cannot be unmounted: %s", mounted.mountpoint, error.strerror)
