"""The end of a log file, in steps: what `logs.tail` answers. Bounded reads of one file, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gateway.files import open_regular


def tail(path: Path, *, cursor: int | None, limit: int, max_bytes: int) -> dict[str, Any]:
    """The lines from `cursor` (a byte offset from an earlier answer) to the end, or the last ones without it.

    A file that became shorter was replaced: `reset`, and reading begins at its tail. The same where more than
    `max_bytes` lie between, with `truncated`. A line cut by the start is left out, and so is an unfinished last one: the
    cursor stays before it, and it comes whole the next time (the real product gives half of it and loses the rest). A
    missing file has no lines; when today's is missing, the newest of its directory stands in, as after midnight.
    """
    found = _newest(path)
    try:
        with open_regular(found) as file:
            size = os.fstat(file.fileno()).st_size
            start, reset, truncated = _start(cursor, size, max_bytes)
            file.seek(max(0, start - 1))
            data = file.read(size - max(0, start - 1))
    except OSError:
        return {"file": str(path), "cursor": 0, "size": 0, "lines": [], "truncated": False, "reset": False}
    if start > 0:
        # A start behind a line feed cuts nothing; any other one drops the rest of the line that it fell into.
        data = data[1:] if data[:1] == b"\n" else data.partition(b"\n")[2]
    complete, _, unfinished = data.rpartition(b"\n")
    lines = complete.decode("utf-8", "replace").split("\n") if complete else []
    return {
        "file": str(found),
        "cursor": size - len(unfinished),
        "size": size,
        "lines": lines[-limit:],
        "truncated": truncated,
        "reset": reset,
    }


def _start(cursor: int | None, size: int, max_bytes: int) -> tuple[int, bool, bool]:
    """Where to begin, whether that is a reset, and whether something before it is left out."""
    last = max(0, size - max_bytes)
    if cursor is None:
        return last, False, last > 0
    if cursor > size:
        return last, True, last > 0
    if size - cursor > max_bytes:
        return last, True, True
    return cursor, False, False


def _newest(path: Path) -> Path:
    """The path itself, or the newest daily file beside it when it is not there; a directory or a fifo is none."""
    if path.is_file():
        return path
    return max((each for each in path.parent.glob("openclaw-????-??-??.log") if each.is_file()), default=path)
