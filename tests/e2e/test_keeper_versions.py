"""The keeper of another version under a real gateway: found by whoever acts, and made the installed one without a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resources.service.keeper import program, protocol
from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import gateways, keeper_pid
from tests.resources.service.beds import KEEPER, Client, environ, other_version

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

UP_AND_DOWN = pytest.mark.parametrize("version", [protocol.VERSION + 1, protocol.VERSION - 1], ids=["newer", "older"])


def socket_of(site: Site) -> Path:
    return site.state / "reconciler" / "keeper" / "keeper.sock"


def become(site: Site, directory: Path, version: int) -> None:
    """Makes the running keeper one that speaks `version`, as another installation would have left it."""
    path = other_version(directory, version)
    with Client(socket_of(site)) as client:
        client.send("upgrade", argv=KEEPER, environ=environ(path))
        with pytest.raises((EOFError, ConnectionResetError)):
            client.next()


def running(site: Site) -> str | None:
    """The program that the keeper is; None at the very moment at which it becomes another and ends its connections."""
    try:
        with Client(socket_of(site)) as client:
            return str(client.hello["program"])
    except (EOFError, ConnectionError):
        return None


def kept(status: dict[str, Any]) -> dict[str, Any]:
    return {name: status[name] for name in ("state", "pid", "restarts", "last_exit", "since", "keeper")}


@UP_AND_DOWN
def test_without_a_supervisor_it_is_a_step_of_the_next_apply(site: Site, tmp_path: Path, version: int) -> None:
    site.write(verify="300ms")
    site.apply()
    before, pid = site.service(), site.gateway_pid()
    become(site, tmp_path, version)
    assert running(site) not in (None, program.digest())
    assert kept(site.service()) == kept(before)
    (action,) = site.plan()["actions"]
    assert (action["verb"], action["impact"], action["cause"]) == ("upgrade", "none", "upgrade")
    assert "the gateway runs on" in site.run("plan").out
    assert site.apply()["result"] == "confirmed"
    assert running(site) == program.digest()
    assert site.gateway_pid() == pid
    assert kept(site.service()) == kept(before)
    assert site.plan()["actions"] == []
    assert len(site.generations()) == 1
    assert gateways(site) == [pid]
    assert keeper_pid(site) == before["keeper"]


@UP_AND_DOWN
def test_a_supervisor_does_it_by_itself(site: Site, tmp_path: Path, version: int) -> None:
    site.write(verify="300ms")
    site.apply()
    before, pid = site.service(), site.gateway_pid()
    supervisor = site.supervisor("--on-exit", "stop")
    become(site, tmp_path, version)
    wait_until(lambda: running(site) == program.digest(), 20, "the installed program")
    supervisor.wait_event(lambda event: event.get("verb") == "upgrade" and event["result"] == "done", "the step")
    assert site.gateway_pid() == pid
    assert kept(site.service()) == kept(before)
    wait_until(lambda: site.plan()["actions"] == [], 10, "nothing is left to do")
    assert gateways(site) == [pid]
    assert keeper_pid(site) == before["keeper"]
    assert supervisor.stop() == 0
    wait_until(lambda: gateways(site) == [], 20, "it takes everything with it")
