"""What the parts of one running gateway share: config, log, clients, presence, times. No sockets, no behaviour of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.clients import Clients
from gateway.live import LiveConfig
from gateway.log import Log
from gateway.presence import Presence


@dataclass(slots=True, kw_only=True)
class Runtime:
    """One gateway process.

    Attributes:
        listening: the URLs that are served, once they are.
        tls_hash: which certificate and key they are served by (`gateway.wire.tls`), None without TLS.
        stopping: no new work is taken.
        health_version: rises with every health snapshot that was broadcast.
    """

    version: str
    state_dir: Path
    environ: Mapping[str, str]
    config: LiveConfig
    log: Log
    presence: Presence
    clients: Clients = field(default_factory=Clients)
    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    started_at: float = field(default_factory=time.monotonic)
    listening: tuple[str, ...] = ()
    tls_hash: str | None = None
    stopping: bool = False
    health_version: int = 1

    def now_ms(self) -> int:
        """The wall clock in milliseconds, as the protocol wants it."""
        return int(self.wall() * 1000)

    def uptime_seconds(self) -> float:
        """Since the process began to start."""
        return self.monotonic() - self.started_at


def state_directory(environ: Mapping[str, str]) -> Path:
    """`OPENCLAW_STATE_DIR`, else ~/.openclaw."""
    return Path(environ.get("OPENCLAW_STATE_DIR") or "~/.openclaw").expanduser().absolute()


def memory_bytes() -> dict[str, int]:
    """The resident memory of this process (proc(5), statm); empty where there is no /proc."""
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return {}
    return {"rss": resident * os.sysconf("SC_PAGE_SIZE")}
