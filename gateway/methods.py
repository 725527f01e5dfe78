"""The methods that clients call: one table, and the handlers. It knows nothing of sockets and frames.

A handler gets a `Call` and returns the payload, or an awaitable of it where it has to wait; `MethodError` is the refusal
with its code. Who may call what is `gateway.wire.scopes`; a later method is one more line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import Snapshot, redact, redact_resolved, redact_text
from gateway.health import Health
from gateway.live import Outcome
from gateway.runtime import Runtime
from gateway.tail import tail
from gateway.wire.connect import Client
from gateway.wire.frames import INVALID_REQUEST, UNAVAILABLE
from gateway.wire.schema import Record, Schema, Whole, complaints
from gateway.wire.scopes import ADMIN, refusal

# As in the real product: within this time the last snapshot answers at once, and a new one is made behind it.
_HEALTH_CACHE_MS = 60_000


class MethodError(Exception):
    """A call is refused; text and code go to the client."""

    def __init__(self, message: str, code: str = INVALID_REQUEST) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What handlers may use.

    Attributes:
        request_health: have a fresh health snapshot made and broadcast soon.
        reload_config: take the file over now, as the watcher would.
    """

    runtime: Runtime
    health: Health
    request_health: Callable[[], None]
    reload_config: Callable[[str], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call by a client that may make it, its params checked."""

    services: Services
    client: Client
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Method:
    """A handler, and the closed schema of its params; None takes anything, as the real product does for some."""

    handler: Callable[[Call], Any | Awaitable[Any]]
    params: Schema | None = None


def start(services: Services, client: Client, method: str, params: Any) -> Any | Awaitable[Any]:
    """The payload of a call, or an awaitable of it.

    Raises:
        MethodError: the client may not, the method is not known, the params are wrong, or the gateway is stopping.
    """
    if method == "connect":
        raise MethodError("connect is only valid as the first request")
    if wrong := refusal(method, client.role, client.scopes):
        raise MethodError(wrong)
    found = METHODS.get(method)
    if found is None:
        raise MethodError(f"unknown method: {method}")
    if services.runtime.stopping:
        raise MethodError("Server is shutting down", UNAVAILABLE)
    given = {} if params is None else params
    if found.params is not None and (wrong := complaints(found.params, given)):
        raise MethodError(f"invalid {method} params: {wrong}")
    return found.handler(Call(services=services, client=client, params=given if isinstance(given, dict) else {}))


def _health(call: Call) -> Any:
    services = call.services
    snapshot = services.health.snapshot
    fresh = snapshot and services.runtime.now_ms() - snapshot["ts"] < _HEALTH_CACHE_MS
    if fresh and call.params.get("probe") is not True:
        services.request_health()
        return snapshot
    answer = services.health.refresh()
    services.request_health()
    return answer


def _status(call: Call) -> Any:
    return call.services.health.status(admin=ADMIN in call.client.scopes)


def _config_get(call: Call) -> Any:
    config = call.services.runtime.config
    return config_answer(config.read(), config.current)


def config_answer(file: Snapshot, in_force: Snapshot) -> dict[str, Any]:
    """The answer of `config.get`: the file as it is now, and, under `config`, what the gateway runs by.

    In the real product `config` is that of the file, and {} when it is invalid, because it then runs by nothing.
    """
    return {
        "path": file.path,
        "exists": file.exists,
        "raw": redact_text(file.text) if file.text else None,
        "parsed": redact(file.parsed),
        "resolved": redact_resolved(file.resolved, file.parsed),
        "valid": file.valid,
        "config": redact_resolved(in_force.effective, in_force.parsed),
        "hash": file.hash,
        "issues": [{"path": issue.path, "message": issue.message} for issue in file.issues],
        "warnings": [{"path": issue.path, "message": issue.message} for issue in file.warnings],
        "legacyIssues": [],
    }


def _config_reload(call: Call) -> Any:
    outcome = call.services.reload_config("rpc")
    config = call.services.runtime.config
    answer: dict[str, Any] = {
        "ok": outcome.error is None,
        "hash": config.current.hash,
        "hot": list(outcome.hot),
        "restart": list(config.owed),
    }
    return answer if outcome.error is None else {**answer, "error": outcome.error}


def _presence(call: Call) -> Any:
    runtime = call.services.runtime
    return runtime.presence.listed(runtime.clients.sessions, runtime.now_ms())


def _logs_tail(call: Call) -> Any:
    file = call.services.runtime.log.file
    params = call.params
    cursor = params.get("cursor")
    return tail(
        file.path if file is not None else Path("/dev/null"),
        cursor=None if cursor is None else int(cursor),
        limit=int(params.get("limit", 500)),
        max_bytes=int(params.get("maxBytes", 250_000)),
    )


def _nothing(_call: Call) -> None:
    """No heartbeat has run in this process."""


_LOGS_TAIL = Record(
    optional={
        "cursor": Whole(minimum=0),
        "limit": Whole(minimum=1, maximum=5000),
        "maxBytes": Whole(minimum=1, maximum=1_000_000),
    }
)

METHODS: Mapping[str, Method] = {
    "health": Method(_health),
    "status": Method(_status),
    "last-heartbeat": Method(_nothing),
    "system-presence": Method(_presence),
    "logs.tail": Method(_logs_tail, _LOGS_TAIL),
    "config.get": Method(_config_get, Record()),
    "config.reload": Method(_config_reload, Record()),
}
EVENTS = ("connect.challenge", "tick", "health", "presence", "shutdown")
