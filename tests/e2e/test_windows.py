"""What comes into a verify window from outside: another apply, the former document, a death, and a journal that is gone."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from reconciler.engine.lock import holder
from tests.beds.processes import wait_until
from tests.beds.site import OPENCLAW, TOKEN, Site
from tests.beds.tls import mismatch, with_tls
from tests.e2e.test_kills import keeper_pid, kill

pytestmark = pytest.mark.real


def newest(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = site.generations()[0]
    return found


def in_force(site: Site) -> int:
    found: int = site.run("history", "--json").json["in_force"]
    return found


def with_environment(site: Site, name: str, value: str) -> str:
    """The document with a variable more, which restarts the gateway."""
    return site.document.read_text().replace("service: {", f"service: {{environment: {{{name}: {value}}}, ")


@pytest.mark.req("PLAN-6", "PLAN-7", "PLAN-8")
@pytest.mark.parametrize("well", [True, False])
def test_an_apply_of_what_is_being_watched_waits_for_how_that_ends(site: Site, well: bool) -> None:
    site.write(verify="2s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    before = site.gateway_pid()
    site.write(with_environment(site, "A", "b"))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    pid = site.gateway_pid()
    assert pid not in (None, before)
    assert pid is not None
    if not well:
        os.kill(pid, signal.SIGSTOP)
    done = site.run("apply", "--yes", "--json", "--author", "Ada", "--commit", "c0ffee")
    assert done.code == (0 if well else 5), done
    assert (done.json["run"], done.json["generation"]) == (None, 2)
    assert done.json["result"] == ("confirmed" if well else "rolled-back")
    assert newest(site)["result"] == done.json["result"]
    # What was bad is named by its commit as well.
    assert (newest(site)["author"], newest(site)["commit"]) == ("Ada", "c0ffee")


@pytest.mark.req("PLAN-6", "PLAN-8")
def test_a_hook_that_does_not_wait_names_the_commit_of_what_is_being_watched(site: Site) -> None:
    site.write(verify="3s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(with_environment(site, "A", "b"))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    pid = site.gateway_pid()
    done = site.run("apply", "--yes", "--no-wait", "--json", "--author", "Ada", "--commit", "c0ffee")
    assert (done.code, done.json["run"], done.json["generation"], done.json["result"]) == (0, None, 2, "verifying")
    wait_until(lambda: site.standing() == (2, "confirmed"), 20, "its end")
    assert (newest(site)["author"], newest(site)["commit"]) == ("Ada", "c0ffee")
    assert site.gateway_pid() == pid


def wait_for_the_way_back(site: Site) -> None:
    """Until a writer takes something back, which it does under the lock."""
    journal = f"file:{site.state}/reconciler/journal.sqlite?mode=ro"

    def states() -> list[str]:
        with closing(sqlite3.connect(journal, uri=True)) as connection:
            return [state for (state,) in connection.execute("SELECT state FROM runs WHERE ended_at IS NULL")]

    wait_until(lambda: "rolling-back" in states(), 20, "the way back")


@pytest.mark.req("PLAN-6", "PLAN-7")
def test_an_apply_of_what_is_just_being_taken_back_waits_and_says_so(site: Site) -> None:
    good = site.write(verify="5s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(with_tls(site, good, *mismatch(site)))
    wait_for_the_way_back(site)
    done = site.run("apply", "--yes", "--json")
    assert done.code == 5, done
    assert (done.json["run"], done.json["result"], done.json["rolled_back_to"]) == (None, "rolled-back", 1)
    assert [item["result"] for item in site.generations()] == ["rolled-back", "confirmed"]


@pytest.mark.req("PLAN-7", "SVC-7")
@pytest.mark.parametrize("falls", [1, 2])
def test_a_gateway_that_falls_with_its_keeper_while_it_is_taken_back_is_started_again(site: Site, falls: int) -> None:
    """The lock is held to the end of that window: no look can start it."""
    good = site.write(verify="6s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(with_tls(site, good, *mismatch(site)))
    wait_for_the_way_back(site)
    before = None
    for _ in range(falls):
        wait_until(lambda before=before: site.health()[0] == 200 and site.gateway_pid() != before, 5, "up")  # type: ignore[misc]
        # What no look has seen alive has not fallen.
        seen = time.monotonic() + 1.5
        wait_until(lambda seen=seen: time.monotonic() > seen, 3, "a look")  # type: ignore[misc]
        assert site.standing() == (2, "rolling-back")
        before = site.gateway_pid()
        assert before is not None
        keeper = keeper_pid(site)
        # The keeper first: it would start another one.
        kill(keeper)
        kill(before)
    if falls == 1:
        wait_until(lambda: site.health()[0] == 200, 5, "up again")
        assert site.standing() == (2, "rolling-back")
    wait_until(lambda: site.standing()[1] not in ("verifying", "rolling-back"), 30, "its end")
    assert site.standing() == (2, "rolled-back" if falls == 1 else "rollback-failed")
    # Whoever watches goes on looking after it.
    wait_until(lambda: site.health()[0] == 200, 20, "up at last")


@pytest.mark.req("PLAN-7", "SVC-7")
def test_a_gateway_that_falls_with_its_keeper_in_the_window_of_a_command_is_started_again(site: Site) -> None:
    """No supervisor watches: but for the command nobody could."""
    site.write(verify="5s")
    site.apply()
    site.edit("manager: embedded", "environment: {CHANGED: one}, manager: embedded")
    process = site.start("apply", "--yes")
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    site.wait_healthy()
    # What no look has seen alive has not fallen.
    time.sleep(1.5)
    before = site.gateway_pid()
    assert before is not None
    kill(keeper_pid(site))
    kill(before)
    wait_until(lambda: site.health()[0] == 200, 4, "up again")
    assert site.standing() == (2, "verifying")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)
    assert site.standing() == (2, "confirmed")
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-7", "SVC-12")
def test_a_change_of_what_only_the_keeper_needs_is_confirmed_while_the_gateway_waits_for_its_next_start(
    site: Site,
) -> None:
    good = site.write(verify="4s").replace("delay: 200ms, max_delay: 2s", "delay: 6s, max_delay: 30s")
    site.write(good)
    site.apply()
    before = site.gateway_pid()
    assert before is not None
    kill(before)
    wait_until(lambda: site.service()["state"] == "waiting", 5, "its end is known")
    site.edit("max_delay: 30s", "max_delay: 40s")
    done = site.apply()
    assert (done["result"], [action["verb"] for action in done["actions"]]) == ("confirmed", ["update"])
    wait_until(lambda: site.health()[0] == 200, 20, "its next start")
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-6")
def test_who_waits_for_a_frozen_writer_of_the_same_document_is_told_for_whom(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = site.write(verify="5s")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(with_tls(site, good, *mismatch(site)))
    wait_for_the_way_back(site)
    supervisor.process.send_signal(signal.SIGSTOP)
    try:
        monkeypatch.setattr("reconciler.cli.commands.apply.PATIENCE_SECONDS", 3.0)
        refused = site.call("apply", "--yes")
    finally:
        supervisor.process.send_signal(signal.SIGCONT)
    assert refused.code == 75, refused
    assert f"another writer holds the lock: pid {supervisor.process.pid}" in refused.err


@pytest.mark.req("PLAN-3", "PLAN-7", "PLAN-8")
def test_a_mistake_that_is_corrected_inside_its_window_is_over_for_good(
    site: Site, free_port: Callable[[], int]
) -> None:
    good = site.write(verify="3s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    wrong = free_port()
    site.write(good.replace(str(site.port), str(wrong)))
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    site.write(good)
    wait_until(lambda: site.standing()[0] == 3, 20, "back")
    site.wait_healthy()
    wait_until(lambda: site.standing() == (3, "confirmed"), 20, "the end of its window")
    assert [item["result"] for item in site.generations()] == ["confirmed", "superseded", "confirmed"]
    assert in_force(site) == 3
    assert "not ready" not in site.run("status").out
    assert site.health(wrong)[0] == 0


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
def test_a_bad_change_whose_writer_died_before_its_window_is_taken_back_by_a_supervisor(site: Site) -> None:
    site.write(verify="1s")
    site.apply()
    (environment,) = site.state.rglob("gateway.env")
    before = environment.read_bytes()
    site.write(with_environment(site, "PYTHONHOME", "/none"))
    process = site.start("apply", "--yes")
    wait_until(lambda: environment.read_bytes() != before, 20, "what the next start reads")
    # Then the keeper is told, and the gateway dies at once.
    wait_until(lambda: site.health()[0] == 0, 20, "the old gateway is gone")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.health()[0] == 200, 40, "the good one serves again")
    wait_until(lambda: site.standing() == (2, "rolled-back"), 40, "taken back")
    assert in_force(site) == 1
    assert "held back" in site.run("status").out


@pytest.mark.req("PLAN-5")
def test_a_journal_that_is_deleted_under_a_supervisor_is_begun_anew(site: Site) -> None:
    site.write(verify="200ms")
    site.apply()
    pid = site.gateway_pid()
    site.supervisor("--on-exit", "stop")
    for path in (site.state / "reconciler").glob("journal.sqlite*"):
        path.unlink()
    site.edit("level: info", "level: debug")
    wait_until(lambda: site.level() == "debug", 20, "it is applied")
    wait_until(lambda: site.standing()[1] == "confirmed", 20, "it is in the history")
    assert newest(site)["number"] > 1
    assert site.gateway_pid() == pid
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.level() == "warn" and site.standing()[1] == "confirmed", 20, "the next one too")
    assert "earlier history is lost" not in site.run("status").out


@pytest.mark.req("PLAN-7", "SVC-9")
def test_a_start_that_is_forbidden_leaves_the_service_as_it_was(site: Site, free_port: Callable[[], int]) -> None:
    site.write(verify="200ms")
    site.apply()
    site.run("service", "stop", "--why", "a new disk")
    taken = free_port()
    site.edit(f"port: {site.port}", f"port: {taken}")
    assert site.apply()["result"] == "unconfirmed"
    with socket.create_server(("127.0.0.1", taken)):
        refused = site.run("service", "start")
    assert refused.code == 3, refused
    assert f"port {taken}" in refused.err
    assert "a new disk" in site.run("service", "status").out
    assert "Suspended" in site.run("status").out
    assert site.run("service", "start").code == 0
    assert site.health(taken)[0] == 200


@pytest.mark.req("PLAN-7")
def test_what_was_never_confirmed_is_taken_back_whole(site: Site) -> None:
    site.write(verify="3s")
    first = site.start("apply", "--yes")
    wait_until(lambda: site.health()[0] == 200, 20, "the first gateway")
    assert site.run("service", "stop").code == 0
    assert first.wait(30) == 0
    assert site.standing() == (1, "unconfirmed")
    before = (site.state / "openclaw.json").read_bytes()
    site.write(with_tls(site, site.document.read_text(), *mismatch(site)))
    assert site.apply()["result"] == "unconfirmed"
    assert b"certPath" in (site.state / "openclaw.json").read_bytes()
    started = site.run("service", "start")
    assert started.code == 5, started
    assert (site.state / "openclaw.json").read_bytes() == before
    assert site.health(secret=TOKEN)[0] == 0
    assert site.standing() == (2, "rolled-back")


@pytest.mark.req("PLAN-7", "SVC-8")
def test_while_a_save_is_refused_the_gateway_is_kept(site: Site) -> None:
    good = site.write(verify="200ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(good[: good.index("logging:")] + good[good.index("policy:") :])
    supervisor.wait_event(lambda event: event["event"] == "not_applied", "it is refused")
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "another one serves")
    supervisor.process.send_signal(signal.SIGINT)
    supervisor.process.wait(30)
    assert site.health()[0] == 0
    # As after a boot: what was confirmed last runs, whatever became of the document since.
    site.supervisor("--on-exit", "stop")
    site.wait_healthy()
    assert in_force(site) == 1


@pytest.mark.req("PLAN-8")
def test_a_second_rollback_inside_the_window_of_the_first_stays(site: Site) -> None:
    site.write(verify="3s")
    site.apply()
    site.write(with_environment(site, "A", "b"))
    site.apply()
    site.edit("A: b", "A: c")
    site.apply()
    site.supervisor("--on-exit", "stop")
    first = site.start("rollback", "1", "--yes")
    wait_until(lambda: site.standing() == (4, "verifying"), 20, "its window")
    second = site.run("rollback", "2", "--yes")
    assert second.code == 0, second
    assert first.wait(30) == 1
    assert site.standing() == (5, "confirmed")
    assert "held back" in site.run("status").out


@pytest.mark.req("PLAN-7", "SVC-7")
@pytest.mark.parametrize("how", ["save", "apply"])
def test_a_bad_change_before_anything_was_confirmed_leaves_what_served_before_it(site: Site, how: str) -> None:
    """There is no generation to go back to: the file comes back first, and then the process that reads it."""
    good = site.write(verify="6s")
    if how == "save":
        site.supervisor("--on-exit", "stop")
    else:
        assert site.run("apply", "--yes", "--no-wait").code == 0
    wait_until(lambda: site.standing() == (1, "verifying"), 20, "the first window")
    site.wait_healthy()
    site.write(with_tls(site, good, *mismatch(site)))
    if how == "apply":
        assert site.run("apply", "--yes").code == 5
    wait_until(lambda: site.standing() == (2, "rolled-back"), 30, "the way back")
    site.wait_healthy()
    assert "keyPath" not in (site.state / "openclaw.json").read_text()
    assert site.run("gateway", "health").code == 0


@pytest.mark.req("PLAN-7")
def test_a_window_that_was_over_and_well_before_another_document_came_is_confirmed(site: Site) -> None:
    site.write(verify="500ms")
    assert site.run("apply", "--yes", "--no-wait").code == 0
    time.sleep(1)
    site.edit("level: info", "level: debug")
    site.apply()
    assert [item["result"] for item in site.generations()] == ["confirmed", "confirmed"]


@pytest.mark.req("PLAN-7")
def test_a_window_that_was_over_and_is_sick_when_another_document_comes_is_not(site: Site) -> None:
    site.write(verify="500ms")
    assert site.run("apply", "--yes", "--no-wait").code == 0
    time.sleep(1)
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    site.edit("service: {", "service: {environment: {A: b}, ")
    site.run("apply", "--yes")
    (last, first) = site.generations()
    assert (first["result"], last["result"]) == ("superseded", "confirmed")
    assert first["reason"] == "another document took its place, and nobody had watched its window"


@pytest.mark.req("PLAN-7", "PLAN-8")
def test_what_is_confirmed_is_not_called_unconfirmed_while_a_cure_of_drift_is_watched(site: Site) -> None:
    site.write(verify="4s")
    site.apply()
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    kill(pid)
    assert site.run("apply", "--yes", "--no-wait").code == 0
    said = site.run("status").out
    assert "generation 1 is in force, and was led to again just now (run " in said
    assert site.standing() == (1, "confirmed")


@pytest.mark.req("PLAN-7", "PLAN-15")
def test_a_setting_that_somebody_changes_in_the_window_condemns_no_document(site: Site) -> None:
    site.write(verify="2s")
    site.apply()
    site.edit("level: info", "level: debug")
    apply = site.spawned.start(
        [OPENCLAW, "apply", "--yes"], cwd=site.home, env=site.environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"debug"', '"error"'))
    printed = apply.communicate(timeout=30)[0].decode()
    assert apply.returncode == 1, printed
    assert "Generation 2: partly applied; 2 of 2 actions done." in printed
    assert "not as declared: logging.level (somebody else changed it meanwhile)" in printed
    assert "held" not in site.run("plan").out
    site.apply()
    assert (site.standing(), site.level()) == ((2, "confirmed"), "debug")


def watcher(site: Site) -> int | None:
    """The process that watches a window."""
    found = holder(site.state / "reconciler/verify.lock")
    return found.pid if found is not None else None


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
@pytest.mark.parametrize("argv", [("apply", "--yes"), ("service", "start")])
def test_the_window_of_a_command_that_is_killed_is_gone_on_with_by_the_supervisor_beside_it(
    site: Site, argv: tuple[str, ...]
) -> None:
    site.write(verify="6s")
    site.apply("--no-wait")
    if argv[0] == "service":
        site.apply()
        site.run("service", "stop")
        site.edit("level: info", "level: debug")
        site.apply()
        supervisor = site.supervisor("--on-exit", "stop")
    command = site.start(*argv)
    wait_until(lambda: watcher(site) == command.pid, 20, "its window")
    if argv[0] == "apply":
        supervisor = site.supervisor("--on-exit", "stop")
    # Until all that the supervisor looks at by itself has been looked at.
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 2, 3, "rest")
    assert watcher(site) == command.pid
    kill(command.pid)
    command.wait()
    told = site.run("plan").err
    if "nobody watches it now" in told:
        assert f"supervisor pid {supervisor.process.pid} goes on with that in a moment" in told
    wait_until(lambda: watcher(site) == supervisor.process.pid, 3, "the supervisor goes on with it")
    wait_until(lambda: newest(site)["result"] == "confirmed", 20, "its end")


@pytest.mark.req("PLAN-5", "PLAN-6", "SVC-9")
def test_beside_a_window_that_a_killed_command_left_a_person_acts_at_once(site: Site) -> None:
    """While nobody watches it, and while it is gone on with by a way back to what it is the window of."""
    site.write(verify="15s")
    site.apply()
    site.write(with_environment(site, "A", "b"))
    applying = site.start("apply", "--yes")
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "its window")
    applying.kill()
    applying.wait()
    before = site.gateway_pid()
    assert site.run("service", "restart").code == 0
    again = site.gateway_pid()
    assert (again != before, site.standing()) == (True, (2, "verifying"))
    # A save that nobody applied, and that is held back by it.
    site.write(site.document.read_text().replace("level: info", "level: debug"))
    back = site.start("rollback", "2", "--yes")
    wait_until(lambda: watcher(site) == back.pid, 20, "the rest of the window")
    assert holder(site.state / "reconciler" / "lock") is None
    assert site.run("service", "restart").code == 0
    assert (site.gateway_pid() != again, site.standing()) == (True, (2, "verifying"))
    assert back.wait(40) == 0
    assert (site.standing(), len(site.generations())) == ((2, "confirmed"), 2)
