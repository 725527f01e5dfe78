"""One protocol connection as a state machine, for either side; it neither reads nor writes.

Bytes, WebSocket frames, clocks and the question who may connect belong to the caller. The caller gives it every text
message that came in (`receive`), asks what it means (`next_event`), and has it render whatever goes out (`send`,
`close`). What the table `TRANSITIONS` does not list is an error of whoever did it: of the peer a `Refused`, of our own
code a `LocalProtocolError`. After either only closing is legal.

    server: NEW -challenge-> GREETED -connect-> DECIDING -hello-> OPEN
    client: NEW -connect-> WAITING -hello-> OPEN        (the challenge may come before, or never: the real client
                                                         waits 750 ms for it and goes on without)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias

from gateway.wire.frames import (
    INVALID_REQUEST,
    Event,
    Frame,
    FrameError,
    Request,
    Response,
    failure,
    parse_reply,
    parse_request,
    render,
)

# What the real product takes in one message, both ways (hello-ok, policy.maxPayload).
MAX_MESSAGE_BYTES = 25 * 1024 * 1024
# What may wait for one client before it counts as slow (hello-ok, policy.maxBufferedBytes).
MAX_BUFFERED_BYTES = 50 * 1024 * 1024
# A close frame carries at most 123 bytes of reason (RFC 6455, 5.5); the real product cuts at 120.
MAX_REASON_BYTES = 120
# Messages that the caller may hand over before it asks for events. The WebSocket layer delivers one at a time; the
# limit only keeps a caller that forgets to ask from growing without end.
MAX_UNREAD_MESSAGES = 64

CLOSE_NORMAL = 1000
CLOSE_PROTOCOL_MISMATCH = 1002
CLOSE_POLICY = 1008
CLOSE_RESTART = 1012

CHALLENGE = "connect.challenge"
HELLO = "hello-ok"


class Role(Enum):
    """Which side of the connection we are."""

    SERVER = auto()
    CLIENT = auto()


class State(Enum):
    """Where a connection stands."""

    NEW = auto()
    GREETED = auto()
    DECIDING = auto()
    WAITING = auto()
    OPEN = auto()
    FAILED = auto()
    CLOSED = auto()


class Step(Enum):
    """What moves a connection: a message sent or received, told apart by what it means."""

    CHALLENGE = auto()
    CONNECT = auto()
    HELLO = auto()
    REFUSAL = auto()
    REQUEST = auto()
    RESPONSE = auto()
    EVENT = auto()
    MALFORMED = auto()
    CLOSE = auto()


_S, _T = State, Step
TRANSITIONS: dict[Role, dict[tuple[State, Step], State]] = {
    Role.SERVER: {
        (_S.NEW, _T.CHALLENGE): _S.GREETED,
        (_S.GREETED, _T.CONNECT): _S.DECIDING,
        (_S.GREETED, _T.MALFORMED): _S.FAILED,
        (_S.GREETED, _T.REQUEST): _S.FAILED,
        (_S.DECIDING, _T.HELLO): _S.OPEN,
        (_S.DECIDING, _T.REFUSAL): _S.FAILED,
        (_S.OPEN, _T.REQUEST): _S.OPEN,
        (_S.OPEN, _T.CONNECT): _S.OPEN,
        (_S.OPEN, _T.MALFORMED): _S.OPEN,
        (_S.OPEN, _T.RESPONSE): _S.OPEN,
        (_S.OPEN, _T.REFUSAL): _S.OPEN,
        (_S.OPEN, _T.EVENT): _S.OPEN,
    },
    Role.CLIENT: {
        (_S.NEW, _T.CHALLENGE): _S.GREETED,
        (_S.NEW, _T.CONNECT): _S.WAITING,
        (_S.GREETED, _T.CONNECT): _S.WAITING,
        (_S.WAITING, _T.CHALLENGE): _S.WAITING,
        (_S.WAITING, _T.HELLO): _S.OPEN,
        (_S.WAITING, _T.REFUSAL): _S.FAILED,
        (_S.WAITING, _T.EVENT): _S.WAITING,
        (_S.NEW, _T.MALFORMED): _S.FAILED,
        (_S.GREETED, _T.MALFORMED): _S.FAILED,
        (_S.WAITING, _T.MALFORMED): _S.FAILED,
        (_S.OPEN, _T.REQUEST): _S.OPEN,
        (_S.OPEN, _T.RESPONSE): _S.OPEN,
        (_S.OPEN, _T.REFUSAL): _S.OPEN,
        (_S.OPEN, _T.EVENT): _S.OPEN,
        (_S.OPEN, _T.MALFORMED): _S.OPEN,
    },
}
for _table in TRANSITIONS.values():
    _table.update({(state, Step.CLOSE): State.CLOSED for state in State})


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Server: the client asks to be let in. Nothing more is read until `send` answered it."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The peer did what the table does not allow, before it was let in: send `answer` where there is one, then close."""

    answer: Response | None
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A later message was no valid frame; the connection stays. `answer` is what a client gets for it, if anything."""

    answer: Response | None
    message: str


class NeedData(Enum):
    """`next_event` has nothing to tell: the next message is needed, or an open `Connect` must be answered first."""

    NEED_DATA = auto()
    PAUSED = auto()


NEED_DATA = NeedData.NEED_DATA
PAUSED = NeedData.PAUSED

Received: TypeAlias = Connect | Request | Response | Event | Refused | Malformed


@dataclass(frozen=True, slots=True)
class Close:
    """How to close: the reason is already cut to what a close frame may carry."""

    code: int
    reason: str


class LocalProtocolError(Exception):
    """Our own code sends what the state does not allow: a bug, or a connection that was closed meanwhile."""


class Connection:
    """See the module. `state` may be read at any time."""

    __slots__ = ("_role", "_table", "_unread", "state")

    def __init__(self, role: Role) -> None:
        self._role = role
        self._table = TRANSITIONS[role]
        self._unread: deque[str | bytes] = deque()
        self.state = State.NEW

    def receive(self, message: str | bytes) -> None:
        """Take in one WebSocket message. Binary ones with the same JSON count as text, as in the real product.

        Raises:
            LocalProtocolError: `next_event` was not asked for `MAX_UNREAD_MESSAGES` messages.
        """
        if len(self._unread) >= MAX_UNREAD_MESSAGES:
            raise LocalProtocolError(f"{MAX_UNREAD_MESSAGES} messages were never read")
        self._unread.append(message)

    def next_event(self) -> Received | NeedData:
        """What the next message means, in order; it moves the state. Raises nothing, whatever the peer sent."""
        if self.state is State.DECIDING:
            return PAUSED
        if not self._unread or self.state in (State.FAILED, State.CLOSED):
            return NEED_DATA
        message = self._unread.popleft()
        return self._read_as_server(message) if self._role is Role.SERVER else self._read_as_client(message)

    def send(self, frame: Frame) -> str:
        """The message to transmit for a frame; it moves the state.

        Raises:
            LocalProtocolError: the frame is not legal in this state, or not one that this side sends.
        """
        self._move(self._outgoing(frame))
        return render(frame)

    def close(self, code: int, reason: str) -> Close:
        """How to end the connection; legal in every state, and the only thing that is after an error."""
        self._move(Step.CLOSE)
        self._unread.clear()
        return Close(code, cut_reason(reason))

    def _read_as_server(self, message: str | bytes) -> Received:
        greeted = self.state is not State.OPEN
        try:
            request = parse_request(message)
        except FrameError as err:
            self._fail_or_move(Step.MALFORMED)
            if not greeted:
                return self._malformed_later(err)
            if err.not_json:
                return Refused(answer=None, code=CLOSE_NORMAL, reason="")
            return Refused(answer=None, code=CLOSE_POLICY, reason="invalid request frame")
        step = Step.CONNECT if request.method == "connect" else Step.REQUEST
        self._fail_or_move(step)
        if self.state is State.DECIDING:
            return Connect(request=request)
        if self.state is State.OPEN:
            return request
        text = "invalid handshake: first request must be connect"
        return Refused(answer=failure(request.id, INVALID_REQUEST, text), code=CLOSE_POLICY, reason=text)

    @staticmethod
    def _malformed_later(err: FrameError) -> Malformed:
        if err.not_json:
            return Malformed(answer=None, message=err.message)
        text = f"invalid request frame: {err.message}"
        return Malformed(answer=failure(err.frame_id or "invalid", INVALID_REQUEST, text), message=text)

    def _read_as_client(self, message: str | bytes) -> Received:
        try:
            frame = parse_reply(message)
        except FrameError as err:
            return self._client_fault(err.message)
        step = _reply_step(frame)
        if (self.state, step) not in self._table:
            return self._client_fault(f"a {step.name.lower()} is not expected now")
        self._fail_or_move(step)
        return frame

    def _client_fault(self, message: str) -> Refused | Malformed:
        self._fail_or_move(Step.MALFORMED)
        if self.state is State.OPEN:
            return Malformed(answer=None, message=message)
        return Refused(answer=None, code=CLOSE_POLICY, reason="connect failed")

    def _outgoing(self, frame: Frame) -> Step:
        if (self._role is Role.CLIENT) is not isinstance(frame, Request):
            raise LocalProtocolError(f"a {self._role.name.lower()} does not send a {type(frame).__name__.lower()}")
        if isinstance(frame, Request):
            return Step.CONNECT if frame.method == "connect" else Step.REQUEST
        return _reply_step(frame)

    def _move(self, step: Step) -> None:
        following = self._table.get((self.state, step))
        if following is None:
            raise LocalProtocolError(f"cannot send a {step.name.lower()}: the connection is {self.state.name.lower()}")
        self.state = following

    def _fail_or_move(self, step: Step) -> None:
        """What the peer did; where the table lacks it, the connection failed."""
        self.state = self._table.get((self.state, step), State.FAILED)


def cut_reason(reason: str) -> str:
    """The longest beginning of a reason that fits into `MAX_REASON_BYTES` of UTF-8, never half a character."""
    raw = reason.encode("utf-8", "replace")
    return reason if len(raw) <= MAX_REASON_BYTES else raw[:MAX_REASON_BYTES].decode("utf-8", "ignore")


def _reply_step(frame: Response | Event) -> Step:
    if isinstance(frame, Event):
        return Step.CHALLENGE if frame.event == CHALLENGE else Step.EVENT
    if not frame.ok:
        return Step.REFUSAL
    hello = isinstance(frame.payload, dict) and frame.payload.get("type") == HELLO
    return Step.HELLO if hello else Step.RESPONSE
