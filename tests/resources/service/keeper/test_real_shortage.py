"""A keeper without a descriptor to look with: what it cannot see it does not take for gone, and starts nothing beside it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.beds.processes import Spawned, argv_of, pid_alive, processes_of_state, wait_until
from tests.resources.service.beds import DEADLINE, KEEPER, Bed, environ, kill

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7", "PLAN-5")]

LEADER = ["sh", "-c", "sleep 1000 & exec sleep 2000"]


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


def running(bed: Bed, seconds: str) -> list[int]:
    return [found.pid for found in processes_of_state(bed.state) if argv_of(found.pid) == ["sleep", seconds]]


def orphan(bed: Bed) -> int:
    """A child, with a process that it started itself, whose keeper was killed."""
    keeper = bed.keeper()
    with bed.client() as client:
        pid: int = bed.up(client, bed.spec(LEADER))["pid"]
    wait_until(lambda: (running(bed, "1000"), running(bed, "2000")) != ([], []), DEADLINE, "both")
    wait_until(lambda: running(bed, "1000"), DEADLINE, "what it starts")
    wait_until(lambda: running(bed, "2000") == [pid], DEADLINE, "itself")
    keeper.kill()
    keeper.wait()
    return pid


@contextmanager
def no_descriptor_left(pid: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_what_an_adopted_child_leaves_is_swept_before_the_next_one_starts_however_long_nobody_can_look(
    bed: Bed,
) -> None:
    child = orphan(bed)
    (left,) = running(bed, "1000")
    keeper = bed.keeper()
    with no_descriptor_left(keeper.pid):
        kill(child)
        wait_until(lambda: "cannot look for what it left: Too many open files" in bed.log(), DEADLINE, "the word")
        assert (running(bed, "1000"), running(bed, "2000")) == ([left], [])
        assert keeper.poll() is None
    bed.wait_child("ready", restarts=1)
    assert not pid_alive(left)
    wait_until(lambda: len(running(bed, "1000")) == 1, DEADLINE, "what the next one starts")
    wait_until(lambda: len(running(bed, "2000")) == 1, DEADLINE, "the next one")


def test_a_child_that_cannot_be_watched_is_not_left_to_itself(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(LEADER))
        with no_descriptor_left(keeper.pid):
            os.kill(child["pid"], signal.SIGKILL)
            wait_until(lambda: "Too many open files" in bed.log(), DEADLINE, "the word")
            assert running(bed, "2000") == []
    bed.wait_child("ready")
    # The shell that is to become it may still be on its way.
    wait_until(lambda: len(running(bed, "2000")) == 1, DEADLINE, "the next one")
    assert len(running(bed, "1000")) == 1


def test_a_keeper_with_any_number_of_descriptors_holds_what_runs_or_ends_and_never_starts_a_second_copy(
    bed: Bed,
) -> None:
    child = orphan(bed)
    limits, took_over = range(5, 24), f"took over process {child}"
    served = []
    for limit in limits:
        before = bed.log().count(took_over)
        keeper = bed.spawned.start(
            ["sh", "-c", f'ulimit -S -n {limit} && exec "$@"', "sh", *KEEPER, "--state", bed.state],
            stderr=(log := bed.log_file()),
            env=environ(),
        )
        os.close(log)
        wait_until(
            lambda keeper=keeper, before=before: keeper.poll() is not None or bed.log().count(took_over) > before,  # type: ignore[misc]
            DEADLINE,
            "it holds or ends",
        )
        if keeper.poll() is None:
            served.append(limit)
            hard = resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (hard, hard))
            wait_until(lambda keeper=keeper: bed.serves(keeper.pid), DEADLINE, "it answers")  # type: ignore[misc]
            assert (bed.child()["pid"], bed.child()["restarts"]) == (child, 0)
            keeper.kill()
            keeper.wait()
        assert running(bed, "2000") == [child], limit
    assert "Traceback" not in bed.log()
    # Both were met.
    assert 0 < len(served) < len(limits)
