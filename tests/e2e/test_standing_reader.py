"""Whoever reads the supervisor's log stands still (Ctrl-S, a hung session): the watch goes on, and ends when it is told to."""

from __future__ import annotations

import fcntl
import os
import signal
from functools import partial

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import OPENCLAW, Site
from tests.e2e.test_kills import keeper_pid, kill

pytestmark = [pytest.mark.real, pytest.mark.req("OPS-1", "PLAN-3", "SVC-7")]

F_SETPIPE_SZ = 1031


def runs_at(site: Site, level: str) -> bool:
    return site.level() == level


def is_confirmed(site: Site, level: str) -> bool:
    return runs_at(site, level) and site.generations()[0]["result"] == "confirmed"


def test_a_reader_that_stands_still_stops_no_watch(site: Site) -> None:
    text = site.write(verify="200ms")
    reading, writing = os.pipe()
    fcntl.fcntl(writing, F_SETPIPE_SZ, 4096)
    # Full from the beginning: not one line of it goes through.
    os.set_blocking(writing, False)
    for size in (4096, 1):
        try:
            while True:
                os.write(writing, b"\n" * size)
        except BlockingIOError:
            pass
    os.set_blocking(writing, True)
    supervisor = site.spawned.start([OPENCLAW, "run"], cwd=site.home, env=site.environ, stdout=writing, stderr=writing)
    os.close(writing)
    site.wait_healthy()
    for level in ("debug", "warn", "error", "debug"):
        site.write(text.replace("level: info", f"level: {level}"))
        wait_until(partial(runs_at, site, level), 20, level)
    # A gateway that dies inside the window of a change condemns it, and rightly.
    wait_until(partial(is_confirmed, site, "debug"), 20, "confirmed")
    for victim in (keeper_pid(site), site.gateway_pid()):
        assert victim is not None
        kill(victim)
    wait_until(lambda: site.health()[0] == 0, 10, "nobody serves")
    site.wait_healthy()
    assert is_confirmed(site, "debug")
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(30) == 0
    assert site.health()[0] == 0
    os.close(reading)
