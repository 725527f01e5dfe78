"""Commands that are called from another directory than the document's, for another document, or when it is gone."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.site import OPENCLAW, Site

pytestmark = pytest.mark.real

APPLIED = (
    ["status"],
    ["drift"],
    ["why", "service/gateway"],
    ["service", "status"],
    ["service", "restart"],
    ["logs"],
    ["gateway", "health"],
    ["history"],
    ["diff", "1", "2"],
)


def two_generations(site: Site) -> None:
    """Applied with a secret whose file lies beside the document."""
    text = site.write(verify="0s").replace("{env: E2E_TOKEN}", "{file: token}")
    (site.home / "token").write_text("e2e-token-0123456789abcdef0123456789abcdef\n")
    site.write(text)
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()


@pytest.mark.req("PLAN-12", "PLAN-17")
@pytest.mark.parametrize("gone", [False, True], ids=["elsewhere", "gone"])
def test_what_was_applied_can_be_asked_for_and_served_from_anywhere(site: Site, tmp_path: Path, gone: bool) -> None:
    two_generations(site)
    if gone:
        site.document.unlink()
    for argv in APPLIED:
        answer = site.run(*argv, cwd=tmp_path)
        assert answer.code == 0, (argv, answer)
        assert ".config" not in answer.out + answer.err
    assert ("generation 2 stays in force" in site.run("status", cwd=tmp_path).out) == gone
    back = site.run("rollback", "1", "--yes", cwd=tmp_path)
    assert back.code == 0, back
    assert site.level() == "info"


@pytest.mark.req("DOC-9", "PLAN-17")
@pytest.mark.parametrize("argv", [["plan"], ["apply", "--yes"], ["run"], ["validate"], ["config", "get", "version"]])
def test_what_needs_the_document_names_the_one_of_the_state_directory(
    site: Site, tmp_path: Path, argv: list[str]
) -> None:
    two_generations(site)
    answer = site.run(*argv, cwd=tmp_path)
    assert (answer.code, answer.out) == (78, "")
    assert f'hint: the state directory "{site.state}" belongs to {site.document}: name it by --file' in answer.err


@pytest.mark.req("DOC-9", "PLAN-17")
@pytest.mark.parametrize("argv", [["plan"], ["apply", "--yes"]])
def test_a_document_that_is_gone_from_its_usual_place_is_missed_there(site: Site, argv: list[str]) -> None:
    two_generations(site)
    site.document.unlink()
    answer = site.run(*argv)
    assert (answer.code, answer.out) == (78, "")
    assert "openclaw.yaml: cannot read it: there is no such file" in answer.err
    assert ".config" not in answer.err
    assert f'the state directory "{site.state}" belongs to it' in answer.err


@pytest.mark.req("PLAN-17")
def test_another_document_is_refused_before_anything_is_done_or_read(site: Site, tmp_path: Path) -> None:
    two_generations(site)
    pid = site.gateway_pid()
    other = tmp_path / "other.yaml"
    # Its token lies nowhere: that nobody looks for it is seen by the exit code.
    other.write_text(site.document.read_text())
    commands = (["service", "stop"], ["service", "restart"], ["rollback", "1", "--yes"], ["gateway", "health"])
    for argv in (*commands, ["plan"], ["apply", "--yes"], ["status"]):
        refused = site.run(*argv, "--file", str(other))
        assert refused.code == 3, (argv, refused)
        assert f"belongs to the document {site.document}" in refused.err
    assert site.gateway_pid() == pid


def test_a_secret_of_a_generation_that_cannot_be_had_is_named_with_it(site: Site) -> None:
    two_generations(site)
    (site.home / "token").unlink()
    answer = site.run("rollback", "1", "--yes")
    assert answer.code == 78
    assert answer.err.startswith("generation 1: cannot read the secret file 'token'")


@pytest.mark.req("PLAN-8", "PLAN-17")
def test_a_person_in_another_environment_than_the_supervisor_changes_nothing(site: Site) -> None:
    text = site.write(verify="0s")
    site.extra["OPENCLAW_LOG_LEVEL"] = "debug"
    site.apply()
    site.write(text.replace("drain: 2s", "drain: 3s"))
    site.apply()
    site.supervisor("--on-exit", "stop")
    site.extra["OPENCLAW_LOG_LEVEL"] = "warn"
    for argv in (["rollback", "1", "--yes"], ["apply", "--yes"]):
        refused = site.run(*argv)
        assert refused.code == 3, refused
        assert "the supervisor that watches this document runs in another environment" in refused.err
    # What is not valid in any environment is said first, as `plan` says it.
    valid = site.document.read_text()
    site.write("version: 1\ngateway: {port: many}\n")
    wrong = site.run("apply", "--yes")
    assert (wrong.code, wrong.out) == (78, "")
    assert wrong.err == site.run("plan").err.partition("going on without it\n")[2]
    assert "openclaw.yaml:2:17" in wrong.err
    site.write(valid)
    assert len(site.generations()) == 2
    assert site.level() == "debug"
    # In the same one the supervisor carries it out, as it does an apply.
    site.extra["OPENCLAW_LOG_LEVEL"] = "debug"
    back = site.run("rollback", "1", "--yes")
    assert back.code == 0, back
    assert "Generation 3: confirmed" in back.out
    assert "held back" in site.run("status").out


@pytest.mark.req("PLAN-17", "OPS-1")
def test_the_control_api_tells_why_an_apply_was_refused(site: Site, free_port: Callable[[], int]) -> None:
    site.write(verify="0s")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    taken = free_port()
    with socket.create_server(("127.0.0.1", taken)):
        site.edit(f"port: {site.port}", f"port: {taken}")
        supervisor.wait_event(lambda event: event["event"] == "not_applied", "it is refused")
        asked = [
            "curl",
            "-s",
            "-w",
            "\n%{http_code}",
            "--json",
            "{}",
            "--unix-socket",
            str(site.state / "reconciler/control.sock"),
        ]
        answer = subprocess.run(
            [*asked, "http://openclaw/v1/apply"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    body, _, status = answer.rpartition("\n")
    assert status == "409", answer
    error = json.loads(body)["error"]
    assert error["exit"] == 3
    assert str(taken) in error["message"]


@pytest.mark.parametrize("command", [("status",), ("plan",), ("history",), ("apply", "--yes")])
def test_a_working_directory_that_was_deleted_is_in_nobodys_way(site: Site, command: tuple[str, ...]) -> None:
    site.write(verify="300ms")
    site.apply()
    gone = site.home / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", OPENCLAW, *command],
        cwd=gone,
        env={**site.environ, "OPENCLAW_FILE": str(site.document)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
