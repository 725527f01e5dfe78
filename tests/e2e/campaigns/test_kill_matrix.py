"""Gateway, keeper and supervisor killed, each, every two and all of them, again and again on one host.

After each blow there is one gateway, no orphan and nothing left to do, and where the gateway was not the victim it is the same.
"""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.beds.pace import slowness
from tests.beds.processes import pid_alive, wait_until
from tests.beds.site import Site, Supervisor
from tests.e2e.test_kills import gateways, keeper_pid

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "PLAN-5", "PLAN-12")]

PARTS = ("gateway", "keeper", "supervisor")
BLOWS = [
    victims
    for count in (1, 2, 3)
    for victims in (itertools.permutations(PARTS, count) if count < 3 else [PARTS])
]  # fmt: skip
# From the supervisor's first word that it watches.
STATUS_SECONDS = 2.0


def pid_of(part: str, site: Site, supervisor: Supervisor) -> int:
    if part == "supervisor":
        return supervisor.process.pid
    pid = keeper_pid(site) if part == "keeper" else site.gateway_pid()
    assert pid is not None
    return pid


def strike(site: Site, supervisor: Supervisor, victims: tuple[str, ...]) -> Supervisor:
    """One blow, and all that must hold after it. Returns the supervisor that runs then."""
    before, restarts = site.gateway_pid(), site.service()["restarts"]
    doomed = [pid_of(part, site, supervisor) for part in victims]
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    if "supervisor" in victims:
        supervisor.process.wait()
        supervisor = site.supervisor("--on-exit", "stop")
    began = time.monotonic()
    wait_until(lambda: not any(map(pid_alive, doomed)), 10, "the killed are gone")
    said = site.service()
    assert time.monotonic() - began < STATUS_SECONDS * slowness(time.perf_counter)
    if "gateway" in victims:
        # Still down, or up anew: whatever it says is so.
        assert said["pid"] is None or said["pid"] != before
    else:
        assert (said["pid"], said["restarts"]) == (before, restarts)
        # A new keeper has to take it over; nothing else was disturbed.
        needed = {"adopt"} if "keeper" in victims else set()
        assert {action["verb"] for action in site.plan()["actions"]} <= needed
    wait_for_one_gateway(site, supervisor)
    if "gateway" not in victims:
        assert site.gateway_pid() == before
    wait_until(lambda: site.service()["state"] == "ready", 20, "a keeper holds it")
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing is left to do")
    assert gateways(site) == [site.gateway_pid()]
    assert keeper_pid(site)
    return supervisor


def wait_for_one_gateway(site: Site, supervisor: Supervisor) -> None:
    try:
        wait_until(lambda: site.health()[0] == 200 and len(gateways(site)) == 1, 30, "one healthy gateway")
    except AssertionError as err:
        told = supervisor.text()[-3000:]
        raise AssertionError(
            f"{err}; gateways {gateways(site)}\n{site.run('service', 'status').out}\n{site.run('plan').out}\n{told}"
        ) from None


def campaign(site: Site, victims: tuple[str, ...], rounds: int) -> None:
    # Every blow is one restart at most: the falling rate of a crash loop is another question.
    text = site.write(verify="300ms")
    site.write(text.replace("delay: 200ms, max_delay: 2s", "delay: 100ms, max_delay: 200ms, burst: 1000"))
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    for _ in range(rounds):
        supervisor = strike(site, supervisor, victims)
    assert site.generations()[0]["result"] == "confirmed"
    assert supervisor.stop() == 0
    wait_until(lambda: gateways(site) == [], 20, "it takes everything with it")
    print(f"{rounds} of {rounds} blows against {', '.join(victims)}")


@pytest.mark.parametrize("victims", BLOWS, ids=" ".join)
def test_one_gateway_is_left_whoever_was_killed(site: Site, victims: tuple[str, ...]) -> None:
    campaign(site, victims, 2)


@pytest.mark.soak
@pytest.mark.parametrize("victims", BLOWS, ids=" ".join)
def test_one_gateway_is_left_after_twenty_blows(site: Site, victims: tuple[str, ...]) -> None:
    campaign(site, victims, 20)
