"""A gateway that does not live, under a supervisor: tried by the policy of its document, told once, well again by itself."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import TOKEN, Site, Supervisor

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "SVC-12")]

DOCUMENT = """\
version: 1
service:
  manager: embedded
  restart: {{delay: 200ms, max_delay: 2s, burst: 3, window: 60s}}
  stop: {{drain: 2s, grace: 2s}}
  environment: {{PYTHONPATH: "{tricks}"}}
gateway: {{port: {port}, auth: {{mode: token, token: {{env: E2E_TOKEN}}}}}}
policy: {{verify: 300ms}}
"""
MAX_DELAY = 2.0
# What the interpreter of the gateway runs before the gateway: it notes the start, then does what the test wants.
TRICK = """\
import os, threading, time
with open({starts!r}, "a") as file:
    file.write(f"{{time.monotonic()}}\\n")
{then}
"""


class Bad:
    """A host whose gateway can be made to fail, without any change of its document."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.tricks = site.home / "tricks"
        self.tricks.mkdir()
        self.starts = site.home / "starts"
        site.write(DOCUMENT.format(tricks=self.tricks, port=site.port))
        site.apply()

    def fail(self, then: str) -> None:
        """From the next start on."""
        trick = TRICK.format(starts=str(self.starts), then=then)
        (self.tricks / "sitecustomize.py").write_text(trick)

    def mend(self) -> None:
        (self.tricks / "sitecustomize.py").unlink()

    def kill(self) -> None:
        pid = self.site.gateway_pid()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def times(self) -> list[float]:
        return [float(line) for line in self.starts.read_text().split()] if self.starts.exists() else []

    def conditions(self) -> dict[str, str]:
        """Type and reason of what `openclaw status` shows of the service."""
        status = self.site.run("status", "--json").json
        (service,) = [item for item in status["resources"] if item["key"] == "service/gateway"]
        return {item["type"]: item["reason"] for item in service["conditions"] if item["status"] == "True"}


@pytest.fixture
def bad(site: Site) -> Bad:
    return Bad(site)


def told(supervisor: Supervisor) -> list[str]:
    """What the supervisor warned of, by the name of the event, in order."""
    return [event["event"] for event in supervisor.events() if event["level"] == "warning"]


@pytest.mark.parametrize(
    ("then", "lives"),
    [
        pytest.param("os._exit(3)", 0.0, id="at-once"),
        pytest.param(
            "threading.Timer(1.0, os._exit, (3,)).start()", 1.0, id="soon-after-ready", marks=pytest.mark.soak
        ),
    ],
)
def test_a_crash_loop_runs_at_the_pace_of_the_document_and_is_told_once(bad: Bad, then: str, lives: float) -> None:
    supervisor = bad.site.supervisor("--on-exit", "stop")
    bad.fail(then)
    bad.kill()
    wait_until(lambda: len(bad.times()) >= 3, 30, "it is broken")
    broken = len(bad.times())
    for number in range(broken + 1, broken + 3):
        wait_until(lambda number=number: len(bad.times()) >= number, 30, "another try")  # type: ignore[misc]
        # In the try as between two of them: it is one and the same crash loop.
        assert bad.conditions().get("Degraded") == "CrashLooping"
    # The supervisor sees every exit; whose restarts these are is the keeper's to say. Never early, so never at full speed.
    found = [later - sooner for sooner, later in itertools.pairwise(bad.times()[2:])]
    assert min(found) >= MAX_DELAY + lives
    # The death that began it may be told by itself, if it was seen before there was a loop.
    assert [event for event in told(supervisor) if event != "ended"] == ["degraded"]
    assert told(supervisor).count("ended") <= 1
    (event,) = [event for event in supervisor.events() if event["event"] == "degraded"]
    assert (event["key"], event["reason"]) == ("service/gateway", "CrashLooping")
    bad.mend()
    wait_until(lambda: bad.site.health(secret=TOKEN)[0] == 200, 20, "well again by itself")
    assert supervisor.stop() == 0


def test_the_crash_loop_of_a_change_is_taken_back_and_not_tried_again(bad: Bad) -> None:
    supervisor = bad.site.supervisor("--on-exit", "stop")
    pid = bad.site.gateway_pid()
    worse = bad.site.home / "worse"
    worse.mkdir()
    starts = bad.site.home / "worse-starts"
    (worse / "sitecustomize.py").write_text(TRICK.format(starts=str(starts), then="os._exit(3)"))
    bad.site.edit(str(bad.tricks), str(worse))
    supervisor.wait_event(lambda event: event.get("result") == "rolled-back", "the way back")
    bad.site.wait_healthy()
    tried = len(starts.read_text().split())
    assert bad.site.gateway_pid() not in (None, pid)
    time.sleep(MAX_DELAY + 1)
    assert len(starts.read_text().split()) == tried <= 3
    assert [event["result"] for event in supervisor.events() if event.get("result") == "rolled-back"] == ["rolled-back"]
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-4", "PLAN-7")
def test_a_change_whose_first_start_fails_and_whose_next_one_lasts_is_confirmed(bad: Bad) -> None:
    """The keeper tries it again by itself: nothing is left to do, and nothing is partly applied."""
    once = bad.site.home / "once"
    bad.fail(f"if not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'x')\n    os._exit(3)")
    changed = DOCUMENT.replace("verify: 300ms", "verify: 5s").replace("environment: {{", 'environment: {{OTHER: "1", ')
    bad.site.write(changed.format(tricks=bad.tricks, port=bad.site.port))
    done = bad.site.apply()
    assert len(bad.times()) == 2
    assert (done["result"], done["reason"]) == ("confirmed", "")
    (restart,) = done["actions"]
    assert restart["result"] == "failed"
    assert bad.site.generations()[0]["result"] == "confirmed"
    assert bad.site.plan()["actions"] == []


@pytest.mark.req("PLAN-1", "PLAN-9", "PLAN-12")
def test_between_two_starts_nothing_is_to_be_done_and_nobody_is_told_that_all_is_well(bad: Bad) -> None:
    site = bad.site
    site.edit("delay: 200ms, max_delay: 2s", "delay: 5m, max_delay: 5m")
    site.apply()
    bad.fail("os._exit(3)")
    bad.kill()
    wait_until(lambda: site.service()["state"] == "waiting", 20, "its keeper waits")
    text = (
        f"service/gateway is not running at this moment: {site.service()['last_exit']['reason']}; its keeper starts it"
    )
    plan, drift, apply = (site.run(*words) for words in (("plan",), ("drift",), ("apply", "--yes")))
    assert (plan.code, drift.code, apply.code) == (0, 0, 0)
    assert plan.out == "No changes, but nobody is served at this moment (generation 2).\n"
    assert drift.out == "No drift, but nobody is served at this moment.\n"
    for said in (plan.err, drift.err, apply.out):
        assert re.search(rf"{re.escape(text)} again in [1-9]\d* s\n", said), said
    for found in (site.plan(), site.run("drift", "--json").json, site.apply()):
        assert [note["code"] for note in found["notes"]] == ["waiting"]
        assert found["actions"] == []
    assert text in site.run("status").out
    # It is the keeper's to start, and nobody has.
    assert site.service()["state"] == "waiting"


@pytest.mark.soak
def test_a_gateway_that_hangs_before_it_is_ready_is_ended_and_comes_back_when_it_can(bad: Bad) -> None:
    supervisor = bad.site.supervisor("--on-exit", "stop")
    bad.fail("time.sleep(1000)")
    bad.kill()
    wait_until(lambda: len(bad.times()) >= 2, 90, "the second start")
    assert "not ready within 60 s" in str(bad.site.service()["last_exit"])
    bad.mend()
    wait_until(lambda: bad.site.health(secret=TOKEN)[0] == 200, 90, "well again by itself")
    assert supervisor.stop() == 0
