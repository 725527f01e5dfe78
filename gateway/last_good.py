"""The config that the gateway last ran by, kept beside openclaw.json for a start that finds that one damaged.

A running gateway keeps its last good config when the file is damaged or deleted. Without the copy a restart would turn the
same damage into an outage that lasts until a person comes, or into a gateway on another port than anybody expects. Blocking,
and small.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config import MAX_CONFIG_BYTES, Snapshot, read_file
from gateway.files import open_regular, write_atomic


def copy_path(path: Path) -> Path:
    """Where the copy of the config at `path` lies."""
    return path.with_name(f"{path.name}.last-good")


def keep(path: Path, snapshot: Snapshot) -> str | None:
    """Make the copy that of a valid snapshot, written only where it differs. Returns what went wrong, or None."""
    if not snapshot.exists or snapshot.text is None:
        return None
    data, copy = snapshot.text.encode(), copy_path(path)
    try:
        if _content(copy) != data:
            write_atomic(copy, data)
    except OSError as err:
        return f"cannot write {copy}: {err.strerror}"
    return None


def read_last_good(path: Path, environ: Mapping[str, str], *, port: int | None = None) -> Snapshot | None:
    """The copy, where there is one and the gateway can run by it now (a variable that it names may be gone)."""
    snapshot = read_file(copy_path(path), environ, port=port)
    return snapshot if snapshot.exists and snapshot.valid else None


def _content(path: Path) -> bytes | None:
    """None where nothing readable lies, which is to be replaced."""
    try:
        with open_regular(path) as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError:
        return None
