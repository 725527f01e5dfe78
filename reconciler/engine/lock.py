"""One writer for each state directory: an advisory lock whose file names its holder (flock(2)).

The kernel drops the lock when its holder dies, however it dies, so the content of the file is never proof: it only says
who holds it. It covers effects, not the verify window. The file is never removed by us: a writer that waits on a removed
file would hold a lock that nobody else sees. Who holds it for long asks now and then whether it is still `in_place`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from reconciler.errors import LockedError, NotPermittedError, OpenClawError
from reconciler.files import identity, is_at, remedy_of_refusal
from reconciler.values import parse_json, rfc3339

# flock cannot be waited for without a thread that no one can cancel, so it is asked for again and again. The first
# waits are short, because an apply that does nothing is over in a moment.
FIRST_POLL_SECONDS: Final = 0.02
LAST_POLL_SECONDS: Final = 0.25
# What a holder writes is about 200 bytes; anything longer is not ours.
MAX_BYTES: Final = 4096
LEAST_BYTES: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds the lock: `started` is the start time of process `pid` in ticks since boot (proc(5)), `since` when it
    got the lock in seconds since the epoch, `run` the id of what it does, where that is known.
    """

    pid: int
    started: int
    since: float
    command: str
    run: str = ""

    def __str__(self) -> str:
        run = f", run {self.run}" if self.run else ""
        return f"pid {self.pid} (`{self.command}`{run}), since {rfc3339(self.since)}"


class WriterLock:
    """The writer lock of one state directory, for one holder at a time. `command` is shown to who finds it taken."""

    def __init__(self, path: Path, *, command: str, now: Callable[[], float]) -> None:
        self.path = path
        self._command = command
        self._now = now
        self._handle: int | None = None
        self._since = 0.0

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._handle is not None

    @property
    def in_place(self) -> bool:
        """Whether the lock is held, by the file at its path: one that was deleted or exchanged keeps nobody out."""
        return self._handle is not None and is_at(self.path, identity(self._handle))

    async def acquire(self, wait_seconds: float = 0.0) -> None:
        """Takes the lock; waits for it at most `wait_seconds` (0: asks once). Cancellation leaves it untaken.

        Raises:
            LockedError: another writer holds it; the text names who, since when.
            NotPermittedError: the lock file may not be opened.
        """
        await trio.lowlevel.checkpoint()
        deadline = trio.current_time() + wait_seconds
        pause = FIRST_POLL_SECONDS
        while not self.acquire_nowait():
            left = deadline - trio.current_time()
            if left <= 0:
                raise self._locked()
            await trio.sleep(min(pause, left))
            pause = min(pause * 2, LAST_POLL_SECONDS)

    def acquire_nowait(self) -> bool:
        """Takes the lock if it is free and says whether it did.

        Raises:
            NotPermittedError: the lock file may not be opened.
        """
        assert self._handle is None, "taken twice"
        handle = self._open()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        self._since = self._now()
        self.describe()
        return True

    def describe(self, run: str = "") -> None:
        """Writes into the file who holds the lock, and for which run."""
        assert self._handle is not None, "not taken"
        pid = os.getpid()
        content = {
            "pid": pid,
            "started": started(pid),
            "since": self._since,
            "command": self._command,
            "run": run,
        }
        # A full disk keeps nobody from locking: the run may be the one that deletes files.
        with suppress(OSError):
            self._fill(self._handle, json.dumps(content).encode())

    def release(self) -> None:
        """Gives the lock up; does nothing when it is not held."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with suppress(OSError):
            self._fill(handle, b"")
        os.close(handle)

    def _fill(self, handle: int, content: bytes) -> None:
        # Never shortened: on a full disk there would be no room for the next holder's name.
        blank = max(os.fstat(handle).st_size, LEAST_BYTES) - len(content)
        os.pwrite(handle, content + b" " * blank, 0)

    @asynccontextmanager
    async def hold(self, wait_seconds: float = 0.0) -> AsyncIterator[None]:
        """`acquire`, and `release` at the end of the block."""
        await self.acquire(wait_seconds)
        try:
            yield
        finally:
            self.release()

    def _open(self) -> int:
        try:
            # The state directory itself is private too; `parents` would make it with the mode of everything else.
            self.path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except PermissionError as err:
            raise NotPermittedError(
                f'cannot lock "{self.path}": {err.strerror}', hint=remedy_of_refusal(self.path)
            ) from err
        except OSError as err:
            raise OpenClawError(f'cannot lock "{self.path}": {err.strerror}') from err

    def _locked(self) -> LockedError:
        found = holder(self.path)
        who = str(found) if found is not None else "it does not say who it is"
        return LockedError(f"another writer holds the lock: {who}", hint="wait until it is done, then try again")


def holder(path: Path) -> Holder | None:
    """Who holds the lock at `path`, None when nobody does. Only reads, and takes no lock, so that it disturbs no one.

    What a holder left that is gone (another process may have its pid) does not count.
    """
    found = _last_holder(path)
    return found if found is not None and started(found.pid) == found.started else None


def died(path: Path) -> Holder | None:
    """Who held the lock at `path` last, where it is gone and never gave the lock up: it was killed, or the machine fell."""
    found = _last_holder(path)
    return found if found is not None and started(found.pid) != found.started else None


def _last_holder(path: Path) -> Holder | None:
    try:
        with path.open("rb") as file:
            data = parse_json(file.read(MAX_BYTES))
        return Holder(
            pid=int(data["pid"]),
            started=int(data["started"]),
            since=float(data["since"]),
            command=str(data["command"]),
            run=str(data["run"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def started(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot (proc(5), field 22 of stat); None where it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name stands in parentheses and may contain anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
