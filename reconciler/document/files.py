"""Opens and reads single files as the loader needs it: regular ones only, bounded, consistent. Knows nothing of YAML."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

MAX_BYTES: Final = 4 * 1024 * 1024
_READ_TRIES: Final = 5

# os.strerror speaks the language of the process; these texts are part of the output's promise.
_REASONS: Final = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EISDIR: "it is a directory",
    errno.ENOTDIR: "a part of its path is not a directory",
    errno.ELOOP: "too many symbolic links",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENXIO: "it is no regular file",
    errno.ENODEV: "it is no regular file",
    # What the kernel shows as a file, and has nothing to give for at the moment.
    errno.EAGAIN: "it is no regular file",
    errno.EIO: "the disk reports an error",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this host",
    errno.ESTALE: "the file server has lost it",
}


class ReadError(Exception):
    """A file cannot be read; the text follows "cannot "."""

    def __init__(self, message: str, code: str = "unreadable", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint


def reason_of(err: OSError) -> str:
    """Why an operation failed, in words that do not depend on the locale."""
    return _REASONS.get(err.errno or 0) or errno.errorcode.get(err.errno or 0, "unknown error")


def read_file(path: str, budget: int = MAX_BYTES, cap: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file, as they were at one moment.

    `budget` is how many bytes are still allowed of `cap` in all; the size is checked before the first byte is read. Read
    again when the file changed meanwhile. A fifo or a device is refused without waiting for it.

    Raises:
        ReadError: with the reason in words.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as err:
        raise ReadError(f"read it: {reason_of(err)}") from err
    except ValueError as err:
        raise ReadError("read it: its name has a NUL character") from err
    try:
        for _ in range(_READ_TRIES):
            before = os.fstat(descriptor)
            _check(before, budget, cap)
            data = _read_all(descriptor, budget)
            after = os.fstat(descriptor)
            _check(after, budget, cap)
            if len(data) == after.st_size and (before.st_mtime_ns, before.st_size) == (
                after.st_mtime_ns,
                after.st_size,
            ):
                return data
        raise ReadError("read it: it changes while it is read", hint="validate again when its writer is done")
    except OSError as err:
        raise ReadError(f"read it: {reason_of(err)}") from err
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, budget: int, cap: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ReadError("read it: it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise ReadError("read it: it is no regular file")
    if status.st_size > budget:
        with_others = " with what was read before" if budget < cap else ""
        raise ReadError(
            f"read it: {status.st_size:,} bytes{with_others} are more than the {cap // 1024:,} KiB allowed",
            code="too_large",
        )


def _read_all(descriptor: int, budget: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    chunks, left = [], budget + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
