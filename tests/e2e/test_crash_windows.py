"""A change after which the gateway starts, serves for a while and ends, again and again: it is never what is confirmed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from reconciler.journal import Journal, Run
from reconciler.model import Result
from tests.beds.processes import environ_of, processes_of_state, wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import keeper_pid, kill
from tests.e2e.test_windows import watcher

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-7", "SVC-12")]

# In the gateway's process before its first line.
ENDS_SOON = """
import os, threading, time
if "AFTER" in os.environ:
    threading.Thread(target=lambda: (time.sleep(float(os.environ["AFTER"])), os._exit(1)), daemon=True).start()
"""

# `openclaw`, killed as soon as its journal says that it goes back.
DIES_ON_ITS_WAY_BACK = """
import os, signal, sys
from reconciler.cli import entry
from reconciler.engine import rollback

def die(*_args):
    os.kill(os.getpid(), signal.SIGKILL)

rollback._restore = rollback._undo_document = die
sys.exit(entry.main())
"""


def with_an_end(site: Site, good: str, seconds: float) -> str:
    hook = site.home / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(ENDS_SOON)
    return good.replace("service: {", f"service: {{environment: {{PYTHONPATH: {hook}, AFTER: '{seconds:g}'}}, ")


@pytest.mark.parametrize("how", ["apply", "save"])
@pytest.mark.parametrize("seconds", [1.5, 3.0])
def test_a_change_that_crashes_again_and_again_is_taken_back(site: Site, how: str, seconds: float) -> None:
    """The window's end falls into a life in which it serves."""
    good = site.write(verify="4s")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop") if how == "save" else None
    site.write(with_an_end(site, good, seconds))
    if supervisor is None:
        done = site.apply(code=5)
        assert done["rolled_back_to"] == 1
    wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 40, "the way back")
    assert "it does not stay up: it fell 2 times in its window" in site.generations()[0]["reason"]
    assert site.run("history", "--json").json["in_force"] == 1
    site.wait_healthy()


def test_one_crash_by_somebody_else_takes_nothing_back(site: Site) -> None:
    good = site.write(verify="3s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(good.replace("service: {", "service: {environment: {A: b}, "))
    wait_until(lambda: [site.generations()[0][key] for key in ("number", "result")] == [2, "verifying"], 20, "window")
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 30, "confirmed all the same")
    assert site.service()["restarts"] == 1


@pytest.mark.parametrize("accidents", [1, 2])
def test_a_restart_by_hand_in_a_window_that_another_process_left_is_no_fall(site: Site, accidents: int) -> None:
    site.write(verify="6s")
    site.apply()
    first = site.supervisor("--on-exit", "leave")
    site.edit("level: info", "level: debug")
    wait_until(lambda: site.standing() == (2, "verifying"), 20, "window")
    first.kill()
    assert site.run("service", "restart").code == 0
    second = site.supervisor("--on-exit", "stop")
    wait_until(lambda: watcher(site) == second.process.pid, 20, "the rest of the window")
    for _ in range(accidents):
        site.wait_healthy()
        pid = site.gateway_pid()
        assert pid is not None
        kill(pid)
        # Two between two looks would be one.
        seen = time.monotonic() + 3
        wait_until(lambda seen=seen: time.monotonic() > seen, 4, "looks")  # type: ignore[misc]
    wait_until(lambda: site.standing()[1] not in ("verifying", "rolling-back"), 40, "the verdict")
    assert site.standing()[1] == ("confirmed" if accidents == 1 else "rolled-back")


@pytest.mark.req("PLAN-7", "PLAN-8")
def test_where_the_document_wants_no_way_back_what_failed_is_in_force_and_is_no_good_generation(site: Site) -> None:
    good = site.write(verify="2s").replace("{verify: 2s}", "{verify: 2s, rollback: false}")
    site.write(good)
    site.apply()
    better = good.replace("level: info", "level: debug")
    site.write(better)
    site.apply()
    # It serves for less than its window.
    site.write(with_an_end(site, better, 0.8))
    site.apply(code=1)
    assert [site.generations()[0][key] for key in ("number", "result")] == [3, "failed"]
    assert site.run("history", "--json").json["in_force"] == 3
    told = site.run("status")
    assert "generation 3" in told.out
    assert "generation 3 is in force and failed: service/gateway is not ready" in told.out + told.err
    # A lucky look is no window, whoever looks.
    for _ in range(3):
        wait_until(lambda: site.health()[0] == 200, 20, "a life in which it serves")
        assert site.run("apply", "--yes").code == 1
    supervisor = site.supervisor("--on-exit", "leave")
    supervisor.wait_event(lambda event: event.get("result") == "failed", "its window, once more", 40)
    supervisor.stop()
    assert [(each["number"], each["result"]) for each in site.generations()] == [
        (3, "failed"),
        (2, "confirmed"),
        (1, "confirmed"),
    ]
    # The last good one is the one before it.
    back = site.run("rollback", "--yes")
    assert back.code == 0, (back.out, back.err)
    assert site.generations()[0]["cause"] == "rollback to 2"
    assert site.level() == "debug"


def lose_the_keeper(site: Site) -> None:
    kill(keeper_pid(site))


def lose_the_config(site: Site) -> None:
    (site.state / "openclaw.json").unlink()


def change_what_needs_no_action(site: Site) -> None:
    site.edit("verify: 5s", "verify: 6s")


@pytest.mark.parametrize("meanwhile", [lose_the_keeper, lose_the_config, change_what_needs_no_action])
def test_nothing_that_is_done_inside_the_window_of_a_bad_change_confirms_it(
    site: Site, meanwhile: Callable[[Site], None]
) -> None:
    good = site.write(verify="5s")
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(with_an_end(site, good, 2.0))
    wait_until(lambda: [site.generations()[0][key] for key in ("number", "result")] == [2, "verifying"], 20, "window")
    meanwhile(site)
    wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 60, "the way back")
    assert [each["number"] for each in site.generations() if each["result"] == "confirmed"] == [1]
    site.wait_healthy()


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("how", ["apply", "run"])
def test_a_journal_that_is_lost_inside_the_window_of_a_bad_change_confirms_nothing(site: Site, how: str) -> None:
    good = site.write(verify="4s")
    site.apply()
    site.write(with_an_end(site, good, 1.5))
    site.apply("--no-wait")
    for path in (site.state / "reconciler").glob("journal.sqlite*"):
        path.unlink()
    if how == "apply":
        site.apply(code=1)
        assert [each["result"] for each in site.generations()] == ["failed"]
        told = site.run("status").out
        assert "the history is lost: there is nothing to go back to" in told
        assert "policy.rollback" not in told
    else:
        supervisor = site.supervisor("--on-exit", "stop")
        supervisor.wait_event(lambda event: event.get("result") == "failed", "its window", 40)
        # It tries another window from time to time.
        assert [each["result"] for each in site.generations()] in (["failed"], ["verifying"])
    # Whoever mends the document is free of it.
    site.write(good)
    if how == "apply":
        site.apply()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 40, "the good one, in a window of its own")
    assert site.generations()[1]["result"] in ("failed", "superseded")
    site.wait_healthy()


def test_one_crash_is_waited_out_although_the_next_start_is_later_than_the_window_is_long(site: Site) -> None:
    good = site.write(verify="2s").replace("delay: 200ms, max_delay: 2s", "delay: 4s, max_delay: 8s")
    site.write(good)
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.write(good.replace("service: {", "service: {environment: {A: b}, "))
    wait_until(lambda: [site.generations()[0][key] for key in ("number", "result")] == [2, "verifying"], 20, "window")
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.generations()[0]["result"] != "verifying", 30, "the verdict")
    assert site.generations()[0]["result"] == "confirmed"
    assert site.gateway_pid() not in (None, pid)


@pytest.mark.req("GW-5", "PLAN-13")
def test_a_gateway_that_is_started_while_its_config_is_missing_listens_where_it_did(site: Site) -> None:
    site.write(verify="300ms")
    site.supervisor().kill()
    wait_until(lambda: site.health()[0] == 200, 20, "it serves")
    (site.state / "openclaw.json").unlink()
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "the next one, on its port")
    site.supervisor()
    wait_until(lambda: (site.state / "openclaw.json").exists(), 20, "what is declared, anew")
    wait_until(lambda: site.health()[1]["status"] == "ok" and site.plan()["actions"] == [], 20, "all is well")


def patient(text: str) -> str:
    """With long pauses between the lives of a crash loop."""
    return text.replace("delay: 200ms, max_delay: 2s", "delay: 200ms, max_delay: 30s, burst: 2, window: 300s")


def test_a_window_that_nobody_watched_to_its_end_confirms_nothing_in_a_crash_loops_pause(site: Site) -> None:
    good = patient(site.write(verify="5s"))
    site.write(good)
    site.apply()
    first = site.supervisor("--on-exit", "leave")
    site.write(with_an_end(site, good, 2.0))
    wait_until(lambda: [site.generations()[0][key] for key in ("number", "result")] == [2, "verifying"], 20, "window")
    first.process.kill()
    first.process.wait()
    wait_until(lambda: site.service()["state"] == "broken", 60, "the loop's pause")
    site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.run("history", "--json").json["in_force"] == 1, 20, "generation 1 in force")
    wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 90, "the way back")
    assert [each["number"] for each in site.generations() if each["result"] == "confirmed"] == [1]
    site.wait_healthy()


@pytest.mark.parametrize("then", ["apply", "run"])
def test_what_was_taken_back_is_not_confirmed_by_a_look_after_its_second_try_was_killed(site: Site, then: str) -> None:
    good = site.write(verify="4s")
    site.apply()
    site.write(with_an_end(site, good, 3.0))
    site.apply(code=5)
    second = site.start("apply", "--yes")
    # Its restart has begun, and it waits for the gateway to be Ready.
    wait_until(
        lambda: any("AFTER" in environ_of(found.pid) for found in processes_of_state(site.state)), 20, "its gateway"
    )
    second.kill()
    second.wait()
    if then == "apply":
        assert site.run("apply", "--yes").code == 5
    else:
        site.supervisor("--on-exit", "stop")
    wait_until(lambda: {each["result"] for each in site.generations()[:-1]} == {"rolled-back"}, 60, "the way back")
    wait_until(lambda: "AFTER" not in (site.state / "reconciler/run/gateway.env").read_text(), 20, "the good one")
    assert site.generations()[-1]["result"] == "confirmed"
    site.wait_healthy()


@pytest.mark.req("PLAN-1", "PLAN-5", "PLAN-7")
def test_a_way_back_that_is_not_finished_is_what_is_planned(site: Site) -> None:
    good = site.write(verify="2s")
    site.apply()
    site.write(with_an_end(site, good, 0.5))
    bad = site.start("apply", "--yes")
    wait_until(lambda: Result.ROLLING_BACK in [run.state for run in open_runs(site)], 30, "the way back")
    bad.kill()
    bad.wait()
    planned = site.run("plan", "--detailed-exitcode")
    assert planned.code == 2, planned
    assert "No changes: " not in planned.out
    assert "to generation 1 is not finished: it goes on first" in planned.err
    ended = site.run("apply", "--yes")
    assert (ended.code, "going on with the way back to generation 1" in ended.err) == (5, True)
    assert site.standing() == (2, "rolled-back")
    assert site.run("plan", "--detailed-exitcode").out.startswith("service/gateway")
    assert open_runs(site) == []
    site.wait_healthy()


def die_on_the_way_back(site: Site) -> None:
    """Applies the document by a process that is killed on its way back, and has nothing of the service left."""
    program = [sys.executable, "-c", DIES_ON_ITS_WAY_BACK, "apply", "--yes"]
    dead = site.spawned.start(program, cwd=site.home, env=site.environ)
    assert dead.wait(60) == -signal.SIGKILL
    # The keeper first: it would start its gateway again.
    kill(keeper_pid(site))
    for left in processes_of_state(site.state):
        kill(left.pid)
    assert [run.state for run in open_runs(site)] == [Result.ROLLING_BACK]


@pytest.mark.req("PLAN-5", "PLAN-8", "PLAN-18", "SVC-9")
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("verb", ["start", "restart"])
def test_by_hand_what_is_being_taken_back_is_not_started_again(site: Site, verb: str, held: bool) -> None:
    good = site.write(verify="1s")
    site.apply()
    site.write(with_an_end(site, good, 0.5))
    die_on_the_way_back(site)
    assert site.standing() == (2, "rolling-back")
    assert "it does not stay up" in site.generations()[0]["reason"]
    for told in (site.run("status"), site.run("why", "service/gateway")):
        assert "to generation 1 is not finished" in told.out
    if held:
        assert site.run("service", "stop").code == 0
    done = site.run("service", verb)
    assert (done.code, "going on with the way back to generation 1" in done.err) == (0, True), done
    site.wait_healthy()
    assert not any("AFTER" in environ_of(found.pid) for found in processes_of_state(site.state))
    assert (site.standing(), open_runs(site)) == ((2, "rolled-back"), [])
    site.write(good)
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-5", "PLAN-8", "SVC-9")
def test_by_hand_a_first_document_that_is_being_taken_back_is_not_started_again(site: Site) -> None:
    site.write(with_an_end(site, site.write(verify="1s"), 0.5))
    die_on_the_way_back(site)
    assert site.standing() == (1, "rolling-back")
    done = site.run("service", "start")
    assert (done.code, "going on with the way back to what was there before" in done.err) == (1, True), done
    assert "cannot start the service" in done.err
    assert (site.standing(), open_runs(site), site.health()[0]) == ((1, "rolled-back"), [], 0)


@pytest.mark.req("PLAN-5", "PLAN-8", "PLAN-15")
@pytest.mark.parametrize("then", ["run", "rollback", "apply"])
def test_a_rollback_whose_command_was_killed_is_finished_unless_somebody_applies(site: Site, then: str) -> None:
    good = site.write(verify="1s")
    site.apply()
    site.write(good.replace("service: {", "service: {environment: {AFTER: '900'}, "))
    site.apply()
    going = site.start("rollback", "--yes")
    wait_until(lambda: is_held_back(site), 30, "its hold")
    going.kill()
    going.wait()
    told = "generation 1 is not in force yet: a supervisor leads there, or `openclaw rollback 1`"
    assert told in site.run("plan").err
    assert told in site.run("status").out
    if then == "run":
        site.supervisor("--on-exit", "stop")
    else:
        assert site.run(then, "--yes").code == 0
    back = then != "apply"
    wait_until(lambda: site.standing() == ((3, "confirmed") if back else (2, "confirmed")), 40, "its end")
    assert site.generations()[0]["cause"] == ("rollback to 1" if back else "apply")
    site.wait_healthy()
    assert ("AFTER" in environ_of(site.gateway_pid() or 0)) != back
    assert open_runs(site) == []
    assert is_held_back(site) == ("held back" in site.run("status").out) == back
    assert told not in site.run("status").out


@pytest.mark.req("SVC-7", "PLAN-3")
@pytest.mark.parametrize("runs", [1, 2])
def test_in_a_window_that_another_process_left_a_supervisor_cures_and_applies(site: Site, runs: int) -> None:
    text = site.write(verify="25s")
    site.apply("--no-wait")
    if runs > 1:
        # What somebody else edits in it is led back by a run of its own, whose window is open beside the first one.
        first = site.supervisor()
        config = site.state / "openclaw.json"
        config.write_text(config.read_text().replace('"info"', '"trace"'))
        wait_until(lambda: site.level() == "info" and len(open_runs(site)) == 2, 10, "the cure")
        first.kill()
    supervisor = site.supervisor("--on-exit", "stop")
    assert site.standing() == (1, "verifying")
    for victim in (keeper_pid(site), site.gateway_pid()):
        assert victim is not None
        kill(victim)
    wait_until(lambda: site.health()[0] == 0, 10, "nobody serves")
    site.wait_healthy()
    site.write(text.replace("level: info", "level: debug"))
    wait_until(lambda: site.level() == "debug", 10, "what is saved in it is applied")
    assert site.generations()[1]["result"] == "superseded"
    supervisor.stop()


def is_held_back(site: Site) -> bool:
    journal = Journal.open_reader(site.state / "reconciler/journal.sqlite")
    assert journal is not None
    with journal:
        return bool(journal.quarantines())


def open_runs(site: Site) -> list[Run]:
    journal = Journal.open_reader(site.state / "reconciler" / "journal.sqlite")
    assert journal is not None
    with journal:
        return [found.run for found in journal.open_runs()]
