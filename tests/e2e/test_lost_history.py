"""A journal that is lost, damaged, of a newer version, or put back from yesterday: the gateway stays, and nothing is undone."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.e2e.test_kills import keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-5", "PLAN-13")]


@pytest.fixture
def settled(site: Site) -> Site:
    """Two generations, the second of which declares what the third will not."""
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info\n", "level: info\n  console: {level: debug}\n")
    site.apply()
    return site


def journal_files(site: Site) -> list[Path]:
    return sorted((site.state / "reconciler").glob("journal.sqlite*"))


def lose(site: Site) -> None:
    for path in journal_files(site):
        path.unlink()


def damage(site: Site) -> None:
    lose(site)
    (site.state / "reconciler/journal.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 40_000)


def put_yesterdays_back(site: Site) -> None:
    """What a backup of the first generation holds, while a third one is in force."""
    yesterday = site.home / "yesterday"
    for path in journal_files(site):
        path.unlink()
    for path in yesterday.iterdir():
        shutil.copy(path, site.state / "reconciler")


def keep_a_copy(site: Site) -> None:
    (site.home / "yesterday").mkdir()
    for path in journal_files(site):
        shutil.copy(path, site.home / "yesterday")


def lose_all(site: Site) -> None:
    lose(site)
    (site.state / "reconciler/last-run.json").unlink()


LOSSES: dict[Callable[[Site], None], str] = {
    lose: "the journal is gone: run ",
    damage: "the journal was damaged: ",
    put_yesterdays_back: "an older journal was put back: it does not know run ",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_planned_withdrawn_or_taken_over_and_the_loss_is_said(
    settled: Site, loss: Callable[[Site], None]
) -> None:
    site = settled
    keep_a_copy(site)
    site.edit("level: info\n", "level: warn\n")
    site.apply()
    pid, config = site.gateway_pid(), (site.state / "openclaw.json").read_text()
    before = site.generations()[0]["number"]
    loss(site)
    plan = site.plan()
    assert plan["actions"] == []
    assert plan["blocked"] == []
    (note,) = [item["message"] for item in plan["notes"] if item["code"] == "history_lost"]
    assert LOSSES[loss].replace("was", "is").split(":")[0] in note.replace("was", "is")
    conditions = {
        (item["type"], item["status"])
        for resource in site.run("status", "--json").json["resources"]
        for item in resource["conditions"]
    }
    assert ("HistoryLost", "True") in conditions
    assert "the earlier history is lost" in site.run("history").err
    done = site.apply()
    assert done["result"] == "confirmed"
    assert done["actions"] == []
    assert (site.gateway_pid(), (site.state / "openclaw.json").read_text()) == (pid, config)
    # From here on there is a history again, and no number of it was there before.
    assert [item for item in site.plan()["notes"] if item["code"] == "history_lost"] == []
    newest = site.generations()[0]
    assert (newest["result"], newest["number"] > before) == ("confirmed", True)
    assert newest["reason"].startswith(f"the history before it is lost: {LOSSES[loss]}")
    assert "history_lost: the history before it is lost: " in site.run("why", "service/gateway").out
    site.edit("level: warn\n", "level: error\n")
    assert site.apply()["result"] == "confirmed"
    assert site.generations()[0]["number"] == newest["number"] + 1


def test_damage_in_the_middle_of_the_journal_is_said_by_all_that_look_in_the_same_words(settled: Site) -> None:
    path = settled.state / "reconciler/journal.sqlite"
    whole = path.read_bytes()
    middle = len(whole) // 8192 * 4096
    path.write_bytes(whole[:middle] + b"\xa5" * 4096 + whole[middle + 4096 :])
    told = {command: settled.run(command) for command in ("history", "plan", "status")}
    note = next(line for line in (told["plan"].out + told["plan"].err).splitlines() if "history" in line).partition(
        ";"
    )[0]
    assert note.startswith("note: the earlier history is lost: the journal is damaged: ")
    assert note in told["status"].out + told["status"].err
    assert note in told["history"].err


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_withdrawn_meanwhile_is_left_as_it_is(settled: Site, loss: Callable[[Site], None]) -> None:
    site = settled
    keep_a_copy(site)
    site.edit("level: info\n", "level: warn\n")
    site.apply()
    pid = site.gateway_pid()
    loss(site)
    # A file past its age would be deleted, a key taken back: on whose word?
    old = site.state / "logs" / "openclaw-2020-01-01.log"
    old.write_text("old\n")
    os.utime(old, (1, 1))
    text = site.document.read_text().replace("  console: {level: debug}\n", "  retention: {age: 7d}\n")
    site.write(text.replace("level: warn\n", "level: error\n"))
    assert site.apply()["result"] == "confirmed"
    config = site.config()
    assert (config["logging"]["level"], config["logging"]["consoleLevel"]) == ("error", "debug")
    assert old.exists()
    assert site.gateway_pid() == pid
    # The run after that one has a history of its own to go by.
    site.apply()
    assert not old.exists()


def test_without_what_stands_beside_the_journal_nothing_is_restarted_and_taken_over_by_a_word_only(
    settled: Site,
) -> None:
    site = settled
    pid = site.gateway_pid()
    lose_all(site)
    plan = site.plan()
    assert plan["actions"] == []
    (note,) = [item["message"] for item in plan["notes"] if item["code"] == "history_lost"]
    assert "the journal is gone, and so is last-run.json beside it" in note
    done = site.apply()
    assert (done["result"], done["actions"], bool(done["run"])) == ("confirmed", [], True)
    site.edit("level: info\n", "level: warn\n")
    lose_all(site)
    # What is kept of a plan is of the same world, whatever salt the journal is made anew with.
    site.plan("--out", "kept.json", code=3)
    site.apply("kept.json", code=3)
    site.apply("kept.json", "--take-over")
    assert (site.level(), site.gateway_pid()) == ("warn", pid)
    assert site.generations()[0]["reason"].startswith("the history before it is lost: ")


def test_a_supervisor_goes_on_after_a_loss(settled: Site) -> None:
    site = settled
    pid = site.gateway_pid()
    lose(site)
    supervisor = site.supervisor("--on-exit", "leave")
    site.edit("level: info\n", "level: warn\n")
    wait_until(lambda: site.level() == "warn", 20, "the next document is applied")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "and confirmed")
    assert site.gateway_pid() == pid
    (told,) = [event for event in supervisor.events() if event["event"] == "history_lost"]
    assert (told["level"], told["journal"]) == ("warning", str(site.state / "reconciler/journal.sqlite"))
    assert "the journal is gone: run " in told["reason"]
    assert supervisor.stop() == 0


def test_a_journal_of_a_newer_version_is_read_and_never_written(settled: Site) -> None:
    site = settled
    pid = site.gateway_pid()
    path = site.state / "reconciler/journal.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9999")
    before = path.read_bytes()
    assert site.generations()[0]["result"] == "confirmed"
    assert site.run("status").code == 0
    site.edit("level: info\n", "level: warn\n")
    assert [item["verb"] for item in site.plan()["actions"]] == ["write", "reload"]
    refused = site.run("apply", "--yes")
    assert refused.code == 1
    assert "a newer version wrote it" in refused.err
    assert "Traceback" not in refused.err
    assert path.read_bytes() == before
    assert site.gateway_pid() == pid
    assert site.config()["logging"]["level"] == "info"


def test_what_stands_beside_the_journal_is_private_and_whole(settled: Site) -> None:
    path = settled.state / "reconciler/last-run.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"run": 1, "at"')
    # Unreadable it says nothing; the next run writes it anew.
    assert settled.plan()["actions"] == []
    settled.edit("level: info\n", "level: warn\n")
    settled.apply()
    assert '"salt"' in path.read_text()


@pytest.mark.req("PLAN-5", "PLAN-15")
@pytest.mark.parametrize("how", ["deleted", "exchanged"])
def test_a_log_of_the_journal_that_is_lost_under_a_supervisor_loses_nothing(site: Site, how: str) -> None:
    text = site.write(verify="200ms")
    supervisor = site.supervisor("--on-exit", "leave")
    for number, level in enumerate(("info", "debug"), start=1):
        site.write(text.replace("level: info", f"level: {level}"))
        wait_until(
            lambda number=number: [each["result"] for each in site.generations()] == ["confirmed"] * number,  # type: ignore[misc]
            20,
            "it is confirmed",
        )
    log = site.state / "reconciler/journal.sqlite-wal"
    content = log.read_bytes()
    log.unlink()
    if how == "exchanged":
        log.write_bytes(content)
    site.write(text.replace("level: info", "level: warn"))
    wait_until(lambda: site.run("status").code == 0 and site.level() == "warn", 20, "commands work again")
    wait_until(lambda: [each["result"] for each in site.generations()] == ["confirmed"] * 3, 20, "all is known")
    supervisor.process.kill()
    supervisor.process.wait()
    assert [each["result"] for each in site.generations()] == ["confirmed"] * 3
    assert site.plan()["notes"] == []


# Of the gateway alone: it ends soon, as long as something is there that keeps it from serving.
HINDERED = """\
import os, sys, threading
if "gateway" in sys.orig_argv and os.path.exists(os.environ.get("HINDRANCE", "")):
    threading.Timer(0.5, os._exit, (3,)).start()
"""


def test_after_a_boot_without_its_history_what_is_hindered_for_a_while_is_not_given_up(site: Site) -> None:
    hook, hindrance = site.home / "hook", site.home / "hindrance"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(HINDERED)
    text = site.write(verify="2s")
    site.write(text.replace("service: {", f"service: {{environment: {{PYTHONPATH: {hook}, HINDRANCE: {hindrance}}}, "))
    site.apply()
    pid = site.gateway_pid()
    kill(keeper_pid(site))
    assert pid is not None
    kill(pid)
    lose(site)
    hindrance.touch()
    supervisor = site.supervisor("--on-exit", "stop")
    # A start that is hindered before it is ready is a step that failed; the window comes after that.
    sick = supervisor.wait_event(
        lambda event: (event["event"], event.get("result")) == ("run", "failed"), "it is sick", 60
    )
    assert "nothing to go back to" in sick["reason"]
    hindrance.unlink()
    site.wait_healthy()
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 40, "a window that is well")


def power_off(site: Site) -> None:
    """As far as it is about processes."""
    pid = site.gateway_pid()
    assert pid is not None
    kill(keeper_pid(site))
    kill(pid)


# Of the gateway alone, and only as the second document has it: it serves for a moment, and ends.
SICK = """\
import os, sys, threading
if "gateway" in sys.orig_argv and os.environ.get("SICK"):
    threading.Timer(2.0, os._exit, (3,)).start()
"""


@pytest.mark.req("PLAN-15")
@pytest.mark.parametrize("also", ["", "level: warn\n"], ids=["service", "service and config"])
def test_after_a_boot_without_its_history_what_was_up_before_a_sick_document_is_up_again(site: Site, also: str) -> None:
    hook = site.home / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(SICK)
    text = site.write(verify="6s")
    good = text.replace("service: {", f"service: {{environment: {{PYTHONPATH: {hook}}}, ")
    site.write(good)
    site.apply()
    environment, config = site.state / "reconciler/run/gateway.env", site.state / "openclaw.json"
    before = config.read_text()
    site.write(good.replace("PYTHONPATH:", "SICK: '1', PYTHONPATH:").replace("level: info\n", also or "level: info\n"))
    site.apply(code=5)
    power_off(site)
    lose(site)
    supervisor = site.supervisor("--on-exit", "leave")
    wait_until(lambda: site.standing()[1] == "rolled-back", 60, "it is taken back")
    for _ in range(2):
        site.wait_healthy()
        assert "SICK" not in environment.read_text()
        assert config.read_text() == before
        held = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it is said")
        assert "the document is held back, and the history of what was before it is lost" in held["reason"]
        # It is no less so after the next boot, of which there is a history.
        supervisor.kill()
        power_off(site)
        supervisor.log.unlink()
        supervisor = site.supervisor("--on-exit", "leave")
