"""The loop that reads the kernel's requests and answers them.

    poll -> read -> handler -> write          no other task, no other thread: most requests
    poll -> read -> handler -> task ... write  a handler that must wait gave an awaitable

One task reads. A handler is an ordinary function that returns the reply. Where it has to wait (for
a drive, for room) it returns an awaitable, which goes on in a task of its own while the loop reads
the next request; where somebody else will say when it is done (a commit), a promise, which needs no
task. So a request that waits delays no other.

Entering trio costs more than a whole small request, and the client that was just answered mostly
asks again at once. So the loop *lingers*: it waits for the next request outside trio for a moment,
if no task of its own is waiting for something that only trio can tell. Only then it waits in trio.
It even waits awake for the first 0.1 ms: on a virtual machine of two processors, to be woken took
longer than to answer (one client, three turns: a random read 170 to 550 us asleep, 76 to 119 us
awake, and less CPU in the server too).

Invariants:
- Every request is answered exactly once, whatever its handler does (see `guard`), but for those
  that want no answer.
- A body is valid until its handler returns: one buffer serves all requests. A handler that waits
  has copied what it needs; one that is tried again for lack of space gets a copy.
- Other tasks get their turn every millisecond, however many requests come.

Measured on one CPU, server CPU per request, a random 4 KiB read, with handlers that do nothing:
pyfuse3 with a loop of ours 26 us, this 10 us (bindfs, in C: 9 us). Why shmr speaks the protocol
itself is told in ARCHITECTURE.md.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import time
from collections.abc import Awaitable, Callable, Mapping

import trio

from shmr.drive.seam import Buffer
from shmr.errors import NoSpace
from shmr.fuse import negotiate
from shmr.fuse.guard import ROOM_TRIES, answer_to, logger
from shmr.fuse.promise import Promise
from shmr.fuse.protocol import HEAD, NODE, OPCODE, REPLY, UNIQUE, Head

Reply = Buffer | int | None | Promise | Awaitable["Reply"]
"""A payload; or an errno, 0 for success without payload; or None for requests that get no answer;
or what will give one of these."""
Handler = Callable[[int, memoryview, Head], Reply]
"""Called with the inode, the body and the whole header."""

TURN_NS = 1_000_000
"""How long requests may be answered without giving other tasks a turn."""
LINGER_MS = 1
"""How long the next request is waited for outside trio, asleep."""
SPIN_NS = 100_000
"""How long it is first waited for awake, where there is a processor for the client beside ours."""
SPIN_RESTS = 8
"""How often it is then not, after it was in vain."""
BUFFER_BYTES = negotiate.REQUEST_BYTES + 4096
"""A request with 1 MiB of data, and the room that the kernel insists on beside it."""
_GONE = frozenset({errno.ENODEV, errno.ENOTCONN, errno.EBADF})
_PASSING = frozenset({errno.EAGAIN, errno.EINTR, errno.ENOENT, errno.EIO})
"""Reading: nothing there after all, or the kernel withdrew the request."""


class Loop:
    """Reads requests from `descriptor` until it is unmounted or `stop` is called."""

    def __init__(
        self,
        descriptor: int,
        handlers: Mapping[int, Handler],
        make_room: Callable[[], Awaitable[bool]],
        failed: Callable[[Head], None],
        idle_calls: list[Callable[[], None]],
    ) -> None:
        """`make_room` frees space, and says whether it could; `failed` hears of each request that
        was answered with an error; handlers add to `idle_calls` what is to be called once the
        requests at hand are answered, or a turn is over."""
        self._descriptor = descriptor
        self._make_room = make_room
        self._failed = failed
        self._idle_calls = idle_calls
        self._handlers: list[Handler] = [_unknown] * (max(handlers, default=0) + 1)
        for opcode, handler in handlers.items():
            self._handlers[opcode] = handler
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._waiting = 0
        self._spins = len(os.sched_getaffinity(0)) > 1
        self._rests = 0
        self._ended = False
        self._closed = False
        """What is promised still is told to nobody: the descriptor's number may soon be another
        file's."""
        self._nursery: trio.Nursery | None = None
        os.set_blocking(descriptor, False)

    def negotiate(self) -> None:
        """Answer the first request, FUSE_INIT, for which it waits. Raises SetupError."""
        self._poll.poll()
        size = os.readv(self._descriptor, [self._buffer])
        offer = negotiate.parse_offer(self._view[:size])
        self._send(offer.unique, negotiate.reply(offer))

    async def run(self) -> None:
        """Answer requests until the end, those under way too."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while not self._ended:
                busy = self._answer_some()
                self._call_idle()
                if busy:
                    await trio.lowlevel.checkpoint()
                elif not self._ended:
                    await self._readable()
        self._closed = True

    def stop(self) -> None:
        """Read no more; to be called from a task beside `run`."""
        self._ended = True
        trio.lowlevel.notify_closing(self._descriptor)

    def _call_idle(self) -> None:
        while self._idle_calls:
            self._idle_calls.pop()()

    async def _readable(self) -> None:
        try:
            await trio.lowlevel.wait_readable(self._descriptor)
        except trio.ClosedResourceError:
            self._ended = True

    def _answer_some(self) -> bool:
        """Answer what is there; False when nothing more has come for a moment."""
        view, buffers = self._view, [self._buffer]
        until_ns = time.monotonic_ns() + TURN_NS
        while self._is_there():
            try:
                size = os.readv(self._descriptor, buffers)
            except OSError as error:
                if error.errno in _GONE:
                    self._ended = True
                    return False
                if error.errno not in _PASSING:
                    raise
            else:
                self._answer(HEAD.unpack_from(view), view[HEAD.size : size])
            if time.monotonic_ns() >= until_ns:
                return True
        return False

    def _is_there(self) -> bool:
        """Whether a request is there, or comes within a moment."""
        poll = self._poll.poll
        if self._waiting:
            return bool(poll(0))
        if self._rests:
            self._rests -= 1
        elif self._spins:
            until_ns = time.monotonic_ns() + SPIN_NS
            while time.monotonic_ns() < until_ns:
                if poll(0):
                    return True
            self._rests = SPIN_RESTS
        return bool(poll(LINGER_MS))

    def _answer(self, head: Head, body: memoryview) -> None:
        opcode = head[OPCODE]
        handler = self._handlers[opcode] if opcode < len(self._handlers) else _unknown
        reply: Reply
        try:
            reply = handler(head[NODE], body, head)
        except NoSpace:
            reply = self._with_room(handler, bytes(body), head)
        except Exception as error:
            reply = answer_to(error, head, body)
        self._deliver(reply, handler, head, body)

    def _deliver(self, reply: Reply, handler: Handler, head: Head, body: Buffer) -> None:
        """Send `reply`, now or when it is there."""
        kind = type(reply)
        if kind is bytes or kind is int:
            self._reply(head, reply)  # type: ignore[arg-type]
        elif isinstance(reply, Promise):
            self._waiting += 1
            reply.then(functools.partial(self._settled, handler, bytes(body), head))
        elif isinstance(reply, Awaitable):
            assert self._nursery is not None
            self._waiting += 1
            self._nursery.start_soon(self._answer_later, reply, handler, bytes(body), head)
        elif reply is not None:
            self._reply(head, reply)

    def _settled(
        self, handler: Handler, body: bytes, head: Head, failure: Exception | None
    ) -> None:
        """What was promised is there."""
        self._waiting -= 1
        if self._closed:
            return
        if failure is None:
            self._reply(head, 0)
        elif isinstance(failure, NoSpace):
            self._deliver(self._with_room(handler, body, head), handler, head, body)
        else:
            self._reply(head, answer_to(failure, head, body))

    async def _answer_later(
        self, awaited: Awaitable[Reply], handler: Handler, body: bytes, head: Head
    ) -> None:
        """Answer when it can be answered."""
        reply: Reply = errno.EIO
        try:
            try:
                reply = await awaited
            except NoSpace:
                reply = await self._with_room(handler, body, head)
        except Exception as error:
            reply = answer_to(error, head, body)
        finally:
            self._waiting -= 1
            if isinstance(reply, Awaitable | Promise):
                reply = errno.EIO  # a handler may wait once
            if reply is not None:
                self._reply(head, reply)

    async def _with_room(self, handler: Handler, body: bytes, head: Head) -> Reply:
        """Make room and try once more, as long as there is hope."""
        for _ in range(ROOM_TRIES):
            if not await self._make_room():
                break
            try:
                reply = handler(head[NODE], memoryview(body), head)
                # The loop may be waiting for the next request, which may never come.
                self._call_idle()
                if isinstance(reply, Promise):
                    await reply.wait()
                    return 0
                return await reply if isinstance(reply, Awaitable) else reply
            except NoSpace:
                pass
        return errno.ENOSPC

    def _reply(self, head: Head, reply: Buffer | int) -> None:
        if reply and isinstance(reply, int):
            self._failed(head)
        self._send(head[UNIQUE], reply)

    def _send(self, unique: int, reply: Buffer | int) -> None:
        try:
            if isinstance(reply, int):
                os.write(self._descriptor, REPLY.pack(REPLY.size, -reply, unique))
            elif isinstance(reply, bytes) and len(reply) < 4096:
                os.write(self._descriptor, REPLY.pack(REPLY.size + len(reply), 0, unique) + reply)
            else:
                header = REPLY.pack(REPLY.size + len(reply), 0, unique)
                os.writev(self._descriptor, [header, reply])
        except OSError as error:
            if error.errno in _GONE:
                self._ended = True
            elif error.errno == errno.EINVAL and reply != errno.EIO:
                logger.error("the kernel finds a reply malformed; answered EIO instead")
                self._send(unique, errno.EIO)
            elif error.errno != errno.ENOENT:
                # ENOENT: nobody waits for it any more.
                raise


def _unknown(node: int, body: memoryview, head: Head) -> Reply:
    """What is not known is not supported; the kernel remembers that and does without."""
    return errno.ENOSYS
