"""What the gateway says of itself: the `health` and `status` methods, and `/health`. Reads, and decides nothing.

Two words for people and programs: `degraded` is a gateway that serves in full while something needs an operator (the
file on disk is not the config in force, the log cannot be written), so `/health` still answers 200: a manager that
restarted it then would turn a spelling mistake into an outage. 503 is for one that takes no work.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import orjson

from gateway.live import signature
from gateway.runtime import Runtime, memory_bytes

DEFAULT_AGENT = "main"
# As in the real product: answers carry the five newest sessions of an agent.
_RECENT_SESSIONS = 5
# A store of 500 entries, the real product's cap, is about 5 MB; anything far beyond is not read on the event loop.
_MAX_STORE_BYTES = 32 * 1024 * 1024


class SessionStore:
    """Counts the sessions in an agent's store, read again only when the file moved."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._newest: list[tuple[int, str]] = []
        self._count = 0

    def summary(self, now_ms: int) -> dict[str, Any]:
        """`path`, `count` and the `recent` ones, as the health answer has them."""
        seen = signature(self.path)
        if seen != self._seen:
            self._seen = seen
            self._read()
        recent = [{"key": key, "updatedAt": at, "age": max(0, now_ms - at)} for at, key in self._newest]
        return {"path": str(self.path), "count": self._count, "recent": recent}

    def _read(self) -> None:
        self._newest, self._count = [], 0
        try:
            if self.path.stat().st_size > _MAX_STORE_BYTES:
                return
            data = orjson.loads(self.path.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return  # no store yet, or one that is being written: none is known
        if not isinstance(data, dict):
            return
        ages = [(entry.get("updatedAt"), key) for key, entry in data.items() if isinstance(entry, dict)]
        known = [(at, key) for at, key in ages if isinstance(at, int)]
        self._count = len(ages)
        self._newest = sorted(known, reverse=True)[:_RECENT_SESSIONS]


class Health:
    """Builds the answers. The last snapshot is kept, as the real product keeps it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._sessions = SessionStore(
            runtime.state_dir / "agents" / DEFAULT_AGENT / "sessions" / "sessions.json",
        )
        self.snapshot: dict[str, Any] = {}

    def refresh(self) -> dict[str, Any]:
        """A new snapshot of `health`."""
        began = time.perf_counter()
        now_ms = self._runtime.now_ms()
        sessions = self._sessions.summary(now_ms)
        # This version runs no agent turns, so no heartbeat is due, whatever the config declares for the real runtime.
        heartbeat = {"enabled": False, "every": "disabled", "everyMs": None, "target": "none", "ackMaxChars": 300}
        self.snapshot = {
            "ok": True,
            "ts": now_ms,
            "durationMs": round((time.perf_counter() - began) * 1000),
            "channels": {},
            "channelOrder": [],
            "channelLabels": {},
            "heartbeatSeconds": 0,
            "defaultAgentId": DEFAULT_AGENT,
            "agents": [
                {
                    "agentId": DEFAULT_AGENT,
                    "isDefault": True,
                    "heartbeat": heartbeat,
                    "sessions": sessions,
                }
            ],
            "sessions": sessions,
        }
        return self.snapshot

    def status(self, *, admin: bool) -> dict[str, Any]:
        """The `status` method. `loaded` is ours: which config is in force. Without admin scope no paths and no keys."""
        runtime = self._runtime
        sessions = self._sessions.summary(runtime.now_ms())
        path = sessions["path"]
        recent = [{"agentId": DEFAULT_AGENT, **entry} for entry in sessions["recent"]] if admin else []
        config = runtime.config
        return {
            "heartbeat": {
                "defaultAgentId": DEFAULT_AGENT,
                "agents": [{"agentId": DEFAULT_AGENT, "enabled": False, "every": "disabled", "everyMs": None}],
            },
            "channelSummary": [],
            "queuedSystemEvents": [],
            "sessions": {
                "paths": [path] if admin else [],
                "count": sessions["count"],
                "defaults": {"model": None, "contextTokens": None},
                "recent": recent,
                "byAgent": [
                    {
                        "agentId": DEFAULT_AGENT,
                        "path": path if admin else "[redacted]",
                        "count": sessions["count"],
                        "recent": recent,
                    }
                ],
            },
            "loaded": {
                "hash": config.current.hash,
                "at": int(config.loaded_at * 1000),
                "ok": config.error is None,
                "error": config.error,
                "restartOwed": list(config.owed),
            },
        }

    def word(self) -> str:
        """ok, degraded, starting or stopping."""
        runtime = self._runtime
        if runtime.stopping:
            return "stopping"
        if not runtime.listening:
            return "starting"
        return "ok" if runtime.config.error is None and runtime.log.state()["ok"] else "degraded"

    def ready(self) -> bool:
        """Whether work is taken."""
        return self.word() in ("ok", "degraded")

    def report(self) -> dict[str, Any]:
        """The whole of `/health`, for those who show the secret."""
        runtime = self._runtime
        sessions = self._sessions.summary(runtime.now_ms())
        now = runtime.wall()
        return {
            "status": self.word(),
            "version": runtime.version,
            "uptime": round(runtime.uptime_seconds(), 3),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z",
            "memory": memory_bytes(),
            "sessions": {"active": 0, "total": sessions["count"]},
            "connections": {},
            "parts": {
                "config": runtime.config.part(),
                "listener": {
                    "ok": bool(runtime.listening),
                    "urls": list(runtime.listening),
                    "tlsHash": runtime.tls_hash,
                },
                "log": runtime.log.state(),
                "clients": {
                    "ok": True,
                    "connected": len(runtime.clients.sessions),
                    "inFlight": runtime.clients.in_flight,
                },
            },
            "pid": os.getpid(),
            "specDigest": runtime.environ.get("OPENCLAW_SPEC_DIGEST") or None,
        }
