"""What ended by itself is told each time, and a storm of it is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from reconciler.engine.telling import APART_SECONDS, MOST_APART_SECONDS, Teller
from reconciler.kinds import End
from reconciler.model import Condition, Key, Status
from reconciler.values import rfc3339

KEY = Key("fake", "a")
# The keeper's wall clock, and the clock of whoever tells, have nothing in common.
WALL = 1_000_000.0
pytestmark = pytest.mark.req("SVC-7", "SVC-12", "PLAN-18")


class Told:
    """A teller, the record of ends that it is shown, and what it said."""

    def __init__(self) -> None:
        self.lines: list[Mapping[str, Any]] = []
        self.events: list[Mapping[str, Any]] = []
        self.ends: list[End] = []
        self.teller = Teller(self, self.events.append, since=WALL)

    def info(self, event: str, **values: Any) -> None:
        """Nothing to warn of."""

    def warning(self, event: str, **values: Any) -> None:
        self.lines.append({"event": event, **values})

    def end(self, at: float, text: str = "killed") -> None:
        # As a keeper, which remembers no more than these.
        self.ends = [*self.ends[-19:], End(at=WALL + at, text=text)]

    def look(self, now: float) -> float:
        """In how many seconds there is more to tell; 0 for nothing."""
        later: dict[Key, float] = {}
        self.teller.ended({KEY: self.ends}, now, later.__setitem__)
        return later.get(KEY, 0.0)


def test_each_death_is_told_once_however_often_it_is_looked_at() -> None:
    told = Told()
    told.end(-5.0, "before anybody watched")
    for number in range(3):
        at = number * (APART_SECONDS + 1.0)
        told.end(at + 1.0, f"death {number}")
        assert [told.look(at + more) for more in (1.0, 1.5, 9.0)] == [0.0, 0.0, 0.0]
    assert [line["reason"] for line in told.lines] == ["death 0", "death 1", "death 2"]
    assert told.lines == told.events
    assert told.lines[0] == {
        "event": "ended",
        "key": "fake/a",
        "at": rfc3339(WALL + 1.0),
        "reason": "death 0",
        "times": 1,
    }


def test_deaths_between_two_looks_are_told_with_their_number() -> None:
    told = Told()
    for at in (1.0, 2.0, 3.0):
        told.end(at, f"death at {at:g}")
    assert told.look(4.0) == 0.0
    assert [(line["times"], line["reason"]) for line in told.lines] == [
        (3, "it ended 3 times, the last time: death at 3")
    ]


def test_what_recurs_at_once_is_told_together_when_its_time_has_come() -> None:
    told = Told()
    told.end(1.0)
    assert told.look(1.0) == 0.0
    told.end(2.0)
    told.end(3.0)
    assert told.look(3.0) == APART_SECONDS - 2.0
    assert told.look(1.0 + APART_SECONDS) == 0.0
    assert [line["times"] for line in told.lines] == [1, 2]


def test_what_goes_on_ending_is_told_ever_more_seldom() -> None:
    told = Told()
    for second in range(1, 7200):
        told.end(second)
        told.look(float(second))
    gaps = [later["times"] for later in told.lines[1:]]
    assert gaps == sorted(gaps)
    assert gaps[-1] == MOST_APART_SECONDS
    assert len(told.lines) < 35
    assert sum(line["times"] for line in told.lines) > 7200 - MOST_APART_SECONDS
    # After a long peace the next one is told at once, and the one after that soon.
    for at in (20_000.0, 20_000.0 + APART_SECONDS):
        told.end(at)
        assert told.look(at) == 0.0
    assert [line["times"] for line in told.lines[-1:]] == [1]


def test_a_crash_loop_is_told_as_such_and_not_by_its_deaths() -> None:
    told = Told()
    told.end(1.0)
    told.look(1.0)
    loop = Condition(type="Degraded", status=Status.TRUE, reason="CrashLooping", message="exit code 3")
    told.end(2.0)
    assert told.look(2.0) > 0.0
    told.teller.degraded({KEY: loop}, None)
    for at in range(3, 60):
        told.end(at)
        assert told.look(float(at)) == 0.0
    told.teller.degraded({}, None)
    assert told.look(100.0) == 0.0
    assert [line["event"] for line in told.lines] == ["ended", "degraded"]
    told.end(200.0)
    told.look(200.0)
    assert [line["event"] for line in told.lines] == ["ended", "degraded", "ended"]


def test_a_clock_that_was_set_back_hides_no_death() -> None:
    told = Told()
    told.end(5000.0, "before")
    told.look(1.0)
    told.end(1400.0, "after")
    told.look(100.0)
    assert [line["reason"] for line in told.lines] == ["before", "after"]
