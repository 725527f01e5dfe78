"""The machine comes up while nobody can say what is wanted: what was applied last is started, and held, all the same."""

from __future__ import annotations

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


def test_a_boot_before_its_secrets_are_there_starts_what_was_applied_last(by_file: Site) -> None:
    site = by_file
    kill(keeper_pid(site))
    pid = site.gateway_pid()
    assert pid is not None
    kill(pid)
    (site.home / "token").rename(site.home / "later")
    supervisor = site.supervisor()
    site.wait_healthy()
    supervisor.wait_event(lambda event: event["event"] == "kept", "what was applied last is kept up")
    pid = site.gateway_pid()
    assert gateways(site) == [pid]
    assert "cannot read the secret" in site.run("status").out + site.run("status").err
    # Nothing was tried, and nothing is restarted once they come.
    (site.home / "later").rename(site.home / "token")
    wait_until(lambda: site.run("status").err == "", 20, "the secrets are there")
    assert (site.gateway_pid(), [each["number"] for each in site.generations()]) == (pid, [1])


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
