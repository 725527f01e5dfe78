"""The supervisor follows the document however it is saved, and takes everything with it when it is told to."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site, Supervisor

pytestmark = pytest.mark.real


@pytest.fixture
def watched(site: Site) -> Supervisor:
    """A supervisor with a confirmed generation and a healthy gateway."""
    site.write(verify="300ms")
    site.apply()
    return site.supervisor("--on-exit", "stop")


def wait_level(site: Site, level: str) -> None:
    """Waits until the gateway runs at this level."""
    wait_until(lambda: site.level() == level, 10, f"level {level}")


def save_like_vim(document: Path, text: str) -> None:
    """Backup by rename, new file, backup removed (backupcopy=no)."""
    backup = document.with_name("openclaw.yaml~")
    document.rename(backup)
    document.write_text(text)
    backup.unlink()


def save_by_replace(document: Path, text: str) -> None:
    temporary = document.with_name(".openclaw.yaml.swp")
    temporary.write_text(text)
    os.replace(temporary, document)


def save_in_two_halves(document: Path, text: str) -> None:
    half = text.index("logging:")
    with document.open("w") as file:
        file.write(text[:half])
        file.flush()
        os.fsync(file.fileno())
        # The other half comes when the watcher has long seen the first one, as an editor on a slow disk would have it.
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 0.3, 1, "a pause between the halves")
        file.write(text[half:])


def save_by_symlink_swap(document: Path, text: str) -> None:
    """As a mounted config map does: a link to a directory is swapped, the document itself is a link through it."""
    version = document.with_name(f"v-{len(list(document.parent.glob('v-*')))}")
    version.mkdir()
    (version / "openclaw.yaml").write_text(text)
    link = document.with_name("..data.tmp")
    link.symlink_to(version.name)
    os.replace(link, document.with_name("..data"))
    if not document.is_symlink():
        document.unlink()
        document.symlink_to("..data/openclaw.yaml")


def save_anew(document: Path, text: str) -> None:
    document.unlink()
    document.write_text(text)


def save_a_hundred_times(document: Path, text: str) -> None:
    for number in range(99):
        document.write_text(text.replace("level: debug", f"level: {('info', 'warn', 'error')[number % 3]}"))
    document.write_text(text)


@pytest.mark.req("PLAN-3", "GW-6", "DOC-9")
@pytest.mark.parametrize(
    "save",
    [save_like_vim, save_by_replace, save_in_two_halves, save_by_symlink_swap, save_anew, save_a_hundred_times],
)
def test_a_save_is_applied_and_the_process_stays(watched: Supervisor, save: Callable[[Path, str], None]) -> None:
    site = watched.site
    pid = site.gateway_pid()
    text = site.document.read_text().replace("level: info", "level: debug")
    save(site.document, text)
    wait_level(site, "debug")
    assert site.gateway_pid() == pid
    newest = site.generations()[0]
    assert newest["cause"] == "save"
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 10, "the generation is confirmed")
    assert site.plan()["actions"] == []
    # The final content is applied once: what was saved before it may have been applied as well, but nothing after it.
    assert [item["digest"] for item in site.generations()].count(newest["digest"]) == 1


@pytest.mark.req("PLAN-3", "DOC-9")
def test_a_symlink_swapped_again_is_followed(watched: Supervisor) -> None:
    site = watched.site
    text = site.document.read_text()
    for new in ("debug", "warn", "error"):
        save_by_symlink_swap(site.document, text.replace("level: info", f"level: {new}"))
        wait_level(site, new)


@pytest.mark.req("PLAN-3", "DOC-9")
def test_where_a_swapped_link_leads_is_watched_from_then_on(watched: Supervisor) -> None:
    site = watched.site
    text = site.document.read_text()
    for place, new in (("one", "debug"), ("two", "warn")):
        target = site.home / place / "real.yaml"
        target.parent.mkdir()
        target.write_text(text.replace("level: info", f"level: {new}"))
        link = site.home / "link"
        link.symlink_to(target)
        os.replace(link, site.document)
        wait_level(site, new)
        target.write_text(text.replace("level: info", "level: error"))
        wait_level(site, "error")


@pytest.mark.req("PLAN-3", "DOC-9")
def test_a_directory_that_goes_and_comes_back_is_watched_again(watched: Supervisor) -> None:
    """As git does it where another branch has no such directory."""
    site = watched.site
    text = site.document.read_text()
    real = site.home / "branch" / "real.yaml"
    real.parent.mkdir()
    real.write_text(text)
    site.document.unlink()
    site.document.symlink_to(real)
    for new in ("debug", "warn"):
        real.unlink()
        real.parent.rmdir()
        watched.wait_event(lambda event: event["event"] == "document_invalid", "it says that the document is not there")
        real.parent.mkdir()
        real.write_text(text.replace("level: info", f"level: {new}"))
        wait_level(site, new)
    real.write_text(text.replace("level: info", "level: error"))
    wait_level(site, "error")


@pytest.mark.req("PLAN-3", "DOC-9")
def test_an_include_elsewhere_is_watched_also_before_it_is_there(watched: Supervisor) -> None:
    site = watched.site
    include = site.home / "parts" / "more" / "logging.yaml"
    site.edit("logging:\n  level: info\n", "include: parts/more/logging.yaml\n")
    watched.wait_event(lambda event: event["event"] == "document_invalid", "it says that the include is missing")
    include.parent.mkdir(parents=True)
    for new in ("debug", "warn"):
        include.write_text(f"logging: {{level: {new}}}\n")
        wait_level(site, new)


@pytest.mark.req("PLAN-3", "DOC-4")
def test_a_secret_in_a_file_elsewhere_is_rotated_by_replacing_it(site: Site) -> None:
    secret = site.home / "secrets" / "token"
    secret.parent.mkdir()
    secret.write_text("first-token-0123456789abcdef0123456789\n")
    text = site.write(verify="300ms")
    site.write(text.replace("{env: E2E_TOKEN}", "{file: secrets/token}"))
    site.apply()
    site.supervisor("--on-exit", "stop")
    new = "second-token-0123456789abcdef0123456789"
    secret.with_name("new").write_text(f"{new}\n")
    os.replace(secret.with_name("new"), secret)
    wait_until(lambda: "parts" in (site.health(secret=new)[1] or {}), 20, "the new token opens the gateway")


@pytest.mark.req("PLAN-3", "DOC-2", "DOC-9")
def test_an_invalid_save_changes_nothing_and_the_next_valid_one_is_applied(watched: Supervisor) -> None:
    site = watched.site
    pid, text = site.gateway_pid(), site.document.read_text()
    config = (site.state / "openclaw.json").read_text()
    for broken in ("", "version: 1\nservice: {oops: 1}\n", "version: 1\nlogging:\n\tlevel: info\n", "\0"):
        site.document.write_text(broken)
        watched.wait_event(lambda event: event["event"] == "document_invalid", "it says that the document is not valid")
        assert (site.state / "openclaw.json").read_text() == config
        assert site.gateway_pid() == pid
    assert site.run("status").code == 0
    assert site.run("plan").code == 78
    site.document.write_text(text.replace("level: info", "level: debug"))
    wait_until(lambda: site.level() == "debug", 10, "the next valid document in force")
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-3", "PLAN-9")
def test_drift_is_cured_by_itself_and_told_apart_from_change(watched: Supervisor) -> None:
    site = watched.site
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"level": "info"', '"level": "error"'))
    wait_until(lambda: '"level": "info"' in config.read_text(), 10, "the declared level is back")
    text = wait_until(
        lambda: (out := site.run("why", "gateway-config/gateway").out) and "drift" in out and out, 10, "the reason"
    )
    assert 'logging.level: "error" -> "info"' in text


@pytest.mark.req("PLAN-3")
def test_the_supervisor_answers_with_the_same_bytes_as_a_process_of_its_own(watched: Supervisor) -> None:
    site = watched.site
    site.edit("level: info", "level: debug")
    wait_until(lambda: (new := site.generations()[0])["number"] == 2 and new["result"] == "confirmed", 10, "confirmed")
    for command in (["plan"], ["plan", "--json"]):
        through = site.run(*command)
        assert through.err == ""
        site.extra["OPENCLAW_LOG_LEVEL"] = "debug"
        alone = site.run(*command)
        del site.extra["OPENCLAW_LOG_LEVEL"]
        assert "another environment" in alone.err
        assert through.out == alone.out


@pytest.mark.req("SVC-9")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_well_and_stop_takes_the_gateway_along(watched: Supervisor, number: signal.Signals) -> None:
    site = watched.site
    assert watched.stop(number) == 0
    wait_until(lambda: site.health()[0] == 0, 10, "the gateway is gone")


# Sends a signal while the program is loaded, from inside a callback of the interpreter, out of which no exception gets.
EARLY = """
import os, sys, weakref

class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "reconciler.cli.supervisor":
            held = Early()
            told = weakref.ref(held, lambda _: os.kill(os.getpid(), number))
            del held

number = int(sys.argv.pop(1))
from reconciler.cli import entry
sys.meta_path.insert(0, Early())
sys.exit(entry.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_it_listens_ends_it_before_anything_begins(site: Site, number: signal.Signals) -> None:
    site.write()
    early = site.spawned.start(
        [sys.executable, "-c", EARLY, str(int(number)), "run"], cwd=site.home, env=site.environ, stdout=-1, stderr=-1
    )
    said = b"".join(early.communicate(timeout=20))
    assert (early.returncode, said) == (128 + number, b"")
    assert not (site.state / "openclaw.json").exists()


def test_a_hangup_before_it_listens_does_not_end_it(site: Site) -> None:
    site.write()
    early = site.spawned.start(
        [sys.executable, "-c", EARLY, str(int(signal.SIGHUP)), "run"], cwd=site.home, env=site.environ
    )
    site.wait_healthy()
    early.send_signal(signal.SIGINT)
    assert early.wait(20) == 0


@pytest.mark.req("SVC-7", "SVC-9")
def test_left_alone_the_gateway_goes_on(site: Site) -> None:
    site.write(verify="300ms")
    supervisor = site.supervisor("--on-exit", "leave")
    site.wait_healthy()
    pid = site.gateway_pid()
    assert supervisor.stop(signal.SIGTERM) == 0
    assert site.gateway_pid() == pid
    assert any(event["event"] == "left_running" for event in supervisor.events())


@pytest.mark.req("SVC-9")
def test_sighup_reads_the_document_anew(watched: Supervisor) -> None:
    watched.process.send_signal(signal.SIGHUP)
    watched.wait_event(lambda event: event["event"] == "reload", "the reload in the log")
    assert watched.process.poll() is None


@pytest.mark.req("PLAN-6")
def test_a_second_supervisor_is_refused_with_the_first_one_named(watched: Supervisor) -> None:
    refused = watched.site.run("run")
    assert refused.code == 75
    assert f"pid {watched.process.pid}" in refused.err


@pytest.mark.req("PLAN-3", "PLAN-6")
def test_an_apply_goes_through_the_supervisor(watched: Supervisor) -> None:
    site = watched.site
    site.edit("level: info", "level: debug")
    done = site.run("apply", "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json["result"] == "confirmed"
    assert site.config()["logging"]["level"] == "debug"
