"""The gateway as a process, seen from outside by tools that share no code with it."""

import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gateway.client import (
    CallError,
    ClientError,
    ConnectRefused,
    get_health,
    in_header,
    open_client,
    unverified_context,
)
from gateway.process import PidFile
from gateway.version import VERSION
from tests.beds.processes import Spawned, run, wait_until

pytestmark = pytest.mark.real
TOKEN = "canary-token-4711"


class Gateway:
    """One gateway under test: its config, its process, and ways to ask it."""

    def __init__(self, spawned: Spawned, state: Path, environ: dict[str, str], port: int) -> None:
        self.spawned, self.state, self.port = spawned, state, port
        self.environ = {**environ, "OPENCLAW_LOG_DIR": str(state / "logs")}
        self.config = state / "openclaw.json"
        self.process: subprocess.Popen[Any] | None = None

    def write(self, text: str | None = None, **logging: str) -> None:
        """An `openclaw.json`, replaced by rename."""
        data = {"gateway": {"port": self.port, "auth": {"token": TOKEN}}, "logging": logging}
        temporary = self.state / ".new"
        temporary.write_text(json.dumps(data) if text is None else text)
        temporary.replace(self.config)

    def start(self, *arguments: str, **environ: str) -> "Gateway":
        """Start it and wait until it is ready."""
        self.launch(*arguments, **environ)
        wait_until(self.ready, 15, "the gateway to be ready")
        return self

    def launch(self, *arguments: str, **environ: str) -> subprocess.Popen[Any]:
        """Start it, whatever becomes of it."""
        output = (self.state / "out").open("wb")
        with output:
            self.process = self.spawned.start(
                [sys.executable, "-m", "gateway", "run", *arguments],
                env={**self.environ, **environ},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self.process

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.state / "out").read_text()
        try:
            return self.get("/health/ready")[0] == 200
        except OSError:
            return False

    def get(self, path: str, secret: str | None = None, host: str = "127.0.0.1") -> tuple[int, Any]:
        request = urllib.request.Request(f"http://{host}:{self.port}{path}")
        if secret:
            request.add_header("Authorization", f"Bearer {secret}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as err:
            with err:
                return err.code, err.read()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def output(self) -> str:
        return (self.state / "out").read_text()

    def log(self) -> list[str]:
        """The texts in the file, oldest first."""
        (path,) = (self.state / "logs").glob("*.log")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [line.get("2") or line["1"] for line in lines]

    @contextlib.contextmanager
    def socket(self) -> Iterator[ClientConnection]:
        with connect(f"ws://127.0.0.1:{self.port}/", compression=None, max_size=2**25, proxy=None) as ws:
            assert json.loads(ws.recv(5))["event"] == "connect.challenge"
            yield ws

    @contextlib.contextmanager
    def client(self) -> Iterator[Callable[..., Any]]:
        """A connected client, as a function from method and params to the whole response."""
        with self.socket() as ws:

            def call(method: str, params: object = None) -> Any:
                ws.send(json.dumps({"type": "req", "id": "x", "method": method, "params": params or {}}))
                while (frame := json.loads(ws.recv(10))).get("id") != "x":
                    assert frame["type"] == "event"
                return frame

            hello = call("connect", connect_params())
            assert hello["payload"]["type"] == "hello-ok", hello
            yield call


def connect_params(**changes: Any) -> dict[str, Any]:
    return {
        "minProtocol": 3,
        "maxProtocol": 3,
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
        "scopes": ["operator.admin"],
        "auth": {"token": TOKEN},
        **changes,
    }


@pytest.fixture
def gateway(spawned: Spawned, state: Path, clean_env: dict[str, str], free_port: Callable[[], int]) -> Gateway:
    made = Gateway(spawned, state, clean_env, free_port())
    made.write()
    return made


@pytest.mark.req("GW-1", "GW-5", "SVC-9")
def test_it_starts_says_where_serves_both_addresses_and_stops_clean(gateway: Gateway) -> None:
    began = time.monotonic()
    gateway.start()
    assert time.monotonic() - began < 5  # a loaded machine; the figure itself is the benchmark's
    port = gateway.port
    assert gateway.log()[:4] == [
        "Gateway starting...",
        f"Config loaded from {gateway.config}",
        f"Gateway listening on http://127.0.0.1:{port}",
        f"listening on ws://127.0.0.1:{port} (PID {gateway.pid})",
    ]
    assert gateway.get("/health") == (200, {"status": "ok"})
    assert gateway.get("/health", host="[::1]") == (200, {"status": "ok"})
    status, report = gateway.get("/health", TOKEN)
    assert status == 200
    assert report["pid"] == gateway.pid
    assert 5_000_000 < report["memory"]["rss"] < 50_000_000
    assert (gateway.state / "gateway.pid").read_text() == f"{gateway.pid}\n"
    exit_file = gateway.state / "exit"
    assert gateway.stop() == 0
    assert not (gateway.state / "gateway.pid").exists()
    assert not exit_file.exists()
    assert "Received SIGTERM, shutting down gracefully..." in gateway.log()
    assert TOKEN not in gateway.output() + "".join(gateway.log())


@pytest.mark.req("GW-5")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_second_one_beside_it_leaves_its_pid_file_alone(
    gateway: Gateway, free_port: Callable[[], int], end: signal.Signals
) -> None:
    pid_file = gateway.state / "gateway.pid"
    gateway.start()
    second = Gateway(gateway.spawned, gateway.state, gateway.environ, free_port())
    second.start("--port", str(second.port))
    left = f"gateway.pid is left alone: another gateway of this state directory lives by it (PID {gateway.pid})"
    assert gateway.log().count(left) == 1
    assert pid_file.read_text() == f"{gateway.pid}\n"
    assert second.stop() == 0
    assert pid_file.read_text() == f"{gateway.pid}\n"
    gateway.stop(end)
    assert pid_file.exists() == (end == signal.SIGKILL)
    # What a dead one left is nobody's, whatever process has its number by now.
    pid_file.write_text(f"{os.getpid()}\n")
    gateway.start()
    assert pid_file.read_text() == f"{gateway.pid}\n"
    assert gateway.log().count(left) == 1
    assert gateway.stop() == 0
    assert not pid_file.exists()


@pytest.mark.parametrize("there", [None, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_a_pid_file_is_taken_away_by_who_wrote_it_only(tmp_path: Path, there: Callable[[Path], None] | None) -> None:
    path = tmp_path / "gateway.pid"
    if there is not None:
        there(path)
    before = os.listdir("/proc/self/fd")
    ours, beside, later = PidFile(path), PidFile(path), PidFile(path)
    assert ours.write() is None
    assert beside.write() == str(os.getpid())
    beside.remove()
    assert path.read_text() == f"{os.getpid()}\n"
    path.unlink()
    assert later.write() is None
    ours.remove()
    assert path.exists()
    later.remove()
    later.remove()
    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.req("GW-2", "GW-4")
def test_an_independent_client_connects_and_calls(gateway: Gateway) -> None:
    gateway.start(OPENCLAW_SPEC_DIGEST="digest-1")
    with gateway.client() as call:
        assert call("health")["payload"]["ok"] is True
        assert call("status")["payload"]["sessions"]["count"] == 0
        config = call("config.get")["payload"]
        assert config["config"]["gateway"] == {
            "port": gateway.port,
            "auth": {"token": "__OPENCLAW_REDACTED__"},
            "bind": "loopback",
            "tls": {"enabled": False},
            "reload": {"mode": "hybrid", "debounceMs": 300},
        }
        assert any("Gateway starting" in line for line in call("logs.tail")["payload"]["lines"])
        assert call("nope")["error"]["message"] == "unknown method: nope"
    assert gateway.get("/health", TOKEN)[1]["specDigest"] == "digest-1"


@pytest.mark.req("GW-2", "GW-3")
@pytest.mark.parametrize(
    ("changes", "message", "code"),
    [
        ({"auth": {"token": "wrong"}}, "unauthorized: gateway token mismatch (provide gateway auth token)", 1008),
        ({"auth": {}}, "device identity required", 1008),
        ({"minProtocol": 9, "maxProtocol": 9}, "protocol mismatch", 1002),
        ({"role": "king"}, "invalid role", 1008),
        ({"zzz": 1}, "invalid connect params: at root: unexpected property 'zzz'", 1008),
    ],
)
def test_a_refused_client_sees_the_words_and_the_close_code(
    gateway: Gateway, changes: dict[str, Any], message: str, code: int
) -> None:
    gateway.start()
    with gateway.socket() as ws:
        ws.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": connect_params(**changes)}))
        assert json.loads(ws.recv(5))["error"]["message"] == message
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, message)


@pytest.mark.req("GW-2")
def test_resets_slow_heads_and_oversized_messages_end_only_themselves(gateway: Gateway) -> None:
    gateway.start()
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key
    upgrade += b"Sec-WebSocket-Version: 13\r\n\r\n"
    for cut in (1, 30, len(upgrade) - 2, len(upgrade)):
        for _ in range(5):
            raw = socket.create_connection(("127.0.0.1", gateway.port))
            raw.sendall(upgrade[:cut])
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.close()  # a reset, in the middle
    slow = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(50)]
    for raw in slow:
        raw.sendall(b"GET /hea")
    with gateway.socket() as ws:
        ws.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": connect_params()}))
        assert json.loads(ws.recv(5))["ok"]
        with pytest.raises(ConnectionClosed) as closed:
            ws.send("x" * (25 * 1024 * 1024 + 1))
            while True:
                ws.recv(10)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert gateway.get("/health")[0] == 200
    for raw in slow:
        raw.settimeout(20)
        assert raw.recv(100) == b""  # the limit for a handshake
        raw.close()


@pytest.mark.req("GW-6")
def test_a_saved_change_is_in_force_in_the_same_process(gateway: Gateway) -> None:
    gateway.start()

    def level() -> str:
        with gateway.client() as call:
            return str(call("config.get")["payload"]["config"]["logging"]["level"])

    assert level() == "info"
    gateway.write(level="debug")
    wait_until(lambda: level() == "debug", 10, "the level to change")
    with gateway.config.open("w") as file:  # in place, in two halves
        file.write(f'{{"gateway": {{"port": {gateway.port}, "auth": {{"token": "{TOKEN}"}}}},')
        file.flush()
        time.sleep(0.05)
        file.write(' "logging": {"level": "warn"}}')
    wait_until(lambda: level() == "warn", 10, "the second change")
    gateway.config.unlink()
    wait_until(lambda: gateway.get("/health")[1] == {"status": "degraded"}, 15, "the deletion to be noticed")
    assert level() == "warn"
    gateway.write(level="info")
    wait_until(lambda: gateway.get("/health")[1] == {"status": "ok"}, 15, "the new file")
    assert level() == "info"
    assert gateway.process is not None
    assert gateway.process.poll() is None


@pytest.mark.req("GW-6")
def test_an_invalid_edit_keeps_the_last_good_and_is_said_everywhere(gateway: Gateway) -> None:
    gateway.write(level="debug")
    gateway.start()
    gateway.write('{"gateway": {"prt": 1}}')
    wait_until(lambda: gateway.get("/health") == (200, {"status": "degraded"}), 10, "the bad file to be noticed")
    error = 'gateway: Unrecognized key: "prt"'
    assert gateway.get("/health", TOKEN)[1]["parts"]["config"]["error"] == error
    with gateway.client() as call:
        assert call("status")["payload"]["loaded"]["error"] == error
        config = call("config.get")["payload"]
        assert (config["valid"], config["issues"]) == (
            False,
            [{"path": "gateway", "message": error.partition(": ")[2]}],
        )
        assert config["config"]["logging"]["level"] == "debug"
    assert f"config reload skipped (invalid config): {error}" in gateway.log()
    gateway.write(level="debug")
    wait_until(lambda: gateway.get("/health") == (200, {"status": "ok"}), 10, "the file to be good again")


@pytest.mark.req("GW-6", "PLAN-13")
@pytest.mark.parametrize("asked", ["SIGHUP", "rpc"])
def test_a_restart_class_change_is_owed_and_named_and_goes_away_when_taken_back(gateway: Gateway, asked: str) -> None:
    gateway.start(OPENCLAW_RELOAD_MODE="hot")

    def reload() -> None:
        if asked == "rpc":
            with gateway.client() as call:
                assert call("config.reload")["payload"]["ok"]
        else:
            os.kill(int((gateway.state / "gateway.pid").read_text()), signal.SIGHUP)

    def owed() -> list[str]:
        return list(gateway.get("/health", TOKEN)[1]["parts"]["config"]["restartOwed"])

    before = gateway.config.read_text()
    gateway.write(before.replace(str(gateway.port), "2222"))
    reload()
    wait_until(lambda: owed() == ["gateway.port"], 10, "the port to be owed")
    assert "Gateway port change requires restart" in gateway.log()
    assert "config reload requires gateway restart; hot mode ignoring (gateway.port)" in gateway.log()
    gateway.write(before)
    reload()
    wait_until(lambda: owed() == [], 10, "nothing to be owed")


@pytest.mark.req("SVC-9", "SVC-11")
def test_sigterm_says_goodbye_and_leaves_its_reason(gateway: Gateway) -> None:
    exit_file = gateway.state / "exit.json"
    gateway.start(OPENCLAW_EXIT_FILE=str(exit_file))
    with gateway.socket() as ws:
        ws.send(json.dumps({"type": "req", "id": "1", "method": "connect", "params": connect_params()}))
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGUSR1)
        wait_until(lambda: "SIGUSR1 ignored" in gateway.output(), 5, "SIGUSR1 to be ignored")
        gateway.process.send_signal(signal.SIGINT)
        frames = []
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                frames.append(json.loads(ws.recv(10)))
    assert frames[-1]["event"] == "shutdown"
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "service restart")
    assert gateway.process.wait(10) == 0
    assert json.loads(exit_file.read_text()) == {"code": 0, "reason": "SIGINT", "pid": gateway.pid}


@pytest.mark.req("GW-1")
def test_a_taken_port_is_exit_1_in_the_real_products_words(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", gateway.port)):
        process = gateway.launch(OPENCLAW_EXIT_FILE=str(gateway.state / "exit.json"))
        assert process.wait(15) == 1
    text = f"another gateway instance is already listening on ws://127.0.0.1:{gateway.port}"
    assert text in gateway.output()
    assert json.loads((gateway.state / "exit.json").read_text())["reason"] == text


@pytest.mark.req("DOC-2", "GW-3")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            '{"gateway": {"port": 0, "x": 1}}',
            [
                "Config validation failed:",
                '  gateway: Unrecognized key: "x"',
                "  gateway.port: Invalid input: expected a port from 1 to 65535, received 0",
            ],
        ),
        (
            "{gateway: {",
            [
                "Config validation failed:",
                "  openclaw.json: JSON5 parse failed: SyntaxError: JSON5: invalid end of input at 1:12",
            ],
        ),
        (
            '{gateway: {bind: "lan"}}',
            [
                "Config validation failed:",
                (
                    "  gateway.auth: refusing to bind gateway to lan without auth (set gateway.auth.token/password, "
                    "or set OPENCLAW_GATEWAY_TOKEN/OPENCLAW_GATEWAY_PASSWORD)"
                ),
            ],
        ),
    ],
)
def test_a_bad_config_is_exit_78_with_every_problem(gateway: Gateway, text: str, lines: list[str]) -> None:
    gateway.write(text)
    assert gateway.launch().wait(15) == 78
    assert gateway.output().splitlines() == lines


@pytest.mark.req("GW-1")
def test_tls_serves_and_a_key_that_cannot_be_read_is_said(gateway: Gateway) -> None:
    cert, key = gateway.state / "cert.pem", gateway.state / "key.pem"
    made = run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x", "-keyout", key, "-out", cert]
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    tls = {"enabled": True, "certPath": str(cert), "keyPath": str(key)}
    text = json.dumps({"gateway": {"port": gateway.port, "auth": {"token": TOKEN}, "tls": tls}})
    gateway.write(text)
    gateway.launch()
    context = unverified_context()
    wait_until(lambda: _tls_answers(gateway.port, context), 15, "TLS to answer")
    plain = socket.create_connection(("127.0.0.1", gateway.port))
    plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")  # harms nobody
    with connect(f"wss://127.0.0.1:{gateway.port}", ssl=context, proxy=None, compression=None) as ws:
        assert json.loads(ws.recv(5))["event"] == "connect.challenge"
    plain.close()
    assert gateway.stop() == 0
    key.unlink()
    assert gateway.launch().wait(15) == 78
    assert f"cannot read the TLS key (gateway.tls.keyPath) {key}: No such file or directory" in gateway.output()


def _tls_answers(port: int, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/health", context=context, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.req("SVC-2")
def test_a_service_manager_is_told_when_it_really_serves(gateway: Gateway) -> None:
    address = str(gateway.state / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(15)
        gateway.launch(NOTIFY_SOCKET=address)
        assert manager.recv(100) == b"READY=1"
        assert gateway.get("/health/ready")[0] == 200
        assert gateway.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.req("DOC-4")
def test_files_are_private_and_the_secret_is_nowhere_to_be_seen(gateway: Gateway) -> None:
    gateway.write(json.dumps({"gateway": {"port": gateway.port, "auth": {"token": "${OPENCLAW_GATEWAY_TOKEN}"}}}))
    gateway.start(OPENCLAW_GATEWAY_TOKEN=TOKEN)
    with gateway.client() as call:
        assert TOKEN not in json.dumps(call("config.get"))
        assert TOKEN not in json.dumps(call("logs.tail"))
    for path in (gateway.state / "gateway.pid", *(gateway.state / "logs").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert TOKEN.encode() not in Path(f"/proc/{gateway.pid}/cmdline").read_bytes()
    assert gateway.stop() == 0


async def test_our_own_client_calls_hears_events_and_raises_its_own_errors(gateway: Gateway) -> None:
    gateway.start()
    url = f"ws://127.0.0.1:{gateway.port}"
    async with open_client(url, token=TOKEN) as client:
        assert client.hello["protocol"] == 3
        assert (await client.call("health"))["ok"] is True
        with pytest.raises(CallError, match="nope: unknown method: nope") as failed:
            await client.call("nope")
        assert failed.value.code == "INVALID_REQUEST"
        async for event in client.events():
            assert event.event == "health"
            break
    with pytest.raises(ConnectRefused) as refused:
        async with open_client(url, token="wrong"):
            pass
    assert refused.value.message == "unauthorized: gateway token mismatch (provide gateway auth token)"
    assert await get_health("127.0.0.1", gateway.port) == (200, {"status": "ok"})
    status, report = await get_health("127.0.0.1", gateway.port, TOKEN)
    assert (status, report["pid"]) == (200, gateway.pid)
    gateway.stop()
    with pytest.raises(ClientError, match="cannot reach the gateway"):
        await get_health("127.0.0.1", gateway.port)
    with pytest.raises(ClientError, match="cannot reach the gateway"):
        async with open_client(url, token=TOKEN):
            pass


@pytest.mark.req("GW-5", "DOC-4")
@pytest.mark.parametrize("secret", ["grün-😀", "in two words", "no-utf8-\udcff", "\u00a0blanks-of-its-own\u00a0"])
async def test_a_secret_comes_through_a_header_as_it_is(gateway: Gateway, secret: str) -> None:
    gateway.write("{}")
    gateway.start("--port", str(gateway.port), OPENCLAW_GATEWAY_TOKEN=secret)
    assert "parts" in (await get_health("127.0.0.1", gateway.port, secret))[1]
    assert "parts" not in (await get_health("127.0.0.1", gateway.port, secret[:-1]))[1]


@pytest.mark.req("GW-5", "DOC-4")
@pytest.mark.parametrize("secret", ["ends-with-a-line\n", " blank", "two\r\nlines", "control\x01", "", "\ud800"])
async def test_a_secret_that_no_header_carries_is_not_shown_in_another_form(gateway: Gateway, secret: str) -> None:
    assert in_header(secret) is None
    gateway.start()
    assert await get_health("127.0.0.1", gateway.port, secret) == (200, {"status": "ok"})


def test_the_client_alone_loads_neither_http_nor_websocket_libraries() -> None:
    code = (
        "import sys, gateway.client; print(*sorted({'h11', 'wsproto', 'trio_websocket', 'orjson'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code]).stdout.strip() == ""
    code = "import sys, gateway.app; print(*sorted({'pydantic', 'rich', 'httpx', 'structlog', 'ruamel'} & set(sys.modules)))"
    assert run([sys.executable, "-c", code]).stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "a command is missing"),
        (["walk"], "unknown command: walk"),
        (["run", "--port", "x"], "--port must be from 1 to 65535, not 'x'"),
        (["run", "--config"], "--config needs a value"),
        (["run", "--what"], "unknown argument: --what"),
    ],
)
def test_a_wrong_command_line_is_exit_64(arguments: list[str], text: str) -> None:
    result = run([sys.executable, "-m", "gateway", *arguments])
    assert result.returncode == 64
    assert result.stderr.startswith(text)
    assert "usage: python -m gateway run" in result.stderr


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_a_config_that_somebody_named_and_that_is_missing_is_exit_78(gateway: Gateway, by: str) -> None:
    path = gateway.state / "typo.json"
    words, environ = (("--config", str(path)), {}) if by == "argument" else ((), {"OPENCLAW_CONFIG_PATH": str(path)})
    assert gateway.launch(*words, **environ).wait(15) == 78
    assert f"typo.json: there is no such file: {path}" in (gateway.state / "out").read_text()


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION
