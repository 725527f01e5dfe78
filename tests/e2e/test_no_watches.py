"""Where the system can watch no more files (all inotify instances are taken) everything works by looking."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.beds.needs import needs_programs, needs_root
from tests.beds.processes import Spawned, wait_until
from tests.beds.site import OPENCLAW, Site

pytestmark = pytest.mark.real


def without_watches(argv: Sequence[str | Path], _cwd: Path) -> list[str | Path]:
    """The command line that runs `argv` where no inotify instance can be had (user_namespaces(7))."""
    none = 'echo 0 >/proc/sys/user/max_inotify_instances && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", none, "sh", *argv]


@pytest.fixture
def blind(site: Site) -> Site:
    needs_root("a user namespace")
    needs_programs("unshare")
    site.inside = without_watches
    return site


@pytest.mark.req("PLAN-3", "SVC-7")
def test_a_supervisor_says_that_it_cannot_watch_and_follows_by_looking(blind: Site) -> None:
    blind.write(verify="300ms")
    supervisor = blind.supervisor("--on-exit", "stop")
    blind.wait_healthy()
    said = supervisor.wait_event(lambda event: event["event"] == "watch_failed", "it says that it cannot watch")
    assert "open files" in said["reason"]
    # From a namespace of its own nobody sees whose gateway it is, and so nobody would ask it.
    blind.inside = lambda argv, _cwd: list(argv)
    blind.edit("level: info", "level: debug")
    supervisor.process.send_signal(signal.SIGHUP)
    wait_until(lambda: blind.level() == "debug", 20, "the new level")
    assert supervisor.stop() == 0
    assert "bug" not in supervisor.text()


@pytest.mark.req("LOG-10")
def test_logs_are_followed_by_looking(blind: Site, spawned: Spawned) -> None:
    blind.write("version: 1\nlogging:\n  level: info\n")
    path = blind.state / "logs" / "openclaw-2026-01-01.log"
    path.parent.mkdir(mode=0o700)
    path.write_text("first\n")
    out = blind.home / "reader.out"
    with out.open("wb") as file:
        reader = spawned.start(
            blind.inside([OPENCLAW, "logs", "-f"], blind.home),
            cwd=blind.home,
            env=blind.environ,
            stdout=file,
            stderr=file,
        )
    wait_until(lambda: out.read_text() == "first\n", 10, "the first line")
    with path.open("a") as file_:
        file_.write("second\n")
    wait_until(lambda: out.read_text() == "first\nsecond\n", 10, "the second line")
    reader.send_signal(signal.SIGINT)
    assert reader.wait(10) == 130
    assert out.read_text() == "first\nsecond\n"
