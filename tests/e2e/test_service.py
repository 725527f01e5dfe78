"""`openclaw service` by hand: what it says, and how it ends where it cannot do what it is asked to."""

from __future__ import annotations

import json
import os
import re
import socket

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site

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
