"""Where things lie on a host: the state directory and what of it is ours. Computes paths, opens nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler import paths
from reconciler.paths import MAX_SOCKET_BYTES as MAX_SOCKET_BYTES
from reconciler.paths import state_root as state_root


@dataclass(frozen=True, slots=True)
class StatePaths:
    """One state directory (docs/reference/files.md). The gateway's files lie where the real product keeps them."""

    root: Path

    @property
    def ours(self) -> Path:
        return self.root / "reconciler"

    @property
    def journal(self) -> Path:
        return self.ours / "journal.sqlite"

    @property
    def lock(self) -> Path:
        return self.ours / "lock"

    @property
    def keeper(self) -> Path:
        return self.ours / "keeper"

    @property
    def run(self) -> Path:
        return self.ours / "run"

    @property
    def cache(self) -> Path:
        return self.ours / "document.json"

    @property
    def plans(self) -> Path:
        return self.ours / "plans"

    @property
    def backups(self) -> Path:
        return self.ours / "backups"

    @property
    def config(self) -> Path:
        return self.root / "openclaw.json"

    @property
    def logs(self) -> Path:
        return self.root / "logs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a kind may know of the machine and of the process that applies; passed in, never looked up.

    `environ` is a copy of the applying process's environment, `home` its home directory, `runtime_directory` where
    sockets go when the state directory is too deep for one.
    """

    state: StatePaths
    environ: Mapping[str, str] = field(repr=False)
    home: Path
    runtime_directory: Path
    python: str = field(default_factory=lambda: interpreter(sys.exec_prefix, sys.executable))

    def socket_path(self, name: str) -> Path:
        """Where the Unix socket `name` (for example `control.sock`, `keeper/keeper.sock`) of this state lies."""
        return socket_path(self.state.root, name, self.runtime_directory)


def interpreter(prefix: str, executable: str) -> str:
    """The interpreter that a service is started with: the one name of it that every way to start us leads to.

    A process that was started by `python3` and not by `python` of the same environment did not move.
    """
    usual = f"{prefix}/bin/python3"
    return usual if os.access(usual, os.X_OK) else executable


def socket_path(root: Path, name: str, runtime_directory: Path) -> Path:
    """`<root>/reconciler/<name>`, or a short path in the runtime directory where that would not fit a socket address."""
    return Path(paths.socket_path(str(root), name, str(runtime_directory)))


def runtime_directory(environ: Mapping[str, str], uid: int) -> Path:
    """`XDG_RUNTIME_DIR`, else a directory of this user below /tmp (made 0700 and checked by whoever uses it)."""
    return Path(paths.runtime_directory(environ, uid))


def host_from(environ: Mapping[str, str], uid: int) -> Host:
    """The host that this environment describes."""
    home = environ.get("HOME") or "/"
    return Host(
        state=StatePaths(Path(paths.absolute(state_root(environ, home), paths.here()))),
        environ=dict(environ),
        home=Path(home),
        runtime_directory=runtime_directory(environ, uid),
    )
