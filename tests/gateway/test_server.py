"""The server over streams in memory: who is let in, what is answered, and what a bad peer cannot do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from gateway import methods
from gateway.methods import Call, Method
from gateway.reload import configure_log
from gateway.server import HANDSHAKE_SECONDS, MAX_CONNECTIONS
from gateway.wire.scopes import SCOPE_OF
from tests.gateway.parts import CONNECT, Inside, caller, connected, make


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    return make(tmp_path)


async def http(inside: Inside, request: bytes) -> tuple[bytes, bytes]:
    """Head and body of what comes back until the server closes."""
    near, far = memory_stream_pair()
    answer = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside.server.serve, far)
        await near.send_all(request)
        with trio.move_on_after(60):
            while data := await near.receive_some():
                answer += data
        await near.aclose()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.req("GW-2")
async def test_hello_says_what_there_is_and_the_challenge_comes_first(inside: Inside) -> None:
    async with caller(inside) as client:
        challenge = await client.next()
        assert challenge["event"] == "connect.challenge"
        assert set(challenge["payload"]) == {"nonce", "ts"}
        assert "seq" not in challenge
        hello = (await client.call("connect", CONNECT))["payload"]
    assert (hello["type"], hello["protocol"], hello["server"]["version"]) == ("hello-ok", 3, "9.9.9")
    assert "health" in hello["features"]["methods"]
    assert hello["policy"] == {"maxPayload": 26214400, "maxBufferedBytes": 52428800, "tickIntervalMs": 30000}
    assert hello["snapshot"]["authMode"] == "token"
    assert [entry["reason"] for entry in hello["snapshot"]["presence"]] == ["connect", "self"]


@pytest.mark.req("GW-2")
@pytest.mark.parametrize(
    ("first", "answer", "close"),
    [
        ("not json", None, (1000, "")),
        ("{}", None, (1008, "invalid request frame")),
        (
            {"type": "req", "id": "x", "method": "health"},
            "invalid handshake: first request must be connect",
            (1008, "invalid handshake: first request must be connect"),
        ),
        (
            {"type": "req", "id": "x", "method": "connect", "params": {**CONNECT, "maxProtocol": 2, "minProtocol": 1}},
            "protocol mismatch",
            (1002, "protocol mismatch"),
        ),
        (
            {"type": "req", "id": "x", "method": "connect", "params": {**CONNECT, "auth": {"token": "bad"}}},
            "unauthorized: gateway token mismatch (provide gateway auth token)",
            (1008, "unauthorized: gateway token mismatch (provide gateway auth token)"),
        ),
        (
            {"type": "req", "id": "x", "method": "connect", "params": {"a" * 200: 1}},
            None,
            (1008, f"invalid connect params: {'x'}"),
        ),
    ],
)
async def test_who_is_not_let_in_is_told_and_closed(
    inside: Inside, first: Any, answer: str | None, close: tuple[int, str]
) -> None:
    async with caller(inside) as client:
        await client.next()
        await client.send(first)
        if answer is not None:
            frame = await client.next()
            assert (frame["ok"], frame["id"], frame["error"]["message"]) == (False, "x", answer)
        code, reason = await client.closed()
    assert code == close[0]
    assert reason.startswith(close[1][:22])
    assert len(reason.encode()) <= 120
    assert not inside.runtime.clients.sessions


@pytest.mark.req("GW-2")
async def test_a_client_that_says_nothing_is_closed_after_the_handshake_limit(
    inside: Inside, autojump_clock: MockClock
) -> None:
    async with caller(inside) as client:
        began = trio.current_time()
        await client.next()
        assert await client.closed() == (1000, "")
        assert trio.current_time() - began == pytest.approx(HANDSHAKE_SECONDS, abs=0.1)


@pytest.mark.req("GW-2")
async def test_a_head_that_drips_is_closed_after_the_same_limit(inside: Inside, autojump_clock: MockClock) -> None:
    near, far = memory_stream_pair()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside.server.serve, far)
        with trio.move_on_after(60):
            try:
                while True:
                    await near.send_all(b"G")
                    await trio.sleep(1)
            except trio.BrokenResourceError:
                pass
    assert trio.current_time() - began <= HANDSHAKE_SECONDS + 2


@pytest.mark.req("GW-2", "GW-3")
async def test_methods_answer_by_scope_name_and_params(inside: Inside) -> None:
    async with connected(inside) as client:
        # Not from this host by a program's socket, so the scopes are emptied, as they are without a device.
        assert (await client.call("health"))["error"] == {
            "code": "INVALID_REQUEST",
            "message": "missing scope: operator.read",
        }
        assert (await client.call("nope"))["error"]["message"] == "missing scope: operator.admin"
        again = await client.call("connect", CONNECT)
        assert again["error"]["message"] == "connect is only valid as the first request"
        await client.send('{"type":"req","id":"q","method":"x","y":1}')
        frame = await client.next()
        while frame["type"] == "event":
            frame = await client.next()
        assert frame["error"]["message"] == "invalid request frame: at root: unexpected property 'y'"


@pytest.fixture
def open_scopes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds methods that anybody may call."""

    def add(**handlers: Callable[[Call], Any]) -> None:
        table = {**methods.METHODS, **{name: Method(handler) for name, handler in handlers.items()}}
        monkeypatch.setattr(methods, "METHODS", table)
        monkeypatch.setattr(methods, "refusal", lambda *_: None)

    return add


@pytest.mark.req("GW-4")
async def test_every_method_answers_in_the_protocols_shape(
    inside: Inside, open_scopes: Callable[..., None], tmp_path: Path
) -> None:
    open_scopes()
    async with connected(inside) as client:
        health = (await client.call("health", {"probe": True}))["payload"]
        assert health["ok"] is True
        assert health["agents"][0]["agentId"] == "main"
        status = (await client.call("status"))["payload"]
        assert status["sessions"]["byAgent"][0]["path"] == "[redacted]"
        assert status["loaded"]["hash"] == inside.runtime.config.current.hash
        config = (await client.call("config.get"))["payload"]
        assert config["raw"] == '{gateway: {auth: {token: "__OPENCLAW_REDACTED__"}}}'
        assert config["config"]["logging"]["level"] == "info"
        assert config["valid"] is True
        assert "the-token" not in json.dumps(config)
        assert (await client.call("last-heartbeat"))["payload"] is None
        assert (await client.call("system-presence"))["payload"][-1]["mode"] in ("gateway", "test")
        tailed = (await client.call("logs.tail", {"limit": 5}))["payload"]
        assert tailed["file"] == str(inside.runtime.log.file.path if inside.runtime.log.file else "")
        wrong = await client.call("logs.tail", {"limit": 0, "foo": 1})
        assert wrong["error"]["message"] == (
            "invalid logs.tail params: at root: unexpected property 'foo'; at /limit: must be >= 1"
        )
        assert (await client.call("nope"))["error"]["message"] == "unknown method: nope"


def test_every_listed_method_has_a_scope_of_its_own() -> None:
    assert set(methods.METHODS) <= set(SCOPE_OF)


@pytest.mark.req("GW-6")
async def test_a_reload_by_rpc_tells_what_is_hot_and_what_is_owed_and_keeps_the_last_good(
    inside: Inside, open_scopes: Callable[..., None]
) -> None:
    open_scopes()
    async with connected(inside) as client:
        inside.path.write_text('{gateway: {port: 4000, auth: {token: "the-token"}}, logging: {level: "warn"}}')
        answer = (await client.call("config.reload"))["payload"]
        assert (answer["ok"], answer["hot"], answer["restart"]) == (True, ["logging.level"], ["gateway.port"])
        inside.path.write_text("{gateway: {")
        broken = (await client.call("config.reload"))["payload"]
        assert broken["ok"] is False
        assert broken["hash"] == answer["hash"]
        assert broken["error"].startswith("JSON5 parse failed")
        config = (await client.call("config.get"))["payload"]
        assert (config["valid"], config["raw"], config["parsed"], config["resolved"]) == (False, None, None, {})
        assert config["config"]["logging"]["level"] == "warn"
        assert config["issues"][0]["path"] == ""
        assert inside.health.word() == "degraded"
        inside.path.write_text('{gateway: {auth: {token: "the-token"}}}')
        assert (await client.call("config.reload"))["payload"]["restart"] == []
        assert inside.health.word() == "ok"


@pytest.mark.req("DOC-4", "LOG-4")
def test_no_answer_and_no_line_of_the_log_shows_what_a_reference_gave(tmp_path: Path) -> None:
    config = '{gateway: {auth: {token: "the-token"}}, channels: {x: {enabled: "on-${CANARY}"}}}'
    inside = make(tmp_path, config, {"OPENCLAW_LOG_DIR": str(tmp_path / "logs"), "CANARY": "hunter2"})
    live = inside.runtime.config
    answers: list[object] = [methods.config_answer(live.read(), live.current)]
    for text in (
        config.replace("on-", "off-"),
        config.replace("enabled", "disabled"),
        config.replace('"the-token"', "false").replace(
            "{gateway: {", "{gateway: {bind: 'custom', customBindHost: '${CANARY}', "
        ),
        "{gateway: {bind: '${CANARY}', port: '${CANARY}', auth: {mode: '${CANARY}'}}, logging: {level: '${CANARY}'}}",
    ):
        inside.path.write_text(text)
        answers += [inside.reloader.reload("test"), methods.config_answer(live.read(), live.current)]
        answers += [inside.health.report(), inside.health.status(admin=True)]
    assert "on-${CANARY}" in str(answers[0])
    assert "hunter2" not in str(answers)
    assert inside.runtime.log.file is not None
    assert "hunter2" not in inside.runtime.log.file.path.read_text()


@pytest.mark.req("GW-6")
def test_a_deleted_config_is_an_accident_and_not_an_empty_one(inside: Inside) -> None:
    inside.path.unlink()
    outcome = inside.reloader.reload("test")
    assert outcome.error == "the file is missing"
    assert inside.runtime.config.current.resolved == {"gateway": {"auth": {"token": "the-token"}}}


@pytest.mark.req("SVC-11")
async def test_a_stopping_gateway_takes_no_work_but_finishes_what_runs(
    inside: Inside, open_scopes: Callable[..., None]
) -> None:
    gate = trio.Event()

    async def slow() -> str:
        await gate.wait()
        return "done"

    open_scopes(slow=lambda _call: slow())
    async with connected(inside) as client:
        await client.send({"type": "req", "id": "s", "method": "slow"})
        await wait_all_tasks_blocked()
        assert inside.runtime.clients.in_flight == 1
        inside.runtime.stopping = True
        refused = await client.call("health")
        assert refused["error"] == {"code": "UNAVAILABLE", "message": "Server is shutting down"}
        gate.set()
        frame = await client.next()
        assert (frame["id"], frame["payload"]) == ("s", "done")
        await inside.runtime.clients.wait_idle()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inside.server.say_goodbye)
            while (frame := await client.next())["event"] != "shutdown":
                pass
            assert frame["payload"] == {"reason": "gateway stopping", "restartExpectedMs": None}
            assert await client.closed() == (1012, "service restart")


async def test_a_handlers_fault_is_an_answer_and_the_connection_stays(
    inside: Inside, open_scopes: Callable[..., None]
) -> None:
    def broken(_call: Call) -> None:
        raise RuntimeError("boom")

    open_scopes(broken=broken)
    async with connected(inside) as client:
        answer = await client.call("broken")
        assert answer["error"] == {"code": "UNAVAILABLE", "message": "RuntimeError: boom"}
        assert (await client.call("last-heartbeat"))["ok"]


async def test_a_handlers_fault_does_not_tell_the_secret(inside: Inside, open_scopes: Callable[..., None]) -> None:
    secret = inside.settings.secret.value

    def broken(_call: Call) -> None:
        raise RuntimeError(f"cannot use {secret}")

    async def later(call: Call) -> None:
        broken(call)

    open_scopes(broken=broken, later=later)
    configure_log(inside.runtime, inside.settings)
    async with connected(inside) as client:
        for method in ("broken", "later"):
            error = (await client.call(method))["error"]
            assert error == {"code": "UNAVAILABLE", "message": "RuntimeError: cannot use ***"}


@pytest.mark.req("GW-2")
async def test_events_are_numbered_and_a_tick_comes_every_thirty_seconds(
    inside: Inside, autojump_clock: MockClock
) -> None:
    async with connected(inside) as client, trio.open_nursery() as nursery:
        nursery.start_soon(inside.server.tick)
        nursery.start_soon(inside.server.broadcast_health)
        health, tick = await client.next(), await client.next()
        assert (health["event"], health["seq"], set(health["stateVersion"])) == ("health", 1, {"presence", "health"})
        assert (tick["event"], tick["seq"]) == ("tick", 2)
        assert trio.current_time() == pytest.approx(30, abs=1)
        nursery.cancel_scope.cancel()


@pytest.mark.req("GW-2")
async def test_a_client_that_reads_nothing_is_cut_off_and_the_others_go_on(
    inside: Inside, autojump_clock: MockClock
) -> None:
    async with connected(inside, lockstep=True), connected(inside) as other:
        big = "x" * (8 * 1024 * 1024)
        slow_id, other_id = inside.runtime.clients.sessions
        session = inside.runtime.clients.sessions[slow_id]
        for _ in range(2):  # the client's library takes a few before it stops; what is above the limit is dropped
            for _ in range(10):
                session.offer(big, drop_if_slow=True)
            await wait_all_tasks_blocked()
        assert slow_id in inside.runtime.clients.sessions
        session.offer(big, drop_if_slow=False)
        await trio.sleep(10)
        assert list(inside.runtime.clients.sessions) == [other_id]
        assert (await other.call("nope"))["error"]["message"] == "missing scope: operator.admin"


async def test_more_connections_than_the_limit_are_refused(inside: Inside) -> None:
    async with trio.open_nursery() as nursery:
        near = []
        for _ in range(MAX_CONNECTIONS):
            mine, theirs = memory_stream_pair()
            near.append(mine)
            nursery.start_soon(inside.server.serve, theirs)
        await wait_all_tasks_blocked()
        mine, theirs = memory_stream_pair()
        await inside.server.serve(theirs)
        assert await mine.receive_some() == b""
        nursery.cancel_scope.cancel()


@pytest.mark.req("GW-5")
async def test_health_gives_a_word_to_everyone_and_all_parts_to_who_has_the_secret(inside: Inside) -> None:
    head, body = await http(inside, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body) == {"status": "ok"}
    for secret, full in ((b"the-token", True), (b"wrong", False)):
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: bearer %b\r\n\r\n" % secret
        _, body = await http(inside, request)
        data = json.loads(body)
        assert set(data) == (
            {
                "status",
                "version",
                "uptime",
                "timestamp",
                "memory",
                "sessions",
                "connections",
                "parts",
                "pid",
                "specDigest",
            }
            if full
            else {"status"}
        )
        assert b"the-token" not in body


@pytest.mark.req("GW-5")
@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /health/live HTTP/1.1", 200),
        (b"GET /health/ready HTTP/1.1", 200),
        (b"GET /health?x=1 HTTP/1.1", 200),
        (b"GET / HTTP/1.1", 404),
        (b"GET /healthz HTTP/1.1", 404),
        (b"POST /health HTTP/1.1", 405),
        (b"GET /health HTTP/9", 400),
        (b"nonsense", 400),
        (b"GET /%b HTTP/1.1" % (b"a" * 20_000), 431),
        (b"GET /health HTTP/1.1\r\nContent-Length: 900000", 413),
        (b"GET /x HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 12", 400),
        (b"GET /x HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13", 400),
    ],
)
async def test_http_answers_by_path_and_method_and_survives_nonsense(
    inside: Inside, request_line: bytes, status: int, autojump_clock: MockClock
) -> None:
    body = b"x" * 900_000 if b"Content-Length" in request_line else b""
    close = b"" if b"Upgrade" in request_line else b"\r\nConnection: close"
    head, _ = await http(inside, request_line + b"\r\nHost: x" + close + b"\r\n\r\n" + body)
    assert head.split(b" ")[1] == str(status).encode()


@pytest.mark.req("GW-5")
async def test_a_stopping_gateway_is_not_ready_but_alive(inside: Inside) -> None:
    inside.runtime.stopping = True
    for path, status in ((b"/health", b"503"), (b"/health/ready", b"503"), (b"/health/live", b"200")):
        head, _ = await http(inside, b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path)
        assert head.split(b" ")[1] == status


async def test_a_peer_that_goes_away_at_any_point_of_the_handshake_harms_nobody(inside: Inside) -> None:
    request = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    masked = bytes([0x81, 0x85, 0, 0, 0, 0]) + b"hello"
    stream = request + masked
    for cut in (0, 1, 20, len(request) - 1, len(request), len(request) + 3, len(stream)):
        near, far = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inside.server.serve, far)
            await near.send_all(stream[:cut])
            await wait_all_tasks_blocked()
            await near.aclose()
            with trio.fail_after(5):
                await wait_all_tasks_blocked()
    async with connected(inside):
        pass
