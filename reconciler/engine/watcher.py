"""Where to look for changes of files: in directories, never at files, because editors replace files, and links are swapped."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

# More links than any document has; the kernel follows 40 in one path (path_resolution(7)).
MAX_STEPS = 1000


@dataclass(frozen=True, slots=True)
class WatchPoints:
    """What decides which files some paths lead to.

    Attributes:
        directories: what to watch. One that is itself reported was moved or removed: what takes its place needs a new watch.
        names: the entries below them whose change matters; all others may be anybody's.
    """

    directories: frozenset[str]
    names: frozenset[str]


def watch_points(files: Iterable[str]) -> WatchPoints:
    """The watch points of `files` (absolute paths): their directories, and those of every link on the way. Where a directory
    is missing, the nearest one above it. Blocks on the file system.
    """
    directories: set[str] = set()
    names: set[str] = set()
    waiting, seen = list(files), set[str]()
    while waiting and len(seen) < MAX_STEPS:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        # A name that cannot be a file's (ValueError) leads nowhere, and a link may go in this moment.
        with suppress(OSError, ValueError):
            _note(path, directories, names)
            for part in _parts(path):
                if os.path.islink(part):
                    _note(part, directories, names)
                    waiting.append(os.path.join(os.path.dirname(part), os.readlink(part)))
    return WatchPoints(frozenset(directories), frozenset(names))


def _parts(path: str) -> list[str]:
    """The path and all above it, without the root."""
    parts = []
    while (parent := os.path.dirname(path)) != path:
        parts.append(path)
        path = parent
    return parts


def _note(path: str, directories: set[str], names: set[str]) -> None:
    while True:
        # Resolved, so that a directory has one name here: the system reports a change under the last one that it was told.
        directory = os.path.realpath(os.path.dirname(path))
        names.add(os.path.join(directory, os.path.basename(path)))
        if os.path.isdir(directory):
            directories.add(directory)
            return
        path = directory
