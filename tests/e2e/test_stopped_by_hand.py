"""What is applied while a person holds the service stopped: in force, and not confirmed before it was seen to serve."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.beds.tls import mismatch, with_tls

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-7", "SVC-9")]


@pytest.fixture
def stopped(site: Site) -> Site:
    """A host with one confirmed generation, stopped by hand."""
    site.write(verify="500ms")
    site.apply()
    assert site.run("service", "stop", "--why", "a new disk").code == 0
    return site


def results(site: Site) -> list[tuple[int, str]]:
    return [(item["number"], item["result"]) for item in site.generations()]


def in_force(site: Site) -> int:
    found: int = site.run("history", "--json").json["in_force"]
    return found


@pytest.mark.parametrize("more", ["", "environment: {A: b}, "])
def test_a_document_that_wants_it_stopped_too_takes_the_stop_over(stopped: Site, more: str) -> None:
    site = stopped
    before = site.document.read_text()
    site.edit("service: {", "service: {state: stopped, " + more)
    (action,) = site.plan()["actions"]
    assert (action["verb"], action["impact"], action["cause"]) == ("stop", "none", "change")
    assert site.apply()["result"] == "confirmed"
    assert site.plan()["actions"] == []
    site.apply()
    assert results(site) == [(2, "confirmed"), (1, "confirmed")]
    assert site.service()["hold"]["by"] == "document"
    assert site.health()[0] == 0
    site.write(before)
    assert [action["verb"] for action in site.plan()["actions"]] == ["start"]
    assert site.apply()["result"] == "confirmed"
    assert site.health()[0] == 200


def test_it_is_confirmed_by_the_start_that_shows_it(stopped: Site) -> None:
    site = stopped
    site.edit("level: info", "level: debug")
    done = site.apply()
    assert done["result"] == "unconfirmed"
    assert "service/gateway is not running: stopped by operator" in done["reason"]
    assert (results(site), in_force(site)) == ([(2, "unconfirmed"), (1, "confirmed")], 2)
    assert "generation 2 is applied and was never seen to serve" in site.run("status").out
    before = (site.state / "reconciler/journal.sqlite-wal").stat().st_mtime_ns
    again = site.run("apply", "--yes")
    assert again.code == 0
    assert "No changes, but not confirmed: service/gateway is not running" in again.out
    assert (site.state / "reconciler/journal.sqlite-wal").stat().st_mtime_ns == before
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert "Generation 2: confirmed" in started.err
    assert "held down" not in started.out
    assert results(site) == [(2, "confirmed"), (1, "confirmed")]
    assert site.config()["logging"]["level"] == "debug"
    assert "never seen to serve" not in site.run("status").out
    assert site.plan()["actions"] == []


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_a_held_port_leaves_it_stopped(stopped: Site, verb: str) -> None:
    site = stopped
    with socket.create_server(("127.0.0.1", site.port)):
        # What served before is started without a plan that would look.
        tried = site.run("service", verb)
        assert (tried.code, "is already listening" in tried.err) == (1, True)
        assert site.run("service", "stop").code == 0
        site.edit("level: info", "level: debug")
        assert site.apply()["result"] == "unconfirmed"
        blocked = site.run("service", verb)
        assert (blocked.code, f"cannot listen on port {site.port}" in blocked.err) == (3, True)
    assert site.service()["hold"]["by"] == "operator"
    assert results(site) == [(2, "unconfirmed"), (1, "confirmed")]


def test_where_it_does_not_serve_the_start_goes_back_to_what_did(stopped: Site) -> None:
    site = stopped
    good = site.document.read_text()
    bad = site.write(with_tls(site, good, *mismatch(site)))
    assert site.apply()["result"] == "unconfirmed"
    # What does not touch the service shows as little.
    bad = site.write(bad.replace("level: info", "level: info\n  retention: {age: 30d}"))
    assert site.apply()["result"] == "unconfirmed"
    assert results(site) == [(3, "unconfirmed"), (2, "unconfirmed"), (1, "confirmed")]
    started = site.run("service", "start")
    assert started.code == 5, (started.out, started.err)
    assert "in force again: generation 1" in started.err
    assert "ready" in started.out
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    assert results(site)[0][1] == "rolled-back"
    assert in_force(site) == 1
    assert "held back" in site.run("status").out
    site.write(good)
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-8")
def test_under_a_supervisor_it_goes_back_as_well(stopped: Site) -> None:
    site = stopped
    supervisor = site.supervisor("--on-exit", "stop")
    good = site.document.read_text()
    site.write(with_tls(site, good, *mismatch(site)))
    wait_until(lambda: results(site)[0] == (2, "unconfirmed"), 20, "applied")
    started = site.run("service", "start")
    assert started.code == 5, (started.out, started.err)
    assert site.health()[0] == 200
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document is held back")
    assert in_force(site) == 1
    assert site.health()[0] == 200


def test_started_where_the_secrets_are_not_the_supervisor_goes_back(stopped: Site) -> None:
    site = stopped
    site.supervisor("--on-exit", "stop")
    site.write(with_tls(site, site.document.read_text(), *mismatch(site)))
    wait_until(lambda: results(site)[0] == (2, "unconfirmed"), 20, "applied")
    site.extra["E2E_TOKEN"] = ""
    started = site.run("service", "start")
    assert started.code == 1
    assert "note: generation 2 is not watched from here: " in started.err
    assert "cannot start the gateway" in started.err
    wait_until(lambda: results(site)[0] == (2, "rolled-back"), 30, "back")
    assert (in_force(site), site.health()[0]) == (1, 200)


def test_a_start_that_is_killed_in_its_window_is_finished_by_the_next_run(stopped: Site) -> None:
    site = stopped
    site.edit("verify: 500ms", "verify: 4s")
    assert site.apply()["result"] == "unconfirmed"
    process = site.start("service", "start")
    wait_until(lambda: results(site)[0] == (2, "verifying"), 20, "its window")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "nobody watches it" in site.run("status").out
    assert site.apply()["result"] == "confirmed"
    assert results(site) == [(2, "confirmed"), (1, "confirmed")]


def test_a_stop_within_the_window_leaves_it_unconfirmed(site: Site) -> None:
    site.write(verify="500ms")
    site.apply()
    site.edit("verify: 500ms", "verify: 4s")
    site.edit("service: {", "service: {environment: {A: b}, ")
    process = site.start("apply", "--yes", "--json")
    wait_until(lambda: results(site)[0] == (2, "verifying"), 20, "its window")
    assert site.run("service", "stop").code == 0
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert '"unconfirmed"' in out
    assert site.run("service", "restart").code == 0
    assert results(site)[0] == (2, "confirmed")


def test_one_that_runs_already_is_not_started_again(stopped: Site) -> None:
    site = stopped
    site.edit("level: info", "level: debug")
    site.apply()
    site.extra["E2E_TOKEN"] = ""
    assert site.run("service", "start").code == 0
    del site.extra["E2E_TOKEN"]
    assert results(site)[0] == (2, "unconfirmed")
    pid = site.gateway_pid()
    assert pid is not None
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert site.gateway_pid() == pid
    assert results(site)[0] == (2, "confirmed")


@pytest.mark.req("PLAN-8")
def test_rollback_without_a_number_goes_back_to_the_last_that_was_confirmed(stopped: Site) -> None:
    site = stopped
    site.edit("level: info", "level: debug")
    site.apply()
    done = site.run("rollback", "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json["result"] == "unconfirmed"
    assert '"level": "info"' in (site.state / "openclaw.json").read_text()
    assert site.run("service", "start").code == 0
    assert results(site)[0] == (3, "confirmed")
