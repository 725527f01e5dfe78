"""A supervisor whose files are deleted while it runs: it is found again, and of two only one stays."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site, Supervisor

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-6")]

# As it is, but for the half minute after which it looks around.
SOON = """
import sys

from reconciler.cli import entry
from reconciler.engine import loop

loop.ASTRAY_SECONDS = 1.0
sys.exit(entry.main())
"""


@pytest.fixture
def watched(site: Site) -> Supervisor:
    """A supervisor that looks around every second."""
    site.inside = lambda argv, _cwd: [sys.executable, "-c", SOON, *argv[1:]] if argv[1] == "run" else argv
    site.write(verify="300ms")
    site.apply()
    return site.supervisor("--on-exit", "stop")


def lock_only(site: Site) -> None:
    (site.state / "reconciler/supervisor.lock").unlink()


def socket_only(site: Site) -> None:
    (site.state / "reconciler/control.sock").unlink()


def lock_and_sockets(site: Site) -> None:
    lock_only(site)
    for path in (site.state / "reconciler").glob("control.sock*"):
        path.unlink()


def everything(site: Site) -> None:
    # Moved first: who lives writes to it while it is deleted.
    site.state.rename(site.home / "deleted")
    shutil.rmtree(site.home / "deleted")


@pytest.mark.parametrize("lose", [lock_only, socket_only, lock_and_sockets, everything])
def test_a_supervisor_takes_its_place_again_where_its_files_were_deleted(
    watched: Supervisor, lose: Callable[[Site], None]
) -> None:
    site = watched.site
    mine = f"supervisor pid {watched.process.pid}"
    lose(site)
    wait_until(lambda: (site.state / "reconciler/control.sock").exists(), 20, "the socket at its place")
    # In an environment of its own a command does its work itself, and goes by the lock alone.
    site.extra["OPENCLAW_LOG_LEVEL"] = "info"
    wait_until(lambda: site.run("status", "--json").json["supervisor"] == mine, 20, "the lock at its place")
    del site.extra["OPENCLAW_LOG_LEVEL"]
    assert site.run("status", "--json").json["supervisor"] == mine
    refused = site.run("run")
    assert (refused.code, str(watched.process.pid) in refused.err) == (75, True), refused.err
    site.edit("level: info\n", "level: debug\n")
    wait_until(lambda: site.level() == "debug", 20, "the next save applied")
    assert watched.process.poll() is None


def test_a_supervisor_whose_place_another_one_took_ends_and_leaves_the_gateway(watched: Supervisor) -> None:
    site = watched.site
    pid = site.gateway_pid()
    # Held while the other one starts: it may not be the first to see that its lock is gone.
    watched.process.send_signal(signal.SIGSTOP)
    lock_and_sockets(site)
    first = watched.log.rename(site.home / "first.log")
    second = site.supervisor("--on-exit", "stop")
    watched.process.send_signal(signal.SIGCONT)
    assert watched.process.wait(30) == 75, first.read_text()
    assert '"ousted"' in first.read_text()
    assert f"pid {second.process.pid}" in first.read_text()
    assert site.gateway_pid() == pid
    said = site.run("status", "--json").json
    pid = second.process.pid
    assert (said["supervisor"], said["supervisor_pid"]) == (f"supervisor pid {pid}", pid)
    site.edit("level: info\n", "level: debug\n")
    wait_until(lambda: site.level() == "debug", 20, "the next save applied")


def test_a_second_supervisor_that_finds_the_socket_alone_ends_and_the_first_one_stays(watched: Supervisor) -> None:
    site = watched.site
    lock_only(site)
    refused = site.run("run")
    assert refused.code == 75
    # Whichever of the two came first to the lock.
    watched.wait_event(lambda event: event["event"] == "lock_taken_anew", "the lock taken anew")
    assert watched.process.poll() is None
    assert site.run("status", "--json").json["supervisor"] == f"supervisor pid {watched.process.pid}"
