"""What is in the place of the log directory was there before the document that is saved: that is not to blame for it."""

from __future__ import annotations

import shutil

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import kill

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-17", "LOG-3", "PLAN-10")]

RESTARTS = ("drain: 2s", "drain: 3s")


def put_in_the_way(site: Site) -> None:
    shutil.rmtree(site.state / "logs")
    (site.state / "logs").write_text("")


def results(site: Site) -> list[str]:
    return [each["result"] for each in site.generations()]


def test_a_restart_that_could_not_write_its_output_is_refused_and_the_gateway_serves_on(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    put_in_the_way(site)
    site.edit(*RESTARTS)
    answer = site.run("apply", "--yes")
    assert answer.code == 3
    assert f"{site.state}/logs: it is no directory" in answer.err
    assert "logging.directory" in answer.err
    by_hand = site.run("service", "restart")
    assert (by_hand.code, f"{site.state}/logs: it is no directory" in by_hand.err) == (1, True)
    assert (site.gateway_pid(), results(site)) == (pid, ["confirmed"])
    (site.state / "logs").unlink()
    site.apply()
    assert results(site) == ["confirmed", "confirmed"]
    assert site.gateway_pid() != pid


def test_what_is_saved_while_a_gateway_that_ended_cannot_be_started_is_applied_when_it_can(site: Site) -> None:
    site.write(verify="300ms")
    site.supervisor()
    wait_until(lambda: results(site) == ["confirmed"], 20, "the first one")
    pid = site.gateway_pid()
    assert pid is not None
    put_in_the_way(site)
    kill(pid)
    wait_until(lambda: site.service()["state"] == "broken", 30, "no start succeeds")
    site.edit("level: info", "level: debug")
    wait_until(lambda: "not applied: cannot start the gateway" in site.run("status").out, 20, "the refusal")
    assert results(site) == ["confirmed"]
    (site.state / "logs").unlink()
    wait_until(lambda: results(site) == ["confirmed", "confirmed"], 60, "what was saved")
    assert site.level() == "debug"


def test_what_needs_no_restart_is_applied_in_part_each_time_and_nothing_is_taken_back(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    put_in_the_way(site)
    for before, after in (("info", "debug"), ("debug", "trace")):
        site.edit(f"level: {before}", f"level: {after}")
        site.apply(code=1)
        assert site.level() == after
    assert results(site) == ["partial", "partial", "confirmed"]
    (site.state / "logs").unlink()
    site.apply()
    assert results(site)[0] == "confirmed"


def test_a_supervisor_applies_what_it_refused_once_the_way_is_free(site: Site) -> None:
    site.write(verify="300ms")
    supervisor = site.supervisor()
    wait_until(lambda: results(site) == ["confirmed"], 20, "the first one")
    pid = site.gateway_pid()
    put_in_the_way(site)
    site.edit(*RESTARTS)
    refused = supervisor.wait_event(lambda event: event["event"] == "not_applied", "the refusal")
    assert f"{site.state}/logs: it is no directory" in refused["reason"]
    assert (site.gateway_pid(), results(site)) == (pid, ["confirmed"])
    (site.state / "logs").unlink()
    wait_until(lambda: results(site) == ["confirmed", "confirmed"], 30, "what was saved")
    assert site.gateway_pid() != pid
    assert supervisor.stop() == 0
