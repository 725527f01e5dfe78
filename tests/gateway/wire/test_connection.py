import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.connection import (
    MAX_REASON_BYTES,
    MAX_UNREAD_MESSAGES,
    NEED_DATA,
    PAUSED,
    TRANSITIONS,
    Connect,
    Connection,
    LocalProtocolError,
    Malformed,
    Refused,
    Role,
    State,
    Step,
    cut_reason,
)
from gateway.wire.frames import (
    ErrorShape,
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

CHALLENGE = Event(event="connect.challenge", payload={"nonce": "n", "ts": 1})
HELLO = Response(id="1", ok=True, payload={"type": "hello-ok"})


class Pair:
    """Both ends, joined in memory: what one sends the other has received."""

    def __init__(self) -> None:
        self.server, self.client = Connection(Role.SERVER), Connection(Role.CLIENT)

    def from_server(self, frame: Frame) -> Any:
        self.client.receive(self.server.send(frame))
        return self.client.next_event()

    def from_client(self, frame: Frame) -> Any:
        self.server.receive(self.client.send(frame))
        return self.server.next_event()

    def open(self) -> "Pair":
        assert self.from_server(CHALLENGE) == CHALLENGE
        event = self.from_client(Request(id="1", method="connect", params={}))
        assert event == Connect(request=Request(id="1", method="connect", params={}))
        assert self.from_server(HELLO) == HELLO
        assert (self.server.state, self.client.state) == (State.OPEN, State.OPEN)
        return self


@pytest.mark.req("GW-2")
def test_two_ends_shake_hands_and_then_talk_both_ways() -> None:
    pair = Pair().open()
    request = Request(id="a", method="health", params={"probe": True})
    assert pair.from_client(request) == request
    answer = Response(id="a", ok=True, payload={"ok": True})
    assert pair.from_server(answer) == answer
    refusal = failure("b", "INVALID_REQUEST", "unknown method: nope", details={"x": 1})
    assert pair.from_server(refusal) == refusal
    event = Event(event="health", payload={}, seq=3, state_version={"presence": 1, "health": 2})
    assert pair.from_server(event) == event
    assert pair.server.next_event() is NEED_DATA


def test_a_client_may_connect_before_the_challenge_comes() -> None:
    server, client = Connection(Role.SERVER), Connection(Role.CLIENT)
    greeting = server.send(CHALLENGE)
    server.receive(client.send(Request(id="1", method="connect")))
    client.receive(greeting)
    assert client.next_event() == CHALLENGE
    assert isinstance(server.next_event(), Connect)
    client.receive(server.send(HELLO))
    client.next_event()
    assert client.state is State.OPEN


def test_nothing_is_read_while_the_decision_is_open() -> None:
    server = Connection(Role.SERVER)
    server.send(CHALLENGE)
    server.receive('{"type":"req","id":"1","method":"connect"}')
    server.receive('{"type":"req","id":"2","method":"health"}')
    assert isinstance(server.next_event(), Connect)
    assert server.next_event() is PAUSED
    server.send(HELLO)
    assert server.next_event() == Request(id="2", method="health")


@pytest.mark.req("GW-2")
@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("no json", Refused(answer=None, code=1000, reason="")),
        ("[]", Refused(answer=None, code=1008, reason="invalid request frame")),
        ('{"type":"req","id":"1"}', Refused(answer=None, code=1008, reason="invalid request frame")),
        (
            '{"type":"req","id":"1","method":"health"}',
            Refused(
                answer=failure("1", "INVALID_REQUEST", "invalid handshake: first request must be connect"),
                code=1008,
                reason="invalid handshake: first request must be connect",
            ),
        ),
    ],
)
def test_a_first_message_that_is_no_connect_ends_the_connection(message: str, refused: Refused) -> None:
    server = Connection(Role.SERVER)
    server.send(CHALLENGE)
    server.receive(message)
    assert server.next_event() == refused
    with pytest.raises(LocalProtocolError, match="the connection is failed"):
        server.send(HELLO)
    server.receive('{"type":"req","id":"1","method":"connect"}')
    assert server.next_event() is NEED_DATA
    assert server.close(refused.code, refused.reason).code == refused.code
    assert server.state is State.CLOSED


@pytest.mark.req("GW-2")
@pytest.mark.parametrize(
    ("message", "answer"),
    [
        (
            '{"type":"req","id":"7","method":""}',
            "invalid request frame: at /method: must NOT have fewer than 1 characters",
        ),
        (
            '{"type":"req","id":"7","method":"m","extra":1}',
            "invalid request frame: at root: unexpected property 'extra'",
        ),
        ('{"id":"7","method":"m"}', "invalid request frame: must have required property 'type'"),
    ],
)
def test_a_later_malformed_frame_is_answered_and_the_connection_stays(message: str, answer: str) -> None:
    pair = Pair().open()
    pair.server.receive(message)
    event = pair.server.next_event()
    assert isinstance(event, Malformed)
    assert event.answer == failure("7", "INVALID_REQUEST", answer)
    assert pair.server.state is State.OPEN


def test_a_later_malformed_frame_without_an_id_is_answered_as_invalid_and_no_json_not_at_all() -> None:
    pair = Pair().open()
    pair.server.receive('{"type":"req","id":5,"method":"m"}')
    pair.server.receive("{")
    first, second = pair.server.next_event(), pair.server.next_event()
    assert isinstance(first, Malformed)
    assert first.answer is not None
    assert first.answer.id == "invalid"
    assert isinstance(second, Malformed)
    assert second.answer is None


def test_a_refused_connect_leaves_only_closing() -> None:
    pair = Pair()
    pair.from_server(CHALLENGE)
    pair.from_client(Request(id="1", method="connect"))
    refusal = failure("1", "NOT_PAIRED", "device identity required")
    assert pair.from_server(refusal) == refusal
    for end in (pair.server, pair.client):
        assert end.state is State.FAILED
        end.close(1008, "x")
    with pytest.raises(LocalProtocolError):
        pair.client.send(Request(id="2", method="health"))


def test_neither_side_sends_what_belongs_to_the_other() -> None:
    pair = Pair().open()
    with pytest.raises(LocalProtocolError, match="a server does not send a request"):
        pair.server.send(Request(id="1", method="x"))
    with pytest.raises(LocalProtocolError, match="a client does not send a response"):
        pair.client.send(HELLO)
    with pytest.raises(LocalProtocolError):
        Connection(Role.SERVER).send(HELLO)


def test_a_client_takes_a_gateway_that_breaks_the_protocol_for_a_failure() -> None:
    client = Connection(Role.CLIENT)
    client.send(Request(id="1", method="connect"))
    client.receive('{"type":"res","id":"1","ok":true,"payload":{}}')
    assert client.next_event() == Refused(answer=None, code=1008, reason="connect failed")
    assert client.state is State.FAILED


def test_messages_that_are_never_read_are_limited() -> None:
    server = Connection(Role.SERVER)
    for _ in range(MAX_UNREAD_MESSAGES):
        server.receive("{}")
    with pytest.raises(LocalProtocolError):
        server.receive("{}")


@pytest.mark.req("GW-2")
def test_a_close_reason_is_cut_to_what_a_close_frame_carries_without_half_characters() -> None:
    assert cut_reason("short") == "short"
    cut = cut_reason("\u00e9" * 100)
    assert cut == "\u00e9" * (MAX_REASON_BYTES // 2)
    assert len(cut_reason("a" + "\u20ac" * 100).encode()) <= MAX_REASON_BYTES


def test_from_every_state_closing_is_legal_and_nothing_leads_out_of_the_end() -> None:
    for table in TRANSITIONS.values():
        for state in State:
            assert table[(state, Step.CLOSE)] is State.CLOSED
        for state, step in table:
            if state in (State.FAILED, State.CLOSED):
                assert step is Step.CLOSE


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_near_frames = st.dictionaries(
    st.sampled_from(["type", "id", "method", "params", "ok", "payload", "error", "event", "seq", "stateVersion", "x"]),
    st.sampled_from(["req", "res", "event", "connect", "1", "hello-ok"]) | _json,
).map(lambda data: json.dumps(data))
_messages = st.lists(st.text() | st.binary() | _json.map(json.dumps) | _near_frames, max_size=8)


@given(messages=_messages, role=st.sampled_from(Role), opened=st.booleans())
def test_no_message_of_a_peer_raises(messages: list[str | bytes], role: Role, opened: bool) -> None:
    pair = Pair().open() if opened else Pair()
    end = pair.server if role is Role.SERVER else pair.client
    if not opened:
        end.send(CHALLENGE if role is Role.SERVER else Request(id="1", method="connect"))
    for message in messages:
        end.receive(message)
        while (event := end.next_event()) is not NEED_DATA and event is not PAUSED:
            assert isinstance(event, (Connect, Request, Response, Event, Refused, Malformed))
        if event is PAUSED or end.state is State.FAILED:
            break
    end.close(1000, "")


@given(messages=_messages)
def test_the_parsers_raise_nothing_but_their_own_error(messages: list[str | bytes]) -> None:
    for message in messages:
        for parse in (parse_request, parse_reply):
            try:
                frame = parse(message)
            except FrameError:
                continue
            assert parse(render(frame)) == frame


_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(
    st.builds(Request, id=_text, method=_text, params=_json)
    | st.builds(Response, id=_text, ok=st.just(value=True), payload=_json)
    | st.builds(
        Response,
        id=_text,
        ok=st.just(value=False),
        error=st.builds(ErrorShape, code=_text, message=_text, details=_json, retryable=st.none() | st.booleans()),
    )
    | st.builds(Event, event=_text, payload=_json, seq=st.none() | st.integers(0, 2**53))
)
def test_every_frame_reads_back_as_it_was_written(frame: Frame) -> None:
    try:
        message = render(frame)
    except orjson.JSONEncodeError:
        return  # text with lone surrogates cannot be on the wire
    assert (parse_request if isinstance(frame, Request) else parse_reply)(message) == frame
