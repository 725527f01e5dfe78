"""A keeper that is stopped, as by SIGSTOP, and not dead: nobody hangs with it, nothing is lost, and there is no second one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.beds.processes import pid_alive, wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import gateways, keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

# Two looks at a keeper that does not answer, each two seconds, and the commands themselves on a busy machine.
PATIENCE_SECONDS = 15.0


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def conditions(status: Any) -> dict[str, Any]:
    """Those of the service that are so, by type."""
    (service,) = [item for item in status["resources"] if item["key"] == "service/gateway"]
    return {item["type"]: item for item in service["conditions"] if item["status"] == "True"}


def test_commands_that_look_answer_in_time_and_change_nothing_and_all_is_well_when_it_goes_on(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    with stopped(keeper):
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            # Side by side: each waits for the keeper most of the time.
            commands = (["status"], ["plan"], ["service", "status"], ["why", "service/gateway"])
            answers = list(pool.map(lambda command: site.run(*command, "--json"), commands))
        assert time.monotonic() - began < PATIENCE_SECONDS
        assert [answer.code for answer in answers] == [0, 0, 0, 0]
        status, planned, service, _why = (answer.json for answer in answers)
        degraded = conditions(status)["Degraded"]
        assert degraded["reason"] == "NotHeld"
        assert f"its keeper (process {keeper}) is stopped (`kill -CONT {keeper}` continues it)" in degraded["message"]
        assert (service["state"], service["pid"], service["keeper"]) == ("unheld", pid, None)
        (action,) = planned["actions"]
        assert (action["verb"], action["impact"]) == ("adopt", "none")
        assert str(keeper) in action["consequences"][0]["text"]
        assert site.gateway_pid() == pid
        assert keeper_pid(site) == keeper
    # Nobody did anything.
    service = site.service()
    assert (service["state"], service["pid"], service["keeper"], service["restarts"]) == ("ready", pid, keeper, 0)
    assert site.plan()["actions"] == []
    assert "Degraded" not in conditions(site.run("status", "--json").json)


def test_a_gateway_that_died_meanwhile_is_started_when_the_keeper_goes_on(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    assert pid is not None
    with stopped(keeper):
        kill(pid)
        degraded = conditions(site.run("status", "--json").json)["Degraded"]
        assert (degraded["reason"], "kill -CONT" in degraded["message"]) == ("NotHeld", True)
        assert gateways(site) == []
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "another gateway")
    service = site.service()
    assert (service["restarts"], service["last_exit"]["reason"]) == (1, "killed by SIGKILL")
    assert gateways(site) == [site.gateway_pid()]
    assert keeper_pid(site) == keeper


@pytest.mark.soak
def test_an_apply_continues_it_instead_of_a_second_one(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    with stopped(keeper):
        began = time.monotonic()
        assert site.apply()["result"] == "confirmed"
        assert time.monotonic() - began < 2 * PATIENCE_SECONDS
        assert pid_alive(keeper)
    assert (keeper_pid(site), site.gateway_pid(), gateways(site)) == (keeper, pid, [pid])


def test_a_stop_by_hand_continues_it_instead_of_a_second_one(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    keeper = keeper_pid(site)
    with stopped(keeper):
        began = time.monotonic()
        answer = site.run("service", "stop")
        assert answer.code == 0, answer.err
        assert time.monotonic() - began < PATIENCE_SECONDS
    assert site.health()[0] == 0
    assert site.service()["last_exit"]["code"] == 0
    assert keeper_pid(site) == keeper


@pytest.mark.soak
def test_a_supervisor_notices_by_itself_and_continues_it(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    with stopped(keeper):
        supervisor.wait_event(lambda event: event.get("verb") == "adopt" and event["result"] == "done", "the step", 60)
    assert (keeper_pid(site), site.gateway_pid(), gateways(site)) == (keeper, pid, [pid])
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing is left to do")
    assert site.service()["restarts"] == 0
    assert [event["reason"] for event in supervisor.events() if event["event"] == "degraded"] == ["NotHeld"]
    wait_until(lambda: any(event["event"] == "recovered" for event in supervisor.events()), 60, "it says so")
    assert supervisor.stop() == 0
