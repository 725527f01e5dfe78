"""The control socket itself: a real one, with curl, other users and the leftovers of dead supervisors."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.control.server import MAX_CONNECTIONS, Server
from reconciler.errors import LockedError, NotPermittedError
from tests.reconciler.control.conftest import FakeSupervisor, serving

pytestmark = pytest.mark.real


@pytest.fixture
def path(state: Path) -> Path:
    return state / "reconciler" / "control.sock"


async def curl(path: Path, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.CompletedProcess[bytes]:
    command = [*wrapper, "curl", "-sS", "--max-time", "20", "--unix-socket", str(path), *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def get(path: Path, target: str, *arguments: str) -> Any:
    return json.loads((await curl(path, f"http://openclaw{target}", *arguments)).stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_reads_and_commands_it(supervisor: FakeSupervisor, path: Path) -> None:
    async with serving(supervisor, path):
        who = await get(path, "/v1")
        assert (who["server"], who["pid"], who["document"]) == ("openclaw", os.getpid(), supervisor.document)
        assert bytes.fromhex(who["salt"]) == supervisor.identity().salt
        assert (await get(path, "/v1/status?deep=1"))["deep"] is True
        assert (await get(path, "/v1/history?limit=3"))["limit"] == 3
        assert await get(path, "/v1/reconcile", "--json", '{"key": "tunnel/office"}') == {"queued": ["tunnel/office"]}
        assert (await get(path, "/v1/apply", "-d", "{}"))["error"]["exit"] == 3
        events = await curl(path, "http://openclaw/v1/events")
        assert events.stdout.startswith(b'data: {"number":0}\n\ndata: ')
        large = await curl(path, "http://openclaw/v1/apply", "-d", "x" * 100_000, "-w", "%{http_code}")
        assert large.stdout.endswith(b"400")


async def test_the_socket_is_its_owners_and_gone_afterwards(supervisor: FakeSupervisor, path: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(supervisor, path):
            modes = [item.stat().st_mode & 0o777 for item in (path, path.parent)]
    finally:
        os.umask(before)
    assert modes == [0o600, 0o700]
    assert path not in tuple(path.parent.iterdir())


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become somebody else")
async def test_another_user_is_refused_even_where_the_modes_let_it_in(supervisor: FakeSupervisor, path: Path) -> None:
    stranger = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    async with serving(supervisor, path):
        closed = await curl(path, "http://openclaw/v1/status", wrapper=stranger)
        assert closed.returncode == 7
        for item, mode in ((path.parent.parent, 0o755), (path.parent, 0o755), (path, 0o666)):
            os.chmod(item, mode)
        answer = await curl(path, "http://openclaw/v1/status", "-w", "%{http_code}", wrapper=stranger)
        assert answer.stdout.endswith(b"403")
        assert json.loads(answer.stdout.removesuffix(b"403"))["error"]["exit"] == 77
        posted = await curl(
            path, "http://openclaw/v1/stop", "-d", "{}", "-o", "/dev/null", "-w", "%{http_code}", wrapper=stranger
        )
        assert posted.stdout == b"403"
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"
    assert supervisor.asked == []


async def test_a_second_supervisor_is_refused_and_harms_nothing(supervisor: FakeSupervisor, path: Path) -> None:
    async with serving(supervisor, path):
        with pytest.raises(LockedError, match="another supervisor does"):
            await Server(supervisor, path, crashed=supervisor.crashed).serve()
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"


async def test_the_socket_of_a_dead_supervisor_is_replaced(supervisor: FakeSupervisor, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(supervisor, path):
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"


async def test_a_socket_on_which_somebody_answers_is_left_alone(supervisor: FakeSupervisor, path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(LockedError, match="another process does"):
            await Server(supervisor, path, crashed=supervisor.crashed).serve()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


async def asked(client: trio.SocketStream) -> bool:
    """Whether a request over this connection is answered."""
    with trio.fail_after(10):
        await client.send_all(b"GET /v1/status HTTP/1.1\r\nHost: openclaw\r\n\r\n")
        return bytes(await client.receive_some()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("lost", [("control.sock",), ("control.sock.lock",), ("control.sock", "control.sock.lock")])
async def test_a_socket_that_was_deleted_is_bound_anew_and_conversations_go_on(
    supervisor: FakeSupervisor, path: Path, lost: tuple[str, ...]
) -> None:
    async with serving(supervisor, path) as server, await trio.open_unix_socket(str(path)) as client:
        before = (server.in_place, await asked(client))
        for name in lost:
            os.unlink(path.with_name(name))
        astray = not server.in_place
        await server.bind_anew()
        assert (before, astray, server.in_place) == ((True, True), True, True)
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"
        with pytest.raises(LockedError, match="another supervisor does"):
            await Server(supervisor, path, crashed=supervisor.crashed).serve()
        assert await asked(client)
    assert path not in tuple(path.parent.iterdir())


async def test_where_it_cannot_be_bound_anew_it_is_once_it_can(supervisor: FakeSupervisor, path: Path) -> None:
    async with serving(supervisor, path) as server:
        os.unlink(path)
        os.mkdir(path)
        with pytest.raises(NotPermittedError, match="something else"):
            await server.bind_anew()
        assert not server.in_place
        os.rmdir(path)
        await server.bind_anew()
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"


async def test_something_else_in_its_place_is_left_alone(supervisor: FakeSupervisor, state: Path) -> None:
    (state / "precious").write_text("data")
    with pytest.raises(NotPermittedError, match="something else"):
        await Server(supervisor, state / "precious", crashed=supervisor.crashed).serve()
    assert (state / "precious").read_text() == "data"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
async def test_a_directory_of_another_user_is_refused(supervisor: FakeSupervisor, state: Path) -> None:
    runtime = state / "openclaw-run-0"
    (runtime / "openclaw-1").mkdir(parents=True)
    os.chown(runtime, 65534, 65534)
    with pytest.raises(NotPermittedError, match="another user"):
        await Server(supervisor, runtime / "openclaw-1" / "control.sock", crashed=supervisor.crashed).serve()


async def test_garbage_resets_and_silence_of_some_do_not_concern_others(supervisor: FakeSupervisor, path: Path) -> None:
    async with serving(supervisor, path):
        for data in (b"", b"\0" * 100, b"GET /v1/sta", b"\xff" * 100_000, b"POST /v1/apply HTTP/1.1\r\n"):
            client = await trio.open_unix_socket(str(path))
            with suppress(trio.BrokenResourceError):
                await client.send_all(data)
            await client.aclose()
        silent = [await trio.open_unix_socket(str(path)) for _ in range(10)]
        assert (await get(path, "/v1/status"))["schema"] == "openclaw.status/1"
        for client in silent:
            await client.aclose()
    assert supervisor.crashes == []


async def test_more_clients_than_it_serves_are_told_so(supervisor: FakeSupervisor, path: Path) -> None:
    async with serving(supervisor, path):
        crowd = [await trio.open_unix_socket(str(path)) for _ in range(MAX_CONNECTIONS)]
        refused = (await get(path, "/v1/status"))["error"]
        assert (refused["exit"], refused["message"]) == (69, "cannot serve more clients at once")
        for client in crowd:
            await client.aclose()
        with trio.fail_after(10):
            while "error" in await get(path, "/v1/status"):
                pass  # each look is a process, and so a pause
