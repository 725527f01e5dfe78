"""The config in force: the last good one, what was tried since, and what would need a restart. No Trio, no sockets.

A reload either takes a valid file over in full or changes nothing at all. What is owed is never remembered as an
event: it is the difference, in restart-class paths, between the config that the process started with and the one in
force now, so it goes away by itself when the change is taken back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.config import Issue, Snapshot, read_file
from gateway.wire.reload import changed_paths, impact_of

_MISSING = Issue("", "the file is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one reload did. `error` None: the file is valid and in force; paths are empty when nothing changed."""

    hash: str
    hot: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    none: tuple[str, ...] = ()
    error: str | None = None

    @property
    def changed(self) -> tuple[str, ...]:
        """Every path that moved."""
        return (*self.hot, *self.restart, *self.none)


class LiveConfig:
    """See the module.

    Attributes:
        started: the config that listeners, secret and TLS were made from.
        current: the last good config; it is what `config.get` calls `config`.
        loaded_at: when `current` was taken over, seconds since the epoch.
        error: why the file as it is now is not in force, or None.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        first: Snapshot,
        *,
        refused: Snapshot | None = None,
        port: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`first` is what to run by: the file, or where that was `refused`, the last good one in its place."""
        assert first.valid  # the caller ends the process otherwise
        self.path = path
        self.started = self.current = first
        self.loaded_at = clock()
        self.error = refused.error if refused is not None else None
        self._environ = environ
        self._port = port
        self._clock = clock
        self._latest = first if refused is None else refused
        self._seen = signature(path)

    @property
    def owed(self) -> tuple[str, ...]:
        """The paths whose change waits for a restart."""
        changed = changed_paths(self.started.effective, self.current.effective)
        return tuple(path for path in changed if impact_of(path) == "restart")

    def read(self) -> Snapshot:
        """The file as it is now, valid or not; read again only when it moved."""
        seen = signature(self.path)
        if seen != self._seen:
            self._latest, self._seen = self._fresh(), seen
        return self._latest

    def reload(self) -> Outcome:
        """Take the file over when it is valid; otherwise keep what is in force, in full, and say why."""
        # Taken before the file: a write between the two is then seen as one more change, never missed.
        self._seen = signature(self.path)
        latest = self._latest = self._fresh()
        if not latest.valid:
            self.error = latest.error
            return Outcome(hash=latest.hash, error=self.error)
        before, self.current, self.error = self.current, latest, None
        self.loaded_at = self._clock()
        changed = changed_paths(before.effective, latest.effective)
        hot, restart, none = (
            tuple(path for path in changed if impact_of(path) == impact) for impact in ("hot", "restart", "none")
        )
        return Outcome(hash=latest.hash, hot=hot, restart=restart, none=none)

    def _fresh(self) -> Snapshot:
        snapshot = read_file(self.path, self._environ, port=self._port)
        return refused_if_missing(snapshot) if self.current.exists else snapshot

    def part(self) -> dict[str, Any]:
        """For the health answer."""
        return {
            "ok": self.error is None,
            "hash": self.current.hash,
            "loadedAt": int(self.loaded_at * 1000),
            "error": self.error,
            "refusedHash": self._latest.hash if self.error is not None else None,
            "restartOwed": list(self.owed),
        }


def refused_if_missing(snapshot: Snapshot) -> Snapshot:
    """`snapshot`, invalid where there is no file. The real product takes a deleted one for an empty config, and shuts everybody
    out; where there was one before it is an accident.
    """
    if snapshot.exists:
        return snapshot
    return replace(snapshot, parsed=None, resolved={}, effective={}, settings=None, issues=(_MISSING,))


def signature(path: Path) -> tuple[int, ...]:
    """What moves whenever the content may have; empty when there is no file. Links are followed."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
