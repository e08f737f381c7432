"""The loop, with one end of a socket pair in the device's place."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from shmr.errors import NoSpace, Refused, SetupError
from shmr.fuse import negotiate
from shmr.fuse.known import Known
from shmr.fuse.loop import Handler, Loop, Reply
from shmr.fuse.promise import Promise
from shmr.fuse.protocol import HEAD, REPLY, Head
from shmr.fuse.requests.names import NameRequests
from tests.fuse.memory import MemoryVolume
from tests.fuse.test_negotiate import request as init

LIMIT_S = 20
MIB = 1 << 20


class Kernel:
    """Sends requests, reads replies."""

    def __init__(self, handlers: dict[int, Handler], rooms: list[bool] | None = None) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setblocking(False)
        self.descriptor = theirs.detach()
        self.rooms = rooms or []
        self.failed: list[Head] = []
        self.idle_calls: list[Callable[[], None]] = []
        self.loop = Loop(
            self.descriptor, handlers, self._make_room, self.failed.append, self.idle_calls
        )

    async def _make_room(self) -> bool:
        await trio.lowlevel.checkpoint()
        return self.rooms.pop(0) if self.rooms else False

    def ask(self, opcode: int, unique: int, body: bytes = b"", node: int = 1) -> None:
        head = HEAD.pack(HEAD.size + len(body), opcode, unique, node, 2, 3, 4, 0)
        self.ours.send(head + body)

    async def answer(self) -> tuple[int, int, bytes]:
        """unique, errno, payload of the next reply."""
        await trio.lowlevel.wait_readable(self.ours)
        message = self.ours.recv(2 * MIB)
        length, error, unique = REPLY.unpack_from(message)
        assert length == len(message)
        return unique, -error, message[REPLY.size :]

    def nothing_more(self) -> bool:
        try:
            self.ours.recv(2 * MIB)
        except BlockingIOError:
            return True
        return False

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            with trio.fail_after(LIMIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.loop.run)
                    await scenario()
                    self.loop.stop()

        try:
            trio.run(main)
        finally:
            self.ours.close()
            os.close(self.descriptor)


def echo(node: int, body: memoryview, head: Head) -> Reply:
    return bytes(body)


def test_requests_are_answered_in_order() -> None:
    kernel = Kernel({1: echo})

    async def scenario() -> None:
        for number in range(100):
            kernel.ask(1, number, bytes([number]))
        for number in range(100):
            assert await kernel.answer() == (number, 0, bytes([number]))

    kernel.run(scenario)


def test_a_handler_sees_the_inode_the_sender_and_the_body() -> None:
    seen = []

    def handler(node: int, body: memoryview, head: Head) -> Reply:
        seen.append((node, bytes(body), head[2], head[4:7]))
        return 0

    kernel = Kernel({7: handler})

    async def scenario() -> None:
        kernel.ask(7, 99, b"body", node=12)
        assert await kernel.answer() == (99, 0, b"")

    kernel.run(scenario)
    assert seen == [(12, b"body", 99, (2, 3, 4))]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (0, (0, b"")),
        (errno.ENOENT, (errno.ENOENT, b"")),
        (b"payload", (0, b"payload")),
        (bytearray(b"x" * 100_000), (0, b"x" * 100_000)),
        (memoryview(b"view"), (0, b"view")),
        (b"y" * 50_000, (0, b"y" * 50_000)),
    ],
)
def test_every_kind_of_reply_arrives(given: Reply, wanted: tuple[int, bytes]) -> None:
    kernel = Kernel({1: lambda *_: given})

    async def scenario() -> None:
        kernel.ask(1, 5)
        assert await kernel.answer() == (5, *wanted)

    kernel.run(scenario)
    assert len(kernel.failed) == (wanted[0] != 0)


def test_what_wants_no_answer_gets_none_and_what_is_unknown_is_not_supported() -> None:
    kernel = Kernel({1: lambda *_: None})

    async def scenario() -> None:
        kernel.ask(1, 1)
        for opcode in (0, 2, 60, 2**32 - 1):
            kernel.ask(opcode, opcode)
            assert await kernel.answer() == (opcode, errno.ENOSYS, b"")
        assert kernel.nothing_more()

    kernel.run(scenario)


def test_requests_that_wait_delay_no_other_and_are_answered_when_they_can_be() -> None:
    go_on = trio.Event()

    async def later(number: int) -> Reply:
        await go_on.wait()
        return bytes([number])

    kernel = Kernel({1: lambda node, *_: later(node), 2: echo})

    async def scenario() -> None:
        for number in range(200):
            kernel.ask(1, number, node=number)
        kernel.ask(2, 1000, b"meanwhile")
        assert await kernel.answer() == (1000, 0, b"meanwhile")
        go_on.set()
        answers = {await kernel.answer() for _ in range(200)}
        assert answers == {(number, 0, bytes([number])) for number in range(200)}

    kernel.run(scenario)


def test_a_promise_is_answered_when_it_is_settled_and_not_before() -> None:
    promises: list[Promise] = []

    def handler(*_: object) -> Reply:
        promises.append(Promise())
        return promises[-1]

    kernel = Kernel({1: handler, 2: echo}, rooms=[True])

    async def scenario() -> None:
        for unique in range(4):
            kernel.ask(1, unique)
        kernel.ask(2, 10)
        assert await kernel.answer() == (10, 0, b"")
        promises[1].settle(None)
        assert await kernel.answer() == (1, 0, b"")
        promises[0].settle(Refused(errno.EDQUOT))
        assert await kernel.answer() == (0, errno.EDQUOT, b"")
        promises[2].settle(ZeroDivisionError())
        assert await kernel.answer() == (2, errno.EIO, b"")
        promises[3].settle(NoSpace())
        await trio.testing.wait_all_tasks_blocked()
        assert kernel.nothing_more()
        promises[4].settle(None)  # tried again, with room
        assert await kernel.answer() == (3, 0, b"")

    kernel.run(scenario)


def test_what_is_to_be_called_when_idle_is_called_once_behind_the_requests_at_hand() -> None:
    order: list[str] = []

    def handler(node: int, body: memoryview, head: Head) -> Reply:
        order.append(f"request {node}")
        if node == 0:
            kernel.idle_calls.append(lambda: order.append("idle"))
        return 0

    kernel = Kernel({1: handler})

    async def scenario() -> None:
        for number in range(3):
            kernel.ask(1, number, node=number)
        for _ in range(3):
            await kernel.answer()
        kernel.ask(1, 9, node=9)
        await kernel.answer()

    kernel.run(scenario)
    assert order == ["request 0", "request 1", "request 2", "idle", "request 9"]


def test_what_is_settled_after_the_end_is_written_nowhere() -> None:
    promises: list[Promise] = []

    def handler(*_: object) -> Reply:
        promises.append(Promise())
        return promises[-1]

    kernel = Kernel({1: handler}, rooms=[True])

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kernel.loop.run)
                for unique in range(3):
                    kernel.ask(1, unique)
                await trio.testing.wait_all_tasks_blocked()
                kernel.loop.stop()
        promises[0].settle(None)
        promises[1].settle(NoSpace())
        promises[2].settle(Refused(errno.EIO))
        assert kernel.nothing_more()

    trio.run(main)
    kernel.ours.close()
    os.close(kernel.descriptor)


def test_what_a_second_try_has_called_when_idle_waits_for_no_request() -> None:
    tries = []

    def handler(*_: object) -> Reply:
        tries.append(1)
        if len(tries) == 1:
            raise NoSpace()
        promise = Promise()
        kernel.idle_calls.append(lambda: promise.settle(None))
        return promise

    kernel = Kernel({1: handler}, rooms=[True])

    async def scenario() -> None:
        kernel.ask(1, 1)
        assert await kernel.answer() == (1, 0, b"")

    kernel.run(scenario)


def test_a_promise_may_be_settled_before_its_handler_returns() -> None:
    def handler(*_: object) -> Reply:
        promise = Promise()
        promise.settle(None)
        return promise

    kernel = Kernel({1: handler})

    async def scenario() -> None:
        kernel.ask(1, 1)
        assert await kernel.answer() == (1, 0, b"")

    kernel.run(scenario)


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_without_space_is_tried_again_with_room(waits: bool) -> None:
    tries = []

    def handler(node: int, body: memoryview, head: Head) -> Reply:
        tries.append(bytes(body))
        if len(tries) < 3:
            raise NoSpace()
        return 0

    def waiting(node: int, body: memoryview, head: Head) -> Reply:
        kept = bytes(body)

        async def later() -> Reply:
            await trio.lowlevel.checkpoint()
            return handler(node, memoryview(kept), head)

        return later()

    kernel = Kernel({1: waiting if waits else handler, 2: echo}, rooms=[True, True])

    async def scenario() -> None:
        kernel.ask(1, 1, b"the body")
        kernel.ask(2, 2, b"another that overwrites the buffer")
        assert {(await kernel.answer())[:2] for _ in range(2)} == {(1, 0), (2, 0)}

    kernel.run(scenario)
    assert tries == [b"the body"] * 3


def test_a_request_that_finds_no_room_gets_enospc() -> None:
    def handler(*_: object) -> Reply:
        raise NoSpace()

    kernel = Kernel({16: handler}, rooms=[True, False])

    async def scenario() -> None:
        kernel.ask(16, 1)
        assert await kernel.answer() == (1, errno.ENOSPC, b"")

    kernel.run(scenario)
    assert len(kernel.failed) == 1


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("error", "number"),
    [(Refused(errno.EDQUOT), errno.EDQUOT), (ZeroDivisionError(), errno.EIO)],
)
def test_what_a_handler_raises_becomes_an_errno(waits: bool, error: Exception, number: int) -> None:
    def handler(*_: object) -> Reply:
        raise error

    async def later(*_: object) -> Reply:
        await trio.lowlevel.checkpoint()
        raise error

    kernel = Kernel({1: later if waits else handler})

    async def scenario() -> None:
        kernel.ask(1, 1)
        assert await kernel.answer() == (1, number, b"")

    kernel.run(scenario)


def test_other_tasks_get_their_turn_however_many_requests_come() -> None:
    turns: list[int] = []
    served = 0

    def again(node: int, body: memoryview, head: Head) -> Reply:
        nonlocal served
        served += 1
        if len(turns) < 20:
            kernel.ask(1, served)
        return None

    kernel = Kernel({1: again})

    async def scenario() -> None:
        kernel.ask(1, 0)
        while len(turns) < 20:
            await trio.sleep(0.001)
            turns.append(served)

    kernel.run(scenario)
    assert turns == sorted(turns)
    assert turns[-1] > turns[0]


def test_forgets_in_thousands_come_in_parts_that_let_others_go_on() -> None:
    volume = MemoryVolume()
    names = NameRequests(volume, Known(volume))
    before: list[int] = []
    dropped: list[int] = []

    def other(*_: object) -> Reply:
        before.append(len(dropped))
        return 0

    kernel = Kernel({42: names.forget_batch, 2: other})
    names._known.forget = lambda number, count: dropped.append(number)  # type: ignore[method-assign]
    pairs = b"".join(struct.pack("<QQ", number, 1) for number in range(8_000))

    async def scenario() -> None:
        kernel.ask(42, 1, struct.pack("<II", 8_000, 0) + pairs)
        kernel.ask(2, 2)
        assert await kernel.answer() == (2, 0, b"")
        await trio.testing.wait_all_tasks_blocked()

    kernel.run(scenario)
    assert dropped == list(range(8_000))
    assert before[0] < 8_000


def test_the_first_request_negotiates() -> None:
    kernel = Kernel({})
    kernel.ours.send(init(2**32 - 1))
    kernel.loop.negotiate()
    message = kernel.ours.recv(MIB)
    assert REPLY.unpack_from(message)[1:] == (0, 2)
    assert len(message) == 80
    kernel.ours.send(init(negotiate.WANTED, opcode=1))
    with pytest.raises(SetupError):
        kernel.loop.negotiate()
    kernel.ours.close()
    os.close(kernel.descriptor)
