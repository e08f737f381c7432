"""The gate, with a pipe in the device's place and tasks in that of pyfuse3's workers."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from shmr.fuse.guard import announced
from shmr.fuse.loop import Gate

LIMIT_S = 20


class Workers:
    """Reads requests of one byte through a gate, as pyfuse3's session loop does."""

    def __init__(self, handle: Callable[[bytes], Awaitable[None] | None]) -> None:
        self.reader, self.writer = os.pipe()
        self.finished = 0
        self.gate = Gate(self.reader, self._finish)
        self.served: list[tuple[int, bytes]] = []
        self.handle = handle
        os.write(self.writer, b"!")  # FUSE_INIT

    def _finish(self) -> None:
        assert self.served == [(0, b"!")]
        self.finished += 1

    def ask(self, requests: bytes) -> None:
        os.write(self.writer, requests)

    async def work(self, number: int) -> None:
        while await self.gate.wait():
            request = os.read(self.reader, 1)
            if not request:
                return
            self.served.append((number, request))
            waits = self.handle(request)
            if waits is not None:
                await announced(waits, self.gate.hand_over)

    async def run(self, scenario: Callable[[], Awaitable[None]], count: int = 8) -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.work, 0)
                await trio.testing.wait_all_tasks_blocked()
                for number in range(1, count):
                    nursery.start_soon(self.work, number)
                await trio.testing.wait_all_tasks_blocked()
                await scenario()
                os.close(self.writer)  # the unmount
        os.close(self.reader)
        assert self.finished == 1


def test_requests_are_served_in_order_by_few_workers() -> None:
    workers = Workers(lambda _: None)

    async def scenario() -> None:
        for number in range(50):
            workers.ask(bytes([number]))
            await trio.testing.wait_all_tasks_blocked()

    trio.run(workers.run, scenario)
    assert [request for _, request in workers.served[1:]] == [bytes([n]) for n in range(50)]
    assert len({worker for worker, _ in workers.served}) == 1


def test_a_request_that_waits_delays_no_other_and_all_workers_can_wait() -> None:
    go_on = trio.Event()
    workers = Workers(lambda request: go_on.wait() if request == b"w" else None)

    async def scenario() -> None:
        for waiting in range(1, 8):
            workers.ask(b"wq")
            await trio.testing.wait_all_tasks_blocked()
            assert sum(request == b"q" for _, request in workers.served) == waiting
        go_on.set()

    trio.run(workers.run, scenario)


def test_other_tasks_get_their_turn_however_many_requests_come() -> None:
    turns: list[int] = []
    workers = Workers(lambda request: workers.ask(b"a") if request == b"a" else None)

    async def scenario() -> None:
        workers.ask(b"a")
        for _ in range(20):
            await trio.sleep(0.001)
            turns.append(len(workers.served))
        workers.handle = lambda _: None

    trio.run(workers.run, scenario)
    assert len(turns) == 20
    assert turns == sorted(turns) and turns[-1] > turns[0]


def test_closing_ends_every_worker() -> None:
    workers = Workers(lambda _: None)

    async def scenario() -> None:
        workers.gate.close()
        trio.lowlevel.notify_closing(workers.reader)

    trio.run(workers.run, scenario)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_a_cancelled_pool_leaves_the_gate_clean(count: int) -> None:
    workers = Workers(lambda _: None)

    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(workers.work, number)
                    await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        os.close(workers.reader)
        os.close(workers.writer)

    trio.run(main)
