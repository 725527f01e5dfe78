"""The gateway as a resource, with real processes: what is planned, what becomes of it, what people are told."""

from __future__ import annotations

import errno
import json
import os
import re
import resource as rlimits
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.cli.render.status import exit_text
from reconciler.desired import Desired, Limits, Restart, SecretRef, Stop
from reconciler.errors import OpenClawError, StaleError, TemporaryError, TerminalError
from reconciler.host import StatePaths
from reconciler.kinds import AppliedField
from reconciler.model import ABSENT, Action, Cause, Difference, Impact, Key, Secret
from resources.service import control, keeper_client, kind, operate, prepared, proc
from resources.service.keeper import program, protocol
from resources.service.keeper_client import SOCKET, ensure_keeper, look, upgrade_keeper
from resources.service.kind import ServiceKind
from resources.service.spec import OUTPUT_NAME, Program, ServiceSpec, env_path, keeper_spec, spec_path
from resources.testing import FakeSecrets, make_desired
from tests.beds.processes import Spawned, argv_of, environ_of, identify, processes_of_state, wait_until
from tests.resources.service.beds import DEADLINE, KEEPER, Client, environ, kill, other_version
from tests.resources.service.worlds import CANARY, GATEWAY, TOKEN, Bench, document, gateway, service

pytestmark = pytest.mark.real


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(environ={"TZ": "Europe/Berlin", "SECRET_OF_THE_SHELL": CANARY})
    yield made
    await trio.to_thread.run_sync(made.close)


async def pid_of(bench: Bench) -> int:
    child = (await look(bench.world.host)).child("gateway")
    assert child is not None
    assert child["pid"] is not None
    return int(child["pid"])


async def until_ready(bench: Bench, desired: Desired) -> None:
    with trio.fail_after(DEADLINE):
        while True:
            if await bench.ready(desired) == "Ready":
                return
            await trio.sleep(0.02)


async def until(what: str, there: Callable[[], object]) -> None:
    await trio.to_thread.run_sync(wait_until, there, DEADLINE, what)


async def kill_gateway(bench: Bench) -> int:
    pid = await pid_of(bench)
    await trio.to_thread.run_sync(kill, pid)
    return pid


async def kill_keeper(bench: Bench) -> None:
    pid = (await look(bench.world.host)).keeper_pid
    assert pid is not None
    await trio.to_thread.run_sync(kill, pid)


def gateways(bench: Bench) -> list[int]:
    return [
        found.pid for found in processes_of_state(bench.root) if "resources.service.keeper" not in argv_of(found.pid)
    ]


def of(action: Action, path: str) -> Difference:
    return next(item for item in action.differences if item.path == path)


# -- start, and what it is started with --


@pytest.mark.req("SVC-7", "PLAN-17")
async def test_the_first_apply_starts_it_and_the_second_has_nothing_to_do(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    desired = document(free_port())
    (action,) = await bench.apply(desired)
    assert (action.verb, action.impact, action.cause) == ("start", Impact.NONE, Cause.CHANGE)
    assert (of(action, "state").observed, of(action, "state").desired) == ("stopped", "running")
    assert await bench.ready(desired) == "Ready"
    assert not (await bench.step(desired)).differences
    assert await bench.verbs(desired) == []
    shown = await bench.shown(desired)
    assert (shown["state"], shown["restarts"], shown["last_exit"]) == ("ready", 0, None)
    assert shown["pid"] == await pid_of(bench)
    assert list(shown)[:8] == ["manager", "runtime", "state", "pid", "restarts", "last_exit", "since", "limits"]


async def test_its_environment_is_declared_and_private(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    odd = "two\nlines \\ and 'quotes'"
    settings = {"channels": {"x": {"token": "${WORD}"}}}
    desired = document(port, environment={"ODD": odd}, gateway_section=gateway(port, settings=settings))
    await bench.apply(desired)
    found = environ_of(await pid_of(bench))
    assert found["OPENCLAW_GATEWAY_TOKEN"] == CANARY
    assert (found["ODD"], found["WORD"], found["TZ"], found["NODE_ENV"]) == (odd, "one", "Europe/Berlin", "production")
    assert found["OPENCLAW_STATE_DIR"] == str(bench.root)
    assert found["OPENCLAW_RELOAD_MODE"] == "hot"
    assert found["OPENCLAW_LOG_DIR"] == str(bench.root / "logs")
    assert "SECRET_OF_THE_SHELL" not in found
    assert env_path(bench.world.host).stat().st_mode & 0o777 == 0o600


async def test_no_secret_is_in_what_others_may_read(bench: Bench, free_port: Callable[[], int]) -> None:
    await bench.apply(document(free_port()))
    await bench.apply(document(free_port()))
    seen = await look(bench.world.host)
    assert seen.keeper_pid is not None
    assert CANARY not in str(seen.children)
    assert CANARY not in str(environ_of(seen.keeper_pid))
    for process in processes_of_state(bench.root):
        assert CANARY not in str(argv_of(process.pid))
    holding = {path.name.split(".")[0] for path in bench.root.rglob("*") if path.is_file() and CANARY in read(path)}
    # The environment file and its backup, both 0600.
    assert holding == {"gateway"}


def read(path: Path) -> str:
    return path.read_text(errors="replace")


async def test_without_a_declared_port_that_of_openclaw_json_counts(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    bench.world.host.state.config.write_text(f"{{gateway: {{port: {port}}}}} // mine\n")
    desired = document(port, gateway_section=gateway(None))
    await bench.apply(desired)
    assert (await bench.shown(desired))["port"] == port
    assert await bench.ready(desired) == "Ready"


async def test_declared_stopped_is_only_prepared_and_starts_later_with_one_difference(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    (prepared_first,) = await bench.apply(document(port, state="stopped"))
    assert (prepared_first.verb, prepared_first.impact) == ("update", Impact.NONE)
    assert await bench.verbs(document(port, state="stopped")) == []
    assert processes_of_state(bench.root) == []
    (action,) = await bench.apply(document(port))
    assert [item.path for item in action.differences] == ["state"]
    (stop,) = await bench.apply(document(port, state="stopped"))
    assert (stop.verb, stop.impact) == ("stop", Impact.RESTART)
    assert gateways(bench) == []
    assert await bench.verbs(document(port, state="stopped")) == []
    assert await bench.ready(document(port, state="stopped")) == "Stopped"


async def test_a_state_directory_too_deep_for_a_socket_gets_it_in_the_runtime_directory(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    deep = bench.directory / "state" / ("d" * 100)
    host = replace(bench.world.host, state=StatePaths(deep))
    bench.world = replace(bench.world, host=host)
    desired = document(free_port())
    await bench.apply(desired)
    assert await bench.ready(desired) == "Ready"
    assert {path.name for path in host.runtime_directory.rglob("*.sock")} == {"keeper.sock", "notify.sock"}
    assert await bench.verbs(desired) == []
    await control.stop_all(host)
    assert list(host.runtime_directory.rglob("*.sock")) == []


@pytest.mark.parametrize(("code", "error"), [("78", TerminalError), ("3", TemporaryError)])
async def test_a_start_that_fails_tells_the_exit_and_the_last_line_without_secrets(
    bench: Bench, free_port: Callable[[], int], code: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        await bench.apply(document(free_port(), environment={"FAIL": code}))
    assert str(caught.value) == f"cannot start the gateway: exit code {code}; its last line: it is {code} ********"


async def test_a_restart_that_fails_without_a_word_is_not_told_with_the_last_line_of_the_process_before(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    await bench.apply(document(port))
    with pytest.raises(TemporaryError) as caught:
        await bench.apply(document(port, environment={"SILENT": "9"}))
    output = bench.world.host.state.logs / OUTPUT_NAME
    assert output.read_text() == "stopped: SIGTERM\n"
    assert str(caught.value) == "cannot start the gateway: exit code 9"


async def test_what_is_held_down_or_broken_is_shown_and_the_next_plan_starts_it(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    bad = document(port, environment={"FAIL": "78"})
    with pytest.raises(TerminalError):
        await bench.apply(bad)
    observation = await bench.observe(bad)
    assert observation.fields["state"] == "failed"
    assert {(one.type, one.reason) for one in observation.conditions} == {("Degraded", "HeldDown")}
    assert await bench.ready(bad) == "HeldDown"
    (action,) = await bench.apply(document(port))
    assert action.verb == "start"
    assert await bench.ready(document(port)) == "Ready"


@pytest.mark.req("SVC-12")
async def test_a_crash_loop_is_probed_and_not_forgiven_until_the_document_changes(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    slow = Restart(delay_seconds=0.1, max_delay_seconds=60.0, burst=2, window_seconds=60.0, never_on_exit=())
    bad = document(port, environment={"FAIL": "3"}, restart=slow)
    with pytest.raises(TemporaryError):
        await bench.apply(bad)

    with trio.fail_after(DEADLINE):
        while True:
            if (await bench.observe(bad)).fields["state"] == "broken":
                break
            await trio.sleep(0.02)
    before = (await look(bench.world.host)).children["gateway"]
    with pytest.raises(TemporaryError) as caught:
        await bench.apply(bad)
    assert caught.value.delay_seconds == pytest.approx(60.0, abs=5)
    after = (await look(bench.world.host)).children["gateway"]
    assert len(after["exits"]) == len(before["exits"]) + 1
    assert after["history"]["broken"]
    await bench.apply(document(port, restart=slow))
    assert not (await look(bench.world.host)).children["gateway"]["history"]["broken"]


@pytest.mark.req("SVC-12", "PLAN-12")
async def test_a_crash_loop_for_want_of_what_was_prepared_is_not_left_to_its_keeper(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    env_path(bench.world.host).unlink()
    await kill_gateway(bench)
    with trio.fail_after(DEADLINE):
        while True:
            if (observation := await bench.observe(desired)).fields["state"] == "broken":
                break
            await trio.sleep(0.02)
    # Its keeper goes on trying, and cannot come by it.
    assert not observation.retried
    await bench.apply(desired)
    assert await bench.ready(desired) == "Ready"


async def test_between_two_starts_there_is_nothing_to_do_and_a_note(bench: Bench, free_port: Callable[[], int]) -> None:
    slow = Restart(delay_seconds=60.0, max_delay_seconds=60.0, burst=5, window_seconds=60.0, never_on_exit=())
    desired = document(free_port(), restart=slow)
    await bench.apply(desired)
    assert bench.kind.plan(await bench.step(desired)).notes == ()
    await kill_gateway(bench)
    found = bench.kind.plan(await bench.step(desired))
    (note,) = found.notes
    assert (found.actions, found.blocked, note.code) == ((), (), "waiting")
    text = r"service/gateway is not running at this moment: killed by SIGKILL; its keeper starts it again in \d+ s"
    assert re.fullmatch(text, note.message), note.message


# -- restart, update, owed work --


@pytest.mark.req("SVC-7")
async def test_a_changed_port_is_a_restart_that_names_the_field_and_the_downtime(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    old, new = free_port(), free_port()
    await bench.apply(document(old))
    first = await pid_of(bench)
    (action,) = await bench.apply(document(new))
    assert (action.verb, action.impact, action.cause) == ("restart", Impact.RESTART, Cause.CHANGE)
    moved = of(action, "config.gateway.port")
    assert (moved.desired, moved.observed, moved.last_applied) == (new, old, old)
    assert str(new) in action.because.text
    assert action.because.path == ("gateway", "port")
    words = {one.what: one for one in action.consequences}
    assert f"process {first}" in words["process_restart"].text
    assert words["downtime"].amount is not None
    assert 0 < words["downtime"].amount < 5
    assert f"port {old} is closed" in words["note"].text
    assert await pid_of(bench) != first
    assert await bench.ready(document(new)) == "Ready"
    assert proc.port_owner(old) is None


@pytest.mark.req("PLAN-13")
async def test_a_restart_that_an_earlier_run_did_not_get_to_is_owed(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    await bench.apply(document(port))
    first = await pid_of(bench)
    desired = document(port, environment={"MODE": "b"})
    step = await bench.step(desired)
    assert step.resource is not None
    spec: ServiceSpec = step.resource.spec
    # The run died between the file and the restart, or the journal already says applied.
    prepared.prepare(spec, bench.world, None)
    bench.applied = {path: AppliedField(value) for path, value in step.resource.fields.items()}
    (action,) = await bench.apply(desired)
    assert (action.verb, action.cause) == ("restart", Cause.OWED)
    assert (of(action, "environment.MODE").observed, of(action, "environment.MODE").cause) == (ABSENT, Cause.OWED)
    assert await pid_of(bench) != first
    assert await bench.verbs(desired) == []


@pytest.mark.req("PLAN-13", "SVC-7")
@pytest.mark.parametrize("then", ["goes on", "goes back"])
async def test_a_process_that_died_before_a_prepared_restart_carries_what_nobody_planned_and_is_restarted(
    bench: Bench, free_port: Callable[[], int], then: str
) -> None:
    port = free_port()
    old, new = document(port), document(port, environment={"MODE": "b"})
    await bench.apply(old)
    first = await pid_of(bench)
    step = await bench.step(new)
    assert step.resource is not None
    # The run died between the file and its word to the keeper, and then the process: the keeper starts it by its old orders.
    prepared.prepare(step.resource.spec, bench.world, None)
    os.kill(first, signal.SIGKILL)
    with trio.fail_after(DEADLINE):
        while True:
            child = (await look(bench.world.host)).child("gateway")
            if child is not None and child["state"] == "ready" and child["pid"] != first:
                break
            await trio.sleep(0.05)
    second = await pid_of(bench)
    assert environ_of(second)["MODE"] == "b"
    desired = new if then == "goes on" else old
    assert [action.verb for action in await bench.apply(desired)] == ["restart"]
    third = await pid_of(bench)
    assert third != second
    assert environ_of(third).get("MODE") == ("b" if then == "goes on" else None)
    assert await bench.verbs(desired) == []


@pytest.mark.req("PLAN-13", "SVC-7")
@pytest.mark.parametrize("died", ["after the file", "after its word to the keeper"])
@pytest.mark.parametrize("state", ["running", "stopped"])
async def test_what_a_dead_run_prepared_for_another_document_is_no_longer_what_the_next_start_reads(
    bench: Bench, free_port: Callable[[], int], died: str, state: str
) -> None:
    port, moved = free_port(), free_port()
    old, new = document(port, state=state), document(moved, state=state, environment={"MODE": "b"})
    await bench.apply(document(port))
    await bench.apply(old)
    before = (await look(bench.world.host)).child("gateway")
    assert before is not None
    (resource,) = bench.kind.declare(new, bench.world.host, bench.secrets)
    await trio.to_thread.run_sync(prepared.prepare, resource.spec, bench.world, None)
    if died == "after its word to the keeper":
        await operate.tell(bench.world.host, keeper_spec(resource.spec, bench.world.host, moved), start_keeper=False)
    # Then it died, and the document went back to what runs.
    (action,) = await bench.apply(old)
    if state == "running":
        assert (action.verb, action.impact, action.cause) == ("update", Impact.NONE, Cause.OWED)
        assert "a run that did not get further" in action.because.text
        assert await pid_of(bench) == before["pid"]
        assert await bench.ready(old) == "Ready"
    assert await bench.verbs(old) == []
    if state == "running":
        await kill_gateway(bench)
        await until_ready(bench, old)
    else:
        await bench.apply(document(port))
    assert "MODE" not in environ_of(await pid_of(bench))
    child = (await look(bench.world.host)).child("gateway")
    assert child is not None
    assert child["spec"]["port"] == port


@pytest.mark.req("PLAN-13")
async def test_where_nobody_knows_what_runs_only_the_digest_differs(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    await bench.apply(document(port))
    step = await bench.step(document(port))
    assert step.resource is not None
    spec_path(bench.world.host, step.resource.spec.digest).unlink()
    assert await bench.verbs(document(port)) == []
    changed = document(port, environment={"MODE": "b"})
    (action,) = await bench.apply(changed)
    assert action.verb == "restart"
    assert [item.path for item in action.differences] == ["spec"]
    assert await bench.verbs(changed) == []


async def test_a_rotated_secret_is_a_restart_and_is_not_shown(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    bench.secrets._values[str(TOKEN)] = "another-canary"
    (action,) = (await bench.plan(desired)).actions
    assert action.verb == "restart"
    assert isinstance(of(action, "environment.OPENCLAW_GATEWAY_TOKEN").desired, Secret)
    assert "canary" not in str(action)
    await bench.apply(desired)
    assert environ_of(await pid_of(bench))["OPENCLAW_GATEWAY_TOKEN"] == "another-canary"


@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize("rotated", [False, True])
async def test_a_secret_of_which_the_digest_has_another_salt_counts_by_its_value(
    bench: Bench, free_port: Callable[[], int], rotated: bool
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    word = "another-4b1d" if rotated else CANARY
    bench.secrets, bench.applied = FakeSecrets({str(TOKEN): word}, salt=b"of a journal made anew"), {}
    bench.world = replace(bench.world, secrets=bench.secrets)
    assert await bench.verbs(desired) == (["restart"] if rotated else [])
    # What was prepared since is not what the process runs with.
    path = env_path(bench.world.host)
    path.write_bytes(path.read_bytes().replace(CANARY.encode(), b"another-4b1d"))
    assert await bench.verbs(desired) == (["restart"] if rotated else [])
    pid = await pid_of(bench)
    await kill_keeper(bench)
    await trio.to_thread.run_sync(kill, pid)
    # The next start is by what is prepared.
    (action,) = (await bench.plan(desired)).actions
    assert ("environment.OPENCLAW_GATEWAY_TOKEN" in {item.path for item in action.differences}) is not rotated


async def test_another_terminal_is_no_reason_to_restart(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    host = replace(bench.world.host, environ={**bench.world.host.environ, "PATH": "/elsewhere:/bin", "TZ": "UTC"})
    bench.world = replace(bench.world, host=host)
    assert await bench.verbs(desired) == []


async def test_what_only_the_keeper_needs_changes_without_a_restart(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    await bench.apply(document(port))
    pid = await pid_of(bench)
    gentle = document(
        port,
        stop=Stop(drain_seconds=0.0, grace_seconds=7.0),
        restart=Restart(delay_seconds=9.0, max_delay_seconds=90.0, burst=2, window_seconds=5.0, never_on_exit=()),
    )
    (action,) = await bench.apply(gentle)
    assert (action.verb, action.impact, action.consequences) == ("update", Impact.NONE, ())
    assert await pid_of(bench) == pid
    told = (await look(bench.world.host)).children["gateway"]["spec"]
    assert (told["restart"]["delay"], told["stop"]["grace"]) == (9.0, 7.0)
    assert await bench.verbs(gentle) == []


@pytest.mark.req("SVC-13")
async def test_the_limit_of_open_files_is_of_what_runs_at_once_and_so_it_is_watched(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    few = Limits(memory_bytes=None, cpu_percent=None, files=333)
    await bench.apply(document(port))
    pid = await pid_of(bench)
    hard = rlimits.prlimit(pid, rlimits.RLIMIT_NOFILE)[1]
    for desired, held, files in (
        (document(port, limits=few), 333, "333 files"),
        (document(port), hard, "as many files as the system allows"),
    ):
        (action,) = await bench.apply(desired)
        assert (action.verb, action.impact) == ("update", Impact.HOT_RELOAD)
        text = f"the gateway (process {pid}) may have {files} open from this moment on"
        assert [item.text for item in action.consequences] == [text]
        assert await pid_of(bench) == pid
        assert (await bench.shown(desired))["limits"]["files"]["held"] == held
        assert await bench.verbs(desired) == []
    await bench.apply(document(port, state="stopped"))
    (action,) = await bench.apply(document(port, state="stopped", limits=few))
    assert (action.verb, action.impact, action.consequences) == ("update", Impact.NONE, ())


@pytest.mark.req("SVC-13")
async def test_limits_that_cannot_be_held_are_a_condition_and_never_a_difference(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    desired = document(free_port(), limits=Limits(memory_bytes=1 << 30, cpu_percent=150.0, files=10**9))
    await bench.apply(desired)
    observation = await bench.observe(desired)
    (condition,) = [one for one in observation.conditions if one.type == "LimitNotHeld"]
    assert all(word in condition.message for word in ("memory", "cpu", "files"))
    assert await bench.verbs(desired) == []
    notes = (await bench.plan(desired)).notes
    assert [note.path for note in notes] == [("service", "limits", "memory"), ("service", "limits", "cpu")]
    assert await bench.ready(desired) == "Ready"
    assert rlimits.prlimit(await pid_of(bench), rlimits.RLIMIT_AS)[0] == rlimits.RLIM_INFINITY


async def test_the_undo_of_a_restart_brings_the_earlier_process_back(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    old, new = free_port(), free_port()
    await bench.apply(document(old))
    before = env_path(bench.world.host).read_bytes()
    bench.world = replace(bench.world, run="run-2")
    (action,) = await bench.apply(document(new))
    assert action.undo is not None
    back = replace(
        action, verb=action.undo.verb, arguments=dict(action.undo.arguments), precondition=None, differences=()
    )
    await bench.kind.apply(back, None, bench.world)
    assert env_path(bench.world.host).read_bytes() == before
    assert await bench.ready(document(old)) == "Ready"
    assert await bench.verbs(document(old)) == []


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("known", [False, True], ids=["of no history", "of its own history"])
async def test_a_start_that_leads_elsewhere_than_to_what_was_up_is_undone_by_that_where_no_run_is_known(
    bench: Bench, free_port: Callable[[], int], known: bool
) -> None:
    old, new = free_port(), free_port()
    await bench.apply(document(old))
    before = env_path(bench.world.host).read_bytes()
    pid = await pid_of(bench)
    await kill_keeper(bench)
    await trio.to_thread.run_sync(kill, pid)
    bench.world = replace(bench.world, run="run-2")
    bench.applied = bench.applied if known else {}
    same = (await bench.plan(document(old))).actions[0]
    # What was up is there again already.
    assert same.undo is not None
    assert (same.verb, same.undo.verb) == ("start", "stop")
    (action,) = await bench.apply(document(new))
    assert action.undo is not None
    assert (action.verb, action.undo.verb, action.undo.follows) == ("start", "stop" if known else "restart", not known)
    back = replace(
        action, verb=action.undo.verb, arguments=dict(action.undo.arguments), precondition=None, differences=()
    )
    await bench.kind.apply(back, None, bench.world)
    assert env_path(bench.world.host).read_bytes() == before
    assert len(gateways(bench)) == (0 if known else 1)
    if not known:
        assert await bench.ready(document(old)) == "Ready"


async def test_a_plan_for_a_world_that_moved_is_refused(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    await bench.apply(document(port))
    step = await bench.step(document(port, environment={"MODE": "b"}))
    (action,) = bench.kind.plan(step).actions
    await bench.apply(document(port, environment={"MODE": "c"}))
    pid = await pid_of(bench)
    with pytest.raises(StaleError, match="moved since the plan"):
        await bench.kind.apply(action, step.resource, bench.world)
    assert await pid_of(bench) == pid


@pytest.mark.req("SVC-7")
async def test_what_ended_before_it_could_be_adopted_is_planned_anew(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    first = await pid_of(bench)
    await kill_keeper(bench)
    step = await bench.step(desired)
    (action,) = bench.kind.plan(step).actions
    assert action.verb == "adopt"
    await trio.to_thread.run_sync(kill, first)
    with pytest.raises(StaleError):
        await bench.kind.apply(action, step.resource, bench.world)
    assert [done.verb for done in await bench.apply(desired)] == ["start"]
    assert await bench.ready(desired) == "Ready"


# -- deaths --


@pytest.mark.req("SVC-7")
async def test_a_killed_gateway_is_started_again_by_the_keeper(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    old = await kill_gateway(bench)
    await until_ready(bench, desired)
    shown = await bench.shown(desired)
    assert (shown["restarts"], shown["last_exit"]["reason"]) == (1, "killed by SIGKILL")
    assert gateways(bench) == [await pid_of(bench)] != [old]
    assert await bench.verbs(desired) == []


@pytest.mark.req("SVC-7")
async def test_without_a_keeper_the_same_process_is_adopted(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    pid = await pid_of(bench)
    keeper = (await look(bench.world.host)).keeper_pid
    assert keeper is not None
    await kill_keeper(bench)
    (condition,) = (await bench.observe(desired)).conditions
    assert (condition.type, condition.reason) == ("Degraded", "NotHeld")
    assert condition.message == "it runs, and no keeper runs that would start it again"
    assert (await bench.shown(desired))["state"] == "unheld"
    (action,) = await bench.apply(desired)
    assert (action.verb, action.impact, action.cause) == ("adopt", Impact.NONE, Cause.DRIFT)
    assert [item.path for item in action.differences] == ["keeper"]
    assert gateways(bench) == [pid]
    assert await bench.ready(desired) == "Ready"
    assert identify(keeper) is None
    assert await bench.verbs(desired) == []


@pytest.mark.req("SVC-7")
async def test_a_stop_ends_in_time_when_the_keeper_is_stopped_in_the_middle_of_it(
    free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = GATEWAY.replace("signal.SIGTERM, end", "signal.SIGTERM, signal.SIG_IGN")
    bench = Bench(kind=ServiceKind(program=lambda _host: Program(argv=(sys.executable, "-S", "-c", deaf))))
    # It is stopped before or after it said that it heard.
    monkeypatch.setattr(operate, "_SLACK_SECONDS", 0.5)
    monkeypatch.setattr(keeper_client, "_COMMAND_SECONDS", 0.5)
    try:
        desired = document(free_port(), stop=Stop(drain_seconds=0.0, grace_seconds=1.0))
        await bench.apply(desired)
        keeper = (await look(bench.world.host)).keeper_pid
        assert keeper is not None
        record = bench.world.host.state.keeper / "children" / "gateway.json"

        async def freeze() -> None:
            await until("the stop", lambda: '"state":"stopping"' in record.read_text())
            os.kill(keeper, signal.SIGSTOP)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(freeze)
            with trio.fail_after(DEADLINE), pytest.raises(TemporaryError, match=r"did not say|does not answer"):
                await control.stop(bench.world, "ann")
        assert gateways(bench) != []
        os.kill(keeper, signal.SIGCONT)
        # It goes on where it was.
        await until("the end of the gateway", lambda: gateways(bench) == [])
        assert await bench.ready(desired) == "Suspended"
    finally:
        with trio.move_on_after(30, shield=True):
            await trio.to_thread.run_sync(bench.close)


async def test_with_keeper_and_gateway_dead_the_next_plan_starts_one(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    await kill_gateway(bench)
    await until_ready(bench, desired)
    pid = await pid_of(bench)
    await kill_keeper(bench)
    await trio.to_thread.run_sync(kill, pid)
    observation = await bench.observe(desired)
    assert observation.fields["state"] == "crashed"
    shown = await bench.shown(desired)
    # Not the end of the one before it, which its keeper saw.
    assert (shown["last_exit"]["pid"], shown["last_exit"]["reason"]) == (pid, "ended while no keeper ran")
    assert (shown["last_exit"]["at"], shown["since"]) == (None, None)
    assert await bench.ready(desired) == "NotHeld"
    (action,) = await bench.apply(desired)
    assert [item.path for item in action.differences] == ["state"]
    assert len(gateways(bench)) == 1
    assert await bench.ready(desired) == "Ready"
    # Whoever found it knows no more, but when that was.
    ended = (await bench.shown(desired))["last_exit"]
    assert (ended["pid"], ended["reason"], ended["unseen"]) == (pid, "ended while no keeper ran", True)
    assert (ended["uptime_seconds"], exit_text(ended)) == (
        None,
        f"ended while no keeper ran (pid {pid}, noticed {ended['at']})",
    )


async def test_watching_reports_exits_and_the_death_of_the_keeper(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    send, receive = trio.open_memory_channel[Key](1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.kind.watch, bench.world, send.send_nowait)
        with trio.fail_after(DEADLINE):
            await receive.receive()
            await kill_gateway(bench)
            await receive.receive()
            await until_ready(bench, desired)
            with trio.move_on_after(0.1):
                while True:
                    await receive.receive()
            await kill_keeper(bench)
            assert await receive.receive() == Key("service", "gateway")
            await ensure_keeper(bench.world.host)
            # It is told when there is a keeper again.
            await receive.receive()
        nursery.cancel_scope.cancel()


@pytest.mark.req("SVC-7")
async def test_watching_reports_a_keeper_that_is_stopped_and_that_it_goes_on(
    bench: Bench, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "_ASK_SECONDS", 0.1)
    await bench.apply(document(free_port()))
    keeper = (await look(bench.world.host)).keeper_pid
    assert keeper is not None
    send, receive = trio.open_memory_channel[Key](1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.kind.watch, bench.world, send.send_nowait)
        with trio.fail_after(DEADLINE):
            await receive.receive()
            # Asked again and again, it answers, and there is no news in that.
            with trio.move_on_after(0.5) as quiet:
                await receive.receive()
            assert quiet.cancelled_caught
            os.kill(keeper, signal.SIGSTOP)
            try:
                await receive.receive()
            finally:
                os.kill(keeper, signal.SIGCONT)
            await receive.receive()
        nursery.cancel_scope.cancel()


# -- without descriptors --


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process has not one left."""
    soft, hard = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(rlimits.setrlimit, rlimits.RLIMIT_NOFILE, (soft, hard))
        rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        with suppress(OSError):
            while True:
                stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        yield


@pytest.mark.parametrize("keeper", ["alive", "dead"])
async def test_who_has_no_descriptor_left_says_so_and_takes_no_keeper_for_dead(
    bench: Bench, free_port: Callable[[], int], keeper: str
) -> None:
    await bench.apply(document(free_port()))
    before = await look(bench.world.host)
    if keeper == "dead":
        await kill_keeper(bench)
    for ask in (look, ensure_keeper):
        with no_descriptors(), pytest.raises(TemporaryError, match=r"^cannot ask the keeper: too many open files$"):
            await ask(bench.world.host)
    if keeper == "alive":
        assert await look(bench.world.host) == before


async def test_who_cannot_read_what_a_dead_keeper_left_plans_nothing(
    bench: Bench, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.apply(document(free_port()))
    await kill_keeper(bench)

    def none_left(_: str) -> Any:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(keeper_client, "load_records", none_left)
    with pytest.raises(TemporaryError, match=r"^cannot read what the keeper left: too many open files in system$"):
        await look(bench.world.host)


async def test_what_a_dead_keeper_had_not_flushed_yet_is_seen(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    await kill_gateway(bench)

    def exits() -> int:
        (record,) = keeper_client.read_children(bench.world.host)
        return len(record.exits)

    await until("the exit in the record", lambda: exits() == 1)
    # Well before it is flushed.
    await kill_keeper(bench)
    seen = (await look(bench.world.host)).child("gateway")
    assert seen is not None
    assert len(seen["exits"]) == 1


# -- a keeper of another version --


async def become(bench: Bench, directory: Path, version: int) -> None:
    """Makes the running keeper one that speaks `version`, as another installation would have left it."""
    path = await trio.to_thread.run_sync(other_version, directory, version)
    socket_path = bench.world.host.socket_path(SOCKET)

    def upgrade() -> None:
        with Client(socket_path) as client:
            client.send("upgrade", argv=KEEPER, environ=environ(path))
            with pytest.raises((EOFError, ConnectionResetError)):
                client.next()
        # Answered by the new program.
        with Client(socket_path) as client:
            assert client.hello

    await trio.to_thread.run_sync(upgrade)


@pytest.mark.req("SVC-7")
@pytest.mark.parametrize("step", [1, -1], ids=["newer", "older"])
async def test_a_keeper_of_a_neighbouring_version_serves_and_the_next_apply_makes_it_the_installed_one(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path, step: int
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    before = await look(bench.world.host)
    await become(bench, tmp_path, protocol.VERSION + step)
    other = await look(bench.world.host)
    assert other.keeper_pid == before.keeper_pid
    assert other.children == before.children
    assert (await bench.shown(desired))["state"] == "ready"
    assert await bench.ready(desired) == "Ready"
    # It does what it is told.
    await bench.apply(document(free_port(), limits=Limits(memory_bytes=None, cpu_percent=None, files=300)))


@pytest.mark.req("SVC-7")
@pytest.mark.parametrize("step", [1, -1], ids=["newer", "older"])
async def test_the_upgrade_of_a_keeper_is_a_planned_step_that_costs_nothing(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path, step: int
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    before = await look(bench.world.host)
    await become(bench, tmp_path, protocol.VERSION + step)
    (action,) = await bench.apply(desired)
    assert (action.verb, action.impact, action.cause) == ("upgrade", Impact.NONE, Cause.UPGRADE)
    assert [item.path for item in action.differences] == ["keeper.program"]
    assert program.digest() in action.because.text
    after = await look(bench.world.host)
    assert (after.keeper_pid, after.program) == (before.keeper_pid, program.digest())
    assert after.children == before.children
    assert await bench.verbs(desired) == []
    assert await bench.ready(desired) == "Ready"
    # Done already: nothing happens.
    await upgrade_keeper(bench.world.host)
    log = (bench.world.host.state.keeper / "keeper.log").read_text()
    assert log.count("becomes the program") == 2


@pytest.mark.req("SVC-7")
async def test_the_upgrade_comes_before_what_the_keeper_is_told_next(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    await bench.apply(document(port))
    await become(bench, tmp_path, protocol.VERSION + 1)
    changed = document(port, environment={"MODE": "b"})
    upgrade, restart = await bench.apply(changed)
    assert (upgrade.verb, restart.verb, restart.needs) == ("upgrade", "restart", (upgrade.id,))
    assert await bench.verbs(changed) == []


@pytest.mark.req("SVC-7")
async def test_an_upgrade_starts_nothing_that_a_person_stopped(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    await control.stop(bench.world, "ann", "new disk")
    await become(bench, tmp_path, protocol.VERSION + 1)
    (action,) = await bench.apply(desired)
    assert action.verb == "upgrade"
    assert await bench.ready(desired) == "Suspended"
    assert gateways(bench) == []


@pytest.mark.req("SVC-7")
async def test_with_a_keeper_that_shares_no_version_nothing_is_planned_and_the_way_out_is_said(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    pid = await pid_of(bench)
    keeper = (await look(bench.world.host)).keeper_pid
    assert keeper is not None
    await become(bench, tmp_path, protocol.VERSION + 2)
    ours, theirs = " and ".join(map(str, protocol.VERSIONS)), f"{protocol.VERSION + 1} and {protocol.VERSION + 2}"
    observation = await bench.observe(desired)
    assert observation.unknown == (
        f"cannot command the keeper: it speaks versions {theirs} of its protocol, this program {ours}; "
        f"end it with `kill {keeper}`, then run `openclaw apply`: the gateway runs on, and a keeper of this version takes it over"
    )
    for command in (control.start(bench.world), control.stop(bench.world, "ann"), control.service_status(bench.world)):
        with pytest.raises(OpenClawError) as caught:
            await command
        assert f"kill {keeper}" in str(caught.value.hint)
    assert identify(keeper) is not None
    assert gateways(bench) == [pid]
    # What it says is what helps.
    os.kill(keeper, signal.SIGTERM)
    await until("the end of the keeper", lambda: identify(keeper) is None)
    (action,) = await bench.apply(desired)
    assert action.verb == "adopt"
    assert gateways(bench) == [pid]
    assert await bench.ready(desired) == "Ready"


@pytest.mark.req("SVC-7")
async def test_an_installed_keeper_that_does_not_start_leaves_the_running_one(
    bench: Bench, free_port: Callable[[], int], tmp_path: Path
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    pid = await pid_of(bench)
    await become(bench, tmp_path, protocol.VERSION + 1)
    broken = tmp_path / "broken" / "resources"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('half of an installation')\n")
    host = bench.world.host
    bench.world = replace(bench.world, host=replace(host, environ={**host.environ, "PYTHONPATH": str(broken.parent)}))
    with pytest.raises(TerminalError, match="half of an installation"):
        await bench.apply(desired)
    bench.world = replace(bench.world, host=host)
    assert gateways(bench) == [pid]
    assert await bench.ready(desired) == "Ready"


# -- a person's word --


@pytest.mark.req("SVC-8")
async def test_a_stop_by_a_person_suspends_it_until_he_starts_it(bench: Bench, free_port: Callable[[], int]) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    status = await control.stop(bench.world, "ann", "new disk")
    assert (status["state"], status["pid"], status["hold"]["who"]) == ("stopped", None, "ann")
    step = await bench.step(desired)
    assert not step.differences
    assert await bench.verbs(desired) == []
    (condition,) = step.observation.conditions
    assert (condition.type, condition.reason) == ("Suspended", "StoppedByOperator")
    assert condition.message.startswith("stopped by operator ann at 2")
    assert condition.message.endswith(": new disk")
    assert await bench.ready(desired) == "Suspended"
    assert (await control.start(bench.world))["state"] == "ready"
    assert (await bench.step(desired)).observation.conditions == ()


@pytest.mark.req("SVC-8")
async def test_a_changed_service_section_ends_the_suspension(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    await bench.apply(document(port))
    await control.stop(bench.world, "ann")
    changed = document(port, environment={"MODE": "b"})
    (action,) = await bench.apply(changed)
    assert action.verb == "start"
    assert of(action, "state").cause is Cause.DRIFT
    assert await bench.ready(changed) == "Ready"


@pytest.mark.req("SVC-8")
async def test_restart_by_a_person_is_another_process_and_status_tells(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    await bench.apply(document(free_port()))
    pid = await pid_of(bench)
    status = await control.restart(bench.world)
    assert status["state"] == "ready"
    assert status["pid"] not in (None, pid)
    assert await control.service_status(bench.world) == status


@pytest.mark.req("SVC-8")
async def test_what_was_never_applied_cannot_be_started_or_stopped(bench: Bench) -> None:
    for command in (control.start(bench.world), control.stop(bench.world, "ann"), control.restart(bench.world)):
        with pytest.raises(TerminalError, match="never applied"):
            await command
    assert (await control.service_status(bench.world))["state"] == "stopped"


@pytest.mark.parametrize("keeper", ["alive", "dead", "dead, and the record lost"])
async def test_the_end_of_a_supervisor_can_take_all_with_it(
    bench: Bench, free_port: Callable[[], int], keeper: str
) -> None:
    desired = document(free_port())
    await bench.apply(desired)
    if keeper != "alive":
        await kill_keeper(bench)
    if "lost" in keeper:
        (bench.world.host.state.keeper / "children/gateway.json").unlink()
    await control.stop_all(bench.world.host)
    assert processes_of_state(bench.root) == []
    await control.stop_all(bench.world.host)
    # It is no hold: the next apply starts it.
    assert await bench.verbs(desired) == ["start"]


@pytest.mark.parametrize("record", ["there", "lost"])
async def test_a_withdrawn_service_is_stopped_for_good_and_forgotten(
    bench: Bench, free_port: Callable[[], int], record: str
) -> None:
    await bench.apply(document(free_port()))
    if record == "lost":
        await kill_keeper(bench)
        for path in (bench.world.host.state.keeper / "children").iterdir():
            path.unlink()
    (action,) = (await bench.plan(make_desired())).actions
    assert (action.verb, action.impact, action.undo) == ("remove", Impact.DESTROY, None)
    await bench.kind.apply(action, None, bench.world)
    assert processes_of_state(bench.root) == []
    assert not env_path(bench.world.host).exists()
    assert await bench.verbs(make_desired()) == []


# -- found in planning --


@pytest.mark.req("PLAN-17")
async def test_a_port_that_somebody_holds_is_found_in_planning_with_its_holder(
    bench: Bench, free_port: Callable[[], int], spawned: Spawned
) -> None:
    port = free_port()
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(1000)"
    stranger = spawned.start([sys.executable, "-S", "-c", code])
    await until("the stranger's port", lambda: proc.port_owner(port))
    plan = await bench.plan(document(port))
    (blocked,) = plan.blocked
    assert blocked.code == "port_held"
    name = Path(sys.executable).name
    held = f"cannot listen on port {port}: process {stranger.pid} ({name}) of user {os.getuid()} holds it"
    assert blocked.message == held
    offered = int(blocked.hint.rpartition("port: ")[2].partition("}")[0])
    assert proc.port_owner(offered) is None
    assert list(bench.root.rglob("*")) == []


@pytest.mark.req("PLAN-17")
async def test_a_restart_into_a_held_port_is_found_in_planning_and_the_old_one_serves_on(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    old, new = free_port(), free_port()
    await bench.apply(document(old))
    with socket.create_server(("127.0.0.1", new)):
        (blocked,) = (await bench.plan(document(new))).blocked
    assert str(os.getpid()) in blocked.message
    assert await bench.ready(document(old)) == "Ready"


@pytest.mark.req("PLAN-17")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process that has other rights")
async def test_a_port_that_its_keeper_may_not_give_is_found_in_planning(
    bench: Bench, spawned: Spawned, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = spawned.start(["sleep", "1000"], user=65534)
    least = int(proc.read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start") or "0")
    if least < 2 or proc.least_port(os.getpid()) != 1:
        pytest.skip("here all may listen on every port, or root may not either")
    assert proc.least_port(others.pid) == least
    assert (await bench.plan(document(1))).blocked == ()
    monkeypatch.setattr(os, "getpid", lambda: others.pid)
    (blocked,) = (await bench.plan(document(1))).blocked
    assert blocked.code == "port_forbidden"
    assert blocked.message == (
        f"cannot listen on port 1: without CAP_NET_BIND_SERVICE only ports from {least} on are allowed"
    )


@pytest.mark.req("PLAN-17")
async def test_a_tls_key_that_cannot_be_read_is_found_in_planning(bench: Bench, free_port: Callable[[], int]) -> None:
    port = free_port()
    (bench.root / "cert.pem").write_text("x")
    section = gateway(port, tls_enabled=True, tls_cert="cert.pem", tls_key="~/gone.pem")
    (blocked,) = (await bench.plan(document(port, gateway_section=section))).blocked
    assert blocked.code == "tls_unreadable"
    assert "a relative path there is taken from the state directory" in blocked.hint
    path = bench.world.host.home / "gone.pem"
    assert blocked.message == f"cannot use gateway.tls.keyPath: cannot read {path}: No such file or directory"


@pytest.mark.req("PLAN-17")
async def test_a_restart_whose_output_could_not_be_written_is_found_in_planning_and_the_old_one_serves_on(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    port = free_port()
    await bench.apply(document(port))
    logs = bench.world.host.state.logs
    shutil.rmtree(logs)
    logs.write_text("")
    (blocked,) = (await bench.plan(document(port, environment={"NEW": "1"}))).blocked
    assert blocked.code == "output_unusable"
    assert f"because of {logs}: it is no directory" in blocked.message
    assert await bench.ready(document(port)) == "Ready"


@pytest.mark.parametrize(
    ("more", "code"),
    [({"manager": "systemd"}, "manager_unavailable"), ({"runtime": "openclaw"}, "runtime_unavailable")],
)
async def test_what_this_version_does_not_drive_is_said_and_not_tried(
    bench: Bench, free_port: Callable[[], int], more: dict[str, Any], code: str
) -> None:
    plan = await bench.plan(document(free_port(), **more))
    assert [blocked.code for blocked in plan.blocked] == [code]
    assert plan.actions == ()


async def test_a_value_that_no_environment_can_hold_is_refused_without_being_shown(
    bench: Bench, free_port: Callable[[], int]
) -> None:
    bench.secrets._values["env:BAD"] = "s3cret\0"
    desired = document(free_port(), environment={"BAD": SecretRef("env", "BAD")})
    with pytest.raises(TerminalError, match="the value of 'BAD' holds NUL") as caught:
        await bench.apply(desired)
    assert "s3cret" not in str(caught.value)
    assert processes_of_state(bench.root) == []


# -- the built-in gateway --


async def test_the_built_in_gateway_is_started_asked_and_stopped(free_port: Callable[[], int]) -> None:
    bench = Bench(kind=ServiceKind())
    try:
        port = free_port()
        bench.world.host.state.config.write_text(
            json.dumps({"gateway": {"port": port, "auth": {"mode": "token", "token": "${OPENCLAW_GATEWAY_TOKEN}"}}})
        )
        desired = document(port)
        await bench.apply(desired)
        await until_ready(bench, desired)
        assert proc.port_owner(port) == await pid_of(bench)
        await control.stop(bench.world, "ann")
        ended = (await bench.shown(desired))["last_exit"]
        assert ended["code"] == 0
        assert ended["asked"]
    finally:
        with trio.move_on_after(30, shield=True):
            await trio.to_thread.run_sync(bench.close)


def test_the_default_program_does_not_look_for_modules_in_the_state_directory() -> None:
    bench = Bench(kind=ServiceKind())
    try:
        (resource,) = bench.kind.declare(make_desired(service=service(1)), bench.world.host, bench.secrets)
        assert resource.fields["argv"] == (bench.world.host.python, "-P", "-m", "gateway", "run")
        assert resource.needs == frozenset()
    finally:
        bench.close()
