"""`openclaw status` while things are not as they should be: it shows what is in force, and says why it is not what is wanted."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.beds.tls import certificate, with_tls

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-12")]


def ready(site: Site) -> dict[str, Any]:
    """The Ready condition of the gateway and of its config."""
    return {
        item["key"]: next(each["status"] for each in item["conditions"] if each["type"] == "Ready")
        for item in site.run("status", "--json").json["resources"]
        if item["key"] != "logs/gateway"
    }


def test_a_change_that_is_not_applied_yet_makes_nothing_sick(site: Site) -> None:
    text = site.write(verify="300ms")
    site.apply()
    site.write(with_tls(site, text, *certificate(site)))
    assert ready(site) == {"gateway-config/gateway": "True", "service/gateway": "True"}
    shown = site.run("status").out
    assert "not synced" in shown
    assert "NoAnswer" not in shown


def test_a_document_whose_certificate_is_missing_does_not_hide_how_the_gateway_is(site: Site) -> None:
    text = site.write(verify="300ms")
    site.apply()
    site.write(with_tls(site, text, site.home / "none.pem", site.home / "none.key"))
    assert site.run("apply", "--yes").code == 3
    assert ready(site) == {"gateway-config/gateway": "True", "service/gateway": "True"}


@pytest.mark.req("DOC-9")
def test_a_document_that_is_not_valid_is_told_with_its_first_mistake(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: loud")
    shown = site.run("status").out
    assert "cannot use openclaw.yaml: 1 problem, first openclaw.yaml:7:10: " in shown
    assert "(`openclaw validate` shows all); generation 1 stays in force" in shown


@pytest.mark.req("DOC-9")
def test_a_secret_that_is_gone_hides_neither_status_nor_drift(site: Site) -> None:
    (site.home / "token").write_text("e2e-token-0123456789abcdef0123456789abcdef\n")
    site.write(site.write(verify="300ms").replace("{env: E2E_TOKEN}", "{file: token}"))
    site.apply()
    (site.home / "token").write_text("")
    shown = site.run("status")
    assert shown.code == 0, shown
    assert "generation 1 stays in force" in shown.out
    assert "(`openclaw validate --resolve` shows all)" in shown.out
    assert site.run("validate", "--resolve").code == 78
    assert ready(site) == {"gateway-config/gateway": "True", "service/gateway": "True"}
    still = site.run("drift")
    assert (still.code, still.out) == (0, "No drift: nothing moved on the host since it was applied.\n")
    assert "generation 1 stays in force" in still.err
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "info"', '"level": "trace"'))
    moved = site.run("drift")
    assert moved.code == 2
    assert 'logging.level was "info" and is "trace"' in moved.out
    assert site.run("plan").code == 78


@pytest.mark.req("PLAN-9")
def test_what_moved_is_told_though_the_cure_is_forbidden(site: Site) -> None:
    text = site.write(site.write(verify="0s").replace("logging:\n", "  settings: {messages: {a: 9}}\nlogging:\n"))
    site.apply()
    config, other = site.state / "openclaw.json", site.home / "theirs.json"
    other.write_text(config.read_text().replace('"a": 9', '"a": 8'))
    config.unlink()
    config.symlink_to(other)
    moved = site.run("drift")
    assert moved.code == 2, moved
    assert "gateway-config/gateway  (drift)\n    messages.a: 8 -> 9\n" in moved.out
    assert f"blocked: cannot write {config}: it is a link" in moved.err
    data = site.run("drift", "--json").json
    assert not data["applyable"]
    assert [item["code"] for item in data["blocked"]] == ["config_is_a_link"]
    assert [(each["key"], [item["path"] for item in each["differences"]]) for each in data["moved"]] == [
        ("gateway-config/gateway", ["messages.a"])
    ]
    # What is forbidden to the document alone is no drift.
    config.unlink()
    config.write_text(other.read_text().replace('"a": 8', '"a": 9'))
    site.write(text.replace("settings: {", "settings: {nonsense: 1, "))
    assert site.run("plan").code == 3
    assert site.run("drift").code == 0


def blocked(site: Site) -> list[str]:
    """What `status` says of why the document is not applied, which must be the same in text."""
    notes = [item["message"] for item in site.run("status", "--json").json["notes"] if item["code"] == "blocked"]
    text = site.run("status").out
    assert all(f"note: {note}\n" in text for note in notes)
    return notes


@pytest.mark.req("PLAN-6")
@pytest.mark.parametrize("watched", [False, True])
def test_what_keeps_a_document_from_being_applied_is_told_as_plan_does(
    site: Site, free_port: Callable[[], int], watched: bool
) -> None:
    good = site.write(site.write(verify="0s").replace("{verify: 0s}", "{verify: 0s, restarts_per_hour: 1}"))
    site.apply()
    if watched:
        supervisor = site.supervisor("--on-exit", "stop")
    assert blocked(site) == []
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        site.write(good.replace(f"port: {site.port}", f"port: {port}"))
        if watched:
            supervisor.wait_event(lambda event: event["event"] == "not_applied", "it is refused")
        (note,) = blocked(site)
        assert note.startswith(f"not applied: cannot listen on port {port}: process {os.getpid()} ")
        assert "; " in note
    site.write(with_service(good, "A: b"))
    if not watched:
        site.apply()
    else:
        wait_until(lambda: len(site.generations()) == 2, 20, "the one restart")
    site.write(with_service(good, "A: c"))
    (note,) = wait_until(lambda: blocked(site), 20, "the spent budget")
    assert note == (
        "not applied: cannot restart service/gateway: 1 restarts in the last hour, and policy.restarts_per_hour is 1; "
        "wait, say --approve service/gateway, or raise policy.restarts_per_hour in the document"
    )
    site.write(good.replace("restarts_per_hour: 1", "restarts_per_hour: null"))
    assert blocked(site) == []


def with_service(text: str, variable: str) -> str:
    """The document with a variable more, which restarts the gateway."""
    return text.replace("service: {", f"service: {{environment: {{{variable}}}, ")


def test_a_run_that_is_at_work_is_no_run_that_died(site: Site, free_port: Callable[[], int]) -> None:
    site.write(verify="300ms")
    site.apply()
    port = free_port()
    site.edit(f"port: {site.port}", f"port: {port}")
    process = site.start("apply", "--yes")
    wait_until(lambda: f'"port": {port}' in (site.state / "openclaw.json").read_text(), 20, "its first effect")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        said = site.run("status").out
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert f"is being applied now, by pid {process.pid} (`openclaw apply`)" in said
    assert process.wait(30) == 0


def test_a_window_whose_frozen_watcher_was_overtaken_is_no_window(site: Site) -> None:
    good = site.write(verify="5s")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(with_service(good, "A: b"))
    wait_until(lambda: site.generations()[0]["number"] == 2, 20, "the window of the second one")
    supervisor.process.send_signal(signal.SIGSTOP)
    try:
        site.write(with_service(good, "A: c").replace("verify: 5s", "verify: 300ms"))
        site.apply()
        said = site.run("status").out
        assert [item["result"] for item in site.generations()] == ["confirmed", "superseded", "confirmed"]
    finally:
        supervisor.process.send_signal(signal.SIGCONT)
    assert said.startswith("generation 3, ")
    assert "Progressing" not in said
    assert "not confirmed yet" not in said


@pytest.mark.req("OPS-1")
def test_a_supervisor_that_is_short_of_descriptors_keeps_nobody_from_looking(site: Site) -> None:
    site.write(verify="300ms")
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    pid = supervisor.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
    told = ""
    try:
        # Enough to be asked, and not for all that it then opens.
        for more in range(5):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + more, before[1]))
            answer = site.run("status")
            assert (answer.code, "service/gateway" in answer.out) == (0, True), answer
            told += answer.err
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert "the supervisor cannot go on: too many open files; going on without it" in told


@pytest.mark.req("PLAN-12", "PLAN-18", "SVC-7")
def test_ready_is_since_the_gateway_that_runs_was_ready_and_nothing_is_since_never(site: Site) -> None:
    def since() -> dict[str, dict[str, float | None]]:
        return {
            item["key"]: {
                found["type"]: datetime.fromisoformat(found["since"]).timestamp() if found["since"] else None
                for found in item["conditions"]
            }
            for item in site.run("status", "--json").json["resources"]
        }

    begun = time.time() - 0.01
    site.write(verify="300ms")
    site.apply()
    first = since()
    assert first.keys() == {"gateway-config/gateway", "logs/gateway", "service/gateway"}
    for conditions in first.values():
        assert conditions.keys() == {"Ready", "Synced"}
        assert all(at is not None and begun <= at <= time.time() for at in conditions.values()), first

    assert site.run("service", "stop").code == 0
    again = time.time() - 0.01
    assert site.run("service", "start").code == 0
    ready = since()["service/gateway"]["Ready"]
    assert ready is not None
    assert ready >= again
    assert (
        f"is Ready since {datetime.fromtimestamp(ready, UTC):%Y-%m-%dT%H:%M:%S}"
        in site.run("why", "service/gateway").out
    )

    pid = site.gateway_pid()
    assert pid is not None
    killed = time.time() - 0.01
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.service()["state"] == "ready" and site.gateway_pid() not in (None, pid), 20, "another one")
    found = since()
    ready = found["service/gateway"]["Ready"]
    assert ready is not None
    assert ready >= killed
    assert found["service/gateway"]["Synced"] == first["service/gateway"]["Synced"]
