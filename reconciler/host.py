"""Where things lie on a host: the state directory and what of it is ours. Pure: computes paths, opens nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# sockaddr_un.sun_path holds 108 bytes with its closing NUL (unix(7)).
MAX_SOCKET_BYTES = 107


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
    python: str = sys.executable

    def socket_path(self, name: str) -> Path:
        """Where the Unix socket `name` (for example `control.sock`, `keeper/keeper.sock`) of this state lies."""
        return socket_path(self.state.root, name, self.runtime_directory)


def socket_path(root: Path, name: str, runtime_directory: Path) -> Path:
    """`<root>/reconciler/<name>`, or a short path in the runtime directory where that would not fit a socket address."""
    path = root / "reconciler" / name
    if len(str(path).encode()) <= MAX_SOCKET_BYTES:
        return path
    # _blake2 is a builtin module: hashlib would cost a cold client several milliseconds.
    from _blake2 import blake2b

    short = blake2b(str(root).encode(), digest_size=8).hexdigest()
    return runtime_directory / f"openclaw-{short}" / name.rpartition("/")[2]


def state_root(environ: Mapping[str, str], home: str) -> str:
    """The state directory as the real product finds it: `OPENCLAW_STATE_DIR`, else `~/.openclaw` with the profile."""
    if named := environ.get("OPENCLAW_STATE_DIR", "").strip():
        return named.replace("~", home, 1) if named == "~" or named.startswith("~/") else named
    profile = environ.get("OPENCLAW_PROFILE", "").strip()
    return f"{home}/.openclaw-{profile}" if profile and profile != "default" else f"{home}/.openclaw"


def runtime_directory(environ: Mapping[str, str], uid: int) -> Path:
    """`XDG_RUNTIME_DIR`, else a directory of this user below /tmp (made 0700 and checked by whoever uses it)."""
    named = environ.get("XDG_RUNTIME_DIR", "")
    return Path(named) if named.startswith("/") else Path(f"/tmp/openclaw-run-{uid}")  # noqa: S108 - its owner and mode are checked


def host_from(environ: Mapping[str, str], uid: int) -> Host:
    """The host that this environment describes."""
    home = environ.get("HOME") or "/"
    return Host(
        state=StatePaths(Path(state_root(environ, home)).absolute()),
        environ=dict(environ),
        home=Path(home),
        runtime_directory=runtime_directory(environ, uid),
    )
