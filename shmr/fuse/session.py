"""A mounted filesystem, from mount to unmount: device, loop and handlers together.

How it ends
- Somebody unmounts: the device says so, what is under way is answered, `serve` returns.
- `serve` is cancelled: it unmounts, and goes on answering while the kernel writes dirty pages
  back. When the tree is in use, those pages are asked for, the mount is taken out of the tree,
  and after a moment its last users get errors.
- Something raises: the same without grace. In every case nothing that it mounted stays mounted.

What handlers wait for (`commit`, `make_room`) must work until `serve` has returned.
"""

from __future__ import annotations

import ctypes
import logging
import os

import trio

from shmr.errors import SetupError
from shmr.fuse import device
from shmr.fuse.device import Device
from shmr.fuse.loop import Loop
from shmr.fuse.operations import Operations
from shmr.fuse.options import MountOptions

logger = logging.getLogger("shmr.fuse")

# How long users of a mount that is taken away may go on.
GRACE_S = 2.0

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
        try:
            loop = Loop(
                mounted.descriptor,
                operations.handlers,
                operations.make_room,
                operations.known.failed,
                operations.idle_calls,
            )
            loop.negotiate()
            await _answer(mounted, loop, task_status)
        finally:
            os.close(mounted.descriptor)
    finally:
        # The descriptor is closed: what is still mounted is dead, and nothing can wait for it.
        if mounted.is_mounted():
            mounted.unmount(lazy=True)


async def _answer(mounted: Device, loop: Loop, status: trio.TaskStatus[None]) -> None:
    """Answer requests until the mount has ended, by whatever cause."""
    failures: list[Exception] = []
    answered = False
    ended = trio.Event()
    leaving = trio.CancelScope(shield=True)

    async def answer(served: trio.CancelScope) -> None:
        with trio.CancelScope(shield=True):
            try:
                await loop.run()
            except Exception as error:
                failures.append(error)
            finally:
                # Nobody answers any more: who waits for an answer is let go.
                ended.set()
                served.cancel()
                leaving.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, nursery.cancel_scope)
        try:
            await _first_answer(mounted)
            answered = True
            status.started()
            await ended.wait()
        finally:
            if not ended.is_set():
                with leaving:
                    await _leave(mounted, loop, ended)
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


async def _leave(mounted: Device, loop: Loop, ended: trio.Event) -> None:
    """Unmount; the requests which that causes are answered meanwhile."""
    try:
        await trio.to_thread.run_sync(mounted.unmount, abandon_on_cancel=True)
    except OSError as error:
        logger.warning("%s: %s; taking it out of the tree", mounted.mountpoint, error.strerror)
        await trio.to_thread.run_sync(_take_away, mounted, abandon_on_cancel=True)
    with trio.move_on_after(GRACE_S):
        await ended.wait()
        return
    loop.stop()
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
