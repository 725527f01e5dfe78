"""Writers at the same time: one after the other, never in between, and whoever has to wait too long is told for whom."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing

import pytest

from reconciler.engine.lock import holder
from resources.service.keeper_client import SOCKET
from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.resources.service.beds import Client

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-6")]


@pytest.fixture
def ready(site: Site) -> Site:
    """A gateway that runs, and may be restarted as often as these tests want."""
    site.write(site.write(verify="0s").replace("{verify: 0s}", "{verify: 0s, restarts_per_hour: null}"))
    site.apply()
    return site


def effects(site: Site) -> list[tuple[float, float, str]]:
    """When each action was meant and when it was over, with its run, in order."""
    with closing(sqlite3.connect(f"file:{site.state}/reconciler/journal.sqlite?mode=ro", uri=True)) as connection:
        return connection.execute(
            "SELECT intended_at, ended_at, run_id FROM actions ORDER BY intended_at, ended_at"
        ).fetchall()


def start_and_wait_for_its_restart(site: Site, port: int) -> subprocess.Popen[str]:
    """An apply that holds the lock: its file is written, and now it restarts the gateway."""
    process = site.start("apply", "--yes", OPENCLAW_GATEWAY_PORT=str(port))
    wait_until(lambda: f'"port": {port}' in (site.state / "openclaw.json").read_text(), 20, "its first effect")
    return process


@pytest.mark.parametrize("count", [2, 8])
def test_applies_at_the_same_moment_come_one_after_the_other(
    ready: Site, free_port: Callable[[], int], count: int
) -> None:
    site = ready
    ports = [free_port() for _ in range(count)]
    started = [site.start("apply", "--yes", OPENCLAW_GATEWAY_PORT=str(port)) for port in ports]
    ended = [(process.communicate(timeout=60), process.returncode) for process in started]
    for (out, err), code in ended:
        # 0: it had its turn. 1: it had it, and the next one came before it was confirmed. 75: its turn did not come in time.
        assert code in (0, 1, 75), err
        assert "Traceback" not in err
        if code == 1:
            assert "another document took its place" in out
        if code == 75:
            assert "another writer holds the lock: pid " in err
    done = [port for port, (_said, code) in zip(ports, ended, strict=True) if code != 75]
    assert 0 in [code for _said, code in ended]
    listed = effects(site)
    runs = [run for _, _, run in listed]
    # All effects of one run, then all of the next.
    assert [run for index, run in enumerate(runs) if index == 0 or runs[index - 1] != run] == list(dict.fromkeys(runs))
    for (_, before, _), (after, _, _) in itertools.pairwise(listed):
        assert before <= after
    # What is there now is wholly what one of them wanted.
    in_force = [port for port in done if site.health(port)[0] == 200]
    assert len(in_force) == 1
    site.extra["OPENCLAW_GATEWAY_PORT"] = str(in_force[0])
    assert site.plan()["actions"] == []
    assert len(site.generations()) == 1 + len(done)


def test_who_waits_too_long_is_told_for_whom_and_since_when(ready: Site, free_port: Callable[[], int]) -> None:
    site = ready
    first = start_and_wait_for_its_restart(site, free_port())
    os.kill(first.pid, signal.SIGSTOP)
    try:
        found = holder(site.state / "reconciler/lock")
        assert found is not None
        assert found.pid == first.pid
        site.extra["OPENCLAW_GATEWAY_PORT"] = str(free_port())
        refused = site.run("apply", "--yes")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert refused.code == 75, refused.err
    assert f"pid {first.pid} (`openclaw apply`" in refused.err
    assert ", since 20" in refused.err
    assert first.wait(30) == 0
    assert site.apply()["result"] == "confirmed"


def test_a_writer_that_is_killed_holds_nobody_up(ready: Site, free_port: Callable[[], int]) -> None:
    site = ready
    first = start_and_wait_for_its_restart(site, free_port())
    assert holder(site.state / "reconciler/lock") is not None
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert holder(site.state / "reconciler/lock") is None
    assert site.apply()["result"] == "confirmed"
    assert site.health()[0] == 200
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-13", "SVC-7")
def test_a_writer_that_is_killed_between_its_word_to_the_keeper_and_the_restart_changes_nothing_for_the_next_start(
    ready: Site, free_port: Callable[[], int]
) -> None:
    """The document went back meanwhile: what runs is as declared, what its next start would be by is not."""
    site, before = ready, ready.gateway_pid()
    with Client(site.state / "reconciler" / SOCKET) as keeper:
        told = keeper.ok("status")["children"]["gateway"]["spec"]
        keeper.ok("ensure", name="gateway", spec={**told, "port": free_port(), "spec_digest": "b1946ac92492d234"})
    assert [action["verb"] for action in site.plan()["actions"]] == ["update"]
    done = site.apply()
    assert (done["result"], [action["result"] for action in done["actions"]]) == ("confirmed", ["done"])
    assert (site.gateway_pid(), site.plan()["actions"]) == (before, [])
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: site.gateway_pid() not in (None, before), 20, "the next start")
    assert site.service()["port"] == site.port
    assert site.plan()["actions"] == []


@pytest.mark.req("DOC-6")
def test_settings_at_the_same_moment_are_all_in_their_files(site: Site) -> None:
    """Half of them in an include that two documents share, each of which lies in a directory of its own."""
    (site.home / "common").mkdir()
    common = site.home / "common/common.yaml"
    common.write_text("service:\n  environment: # kept\n" + "".join(f"    C{number}: old\n" for number in range(6)))
    common.chmod(0o640)
    other = site.home / "other/openclaw.yaml"
    other.parent.mkdir()
    other.write_text("version: 1\ninclude: ../common/common.yaml\n")
    site.write("version: 1\ninclude: common/common.yaml\n# kept\nservice:\n  environment: {}\n")
    own = [("config", "set", f"service.environment.V{number}", "new") for number in range(6)]
    shared = [
        (
            *(("--file", "other/openclaw.yaml") if number % 2 else ()),
            "config",
            "set",
            f"service.environment.C{number}",
            "new",
        )
        for number in range(6)
    ]
    started = [site.start(*argv) for pair in zip(own, shared, strict=True) for argv in pair]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), (out, err)
    assert site.run("config", "get", "service.environment").json == dict.fromkeys(
        (f"{name}{number}" for name in "CV" for number in range(6)), "new"
    )
    assert common.read_text() == "service:\n  environment: # kept\n" + "".join(f"    C{n}: new\n" for n in range(6))
    assert common.stat().st_mode & 0o777 == 0o640
    assert "# kept\n" in site.document.read_text()
    assert sorted(os.listdir(site.home)) == ["common", "openclaw.yaml", "other"]
    assert os.listdir(common.parent) == ["common.yaml"]
    assert list(site.state.iterdir()) == []
