"""The routes of the control API as data; docs/reference/control-api.md is tested against this table. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Form(Enum):
    """What an answer is: one JSON document, a stream of JSON lines, or server-sent events."""

    JSON = "application/json"
    LINES = "application/x-ndjson"
    EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. A path segment in braces is a parameter; `accepted` answers are 202: begun, not done."""

    method: str
    path: str
    name: str
    form: Form = Form.JSON
    accepted: bool = False


ROUTES: Final = (
    Route("GET", "/v1", "identity"),
    Route("POST", "/v1/commands/{command}", "command", Form.LINES),
    Route("POST", "/v1/answers/{question}", "answer"),
    Route("GET", "/v1/status", "status"),
    Route("GET", "/v1/history", "history"),
    Route("GET", "/v1/events", "events", Form.EVENTS),
    Route("POST", "/v1/apply", "apply"),
    Route("POST", "/v1/reconcile", "reconcile", accepted=True),
    Route("POST", "/v1/reload", "reload", accepted=True),
    Route("POST", "/v1/stop", "stop", accepted=True),
)

COMMANDS: Final = frozenset({"plan", "apply", "rollback", "status"})
# Those without an effect: one that comes to nothing may be done again elsewhere.
LOOKING: Final = frozenset({"plan", "status"})


@dataclass(frozen=True, slots=True)
class Miss:
    """No route: 405 where the path exists with the methods in `allowed`, else 404."""

    allowed: tuple[str, ...] = ()


def find(method: str, path: str) -> tuple[Route, str] | Miss:
    """The route of a request with its path parameter (empty where it has none)."""
    allowed = []
    for route in ROUTES:
        parameter = _match(route.path, path)
        if parameter is None:
            continue
        if route.method == method:
            return route, parameter
        allowed.append(route.method)
    return Miss(tuple(allowed))


def _match(pattern: str, path: str) -> str | None:
    head, brace, _ = pattern.partition("{")
    if not brace:
        return "" if path == pattern else None
    parameter = path.removeprefix(head)
    return parameter if path.startswith(head) and parameter and "/" not in parameter else None
