"""The work queue of the loop: a waiting line, a dirty set and a processing set. Plain code; Trio only wakes its consumer.

A key never runs twice at once, and one that is added while it runs is run once more. Keys that failed wait out a backoff.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import trio

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Keys that wait to be looked at. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._line: list[K] = []
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._later: dict[K, float] = {}
        self._woken = trio.Event()

    def add(self, key: K) -> None:
        """Puts `key` in line, once, however often it is said; any wait of it is over."""
        self._later.pop(key, None)
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._line.append(key)
            self._woken.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Puts `key` in line in `seconds`, or earlier when somebody says so; of two times the earlier one counts."""
        if key in self._dirty:
            return
        due = self._now() + seconds
        if key not in self._later or due < self._later[key]:
            self._later[key] = due
            self._woken.set()

    def take_nowait(self) -> tuple[K, ...]:
        """All keys whose time has come, in the order in which they were added; they are being processed until `done`."""
        for key, due in sorted(self._later.items(), key=lambda item: item[1]):
            if due <= self._now():
                self.add(key)
        taken = tuple(self._line)
        self._line.clear()
        self._dirty.difference_update(taken)
        self._processing.update(taken)
        return taken

    async def take(self) -> tuple[K, ...]:
        """Waits until there is something and takes it (see `take_nowait`). Cancellation takes nothing."""
        while True:
            self._woken = trio.Event()
            if taken := self.take_nowait():
                return taken
            due = min(self._later.values(), default=None)
            with trio.move_on_after(max(0.0, due - self._now()) if due is not None else float("inf")):
                await self._woken.wait()

    def done(self, key: K) -> None:
        """Says that `key` is no longer processed; if it was added meanwhile it is in line again."""
        self._processing.discard(key)
        if key in self._dirty and key not in self._line:
            self._line.append(key)
            self._woken.set()
