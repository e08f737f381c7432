"""Works side by side: who waits for whom, and what becomes of errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shmr.archive.abreast import Task, together
from shmr.archive.workers import Workers
from shmr.volume.cleaner import Work, run_inline


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with Workers(request.param, 1) as workers:
        yield workers


def counting(name: str, count: int, seen: list[str], error: Exception | None = None) -> Work[str]:
    """Some jobs; what is between them is noted, and on which thread that was."""
    for number in range(count):
        assert (yield lambda number=number: number) == number  # type: ignore[misc]
        seen.append(f"{name}{number} {threading.current_thread() is threading.main_thread()}")
    if error is not None:
        raise error
    return name


def test_both_go_on_and_all_between_jobs_is_on_one_thread(workers: Workers) -> None:
    seen: list[str] = []
    one = Task(counting("a", 5, seen), workers.crew)
    other = Task(counting("b", 3, seen), workers.crew)
    assert run_inline(together(one, other)) == "a"
    assert run_inline(together(other)) == "b"
    assert sorted(seen) == [f"a{n} True" for n in range(5)] + [f"b{n} True" for n in range(3)]


def test_without_threads_each_does_one_job_in_turn() -> None:
    with Workers(0, 1) as workers:
        seen: list[str] = []
        one = Task(counting("a", 3, seen), workers.crew)
        other = Task(counting("b", 9, seen), workers.crew)
        run_inline(together(one, other))
        assert [what[:2] for what in seen] == ["a0", "b0", "a1", "b1", "a2", "b2"]
        other.abandon()


def test_a_slow_job_of_one_does_not_keep_the_other_waiting() -> None:
    with Workers(1, 1) as workers:
        seen: list[str] = []
        ended = threading.Event()

        def until_the_other_ended() -> Work[bool]:
            return (yield lambda: ended.wait(30.0))

        def several() -> Work[None]:
            yield from counting("b", 4, seen)
            ended.set()

        other = Task(several(), workers.crew)
        assert run_inline(together(Task(until_the_other_ended(), workers.crew), other)) is True
        assert len(seen) == 4


def test_an_error_of_one_is_its_own(workers: Workers) -> None:
    seen: list[str] = []
    one = Task(counting("a", 4, seen), workers.crew)
    other = Task(counting("b", 2, seen, ValueError("bad")), workers.crew)
    assert run_inline(together(one, other)) == "a"
    assert other.ended and isinstance(other.error, ValueError)
    with pytest.raises(ValueError, match="bad"):
        run_inline(together(other))


def test_a_job_that_fails_is_met_where_it_was_asked_for(workers: Workers) -> None:
    def failing() -> None:
        raise OSError("gone")

    def careful() -> Work[str]:
        try:
            yield failing
        except OSError as error:
            return str(error)
        return "nothing happened"

    assert run_inline(together(Task(careful(), workers.crew))) == "gone"


def test_what_is_abandoned_has_ended_its_job_and_is_closed() -> None:
    with Workers(1, 1) as workers:
        begun, go_on = threading.Event(), threading.Event()
        left: list[str] = []

        def job() -> None:
            begun.set()
            go_on.wait(30.0)
            left.append("job ended")

        def work() -> Work[None]:
            try:
                yield job
                left.append("never")
            finally:
                left.append("closed")

        task = Task(work(), workers.crew)
        task.submit()
        assert begun.wait(30.0)
        go_on.set()
        task.abandon()
        assert left == ["job ended", "closed"]


def test_what_is_interrupted_has_ended_before_anything_else_is_closed() -> None:
    left: list[str] = []

    def interrupted() -> None:
        raise KeyboardInterrupt

    def work() -> Work[None]:
        try:
            yield interrupted
        finally:
            left.append("closed")

    # The error is still held, and with it everything that was under way.
    with pytest.raises(KeyboardInterrupt) as error:
        run_inline(work())
    assert left == ["closed"] and error.tb is not None
