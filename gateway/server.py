"""Connections: each is told apart into HTTP or WebSocket, and each WebSocket is one session of the protocol.

The crash boundary is one connection: whatever goes wrong in it is logged and ends it alone. Deadlines, queues and the
number of connections are bounded. What is said and who is let in is decided elsewhere (`gateway.wire`, `gateway.methods`).
"""

from __future__ import annotations

import inspect
import re
import ssl
import uuid
from collections import deque
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import h11
import trio
import trio_websocket
import wsproto.utilities

from gateway import http, methods
from gateway.log import Logger
from gateway.methods import MethodError, Services
from gateway.transport import (
    MAX_HEAD_BYTES,
    HeadTooLarge,
    PrefixedStream,
    is_local_direct,
    linger,
    peer_address,
    read_head,
)
from gateway.wire.connect import Client, Peer, Refusal, Secret, decide
from gateway.wire.connection import (
    CHALLENGE,
    CLOSE_NORMAL,
    CLOSE_POLICY,
    CLOSE_RESTART,
    HELLO,
    MAX_BUFFERED_BYTES,
    MAX_MESSAGE_BYTES,
    NEED_DATA,
    Connect,
    Connection,
    LocalProtocolError,
    Malformed,
    Refused,
    Role,
)
from gateway.wire.frames import PROTOCOL, UNAVAILABLE, Event, Request, Response, failure, render

# As in the real product.
HANDSHAKE_SECONDS = 10.0
TICK_SECONDS = 30.0
HEALTH_SECONDS = 60.0
# Refreshes that are asked for within this time become one: each is a broadcast to everybody.
_HEALTH_SETTLE_SECONDS = 0.1
_HEALTH_PAUSE_SECONDS = 1.0
# A peer that does not answer a close frame keeps its socket no longer than this.
_CLOSE_SECONDS = 3.0
# Most systems let a service open 1,024 files; a quarter is left for everything else.
MAX_CONNECTIONS = 768
# Requests of one client that wait for something; more of them are not read before one is answered.
_MAX_WAITING_REQUESTS = 64
_READ_BYTES = 64 * 1024
# Close code of a message above `MAX_MESSAGE_BYTES` (RFC 6455, 7.4.1).
_TOO_BIG = 1009
# Sixteen bytes in base64 (RFC 6455, 4.1).
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


class Session:
    """One WebSocket: the protocol's state machine, the queue of events, and the calls in work."""

    def __init__(self, ws: trio_websocket.WebSocketConnection, log: Logger) -> None:
        self.conn_id = str(uuid.uuid4())
        self.protocol = Connection(Role.SERVER)
        self.calls = trio.Semaphore(_MAX_WAITING_REQUESTS)
        self._client: Client | None = None
        self._ws = ws
        self._log = log
        self._queue: deque[str] = deque()
        self._queued_bytes = 0
        self._wake = trio.Event()
        self._empty = trio.Event()
        self._too_slow = trio.Event()
        self._closing = False
        self._closed = trio.Event()

    @property
    def client(self) -> Client:
        """Who it is; only after it was let in."""
        assert self._client is not None
        return self._client

    def let_in(self, client: Client) -> None:
        """From now on this is a client."""
        self._client = client

    def offer(self, message: str, *, drop_if_slow: bool) -> None:
        """Queue an event. When too much waits already it is dropped, or the connection is, by `drop_if_slow`."""
        if self._closing:
            return
        if self._queued_bytes + len(message) <= MAX_BUFFERED_BYTES:
            self._queue.append(message)
            self._queued_bytes += len(message)
            self._empty = trio.Event()
            self._wake.set()
        elif not drop_if_slow:
            self._too_slow.set()

    async def write_events(self) -> None:
        """Send what is queued, as long as the connection lives."""
        try:
            while True:
                while self._queue:
                    message = self._queue.popleft()
                    await self._ws.send_message(message)
                    self._queued_bytes -= len(message)
                self._empty.set()
                await self._wake.wait()
                self._wake = trio.Event()
        except trio_websocket.ConnectionClosed:
            self._empty.set()  # the reader sees it too, and ends the session

    async def end_when_too_slow(self) -> None:
        """Close a client that does not take what it must not miss. Its socket is full, so the close is by force."""
        await self._too_slow.wait()
        self._log.warn("slow consumer", connId=self.conn_id, bufferedBytes=self._queued_bytes)
        await self.close(CLOSE_POLICY, "slow consumer")

    async def flush(self) -> None:
        """Wait until every queued event is sent."""
        while self._queued_bytes and not self._closing:
            await self._empty.wait()

    async def send(self, frame: Response | Event) -> None:
        """Send an answer now.

        Raises:
            trio_websocket.ConnectionClosed: the client is gone.
            LocalProtocolError: the connection was closed by us meanwhile.
        """
        await self._ws.send_message(self.protocol.send(frame))

    async def receive(self) -> None:
        """Wait for the next message and hand it to the protocol.

        Raises:
            trio_websocket.ConnectionClosed: the client is gone.
        """
        self.protocol.receive(await self._ws.get_message())

    async def refuse(self, refused: Refused) -> None:
        """Answer what the protocol does not allow, and close."""
        if refused.answer is not None:
            await self._ws.send_message(render(refused.answer))
        await self.close(refused.code, refused.reason)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye and close, in bounded time; more than one caller is fine, all wait until it is done."""
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            end = self.protocol.close(code, reason)
            with trio.move_on_after(_CLOSE_SECONDS):
                await self._ws.aclose(end.code, end.reason or None)
        finally:
            self._closed.set()

    async def wait_closed(self) -> None:
        """Wait for a `close` that has begun; return at once when there is none."""
        if self._closing:
            await self._closed.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """What is known of a connection before its first word; `deadline` is when it must have been let in."""

    headers: Mapping[str, str]
    address: str
    deadline: float


class Server:
    """Serves the connections of one gateway."""

    def __init__(self, services: Services, secret: Secret) -> None:
        self._services = services
        self._secret = secret
        self._runtime = services.runtime
        self._log = services.runtime.log.logger("gateway/ws")
        self._open = 0
        self._sessions: set[Session] = set()
        self._health_wanted = trio.Event()
        self._full_told = False

    def request_health(self) -> None:
        """Have a fresh health snapshot made and broadcast soon."""
        self._health_wanted.set()

    # --- one connection ----------------------------------------------------------------------------------------------

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one connection to its end, and close it. Only cancellation passes."""
        if self._open >= MAX_CONNECTIONS:
            self._tell_full()
            await trio.aclose_forcefully(stream)
            return
        self._open += 1
        try:
            await self._serve(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio_websocket.ConnectionClosed, ssl.SSLError):
            pass  # the peer is gone, at whatever point, or it speaks no TLS: nobody is left to be told
        except* (LocalProtocolError, wsproto.utilities.ProtocolError) as group:
            self._log.debug("connection ended by a protocol error", error=_innermost(group))
        except* Exception as group:
            # The boundary that the module speaks of.
            self._log.error("connection failed", error=_innermost(group))
        finally:
            self._open -= 1
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await trio.aclose_forcefully(stream)

    def _tell_full(self) -> None:
        if not self._full_told:
            self._full_told = True
            self._log.error(f"{MAX_CONNECTIONS} connections are open; more are refused")

    async def _serve(self, stream: trio.abc.Stream) -> None:
        deadline = trio.current_time() + HANDSHAKE_SECONDS
        with trio.CancelScope(deadline=deadline) as scope:
            try:
                if isinstance(stream, trio.SSLStream):
                    await stream.do_handshake()
                head = await read_head(stream)
            except HeadTooLarge:
                await http.refuse(stream, http.Response(status=431, body=b"Request Header Fields Too Large"))
                return
        if scope.cancelled_caught or not head:
            return
        headers = _upgrade(head)
        if headers is None:
            await http.serve(stream, head, peer_address(stream), self._services.health, self._secret)
        elif isinstance(headers, http.Response):
            await http.refuse(stream, headers)
        else:
            visitor = Visitor(headers=headers, address=peer_address(stream), deadline=deadline)
            await self._serve_websocket(stream, head, visitor)

    async def _serve_websocket(self, stream: trio.abc.Stream, head: bytes, visitor: Visitor) -> None:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(deadline=visitor.deadline) as scope:
                proposal = await trio_websocket.wrap_server_stream(
                    nursery,
                    PrefixedStream(head, stream),
                    max_message_size=MAX_MESSAGE_BYTES,
                    receive_buffer_size=_READ_BYTES,
                )
                ws = await proposal.accept(subprotocol=next(iter(proposal.proposed_subprotocols), None))
            if not scope.cancelled_caught:
                await self._serve_session(Session(ws, self._log), visitor, nursery)
                if ws.closed is not None and ws.closed.code == _TOO_BIG:
                    await linger(stream)
            nursery.cancel_scope.cancel()

    async def _serve_session(self, session: Session, visitor: Visitor, nursery: trio.Nursery) -> None:
        self._sessions.add(session)
        try:
            if await self._handshake(session, visitor):
                await self._converse(session, nursery)
        except (trio_websocket.ConnectionClosed, LocalProtocolError):
            pass  # either side closed; where it was ours, in the middle of an answer, the close goes on below
        finally:
            self._sessions.discard(session)
            self._leave(session)
        await session.wait_closed()

    # --- letting in --------------------------------------------------------------------------------------------------

    async def _handshake(self, session: Session, visitor: Visitor) -> bool:
        """Greet a client and decide on it. Returns whether it was let in; else the connection is closed already."""
        nonce = str(uuid.uuid4())
        challenge = Event(event=CHALLENGE, payload={"nonce": nonce, "ts": self._runtime.now_ms()})
        with trio.CancelScope(deadline=visitor.deadline) as scope:
            await session.send(challenge)
            await session.receive()
        if scope.cancelled_caught:
            self._log.warn("handshake timeout", connId=session.conn_id, remote=visitor.address)
            await session.close(CLOSE_NORMAL, "")
            return False
        event = session.protocol.next_event()
        if isinstance(event, Refused):
            self._log.warn("closed before connect", connId=session.conn_id, remote=visitor.address, reason=event.reason)
            await session.refuse(event)
            return False
        assert isinstance(event, Connect)  # the table of transitions leaves nothing else to a first message
        return await self._decide(session, event.request, visitor, nonce)

    async def _decide(self, session: Session, request: Request, visitor: Visitor, nonce: str) -> bool:
        peer = Peer(
            local=is_local_direct(visitor.address, visitor.headers.get("host"), frozenset(visitor.headers)),
            origin=visitor.headers.get("origin"),
            host=visitor.headers.get("host"),
            nonce=nonce,
            now_ms=self._runtime.now_ms(),
        )
        decision = decide(request.params, self._secret, peer)
        if isinstance(decision, Client) and self._runtime.stopping:
            decision = Refusal(code=UNAVAILABLE, message="Server is shutting down", cause="stopping")
        if isinstance(decision, Refusal):
            self._log.warn(
                f"closed before connect: {decision.message}",
                connId=session.conn_id,
                remote=visitor.address,
                cause=decision.cause,
                code=decision.close_code,
            )
            answer = failure(request.id, decision.code, decision.message, details=decision.details)
            await session.send(answer)
            await session.close(decision.close_code, decision.message)
            return False
        session.let_in(decision)
        self._runtime.presence.joined(session.conn_id, decision, self._runtime.now_ms())
        await session.send(Response(id=request.id, ok=True, payload=self._hello(session)))
        self._runtime.clients.sessions[session.conn_id] = session
        self._log.debug("connected", connId=session.conn_id, client=decision.id, mode=decision.mode)
        self.request_health()
        return True

    def _hello(self, session: Session) -> dict[str, Any]:
        runtime = self._runtime
        return {
            "type": HELLO,
            "protocol": PROTOCOL,
            "server": {"version": runtime.version, "host": runtime.presence.host, "connId": session.conn_id},
            "features": {"methods": list(methods.METHODS), "events": list(methods.EVENTS)},
            "snapshot": {
                "presence": runtime.presence.listed((*runtime.clients.sessions, session.conn_id), runtime.now_ms()),
                "health": self._services.health.snapshot,
                "stateVersion": self._state_version(),
                "uptimeMs": int(runtime.uptime_seconds() * 1000),
                "configPath": str(runtime.config.path),
                "stateDir": str(runtime.state_dir),
                "sessionDefaults": {
                    "defaultAgentId": "main",
                    "mainKey": "main",
                    "mainSessionKey": "agent:main:main",
                    "scope": "per-sender",
                },
                "authMode": self._secret.mode.value,
            },
            "policy": {
                "maxPayload": MAX_MESSAGE_BYTES,
                "maxBufferedBytes": MAX_BUFFERED_BYTES,
                "tickIntervalMs": int(TICK_SECONDS * 1000),
            },
        }

    # --- conversing --------------------------------------------------------------------------------------------------

    async def _converse(self, session: Session, nursery: trio.Nursery) -> None:
        nursery.start_soon(session.write_events)
        nursery.start_soon(session.end_when_too_slow)
        while True:
            await session.receive()
            while (event := session.protocol.next_event()) is not NEED_DATA:
                if isinstance(event, Request):
                    await self._answer(session, event, nursery)
                elif isinstance(event, Malformed):
                    self._log.warn("malformed frame", connId=session.conn_id, error=event.message)
                    if event.answer is not None:
                        await session.send(event.answer)

    async def _answer(self, session: Session, request: Request, nursery: trio.Nursery) -> None:
        """Answer at once what can be; what has to wait gets a task, so that the next request need not."""
        try:
            payload = methods.start(self._services, session.client, request.method, request.params)
        except Exception as err:
            await session.send(self._failure(session, request, err))
            return
        if inspect.isawaitable(payload):
            await session.calls.acquire()
            self._runtime.clients.request_began()
            nursery.start_soon(self._answer_later, session, request, payload)
            return
        await session.send(Response(id=request.id, ok=True, payload=payload))

    async def _answer_later(self, session: Session, request: Request, work: Awaitable[Any]) -> None:
        try:
            try:
                answer = Response(id=request.id, ok=True, payload=await work)
            except Exception as err:
                answer = self._failure(session, request, err)
            await session.send(answer)
        except (trio_websocket.ConnectionClosed, LocalProtocolError):
            pass  # the client did not wait for it
        finally:
            self._runtime.clients.request_ended()
            session.calls.release()

    def _failure(self, session: Session, request: Request, err: Exception) -> Response:
        """A handler's fault is its caller's answer, never the connection's end."""
        if isinstance(err, MethodError):
            return failure(request.id, err.code, err.message)
        self._log.error(f"{request.method} failed", connId=session.conn_id, error=repr(err))
        # As the real product answers, with the exception's own text: it may hold what a file or the environment held.
        return failure(request.id, UNAVAILABLE, self._runtime.log.masked(f"{type(err).__name__}: {err}"))

    def _leave(self, session: Session) -> None:
        runtime = self._runtime
        if runtime.clients.sessions.pop(session.conn_id, None) is None:
            return
        if runtime.presence.left(session.conn_id, runtime.now_ms()):
            presence = runtime.presence.listed(runtime.clients.sessions, runtime.now_ms())
            runtime.clients.broadcast("presence", {"presence": presence}, state_version=self._state_version())

    def _state_version(self) -> dict[str, int]:
        return {"presence": self._runtime.presence.version, "health": self._runtime.health_version}

    # --- what runs beside the connections ----------------------------------------------------------------------------

    async def tick(self) -> None:
        """The sign of life that clients wait for; for ever."""
        while True:
            await trio.sleep(TICK_SECONDS)
            self._runtime.clients.broadcast("tick", {"ts": self._runtime.now_ms()})

    async def broadcast_health(self) -> None:
        """A health event each minute, and soon after somebody asked or came; for ever."""
        while True:
            with trio.move_on_after(HEALTH_SECONDS):
                await self._health_wanted.wait()
                await trio.sleep(_HEALTH_SETTLE_SECONDS)
            self._health_wanted = trio.Event()
            snapshot = self._services.health.refresh()
            self._runtime.health_version += 1
            self._runtime.clients.broadcast("health", snapshot, drop_if_slow=False, state_version=self._state_version())
            await trio.sleep(_HEALTH_PAUSE_SECONDS)

    async def say_goodbye(self) -> None:
        """Tell every client that the gateway stops, and close with 1012; all at once, each in bounded time."""
        payload = {"reason": "gateway stopping", "restartExpectedMs": None}
        self._runtime.clients.broadcast("shutdown", payload, drop_if_slow=False)
        async with trio.open_nursery() as nursery:
            for session in tuple(self._sessions):
                nursery.start_soon(_flush_and_close, session)


async def _flush_and_close(session: Session) -> None:
    with trio.move_on_after(_CLOSE_SECONDS):
        await session.flush()
    await session.close(CLOSE_RESTART, "service restart")


def _upgrade(head: bytes) -> dict[str, str] | http.Response | None:
    """The headers of a WebSocket upgrade; None for plain HTTP; a response for an upgrade that cannot be."""
    conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
    conn.receive_data(head)
    try:
        request = conn.next_event()
    except h11.RemoteProtocolError:
        return None  # the HTTP side says what is wrong with it
    if not isinstance(request, h11.Request):
        return None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
    if "websocket" not in _words(headers.get("upgrade", "")) or "upgrade" not in _words(headers.get("connection", "")):
        return None
    if headers.get("sec-websocket-version") != "13":
        versions = ((b"sec-websocket-version", b"13, 8"),)
        return http.Response(status=400, body=b"Bad Request", headers=versions)
    # wsproto would refuse these by raising where nobody waits for it.
    good = request.method == b"GET" and request.http_version == b"1.1" and "host" in headers
    if not good or _KEY.fullmatch(headers.get("sec-websocket-key", "")) is None:
        return http.Response(status=400, body=b"Bad Request")
    return headers


def _words(value: str) -> set[str]:
    return {word.strip().lower() for word in value.split(",")}


def _innermost(err: BaseException) -> str:
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return repr(err)
