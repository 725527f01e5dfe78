"""A change that does not serve is taken back by itself, told, and not tried again until the document changes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site

pytestmark = pytest.mark.real


def certificate(site: Site) -> tuple[Path, Path]:
    """A certificate whose key cannot be used: it belongs to another one."""
    import subprocess

    made = []
    for name in ("one", "two"):
        key, cert = site.home / f"{name}.key", site.home / f"{name}.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-keyout", key, "-out", cert],
            check=True,
            capture_output=True,
        )  # fmt: skip
        made.append((cert, key))
    return made[0][0], made[1][1]


@pytest.mark.req("PLAN-7", "PLAN-15", "PLAN-8", "PLAN-18")
def test_a_key_that_does_not_fit_is_rolled_back_and_the_corrected_document_applied(site: Site) -> None:
    site.write()
    site.apply()
    cert, key = certificate(site)
    good = site.document.read_text()
    bad = good.replace(
        f"port: {site.port}\n", f"port: {site.port}\n  tls: {{enabled: true, cert: {cert}, key: {key}}}\n"
    )
    site.write(bad)
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    newest = site.generations()[0]
    assert newest["result"] == "rolled-back"
    assert newest["reason"]
    why = site.run("why", "service/gateway").out
    assert "rolled-back" in why
    assert "held back" in site.run("status").out
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document is held back")
    assert site.generations()[0]["number"] == newest["number"]
    site.write(good.replace("level: info", "level: debug"))
    wait_until(lambda: site.config()["logging"]["level"] == "debug", 20, "the corrected document in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "confirmed")


@pytest.mark.req("PLAN-7")
def test_a_first_apply_that_does_not_serve_leaves_nothing_running(site: Site) -> None:
    cert, key = certificate(site)
    text = site.write()
    site.write(
        text.replace(f"port: {site.port}\n", f"port: {site.port}\n  tls: {{enabled: true, cert: {cert}, key: {key}}}\n")
    )
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 0)
    assert site.health()[0] == 0
    assert site.service()["state"] in ("stopped", "absent")
    assert not (site.state / "openclaw.json").exists()


@pytest.mark.req("PLAN-8")
def test_rollback_goes_back_by_name_and_the_document_waits(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    back = site.run("rollback", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document waits")
    assert site.config()["logging"]["level"] == "info"
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.config()["logging"]["level"] == "warn", 20, "a new document is applied")


@pytest.mark.req("PLAN-8")
def test_diff_shows_what_lies_between_two_generations(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: debug  # louder")
    site.apply()
    assert site.run("diff", "1", "2").out == 'logging.level: "info" -> "debug"\n'
    assert "+  level: debug  # louder" in site.run("diff", "1", "--text").out
    assert site.run("diff", "1", "9").code == 64


@pytest.mark.req("PLAN-7", "PLAN-17")
def test_a_port_taken_between_plan_and_bind_is_rolled_back(site: Site, free_port: object) -> None:
    assert callable(free_port)
    site.write()
    site.apply()
    new = free_port()
    # Another address of this machine holds the port: the plan sees no listener on loopback that would collide with a
    # gateway on all addresses, and the bind fails.
    site.write(site.document.read_text().replace(f"port: {site.port}\n", f"port: {new}\n"))
    assert site.run("plan", "--out", "p.json").code == 0
    with socket.create_server(("127.0.0.1", new)):
        answer = site.run("apply", "p.json")
        assert answer.code in (3, 5), (answer.out, answer.err)
    site.wait_healthy()
