"""What stands around every request handler, so that no request ends the daemon.

pyfuse3 ends its loop at any exception but FUSEError. Here every exception becomes one:

Refused                      its errno, silently: the caller asked for it
NoSpace                      room is asked for and the request tried again, a few times
IntegrityError, DriveError   EIO, logged with the request
any other Exception          EIO, logged with the request and the traceback

`trio.Cancelled` and its like are no Exception and pass: they end the daemon on purpose. A handler
that raises NoSpace must have changed nothing, or nothing that doing it twice would spoil.
"""

from __future__ import annotations

import errno
import functools
import logging
import reprlib
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pyfuse3

from shmr.errors import DriveError, IntegrityError, NoSpace, Refused
from shmr.fuse.reply import error_number

logger = logging.getLogger("shmr.fuse")

# How often a request that found no space is tried again.
ROOM_TRIES = 16


class Guarded(Protocol):
    """Whose handlers are guarded.

    `make_room` frees space, and says whether it could. `before_waiting` is called when a handler
    is about to wait: the loop then lets another worker read the next request.
    """

    make_room: Callable[[], Awaitable[bool]]
    before_waiting: Callable[[], None]


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Guarded)


def immediate(
    handler: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Guard a handler that never waits, an ordinary function."""

    @functools.wraps(handler)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        tries = 0
        while True:
            try:
                return handler(self, *args, **kwargs)
            except NoSpace:
                pass
            except Exception as error:
                raise translated(error, handler.__name__, args) from None
            tries = await _room(self, handler.__name__, tries)

    return guarded


def waiting(
    handler: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Guard a handler that may wait."""

    @functools.wraps(handler)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        tries = 0
        while True:
            try:
                return await announced(handler(self, *args, **kwargs), self.before_waiting)
            except NoSpace:
                pass
            except Exception as error:
                raise translated(error, handler.__name__, args) from None
            tries = await _room(self, handler.__name__, tries)

    return guarded


@types.coroutine
def announced(awaited: Awaitable[R], announce: Callable[[], None]) -> Generator[Any, Any, R]:
    """Await, and call `announce` just before it has to wait, if it has to."""
    steps = awaited.__await__()
    try:
        wanted = next(steps)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    announce()
    return (yield from _resumed(wanted, steps))


def _resumed(wanted: object, steps: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
    """Go on with `steps`, which has already been asked for its first wish, `wanted`."""
    while True:
        try:
            answer = yield wanted
        except BaseException as error:
            step = functools.partial(steps.throw, error)
        else:
            step = functools.partial(steps.send, answer)
        try:
            wanted = step()
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


async def _room(owner: Guarded, name: str, tries: int) -> int:
    """Ask for room; returns how often that was, raises FUSEError(ENOSPC) when it is in vain."""
    try:
        if tries < ROOM_TRIES and await announced(owner.make_room(), owner.before_waiting):
            return tries + 1
    except Exception as error:
        raise translated(error, f"make_room for {name}", ()) from None
    raise pyfuse3.FUSEError(errno.ENOSPC)


def translated(error: Exception, name: str, arguments: tuple[object, ...]) -> pyfuse3.FUSEError:
    """What the kernel is told of `error`; logs what is not the caller's doing."""
    if isinstance(error, pyfuse3.FUSEError):
        return error
    if isinstance(error, Refused):
        return pyfuse3.FUSEError(error_number(error.errno))
    request = f"{name}({', '.join(map(_shown, arguments))})"
    if isinstance(error, IntegrityError | DriveError):
        logger.error("%s failed, answered EIO: %s", request, error)
    else:
        logger.error("%s failed unexpectedly, answered EIO", request, exc_info=error)
    return pyfuse3.FUSEError(errno.EIO)


def _shown(value: object) -> str:
    """`value` short enough for a log line."""
    if isinstance(value, pyfuse3.RequestContext):
        return f"pid {value.pid} uid {value.uid} gid {value.gid}"
    if isinstance(value, bytes) and len(value) > 255:
        return f"<{len(value)} bytes>"
    return reprlib.repr(value)
