"""Worlds for tests of the kind: a short state directory, a small gateway that really listens, documents, one pass of work."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reconciler.desired import Desired, Gateway, Limits, Logging, Restart, SecretRef, Service, Stop
from reconciler.host import Host
from reconciler.kinds import Applied, KindPlan, Observation, Step, Wanted, World
from reconciler.model import Action, DocumentPath
from reconciler.planning.differences import differences
from resources.service.kind import ServiceKind
from resources.service.spec import KEY, Program
from resources.testing import FakeSecrets, make_desired, make_world
from tests.beds.processes import end_state
from tests.resources.contract import recorded

# Listens on PORT, says Ready, answers every request with 200; ends on SIGTERM with 0 and a word. FAIL is an exit code to end
# with, SILENT one to end with without a word.
GATEWAY = """
import os, signal, socket, sys
def end(*_):
    print("stopped: SIGTERM", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
if os.environ.get("SILENT"):
    os._exit(int(os.environ["SILENT"]))
if os.environ.get("FAIL"):
    print("first line")
    print("it is", os.environ["FAIL"], os.environ.get("OPENCLAW_GATEWAY_TOKEN", ""), flush=True)
    sys.exit(int(os.environ["FAIL"]))
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
    ready.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    peer, _ = server.accept()
    with peer:
        peer.recv(65536)
        peer.sendall(b'HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n{"status": "ok"}')
"""
TOKEN = SecretRef("env", "OPENCLAW_GATEWAY_TOKEN")
CANARY = "canary-7f3a"


def program(host: Host) -> Program:
    return Program(argv=(sys.executable, "-S", "-c", GATEWAY))


def service(
    port: int, *, state: str = "running", environment: Mapping[str, str | SecretRef] | None = None, **more: Any
) -> Service:
    values: dict[str, Any] = {
        "runtime": "builtin",
        "manager": "auto",
        "limits": Limits(memory_bytes=None, cpu_percent=None, files=None),
        "restart": Restart(delay_seconds=0.1, max_delay_seconds=0.4, burst=3, window_seconds=60.0, never_on_exit=(78,)),
        "stop": Stop(drain_seconds=0.0, grace_seconds=5.0),
        **more,
    }
    return Service(state=state, environment={"PORT": str(port), **(environment or {})}, **values)


def gateway(port: int | None, **more: Any) -> Gateway:
    values: dict[str, Any] = dict.fromkeys(
        ("bind", "host", "auth_mode", "password", "tls_enabled", "tls_cert", "tls_key")
    )
    return Gateway(port=port, **{**values, "token": TOKEN, "settings": {}, **more})


def document(
    port: int,
    *,
    declared: frozenset[DocumentPath] = frozenset({("gateway", "port"), ("service", "state")}),
    gateway_section: Gateway | None = None,
    logging: Logging | None = None,
    **more: Any,
) -> Desired:
    return make_desired(
        service=service(port, **more),
        gateway=gateway(port) if gateway_section is None else gateway_section,
        logging=logging,
        declared=declared,
    )


class Bench:
    """One state directory with a kind, and the account of what was applied."""

    def __init__(self, environ: Mapping[str, str] | None = None, kind: ServiceKind | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
        self.kind = ServiceKind(program=program) if kind is None else kind
        self.secrets = FakeSecrets({str(TOKEN): CANARY, "env:WORD": "one"})
        self.world: World = make_world(
            self.directory, secrets=self.secrets, environ={"PATH": os.environ["PATH"], **(environ or {})}
        )
        self.applied: Applied = {}

    @property
    def root(self) -> Path:
        return self.world.host.state.root

    def close(self) -> None:
        try:
            end_state(self.root)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    async def step(self, desired: Desired) -> Step:
        resources = self.kind.declare(desired, self.world.host, self.secrets)
        resource = resources[0] if resources else None
        observation = await self.observe(desired)
        return Step(
            key=KEY,
            resource=resource,
            observation=observation,
            differences=differences(resource, observation, self.applied),
            applied=self.applied,
        )

    async def observe(self, desired: Desired) -> Observation:
        resources = self.kind.declare(desired, self.world.host, self.secrets)
        wanted = Wanted(key=KEY, resource=resources[0] if resources else None, applied=self.applied)
        (observation,) = await self.kind.observe((wanted,), self.world)
        return observation

    async def plan(self, desired: Desired) -> KindPlan:
        return self.kind.plan(await self.step(desired))

    async def apply(self, desired: Desired) -> list[Action]:
        """Plans and does everything; returns what was done."""
        step = await self.step(desired)
        plan = self.kind.plan(step)
        assert not plan.blocked, plan.blocked
        for action in plan.actions:
            await self.kind.apply(action, step.resource, self.world)
        self.applied = recorded(step) if step.resource is not None else {}
        return list(plan.actions)

    async def verbs(self, desired: Desired) -> list[str]:
        return [action.verb for action in (await self.plan(desired)).actions]

    async def shown(self, desired: Desired) -> Mapping[str, Any]:
        return (await self.observe(desired)).shown

    async def ready(self, desired: Desired) -> str:
        """The reason of its health."""
        (resource,) = self.kind.declare(desired, self.world.host, self.secrets)
        health = await self.kind.probe(KEY, resource, self.world)
        assert health.ready == (health.reason in ("Ready", "Stopped"))
        assert health.excused == (health.reason == "Suspended")
        return health.reason
