"""The event loop of the keeper: file descriptors and timers, one thread, asleep when nothing is due.

No polling: at rest there is no timer, and select waits without a limit. Standard library only.
"""

from __future__ import annotations

import heapq
import selectors
import time
from collections.abc import Callable
from typing import Any


def boot_seconds() -> float:
    """Seconds since boot, suspend included; never jumps, and means the same to a successor (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Timer:
    """One call that is due at a moment; `cancel` may be called at any time, more than once."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self._call = None

    def run(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def cancelled(self) -> bool:
        return self._call is None


class Loop:
    """Runs until `stop`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._stopped = False

    def watch(self, fd: Any, call: Callable[[], None]) -> None:
        """Calls `call` whenever `fd` is readable."""
        self._selector.register(fd, selectors.EVENT_READ, (call, None))

    def watch_both(self, fd: Any, read: Callable[[], None], write: Callable[[], None] | None) -> None:
        """Changes what a watched `fd` waits for: also for room to write where `write` is given."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if write is not None else 0)
        self._selector.modify(fd, events, (read, write))

    def forget(self, fd: Any) -> None:
        self._selector.unregister(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Calls `call` once, `seconds` from now at the earliest."""
        timer = Timer(call)
        self._count += 1
        heapq.heappush(self._timers, (boot_seconds() + max(seconds, 0.0), self._count, timer))
        return timer

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        while not self._stopped:
            for key, events in self._selector.select(self._wait_seconds()):
                read, write = key.data
                # A call before this one may have forgotten this descriptor.
                if self._selector.get_map().get(key.fd) is not key:
                    continue
                if events & selectors.EVENT_WRITE and write is not None:
                    write()
                if events & selectors.EVENT_READ and self._selector.get_map().get(key.fd) is key:
                    read()
            self._run_timers()

    def _wait_seconds(self) -> float | None:
        while self._timers and self._timers[0][2].cancelled:
            heapq.heappop(self._timers)
        return max(self._timers[0][0] - boot_seconds(), 0.0) if self._timers else None

    def _run_timers(self) -> None:
        now = boot_seconds()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2].run()
