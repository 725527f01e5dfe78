"""Any two of gateway, keeper and supervisor killed in one blow: one gateway afterwards, no orphan, nothing left to do."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from tests.beds.processes import pid_alive, wait_until
from tests.beds.site import Site, Supervisor
from tests.e2e.test_kills import gateways, keeper_pid

pytestmark = pytest.mark.real
PARTS = ("gateway", "keeper", "supervisor")


def pid_of(part: str, site: Site, supervisor: Supervisor) -> int:
    if part == "supervisor":
        return supervisor.process.pid
    pid = keeper_pid(site) if part == "keeper" else site.gateway_pid()
    assert pid is not None
    return pid


@pytest.mark.req("SVC-7", "PLAN-5", "PLAN-12")
@pytest.mark.parametrize("victims", [*itertools.permutations(PARTS, 2), PARTS])
def test_one_gateway_is_left_whoever_was_killed(site: Site, victims: tuple[str, ...]) -> None:
    site.write(verify="300ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    before = site.gateway_pid()
    doomed = [pid_of(part, site, supervisor) for part in victims]
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    if "supervisor" in victims:
        supervisor.process.wait()
        supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: not any(map(pid_alive, doomed)), 10, "the killed are gone")
    wait_until(lambda: site.health()[0] == 200 and len(gateways(site)) == 1, 30, "one healthy gateway")
    if "gateway" not in victims:
        assert site.gateway_pid() == before
    wait_until(lambda: site.service()["state"] == "ready", 20, "a keeper holds it")
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing is left to do")
    assert gateways(site) == [site.gateway_pid()]
    assert keeper_pid(site)
    assert supervisor.stop() == 0
    wait_until(lambda: gateways(site) == [], 20, "it takes everything with it")
