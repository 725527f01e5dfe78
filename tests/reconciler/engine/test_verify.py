"""What a window says of gates that are well, fall, and are well again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from reconciler.engine.verify import Verdict, verify
from reconciler.kinds import Health, Kind, Resource
from reconciler.model import Key
from resources.testing import make_world

pytestmark = pytest.mark.req("PLAN-7")

GATE = Key("gate", "a")
WELL = Health(ready=True, life="1")
DOWN = Health(ready=False, reason="Down", message="killed by SIGKILL", life="")


class Scripted:
    """A kind whose one gate is as the script says from a moment on (seconds since the first look)."""

    name = "gate"
    external = False

    def __init__(self, script: Sequence[tuple[float, Health]]) -> None:
        self.script = script
        self.began: float | None = None

    async def probe(self, _key: Key, _resource: Resource, _world: object) -> Health:
        await trio.lowlevel.checkpoint()
        now = trio.current_time()
        if self.began is None:
            self.began = now
        return [health for at, health in self.script if at <= now - self.began + 1e-6][-1]


async def watched(
    tmp_path: Path, seconds: float, *script: tuple[float, Health], whole: float = 0.0, since: float | None = None
) -> tuple[Verdict, float, list[float]]:
    """The verdict, when it came, and what the window was put off by."""
    told: list[float] = []

    async def prolong(more: float) -> None:
        await trio.lowlevel.checkpoint()
        told.append(more)

    kind = Scripted(script)
    began = trio.current_time()
    gates: Any = {GATE: None}
    kinds = (cast(Kind, kind),)
    world = make_world(tmp_path)
    verdict = await verify(gates, kinds, world, seconds, whole_seconds=whole, since=since, prolong=prolong)
    return verdict, trio.current_time() - began, told


async def test_what_is_well_to_the_end_is_healthy_then(tmp_path: Path, autojump_clock: MockClock) -> None:
    starting = Health(ready=False, reason="Starting", life="1")
    verdict, seconds, told = await watched(tmp_path, 10, (0, starting), (3, WELL))
    assert (verdict.healthy, told) == (True, [])
    assert seconds == pytest.approx(10, abs=0.3)


async def test_what_was_down_before_has_a_whole_window_from_when_it_is_well(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Well at the end of one it may be for a moment only: a crash loop serves in each of its lives."""
    verdict, seconds, told = await watched(tmp_path, 10, (0, DOWN), (9.9, WELL))
    assert (verdict.healthy, told) == (True, [10])
    assert seconds == pytest.approx(20, abs=0.3)
    looping = [(9.9, WELL), (11, DOWN), (13, replace(WELL, life="2")), (15, DOWN)]
    verdict, seconds, _told = await watched(tmp_path, 10, (0, DOWN), *looping)
    assert verdict.sick == (GATE,)
    assert "it fell 2 times" in verdict.reason


async def test_what_is_down_at_the_end_is_sick(tmp_path: Path, autojump_clock: MockClock) -> None:
    verdict, seconds, _told = await watched(tmp_path, 10, (0, DOWN))
    assert verdict.sick == (GATE,)
    assert seconds == pytest.approx(10, abs=0.3)
    assert "killed by SIGKILL" in verdict.reason


@pytest.mark.parametrize("life", ["1", "2"])
async def test_what_falls_once_has_a_whole_window_from_then_on(
    tmp_path: Path, autojump_clock: MockClock, life: str
) -> None:
    """Seen down, or only known by another life."""
    again = Health(ready=True, life=life)
    script = ((0, Health(ready=True, life="1")), (6, DOWN if life == "1" else again), (8, again))
    verdict, seconds, told = await watched(tmp_path, 10, *script)
    assert verdict.healthy
    assert seconds == pytest.approx(18 if life == "1" else 16, abs=1.1)
    assert told == ([10, 10] if life == "1" else [10])


async def test_what_is_started_again_later_than_the_window_is_long_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The keeper's delay; it is known a moment after the fall."""
    due = [(4.0 + number, replace(DOWN, due_seconds=19.0 - number)) for number in range(1, 20)]
    verdict, seconds, _told = await watched(tmp_path, 10, (0, WELL), (4, DOWN), *due, (24, replace(WELL, life="2")))
    assert verdict.healthy
    assert seconds == pytest.approx(34, abs=1.1)


@pytest.mark.parametrize("is_seen", [True, False])
async def test_of_what_was_down_before_only_the_next_start_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock, is_seen: bool
) -> None:
    """The one after it comes later still: what fails in that way was not well for a moment."""
    due = [(float(number), replace(DOWN, due_seconds=20.0 - number)) for number in range(20)]
    starting = Health(ready=False, reason="Starting", life="1")
    again = (20.5, replace(DOWN, due_seconds=40.0))
    script = (*due, (20, starting if is_seen else replace(DOWN, due_seconds=40.0)), again)
    verdict, seconds, told = await watched(tmp_path, 1, *script)
    assert (verdict.sick, told) == ((GATE,), [21.0])
    assert seconds == pytest.approx(21, abs=0.3)


@pytest.mark.parametrize(("due", "is_well"), [(4.0, True), (0.0, False)])
async def test_what_nobody_disturbed_is_not_judged_while_it_is_about_to_be_started_again(
    tmp_path: Path, autojump_clock: MockClock, due: float, is_well: bool
) -> None:
    kinds = (cast(Kind, Scripted([(0, replace(DOWN, due_seconds=due))])),)
    gates: Any = {GATE: None}
    for undisturbed in ((), (GATE,)):
        verdict = await verify(gates, kinds, make_world(tmp_path), 0.0, undisturbed=undisturbed)
        assert verdict.healthy is (is_well and undisturbed != ())


async def test_what_falls_and_stays_down_is_sick_a_window_later(tmp_path: Path, autojump_clock: MockClock) -> None:
    verdict, seconds, told = await watched(tmp_path, 10, (0, WELL), (6, DOWN))
    assert (verdict.sick, told) == ((GATE,), [10])
    assert seconds == pytest.approx(16, abs=1.1)


@pytest.mark.parametrize("back", [0.5, 5.0])
async def test_what_falls_twice_is_sick_whatever_it_is_then(
    tmp_path: Path, autojump_clock: MockClock, back: float
) -> None:
    """A crash loop with a pause between two lives; the pause may lie between two looks."""
    script: list[tuple[float, Health]] = []
    for number in range(4):
        at = number * (6 + back)
        script += [(at, Health(ready=True, life=str(number))), (at + 6, DOWN)]
    verdict, seconds, _told = await watched(tmp_path, 15, *script)
    assert verdict.sick == (GATE,)
    assert seconds == pytest.approx(12 + back, abs=1.5)
    assert "it does not stay up: it fell 2 times in its window" in verdict.reason


@pytest.mark.parametrize(
    "moment",
    [
        Health(ready=False, reason="NotLoaded", lagging=True),
        Health(ready=False, reason="NoAnswer", life="1"),
        Health(ready=False, reason="ProbeTimeout"),
    ],
)
async def test_what_only_lags_or_is_slow_now_and_then_has_not_fallen(
    tmp_path: Path, autojump_clock: MockClock, moment: Health
) -> None:
    """A file that others write to as well is taken over a moment later, and a machine may be slow: again and again."""
    script = [(2.0 * number, moment if number % 2 else WELL) for number in range(9)]
    verdict, seconds, told = await watched(tmp_path, 16, *script)
    assert (verdict.healthy, told) == (True, [])
    assert seconds == pytest.approx(16, abs=0.3)


@pytest.mark.req("PLAN-7", "SVC-9")
@pytest.mark.parametrize(
    ("found", "told"),
    [
        (replace(WELL, began=99.0), []),
        (replace(WELL, began=99.0, fell=98.0), []),
        (replace(WELL, began=101.0, fell=101.0), [10]),
        (replace(DOWN, fell=101.0), [10]),
        # A person had it started anew: that is no fall.
        (replace(WELL, began=101.0), []),
        (replace(WELL, began=101.0, fell=98.0), []),
    ],
)
async def test_what_fell_inside_of_a_window_that_nobody_watched_has_fallen_once(
    tmp_path: Path, autojump_clock: MockClock, found: Health, told: list[float]
) -> None:
    up = replace(found, ready=True, life="1")
    verdict, _seconds, prolonged = await watched(tmp_path, 3, (0, found), (0.5, up), whole=10, since=100.0)
    assert (verdict.healthy, prolonged[:1]) == (True, told)
    again = ((0, found), (0.5, up), (2, DOWN), (3, replace(up, life="2")))
    verdict, _seconds, _prolonged = await watched(tmp_path, 3, *again, whole=10, since=100.0)
    assert verdict.healthy != bool(told)
    if told:
        assert "it fell 2 times in its window" in verdict.reason


async def test_what_a_successor_watches_to_its_end_begins_anew_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    verdict, _seconds, told = await watched(tmp_path, 2, (0, WELL), (1, DOWN), (2, WELL), whole=10)
    assert (verdict.healthy, told) == (True, [10, 10])


@pytest.mark.parametrize("well_after", [3, 30])
async def test_what_is_found_after_its_window_is_not_judged_by_its_worst_moment(
    tmp_path: Path, autojump_clock: MockClock, well_after: float
) -> None:
    verdict, seconds, _told = await watched(tmp_path, 0, (0, DOWN), (well_after, WELL), whole=10)
    assert verdict.healthy == (well_after == 3)
    assert seconds == pytest.approx(3 + 10 if verdict.healthy else 5, abs=0.3)
    at_once, seconds, _told = await watched(tmp_path, 0, (0, WELL), whole=10)
    assert (at_once.healthy, seconds) == (True, 0)


async def test_a_person_who_stops_it_makes_it_fall_in_no_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    held = Health(ready=False, reason="Suspended", message="stopped by Ada", excused=True)
    script = ((0, Health(ready=True, life="1")), (3, held), (5, Health(ready=True, life="1")), (7, held))
    verdict, seconds, told = await watched(tmp_path, 10, *script)
    assert (verdict.healthy, told) == (True, [])
    assert seconds == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("stopped", [True, False])
async def test_what_a_person_restarts_over_the_end_is_waited_for(
    tmp_path: Path, autojump_clock: MockClock, stopped: bool
) -> None:
    """It was well, and that it is being started says nothing of what was applied."""
    starting = Health(ready=False, reason="Starting", life="1", due_seconds=3.0)
    held = [(8.0, Health(ready=False, reason="Suspended", life="1", excused=True))] if stopped else []
    before = (0.0, WELL) if not stopped else (0.0, replace(starting, life="1"))
    verdict, seconds, told = await watched(tmp_path, 10, before, *held, (9, starting), (15, WELL))
    assert (verdict.healthy, told) == (True, [10, 10])
    assert seconds == pytest.approx(16, abs=0.3)


@pytest.mark.parametrize("how", ["never well", "fell", "does not answer"])
async def test_what_nobody_restarts_is_not_waited_for(tmp_path: Path, autojump_clock: MockClock, how: str) -> None:
    starting = Health(ready=False, reason="Starting", life="1", due_seconds=3.0)
    script = {
        "never well": [(0.0, starting)],
        "fell": [(0.0, WELL), (9.0, starting), (12.0, DOWN)],
        "does not answer": [(0.0, WELL), (9.0, replace(starting, reason="NoAnswer", due_seconds=0.0))],
    }[how]
    verdict, seconds, _told = await watched(tmp_path, 10, *script)
    assert verdict.sick == (GATE,)
    assert seconds == pytest.approx(13 if how == "fell" else 10, abs=0.5)
