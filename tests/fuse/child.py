"""Serve a volume in memory from a process of its own: `python -m tests.fuse.child PATH [UID]`.

Prints "ready" when the mount answers, ends by an unmount or SIGTERM. For tests that need a server
which can be killed, or one that is not root, and for `measure`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import trio

from shmr.fuse.operations import Operations
from shmr.fuse.options import parse_options
from shmr.fuse.session import serve
from tests.fuse.memory import MemoryVolume


def _commit(told: Callable[[Exception | None], None]) -> None:
    trio.lowlevel.current_trio_token().run_sync_soon(told, None)


async def _make_room() -> bool:
    await trio.lowlevel.checkpoint()
    return False


async def run(path: str) -> None:
    operations = Operations(MemoryVolume(), commit=_commit, make_room=_make_room)
    options = parse_options([], privileged=os.geteuid() == 0)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, nursery.cancel_scope, operations, path, "memory", options)
            print("ready", flush=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def _serve(scope: trio.CancelScope, *arguments: object, **status: object) -> None:
    await serve(*arguments, **status)  # type: ignore[arg-type]
    scope.cancel()


def main() -> None:
    if len(sys.argv) > 2:
        os.setgroups([])
        os.setgid(int(sys.argv[2]))
        os.setuid(int(sys.argv[2]))
    trio.run(run, sys.argv[1])


if __name__ == "__main__":
    main()
