"""Somebody wrote to openclaw.json, and the gateway was started by that: the cure starts it by what is declared."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import TOKEN, Site
from tests.beds.tls import certificate
from tests.e2e.test_kills import kill
from tests.e2e.test_tls import relative, served

pytestmark = [pytest.mark.real, pytest.mark.req("GW-5", "PLAN-13", "SVC-7")]


def written(site: Site, change: Callable[[dict[str, Any]], object]) -> bytes:
    """openclaw.json with a change by another program, which replaces it; what was there before."""
    config = site.state / "openclaw.json"
    before = config.read_bytes()
    data = json.loads(before)
    change(data)
    beside = Path(f"{config}.theirs")
    beside.write_text(json.dumps(data))
    os.replace(beside, config)
    return before


def verbs(actions: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(action["key"], action["verb"]) for action in actions]


CURED = [("gateway-config/gateway", "write"), ("service/gateway", "restart")]


@pytest.mark.parametrize("auth", [{"mode": "none"}, {"mode": "token", "token": "theirs"}])
def test_a_gateway_that_began_with_the_access_of_somebody_else_is_restarted(site: Site, auth: dict[str, str]) -> None:
    site.write(verify="300ms")
    site.apply()
    written(site, lambda data: data["gateway"].update(auth=auth))
    assert site.run("service", "restart").code in (0, 1)
    assert verbs(site.plan()["actions"]) == CURED
    done = site.apply()
    assert (done["result"], verbs(done["actions"])) == ("confirmed", CURED)
    assert "parts" not in site.health()[1]
    assert "parts" in site.health(secret=TOKEN)[1]
    assert site.plan()["actions"] == []


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    "auth",
    [
        "{mode: token, token: {env: SHOWN}}",
        "{mode: password, token: {env: E2E_TOKEN}, password: {env: SHOWN}}",
        "{token: {env: E2E_TOKEN}, password: {env: SHOWN}}",
    ],
)
def test_no_gateway_is_restarted_for_the_look_of_its_secret(site: Site, auth: str) -> None:
    """It is asked whether it has the declared one, and by that very one."""
    site.extra["SHOWN"] = "grün und 😀"
    site.write(site.write(verify="300ms").replace("{mode: token, token: {env: E2E_TOKEN}}", auth))
    assert site.apply()["result"] == "confirmed"
    assert site.plan()["actions"] == []
    assert site.run("drift").code == 0
    assert "parts" in json.loads(site.run("gateway", "health", "--json").out)


@pytest.mark.req("DOC-4")
def test_the_secret_of_somebody_else_is_nothing_that_a_restart_could_cure(site: Site) -> None:
    """The document says nothing of it, and its variable has another value here than in the gateway's process."""
    text = site.write(verify="300ms").replace("  auth: {mode: token, token: {env: E2E_TOKEN}}\n", "")
    site.write(text.replace("service: {", "service: {environment: {THEIRS: {env: E2E_TOKEN}}, "))
    config = site.state / "openclaw.json"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"gateway": {"auth": {"mode": "token", "token": "${THEIRS}"}}}))
    site.extra["THEIRS"] = "another value"
    site.apply("--take-over")
    assert "parts" in site.health(secret=TOKEN)[1]
    assert site.plan()["actions"] == []


@pytest.mark.req("DOC-4", "GW-6")
def test_a_file_that_it_cannot_begin_by_is_no_reason_to_start_it_again(site: Site) -> None:
    """It begins by the last good one then, with the secret of somebody else, however often it begins."""
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    before = written(site, lambda data: data["gateway"].update(auth={"mode": "token", "token": "theirs"}))
    wait_until(lambda: "gateway.auth.token" in str(site.health(secret=TOKEN)[1]), 10, "the gateway has seen it")
    written(site, lambda data: data.update({**json.loads(before), "bogus": 1}))
    kill(pid)
    wait_until(lambda: "parts" in (site.health(secret="theirs")[1] or ()), 20, "a gateway by the last good file")
    assert site.plan()["actions"] == []
    assert (
        'Degraded: Rejected: the gateway refuses openclaw.json and runs by the last good one: Unrecognized key: "bogus"'
        in site.run("status").out
    )
    (site.state / "openclaw.json").write_bytes(before)
    assert verbs(site.apply()["actions"]) == CURED[1:]
    assert "parts" in site.health(secret=TOKEN)[1]


def test_a_gateway_that_began_without_tls_is_restarted(site: Site) -> None:
    relative(site)
    written(site, lambda data: data["gateway"]["tls"].update(enabled=False))
    assert site.run("service", "restart").code in (0, 1)
    assert site.health()[0] == 200
    assert verbs(site.apply()["actions"]) == CURED
    assert "BEGIN CERTIFICATE" in served(site)


def test_a_gateway_that_began_on_another_port_is_restarted_whoever_cures_the_file(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write(verify="300ms")
    site.apply()
    theirs = free_port()
    before = written(site, lambda data: data["gateway"].update(port=theirs))
    site.run("service", "restart")
    wait_until(lambda: site.health(theirs)[0] == 200, 20, "a gateway on their port")
    # Put back by hand: nothing differs any more but what the process goes by.
    (site.state / "openclaw.json").write_bytes(before)
    wait_until(lambda: verbs(site.plan()["actions"]) == CURED[1:], 10, "the gateway has seen the file")
    assert "was started by another openclaw.json: gateway.port" in site.run("plan").out
    assert site.run("drift").code == 2
    moved = "restart: the gateway was started by another openclaw.json: gateway.port"
    assert f"Drifted: Owed: {moved}" in site.run("status").out
    assert site.service()["drift"] == [moved]
    assert site.apply()["result"] == "confirmed"
    assert (site.health()[0], site.health(theirs)[0]) == (200, 0)


def test_a_supervisor_cures_a_gateway_that_was_started_by_the_file_of_somebody_else(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write(verify="300ms")
    site.apply()
    theirs = free_port()
    written(site, lambda data: data["gateway"].update(port=theirs))
    pid = site.gateway_pid()
    assert pid is not None
    kill(pid)
    wait_until(lambda: site.health(theirs)[0] == 200, 20, "a gateway on their port")
    site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.health()[0] == 200, 20, "a gateway on the declared port")
    assert site.health(theirs)[0] == 0
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-2", "PLAN-10")
def test_what_a_running_gateway_never_took_up_is_cured_without_a_restart(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write(site.write(verify="300ms").replace("policy: {", "policy: {approve: [restart], "))
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    theirs = free_port()
    written(site, lambda data: data["gateway"].update(port=theirs, bind="loopback"))
    wait_until(lambda: "gateway.port" in str(site.health(secret=TOKEN)[1]), 10, "the gateway has seen it")
    # Nobody has to agree to a restart that does not come.
    assert [(action["verb"], action["impact"]) for action in site.plan()["actions"]] == [
        ("write", "none"),
        ("reload", "hot-reload"),
    ]
    assert verbs(site.apply()["actions"]) == [("gateway-config/gateway", "write"), ("gateway-config/gateway", "reload")]
    assert site.plan()["actions"] == []
    assert site.gateway_pid() == pid
    # One that comes waits, as it always did.
    written(site, lambda data: data["gateway"].update(port=theirs))
    kill(pid)
    wait_until(lambda: site.health(theirs)[0] == 200, 20, "a gateway on their port")
    site.plan(code=3)
    site.apply(code=3)
    assert site.health(theirs)[0] == 200


def test_tls_that_somebody_wrote_beside_what_is_declared_hinders_no_reload(site: Site) -> None:
    text = site.write(verify="300ms")
    site.apply()
    cert, key = certificate(site)
    theirs = {"enabled": True, "certPath": str(cert), "keyPath": str(key)}
    written(site, lambda data: data["gateway"].update(tls=theirs))
    site.write(text.replace("level: info", "level: debug"))
    began = time.monotonic()
    done = site.apply()
    assert (done["result"], verbs(done["actions"])[-1]) == ("confirmed", ("gateway-config/gateway", "reload"))
    assert time.monotonic() - began < 8
