"""A reply that is to come from somebody else, who knows when: cheaper than a task that waits."""

from __future__ import annotations

from collections.abc import Callable

import trio

Settled = Callable[[Exception | None], None]
"""Hears that it is there: None, or what the handler would have raised."""


class Promise:
    """Success without payload, once `settle` is called; before or after somebody listens."""

    __slots__ = ("_failure", "_is_settled", "_told")

    def __init__(self) -> None:
        self._is_settled = False
        self._failure: Exception | None = None
        self._told: Settled | None = None

    def settle(self, failure: Exception | None) -> None:
        """It is done, or cannot be done because of `failure`. Called once."""
        self._is_settled = True
        self._failure = failure
        if self._told is not None:
            self._told(failure)

    def then(self, told: Settled) -> None:
        """Tell `told`, at once if it is settled already."""
        self._told = told
        if self._is_settled:
            told(self._failure)

    async def wait(self) -> None:
        """Return when it is settled; raises what it failed with."""
        done = trio.Event()
        self.then(lambda _: done.set())
        await done.wait()
        if self._failure is not None:
            raise self._failure
