"""Children that do not live: each start is one of the policy's, whatever the child dies of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources.service.keeper.policy import STABLE_SECONDS
from tests.beds.processes import Spawned, wait_until
from tests.resources.service.beds import DEADLINE, Bed, python

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "SVC-12")]

# burst above what a test sees: the growth alone.
GROWING = {"delay": 0.2, "max_delay": 1.0, "burst": 100, "window": 600.0, "never_on_exit": [78]}
BREAKING = {**GROWING, "burst": 3}
NOTIFY = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
"""


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


def counted(bed: Bed, code: str, *, ready: str = "notify", **more: Any) -> tuple[dict[str, Any], Path]:
    """The spec of a child that first writes down when it was started, and where it does."""
    starts = bed.state / "starts"
    note = f"import os, time\nwith open({str(starts)!r}, 'a') as f: f.write(f'{{time.monotonic()}}\\n')\n"
    return bed.spec(python(note + code), ready=ready, **more), starts


def times(starts: Path) -> list[float]:
    return [float(line) for line in starts.read_text().split()] if starts.exists() else []


def begin(bed: Bed, spec: dict[str, Any]) -> None:
    with bed.client() as client:
        client.ok("ensure", name="gateway", spec=spec)
        client.ok("start", name="gateway")


def waits(bed: Bed) -> list[float]:
    """What the keeper's log says of each exit: seconds until the next start."""
    return [
        float(line.rpartition(" in ")[2].removesuffix(" s")) for line in bed.log().split("\n") if "next start" in line
    ]


def gaps(found: list[float]) -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(found)]


def test_one_that_dies_at_once_is_tried_ever_more_seldom_and_never_given_up(bed: Bed) -> None:
    spec, starts = counted(bed, "os._exit(3)", restart=GROWING)
    bed.keeper()
    begin(bed, spec)
    wait_until(lambda: len(times(starts)) >= 7, DEADLINE, "seven starts")
    assert waits(bed)[:6] == [0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    # A start is late on a busy machine, and never early.
    assert all(gap >= wait for gap, wait in zip(gaps(times(starts)), waits(bed), strict=False))
    assert bed.child()["restarts"] >= 6
    assert bed.child()["hold"] is None


def test_one_that_hangs_before_it_is_ready_is_ended_and_tried_again_by_the_same_policy(bed: Bed) -> None:
    spec, starts = counted(bed, "time.sleep(1000)", restart=BREAKING, start_seconds=0.4)
    bed.keeper()
    begin(bed, spec)
    wait_until(lambda: len(times(starts)) >= 5, DEADLINE, "five starts")
    child = bed.child()
    assert child["exits"][-1]["reason"] == "killed by SIGKILL: it was not ready within 0.4 s"
    assert waits(bed)[:4] == [0.2, 0.4, 1.0, 1.0]
    assert child["history"]["broken"]


def test_a_start_limit_counts_from_the_start_and_goes_on_under_the_next_keeper(
    bed: Bed, free_port: Callable[[], int]
) -> None:
    spec, starts = counted(bed, "time.sleep(1000)", port=free_port(), restart=GROWING, start_seconds=1.0)
    first = bed.keeper()
    begin(bed, spec)
    wait_until(lambda: times(starts), DEADLINE, "the start")
    first.kill()
    first.wait()
    bed.keeper()
    wait_until(lambda: len(times(starts)) >= 2, DEADLINE, "the second start")
    # Nobody sees how an adopted process ended; why it was killed is known all the same.
    assert bed.child()["exits"][0]["reason"].endswith("it was not ready within 1 s")


def test_one_that_is_ready_in_time_is_left_alone_afterwards(bed: Bed) -> None:
    spec, starts = counted(bed, NOTIFY + "time.sleep(1000)", start_seconds=0.5)
    bed.keeper()
    with bed.client() as client:
        pid = bed.up(client, spec)["pid"]
    bed.spawned.start(["sleep", "1"]).wait()
    assert bed.child()["pid"] == pid
    assert len(times(starts)) == 1


def test_one_that_dies_soon_after_ready_counts_as_early(bed: Bed) -> None:
    spec, starts = counted(bed, NOTIFY + "time.sleep(0.3); os._exit(3)", restart=BREAKING)
    bed.keeper()
    begin(bed, spec)
    wait_until(lambda: len(times(starts)) >= 5, DEADLINE, "five starts")
    assert waits(bed)[:4] == [0.2, 0.4, 1.0, 1.0]
    assert all(gap >= wait + 0.3 for gap, wait in zip(gaps(times(starts)), waits(bed), strict=False))


@pytest.mark.soak
def test_it_is_forgotten_once_it_held_and_the_next_death_is_followed_by_a_start_at_once(bed: Bed) -> None:
    mended = bed.state / "mended"
    code = f"if not os.path.exists({str(mended)!r}): os._exit(3)\n{NOTIFY}time.sleep(1000)"
    spec, starts = counted(bed, code, restart=BREAKING)
    bed.keeper()
    begin(bed, spec)
    wait_until(lambda: bed.child()["history"]["broken"], DEADLINE, "the crash loop")
    mended.touch()
    bed.wait_child("ready")
    # The one test that waits out the policy's own idea of stable.
    bed.spawned.start(["sleep", str(STABLE_SECONDS + 0.3)]).wait()
    before = bed.child()
    with bed.client() as client:
        client.ok("signal", name="gateway", signal=9)
    wait_until(lambda: bed.child()["restarts"] == before["restarts"] + 1, DEADLINE, "the restart")
    after = bed.wait_child("ready")
    assert after["spawned_boot"] - before["spawned_boot"] < STABLE_SECONDS + DEADLINE
    assert after["history"] == {"early": [], "doublings": 0, "waited": 0.0, "broken": False}
    assert [ended["restart_after"] for ended in after["exits"][-2:]] == [before["exits"][-1]["restart_after"], 0.0]
    assert f"gateway: killed by SIGKILL (pid {before['pid']}); started again at once" in bed.log()
    assert len(times(starts)) == after["restarts"] + 1


@pytest.mark.soak
def test_one_that_dies_every_eleven_seconds_is_started_at_once_each_time_and_not_more_often(bed: Bed) -> None:
    spec, starts = counted(bed, NOTIFY + "time.sleep(11); os._exit(3)", restart=BREAKING)
    bed.keeper()
    began = time.monotonic()
    begin(bed, spec)
    wait_until(lambda: len(times(starts)) >= 6, 120, "six starts")
    assert time.monotonic() - began >= 55
    # Longer than what counts as stable: no delay, no crash loop, each one counted.
    assert waits(bed) == []
    assert all(11 <= gap < 14 for gap in gaps(times(starts)))
    child = bed.child()
    assert (child["restarts"], child["history"]["broken"]) == (5, False)


@pytest.mark.soak
def test_one_that_dies_every_nine_seconds_is_a_crash_loop_and_goes_on_being_tried(bed: Bed) -> None:
    spec, starts = counted(bed, NOTIFY + "time.sleep(9); os._exit(3)", restart={**BREAKING, "max_delay": 5.0})
    bed.keeper()
    begin(bed, spec)
    wait_until(lambda: len(times(starts)) >= 6, 180, "six starts")
    assert waits(bed)[:5] == [0.2, 0.4, 5.0, 5.0, 5.0]
    assert bed.child()["history"]["broken"]
