"""Files that only their owner may read, written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress

from reconciler.errors import NotPermittedError, OpenClawError


def write_private(path: str, text: str) -> None:
    """Writes `text` to `path` with mode 0600: a temporary file, flushed, renamed, and its directory flushed.

    Raises:
        NotPermittedError: the system refuses.
        OpenClawError: it cannot be written; the old file is untouched.
    """
    _write(path, text, 0o600)


def replace_text(path: str, text: str) -> None:
    """Replaces the text of a file of the operator's: its mode stays, and where it is a link, what the link names is replaced.

    Raises: as `write_private`.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode & 0o777
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    _write(target, text, mode)


def _write(path: str, text: str, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                # The creation mask may have taken away what the file that is replaced had.
                os.fchmod(file.fileno(), mode)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except PermissionError as err:
        raise NotPermittedError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
