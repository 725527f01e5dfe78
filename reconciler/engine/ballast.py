"""Room that is kept for the worst day: a small file that is given up when a full disk keeps the journal from being written.

A prune makes room, but its intent has to be on disk before anything is deleted; and a run whose disk fills up has to be ended
and taken back. Knows neither actions nor the journal: what needs the room is handed in. Blocking; every call is made by the
holder of the writer lock, by several of its threads at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from reconciler.journal.store import JournalFullError

T = TypeVar("T")

# A first commit needs the index of the log beside it (32 KiB) and a handful of pages of 4 KiB, each later one as many pages: a
# way back has some ten of them, and files of its own.
SIZE_BYTES: Final = 256 << 10
# The last mebibyte of a disk is for those who have work to do.
SPARE_BYTES: Final = 1 << 20


class Ballast:
    """The file at `path`. It holds random bytes: zeros may take no room at all on a disk that compresses.

    Attributes:
        spent: it was given up here, and is not there again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent = False
        self._lock = threading.Lock()

    @property
    def is_short(self) -> bool:
        """True when there is too little room for an ordinary run: less than the way back from it may take.

        What the ballast still has to take is no room: it is there before the first effect of such a run.
        """
        free = free_bytes(self.path.parent)
        return free is not None and free - max(0, SIZE_BYTES - self._size()) < SIZE_BYTES

    @property
    def wanting(self) -> bool:
        """True when it is not there, or only in part, and there is room for it."""
        return self._size() < SIZE_BYTES and self._has_room(SPARE_BYTES)

    def take_on(self, spare_bytes: int = SPARE_BYTES) -> bool:
        """Makes the file where it is not there and leaves `spare_bytes` of room; returns whether it is there now.

        Never raises for a disk that refuses.
        """
        if self._size() >= SIZE_BYTES:
            self.spent = False
            return True
        if not self._has_room(spare_bytes):
            return False
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(handle, "wb") as file:
                file.write(os.urandom(SIZE_BYTES))
                file.flush()
                # Some file systems look for room only now.
                os.fsync(file.fileno())
            os.rename(temporary, self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            return False
        self.spent = False
        return True

    def give_up(self) -> bool:
        """Removes the file; False where there was none, or none can be removed (a file system mounted for reading)."""
        try:
            self.path.unlink()
        except OSError:
            return False
        self.spent = True
        return True

    def spend_on(self, call: Callable[[], T]) -> T:
        """What `call` returns. Where it finds the disk full, the ballast is given up and it is called once more.

        Raises:
            JournalFullError: there is no ballast, or its room was not enough.
        """
        spent = self.spent
        try:
            return call()
        except JournalFullError:
            with self._lock:
                # Another thread may have given it up just now.
                if not self.give_up() and (spent or not self.spent):
                    raise
        return call()

    def _size(self) -> int:
        try:
            return self.path.lstat().st_size
        except OSError:
            return 0

    def _has_room(self, spare_bytes: int) -> bool:
        free = free_bytes(self.path.parent)
        return free is not None and free >= SIZE_BYTES + spare_bytes


def free_bytes(directory: Path) -> int | None:
    """What this user may still write to the file system of `directory`; None where that cannot be told."""
    try:
        free = os.statvfs(directory)
    except OSError:
        return None
    return free.f_bavail * free.f_frsize
