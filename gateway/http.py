"""The plain HTTP side of the port: `/health` and its two probes. Everything else is 404; there is no fallback page.

`answer` is the whole decision, from a request to a response, without IO; `serve` is the loop around it for one
connection. Heads and bodies are bounded, and so is the time for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import h11
import orjson
import trio

from gateway.health import Health
from gateway.transport import MAX_HEAD_BYTES, is_local_direct, linger
from gateway.wire.connect import AuthMode, Secret

# No route takes a body; a small one (a probe that posts) is read and dropped, so that the connection stays usable.
MAX_BODY_BYTES = 64 * 1024
# Node closes an idle connection after 5 s; probes come every 10 s, so a little longer saves them the handshake.
IDLE_SECONDS = 15.0
# As the real product's limit for a body.
BODY_SECONDS = 30.0
_READ_BYTES = 16 * 1024

_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Payload Too Large",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    503: b"Service Unavailable",
}
_JSON = b"application/json; charset=utf-8"
_CLOSE = (b"connection", b"close")
_TEXT = b"text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response, its length known."""

    status: int
    body: bytes
    content_type: bytes = _TEXT
    headers: tuple[tuple[bytes, bytes], ...] = ()


def answer(method: str, target: str, *, trusted: bool, health: Health) -> Response:
    """The response to one request; `trusted` ones see everything."""
    path = target.partition("?")[0]
    if path not in ("/health", "/health/live", "/health/ready"):
        return Response(status=404, body=b"Not Found")
    if method not in ("GET", "HEAD"):
        return Response(status=405, body=b"Method Not Allowed", headers=((b"allow", b"GET, HEAD"),))
    if path == "/health/live":
        return _json(200, {"status": "live"})
    status = 200 if health.ready() else 503
    if path == "/health/ready":
        return _json(status, {"status": "ready" if health.ready() else health.word()})
    return _json(status, health.report() if trusted else {"status": health.word()})


def is_trusted(headers: Mapping[str, str], address: str, secret: Secret) -> bool:
    """Whether a request shows the secret; where there is none, whether a program of this host sends it."""
    if secret.mode is AuthMode.NONE:
        return "origin" not in headers and is_local_direct(address, headers.get("host"), frozenset(headers))
    scheme, _, value = headers.get("authorization", "").partition(" ")
    # Of white space only that of HTTP may stand around it: what else looks like it is part of a secret.
    return scheme.lower() == "bearer" and secret.matches(value.strip(" \t"))


def _json(status: int, data: Any) -> Response:
    return Response(
        status=status, body=orjson.dumps(data), content_type=_JSON, headers=((b"cache-control", b"no-store"),)
    )


async def serve(stream: trio.abc.Stream, head: bytes, address: str, health: Health, secret: Secret) -> None:
    """Answer the requests of one connection, the first of which begins with `head`, until either side has enough.

    It closes nothing: the caller owns the stream. Cancelled, it leaves in the middle of whatever it was doing.

    Raises:
        trio.BrokenResourceError: the peer reset the connection.
    """
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    conn.receive_data(head)
    while True:
        with trio.move_on_after(IDLE_SECONDS) as idle:
            request = await _next_request(stream, conn)
        if idle.cancelled_caught or request is None:
            return
        if isinstance(request, Response):
            await _send(stream, conn, request, head_only=False)
            return
        # A secret is compared as the bytes that were sent: UTF-8, and those that are none as the environment would give them.
        headers = {name.decode("latin-1"): value.decode("utf-8", "surrogateescape") for name, value in request.headers}
        response = answer(
            request.method.decode("ascii", "replace"),
            request.target.decode("ascii", "replace"),
            trusted=is_trusted(headers, address, secret),
            health=health,
        )
        wanted = await _drop_body(stream, conn)
        if not wanted:
            response = Response(status=413, body=b"Payload Too Large", headers=(_CLOSE,))
        await _send(stream, conn, response, head_only=request.method == b"HEAD")
        if not wanted:
            await linger(stream)
        if conn.our_state is not h11.DONE or conn.their_state is not h11.DONE:
            return
        conn.start_next_cycle()


async def refuse(stream: trio.abc.Stream, response: Response) -> None:
    """Send one response to whatever came in, and let the peer read it before the caller closes."""
    conn = h11.Connection(h11.SERVER)
    await _send(stream, conn, replace(response, headers=(*response.headers, _CLOSE)), head_only=False)
    await linger(stream)


async def _next_request(stream: trio.abc.Stream, conn: h11.Connection) -> h11.Request | Response | None:
    """The next request; None when the peer is done; a `Response` for what is no HTTP."""
    while True:
        try:
            event = conn.next_event()
        except h11.RemoteProtocolError as err:
            return Response(status=err.error_status_hint, body=b"Bad Request", headers=(_CLOSE,))
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        conn.receive_data(bytes(await stream.receive_some(_READ_BYTES)))


async def _drop_body(stream: trio.abc.Stream, conn: h11.Connection) -> bool:
    """Read the request's body away. Returns False when it is too large or too slow."""
    size = 0
    with trio.move_on_after(BODY_SECONDS):
        while size <= MAX_BODY_BYTES:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError:
                return False
            if isinstance(event, h11.Data):
                size += len(event.data)
            elif event is h11.NEED_DATA:
                if conn.they_are_waiting_for_100_continue:
                    return False  # what would come is not wanted
                conn.receive_data(bytes(await stream.receive_some(_READ_BYTES)))
            else:
                return True
    return False


async def _send(stream: trio.abc.Stream, conn: h11.Connection, response: Response, *, head_only: bool) -> None:
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", str(len(response.body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        *response.headers,
    ]
    data = (
        conn.send(h11.Response(status_code=response.status, headers=headers, reason=_REASONS.get(response.status, b"")))
        or b""
    )
    if not head_only:
        data += conn.send(h11.Data(data=response.body)) or b""
    data += conn.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
