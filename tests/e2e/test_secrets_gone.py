"""Secrets that are gone when the way back needs them: their values of then are used again, where they are still on this host."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import TOKEN, Site
from tests.e2e.test_crash_windows import with_an_end
from tests.e2e.test_kills import keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-7", "PLAN-8", "DOC-4")]


def by_file(site: Site, text: str, name: str = "token") -> str:
    """The document with its token in a file."""
    (site.home / name).write_text(TOKEN)
    (site.home / name).chmod(0o600)
    return text.replace("{env: E2E_TOKEN}", f"{{file: {name}}}")


def hide(site: Site, name: str = "token") -> Path:
    return (site.home / name).rename(site.home / "gone")


@pytest.mark.parametrize("moved", [False, True])
def test_a_bad_change_whose_secret_vanishes_in_its_window_is_taken_back_with_the_value_of_then(
    site: Site, moved: bool
) -> None:
    """Where the change named another file its value is in the backups alone."""
    good = by_file(site, site.write(verify="4s"))
    site.write(good)
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.standing() == (1, "confirmed"), 20, "the good one")
    bad = with_an_end(site, good, 1.5)
    if moved:
        (site.home / "another").write_text("e2e-token-another-one")
        bad = bad.replace("{file: token}", "{file: another}")
    site.write(bad)
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    hide(site)
    wait_until(lambda: site.standing() == (2, "rolled-back"), 40, "the way back")
    site.wait_healthy()
    assert site.gateway_pid() is not None
    assert TOKEN not in supervisor.text()
    assert site.run("history", "--json").json["in_force"] == 1


def test_a_secret_that_was_rotated_before_it_vanished_never_has_its_old_value_again(site: Site) -> None:
    good = by_file(site, site.write(verify="2s"))
    site.write(good)
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.standing() == (1, "confirmed"), 20, "the good one")
    site.write(with_an_end(site, good, 1.0))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    rotated = TOKEN[::-1]
    (site.home / "token").write_text(rotated)
    # With another secret it is another document, with a window of its own.
    wait_until(lambda: site.standing()[1] == "rolled-back", 40, "the way back")
    wait_until(lambda: "parts" in (site.health(secret=rotated)[1] or {}), 20, "the first one with the new secret")
    pid = site.health(secret=rotated)[1]["pid"]
    hide(site)
    supervisor.wait_event(lambda event: event["event"] == "document_invalid", "it is missed")
    supervisor.process.send_signal(signal.SIGHUP)
    # As long as a restart would need.
    time.sleep(2)
    assert site.health(secret=rotated)[1]["pid"] == pid


@pytest.mark.parametrize("how", ["boot", "supervisor"])
def test_a_window_goes_on_though_the_supervisor_that_finds_it_cannot_read_the_secret(site: Site, how: str) -> None:
    good = by_file(site, site.write(verify="4s"))
    site.write(good)
    supervisor = site.supervisor()
    wait_until(lambda: site.standing() == (1, "confirmed"), 20, "the good one")
    site.write(with_an_end(site, good, 1.5))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    supervisor.kill()
    if how == "boot":
        pid = site.gateway_pid()
        kill(keeper_pid(site))
        if pid is not None:
            kill(pid)
    hide(site)
    site.supervisor("--on-exit", "stop")
    # A boot moved the host: then the run that leads there again has a window, and a number, of its own.
    wait_until(lambda: site.standing()[1] == "rolled-back", 60, "the way back")
    assert site.run("history", "--json").json["in_force"] == 1
    site.wait_healthy()


def test_where_the_value_of_then_is_gone_too_it_is_said_what_runs(site: Site) -> None:
    good = by_file(site, site.write(verify="4s"))
    site.write(good)
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.standing() == (1, "confirmed"), 20, "the good one")
    (site.home / "another").write_text("e2e-token-another-one")
    site.write(with_an_end(site, good, 1.5).replace("{file: token}", "{file: another}"))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    hide(site)
    (site.home / "another").unlink()
    for path in (site.state / "reconciler/backups").glob("gateway.env*"):
        path.unlink()
    wait_until(lambda: site.standing() == (2, "rollback-failed"), 40, "nowhere to go")
    told = site.run("status", "--json").json
    assert {("Degraded", "RollbackFailed")} & {
        (item["type"], item["reason"]) for each in told["resources"] for item in each["conditions"]
    }
    notes = {item["code"]: item["message"] for item in told["notes"]}
    assert notes["rollback_failed"] == (
        "generation 2 could not be taken back: its settings are there, and not those of generation 1"
    )
    assert notes["document_invalid"].endswith("; the last that was confirmed is generation 1")
    supervisor.wait_event(lambda event: event["event"] == "not_restored", "why nothing is kept in force")
    for _ in range(3):
        site.run("service", "status")
    events = [event["event"] for event in supervisor.events()]
    assert (events.count("document_invalid"), events.count("not_restored")) == (1, 1)


def test_status_shows_what_it_can_where_nothing_was_ever_confirmed(site: Site) -> None:
    site.write(with_an_end(site, by_file(site, site.write(verify="4s")), 1.5))
    site.apply(code=5)
    hide(site)
    shown = site.run("status")
    assert shown.code == 0, shown.err
    assert "service/gateway" in shown.out
    assert "none was ever confirmed, and the newest that was tried is generation 1" in shown.out
    assert "cannot read the secret file" in shown.out
