"""Reports when a file of the document may have changed: watches directories, never files, because editors replace files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from reconciler.watching import watch_directories


def directories(files: Iterable[str]) -> tuple[str, ...]:
    """The directories to watch for `files` (absolute paths): their own, those on the way of each symlink, and those that
    the links lead to.
    """
    found: set[str] = set()
    for file in files:
        path = file
        # 40 is the kernel's own bound for links in one path (path_resolution(7)).
        for _ in range(40):
            found.add(os.path.dirname(path))
            if not os.path.islink(path):
                break
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        found.add(os.path.dirname(os.path.realpath(file)))
        # A link among the parents (..data in a mounted config map) is swapped in its own directory.
        parent = os.path.dirname(file)
        while parent != os.path.dirname(parent):
            if os.path.islink(parent):
                found.add(os.path.dirname(parent))
            parent = os.path.dirname(parent)
    return tuple(sorted(path for path in found if os.path.isdir(path)))


async def watch_files(files: tuple[str, ...], report: Callable[[], None]) -> None:
    """Calls `report` after each change in a directory of `files`, until cancelled.

    Raises:
        OSError: the system cannot watch (no inotify instance is left).
    """
    await watch_directories(directories(files), lambda _changed: report())
