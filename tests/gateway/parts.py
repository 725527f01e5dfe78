"""A gateway's inside without its process: real parts over streams in memory, for the server's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import trio
import trio_websocket
from trio.testing import lockstep_stream_pair, memory_stream_pair

from gateway.config import Settings, read_file
from gateway.health import Health
from gateway.live import LiveConfig
from gateway.log import DailyFile, Log
from gateway.methods import Services
from gateway.presence import Presence
from gateway.reload import Reloader
from gateway.runtime import Runtime
from gateway.server import Server
from gateway.wire.connect import AuthMode

CONFIG = '{gateway: {auth: {token: "the-token"}}}'
CONNECT = {
    "minProtocol": 3,
    "maxProtocol": 3,
    "client": {"id": "test", "version": "1", "platform": "linux", "mode": "test"},
    "auth": {"token": "the-token"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """The parts of one gateway; `path` is its config."""

    runtime: Runtime
    server: Server
    health: Health
    reloader: Reloader
    path: Path
    settings: Settings


def make(directory: Path, config: str = CONFIG, environ: dict[str, str] | None = None) -> Inside:
    """A gateway that counts as listening."""
    path = directory / "openclaw.json"
    path.write_text(config)
    environ = environ or {"OPENCLAW_LOG_DIR": str(directory / "logs")}
    snapshot = read_file(path, environ)
    assert snapshot.settings is not None, snapshot.issues
    log = Log(DailyFile(directory / "logs"))
    log.configure(level="debug", console_level="silent", console_style=None, directory=None, secrets=())
    runtime = Runtime(
        version="9.9.9",
        state_dir=directory,
        environ=environ,
        config=LiveConfig(path, environ, snapshot),
        log=log,
        presence=Presence("9.9.9", host="testhost"),
        listening=("ws://127.0.0.1:1",),
    )
    health, reloader = Health(runtime), Reloader(runtime)
    services = Services(
        runtime=runtime,
        health=health,
        request_health=lambda: server.request_health(),
        reload_config=reloader.reload,
    )
    server = Server(services, snapshot.settings.secret)
    assert snapshot.settings.secret.mode is AuthMode.TOKEN
    return Inside(
        runtime=runtime, server=server, health=health, reloader=reloader, path=path, settings=snapshot.settings
    )


class Caller:
    """A bare client: raw JSON over one WebSocket."""

    def __init__(self, ws: trio_websocket.WebSocketConnection) -> None:
        self.ws = ws

    async def send(self, data: object) -> None:
        """One message; text goes out as it is."""
        await self.ws.send_message(data if isinstance(data, str) else orjson.dumps(data).decode())

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        frame = orjson.loads(await self.ws.get_message())
        assert isinstance(frame, dict)
        return frame

    async def call(self, method: str, params: object = None, *, id_: str = "c") -> dict[str, Any]:
        """A request, and the response of its id; events before it are passed over."""
        await self.send({"type": "req", "id": id_, "method": method, "params": params or {}})
        while (frame := await self.next()).get("id") != id_:
            assert frame["type"] == "event"
        return frame

    async def closed(self) -> tuple[int, str]:
        """Wait for the close; its code and reason."""
        try:
            while True:
                await self.ws.get_message()
        except trio_websocket.ConnectionClosed as err:
            reason = err.reason
        return (reason.code, reason.reason or "") if reason else (1006, "")


@asynccontextmanager
async def caller(inside: Inside, *, lockstep: bool = False) -> AsyncIterator[Caller]:
    """A WebSocket to the gateway, nothing said yet but the challenge. `lockstep`: the wire holds nothing on its own."""
    near, far = lockstep_stream_pair() if lockstep else memory_stream_pair()

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await inside.server.serve(far)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        ws = await trio_websocket.wrap_client_stream(nursery, near, "localhost", "/any/path", max_message_size=2**25)  # type: ignore[arg-type]
        yield Caller(ws)
        await near.aclose()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(inside: Inside, *, lockstep: bool = False, **changes: object) -> AsyncIterator[Caller]:
    """A client that was let in."""
    async with caller(inside, lockstep=lockstep) as client:
        assert (await client.next())["event"] == "connect.challenge"
        hello = await client.call("connect", CONNECT | changes)
        assert hello["ok"], hello
        yield client
