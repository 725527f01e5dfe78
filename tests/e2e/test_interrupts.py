"""Ctrl-C and SIGTERM in an apply: the present step ends, nothing more is waited for, and the next run goes on from there.
In a supervisor: all that was asked for is done however often it is asked for at once, and once more later ends it there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

from reconciler.engine.lock import holder, started
from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import keeper_pid

pytestmark = pytest.mark.real

STAYS = "no longer watching: what was applied stays, and is not confirmed yet"
signals = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=10)
    return process.returncode, out, err


@pytest.mark.req("PLAN-5", "PLAN-13")
@signals
def test_in_the_last_step_it_ends_with_that_step(site: Site, number: signal.Signals, code: int) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    site.write(
        site.document.read_text().replace("service: {", "service: {environment: {A: b}, ").replace("300ms}", "30s}")
    )
    process = site.start("apply", "--yes", "--json")
    # The old one is gone, and until the new one serves the step is not over.
    wait_until(lambda: started(pid) is None, 20, "the restart is on its way")
    process.send_signal(number)
    found, out, err = ended(process)
    assert (found, json.loads(out)["result"], json.loads(out)["generation"]) == (code, "verifying", 2)
    assert [action["result"] for action in json.loads(out)["actions"]] == ["done"]
    assert err.splitlines() == ["stopping after the present step; once more ends at once", STAYS]
    assert site.gateway_pid() not in (None, pid)
    assert site.generations()[0]["result"] == "verifying"
    site.write(site.document.read_text().replace("30s}", "300ms}"))
    site.apply()
    assert site.generations()[0]["result"] == "confirmed"


@pytest.mark.req("PLAN-5", "PLAN-13")
@signals
def test_in_the_window_it_ends_at_once(site: Site, number: signal.Signals, code: int) -> None:
    site.write(verify="30s")
    process = site.start("apply", "--yes")
    assert process.stderr is not None
    while "watching the result" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    found, out, err = ended(process)
    assert (found, err) == (code, f"{STAYS}\n")
    assert out.startswith("Generation 1: applied, not confirmed yet; 2 of 2 actions done.\n")
    assert site.health()[0] == 200
    assert "nobody watches it" in site.run("status").out


@pytest.mark.req("PLAN-5", "PLAN-13")
def test_in_a_window_that_is_waited_out_for_one_who_died_it_ends_at_once(site: Site) -> None:
    site.write(verify="30s")
    first = site.start("apply", "--yes")
    wait_until(lambda: bool(site.generations()), 20, "its window")
    first.kill()
    first.wait()
    second = site.start("apply", "--yes", "--json")
    wait_until(lambda: holder(site.state / "reconciler/verify.lock") is not None, 20, "it watches on")
    second.send_signal(signal.SIGINT)
    found, out, err = ended(second)
    assert (found, json.loads(out)["result"], json.loads(out)["generation"]) == (130, "verifying", 1)
    assert err == STAYS + "\n"
    assert [item["result"] for item in site.generations()] == ["verifying"]
    site.write(site.document.read_text().replace("30s}", "300ms}"))
    assert site.apply()["result"] == "confirmed"


def ready(site: Site) -> int:
    """A confirmed generation; the process of its gateway."""
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    return pid


@pytest.mark.req("SVC-7", "SVC-9")
@pytest.mark.parametrize("seconds", [0.001, 0.004, 0.02, 0.1])
@pytest.mark.parametrize(("number", "last"), [(signal.SIGINT, "stopped"), (signal.SIGTERM, "left_running")])
def test_the_same_signal_twice_within_a_moment_is_one(
    site: Site, number: signal.Signals, last: str, seconds: float
) -> None:
    pid = ready(site)
    supervisor = site.supervisor()
    supervisor.process.send_signal(number)
    time.sleep(seconds)
    assert supervisor.stop(number) == 0, supervisor.text()
    assert supervisor.events()[-1]["event"] == last
    assert all(line.startswith("{") for line in supervisor.text().splitlines())
    assert site.gateway_pid() == (pid if number == signal.SIGTERM else None)
    assert "without a word" not in site.run("status").out


@pytest.mark.req("SVC-7", "SVC-9")
@pytest.mark.parametrize(("again", "seconds", "code"), [(signal.SIGINT, 0.7, 130), (signal.SIGTERM, 0.2, 143)])
def test_a_second_one_while_the_service_is_stopped_ends_at_once_and_says_what_is_left(
    site: Site, again: signal.Signals, seconds: float, code: int
) -> None:
    pid = ready(site)
    supervisor = site.supervisor()
    keeper = keeper_pid(site)
    # Its answer is waited for, so that the stop takes a while.
    os.kill(keeper, signal.SIGSTOP)
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.wait_event(lambda event: event["event"] == "stopping", "the stop")
    time.sleep(seconds)
    assert supervisor.stop(again) == code, supervisor.text()
    last = supervisor.events()[-1]
    hint = "the service goes on; `openclaw service stop` ends it"
    assert (last["event"], last["hint"]) == ("ended_at_once", hint)
    os.kill(keeper, signal.SIGCONT)
    assert site.gateway_pid() == pid
    assert "without a word" not in site.run("status").out


@pytest.mark.req("SVC-7", "SVC-9")
def test_one_that_leaves_no_service_behind_says_so(site: Site) -> None:
    ready(site)
    assert site.run("service", "stop").code == 0
    supervisor = site.supervisor()
    assert supervisor.stop(signal.SIGTERM) == 0
    last = supervisor.events()[-1]
    assert (last["event"], last["what"]) == ("stopped", "watching; no service runs here")
