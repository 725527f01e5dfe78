"""Files of the operator's that a command writes, with errors in the operator's words."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from reconciler.errors import LockedError, NotPermittedError, OpenClawError, StaleError
from reconciler.files import open_regular, replace_file

# One edit takes a fraction of a second, and a script may begin dozens at once.
LOCK_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02


def write_private(path: str, text: str) -> None:
    """Writes `text` to `path` with mode 0600, whole or not at all.

    Raises:
        NotPermittedError: the system refuses.
        OpenClawError: it cannot be written; the old file is untouched.
    """
    _write(path, text, 0o600, None)


def replace_text(path: str, old: bytes, text: str) -> None:
    """Replaces the text of a file that holds `old`: its mode and owner stay, and of a link what it names is replaced.

    Raises:
        StaleError: it is not `old` any more; it is untouched.
        NotPermittedError: the system refuses.
        OpenClawError: it cannot be written; the old file is untouched.
    """
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err

    def check() -> None:
        if os.path.realpath(path) != target or _content(target) != old:
            raise StaleError(f'cannot write "{path}": somebody else has changed it meanwhile')

    _write(target, text, status.st_mode & 0o777, (status.st_uid, status.st_gid), check)


@contextmanager
def directory_lock(directory: str, wait_seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Within it this process alone edits files of `directory`, among all that ask here; waits for it at most `wait_seconds`.

    The lock (flock(2)) is that of the directory itself: it leaves nothing beside files that are the operator's, needs no
    other place that this user may write to, and stays where it is when a file in it is replaced. It ends with its holder.
    Where the directory cannot be opened or its file system has no such locks, there is none, and nothing is waited for.

    Raises:
        LockedError: another process holds it all the time.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        # What is wrong with the directory is said, if it matters, by whoever reads or writes in it.
        yield
        return
    try:
        _wait_for_lock(descriptor, directory, wait_seconds)
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, directory: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _held(descriptor, directory, seconds) from None
        except OSError:
            return  # its file system has no such locks
        else:
            return
        time.sleep(_POLL_SECONDS)


def _held(descriptor: int, directory: str, seconds: float) -> LockedError:
    """Names who holds the lock by the kernel's list (proc_locks(5)), where that numbers devices as stat(2) does."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    who = "another process"
    with suppress(OSError):
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        who = next((f"pid {each[4]}" for each in lines if each[1] == "FLOCK" and each[5] == place), who)
    return LockedError(
        f'cannot edit in "{directory}": {who} holds the lock of this directory, and did not give it up within {seconds:g} s',
        hint="wait until it is done, then try again",
    )


def _content(path: str) -> bytes | None:
    """What is in the file; None where there is none that could be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError:
        return None


def _write(
    path: str, text: str, mode: int, owner: tuple[int, int] | None, check: Callable[[], None] | None = None
) -> None:
    # Two commands may write one file at the same moment: neither must write into the other's temporary file.
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        replace_file(Path(path), text.encode(), mode, owner=owner, temporary=temporary, before_rename=check)
    except PermissionError as err:
        raise NotPermittedError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
