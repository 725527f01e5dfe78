"""Watches directories for changes of what is in them. The one place that knows how watchfiles is stopped in time.

It says only "look". What it misses (a network file system) a resync finds.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable
from functools import partial

import trio

from reconciler.errors import innermost

# watchfiles wakes its thread every step even at rest (20 times a second at 50 ms); people do not notice 50 ms.
STEP_MILLISECONDS = 50
# After the first event a save is given this long to be over: a truncating editor writes in two halves.
SETTLE_MILLISECONDS = 50


async def watch_directories(
    paths: Iterable[str], report: Callable[[set[str]], None], ready: Callable[[], object] = lambda: None
) -> None:
    """Calls `report` with the changed paths after each change right below `paths`, until cancelled (within one step).

    Calls `ready` once no change is missed any more. A directory that is moved or removed is reported by its own path, once;
    what takes its place is not watched.

    Raises:
        OSError: a directory is not there, or the system cannot watch (any more).
    """
    # The interface below watchfiles' own loop, which does not tell when it has begun to watch.
    from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError

    stop = threading.Event()
    # A thread of its own for as long as it watches: it must not take one of those that everything else waits for.
    limiter = trio.CapacityLimiter(1)

    async def stop_with_us() -> None:
        # The watching thread looks at this event at each step; it cannot be cancelled otherwise.
        try:
            await trio.sleep_forever()
        finally:
            stop.set()

    failure: BaseException | None = None
    try:
        with RustNotify(
            list(paths),
            debug=False,
            force_polling=False,
            poll_delay_ms=0,
            recursive=False,
            ignore_permission_denied=False,
        ) as watcher:
            look = partial(watcher.watch, SETTLE_MILLISECONDS, STEP_MILLISECONDS, 0, stop)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_with_us)
                ready()
                while not isinstance(changes := await trio.to_thread.run_sync(look, limiter=limiter), str):
                    report({path for _change, path in changes})
                nursery.cancel_scope.cancel()
    except* (OSError, WatchfilesRustInternalError, UnicodeEncodeError) as group:
        failure = innermost(group)
    if failure is not None:
        raise _as_system_error(failure) from failure


def _as_system_error(failure: BaseException) -> OSError:
    """What the system said: watchfiles wraps that into an error of its own, with the number in its text."""
    if isinstance(failure, OSError):
        return failure
    if isinstance(failure, UnicodeEncodeError):
        return OSError(errno.EILSEQ, "a name on its path is not UTF-8")
    found = re.search(r"os error (\d+)", str(failure))
    number = int(found[1]) if found is not None else errno.EIO
    return OSError(number, os.strerror(number))
