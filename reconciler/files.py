"""Replacing a file so that a crash, a full disk or a reader at any instant meets the old content or the new, never half.

Blocking and plain; callers that run under Trio call it in a thread. Knows nothing of kinds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def replace_file(
    path: Path,
    data: bytes,
    mode: int,
    *,
    owner: tuple[int, int] | None = None,
    temporary: Path | None = None,
    durable: bool = True,
    before_rename: Callable[[], None] | None = None,
) -> None:
    """Makes `path` a file with `data` and `mode` (exactly, whatever the umask): temporary file, fsync, rename, fsync of
    the directory.

    The temporary file has a fixed name beside `path`, so that one left by a crash is replaced by the next write and
    never gathers; where others may write `path` at the same moment, each needs a `temporary` of its own. `owner` (user
    and group) is given to it where we are root. `before_rename` is called with everything written; what it raises ends
    the write with nothing changed. Where a power cut may take it, `durable` false saves both flushes.
    A symbolic link at `path` is replaced, never followed.

    Raises:
        OSError: as the system says it; the temporary file is gone then.
    """
    temporary = temporary or path.with_name(f".{path.name}.openclaw.tmp")
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            if owner is not None and os.geteuid() == 0:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if before_rename is not None:
            before_rename()
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(path.parent)


def open_regular(path: str | Path, *, follow: bool = True) -> BinaryIO:
    """Opens a regular file for reading; a fifo or a device in its place is refused, and never waited for. A symbolic link
    is followed unless `follow` is false.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def identity(file: int | Path) -> tuple[int, int]:
    """What tells a file, by descriptor or path, from any other: no other gets its number while it is open.

    Raises:
        OSError: it cannot be looked at.
    """
    found = os.stat(file, follow_symlinks=isinstance(file, int))
    return found.st_dev, found.st_ino


def is_at(path: Path, held: tuple[int, int]) -> bool:
    """Whether the file at `path` is the one with this identity. What cannot be looked at counts as the same."""
    try:
        return identity(path) == held
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


def place_of(path: str) -> str:
    """`path` by its directory's one name. A link at its end stays: what that leads to may be swapped."""
    directory, name = os.path.split(path)
    return os.path.join(os.path.realpath(directory), name)


def remedy_of_refusal(path: Path, *, reading: bool = False) -> str:
    """What a person does where this user may not write (or read) `path`, or not get there: by whose it is, or by its mode."""
    for each in (*reversed(path.parents), path):
        wanted = 0
        if each == path or (each == path.parent and not reading):
            # What is replaced, or not there yet, needs the right to write its directory.
            wanted = os.R_OK if reading else os.W_OK
        try:
            status = os.stat(each)
            wanted |= os.X_OK if stat.S_ISDIR(status.st_mode) else 0
            if os.access(each, wanted, effective_ids=True):
                continue
        except OSError:
            continue
        if status.st_uid == os.geteuid():
            return f'it is yours, and its mode is in the way: chmod u+rwX "{each}"'
        return f'run as {_user(status.st_uid)}, who owns "{each}"'
    return "run as the owner of the state directory"


def _user(number: int) -> str:
    from pwd import getpwuid

    try:
        return getpwuid(number).pw_name
    except KeyError:
        return f"the user with the number {number}"


def remove_file(path: Path) -> None:
    """Removes `path` for good; one that is gone already is fine."""
    with suppress(FileNotFoundError):
        os.unlink(path)
        sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`; os.write may take less at a time (a signal, a disk that is nearly full)."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: Path) -> None:
    """Makes renames and removals in the directory survive a power cut (fsync(2): the entry needs its own)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path) -> None:
    """Makes `path` with its parents, 0700 each, where they are missing."""
    for parent in reversed((path, *path.parents)):
        if not parent.exists():
            with suppress(FileExistsError):
                parent.mkdir(mode=0o700)
