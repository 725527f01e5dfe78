"""A person goes back while a supervisor watches the document: what they chose stays, until the document changes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.beds.needs import needs_programs
from tests.beds.processes import wait_until
from tests.beds.site import Site, Supervisor
from tests.beds.tls import mismatch, with_tls

pytestmark = pytest.mark.real


def site_at_two(site: Site) -> Supervisor:
    """Two confirmed generations, `info` and then `debug`, and a supervisor that watches."""
    site.write(verify="1s")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "watching", "the supervisor watches")
    return supervisor


def curl(site: Site, *argv: str) -> list[str]:
    """`curl` on the control socket; the last of `argv` is the path."""
    *options, path = argv
    socket = str(site.state / "reconciler/control.sock")
    return ["curl", "-sS", "-N", "--unix-socket", socket, *options, f"http://openclaw{path}"]


@pytest.mark.req("PLAN-7", "PLAN-8")
def test_the_supervisor_tells_what_commands_do_as_it_tells_what_it_does_itself(site: Site) -> None:
    needs_programs("curl")
    supervisor = site_at_two(site)
    stream = site.home / "events"
    with stream.open("wb") as file:
        site.spawned.start(curl(site, "/v1/events"), stdout=file)

    def heard() -> list[Any]:
        return [json.loads(line[6:]) for line in stream.read_bytes().split(b"\n\n")[:-1]]

    assert site.run("rollback", "1", "--yes").code == 0
    done = subprocess.run(curl(site, "-XPOST", "-d", "{}", "/v1/apply"), capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["result"] == "confirmed"
    site.edit("level: debug", "level: warn")
    wait_until(
        lambda: any((event.get("generation"), event.get("result")) == (5, "confirmed") for event in heard()),
        20,
        "its own run",
    )
    logged = supervisor.events()
    for told in (logged, heard()):
        runs = [event for event in told if event["event"] == "run"]
        assert [(event["cause"], event["generation"], event["result"]) for event in runs] == [
            (cause, generation, result)
            for cause, generation in (("rollback to 1", 3), ("apply", 4), ("save", 5))
            for result in ("verifying", "confirmed")
        ]
    steps = [event for event in logged if event["event"] == "step"]
    assert [(event["verb"], event["result"]) for event in steps] == [("write", "done"), ("reload", "done")] * 3
    # Who goes back is told that the document is held back, and that is all.
    assert {event["event"] for event in logged if event["level"] == "warning"} == {"held_back"}
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-8")
def test_the_supervisor_leaves_a_rollback_alone_until_the_document_changes(site: Site) -> None:
    site_at_two(site)
    back = site.run("rollback", "1", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    assert [item["result"] for item in site.generations()] == ["confirmed", "confirmed", "confirmed"]
    assert site.generations()[0]["cause"] == "rollback to 1"
    assert site.run("history", "--json").json["in_force"] == 3
    assert [line[0] for line in site.run("history").out.splitlines()] == ["*", " ", " "]
    assert "held back" in site.run("status").out
    assert "held back" in site.run("plan").err
    # What is compared with the host is what stays in force, so that the state that is wanted shows as well.
    resources = json.loads(site.run("status", "--json").out)["resources"]
    synced = [item for entry in resources for item in entry["conditions"] if item["type"] == "Synced"]
    assert {item["status"] for item in synced} == {"True"}
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.level() == "warn", 20, "the corrected document in force")
    # What they went back from, saved once more: now it is meant.
    site.edit("level: warn", "level: debug")
    wait_until(lambda: site.level() == "debug", 20, "the same content as before")
    assert "held back" not in site.run("status").out


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_who_goes_back_to_the_document_as_it_is_holds_nothing_back(site: Site) -> None:
    supervisor = site_at_two(site)
    assert site.run("rollback", "1", "--yes").code == 0
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document waits")
    assert site.run("rollback", "2", "--yes").code == 0
    assert (site.standing(), site.level()) == ((4, "confirmed"), "debug")
    assert "held back" not in site.run("status").out
    assert "held back" not in site.run("plan").err


@pytest.mark.req("PLAN-8")
def test_a_rollback_stays_while_the_document_is_not_valid(site: Site) -> None:
    site_at_two(site)
    site.edit("level: debug", "level: loud")
    back = site.run("rollback", "1", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    assert site.generations()[0]["result"] == "confirmed"


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_a_document_that_lacks_a_secret_is_held_back_once_it_has_it(site: Site) -> None:
    supervisor = site_at_two(site)
    later = site.home / "later"
    good = site.document.read_text()
    lacks = good.replace("service: {", "service: {environment: {Q: {file: later}}, ")
    assert lacks != good
    site.write(lacks.replace("level: debug", "level: warn"))
    supervisor.wait_event(lambda event: event["event"] == "document_invalid", "its secret is missing")
    back = site.run("rollback", "2", "--yes", "--json")
    assert back.code == 0, back.err
    # Also before it is there: who waits for it only would wait in vain.
    assert "is held back: superseded by `openclaw rollback` to generation 2" in site.run("status").out
    later.write_text("x")
    later.chmod(0o600)
    supervisor.wait_event(lambda event: event["event"] == "held_back", "it is valid, and held back")
    assert "held back" in site.run("status").out
    assert (site.level(), site.generations()[0]["number"]) == ("debug", 2)


@pytest.mark.req("PLAN-8", "PLAN-13")
def test_a_rollback_that_fails_leaves_a_document_held_back_that_was_so_before(site: Site) -> None:
    site_at_two(site)
    good = site.document.read_text()
    bad = site.write(with_tls(site, good, *mismatch(site)))
    wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 30, "the bad document is taken back")
    site.write(good.replace("level: debug", "level: warn"))
    wait_until(lambda: [each["result"] for each in site.generations()[:1]] == ["confirmed"], 30, "the next one is good")
    assert site.run("rollback", "2", "--yes").code == 0
    assert site.level() == "debug"
    assert bad not in site.document.read_text()
    failed = site.run("rollback", "3", "--yes")
    assert failed.code == 5, failed.err
    assert "to generation 2" in site.run("status").out.partition("held back")[2].splitlines()[0]
    # A look of the supervisor, whenever it comes, leads to what was gone back to.
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "debug"', '"level": "error"'))
    wait_until(lambda: site.level() == "debug", 30, "what was gone back to is kept in force")
    assert "drift" not in [each["cause"] for each in site.generations()]


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_an_apply_of_a_document_that_is_held_back_stays(site: Site) -> None:
    site_at_two(site)
    site.run("rollback", "1", "--yes")
    assert site.level() == "info"
    pid = site.gateway_pid()
    done = site.run("apply", "--yes", "--json")
    assert (done.code, done.json["result"]) == (0, "confirmed"), done
    assert "held back" not in site.run("status").out
    # Nor does a later look of the supervisor take it back.
    site.call("gateway", "call", "config.get")
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "debug"', '"level": "error"'))
    wait_until(lambda: site.config()["logging"]["level"] == "debug", 20, "what was applied is kept in force")
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-3")
def test_an_apply_in_another_environment_than_the_supervisors_is_refused(site: Site) -> None:
    site_at_two(site)
    before = site.generations()
    site.extra["OPENCLAW_LOG_LEVEL"] = "trace"
    refused = site.run("apply", "--yes")
    assert refused.code == 3
    assert "runs in another environment" in refused.err
    assert site.generations() == before
    assert site.level() == "debug"


@pytest.mark.req("PLAN-8")
def test_a_document_may_be_named_from_another_directory(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    inner = site.document.parent / "inner"
    inner.mkdir()
    assert site.run("plan", "--file", f"{inner}/../{site.document.name}").code == 0


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_what_a_person_went_back_from_stays_so_when_a_secret_of_it_rotates(site: Site) -> None:
    text = site.write(verify="300ms")
    token = site.home / "token"
    token.write_text("first-token-0123456789abcdef")
    token.chmod(0o600)
    site.write(text.replace("{env: E2E_TOKEN}", "{file: token}"))
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "watching", "the supervisor watches")
    assert site.run("rollback", "1", "--yes").code == 0
    before = len(site.generations())
    token.write_text("second-token-0123456789abcdef")
    pid = site.gateway_pid()
    wait_until(lambda: site.level() == "info" and "held back" in site.run("status").out, 20, "held back all the same")
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "info"', '"level": "error"'))
    wait_until(lambda: site.level() == "info", 30, "a look of the supervisor, and it is kept so")
    assert (len(site.generations()), site.gateway_pid()) == (before, pid)
    # The word of a person, or another content, lifts it.
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.level() == "warn", 20, "the corrected document in force")
