"""What falls in the window of a way back is kept up in it: it is spent under the lock, where no look can come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from reconciler.engine.requests import Outcome
from reconciler.errors import TemporaryError
from reconciler.host import StatePaths
from reconciler.journal import Journal
from reconciler.kinds import Health, Resource, World
from reconciler.model import Action, Key, Result
from resources.testing import FakeKind
from tests.reconciler.engine.harness import Harness, fake

pytestmark = pytest.mark.req("PLAN-7", "SVC-7")

GOOD, BAD = {"a": fake("good", impact="restart")}, {"a": fake("bad", impact="restart")}
SECONDS = 0.5


@dataclass(slots=True)
class Processes(FakeKind):
    """Each resource that is there is a process, which serves unless it is bad. `starts` counts what was set anew."""

    starts: int = 0

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        await trio.lowlevel.checkpoint()
        fields = self.state.get(key.name)
        if fields is None:
            return Health(ready=False, reason="Down", message="killed by SIGKILL", life="")
        bad = fields["v"] == "bad"
        return Health(
            ready=not bad, reason="Sick" if bad else "", message="no answer" if bad else "", final=bad, life="1"
        )

    def fall(self) -> None:
        """It ends, and nobody but us would start it."""
        self.state.pop("a", None)


@pytest.fixture
def kind() -> Processes:
    return Processes()


@pytest.fixture
def host(tmp_path: Path, kind: Processes) -> Harness:
    return Harness(tmp_path, kind=kind, verify_seconds=SECONDS)


def states(paths: StatePaths) -> list[Result]:
    journal = Journal.open_reader(paths.journal)
    assert journal is not None
    with journal:
        assert journal.open_runs() == ()
        return [run.state for run in journal.runs()]


async def back_while_it_falls(host: Harness, kind: Processes, after: float, times: int = 1) -> Outcome:
    """How an apply of the bad document ends, where what is put back falls so many times, `after` seconds each."""
    back = trio.Event()

    async def put_back(_action: Action) -> None:
        kind.starts += 1
        if kind.state["a"]["v"] == "good":
            back.set()

    async def kill() -> None:
        await back.wait()
        for _ in range(times):
            await trio.sleep(after)
            kind.fall()

    kind.after_apply = put_back
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        ended = await host.apply(BAD)
        nursery.cancel_scope.cancel()
    return ended


async def test_what_falls_once_on_the_way_back_is_started_again_in_its_window(host: Harness, kind: Processes) -> None:
    await host.apply(GOOD)
    ended = await back_while_it_falls(host, kind, SECONDS / 2)
    assert (ended.result, ended.exit_code, ended.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert kind.state == {"a": {"v": "good"}}
    # Put in force, put back, and started again by the same run.
    assert kind.starts == 3
    assert states(host.world.host.state) == [Result.CONFIRMED, Result.ROLLED_BACK, Result.CONFIRMED]


async def test_what_goes_on_falling_on_the_way_back_is_not_back(host: Harness, kind: Processes) -> None:
    await host.apply(GOOD)
    with trio.fail_after(20 * SECONDS):
        ended = await back_while_it_falls(host, kind, 0.8 * SECONDS, times=1000)
    assert (ended.result, ended.exit_code) == (Result.ROLLBACK_FAILED, 6)
    assert "going back failed too: fake/a is not ready: it does not stay up: it fell 2 times" in ended.reason
    assert states(host.world.host.state) == [Result.FAILED, Result.ROLLBACK_FAILED, Result.CONFIRMED]


async def test_what_falls_as_soon_as_it_is_started_is_not_back_and_not_started_at_full_speed(
    host: Harness, kind: Processes
) -> None:
    """No look sees it alive: only the end of the window ends it."""
    host.verify_seconds = 1.5
    await host.apply(GOOD)

    async def fall(_action: Action) -> None:
        kind.starts += 1
        if kind.state["a"]["v"] == "good":
            kind.fall()

    kind.after_apply = fall
    with trio.fail_after(10):
        ended = await host.apply(BAD)
    assert (ended.result, ended.exit_code) == (Result.ROLLBACK_FAILED, 6)
    assert "fake/a is not ready: killed by SIGKILL" in ended.reason
    assert 3 <= kind.starts <= 5


async def test_what_could_not_be_started_on_the_way_back_is_tried_again_in_its_window(
    host: Harness, kind: Processes
) -> None:
    host.verify_seconds = 2.0
    await host.apply(GOOD)

    async def refuse_once(action: Action) -> None:
        if kind.state.get("a") == {"v": "bad"}:
            kind.fall()
            raise TemporaryError("it was killed while it started")

    kind.before_apply = refuse_once
    ended = await host.apply(BAD)
    assert (ended.result, ended.rolled_back_to) == (Result.ROLLED_BACK, 1)
    assert kind.state == {"a": {"v": "good"}}
    conditions = host.engine.journal().conditions()[Key("fake", "a")]
    assert {item.type: item.reason for item in conditions}["Synced"] == "Applied"


async def test_what_somebody_changes_beside_it_is_left_to_the_next_look(host: Harness, kind: Processes) -> None:
    more = {"b": fake(1)}
    await host.apply({**GOOD, **more})
    back = trio.Event()

    async def put_back(_action: Action) -> None:
        if kind.state["a"]["v"] == "good":
            back.set()

    async def meddle() -> None:
        await back.wait()
        kind.state["b"]["v"] = 2
        kind.fall()

    kind.after_apply = put_back
    async with trio.open_nursery() as nursery:
        nursery.start_soon(meddle)
        ended = await host.apply({**BAD, **more})
    assert ended.result is Result.ROLLED_BACK
    assert kind.state == {"a": {"v": "good"}, "b": {"v": 2}}


@pytest.mark.req("PLAN-5", "PLAN-15")
@pytest.mark.parametrize("down", [False, True])
async def test_what_falls_while_another_process_finishes_the_way_back_is_started_again(
    host: Harness, kind: Processes, down: bool
) -> None:
    """In the rest of its window, or between the two processes."""
    await host.apply(GOOD)

    async def die(_action: Action) -> None:
        if kind.state["a"]["v"] == "good":
            raise KeyboardInterrupt

    kind.after_apply = die
    with pytest.raises(BaseException) as died:
        await host.apply(BAD)
    assert died.group_contains(KeyboardInterrupt) or died.type is KeyboardInterrupt
    host.engine.close()
    kind.after_apply = None
    host.fresh()

    async def kill() -> None:
        await trio.sleep(SECONDS / 2)
        kind.fall()

    if down:
        kind.fall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        ended = await host.apply(BAD)
    assert (ended.result, ended.rolled_back_to) == (Result.ROLLED_BACK, 1)
    assert kind.state == {"a": {"v": "good"}}
    assert Result.FAILED not in states(host.world.host.state)
