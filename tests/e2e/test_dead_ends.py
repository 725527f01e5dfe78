"""Where the way leads nowhere: a rollback that fails, whoever dies inside the window, a section that is withdrawn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.beds.tls import mismatch, with_tls
from tests.e2e.test_rollback import Meanwhile

pytestmark = pytest.mark.real


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_a_rollback_that_fails_is_tried_once_and_ends_in_6(site: Site) -> None:
    first = site.write(verify="500ms")
    site.apply()
    good = site.write(first.replace("level: info", "level: debug"))
    site.apply()
    # A document that cannot serve, and while it is tried a stranger takes the port that the way back needs.
    bad = site.write(with_tls(site, good, *mismatch(site)))
    with contextlib.ExitStack() as held:

        def take() -> None:
            wait_until(lambda: site.health()[0] == 0, 10, "the port is free")
            held.enter_context(socket.create_server(("127.0.0.1", site.port)))

        with Meanwhile(site.state / "openclaw.json", "keyPath", take) as thief:
            failed = site.run("apply", "--yes")
        assert thief.acted
        assert failed.code == 6, failed.err
        assert "Traceback" not in failed.err
        assert site.document.read_text() == bad
        newest = site.generations()[0]
        assert newest["result"] == "rollback-failed"
        conditions = {
            (item["type"], item["status"], item["reason"])
            for resource in site.run("status", "--json").json["resources"]
            for item in resource["conditions"]
        }
        assert ("Degraded", "True", "RollbackFailed") in conditions
        # The config is the good one again; nothing more is changed by itself, and the service is tried on.
        assert "keyPath" not in (site.state / "openclaw.json").read_text()
        assert site.generations()[0]["number"] == newest["number"]
    # The stranger is gone: the keeper's next try serves, without anybody's help.
    site.wait_healthy()
    assert "could not be taken back" in site.run("status").out
    # The last that was confirmed is where to go back to, and to say so is no mistake. Something is still to be done for that.
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"debug"', '"trace"'))
    back = site.run("rollback", "--yes", "--json")
    assert (back.code, back.json["result"], back.json["generation"]) == (0, "confirmed", 4), back
    assert site.generations()[0]["cause"] == "rollback to 2"
    assert "could not be taken back" not in site.run("status").out
    # Once more is further back.
    assert site.run("rollback", "--yes").code == 0
    assert (site.standing(), site.generations()[0]["cause"]) == ((5, "confirmed"), "rollback to 1")
    assert site.level() == "info"
    site.write(good)
    assert site.apply()["result"] == "confirmed"
    assert "Degraded" not in site.run("status").out


def apply_and_die_in_the_window(site: Site) -> None:
    process = site.start("apply", "--yes")
    wait_until(lambda: site.generations()[0]["result"] == "verifying", 20, "its window is open")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
def test_a_command_line_that_dies_inside_the_window_is_finished_by_the_next(site: Site) -> None:
    site.write(verify="200ms")
    site.apply()
    site.write(site.document.read_text().replace("verify: 200ms", "verify: 3s").replace("level: info", "level: debug"))
    pid = site.gateway_pid()
    apply_and_die_in_the_window(site)
    assert "not confirmed yet" in site.run("status").out
    asked = site.run("plan")
    assert "nobody watches it" in asked.err
    assert "(generation 2)" in asked.out
    done = site.apply()
    assert (done["result"], done["actions"]) == ("confirmed", [])
    assert site.generations()[0]["result"] == "confirmed"
    assert len(site.generations()) == 2
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
@pytest.mark.parametrize("finisher", ["apply", "run"])
def test_a_window_that_shows_sickness_after_its_watcher_died_is_rolled_back_by_the_next(
    site: Site, finisher: str
) -> None:
    good = site.write(verify="200ms")
    site.apply()
    text = good.replace("verify: 200ms", "verify: 4s")
    site.write(with_tls(site, text, *mismatch(site)))
    process = site.start("apply", "--yes")
    wait_until(lambda: '"keyPath"' in (site.state / "openclaw.json").read_text(), 20, "its first effect")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if finisher == "apply":
        assert site.run("apply", "--yes").code in (1, 5)
    else:
        site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.health()[0] == 200, 30, "the good generation serves again")
    wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 20, "the bad one is rolled back")
    assert "keyPath" not in (site.state / "openclaw.json").read_text()


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-12")
def test_a_supervisor_that_dies_inside_the_window_is_finished_by_the_next(site: Site) -> None:
    good = site.write(verify="200ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "leave")
    pid = site.gateway_pid()
    site.write(good.replace("verify: 200ms", "verify: 3s").replace("level: info", "level: debug"))
    wait_until(lambda: site.generations()[0]["result"] == "verifying", 20, "its window is open")
    supervisor.process.kill()
    supervisor.process.wait()
    site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the next one confirms it")
    assert site.gateway_pid() == pid
    assert len(site.generations()) == 2


@pytest.mark.req("PLAN-3", "PLAN-16")
@pytest.mark.parametrize("how", ["save", "apply"])
def test_a_withdrawn_section_waits_for_a_person(site: Site, how: str) -> None:
    good = site.write(verify="200ms")
    site.apply()
    pid = site.gateway_pid()
    withdrawn = good.replace(next(line for line in good.splitlines() if line.startswith("service:")) + "\n", "")
    assert "service" not in withdrawn
    supervisor = site.supervisor("--on-exit", "leave")
    site.write(withdrawn)
    if how == "save":
        said = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
        assert "service/gateway" in said["reason"]
    planned = site.run("plan")
    assert "say --approve service/gateway, or put the section back" in planned.err
    assert "say `openclaw apply --approve service/gateway`, or put the section back" in planned.err
    assert "`openclaw apply`" not in planned.err
    refused = site.run("apply", "--yes")
    assert refused.code == 3
    assert "--approve service/gateway" in refused.err
    assert (site.gateway_pid(), site.health()[0]) == (pid, 200)
    assert site.generations()[0]["number"] == 1
    done = site.apply("--approve", "service/gateway")
    assert done["result"] == "confirmed"
    wait_until(lambda: site.health()[0] == 0, 20, "the service is withdrawn")


@pytest.mark.req("PLAN-3", "PLAN-16")
@pytest.mark.parametrize("section", ["gateway", "logging"])
def test_a_section_that_others_share_waits_for_a_person_too(site: Site, section: str) -> None:
    good = site.write(verify="200ms")
    site.apply()
    before, pid = (site.state / "openclaw.json").read_bytes(), site.gateway_pid()
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(re.sub(rf"^{section}:\n(  .*\n)+", "", good, flags=re.MULTILINE))
    assert f"{section}:" not in site.document.read_text()
    said = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
    assert "a whole section has gone from the document" in said["reason"]
    assert ((site.state / "openclaw.json").read_bytes(), site.gateway_pid()) == (before, pid)
    # Back again it is a slip that nobody noticed; a person's apply means it.
    site.write(good)
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing to do")
    assert len(site.generations()) == 1
    site.write(re.sub(rf"^{section}:\n(  .*\n)+", "", good, flags=re.MULTILINE))
    site.apply()
    assert (site.state / "openclaw.json").read_bytes() != before


@pytest.mark.req("PLAN-3", "PLAN-16", "GW-3")
def test_a_save_that_loses_the_authentication_waits_for_a_person(site: Site) -> None:
    good = site.write(verify="200ms")
    site.apply()
    before, pid = (site.state / "openclaw.json").read_bytes(), site.gateway_pid()
    supervisor = site.supervisor("--on-exit", "stop")
    lost = "".join(line for line in good.splitlines(keepends=True) if "auth:" not in line)
    site.write(lost)
    opened = "whoever reaches the gateway is let in, without a token or password"
    asked = site.run("plan")
    assert opened in asked.out
    waits = "whoever watches waits for a person: cannot change gateway-config/gateway by itself"
    assert waits in asked.err
    assert waits in site.run("status").out
    said = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
    assert opened in said["reason"]
    assert ((site.state / "openclaw.json").read_bytes(), site.gateway_pid()) == (before, pid)
    # A supervisor that starts while it waits keeps what is in force as well, and watches it.
    assert supervisor.stop() == 0
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "not_applied", "the next one says so too")
    site.wait_healthy()
    os.kill(site.gateway_pid() or 0, signal.SIGKILL)
    site.wait_healthy()
    assert (site.state / "openclaw.json").read_bytes() == before
    # The document says it: the same, and meant.
    site.write(good.replace("auth: {mode: token, token: {env: E2E_TOKEN}}", "auth: {mode: none}"))
    wait_until(lambda: site.generations()[0]["result"] == "confirmed" and len(site.generations()) == 2, 20, "applied")
    assert json.loads((site.state / "openclaw.json").read_text())["gateway"]["auth"] == {"mode": "none"}
    site.write(good)
    wait_until(lambda: len(site.generations()) == 3, 20, "locked again")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "and watched")
    site.write(lost)
    site.apply()
    assert "auth" not in json.loads((site.state / "openclaw.json").read_text())["gateway"]


@pytest.mark.req("PLAN-3", "PLAN-16", "GW-3")
@pytest.mark.parametrize("foreign", ["none", "gone"])
def test_a_save_that_waits_for_a_person_goes_on_waiting_whatever_is_done_to_the_file(site: Site, foreign: str) -> None:
    good = site.write(verify="200ms")
    site.apply()
    config = site.state / "openclaw.json"
    auth = json.loads(config.read_text())["gateway"]["auth"]
    supervisor = site.supervisor("--on-exit", "stop")
    site.write("".join(line for line in good.splitlines(keepends=True) if "auth:" not in line))
    supervisor.wait_event(lambda event: event["event"] == "not_applied", "it waits")
    data = json.loads(config.read_text())
    if foreign == "none":
        data["gateway"]["auth"]["mode"] = "none"
    else:
        del data["gateway"]["auth"]
    config.write_text(json.dumps(data))
    wait_until(
        lambda: json.loads(config.read_text())["gateway"].get("auth") == auth, 20, "what is in force is restored"
    )
    wait_until(lambda: site.plan()["actions"] != [], 20, "the save still waits")
    assert len(site.generations()) == 1
    assert "whoever watches waits for a person: cannot change gateway-config/gateway by itself" in site.run("plan").err
    assert len([event for event in supervisor.events() if event["event"] == "not_applied"]) == 1
    site.wait_healthy()
    site.apply()
    assert not json.loads(config.read_text())["gateway"].get("auth")


@pytest.mark.req("PLAN-3", "PLAN-16", "LOG-3")
@pytest.mark.parametrize("foreign", [False, True], ids=["untouched", "changed"])
def test_a_section_of_which_nothing_differs_waits_for_a_person_too(site: Site, foreign: bool) -> None:
    text = "logging: {level: info}" if foreign else "logging: {retention: {files: 2}}"
    rest = re.sub(r"^logging:\n(  .*\n)+", "", site.write(verify="200ms"), flags=re.MULTILINE)
    assert "logging" not in rest
    site.write(rest + text + "\n")
    site.apply()
    config = site.state / "openclaw.json"
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(rest)
    said = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it waits")
    assert "a whole section has gone from the document" in said["reason"]
    if foreign:
        config.write_text(config.read_text().replace('"info"', '"silent"'))
        wait_until(lambda: '"info"' in config.read_text(), 20, "what is in force is restored")
    assert len(site.generations()) == 1
    assert "whoever watches waits for a person" in site.run("plan").err
    site.apply()
    assert len(site.generations()) == 2


@pytest.mark.req("PLAN-8", "PLAN-12")
def test_what_was_once_not_taken_back_is_told_no_longer_when_all_is_well(site: Site) -> None:
    good = site.write(verify="500ms")
    site.apply()
    site.write(with_tls(site, good, *mismatch(site)))
    with contextlib.ExitStack() as held:

        def take() -> None:
            wait_until(lambda: site.health()[0] == 0, 10, "the port is free")
            held.enter_context(socket.create_server(("127.0.0.1", site.port)))

        with Meanwhile(site.state / "openclaw.json", "keyPath", take):
            assert site.run("apply", "--yes").code == 6
    site.wait_healthy()
    assert "RollbackFailed" in site.run("status").out
    back = site.run("rollback", "1", "--yes")
    assert (back.code, back.out) == (0, "Generation 3: confirmed; nothing had to be changed.\n")
    assert "RollbackFailed" not in site.run("status").out
    assert "Degraded" not in site.run("status").out
