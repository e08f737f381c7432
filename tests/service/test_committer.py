"""Group commit, with a volume that does nothing and syncs that end when the test says so."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from shmr.errors import NoSpace, Refused
from shmr.service.mounted.committer import Committer

LIMIT_S = 20
Ended = Callable[[Exception | None], None]


class Job:
    def __init__(self) -> None:
        self.failure: Exception | None = None

    def ended(self, failure: Exception | None) -> None:
        self.failure = failure


class Commits:
    """What a committer needs of a volume: begins jobs, takes them back, raises as planned."""

    def __init__(self) -> None:
        self.begun = 0
        self.under_way = 0
        self.nothing_to_do = False
        self.begin_fails: list[Exception] = []

    def begin(self) -> Job | None:
        assert self.under_way == 0, "one commit at a time"
        self.begun += 1
        if self.begin_fails:
            raise self.begin_fails.pop(0)
        if self.nothing_to_do:
            return None
        self.under_way += 1
        return Job()

    def end(self, job: Job) -> None:
        self.under_way -= 1
        if job.failure is not None:
            raise job.failure


class Bench:
    """A committer under test; `finish` ends the syncs of the commit under way."""

    def __init__(self) -> None:
        self.commits = Commits()
        self.running: list[Ended] = []
        self.told: list[Exception | None] = []
        volume: Any = self
        self.committer = Committer(volume, lambda job, ended: self.running.append(ended))

    def ask(self) -> None:
        self.committer.ask(self.told.append)

    async def finish(self, failure: Exception | None = None) -> None:
        self.running.pop(0)(failure)
        await trio.testing.wait_all_tasks_blocked()


def run(
    scenario: Callable[[Bench], Awaitable[None]], *, ends: type[Exception] | None = None
) -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                bench = Bench()
                nursery.start_soon(bench.committer.run)
                await scenario(bench)
                nursery.cancel_scope.cancel()

    if ends is None:
        trio.run(main)
        return
    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert caught.value.subgroup(ends) is not None


def test_a_commit_begins_at_once_and_who_comes_meanwhile_shares_the_next() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask()
        assert len(bench.running) == 1
        for _ in range(5):
            bench.ask()
        assert bench.commits.begun == 1 and bench.told == []
        await bench.finish()
        assert bench.told == [None]
        assert bench.commits.begun == 2
        await bench.finish()
        assert bench.told == [None] * 6
        assert bench.commits.begun == 2

    run(scenario)


def test_it_begins_when_the_requests_at_hand_are_answered() -> None:
    async def scenario(bench: Bench) -> None:
        calls: list[Callable[[], None]] = []
        bench.committer.later = calls.append
        for _ in range(3):
            bench.ask()
        assert bench.commits.begun == 0
        for call in calls:
            call()
        await bench.finish()
        assert bench.told == [None] * 3
        assert bench.commits.begun == 1
        done = trio.Event()

        async def commit() -> None:
            await bench.committer.commit()  # asked by no request: at once
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.testing.wait_all_tasks_blocked()
            await bench.finish()
        assert done.is_set()

    run(scenario)


def test_where_all_is_durable_already_the_answer_comes_at_once() -> None:
    async def scenario(bench: Bench) -> None:
        bench.commits.nothing_to_do = True
        bench.ask()
        assert bench.told == [None]
        await bench.committer.commit()

    run(scenario)


@pytest.mark.parametrize("error", [NoSpace(), Refused(errno.EIO)])
def test_a_failure_is_told_to_those_whose_commit_it_was_and_to_no_other(error: Exception) -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask()
        bench.ask()
        await bench.finish(error)
        assert bench.told == [error]
        await bench.finish()
        assert bench.told == [error, None]
        bench.commits.begin_fails = [error]
        with pytest.raises(type(error)):
            await bench.committer.commit()

    run(scenario)


def test_nobody_commits_while_it_is_kept_away_and_who_keeps_it_away_waits_for_one_commit() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask()
        bench.ask()
        held = []

        async def hold() -> None:
            async with bench.committer.exclusive:
                held.append(bench.commits.under_way)
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await trio.testing.wait_all_tasks_blocked()
            assert held == []
            await bench.finish()
            assert held == [0]  # before those who wait for the next commit
            bench.ask()
            await trio.testing.wait_all_tasks_blocked()
            assert bench.commits.begun == 1
            nursery.cancel_scope.cancel()
        assert bench.commits.begun == 2
        await bench.finish()
        assert bench.told == [None] * 3

    run(scenario)


def test_a_cancelled_wait_for_exclusion_keeps_nobody_away() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask()
        with trio.move_on_after(0.01):
            async with bench.committer.exclusive:
                pytest.fail("a commit is under way")
        bench.ask()
        await bench.finish()
        await bench.finish()
        assert bench.told == [None, None]

    run(scenario)


def test_at_the_end_nobody_is_left_waiting_and_nobody_is_told_a_lie() -> None:
    async def main() -> None:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                bench = Bench()
                nursery.start_soon(bench.committer.run)
                await trio.testing.wait_all_tasks_blocked()
                bench.ask()
                bench.ask()
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):
                    await trio.testing.wait_all_tasks_blocked()
                    assert [type(told) for told in bench.told] == [Refused]
                    bench.ask()
                    assert [type(told) for told in bench.told] == [Refused] * 2
                    await bench.finish()
            assert bench.told[2] is None  # its commit went on to its end

    trio.run(main)


@pytest.mark.parametrize("where", ["begin", "sync"])
def test_what_is_no_error_of_the_filesystem_ends_the_committer(where: str) -> None:
    async def scenario(bench: Bench) -> None:
        if where == "begin":
            bench.commits.begin_fails = [RuntimeError("no thread")]
            bench.ask()
        else:
            bench.ask()
            await bench.finish(RuntimeError("no thread"))
        assert [type(told) for told in bench.told] == [Refused]
        await trio.sleep_forever()

    run(scenario, ends=RuntimeError)
