"""Trio without its threads, so that a made-up life is the same whenever it is lived again, and costs little."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest.mock import patch

import trio
from trio.testing import MockClock

T = TypeVar("T")


async def run_here(call: Callable[..., T], *arguments: Any, **_limits: Any) -> T:
    """What `trio.to_thread.run_sync` does, without a thread: cancelled before or not at all, others go on meanwhile."""
    await trio.lowlevel.checkpoint_if_cancelled()
    await trio.lowlevel.cancel_shielded_checkpoint()
    result = call(*arguments)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result


@contextmanager
def no_threads() -> Iterator[None]:
    """Within it no thread is started for Trio: which of two threads ends first would be luck."""
    with patch.object(trio.to_thread, "run_sync", run_here):
        yield


def live(work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work` on a clock that leaps over every wait, and without threads, for which it would not wait."""
    with no_threads():
        return trio.run(work, clock=MockClock(autojump_threshold=0))
