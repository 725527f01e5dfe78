"""A supervisor's handlers that answer from values, served on a real Unix socket."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.control.calls import ApplyCall, CommandCall, Data, Identity, Session, StopCall
from reconciler.control.server import Server
from reconciler.errors import BlockedError
from reconciler.model import Key


@dataclass
class FakeSupervisor:
    """Handlers whose answers are set by the test, and which remember what they were asked."""

    document: str = "/etc/openclaw/openclaw.yaml"
    names: tuple[str, ...] = ("OPENCLAW_GATEWAY_TOKEN", "HOME")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    command: Callable[[CommandCall, Session], Awaitable[int]] | None = None
    asked: list[Any] = field(default_factory=list)
    crashes: list[Exception] = field(default_factory=list)
    who: Identity | None = None

    def identity(self) -> Identity:
        if self.who is None:
            self.who = Identity.of(self.document, "0.1.0", self.names, self.environ)
        return self.who

    async def run_command(self, call: CommandCall, session: Session) -> int:
        self.asked.append(call)
        if self.command is not None:
            return await self.command(call, session)
        session.err("looking\n")
        session.out("no changes\n")
        return 0

    async def apply(self, call: ApplyCall) -> Data:
        self.asked.append(call)
        if "service/gateway" not in call.approve:
            raise BlockedError("cannot apply: approval is missing", hint="grant it")
        return {"schema": "openclaw.apply/1", "result": "confirmed"}

    async def status(self, deep: bool) -> Data:
        return {"schema": "openclaw.status/1", "deep": deep}

    async def history(self, limit: int | None) -> Data:
        return {"schema": "openclaw.history/1", "limit": limit}

    async def reconcile(self, key: Key | None) -> Data:
        return {"queued": [str(key)] if key else ["all"]}

    async def reload(self) -> Data:
        raise RuntimeError("a bug with a canary-secret-1234 in it")

    async def stop(self, call: StopCall) -> Data:
        return {"stopping": True, "on_exit": call.on_exit}

    async def events(self, send: Callable[[Data], Awaitable[None]]) -> None:
        for number in range(3):
            await send({"number": number})

    def crashed(self, err: Exception) -> str:
        self.crashes.append(err)
        return f"crash-{len(self.crashes)}"


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory with a short path: addresses of Unix sockets hold 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="oc-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


@asynccontextmanager
async def serving(supervisor: FakeSupervisor, path: Path) -> AsyncIterator[Server]:
    """The control API on a real socket."""
    async with trio.open_nursery() as nursery:
        server = Server(supervisor, path, crashed=supervisor.crashed)
        await nursery.start(server.serve)
        yield server
        nursery.cancel_scope.cancel()
