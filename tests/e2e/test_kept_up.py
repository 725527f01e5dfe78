"""The machine comes up while nobody can say what is wanted: what was applied last is started, and held, all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import TOKEN, Site
from tests.e2e.test_kills import gateways, keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "PLAN-7", "DOC-4")]


@pytest.fixture
def by_file(site: Site) -> Site:
    """A confirmed generation whose token lies in a file, and a supervisor that was killed."""
    text = site.write(verify="300ms")
    (site.home / "token").write_text(TOKEN)
    (site.home / "token").chmod(0o600)
    site.write(text.replace("{env: E2E_TOKEN}", "{file: token}"))
    supervisor = site.supervisor()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    supervisor.kill()
    return site


def fall(site: Site) -> int:
    """Kills keeper and gateway; returns the pid that the gateway had."""
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    kill(pid)
    return pid


def test_a_boot_before_its_secrets_are_there_starts_what_was_applied_last(by_file: Site) -> None:
    site = by_file
    fall(site)
    (site.home / "token").rename(site.home / "later")
    supervisor = site.supervisor()
    site.wait_healthy()
    # By a run, like any other cure: the value that it had is in what the gateway was started with.
    supervisor.wait_event(lambda event: event.get("verb") == "start", "what was applied last is started")
    pid = site.gateway_pid()
    assert gateways(site) == [pid]
    assert "cannot read the secret" in site.run("status").out + site.run("status").err
    # Nothing was tried, and nothing is restarted once they come.
    (site.home / "later").rename(site.home / "token")
    wait_until(lambda: site.run("status").err == "", 20, "the secrets are there")
    assert (site.gateway_pid(), [each["number"] for each in site.generations()]) == (pid, [1])


def unmounted(site: Site) -> None:
    site.document.rename(site.home / "later.yaml")


def link_to_nowhere(site: Site) -> None:
    unmounted(site)
    site.document.symlink_to(site.home / "not-mounted" / "openclaw.yaml")


@pytest.mark.parametrize("lose", [unmounted, link_to_nowhere])
def test_a_boot_before_its_document_is_there_starts_what_was_applied_last(
    by_file: Site, lose: Callable[[Site], None]
) -> None:
    site = by_file
    fall(site)
    lose(site)
    site.supervisor()
    site.wait_healthy()
    pid = site.gateway_pid()
    (site.home / "later.yaml").rename(site.document)
    wait_until(lambda: site.run("plan").code == 0, 20, "the document is there")
    site.edit("level: info", "level: debug")
    wait_until(lambda: [each["number"] for each in site.generations()] == [2, 1], 20, "a save is applied")
    assert (site.gateway_pid(), gateways(site)) == (pid, [pid])


def test_a_gateway_that_nobody_holds_is_held_again_without_its_secrets(by_file: Site) -> None:
    site = by_file
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    (site.home / "token").unlink()
    site.supervisor()
    wait_until(lambda: site.service()["keeper"] is not None, 20, "a keeper")
    assert gateways(site) == [pid]
    kill(pid)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "the next one")


def test_what_a_person_stopped_stays_so(by_file: Site) -> None:
    site = by_file
    assert site.run("service", "stop").code == 0
    kill(keeper_pid(site))
    (site.home / "token").unlink()
    supervisor = site.supervisor()
    supervisor.wait_event(lambda event: event["event"] == "document_invalid", "it has looked")
    assert (gateways(site), site.service()["state"]) == ([], "stopped")


def test_what_falls_later_is_kept_up_as_well(by_file: Site) -> None:
    """No kind is watched before there is a document: it is looked for all the same."""
    site = by_file
    (site.home / "token").unlink()
    first = fall(site)
    site.supervisor()
    wait_until(lambda: site.gateway_pid() not in (None, first), 20, "the next one")
    site.wait_healthy()
    # Until no look is due any more that the start itself asked for.
    time.sleep(3)
    second = fall(site)
    wait_until(lambda: site.gateway_pid() not in (None, second), 20, "the one after it")
    site.wait_healthy()


def test_what_ended_for_good_is_tried_again_without_its_secrets(by_file: Site) -> None:
    site = by_file
    (site.home / "token").unlink()
    config = site.state / "openclaw.json"
    good = config.read_text()
    supervisor = site.supervisor()
    supervisor.wait_event(lambda event: event["event"] == "document_invalid", "it has looked")
    pid = site.gateway_pid()
    assert pid is not None
    # Stopped, it sees none of this and puts nothing back.
    os.kill(pid, signal.SIGSTOP)
    (site.state / "openclaw.json.last-good").unlink()
    config.write_text("{")
    kill(pid)
    log = site.state / "reconciler/keeper/keeper.log"
    wait_until(lambda: "held down" in log.read_text(), 20, "it ended for good")
    # Its own ends are no reason to try at once, again and again.
    time.sleep(3)
    assert log.read_text().count("held down") < 5
    config.write_text(good)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 60, "the next try")
    site.wait_healthy()


@pytest.mark.req("PLAN-5", "PLAN-16")
def test_what_was_applied_last_is_kept_up_where_nothing_is_left_of_its_history(site: Site) -> None:
    """A boot finds a document that would take over what it knows nothing of; the keeper's files know that it was ours."""
    site.write(verify="300ms")
    site.apply()
    pid = fall(site)
    for path in (site.state / "reconciler").glob("journal.sqlite*"):
        path.unlink()
    (site.state / "reconciler/last-run.json").unlink()
    site.edit("level: info", "level: debug")
    supervisor = site.supervisor()
    supervisor.wait_event(lambda event: event["event"] == "not_applied", "nothing is taken over")
    supervisor.wait_event(lambda event: event["event"] == "kept", "what was applied last is kept up")
    site.wait_healthy()
    again = site.gateway_pid()
    assert again not in (None, pid)
    assert site.level() == "info"
    fall(site)
    wait_until(lambda: site.gateway_pid() not in (None, pid, again), 20, "it is kept up for good")
