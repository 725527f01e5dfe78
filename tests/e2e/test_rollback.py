"""A change that does not serve is taken back by itself, told, and not tried again until the document changes."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site

pytestmark = pytest.mark.real


def certificate(site: Site) -> tuple[Path, Path]:
    """A certificate whose key cannot be used: it belongs to another one."""
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


class PortThief:
    """Takes a port as soon as the gateway's config names it: after the plan looked, before the restarted gateway binds."""

    def __init__(self, config: Path, port: int) -> None:
        self._config, self._port = config, port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._steal)
        self.taken: socket.socket | None = None

    def __enter__(self) -> PortThief:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        if self.taken is not None:
            self.taken.close()

    def _steal(self) -> None:
        while not self._over.wait(0.001):
            if f'"port": {self._port}' in self._config.read_text():
                self.taken = socket.create_server(("127.0.0.1", self._port))
                return


@pytest.mark.req("PLAN-7", "PLAN-15", "PLAN-17")
def test_a_port_taken_between_plan_and_bind_is_rolled_back(site: Site, free_port: Callable[[], int]) -> None:
    site.write()
    site.apply()
    new = free_port()
    bad = site.write(port=new)
    with PortThief(site.state / "openclaw.json", new) as thief:
        done = site.apply(code=5)
        assert thief.taken is not None
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert str(new) in done["reason"] or "already listening" in done["reason"]
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    assert site.generations()[0]["result"] == "rolled-back"
    # The port is free again: the operator's word applies the very same document.
    assert site.apply()["result"] == "confirmed"
    assert site.health(new)[0] == 200


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_what_only_the_rejected_document_added_does_not_stay_in_the_process(site: Site) -> None:
    """The way back starts the gateway itself, at once, instead of leaving it to the next try of a crash loop."""
    good = site.write(verify="200ms")
    # The next try of a start that failed comes long after the window.
    good = site.write(good.replace("delay: 200ms, max_delay: 2s", "delay: 20s, max_delay: 40s"))
    site.apply()
    # TEST-NET-3: an address that no interface has.
    site.write(good.replace("  auth:", "  bind: custom\n  host: 203.0.113.77\n  auth:", 1))
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert site.health()[0] == 200
    site.write(good)
    assert site.plan()["actions"] == []
