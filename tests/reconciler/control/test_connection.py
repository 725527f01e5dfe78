"""The conversation with one client, over memory streams: what is answered, what is refused, and how long anything may take."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from reconciler.control.calls import CommandCall, Session, Terminal
from reconciler.control.connection import MAX_BODY_BYTES, MAX_HEAD_BYTES, REQUEST_SECONDS, STREAM_SECONDS, Connection
from reconciler.control.session import MAX_PENDING_CHARACTERS, Question
from reconciler.errors import StaleError
from tests.reconciler.control.conftest import FakeSupervisor

GET = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"


def post(target: str, body: Any) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


class Peer:
    """The client's end."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            data = await self.stream.receive_some()
            assert data, f"the end came before {mark!r}: {self.buffer!r}"
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """Status, headers and body of an answer that is no stream."""
        head = (await self.until(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        while len(self.buffer) < int(headers["content-length"]):
            self.buffer += await self.stream.receive_some()
        size = int(headers["content-length"])
        body, self.buffer = self.buffer[:size], self.buffer[size:]
        return int(head[0].split()[1]), headers, json.loads(body)

    async def begin(self) -> None:
        """The head of a stream."""
        assert b" 200 " in (await self.until(b"\r\n\r\n"))

    async def message(self) -> dict[str, Any] | None:
        """The next message of a command's stream, None at its end."""
        size = int(await self.until(b"\r\n"), 16)
        line = await self.until(b"\r\n")
        assert len(line) == size
        return dict(json.loads(line)) if line else None

    async def messages(self) -> list[dict[str, Any]]:
        """All messages that are left, with the end of the stream."""
        found = []
        while (message := await self.message()) is not None:
            found.append(message)
        return found

    async def rest(self) -> bytes:
        while data := await self.stream.receive_some():
            self.buffer += data
        return self.buffer


@asynccontextmanager
async def talking(supervisor: FakeSupervisor) -> AsyncIterator[Peer]:
    """A connection that is served; it is closed by the server when the conversation is over."""
    ours, theirs = memory_stream_pair()
    questions: dict[str, Question] = {}

    async def serve() -> None:
        async with theirs:
            with suppress(trio.BrokenResourceError):
                await Connection(theirs, supervisor, questions, supervisor.crashed, uid=0).converse()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)  # noqa: ASYNC113 - memory streams keep what comes before it reads
        peer = Peer(ours)
        yield peer
        await ours.aclose()
    assert questions == {}


def command(supervisor: FakeSupervisor, name: str = "plan", **changes: Any) -> bytes:
    body = {
        "argv": [name, "--json"],
        "directory": "/tmp",
        "document": supervisor.document,
        "terminal": {"stdout": True, "width": 100, "colour": True},
        "environment_digest": supervisor.identity().digest,
    }
    return post(f"/v1/commands/{name}", body | changes)


# Requests


async def test_one_connection_serves_request_after_request(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        for _ in range(3):
            await peer.send(GET)
            status, headers, body = await peer.answer()
            assert (status, headers["content-type"]) == (200, "application/json")
            assert body == {"schema": "openclaw.status/1", "deep": False}


async def test_requests_sent_ahead_are_answered_in_order(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        await peer.send(GET + b"GET /v1/history?limit=5 HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        bodies = [(await peer.answer())[2]["schema"] for _ in range(3)]
    assert bodies == ["openclaw.status/1", "openclaw.history/1", "openclaw.status/1"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /v1/status?deep=1 HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /v1/history?limit=many HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /v1/commands/plan/more HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://[bad/v1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"PUT /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (post("/v1/apply", b"{"), 400),
        (post("/v1/apply", b"[]"), 400),
        (post("/v1/apply", b"\xff\xfe"), 400),
        (post("/v1/apply", b"[" * 100_000), 400),
        (post("/v1/apply", {"aprove": []}), 400),
        (post("/v1/apply", {"approve": "all"}), 400),
        (post("/v1/apply", {"approve": [1]}), 400),
        (post("/v1/apply", {"wait": 1}), 400),
        (post("/v1/apply", {}), 409),
        (post("/v1/apply", {"approve": ["service/gateway"]}), 200),
        (post("/v1/reconcile", {"key": "nokey"}), 400),
        (post("/v1/reconcile", {"key": "service/gateway"}), 202),
        (post("/v1/reconcile", b""), 202),
        (post("/v1/stop", {"on_exit": "explode"}), 400),
        (post("/v1/stop", {"on_exit": "leave"}), 202),
        (post("/v1/answers/none", {"answer": "y"}), 400),
        (post("/v1/commands/rollback", {}), 400),
        (post("/v1/commands/plan", {}), 400),
    ],
)
async def test_every_request_has_one_answer_and_the_connection_goes_on(
    supervisor: FakeSupervisor, request_bytes: bytes, status: int
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(request_bytes)
        found, headers, body = await peer.answer()
        assert found == status
        if status >= 400:
            assert body["error"]["message"].startswith(("cannot", "no such route"))
        assert ("allow" in headers) == (status == 405)
        if status == 405:
            assert body["error"]["message"].endswith(f": allowed is {headers['allow']}")
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
    assert supervisor.crashes == []


@pytest.mark.parametrize(
    ("target", "status"), [("/v1/status", 405), ("/v1/events", 405), ("/nowhere", 404), ("//[", 400)]
)
async def test_an_answer_to_head_has_the_fields_of_a_body_and_none(
    supervisor: FakeSupervisor, target: str, status: int
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(f"HEAD {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await peer.until(b"\r\n\r\n")).decode()
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert ("Allow: GET" in head) == (status == 405)
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
    assert supervisor.crashes == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [(b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"), (b"X: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", b"431")],
)
async def test_a_head_request_that_is_refused_gets_no_body_either(
    supervisor: FakeSupervisor, fields: bytes, status: bytes
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(b"HEAD /v1 HTTP/1.1\r\nHost: x\r\n" + fields)
        head, end, body = (await peer.rest()).partition(b"\r\n\r\n")
        assert (head.split()[1], end, body) == (status, b"\r\n\r\n", b"")
    assert supervisor.crashes == []


async def test_an_error_of_the_engine_keeps_its_exit_code_and_hint(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        await peer.send(post("/v1/apply", {}))
        _, _, body = await peer.answer()
    assert body == {"error": {"exit": 3, "message": "cannot apply: approval is missing", "hint": "grant it"}}


async def test_a_bug_is_reported_by_id_and_says_nothing_of_its_contents(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        await peer.send(post("/v1/reload", b""))
        status, _, body = await peer.answer()
        assert (status, body["error"]["exit"]) == (500, 70)
        assert "crash-1" in body["error"]["message"]
        assert "canary" not in json.dumps(body)
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
    assert [type(err) for err in supervisor.crashes] == [RuntimeError]


async def test_who_waits_for_a_go_ahead_gets_it(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        head = b"POST /v1/reconcile HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        await peer.send(head)
        assert await peer.until(b"\r\n\r\n") == b"HTTP/1.1 100 "
        await peer.send(b"{}")
        assert (await peer.answer())[0] == 202


# What no client may do


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello tls\r\n\r\n", 400),
        (b"GET /v1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1 HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: " + b"y" * (MAX_HEAD_BYTES + 10), 431),
        (b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES * 2), 413),
        (b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_ended(
    supervisor: FakeSupervisor, garbage: bytes, status: int
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(garbage)
        if status == 413:
            await peer.send(b"x" * (MAX_BODY_BYTES + 1))
        found, headers, _ = await peer.answer()
        assert (found, headers["connection"]) == (status, "close")
        assert await peer.rest() == b""
    assert supervisor.crashes == []


def whole(size: int) -> bytes:
    """A request without a body whose head has so many bytes."""
    begin, end = b"GET /v1 HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n"
    return begin + b"y" * (size - len(begin) - len(end)) + end


@pytest.mark.parametrize(("size", "status"), [(MAX_HEAD_BYTES, 200), (MAX_HEAD_BYTES + 1, 431), (40_000, 431)])
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "sent ahead"])
async def test_a_head_has_its_limit_also_where_it_arrives_in_one_piece(
    supervisor: FakeSupervisor, before: bytes, size: int, status: int
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(before + whole(size))
        if before:
            assert (await peer.answer())[0] == 200
        assert (await peer.answer())[0] == status


async def test_a_client_that_sends_byte_by_byte_runs_out_of_time(
    supervisor: FakeSupervisor, autojump_clock: MockClock
) -> None:
    async with talking(supervisor) as peer:
        begun = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(b"G")
                await trio.sleep(1)
        assert trio.current_time() - begun < REQUEST_SECONDS + 5
        assert b" 408 " in await peer.rest()


async def test_an_idle_connection_is_closed_without_a_word(
    supervisor: FakeSupervisor, autojump_clock: MockClock
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(GET)
        await peer.answer()
        begun = trio.current_time()
        assert await peer.rest() == b""
        assert trio.current_time() - begun == pytest.approx(REQUEST_SECONDS)


async def test_a_client_that_leaves_in_the_middle_of_a_request_is_forgotten(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        await peer.send(GET[:10])
    assert supervisor.crashes == []


# Commands


async def test_a_command_prints_in_order_and_ends_with_its_exit_code(supervisor: FakeSupervisor) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        session.err("looking\n")
        await trio.lowlevel.checkpoint()
        session.out("2 actions: ü \ud800\n")
        return 2

    supervisor.command = run
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor))
        await peer.begin()
        assert await peer.messages() == [{"err": "looking\n"}, {"out": "2 actions: ü \ud800\n"}, {"exit": 2}]
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
    (call,) = supervisor.asked
    assert (call.command, call.argv, call.directory) == ("plan", ("plan", "--json"), "/tmp")
    assert call.terminal == Terminal(stdout=True, width=100, colour=True)


@pytest.mark.parametrize(
    ("changes", "member"),
    [({"environment_digest": None}, "names"), ({"environment_digest": "00"}, "salt"), ({"document": "/x"}, "document")],
)
async def test_another_environment_or_document_is_refused_before_anything_is_done(
    supervisor: FakeSupervisor, changes: dict[str, Any], member: str
) -> None:
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor, **changes))
        status, _, body = await peer.answer()
    assert status == 409
    assert member in body
    assert supervisor.asked == []


async def fail(error: Exception) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            StaleError("cannot apply: the port moved", hint="plan again"),
            4,
            "openclaw: cannot apply: the port moved\n  hint: plan again\n",
        ),
        (RuntimeError("canary"), 70, "openclaw: a bug of ours (id crash-1): the supervisor's log tells more\n"),
    ],
)
async def test_a_command_that_raises_ends_like_a_process(
    supervisor: FakeSupervisor, error: Exception, code: int, text: str
) -> None:
    supervisor.command = lambda call, session: fail(error)
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor))
        await peer.begin()
        assert await peer.messages() == [{"err": text}, {"exit": code}]


SHORT = "openclaw: the supervisor cannot go on: too many open files\n"


@pytest.mark.parametrize(
    ("name", "said", "messages"),
    [
        ("status", "", [{"unable": "too many open files"}, {"err": SHORT}, {"exit": 1}]),
        ("plan", "", [{"unable": "too many open files"}, {"err": SHORT}, {"exit": 1}]),
        # It would be printed twice, and what has effects may have had them.
        ("status", "half", [{"out": "half"}, {"err": SHORT}, {"exit": 1}]),
        ("apply", "", [{"err": SHORT}, {"exit": 1}]),
    ],
)
async def test_a_command_that_it_lacks_the_means_for_is_given_back_where_nothing_has_come_of_it(
    supervisor: FakeSupervisor, name: str, said: str, messages: list[dict[str, Any]]
) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        session.out(said)
        await fail(OSError(errno.EMFILE, "Too many open files"))
        return 0

    supervisor.command = run
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor, name))
        await peer.begin()
        assert await peer.messages() == messages


async def test_the_end_of_the_clients_half_interrupts_and_the_rest_still_arrives(supervisor: FakeSupervisor) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        session.out("step 1\n")
        await session.interrupted.wait()
        session.out("finishing\n")
        return 130

    supervisor.command = run
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor, "apply"))
        await peer.begin()
        assert await peer.message() == {"out": "step 1\n"}
        await peer.stream.send_eof()
        assert await peer.messages() == [{"out": "finishing\n"}, {"exit": 130}]


async def test_a_client_that_goes_away_lets_the_step_be_finished(supervisor: FakeSupervisor) -> None:
    finished = []

    async def run(call: CommandCall, session: Session) -> int:
        session.out("step 1\n")
        await session.interrupted.wait()
        for _ in range(100):
            session.out("to nobody\n")
            await trio.lowlevel.checkpoint()
        finished.append(True)
        return 130

    supervisor.command = run
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor, "apply"))
        await peer.until(b"step 1")
        await peer.stream.aclose()
    assert finished == [True]
    assert supervisor.crashes == []


async def test_a_question_is_answered_over_a_second_connection(supervisor: FakeSupervisor) -> None:
    answers: list[str | None] = []

    async def run(call: CommandCall, session: Session) -> int:
        session.err("Apply? [y/N] ")
        answers.extend([await session.ask(), await session.ask()])
        return 0

    supervisor.command = run
    questions: dict[str, Question] = {}
    async with trio.open_nursery() as nursery:

        def connect() -> Peer:
            ours, theirs = memory_stream_pair()
            connection = Connection(theirs, supervisor, questions, supervisor.crashed, uid=0)
            nursery.start_soon(connection.converse)
            return Peer(ours)

        first, second = connect(), connect()
        await first.send(command(supervisor, "apply"))
        await first.begin()
        assert await first.message() == {"err": "Apply? [y/N] "}
        for answer in ("yes", None):
            asked = await first.message()
            assert asked is not None
            await second.send(post(f"/v1/answers/{asked['ask']}", {"answer": answer}))
            assert (await second.answer())[2] == {"taken": True}
        assert await first.messages() == [{"exit": 0}]
        nursery.cancel_scope.cancel()
    assert answers == ["yes", None]
    assert questions == {}


async def test_an_interrupted_question_has_no_answer(supervisor: FakeSupervisor) -> None:
    async def run(call: CommandCall, session: Session) -> int:
        return 130 if await session.ask() is None else 0

    supervisor.command = run
    async with talking(supervisor) as peer:
        await peer.send(command(supervisor, "apply"))
        await peer.begin()
        assert "ask" in (await peer.message() or {})
        await peer.stream.send_eof()
        assert await peer.messages() == [{"exit": 130}]


async def test_a_client_that_does_not_read_costs_bounded_memory_and_time(
    supervisor: FakeSupervisor, autojump_clock: MockClock
) -> None:
    """What waits for it is dropped, and the command is told that nobody wants more."""
    ended: list[float] = []

    async def run(call: CommandCall, session: Session) -> int:
        session.out("x" * 1000)
        await trio.sleep(1)
        if call.argv == ("flood",):
            for _ in range(MAX_PENDING_CHARACTERS // 100_000 + 2):
                session.out("x" * 100_000)
            assert session.interrupted.is_set()
        await session.interrupted.wait()
        ended.append(trio.current_time() - begun)
        return 130

    supervisor.command = run
    for argv in (["flood"], ["plan"]):
        ours, theirs = memory_stream_pair()
        await ours.send_all(command(supervisor, argv=argv))
        begun = trio.current_time()
        await Connection(_Stuck(theirs), supervisor, {}, supervisor.crashed, uid=0).converse()
    assert ended == [pytest.approx(1), pytest.approx(STREAM_SECONDS)]
    assert supervisor.crashes == []


class _Stuck(trio.abc.HalfCloseableStream):
    """A stream whose other end reads the head of an answer and nothing more."""

    def __init__(self, inner: trio.StapledStream[Any, Any]) -> None:
        self._inner = inner
        self._open = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self._open:
            await trio.sleep_forever()
        self._open = False
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


# Events


async def test_events_are_lines_that_any_client_of_server_sent_events_reads(supervisor: FakeSupervisor) -> None:
    async with talking(supervisor) as peer:
        await peer.send(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await peer.until(b"\r\n\r\n")
        assert b"text/event-stream" in head
        for number in range(3):
            await peer.until(b'data: {"number":%d}\n\n' % number)
        await peer.until(b"0\r\n\r\n")


async def test_a_listener_that_leaves_ends_its_stream(supervisor: FakeSupervisor) -> None:
    ended = trio.Event()

    async def endless(send: Callable[[Any], Any]) -> None:
        try:
            await send({"number": 1})
            await trio.sleep_forever()
        finally:
            ended.set()

    supervisor.events = endless  # type: ignore[method-assign]
    async with talking(supervisor) as peer:
        await peer.send(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.until(b"data:")
        await peer.stream.aclose()
        await ended.wait()
    assert supervisor.crashes == []


async def test_a_bug_in_the_middle_of_events_ends_the_stream_only(supervisor: FakeSupervisor) -> None:
    async def broken(send: Callable[[Any], Any]) -> None:
        await send({"number": 1})
        raise RuntimeError("a bug")

    supervisor.events = broken  # type: ignore[method-assign]
    async with talking(supervisor) as peer:
        await peer.send(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        await peer.until(b"0\r\n\r\n")
        await peer.send(GET)
        assert (await peer.answer())[0] == 200
    assert len(supervisor.crashes) == 1
