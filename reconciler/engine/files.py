"""Files of the operator's that a command writes, with errors in the operator's words."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.errors import NotPermittedError, OpenClawError
from reconciler.files import replace_file


def write_private(path: str, text: str) -> None:
    """Writes `text` to `path` with mode 0600, whole or not at all.

    Raises:
        NotPermittedError: the system refuses.
        OpenClawError: it cannot be written; the old file is untouched.
    """
    _write(path, text, 0o600, None)


def replace_text(path: str, text: str) -> None:
    """Replaces the text of a file: its mode and owner stay, and where it is a link, what the link names is replaced.

    Raises: as `write_private`.
    """
    target = os.path.realpath(path)
    try:
        status = os.stat(target)
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    _write(target, text, status.st_mode & 0o777, (status.st_uid, status.st_gid))


def _write(path: str, text: str, mode: int, owner: tuple[int, int] | None) -> None:
    # Two commands may write one file at the same moment: neither must write into the other's temporary file.
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        replace_file(Path(path), text.encode(), mode, owner=owner, temporary=temporary)
    except PermissionError as err:
        raise NotPermittedError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
