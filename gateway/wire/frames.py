"""The three frames of the protocol: request, response, event. Strict to read, exact to write. Pure.

One frame is one JSON object in one WebSocket message. The schemas are closed: an unknown key is an error on both sides
(the real client drops such a frame without a word), so anything that goes beyond the real product stands in payloads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import orjson

from gateway.wire.schema import Anything, Flag, Record, Text, Whole, complaints

PROTOCOL = 3

INVALID_REQUEST = "INVALID_REQUEST"
UNAVAILABLE = "UNAVAILABLE"
NOT_PAIRED = "NOT_PAIRED"
"""The error codes that this gateway gives; the real product has two more. Clients must read the message."""


class FrameError(Exception):
    """A message is no valid frame.

    Attributes:
        not_json: the message is not even JSON.
        frame_id: the `id` of a broken request, to answer it; None where there is none.
    """

    def __init__(self, message: str, *, not_json: bool = False, frame_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.not_json = not_json
        self.frame_id = frame_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks. `params` None is the same as an empty object to most methods."""

    id: str
    method: str
    params: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorShape:
    """Why a request failed."""

    code: str
    message: str
    details: Any = None
    retryable: bool | None = None
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """The answer to the request of the same id; exactly one of `payload` and `error` counts, by `ok`."""

    id: str
    ok: bool
    payload: Any = None
    error: ErrorShape | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What the gateway says by itself. `seq` counts the broadcasts of the process; None for what goes to one client."""

    event: str
    payload: Any = None
    seq: int | None = None
    state_version: Mapping[str, int] | None = field(default=None)


Frame: TypeAlias = Request | Response | Event

_REQUEST = Record(
    required={"type": Text(one_of=("req",)), "id": Text(non_empty=True), "method": Text(non_empty=True)},
    optional={"params": Anything()},
)
_ERROR = Record(
    required={"code": Text(non_empty=True), "message": Text(non_empty=True)},
    optional={"details": Anything(), "retryable": Flag(), "retryAfterMs": Whole(minimum=0)},
)
_RESPONSE = Record(
    required={"type": Text(one_of=("res",)), "id": Text(non_empty=True), "ok": Flag()},
    optional={"payload": Anything(), "error": _ERROR},
)
_EVENT = Record(
    required={"type": Text(one_of=("event",)), "event": Text(non_empty=True)},
    optional={
        "payload": Anything(),
        "seq": Whole(minimum=0),
        "stateVersion": Record(required={"presence": Whole(minimum=0), "health": Whole(minimum=0)}),
    },
)


def parse_request(message: str | bytes) -> Request:
    """The request in a message that a client sent.

    Raises:
        FrameError: the message is not JSON, or no valid request; its text is that of the real product.
    """
    data = _load(message)
    frame_id = data.get("id") if isinstance(data, dict) else None
    if wrong := complaints(_REQUEST, data):
        raise FrameError(wrong, frame_id=frame_id if isinstance(frame_id, str) and frame_id else None)
    return Request(id=data["id"], method=data["method"], params=data.get("params"))


def parse_reply(message: str | bytes) -> Response | Event:
    """The response or event in a message that a gateway sent.

    Raises:
        FrameError: the message is not JSON, or neither of the two.
    """
    data = _load(message)
    kind = data.get("type") if isinstance(data, dict) else None
    if wrong := complaints(_EVENT if kind == "event" else _RESPONSE, data):
        raise FrameError(wrong)
    if kind == "event":
        return Event(
            event=data["event"],
            payload=data.get("payload"),
            seq=data.get("seq"),
            state_version=data.get("stateVersion"),
        )
    error = data.get("error")
    return Response(id=data["id"], ok=data["ok"], payload=data.get("payload"), error=error and _error(error))


def render(frame: Frame) -> str:
    """The message of a frame. What is None is left out, as the protocol wants absence and never null."""
    match frame:
        case Request():
            data: dict[str, Any] = {"type": "req", "id": frame.id, "method": frame.method}
            if frame.params is not None:
                data["params"] = frame.params
        case Response():
            data = {"type": "res", "id": frame.id, "ok": frame.ok}
            if frame.ok or frame.payload is not None:
                data["payload"] = frame.payload  # a null answer ("no heartbeat yet") is an answer
            if frame.error is not None:
                data["error"] = _error_data(frame.error)
        case Event():
            data = {"type": "event", "event": frame.event}
            if frame.payload is not None:
                data["payload"] = frame.payload
            if frame.seq is not None:
                data["seq"] = frame.seq
            if frame.state_version is not None:
                data["stateVersion"] = dict(frame.state_version)
    return orjson.dumps(data).decode()


def failure(request_id: str, code: str, message: str, *, details: Any = None) -> Response:
    """A response that refuses."""
    return Response(id=request_id, ok=False, error=ErrorShape(code=code, message=message, details=details))


def _load(message: str | bytes) -> Any:
    try:
        return orjson.loads(message)
    except orjson.JSONDecodeError as err:
        raise FrameError(f"not JSON: {err}", not_json=True) from err


def _error(data: Mapping[str, Any]) -> ErrorShape:
    return ErrorShape(
        code=data["code"],
        message=data["message"],
        details=data.get("details"),
        retryable=data.get("retryable"),
        retry_after_ms=data.get("retryAfterMs"),
    )


def _error_data(error: ErrorShape) -> dict[str, Any]:
    optional = {"details": error.details, "retryable": error.retryable, "retryAfterMs": error.retry_after_ms}
    present = {key: value for key, value in optional.items() if value is not None}
    return {"code": error.code, "message": error.message, **present}
