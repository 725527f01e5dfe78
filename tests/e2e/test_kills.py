"""Whoever is killed, there is one gateway afterwards: the same one where it was not the victim."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable

import pytest

from tests.beds.processes import argv_of, pid_alive, processes_of_state, wait_until
from tests.beds.site import Site, Supervisor

pytestmark = pytest.mark.real


@pytest.fixture
def watched(site: Site) -> Supervisor:
    site.write(verify="300ms")
    site.apply()
    return site.supervisor("--on-exit", "stop")


def gateways(site: Site) -> list[int]:
    """The processes of this state that are a gateway."""
    return [item.pid for item in processes_of_state(site.state) if "gateway" in argv_of(item.pid)[1:5]]


def keeper_pid(site: Site) -> int:
    found = [item.pid for item in processes_of_state(site.state) if "resources.service.keeper" in argv_of(item.pid)]
    assert len(found) == 1, found
    return found[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pid_alive(pid), 10, f"process {pid} is gone")


@pytest.mark.req("SVC-7", "PLAN-12", "PLAN-18")
def test_a_killed_gateway_is_started_again_once_and_status_log_and_why_tell(watched: Supervisor) -> None:
    site = watched.site
    before = site.gateway_pid()
    assert before is not None
    kill(before)
    wait_until(lambda: site.gateway_pid() not in (None, before), 20, "another gateway")
    assert gateways(site) == [site.gateway_pid()]
    service = site.service()
    assert service["restarts"] == 1
    assert "9" in json.dumps(service["last_exit"]) or "SIGKILL" in json.dumps(service["last_exit"])
    wait_until(lambda: site.plan()["actions"] == [], 10, "nothing left to do")
    told = watched.wait_event(lambda event: event["event"] == "ended", "the word of it")
    reason = f"killed by SIGKILL (pid {before}); its keeper starts it again after 0.2 s"
    assert (told["key"], told["reason"], told["times"]) == ("service/gateway", reason, 1)
    again = site.gateway_pid()
    assert again is not None
    kill(again)
    wait_until(lambda: site.gateway_pid() not in (None, again), 20, "a third gateway")
    why = site.run("why", "service/gateway", "--json").json
    ended = [event["text"] for event in why["events"] if event["what"] == "ended"]
    assert ended == [f"killed by SIGKILL (pid {again}); its keeper starts it again after 0.4 s", reason]
    assert f"ended: {reason}" in site.run("why", "service/gateway").out


@pytest.mark.req("SVC-7")
def test_a_killed_keeper_is_replaced_and_the_gateway_stays(watched: Supervisor) -> None:
    site = watched.site
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    kill(keeper)
    wait_until(lambda: site.service()["state"] == "ready" and keeper_pid(site) != keeper, 20, "another keeper holds it")
    assert site.gateway_pid() == pid
    assert gateways(site) == [pid]
    service = site.service()
    assert service["restarts"] == 0
    last = service["last_keeper"]
    assert (last["pid"], last["reason"]) == (keeper, "ended without a word")
    text = f"last keeper: ended without a word (pid {keeper}, replaced {last['replaced_at']})"
    for words in (("status",), ("service", "status"), ("why", "service/gateway")):
        assert text in site.run(*words).out, words


@pytest.mark.req("SVC-7", "PLAN-6", "PLAN-12")
def test_a_killed_supervisor_changes_nothing_and_the_next_one_plans_nothing(watched: Supervisor) -> None:
    site = watched.site
    pid = site.gateway_pid()

    def died() -> list[str]:
        """What `status` says of a supervisor that died."""
        status = site.run("status", "--json").json
        return [note["message"] for note in status["notes"] if note["code"] == "supervisor_died"]

    assert died() == []
    watched.kill()
    (text,) = died()
    assert text.startswith(f"the supervisor (pid {watched.process.pid}, since 2")
    assert text.endswith(") ended without a word, and nobody watches")
    assert "no supervisor watches\n" in (out := site.run("status").out)
    assert f"note: {text}\n" in out
    assert site.plan()["actions"] == []
    again = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.run("status", "--json").json["supervisor"] is not None, 5, "status names the supervisor")
    assert died() == []
    assert site.gateway_pid() == pid
    assert gateways(site) == [pid]
    assert again.stop() == 0
    assert died() == []


@pytest.mark.req("SVC-7")
def test_without_a_supervisor_an_apply_adopts_the_child_of_a_killed_keeper(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    kill(keeper_pid(site))
    planned = site.plan()
    assert [action["impact"] for action in planned["actions"]] == ["none"]
    site.apply()
    assert site.gateway_pid() == pid
    assert site.plan()["actions"] == []


@pytest.mark.req("SVC-7")
def test_a_stop_by_hand_holds_until_a_start(watched: Supervisor) -> None:
    site = watched.site
    stopped = site.run("service", "stop", "--why", "spring cleaning")
    assert stopped.code == 0, stopped.err
    assert site.health()[0] == 0
    assert site.plan()["actions"] == []
    status = site.run("status", "--json").json
    service = next(item for item in status["resources"] if item["key"] == "service/gateway")
    suspended = next(item for item in service["conditions"] if item["type"] == "Suspended")
    assert suspended["status"] == "True"
    assert "operator" in suspended["message"]
    assert "spring cleaning" in site.run("why", "service/gateway").out
    started = site.run("service", "start")
    assert started.code == 0, started.err
    site.wait_healthy()


@pytest.mark.req("SVC-7", "PLAN-13")
def test_what_was_applied_while_it_was_stopped_by_hand_is_in_force_after_the_start(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write(verify="300ms")
    site.apply()
    assert site.run("service", "stop").code == 0
    new = free_port()
    site.write(verify="300ms", port=new)
    site.edit("level: info", "level: debug")
    site.apply()
    assert site.health(new)[0] == 0
    assert site.plan()["actions"] == []
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert site.health(new)[0] == 200
    assert site.plan()["actions"] == []
    site.edit("level: debug", "level: warn")
    assert site.apply()["result"] == "confirmed"
    assert site.config()["logging"]["level"] == "warn"


@pytest.mark.req("SVC-8")
def test_the_service_is_stopped_and_started_where_its_secrets_are_not_at_hand(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.extra["E2E_TOKEN"] = ""
    stopped = site.run("service", "stop")
    assert stopped.code == 0, stopped.err
    assert site.health()[0] == 0
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert site.health()[0] == 200
