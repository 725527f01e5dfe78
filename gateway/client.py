"""The client's side: calls and events over one WebSocket, and a cheap look at `/health`.

Importing it costs Trio and little else: the command line asks for the health of a gateway on its way to a plan, so the
WebSocket library is loaded by `open_client` alone. Deadlines are the caller's (`trio.fail_after`). It knows the protocol and
not which product answers.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from trio_websocket import ConnectionClosed, WebSocketConnection

    from gateway.wire.connection import Connection
    from gateway.wire.frames import Event, Response

# What the real client waits for the challenge before it connects without a nonce.
CHALLENGE_SECONDS = 0.75
# Events that nobody fetches: the oldest are given up first, as each of them tells what is so now and not a delta.
MAX_UNREAD_EVENTS = 256
# Bounds of what the library would wait for without end, or, at the close, for a peer that is gone.
_UPGRADE_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
# A health report is about 1 kB.
MAX_HEALTH_BYTES = 256 * 1024
_HEADER_VALUE = re.compile(rb"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]*[^\x00-\x20\x7f])?")
# All but pairing and approvals, which no program of ours uses.
DEFAULT_SCOPES = ("operator.admin", "operator.read", "operator.write")


class ClientError(Exception):
    """A gateway could not be reached, or did not answer as the protocol says."""


class ConnectRefused(ClientError):
    """The gateway did not let us in.

    Attributes:
        code: the protocol's error code, "" where the connection was closed without an answer.
        message: the gateway's words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"the gateway refused the connection: {message}")
        self.code = code
        self.message = message


class CallError(ClientError):
    """A method answered with an error; `code`, `message` and `details` are the gateway's."""

    def __init__(self, method: str, code: str, message: str, details: Any = None) -> None:
        super().__init__(f"{method}: {message}")
        self.method = method
        self.code = code
        self.message = message
        self.details = details


class Disconnected(ClientError):
    """The connection ended; `code` and `reason` are those of the close frame, 1006 where there was none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the gateway closed the connection: {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class GatewayClient:
    """An open connection. Any number of tasks may call at once; one of them may read the events.

    Attributes:
        hello: the payload of hello-ok.
    """

    def __init__(self, ws: WebSocketConnection, protocol: Connection, hello: dict[str, Any]) -> None:
        self.hello = hello
        self._ws = ws
        self._protocol = protocol
        self._waiting: dict[str, _Pending] = {}
        self._events: deque[Event] = deque(maxlen=MAX_UNREAD_EVENTS)
        self._event_came = trio.Event()
        self._ended: Disconnected | None = None

    async def call(self, method: str, params: Any = None) -> Any:
        """Call a method and return its payload. Cancelled, the answer is dropped when it comes.

        Raises:
            CallError: the gateway refused or failed.
            Disconnected: the connection ended before the answer.
        """
        from gateway.wire.frames import Request

        if self._ended is not None:
            raise self._ended
        request = Request(id=str(uuid.uuid4()), method=method, params=params)
        pending = self._waiting[request.id] = _Pending()
        try:
            await self._send(self._protocol.send(request))
            await pending.done.wait()
        finally:
            self._waiting.pop(request.id, None)
        answer = pending.answer
        if answer is None:
            assert self._ended is not None  # the only other way to be woken
            raise self._ended
        if not answer.ok:
            error = answer.error
            if error is None:
                raise CallError(method, "", "no reason given")
            raise CallError(method, error.code, error.message, error.details)
        return answer.payload

    def events(self) -> Events:
        """What the gateway says by itself, from the time of the connection on, for `async for`."""
        return Events(self)

    async def next_event(self) -> Event:
        """Wait for the next event. Cancelled, none is lost.

        Raises:
            Disconnected: the connection ended and everything before was given out.
        """
        while not self._events:
            if self._ended is not None:
                raise self._ended
            self._event_came = trio.Event()
            await self._event_came.wait()
        return self._events.popleft()

    async def _send(self, message: str) -> None:
        from trio_websocket import ConnectionClosed

        try:
            await self._ws.send_message(message)
        except ConnectionClosed as err:
            raise _disconnected(err) from None

    async def _read(self) -> None:
        """Hand out answers and events until the connection ends."""
        from trio_websocket import ConnectionClosed

        try:
            while True:
                self._protocol.receive(await self._ws.get_message())
                self._deliver()
        except ConnectionClosed as err:
            self._ended = _disconnected(err)
        finally:
            for pending in self._waiting.values():
                pending.done.set()
            self._event_came.set()

    def _deliver(self) -> None:
        from gateway.wire.connection import NEED_DATA
        from gateway.wire.frames import Event, Response

        while (frame := self._protocol.next_event()) is not NEED_DATA:
            if isinstance(frame, Event):
                self._events.append(frame)
                self._event_came.set()
            elif isinstance(frame, Response) and (pending := self._waiting.get(frame.id)) is not None:
                pending.answer = frame
                pending.done.set()


class Events:
    """The events of one client; no generator, so that leaving a loop leaves nothing behind to be closed."""

    __slots__ = ("_client",)

    def __init__(self, client: GatewayClient) -> None:
        self._client = client

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        return await self._client.next_event()


class _Pending:
    """A call that waits for its answer."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.answer: Response | None = None
        self.done = trio.Event()


@asynccontextmanager
async def open_client(
    url: str,
    *,
    token: str | None = None,
    password: str | None = None,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    client_id: str = "gateway-client",
    mode: str = "backend",
    version: str = "0.1.0",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[GatewayClient]:
    """Connect to a gateway (`ws://host:port` or `wss://...`), and close at the end of the block.

    Raises:
        ClientError: it cannot be reached or speaks another protocol.
        ConnectRefused: it does not let us in.
    """
    from trio_websocket import HandshakeError

    # A block that raises must raise just that, and not a group of it: so it is carried around the nursery by hand.
    failed: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            auth = {name: value for name, value in (("token", token), ("password", password)) if value is not None}
            params = _connect_params(tuple(scopes), client_id, mode, version, auth)
            try:
                async with _websocket(nursery, url, tls) as ws:
                    client = await _connect(ws, params)
                    nursery.start_soon(client._read)  # noqa: SLF001 - the other half of this function
                    yield client
            except Exception as err:
                failed = err
            nursery.cancel_scope.cancel()
    except* HandshakeError as group:
        failed = ClientError(f"cannot reach the gateway at {url}: {_innermost(group)!r}")
    if failed is not None:
        raise failed


@asynccontextmanager
async def _websocket(nursery: trio.Nursery, url: str, tls: ssl.SSLContext | None) -> AsyncIterator[WebSocketConnection]:
    """An open WebSocket, its reader in `nursery`; it and its stream are closed at the end of the block."""
    from urllib.parse import urlsplit

    from trio_websocket import wrap_client_stream

    from gateway.wire.connection import MAX_MESSAGE_BYTES

    place = urlsplit(url)
    secure = place.scheme == "wss"
    host, port = place.hostname or "", place.port or (443 if secure else 80)
    stream = await _open_stream(host, port, (tls or ssl.create_default_context()) if secure else None)
    try:
        with trio.move_on_after(_UPGRADE_SECONDS) as limit:
            ws = await wrap_client_stream(
                nursery, stream, place.netloc, place.path or "/", max_message_size=MAX_MESSAGE_BYTES
            )
        if limit.cancelled_caught:
            raise ClientError(f"cannot reach the gateway at {url}: no upgrade within {_UPGRADE_SECONDS:g} s")
        try:
            yield ws
        finally:
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await ws.aclose()
    finally:
        # The library leaves the stream open where the peer closed first.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _open_stream(
    host: str, port: int, tls: ssl.SSLContext | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    try:
        plain = await trio.open_tcp_stream(host, port)
    except OSError as err:
        raise ClientError(f"cannot reach the gateway at {_bracketed(host)}:{port}: {_reason(err)}") from err
    if tls is None:
        return plain
    stream = trio.SSLStream(plain, tls, server_hostname=host, https_compatible=True)
    try:
        await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError) as err:
        await trio.aclose_forcefully(stream)
        why = err.__cause__ or err
        raise ClientError(f"cannot agree on TLS with {_bracketed(host)}:{port}: {why}") from err
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def _reason(err: OSError) -> str:
    """The first system's word about a connection; Trio tries several addresses and collects what each said."""
    inner = err.__cause__ if isinstance(err.__cause__, BaseExceptionGroup) else err
    found = _innermost(inner)
    if isinstance(found, ConnectionError) and found.errno is not None:
        # Trio puts the address into the text, which whoever asked has named already.
        return os.strerror(found.errno).lower()
    return (found.strerror if isinstance(found, OSError) else None) or str(found)


def unverified_context() -> ssl.SSLContext:
    """A context that encrypts and verifies nothing: only for a listener of which the kernel says that it is our own gateway.

    That is the stronger proof. A certificate on disk proves less: it may be another one than the process began with.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _connect(ws: WebSocketConnection, params: dict[str, Any]) -> GatewayClient:
    """The handshake of the protocol over an open WebSocket."""
    from trio_websocket import ConnectionClosed

    from gateway.wire.connection import Connection, Refused, Role
    from gateway.wire.frames import Request, Response

    protocol = Connection(Role.CLIENT)
    try:
        # The challenge is only needed to sign a device's identity; a gateway that sends none is fine.
        with trio.move_on_after(CHALLENGE_SECONDS):
            protocol.receive(await ws.get_message())
            protocol.next_event()
        request = Request(id=str(uuid.uuid4()), method="connect", params=params)
        await ws.send_message(protocol.send(request))
        while True:
            protocol.receive(await ws.get_message())
            frame = protocol.next_event()
            if isinstance(frame, Refused):
                raise ClientError("cannot connect: the answer is not of this protocol")
            if isinstance(frame, Response):
                break
    except ConnectionClosed as err:
        raise ConnectRefused("", _disconnected(err).reason or "closed without a reason") from None
    if not frame.ok:
        error = frame.error
        raise ConnectRefused(error.code, error.message) if error else ConnectRefused("", "no reason given")
    return GatewayClient(ws, protocol, dict(frame.payload))


def _connect_params(
    scopes: tuple[str, ...], client_id: str, mode: str, version: str, auth: dict[str, str]
) -> dict[str, Any]:
    params: dict[str, Any] = {
        "minProtocol": 3,
        "maxProtocol": 3,
        "client": {"id": client_id, "version": version, "platform": sys.platform, "mode": mode},
        "role": "operator",
        "scopes": list(scopes),
    }
    return {**params, "auth": auth} if auth else params


def _disconnected(err: ConnectionClosed) -> Disconnected:
    reason = err.reason
    return Disconnected(reason.code if reason else 1006, (reason.reason if reason else "") or "")


def _innermost(err: BaseException) -> BaseException:
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return err


async def get_own_health(
    host: str, port: int, secret: str | None = None, *, encrypted: bool
) -> tuple[int, dict[str, Any]]:
    """`get_health` of our own gateway, which the kernel says listens there; no certificate is checked.

    `encrypted` is what its file says. It serves TLS or not as it began, whatever was written since: so both are tried.

    Raises:
        ClientError: it answers in neither way.
    """
    ways = [True] if encrypted else [False, True]
    # Without a secret, and first: one that speaks no TLS would wait for the end of a request in our greeting.
    if encrypted:
        with suppress(ClientError):
            await get_health(host, port)
            ways = [False]
    failed = None
    for by_tls in ways:
        try:
            return await get_health(host, port, secret, unverified_context() if by_tls else None)
        except ClientError as err:
            failed = failed or err
    assert failed is not None
    raise failed


async def get_health(
    host: str, port: int, secret: str | None = None, tls: ssl.SSLContext | None = None
) -> tuple[int, dict[str, Any]]:
    """Status code and JSON of `GET /health`, over TLS where there is a context; the parts are in it when `secret` is the
    gateway's. One that no header carries is not shown.

    One small request over a stream of Trio, without an HTTP library. Cancelled, it leaves the connection closed.

    Raises:
        ClientError: nobody listens there, or it is not a gateway's health that answers.
    """
    stream = await _open_stream(host, port, tls)
    try:
        head = f"GET /health HTTP/1.1\r\nHost: {_bracketed(host)}:{port}\r\nConnection: close\r\n".encode()
        if secret is not None and (shown := in_header(secret)) is not None:
            head += b"Authorization: Bearer " + shown + b"\r\n"
        await stream.send_all(head + b"\r\n")
        answer = bytearray()
        while received := await stream.receive_some(65536):
            answer += received
            if len(answer) > MAX_HEALTH_BYTES:
                raise ClientError(f"cannot read the health of {host}:{port}: the answer is too large")
    except (trio.BrokenResourceError, ssl.SSLError) as err:
        raise ClientError(f"cannot read the health of {host}:{port}: the connection broke") from err
    finally:
        await trio.aclose_forcefully(stream)
    return _health(bytes(answer), f"{host}:{port}")


def _health(answer: bytes, place: str) -> tuple[int, dict[str, Any]]:
    """Status and data of a response that ended with its connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(b" ")
    try:
        status, data = int(words[1]), json.loads(body)
    except (IndexError, ValueError):
        data = None
    if not words[0].startswith(b"HTTP/1.") or not isinstance(data, dict) or "status" not in data:
        raise ClientError(f"cannot read the health of {place}: something else than a gateway of ours answers there")
    return status, data


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def in_header(secret: str) -> bytes | None:
    """The bytes that a header carries to the gateway unchanged; None where none can: control characters do not pass, and a
    blank at either end is no part of a header's value (RFC 9110, 5.5).
    """
    try:
        shown = secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
    return shown if _HEADER_VALUE.fullmatch(shown) else None
