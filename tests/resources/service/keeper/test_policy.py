"""The restart policy: what follows an exit, as a table and as promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.service.keeper.policy import (
    SHORTEST_DELAY_SECONDS,
    STABLE_SECONDS,
    History,
    HoldDown,
    Policy,
    Restart,
    after_exit,
    wait_after,
)

pytestmark = pytest.mark.req("SVC-7")

POLICY = Policy(delay=5.0, max_delay=300.0, burst=5, window=300.0, never_on_exit=frozenset({78}))


def run(policy: Policy, exits: list[tuple[float, int | None, float | None]]) -> list[Restart | HoldDown]:
    """The decisions for exits given as moment, code and seconds of Ready."""
    history, decisions = History(), []
    for now, code, ready in exits:
        decision, history = after_exit(policy, history, code=code, ready_seconds=ready, now=now)
        decisions.append(decision)
    return decisions


def early(*moments: float) -> list[tuple[float, int | None, float | None]]:
    return [(now, 1, None) for now in moments]


@pytest.mark.parametrize(
    ("exits", "expected"),
    [
        pytest.param([(0, 1, 10.0)], [Restart(after=0.0)], id="ready long enough: at once"),
        pytest.param([(0, 0, 3600.0)], [Restart(after=0.0)], id="exit code 0 is an exit like others"),
        pytest.param([(0, 1, 9.9)], [Restart(after=5.0)], id="ready too short: after the delay"),
        pytest.param([(0, None, None)], [Restart(after=5.0)], id="never ready, killed or unknown: after the delay"),
        pytest.param([(0, 78, 3600.0)], [HoldDown(why="exit code 78 is one of never_on_exit")], id="never_on_exit"),
        pytest.param(
            early(0, 5, 15, 35), [Restart(after=wait) for wait in (5.0, 10.0, 20.0, 40.0)], id="the delay doubles"
        ),
        pytest.param(
            early(0, 5, 15, 35, 75)[3:] + early(80, 90, 100),
            [Restart(after=wait) for wait in (5.0, 10.0, 20.0, 40.0)] + [Restart(after=300.0, broken=True)],
            id="burst exits inside the window: broken",
        ),
        pytest.param(
            early(0, 400, 800, 1200, 1600, 2000, 2400, 2800),
            [Restart(after=wait) for wait in (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0)],
            id="slow failures grow to max_delay and are not broken",
        ),
        pytest.param(
            [*early(0, 1, 2, 3, 4), (400, 1, None), (701, 1, 10.0), (1100, 1, 301.0), (1101, 1, None)],
            [
                *[Restart(after=wait) for wait in (5.0, 10.0, 20.0, 40.0)],
                Restart(after=300.0, broken=True),
                Restart(after=300.0, broken=True),
                Restart(after=0.0),
                Restart(after=0.0),
                Restart(after=5.0),
            ],
            id="broken stays so between far probes, and is forgotten once it held as long as it waited",
        ),
    ],
)
def test_what_follows_an_exit(
    exits: list[tuple[float, int | None, float | None]], expected: list[Restart | HoldDown]
) -> None:
    assert run(POLICY, exits) == expected


policies = st.builds(
    Policy,
    delay=st.floats(0, 600),
    max_delay=st.floats(0, 3600),
    burst=st.integers(1, 20),
    window=st.floats(0, 3600),
    never_on_exit=st.frozensets(st.integers(0, 255), max_size=3),
)
steps = st.lists(
    st.tuples(st.floats(0, 5000), st.none() | st.integers(0, 255), st.none() | st.floats(0, 2 * STABLE_SECONDS)),
    max_size=40,
)


@given(policies, steps)
def test_a_failing_child_is_never_given_up_and_never_restarted_at_full_speed(
    policy: Policy, gaps: list[tuple[float, int | None, float | None]]
) -> None:
    history, now = History(), 0.0
    for gap, code, ready in gaps:
        now += gap
        decision, history = after_exit(policy, history, code=code, ready_seconds=ready, now=now)
        if code in policy.never_on_exit:
            assert isinstance(decision, HoldDown)
            continue
        assert isinstance(decision, Restart)
        if ready is None or ready < STABLE_SECONDS:
            ceiling = max(policy.delay, policy.max_delay, 1.0)
            assert SHORTEST_DELAY_SECONDS <= decision.after <= ceiling
        assert len(history.early) <= policy.burst


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param({"delay": 1.0}, 4.0, id="the delay of as many exits"),
        pytest.param({"max_delay": 7.0}, 7.0, id="no more than max_delay"),
        pytest.param({"delay": 0.0}, 4 * SHORTEST_DELAY_SECONDS, id="no less than the floor"),
        pytest.param({"burst": 1}, 20.0, id="broken is what was found so at an exit"),
    ],
)
def test_another_policy_has_a_wait_of_its_own_for_the_same_exits(other: dict[str, Any], expected: float) -> None:
    history = History()
    for now in (0.0, 5.0, 15.0):
        _, history = after_exit(POLICY, history, code=1, ready_seconds=None, now=now)
    assert wait_after(replace(POLICY, **other), history) == expected
    assert wait_after(replace(POLICY, max_delay=30.0), replace(history, broken=True)) == 30.0


@given(policies, st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_same_policy_has_the_same_wait_for_what_it_remembers(policy: Policy, gaps: list[float]) -> None:
    history, now = History(), 0.0
    for gap in gaps:
        now += gap
        decision, history = after_exit(policy, history, code=None, ready_seconds=None, now=now)
        assert decision == Restart(after=wait_after(policy, history), broken=history.broken)
        assert history.waited == wait_after(policy, history)


@given(policies, st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_while_it_fails_the_wait_never_shrinks(policy: Policy, gaps: list[float]) -> None:
    history, now, last = History(), 0.0, 0.0
    for gap in gaps:
        now += gap
        decision, history = after_exit(policy, history, code=None, ready_seconds=None, now=now)
        assert isinstance(decision, Restart)
        assert decision.after >= last
        last = decision.after


@given(policies, steps)
def test_holding_as_long_as_it_last_waited_makes_it_a_new_child(
    policy: Policy, gaps: list[tuple[float, int | None, float | None]]
) -> None:
    history, now = History(), 0.0
    for gap, _, ready in gaps:
        now += gap
        _, history = after_exit(policy, history, code=None, ready_seconds=ready, now=now)
    long = max(history.waited, STABLE_SECONDS)
    _, history = after_exit(policy, history, code=None, ready_seconds=long, now=now + long)
    assert history == History()
