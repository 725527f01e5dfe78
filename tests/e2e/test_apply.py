"""Plan and apply on a real gateway: what is shown is what happens, once, and a second time nothing does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import OPENCLAW, TOKEN, Site
from tests.beds.strace import strace_writes

pytestmark = pytest.mark.real


def files_of(directory: Path) -> dict[str, tuple[int, int]]:
    """Every file below `directory` with inode and mtime, without SQLite's side files and what a running gateway writes."""
    skipped = ("-wal", "-shm", ".log")
    return {
        str(path.relative_to(directory)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.endswith(skipped) and "keeper" not in path.parts
    }


@pytest.mark.req("PLAN-1", "PLAN-2", "SVC-7")
def test_from_nothing_to_a_running_gateway_and_then_nothing_more(site: Site) -> None:
    site.write()
    planned = site.plan()
    assert [action["id"] for action in planned["actions"]] == ["gateway-config/gateway:write", "service/gateway:start"]
    assert not (site.state / "reconciler").exists()
    done = site.apply()
    assert done["result"] == "confirmed"
    assert [action["id"] for action in done["actions"]] == [action["id"] for action in planned["actions"]]
    assert site.health() == (200, {"status": "ok"})
    before = files_of(site.state)
    again = site.apply()
    assert again["actions"] == []
    assert again["run"] is None
    assert files_of(site.state) == before
    answer = site.run("plan")
    assert answer.out == "No changes: the host is as openclaw.yaml declares it (generation 1).\n"
    assert (answer.code, answer.err) == (0, "")
    assert site.run("plan", "--detailed-exitcode").code == 0


@pytest.mark.req("PLAN-1", "PLAN-12", "PLAN-18", "PLAN-8")
def test_commands_that_read_change_nothing(site: Site) -> None:
    site.write()
    site.apply()
    commands = (
        ["plan"],
        ["plan", "--json"],
        ["status"],
        ["drift"],
        ["validate"],
        ["why", "service/gateway"],
        ["history"],
        ["diff", "1"],
    )
    for command in commands:
        traced = strace_writes([OPENCLAW, *command], env=site.environ, cwd=site.home)
        assert traced.returncode == 0, (command, traced.stderr)
        assert traced.changes == (), command


@pytest.mark.req("PLAN-1")
def test_differences_are_exit_2_where_it_is_asked_for(site: Site) -> None:
    site.write()
    assert site.run("plan", "--detailed-exitcode").code == 2
    assert site.run("plan").code == 0


@pytest.mark.req("PLAN-10", "DOC-6")
def test_comments_order_and_spaces_plan_nothing(site: Site) -> None:
    text = site.write()
    site.apply()
    version, rest = text.split("\n", 1)
    site.write(f"# a comment\n\n{rest}\n{version}   # at the end now\n")
    assert site.plan()["actions"] == []
    assert site.apply()["actions"] == []
    assert len(site.generations()) == 1


@pytest.mark.req("PLAN-10")
def test_a_foreign_key_keeps_its_bytes_and_a_withdrawn_one_goes_back(site: Site) -> None:
    site.write()
    site.apply()
    config = site.state / "openclaw.json"
    text = config.read_text()
    foreign = text.replace('"gateway": {', '// mine\n  "agents": {\'defaults\': {"x":   1,},},\n  "gateway": {', 1)
    foreign = foreign.replace('"level": "info"', '"level": "info",\n    "consoleLevel": "error"', 1)
    config.write_text(foreign)
    site.edit("  level: info", "  level: info\n  console: {level: warn}")
    site.apply()
    assert config.read_text() == foreign.replace('"consoleLevel": "error"', '"consoleLevel": "warn"')
    site.edit("\n  console: {level: warn}", "")
    site.apply()
    assert config.read_text() == foreign


@pytest.mark.req("PLAN-2")
def test_a_kept_plan_is_applied_exactly_and_once(site: Site) -> None:
    site.write()
    assert site.run("plan", "--out", "p.json").code == 0
    assert (site.home / "p.json").stat().st_mode & 0o777 == 0o600
    site.edit("level: info", "level: debug")
    stale = site.run("apply", "p.json")
    assert stale.code == 4, stale.err
    assert "the document" in stale.err
    assert not (site.state / "reconciler").exists()
    site.edit("level: debug", "level: info")
    done = site.run("apply", "p.json", "--json")
    assert done.code == 0, done.err
    kept = json.loads((site.home / "p.json").read_text())
    assert [item["id"] for item in done.json["actions"]] == [item["id"] for item in kept["plan"]["actions"]]
    again = site.run("apply", "p.json")
    assert again.code == 4
    assert "used already" in again.err or "stale" in again.err


@pytest.mark.req("PLAN-2")
def test_a_kept_plan_names_what_moved_on_the_host(site: Site) -> None:
    site.write()
    site.apply()
    site.edit("level: info", "level: debug")
    assert site.run("plan", "--out", "p.json").code == 0
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "info"', '"level": "warn"'))
    stale = site.run("apply", "p.json")
    assert stale.code == 4
    assert "stale: gateway-config/gateway (logging.level)" in stale.err
    assert '"warn"' in config.read_text()


@pytest.mark.req("PLAN-2")
def test_a_kept_plan_names_the_actions_that_are_needed_no_longer_and_why(site: Site) -> None:
    site.write()
    site.apply()
    site.edit("level: info", "level: debug")
    assert site.run("plan", "--out", "p.json").code == 0
    assert site.run("service", "stop").code == 0
    held = site.run("apply", "p.json")
    assert held.code == 4
    assert (
        "needed now: no longer gateway-config/gateway reload; note: service/gateway is not running: stopped by"
        in held.err
    )
    assert site.run("service", "start").code == 0
    config = site.state / "openclaw.json"
    whole = config.read_text()
    for broken, why in (("{", "cannot read"), (whole.replace("{", '{"bogus": 1, ', 1), 'Unrecognized key: "bogus"')):
        config.write_text(broken)
        # What the running gateway refuses is known once it has read it.
        wait_until(lambda: site.run("plan").code == 3, 10, "the plan is blocked")
        stale = site.run("apply", "p.json")
        assert stale.code == 4
        assert "no longer gateway-config/gateway write (logging.level), " in stale.err
        assert why in stale.err.partition("; blocked: ")[2]
        assert config.read_text() == broken


@pytest.mark.req("PLAN-1", "PLAN-2")
def test_an_edited_plan_and_an_apply_without_a_terminal_are_refused(site: Site) -> None:
    site.write()
    assert site.run("plan", "--out", "p.json").code == 0
    path = site.home / "p.json"
    whole = path.read_text()
    for old, new in (("write", "wrote"), (str(site.port), "1"), ('"expires":"2', '"expires":"3')):
        assert old in whole
        path.write_text(whole.replace(old, new))
        refused = site.run("apply", "p.json")
        assert (refused.code, "edited" in refused.err) == (64, True), old
    refused = site.run("apply")
    assert refused.code == 3
    assert "--yes" in refused.err
    assert refused.out == ""


@pytest.mark.req("PLAN-1", "SVC-8", "GW-6")
def test_a_new_port_is_a_restart_with_its_downtime_and_the_old_one_is_closed(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write()
    site.apply()
    new = free_port()
    site.write(port=new)
    planned = site.plan()
    restart = next(action for action in planned["actions"] if action["verb"] == "restart")
    assert restart["impact"] == "restart"
    downtime = [item for item in restart["consequences"] if item["what"] == "downtime"]
    assert len(downtime) == 1
    assert 0 < downtime[0]["amount"] < 30
    assert restart["because"]["file"] == "openclaw.yaml"
    assert restart["because"]["line"] == 4
    site.apply()
    assert site.health(new)[0] == 200
    assert site.health(site.port)[0] == 0


@pytest.mark.req("GW-6", "PLAN-13")
def test_a_hot_change_keeps_the_process(site: Site) -> None:
    site.write()
    site.apply()
    pid = site.gateway_pid()
    site.edit("level: info", "level: debug")
    done = site.apply()
    assert [action["id"] for action in done["actions"]] == [
        "gateway-config/gateway:write",
        "gateway-config/gateway:reload",
    ]
    assert site.config()["logging"]["level"] == "debug"
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-17")
def test_a_held_port_is_found_in_planning_and_its_holder_named(site: Site) -> None:
    with socket.create_server(("127.0.0.1", site.port)):
        site.write()
        for command in (["plan"], ["apply", "--yes"]):
            answer = site.run(*command)
            assert answer.code == 3, (command, answer.out, answer.err)
            assert f"process {os.getpid()} (" in answer.err
        assert not (site.state / "reconciler").exists()
        assert not (site.state / "openclaw.json").exists()
    site.apply()


@pytest.mark.req("PLAN-1", "PLAN-17", "GW-6")
def test_a_port_that_is_given_back_is_named_and_looked_at_before_anything_is_done(
    site: Site, free_port: Callable[[], int]
) -> None:
    before = free_port()
    site.state.mkdir(mode=0o700, exist_ok=True)
    (site.state / "openclaw.json").write_text(f'{{"gateway": {{"port": {before}}}}}\n')
    text = site.write(verify="300ms")
    site.apply("--take-over")
    site.write(text.replace(f"  port: {site.port}\n", ""))
    with socket.create_server(("127.0.0.1", before)):
        blocked_everywhere(site, "port_held")
        assert f"cannot listen on port {before}" in site.run("plan").err
        assert site.health()[0] == 200
    assert f"port {site.port} is closed, clients must use port {before}" in site.run("plan").out
    site.apply()
    assert (site.health(before)[0], site.health(site.port)[0]) == (200, 0)
    # What was given back whole is somebody else's again, and the way back to managing it wants the same word.
    site.write(
        "\n".join(line for line in text.splitlines() if line.startswith(("version", "service", "policy"))) + "\n"
    )
    site.apply()
    refused = site.run("rollback", "1", "--yes")
    assert (refused.code, "--take-over" in refused.err) == (3, True), refused.err
    assert site.run("rollback", "1", "--yes", "--take-over").code == 0
    assert site.health()[0] == 200


def blocked_everywhere(site: Site, code: str) -> None:
    """`plan` and `apply` end with 3 whatever they are asked for, and nothing is written."""
    for flags in ((), ("--detailed-exitcode",), ("--json",)):
        answer = site.run("plan", *flags)
        assert answer.code == 3, (flags, answer.out, answer.err)
    assert answer.json["applyable"] is False
    assert [item["code"] for item in answer.json["blocked"]] == [code]
    assert site.run("apply", "--yes").code == 3


@pytest.mark.req("PLAN-3", "PLAN-17")
def test_a_plan_ends_with_3_where_an_apply_would(site: Site, free_port: Callable[[], int]) -> None:
    config = site.state / "openclaw.json"
    config.write_text('{"agents": {"defaults": {}}}')
    good = site.write(verify="0s").replace("{verify: 0s}", "{verify: 0s, restarts_per_hour: 1}")
    site.write(good)
    blocked_everywhere(site, "take_over_missing")
    assert config.read_text() == '{"agents": {"defaults": {}}}'
    site.apply("--take-over")
    site.write(good.replace(str(site.port), str(free_port())))
    assert site.plan("--detailed-exitcode", code=2)["applyable"] is True
    site.apply()
    site.write(good)
    blocked_everywhere(site, "budget")
    withdrawn = "\n".join(line for line in good.splitlines() if not line.startswith("service:")) + "\n"
    for watched in (False, True):
        if watched:
            site.write(good.replace("restarts_per_hour: 1", "restarts_per_hour: null"))
            supervisor = site.supervisor("--on-exit", "leave")
        site.write(withdrawn)
        blocked_everywhere(site, "approval_missing")
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-8")
def test_a_commit_applies_and_history_says_who_and_which(site: Site) -> None:
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-C", str(site.home)]
    site.write()
    subprocess.run([*git, "init", "-q"], check=True, env=site.environ)
    hook = site.home / ".git" / "hooks" / "post-commit"
    hook.write_text(
        f"#!/bin/sh\nexec {OPENCLAW} --file {site.document} apply --yes "
        '--author "$(git log -1 --format=%an)" --commit "$(git rev-parse HEAD)" >apply.log 2>&1\n'
    )
    hook.chmod(0o755)
    subprocess.run([*git, "add", "openclaw.yaml"], check=True, env=site.environ)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True, env=site.environ, timeout=60)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    first = site.generations()[0]
    assert (first["author"], first["commit"], first["cause"], first["result"]) == ("Ada", commit, "commit", "confirmed")
    assert TOKEN not in (site.home / "apply.log").read_text()


@pytest.mark.req("PLAN-17")
def test_a_state_directory_of_another_document_is_refused_by_every_command_that_compares(site: Site) -> None:
    site.write()
    site.apply()
    other = site.home / "other.yaml"
    other.write_text(site.document.read_text())
    for command in (["plan"], ["apply", "--yes"], ["status"], ["drift"], ["run"]):
        refused = site.run(*command, "--file", "other.yaml")
        assert refused.code == 3, (command, refused.out, refused.err)
        assert str(site.document) in refused.err
    assert site.run("history", "--file", "other.yaml").code == 0


@pytest.mark.req("SVC-13")
def test_a_limit_that_nobody_holds_is_said_in_the_plan_and_in_the_status(site: Site) -> None:
    text = site.write(verify="300ms")
    site.write(text.replace("manager: embedded,", "manager: embedded, limits: {memory: 1GiB, files: 512},"))
    notes = [note["message"] for note in site.plan()["notes"]]
    assert [note for note in notes if "memory" in note]
    assert not [note for note in notes if "files" in note]
    site.apply()
    pid = site.gateway_pid()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")] == ["512"]
    status = site.run("status", "--json").json
    service = next(item for item in status["resources"] if item["key"] == "service/gateway")
    held = {item["type"]: item for item in service["conditions"]}["LimitNotHeld"]
    assert (held["status"], "memory" in held["message"]) == ("True", True)
    assert site.plan()["actions"] == []


@pytest.mark.req("LOG-2", "GW-6")
def test_the_size_of_a_log_file_is_changed_hot(site: Site) -> None:
    text = site.write(verify="300ms")
    site.apply()
    pid = site.gateway_pid()
    site.write(text.replace("  level: info", "  level: info\n  max_file: 64KiB"))
    # A line that would make the day's file too large: what was there is turned aside first.
    log = next((site.state / "logs").glob("openclaw-*.log"))
    with log.open("ab") as file:
        file.write(b"x" * 70_000 + b"\n")
    done = site.apply()
    assert [action["verb"] for action in done["actions"]] == ["write", "reload"]
    assert site.config()["logging"]["maxFileBytes"] == 65536
    assert site.gateway_pid() == pid
    assert log.with_name(log.name + ".1").stat().st_size > 70_000
    assert log.stat().st_size < 65536
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-12")
def test_what_is_being_watched_is_progressing_until_it_is_confirmed(site: Site) -> None:
    site.write(verify="2s")
    site.apply("--no-wait")
    service = next(item for item in site.run("status", "--json").json["resources"] if item["key"] == "service/gateway")
    progressing = {item["type"]: item for item in service["conditions"]}["Progressing"]
    assert (progressing["status"], progressing["reason"]) == ("True", "Verifying")
    site.apply()
    for resource in site.run("status", "--json").json["resources"]:
        assert "Progressing" not in {item["type"] for item in resource["conditions"]}
