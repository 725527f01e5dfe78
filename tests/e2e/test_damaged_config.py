"""openclaw.json is damaged by somebody while nobody looks: the gateway goes on by the last good one, whatever ends meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import gateways, keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("GW-5", "SVC-7")]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def nothing(_data: bytes) -> bytes:
    return b""


def garbage(data: bytes) -> bytes:
    return b"\xff\xfe\x00" + data


@pytest.mark.parametrize("damage", [half, nothing, garbage])
def test_a_gateway_that_ends_while_its_config_is_damaged_comes_back_by_the_last_good_one(
    site: Site, damage: Callable[[bytes], bytes]
) -> None:
    site.write(verify="300ms")
    config = site.state / "openclaw.json"
    site.supervisor()
    # Inside of its first window an end would be the document's fault.
    wait_until(lambda: site.standing() == (1, "confirmed"), 20, "the first generation in force")
    # Of somebody else, and taken over by the gateway alone.
    config.write_text(json.dumps({**json.loads(config.read_text()), "agents": {"list": []}}))
    whole = config.read_bytes()
    wait_until(lambda: "agents" in site.config(), 10, "the gateway has taken it over")
    config.write_bytes(damage(whole))
    before = site.gateway_pid()
    assert before is not None
    kill(before)
    wait_until(lambda: site.gateway_pid() not in (None, before), 20, "a gateway by the last good config")
    site.wait_healthy()
    pid = site.gateway_pid()
    assert gateways(site) == [pid]
    assert site.config()["agents"] == {"list": []}
    assert site.health()[1]["status"] == "degraded"
    assert config.read_bytes() == damage(whole)
    told = site.run("status")
    assert "openclaw.json" in told.out
    # Repaired, it is taken over without another start.
    config.write_bytes(whole)
    wait_until(lambda: site.health()[1]["status"] == "ok", 10, "the repaired file in force")
    assert (site.gateway_pid(), site.run("plan").code) == (pid, 0)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.req("PLAN-7", "PLAN-13")
def test_a_file_that_somebody_deleted_is_written_anew_and_taken_over(site: Site, changed: bool) -> None:
    site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    (site.state / "openclaw.json").unlink()
    # The gateway has seen that it is gone, and refuses that.
    wait_until(lambda: site.health()[1]["status"] == "degraded", 10, "it is missed")
    if changed:
        site.edit("level: info", "level: debug")
    done = site.apply()
    assert (done["result"], [step["verb"] for step in done["actions"]]) == ("confirmed", ["write", "reload"])
    assert (site.level(), site.gateway_pid()) == ("debug" if changed else "info", pid)


@pytest.mark.req("PLAN-13")
def test_a_damaged_file_that_is_moved_away_is_written_anew_and_nothing_is_said_against_the_new_one(site: Site) -> None:
    site.write(verify="300ms")
    supervisor = site.supervisor()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    config = site.state / "openclaw.json"
    whole = config.read_bytes()
    config.write_text("{")
    supervisor.wait_event(lambda event: event["event"] == "degraded", "the damage is told")
    wait_until(lambda: site.health()[1]["status"] == "degraded", 10, "the gateway has seen it")
    config.rename(site.home / "aside")
    wait_until(lambda: config.exists() and config.read_bytes() == whole, 20, "what is declared, anew")
    wait_until(lambda: site.health()[1]["status"] == "ok", 10, "it is in force")

    def told() -> list[str]:
        events = [event for event in supervisor.events() if event["event"] in ("degraded", "run")]
        return [event.get("result", event.get("reason")) for event in events]

    wait_until(lambda: told()[-1] not in ("verifying", "Damaged"), 20, "the verdict")
    assert told() == ["verifying", "confirmed", "Damaged", "verifying", "confirmed"]


def unknown_key(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "bogus": 1}).encode()


@pytest.mark.parametrize("damage", [half, unknown_key])
def test_a_machine_that_comes_up_with_a_damaged_config_serves_by_the_last_good_one(
    site: Site, damage: Callable[[bytes], bytes]
) -> None:
    site.write(verify="300ms")
    config = site.state / "openclaw.json"
    supervisor = site.supervisor()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    supervisor.kill()
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    kill(pid)
    whole = config.read_bytes()
    config.write_bytes(damage(whole))
    site.supervisor()
    site.wait_healthy()
    pid = site.gateway_pid()
    assert gateways(site) == [pid]
    # What is declared elsewhere is not held up; what would be written into the file is.
    site.edit("  level: info", "  retention: {age: 3d}\n  level: info")
    wait_until(lambda: site.standing() == (2, "confirmed"), 20, "a change of something else")
    site.edit("level: info", "level: debug")
    found = site.run("plan")
    assert found.code == 3, found
    assert ("repair it, or copy " if damage is half else 'Unrecognized key: "bogus"') in found.err
    assert config.read_bytes() == damage(whole)
    config.write_bytes(whole)
    wait_until(lambda: site.level() == "debug", 20, "the repaired file is written, and in force")
    assert gateways(site) == [pid]


@pytest.mark.req("SVC-11")
def test_without_a_last_good_one_a_damaged_config_is_no_start(site: Site) -> None:
    site.write(verify="300ms")
    site.state.mkdir(mode=0o700, exist_ok=True)
    (site.state / "openclaw.json").write_text("{")
    assert site.run("gateway", "run").code == 78


@pytest.mark.req("PLAN-3", "PLAN-9")
def test_a_repair_is_noticed_though_nothing_could_be_applied_since_the_start(site: Site) -> None:
    site.write(verify="300ms")
    supervisor = site.supervisor()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    supervisor.kill()
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    kill(pid)
    config = site.state / "openclaw.json"
    whole = config.read_bytes()
    config.write_text("{x")
    (site.state / "openclaw.json.last-good").unlink()
    supervisor = site.supervisor()
    supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says why")
    site.edit("level: info", "level: debug")
    time.sleep(3)
    config.write_bytes(whole)
    wait_until(lambda: site.health()[0] == 200, 5, "it is started as soon as the file is repaired")
    wait_until(lambda: site.standing() == (2, "confirmed"), 20, "what was saved meanwhile")
    assert site.generations()[0]["cause"] == "save"


@pytest.mark.req("PLAN-9")
def test_a_save_that_could_not_be_applied_at_once_is_no_drift(site: Site) -> None:
    site.write(verify="300ms")
    site.supervisor()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the first generation in force")
    config = site.state / "openclaw.json"
    whole = config.read_bytes()
    config.unlink()
    config.mkdir()
    site.edit("level: info", "level: debug")
    time.sleep(1)
    config.rmdir()
    config.write_bytes(whole)
    wait_until(lambda: site.generations()[0]["number"] == 2, 40, "the save is applied")
    assert site.generations()[0]["cause"] == "save"
