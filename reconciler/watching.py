"""Watches directories for changes of what is in them. The one place that knows how watchfiles is stopped in time.

It says only "look". What it misses (a network file system, a directory that appears later) a resync finds.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable

import trio

from reconciler.errors import innermost

# watchfiles wakes its thread every step even at rest (20 times a second at 50 ms); people do not notice 50 ms.
STEP_MILLISECONDS = 50
# After the first event a save is given this long to be over: a truncating editor writes in two halves.
SETTLE_MILLISECONDS = 50


async def watch_directories(paths: Iterable[str], report: Callable[[set[str]], None]) -> None:
    """Calls `report` with the changed paths after each change right below `paths`, until cancelled (within one step).

    Raises:
        OSError: a directory is not there, or the system cannot watch (no inotify instance is left).
    """
    from watchfiles import awatch
    from watchfiles._rust_notify import WatchfilesRustInternalError

    stop = trio.Event()

    async def stop_with_us() -> None:
        # The watching thread looks at this event at each step; a cancellation alone would wait for its next timeout.
        try:
            await trio.sleep_forever()
        finally:
            stop.set()

    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_with_us)
            async for changes in awatch(
                *paths,
                step=STEP_MILLISECONDS,
                debounce=SETTLE_MILLISECONDS,
                recursive=False,
                watch_filter=None,
                stop_event=stop,
            ):
                report({path for _change, path in changes})
            nursery.cancel_scope.cancel()
    except* (OSError, WatchfilesRustInternalError) as group:
        failure = innermost(group)
    if failure is not None:
        raise failure if isinstance(failure, OSError) else _as_system_error(failure)


def _as_system_error(failure: BaseException) -> OSError:
    """What the system said: watchfiles wraps that into an error of its own, with the number in its text."""
    found = re.search(r"os error (\d+)", str(failure))
    number = int(found[1]) if found is not None else errno.EIO
    return OSError(number, os.strerror(number))
