"""The event loop of the keeper: file descriptors and timers, one thread, asleep when nothing is due.

No polling: at rest there is no timer, and epoll(7) waits without a limit. Asked directly: what `selectors` puts around it lies
between the end of a child and its next start. Standard library only.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable
from typing import Any

_Call = Callable[[], None]


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
    """Runs until `stop`. `woken` is called at each wake-up, before what woke it."""

    def __init__(self, woken: _Call) -> None:
        self._woken = woken
        self._poll = select.epoll()
        self._calls: dict[int, tuple[_Call, _Call | None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0
        self._stopped = False

    def watch(self, fd: Any, call: _Call) -> None:
        """Calls `call` whenever `fd` is readable."""
        number = _number(fd)
        self._poll.register(number, select.EPOLLIN)
        self._calls[number] = (call, None)

    def watches(self, fd: Any) -> bool:
        """Whether `fd` is watched."""
        return _number(fd) in self._calls

    def watch_both(self, fd: Any, read: _Call, write: _Call | None) -> None:
        """Changes what a watched `fd` waits for: also for room to write where `write` is given."""
        number = _number(fd)
        self._poll.modify(number, select.EPOLLIN | (select.EPOLLOUT if write is not None else 0))
        self._calls[number] = (read, write)

    def forget(self, fd: Any) -> None:
        """Before it is closed."""
        number = _number(fd)
        del self._calls[number]
        self._poll.unregister(number)

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
            found = self._poll.poll(self._wait_seconds())
            self._woken()
            # What woke it may have been forgotten by `woken`.
            present = [(number, events, self._calls[number]) for number, events in found if number in self._calls]
            for number, events, calls in present:
                read, write = calls
                # A hang-up is for both to see. A call before may have forgotten this descriptor, and another may have its number.
                if write is not None and events & ~select.EPOLLIN and self._calls.get(number) is calls:
                    write()
                if events & ~select.EPOLLOUT and self._calls.get(number) is calls:
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


def _number(fd: Any) -> int:
    return fd if isinstance(fd, int) else int(fd.fileno())
