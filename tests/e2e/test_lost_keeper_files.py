"""The keeper's files are deleted or damaged while the gateway serves: there is one gateway, the same one, and it stays held."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import argv_of, pid_alive, processes_of_state, wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import gateways, keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]


def keepers(site: Site) -> list[int]:
    return [item.pid for item in processes_of_state(site.state) if "resources.service.keeper" in argv_of(item.pid)]


def files(site: Site) -> Path:
    return site.state / "reconciler/keeper"


def without_lock(site: Site) -> None:
    for name in ("lock", "keeper.sock"):
        (files(site) / name).unlink()


def another_directory(site: Site) -> None:
    """As from a backup: the same files, and none of them the one that the keeper has open."""
    copy = files(site).with_name("copy")
    shutil.copytree(files(site), copy, ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(files(site))
    copy.rename(files(site))


@pytest.mark.parametrize("lose", [without_lock, another_directory])
def test_a_keeper_whose_lock_was_taken_away_lets_go_and_its_successor_alone_acts(
    site: Site, lose: Callable[[Site], None]
) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, old = site.gateway_pid(), keeper_pid(site)
    assert pid is not None
    lose(site)
    planned = site.plan()["actions"]
    assert [action["verb"] for action in planned] == ["adopt"]
    site.apply()
    assert (site.gateway_pid(), gateways(site)) == (pid, [pid])
    # The first keeper sees the end of its child, and that it is no longer its own.
    kill(pid)
    wait_until(lambda: not pid_alive(old), 10, "the first keeper lets go")
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "another gateway")
    assert gateways(site) == [site.gateway_pid()]
    assert site.service()["restarts"] == 1
    stopped = site.run("service", "stop")
    assert stopped.code == 0, stopped.err
    assert (gateways(site), len(keepers(site)), site.health()[0]) == ([], 1, 0)


def test_a_keeper_without_a_successor_lets_go_too_and_an_apply_starts_the_gateway(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, old = site.gateway_pid(), keeper_pid(site)
    assert pid is not None
    without_lock(site)
    kill(pid)
    wait_until(lambda: not pid_alive(old), 10, "the keeper lets go")
    assert gateways(site) == []
    site.apply()
    assert gateways(site) == [site.gateway_pid()]


def without_record(site: Site) -> None:
    for path in (files(site) / "children").iterdir():
        path.unlink()


def with_damaged_record(site: Site) -> None:
    for path in (files(site) / "children").iterdir():
        path.write_text("{")


@pytest.mark.parametrize("lose", [without_record, with_damaged_record])
def test_a_gateway_whose_record_is_lost_is_seen_adopted_and_left_alone(
    site: Site, lose: Callable[[Site], None]
) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    kill(keeper_pid(site))
    lose(site)
    service = site.service()
    assert (service["state"], service["pid"], service["keeper"]) == ("unheld", pid, None)
    (action,) = site.plan()["actions"]
    assert (action["verb"], action["impact"]) == ("adopt", "none")
    stop = site.run("service", "stop")
    assert (stop.code, f"process {pid} runs, and the keeper's record of it is lost" in stop.err) == (1, True), stop.err
    assert site.apply()["result"] == "confirmed"
    assert (site.gateway_pid(), gateways(site)) == (pid, [pid])
    assert (site.service()["state"], site.plan()["actions"]) == ("ready", [])


def test_with_another_document_it_is_restarted_and_not_started_beside(site: Site, free_port: Callable[[], int]) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    kill(keeper_pid(site))
    without_record(site)
    site.write(verify="300ms", port=free_port())
    (action,) = [action for action in site.plan()["actions"] if action["key"] == "service/gateway"]
    assert action["verb"] == "restart"
    site.apply()
    (after,) = gateways(site)
    assert after != pid
    assert (site.service()["pid"], site.plan()["actions"]) == (after, [])


def test_a_supervisor_holds_it_again_by_itself(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    site.supervisor("--on-exit", "stop")
    without_record(site)
    kill(keeper_pid(site))
    wait_until(lambda: site.service()["state"] == "ready", 20, "a keeper holds it again")
    assert (site.gateway_pid(), gateways(site)) == (pid, [pid])


@pytest.mark.parametrize("deleted", ["reconciler/keeper/children", "logs"])
def test_a_gateway_whose_directory_is_deleted_under_its_keeper_is_started_again(site: Site, deleted: str) -> None:
    site.write(verify="300ms")
    site.apply()
    pid, keeper = site.gateway_pid(), keeper_pid(site)
    assert pid is not None
    shutil.rmtree(site.state / deleted)
    kill(pid)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "the next one")
    assert (site.service()["restarts"], keeper_pid(site)) == (1, keeper)
    # What is on record holds for a successor.
    kill(keeper)
    assert (site.service()["state"], site.service()["pid"]) == ("unheld", site.gateway_pid())
    assert site.apply()["result"] == "confirmed"
    assert (gateways(site), site.service()["restarts"]) == ([site.gateway_pid()], 1)


def test_a_lost_state_directory_is_made_anew_around_the_running_gateway_which_can_be_started_again(site: Site) -> None:
    # With a secret it is restarted: what it was started with cannot be compared under a new salt.
    text = site.write(verify="300ms")
    site.write(text.replace("auth: {mode: token, token: {env: E2E_TOKEN}}", "auth: {mode: none}"))
    site.apply()
    pid, old = site.gateway_pid(), keeper_pid(site)
    assert pid is not None
    site.state.rename(site.home / "away")
    kill(old)
    done = site.apply()
    assert done["result"] == "confirmed"
    assert (site.gateway_pid(), gateways(site)) == (pid, [pid])
    # What the next start reads went with the directory.
    kill(pid)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "the next one")
    assert (site.service()["restarts"], gateways(site)) == (1, [site.gateway_pid()])


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_a_state_directory_that_is_moved_away_under_a_supervisor_condemns_no_document(site: Site) -> None:
    site.write(verify="1s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.state.rename(site.home / "away")
    wait_until(
        lambda: site.state.exists() and [each["result"] for each in site.generations()[:1]] == ["confirmed"], 60, "anew"
    )
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing left to do")
    pid = site.gateway_pid()
    assert pid is not None
    assert gateways(site) == [pid]
    kill(pid)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "the next one")
    assert [each["result"] for each in site.generations()] == ["confirmed"]
