"""`openclaw service` by hand: what it says, and how it ends where it cannot do what it is asked to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import TOKEN, Site

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-9")]


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_where_nothing_was_applied_it_fails_and_says_what_to_do(site: Site, verb: str) -> None:
    site.write()
    answer = site.run("service", verb)
    assert answer.code == 1
    assert answer.out == ""
    assert f"cannot {verb} the service: it was never applied" in answer.err
    assert "hint: run `openclaw apply` first" in answer.err
    assert site.health()[0] == 0
    status = site.run("service", "status")
    assert (status.code, status.err) == (0, "")
    assert "stopped" in status.out
    # A first apply is still a first apply.
    site.apply()


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_where_the_service_was_withdrawn_it_says_so_and_what_to_do(site: Site, verb: str) -> None:
    text = site.write(verify="0s")
    site.apply()
    withdrawn = "\n".join(line for line in text.splitlines() if not line.startswith("service:")) + "\n"
    site.write(withdrawn)
    # Not applied yet, it is there as before.
    assert site.run("service", "restart").code == 0
    site.apply("--approve", "service/gateway")
    answer = site.run("service", verb)
    assert (answer.code, answer.out) == (1, "")
    said = f"cannot {verb} the service: the document that is in force (generation 2) declares none"
    assert said in answer.err
    assert "hint: write a `service` section into openclaw.yaml, then run `openclaw apply`" in answer.err
    site.write(text)
    assert said in site.run("service", verb).err
    site.apply()
    assert site.run("service", verb).code == 0


def test_the_last_exit_is_told_in_words(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    assert "last exit" not in site.run("service", "status").out
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, 9)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "another gateway serves")
    (line,) = [text for text in site.run("service", "status").out.splitlines() if "last exit" in text]
    assert re.fullmatch(rf"  last exit: killed by SIGKILL \(pid {pid}, \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ\)", line), line
    stopped = site.run("service", "stop")
    assert stopped.code == 0
    assert "{" not in stopped.out
    assert "last exit: exit code 0: SIGTERM" in stopped.out
    assert "stopped under the embedded manager" in stopped.out


@pytest.mark.req("PLAN-12")
def test_what_a_person_stopped_is_not_ready_and_every_look_says_so(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    stopped = site.run("service", "stop", "--why", "a new disk")
    assert "held down: stopped by operator" in stopped.out
    assert "a new disk" in stopped.out
    status = site.run("status", "--json").json
    (service,) = [item for item in status["resources"] if item["key"] == "service/gateway"]
    conditions = {item["type"]: (item["status"], item["reason"]) for item in service["conditions"]}
    assert conditions["Ready"] == ("False", "Suspended")
    assert conditions["Suspended"] == ("True", "StoppedByOperator")
    assert "not ready" in site.run("status").out
    for command in ("plan", "drift"):
        said = site.run(command)
        assert said.code == 0
        assert "note: service/gateway is not running: stopped by operator" in said.out + said.err
        assert "`openclaw service start`" in said.out + said.err
    assert site.run("service", "start").code == 0
    assert "held down" not in site.run("service", "status").out


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_nothing_is_confirmed_while_the_gateway_hangs(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    before = (site.state / "openclaw.json").read_bytes()
    site.edit("level: info", "level: debug")
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = site.run("apply", "--yes")
        assert answer.code == 3
        assert f"the gateway on port {site.port} does not answer" in answer.out + answer.err
        assert site.run("plan").code == 3
        assert "gateway-config/gateway  not ready" in site.run("status").out
        assert (site.state / "openclaw.json").read_bytes() == before
    finally:
        os.kill(pid, signal.SIGCONT)
    assert site.apply()["result"] == "confirmed"
    assert site.gateway_pid() == pid
    assert site.config()["logging"]["level"] == "debug"


@pytest.mark.req("PLAN-12", "SVC-12")
def test_a_supervisor_says_once_that_the_gateway_hangs_and_once_that_it_has_recovered(site: Site) -> None:
    # As it is, but for the half minute after which it looks around.
    soon = "import sys; from reconciler.cli import entry; from reconciler.engine import loop; loop.ASTRAY_SECONDS = 1.0"
    program = [sys.executable, "-c", f"{soon}; sys.exit(entry.main())"]
    site.inside = lambda argv, _cwd: [*program, *argv[1:]] if argv[1] == "run" else argv
    site.write(verify="300ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        told = supervisor.wait_event(
            lambda event: event["event"] == "degraded" and event["key"] == "service/gateway", "it hangs", 60
        )
        assert told["reason"] == "NoAnswer"
        assert "no answer" in told["message"]
        assert site.run("status").code == 0
    finally:
        os.kill(pid, signal.SIGCONT)
    supervisor.wait_event(
        lambda event: event["event"] == "recovered" and event["key"] == "service/gateway", "it is over", 60
    )
    said = [event["key"] for event in supervisor.events() if event["event"] == "degraded"]
    assert len(said) == len({*said})
    assert site.gateway_pid() == pid


def test_each_verb_answers_with_the_same_form_as_status(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    for verb, state in (("stop", "stopped"), ("start", "ready"), ("restart", "ready"), ("status", "ready")):
        answer = site.run("service", verb, "--json")
        assert answer.code == 0, answer.err
        found = json.loads(answer.out)
        assert found["schema"] == "openclaw.service-status/1"
        assert found["state"] == state
        assert {"manager", "runtime", "pid", "restarts", "last_exit", "since", "limits", "drift"} <= found.keys()


def test_a_start_that_does_not_serve_fails_with_the_reason(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    assert site.run("service", "stop").code == 0
    with socket.create_server(("127.0.0.1", site.port)):
        answer = site.run("service", "start")
        assert answer.code != 0
        assert answer.out == ""
        assert "cannot start the gateway" in answer.err
        assert "hint:" in answer.err
        assert "bug" not in answer.err
    site.run("service", "start")
    site.wait_healthy()


def test_a_config_that_does_not_hold_is_the_reason_of_a_failed_restart(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    config = site.state / "openclaw.json"
    good = config.read_text()
    config.write_text("{ not json")
    # With what it last ran by it would go on.
    (site.state / "openclaw.json.last-good").unlink()
    answer = site.run("service", "restart")
    assert answer.code != 0
    assert "cannot start the gateway" in answer.err
    assert "hint:" in answer.err
    config.write_text(good)
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert site.health()[0] == 200


def test_while_the_document_is_not_valid_the_service_can_still_be_stopped_and_started(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.document.write_text("version: 1\nservice: {oops: 1}\n")
    for verb in ("stop", "start", "restart", "status"):
        answer = site.run("service", verb)
        assert answer.code == 0, (verb, answer.err)
    assert site.health()[0] == 200


def test_a_start_against_the_document_says_so(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("service: {", "service: {state: stopped, ")
    site.apply("--approve", "service/gateway")
    started = site.run("service", "start")
    assert started.code == 0, started.err
    assert "note: the document says `service.state: stopped`" in started.err
    site.apply()
    assert site.health()[0] == 0


def test_a_gateway_by_hand_logs_where_openclaw_looks(site: Site) -> None:
    site.write(verify="300ms")
    process = site.start("gateway", "run", "--port", str(site.port), OPENCLAW_GATEWAY_TOKEN=TOKEN)
    site.wait_healthy()
    assert list((site.state / "logs").glob("openclaw-*.log"))
    process.terminate()
    assert process.wait(20) == 0
