"""Boots and power cuts on a machine with a real systemd, whose unit is the one that the how-to shows."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from tests.beds.boxed_site import CHECKOUT, PORT, UNITS, BoxedSite, give, make_boxed_site
from tests.beds.processes import Spawned, wait_until
from tests.beds.tls import certificate, with_tls

pytestmark = pytest.mark.real

both_managers = pytest.mark.parametrize("host", UNITS, indirect=True)
user = pytest.mark.parametrize("host", ["user"], indirect=True)
system = pytest.mark.parametrize("host", ["system"], indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest, spawned: Spawned, tmp_path: Path) -> BoxedSite:
    host = make_boxed_site(spawned, tmp_path, request.param)
    host.write(verify="200ms")
    give(host.document)
    host.install()
    return host


def results(host: BoxedSite) -> list[str]:
    return [generation["result"] for generation in host.generations()]


@both_managers
@pytest.mark.req("PLAN-6", "PLAN-12")
def test_a_boot_brings_everything_back_and_no_new_generation(host: BoxedSite) -> None:
    host.box.reboot()
    host.wait_healthy()
    wait_until(host.ready, 10, "status names everything ready")
    assert host.plan()["actions"] == []
    assert results(host) == ["confirmed"]
    assert host.gateways() == [host.gateway_pid()]


@both_managers
@pytest.mark.req("SVC-7")
def test_a_stop_of_the_unit_leaves_the_gateway_and_a_start_adopts_it(host: BoxedSite) -> None:
    pid = host.gateway_pid()
    assert pid is not None
    host.systemctl("stop", "openclaw")
    assert host.systemctl("is-active", "openclaw", code=3) == "inactive"
    assert host.run("status", "--json").json["supervisor"] is None
    assert host.gateway_pid() == pid
    host.systemctl("start", "openclaw")
    wait_until(lambda: host.run("status", "--json").json["supervisor"], 20, "the supervisor watches again")
    assert host.plan()["actions"] == []
    assert (host.gateway_pid(), host.gateways()) == (pid, [pid])
    assert results(host) == ["confirmed"]


@user
@pytest.mark.req("SVC-7")
def test_a_gateway_that_was_stopped_by_hand_stays_stopped_over_a_boot(host: BoxedSite) -> None:
    assert host.run("service", "stop").code == 0
    host.box.reboot()
    wait_until(lambda: host.run("status", "--json").json["supervisor"], 20, "the supervisor watches again")
    assert host.plan()["actions"] == []
    assert host.gateways() == []
    assert host.run("service", "start").code == 0
    host.wait_healthy()


@user
@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-12", "PLAN-13")
def test_a_good_change_whose_window_lost_its_power_is_watched_again_in_full_and_confirmed(host: BoxedSite) -> None:
    text = host.document.read_text()
    host.write(text.replace("level: info", "level: debug").replace("verify: 200ms", "verify: 4s"))
    host.wait_result("verifying")
    opened = time.monotonic()
    # Late, so that the rest of the window and the whole of it can be told apart.
    wait_until(lambda: time.monotonic() > opened + 2.5, 5, "most of the window is over")
    assert results(host)[0] == "verifying"
    host.box.cut_power()
    booting = time.monotonic()
    host.box.boot()
    host.wait_healthy()
    host.wait_result("confirmed")
    assert time.monotonic() - booting > 4
    assert host.config()["logging"]["level"] == "debug"
    assert host.plan()["actions"] == []
    # Nothing that ran then runs now: leading there again is a run of its own, with a generation of its own.
    assert results(host) == ["confirmed", "superseded", "confirmed"]


@user
@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
def test_a_change_whose_window_lost_its_power_is_finished_by_an_apply_where_no_unit_starts(host: BoxedSite) -> None:
    host.systemctl("disable", "openclaw")
    text = host.document.read_text()
    host.write(text.replace("level: info", "level: debug").replace("verify: 200ms", "verify: 2s"))
    host.wait_result("verifying")
    host.box.cut_power()
    host.box.boot()
    assert host.service()["pid"] is None
    assert host.apply()["result"] == "confirmed"
    assert host.config()["logging"]["level"] == "debug"
    assert results(host) == ["confirmed", "superseded", "confirmed"]


@system
@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
def test_a_bad_change_whose_window_lost_its_power_is_taken_back_after_the_boot(host: BoxedSite) -> None:
    cert, key = (give(path) for path in certificate(host))
    tls = with_tls(host, host.document.read_text(), Path(CHECKOUT, cert.name), Path(CHECKOUT, key.name))
    bad = host.write(tls.replace("verify: 200ms", "verify: 5s"))
    host.wait_result("verifying")
    host.box.cut_power()
    key.write_text("no key any more\n")
    host.box.boot()
    wait_until(lambda: host.health()[0] == 200, 40, "the good generation serves again")
    host.wait_result("rolled-back")
    assert results(host)[-1] == "confirmed"
    assert "keyPath" not in (host.state / "openclaw.json").read_text()
    assert host.document.read_text() == bad
    assert host.gateways() == [host.gateway_pid()]


class Move:
    """A save that moves the gateway to another port, seen from outside; each method is a moment of its effects."""

    def __init__(self, host: BoxedSite, old: int) -> None:
        self._host = host
        self._old, self.new = old, old + 1
        self._record = host.state / "reconciler/keeper/children/gateway.json"
        self._recorded = self._record.read_text()
        host.edit(f"port: {old}", f"port: {self.new}")

    def is_saved(self) -> bool:
        return True

    def is_in_the_config(self) -> bool:
        return f'"port": {self.new}' in (self._host.state / "openclaw.json").read_text()

    def is_in_the_hands_of_the_keeper(self) -> bool:
        return self._record.read_text() != self._recorded

    def has_left_the_old_port(self) -> bool:
        return not self._host.box.listens(self._old)

    def serves(self) -> bool:
        return self._host.box.listens(self.new)


MOMENTS = (
    Move.is_saved,
    Move.is_in_the_config,
    Move.is_in_the_hands_of_the_keeper,
    Move.has_left_the_old_port,
    Move.serves,
)


@system
@pytest.mark.req("PLAN-5", "PLAN-13")
def test_a_change_whose_effects_lost_their_power_is_finished_after_the_boot(host: BoxedSite) -> None:
    port = PORT
    for moment in MOMENTS:
        move = Move(host, port)
        wait_until(partial(moment, move), 10, moment.__name__)
        host.box.cut_power()
        port = move.new
        host.box.boot()
        host.wait_healthy(port)
        host.wait_result("confirmed")
        assert host.plan()["actions"] == [], moment
        assert len(host.gateways()) == 1, moment
        assert host.temporaries() == [], moment
    assert set(results(host)) <= {"confirmed", "superseded"}
