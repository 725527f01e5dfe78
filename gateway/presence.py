"""Who is there: the gateway itself and its clients, as `system-presence` lists them. Pure but for the host's name.

An entry is kept five minutes after it was last touched; the connected ones are touched whenever the list is asked for.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable
from typing import Any

from gateway.wire.connect import Client

# Both as in the real product.
KEEP_MS = 5 * 60 * 1000
MAX_ENTRIES = 200
_SELF = "self"


class Presence:
    """The list; `version` grows with every change that clients are told of."""

    def __init__(self, gateway_version: str, *, host: str | None = None) -> None:
        self.version = 1
        self.host = host or socket.gethostname()
        self._entries: dict[str, dict[str, Any]] = {}
        self._gateway_version = gateway_version

    def joined(self, key: str, client: Client, now_ms: int) -> None:
        """A client connected. Command lines are not listed: they come and go with every call."""
        if client.mode == "cli":
            return
        entry = {
            "host": client.display_name or client.id,
            "version": client.version,
            "platform": client.platform,
            "deviceFamily": client.device_family,
            "modelIdentifier": client.model_identifier,
            "mode": client.mode,
            "reason": "connect",
            "roles": sorted({client.role, *self._entries.get(key, {}).get("roles", ())}),
            "scopes": sorted({*client.scopes, *self._entries.get(key, {}).get("scopes", ())}),
            "instanceId": client.instance_id,
        }
        self._put(key, entry, now_ms)

    def left(self, key: str, now_ms: int) -> bool:
        """A client went away. Returns whether it was listed, so that the others are to be told."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._put(key, {**entry, "reason": "disconnect"}, now_ms)
        return True

    def listed(self, connected: Iterable[str], now_ms: int) -> list[dict[str, Any]]:
        """All entries, newest first; those of the `connected` keys and our own are fresh by definition."""
        self._entries[_SELF] = self._own(now_ms)
        for key in connected:
            if key in self._entries:
                self._entries[key]["ts"] = now_ms
        self._prune(now_ms)
        return sorted((dict(entry) for entry in self._entries.values()), key=lambda entry: -entry["ts"])

    def _put(self, key: str, entry: dict[str, Any], now_ms: int) -> None:
        present = {name: value for name, value in entry.items() if value is not None}
        text = f"{present['host']} · mode {present['mode']} · reason {present['reason']}"
        self._entries[key] = {**present, "text": text, "ts": now_ms}
        self.version += 1
        self._prune(now_ms)

    def _prune(self, now_ms: int) -> None:
        kept = {key: entry for key, entry in self._entries.items() if now_ms - entry["ts"] <= KEEP_MS}
        newest = sorted(kept, key=lambda key: -kept[key]["ts"])[:MAX_ENTRIES]
        self._entries = {key: kept[key] for key in newest}

    def _own(self, now_ms: int) -> dict[str, Any]:
        return {
            "host": self.host,
            "version": self._gateway_version,
            "platform": f"{platform.system().lower()} {os.uname().release.split('-')[0]}",
            "deviceFamily": platform.system(),
            "modelIdentifier": platform.machine(),
            "mode": "gateway",
            "reason": "self",
            "text": f"Gateway: {self.host} · app {self._gateway_version} · mode gateway · reason self",
            "ts": now_ms,
        }
