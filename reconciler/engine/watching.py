"""By what others see that this process watches windows: the lock `verify.lock`, held as long as it watches one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from reconciler.engine.lock import WriterLock, holder

# How often a second watcher looks whether the first one has ended.
WATCH_SECONDS = 0.2


class Watching:
    """Whether somebody watches a window. `command` is how this process calls itself."""

    def __init__(self, path: Path, *, command: str, now: Callable[[], float]) -> None:
        self._lock = WriterLock(path, command=command, now=now)
        self._windows = 0

    @property
    def here(self) -> bool:
        """True while this process does: then stopping loses nothing but the verdict."""
        return self._windows > 0

    @property
    def elsewhere(self) -> bool:
        """True while somebody else does: who may end, or be killed, without a word."""
        return not self._lock.held and holder(self._lock.path) is not None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Watches for the length of the block. Other watchers are no hindrance: the lock is taken when they let go of it."""
        self.begin()
        try:
            async with trio.open_nursery() as nursery:
                if not self._is_held():
                    nursery.start_soon(self._take_over)
                yield
                nursery.cancel_scope.cancel()
        finally:
            self.end()

    def begin(self) -> None:
        """Goes on watching until `end`, with the lock where it is held."""
        self._windows += 1

    def end(self) -> None:
        """The end of what began by `begin`."""
        self._windows -= 1
        if not self._windows:
            self._lock.release()

    def _is_held(self) -> bool:
        # Another task of this process may have it by now.
        return self._lock.held or self._lock.acquire_nowait()

    async def _take_over(self) -> None:
        while not self._is_held():  # noqa: ASYNC110 - another process holds it
            await trio.sleep(WATCH_SECONDS)
