"""The gateway-config kind with the real built-in gateway: told of a new file, asked what it runs by, and refused by it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from gateway.wire.json5 import parse
from reconciler.desired import Desired, SecretRef
from reconciler.errors import TemporaryError, TerminalError
from reconciler.files import replace_file
from reconciler.kinds import Observation
from reconciler.model import Cause, Impact
from resources.gateway_config import running
from resources.gateway_config.fields import ConfigSpec
from resources.gateway_config.kind import GatewayConfigKind
from resources.gateway_config.running import Address, address, ask, reload, serving
from resources.testing import FakeSecrets, make_desired, make_world
from tests.beds.processes import Spawned, wait_until
from tests.resources.contract import Case, carry_out, look
from tests.resources.gateway_config.test_kind import gateway, logging

pytestmark = pytest.mark.real
TOKEN = "a-token-of-tests"


class Bed:
    """A gateway that reads the case's openclaw.json, which was made by the kind itself."""

    def __init__(self, directory: Path, port: int, spawned: Spawned) -> None:
        self.port = port
        self._directory, self._spawned = directory, spawned
        self.case = Case(
            kind=GatewayConfigKind(),
            world=make_world(directory, secrets=FakeSecrets({"env:TOKEN": TOKEN})),
            desired=self.document("info"),
            root=directory,
        )

    @property
    def config(self) -> Path:
        return self.case.world.host.state.config

    def document(self, level: str, port: int | None = None) -> Desired:
        return make_desired(
            gateway=gateway(port=port or self.port, auth_mode="token", token=SecretRef("env", "TOKEN")),
            logging=logging(level=level),
        )

    def where(self, token: str = TOKEN) -> Address:
        return Address(host="127.0.0.1", port=self.port, state=str(self.case.world.host.state.root), token=token)

    def start(self) -> None:
        env = {
            **os.environ,
            "OPENCLAW_STATE_DIR": str(self.config.parent),
            "OPENCLAW_GATEWAY_TOKEN": TOKEN,
            # It is told, it does not look: what it runs by is then our doing alone.
            "OPENCLAW_RELOAD_MODE": "off",
        }
        out = (self._directory / "out").open("wb")
        with closing(out):
            argv = [sys.executable, "-m", "gateway", "run"]
            self.pid = self._spawned.start(argv, env=env, stdout=out, stderr=out).pid
        wait_until(lambda: serving(self.where()), 20, "the gateway to listen")


@pytest.fixture
def bed(tmp_path: Path, spawned: Spawned, free_port: Callable[[], int]) -> Bed:
    return Bed(tmp_path, free_port(), spawned)


async def started(bed: Bed) -> None:
    await carry_out(bed.case, await look(bed.case, bed.case.desired))
    bed.start()


def detail(observation: Observation) -> running.Loaded | None:
    loaded = observation.detail.loaded
    assert loaded is None or isinstance(loaded, running.Loaded)
    return loaded


@pytest.mark.req("GW-6", "PLAN-13")
async def test_a_hot_change_reaches_the_running_gateway(bed: Bed) -> None:
    await started(bed)
    assert (await look(bed.case, bed.case.desired)).converged
    changed = bed.document("debug")
    seen = await look(bed.case, changed)
    assert [(action.verb, action.impact) for action in seen.actions] == [
        ("write", Impact.HOT_RELOAD),
        ("reload", Impact.HOT_RELOAD),
    ]
    await carry_out(bed.case, seen)
    after = await look(bed.case, changed)
    assert after.converged
    loaded = detail(after.observations[0])
    assert loaded is not None
    assert loaded.digest == after.observations[0].shown["hash"]
    resource = after.wanted[0].resource
    assert resource is not None
    assert (await bed.case.kind.probe(resource.key, resource, bed.case.world)).ready


@pytest.mark.req("PLAN-7", "PLAN-13")
async def test_a_gateway_that_hangs_is_not_ready_and_forbids_what_it_would_have_to_be_told(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(bed)
    monkeypatch.setattr(running, "ANSWER_SECONDS", 0.3)
    os.kill(bed.pid, signal.SIGSTOP)
    try:
        seen = await look(bed.case, bed.document("debug"))
        (blocked,) = seen.plans[0].blocked
        assert (blocked.code, f"port {bed.port} does not answer" in blocked.message) == ("gateway_silent", True)
        # Whoever goes back all the same writes the file, and tells nobody.
        assert [action.verb for action in seen.actions] == ["write"]
        resource = seen.wanted[0].resource
        assert resource is not None
        health = await bed.case.kind.probe(resource.key, resource, bed.case.world)
        assert (health.ready, health.reason) == (False, "Differs")
        (same,) = (await look(bed.case, bed.case.desired)).wanted
        assert same.resource is not None
        health = await bed.case.kind.probe(same.key, same.resource, bed.case.world)
        assert (health.ready, health.reason) == (False, "NoAnswer")
    finally:
        os.kill(bed.pid, signal.SIGCONT)
    assert [action.verb for action in (await look(bed.case, bed.document("debug"))).actions] == ["write", "reload"]


@pytest.mark.req("PLAN-13")
async def test_a_reload_that_was_never_reached_is_still_owed(bed: Bed) -> None:
    await started(bed)
    changed = bed.document("debug")
    seen = await look(bed.case, changed)
    write, _ = seen.actions
    await bed.case.kind.apply(write, seen.wanted[0].resource, bed.case.world)
    again = await look(bed.case, changed)
    assert [(action.verb, action.cause) for action in again.actions] == [("reload", Cause.OWED)]
    resource = again.wanted[0].resource
    assert resource is not None
    health = await bed.case.kind.probe(resource.key, resource, bed.case.world)
    assert (health.ready, health.reason) == (False, "NotLoaded")
    await carry_out(bed.case, again)
    assert (await look(bed.case, changed)).converged


@pytest.mark.req("PLAN-13")
async def test_a_gateway_that_never_came_to_the_port_in_the_file_is_told_where_it_is(
    bed: Bed, free_port: Callable[[], int]
) -> None:
    """The writer of a new port died before the restart; now the old port is declared again."""
    await started(bed)
    elsewhere = await look(bed.case, bed.document("debug", port=free_port()))
    await bed.case.kind.apply(elsewhere.actions[0], elsewhere.wanted[0].resource, bed.case.world)
    back = await look(bed.case, bed.document("debug"))
    assert [action.verb for action in back.actions] == ["write", "reload"]
    await carry_out(bed.case, back)
    assert (await look(bed.case, bed.document("debug"))).converged


async def test_a_file_that_the_gateway_refuses_is_said_with_its_reason(bed: Bed) -> None:
    await started(bed)
    changed = bed.document("debug")
    data = json.loads(bed.config.read_text())
    bed.config.write_text(json.dumps({**data, "hookz": {}}))
    seen = await look(bed.case, changed)
    write, told = seen.actions
    await bed.case.kind.apply(write, seen.wanted[0].resource, bed.case.world)
    with pytest.raises(TerminalError, match="hookz"):
        await bed.case.kind.apply(told, seen.wanted[0].resource, bed.case.world)
    after = await look(bed.case, changed)
    assert [(item.type, item.reason) for item in after.observations[0].conditions] == [("Degraded", "Rejected")]
    resource = after.wanted[0].resource
    assert resource is not None
    health = await bed.case.kind.probe(resource.key, resource, bed.case.world)
    assert (health.ready, health.final) == (False, True)
    assert "hookz" in health.message


async def test_a_gateway_with_another_secret_says_nothing_and_is_no_reason_to_fail(bed: Bed) -> None:
    await started(bed)
    where = bed.where("another")
    loaded = await ask(where)
    assert loaded is not None
    assert (loaded.digest, loaded.shut) == (None, False)
    with pytest.raises(TemporaryError, match=r"refused|unauthorized"):
        await reload(where)


@pytest.mark.req("PLAN-13")
@pytest.mark.parametrize(
    ("secret", "shut"),
    [("another", True), ("änder-😀", True), (TOKEN, False), (f"{TOKEN}\n", False), (f" {TOKEN}", False)],
)
async def test_a_gateway_is_shut_to_a_declared_secret_that_it_was_shown(bed: Bed, secret: str, shut: bool) -> None:
    await started(bed)
    loaded = await ask(replace(bed.where(secret), declared=True))
    assert loaded is not None
    assert loaded.shut is shut


@pytest.mark.req("PLAN-13", "GW-5")
@pytest.mark.parametrize(
    ("auth", "declared", "asked"),
    [
        ({}, {"token"}, ("of-token", True)),
        ({}, {"password"}, ("of-password", True)),
        ({}, {"token", "password"}, ("of-password", True)),
        ({"mode": "token"}, {"token", "password"}, ("of-token", True)),
        ({"mode": "password"}, {"token", "password"}, ("of-password", True)),
        ({"mode": "none"}, {"token"}, ("of-token", True)),
        ({"password": "theirs"}, {"token"}, ("theirs", False)),
        ({"mode": "password", "password": "theirs"}, {"token"}, ("theirs", False)),
        ({"token": "theirs"}, set(), ("theirs", False)),
        ({}, {"token", "service"}, (None, False)),
    ],
)
def test_it_is_asked_with_the_secret_that_a_gateway_of_this_file_wants(
    tmp_path: Path, auth: dict[str, str], declared: set[str], asked: tuple[str | None, bool]
) -> None:
    world = make_world(tmp_path, secrets=FakeSecrets({"env:TOKEN": "of-token", "env:PASSWORD": "of-password"}))
    spec = ConfigSpec(
        runtime="builtin",
        managed=True,
        token=SecretRef("env", "TOKEN") if "token" in declared else None,
        password=SecretRef("env", "PASSWORD") if "password" in declared else None,
        variables=frozenset({"OPENCLAW_GATEWAY_PASSWORD"} if "service" in declared else ()),
    )
    where = address(parse(json.dumps({"gateway": {"auth": auth}})), spec, world)
    assert (where.secret, where.declared) == asked


async def test_where_nobody_listens_nothing_is_asked(free_port: Callable[[], int]) -> None:
    where = Address(host="127.0.0.1", port=free_port(), state="/nowhere")
    assert await ask(where) is None
    with pytest.raises(TemporaryError, match="nothing of ours listens"):
        await reload(where)


@pytest.mark.req("DOC-4")
def test_only_the_process_of_the_pid_file_is_told_a_secret(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port, pid_file = free_port(), tmp_path / "gateway.pid"
    where = Address(host="127.0.0.1", port=port, state=str(tmp_path))
    with socket.create_server(("127.0.0.1", port)):
        assert serving(where) is None
        for stranger in ("1", "", "not a number", "999999999"):
            pid_file.write_text(stranger)
            assert serving(where) is None
        pid_file.write_text(f"{os.getpid()}\n")
        assert serving(where) == where
        # Found by its pid on another port than the expected one it must have been started for this directory as well.
        assert serving(replace(where, port=free_port())) is None
    assert serving(where) is None


@pytest.mark.req("DOC-4")
def test_without_a_pid_file_the_state_directory_that_it_was_started_for_decides(
    tmp_path: Path, spawned: Spawned, free_port: Callable[[], int]
) -> None:
    port = free_port()
    program = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
    env = {**os.environ, "OPENCLAW_STATE_DIR": str(tmp_path)}
    spawned.start([sys.executable, "-c", program, str(port)], env=env)
    where = Address(host="127.0.0.1", port=port, state=str(tmp_path))
    wait_until(lambda: serving(where) == where, 10, "it is ours")
    assert serving(replace(where, state=str(tmp_path / "other"))) is None


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize("recorded", [True, False], ids=["by its pid file", "by its environment"])
def test_a_stranger_on_another_address_with_the_same_port_is_not_dialled(
    tmp_path: Path, spawned: Spawned, free_port: Callable[[], int], recorded: bool
) -> None:
    port = free_port()
    program = "import socket, sys, time; s = socket.create_server(('127.0.0.9', int(sys.argv[1]))); time.sleep(60)"
    env = {**os.environ, "OPENCLAW_STATE_DIR": str(tmp_path)}
    ours = spawned.start([sys.executable, "-c", program, str(port)], env=env)
    if recorded:
        (tmp_path / "gateway.pid").write_text(f"{ours.pid}\n")
    where = Address(host="127.0.0.1", port=port, state=str(tmp_path))
    with socket.create_server(("127.0.0.1", port)):
        assert wait_until(lambda: serving(where), 10, "it is ours") == replace(where, host="127.0.0.9")


async def test_what_takes_our_place_and_says_nothing_is_no_reason_to_guess(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port, pid_file = free_port(), tmp_path / "gateway.pid"
    pid_file.write_text(f"{os.getpid()}\n")
    with socket.create_server(("127.0.0.1", port)), pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "ANSWER_SECONDS", 0.2)
        with pytest.raises(TemporaryError, match=f"port {port} does not answer"):
            await ask(Address(host="127.0.0.1", port=port, state=str(tmp_path)))


@pytest.mark.req("PLAN-7")
@pytest.mark.parametrize("encrypted", [False, True])
async def test_one_of_ours_that_is_not_understood_is_no_reason_to_guess(
    tmp_path: Path, free_port: Callable[[], int], encrypted: bool
) -> None:
    """It listens and closes each connection, as one does that has no room for more."""
    port = free_port()
    (tmp_path / "gateway.pid").write_text(f"{os.getpid()}\n")
    where = Address(host="127.0.0.1", port=port, state=str(tmp_path), encrypted=encrypted)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, trio.aclose_forcefully, port, host="127.0.0.1"))
        with pytest.raises(TemporaryError, match=f"the gateway on port {port} cannot be asked: "):
            await ask(where)
        nursery.cancel_scope.cancel()
    assert listeners
    assert await ask(where) is None


async def test_one_that_ends_while_it_is_asked_is_none_to_be_asked(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    (tmp_path / "gateway.pid").write_text(f"{os.getpid()}\n")
    server = socket.create_server(("127.0.0.1", port))

    def end() -> None:
        stream, _ = server.accept()
        server.close()
        stream.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, end)
        assert await ask(Address(host="127.0.0.1", port=port, state=str(tmp_path))) is None


async def test_a_change_of_the_file_is_reported_and_of_others_not(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    reports: list[object] = []
    send, receive = trio.open_memory_channel[object](100)

    def report(key: object) -> None:
        reports.append(key)
        send.send_nowait(key)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(GatewayConfigKind().watch, world, report)
        with trio.fail_after(20):
            await receive.receive()
            # The first report says that it is about to watch; the kernel is asked right after.
            while len(reports) < 2:
                replace_file(world.host.state.config, b"{}", 0o600)
                with trio.move_on_after(0.3):
                    await receive.receive()
            await trio.sleep(0.5)
            seen = len(reports)
            replace_file(world.host.state.root / "other.json", b"{}", 0o600)
            with trio.move_on_after(0.6):
                await receive.receive()
        assert len(reports) == seen
        nursery.cancel_scope.cancel()


async def test_without_a_directory_watching_ends_by_itself(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.host.state.root.rmdir()
    with trio.fail_after(10):
        await GatewayConfigKind().watch(world, lambda _key: None)
