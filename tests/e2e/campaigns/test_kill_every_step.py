"""An apply of real files and processes, killed (SIGKILL) at each of its steps: the next process brings it to its end, once.

What a kill shows is that another process can go on from what is on the disk. It says nothing about a loss of power.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from tests.beds.processes import Spawned
from tests.e2e.campaigns.lives import CHANGED, Ground, Reached, Server, campaign, ground, spread

pytestmark = pytest.mark.real

# As long as the looks at its beginning and its end need, with a rest between them in which nothing happens.
WINDOW_SECONDS = 0.1
# Long enough for a kill in its middle to leave a part of it.
LONG_WINDOW_SECONDS = 1.0
# What `make test` takes of the pairs: thirty of some thousands.
SAMPLE = 30


def steps_of(server: Server, document: str) -> list[str]:
    """The steps of an apply that nobody kills."""
    with ground(server, document) as made:
        answer = made.live(document, window=WINDOW_SECONDS)
        assert answer is not None
        assert answer["result"] == "confirmed", answer
        assert len(answer["actions"]) == CHANGED[document], answer["actions"]
        made.check(document, {})
        steps: list[str] = answer["steps"]
    assert len(set(steps)) == len(steps)
    return sorted(steps)


def killed_at(document: str, server: Server, step: str) -> None:
    """An apply that dies at `step`, and the next one."""
    with ground(server, document) as made:
        assert made.live(document, end=step, window=WINDOW_SECONDS) is None, "it was not killed"
        recovered(made, document, made.reached(document))


def recovered(made: Ground, document: str, reached: Reached) -> list[str]:
    """The next process, which nobody kills, and one more, which has nothing to do; the steps of the first."""
    answer = made.live(document, window=WINDOW_SECONDS)
    assert answer is not None
    assert (answer["result"], answer["errors"]) == ("confirmed", []), answer
    made.check(document, reached)
    again = made.live(document, window=WINDOW_SECONDS)
    assert again is not None
    assert (again["actions"], again["steps"]) == ([], [])
    steps: list[str] = answer["steps"]
    return steps


@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize("document", ["before", "after"], ids=["first", "change"])
def test_killed_at_every_step_the_next_process_finishes_and_repeats_nothing(spawned: Spawned, document: str) -> None:
    steps = steps_of(Server(spawned), document)
    campaign(spawned, steps, partial(killed_at, document))
    print(f"{len(steps)} of {len(steps)} kill points of {CHANGED[document]} actions")


def pairs(server: Server, firsts: list[str]) -> list[tuple[str, str]]:
    """Every first step with every step of the recovery from it."""
    found = []
    for first in firsts:
        with ground(server, "after") as made:
            assert made.live("after", end=first, window=WINDOW_SECONDS) is None
            found += [(first, second) for second in recovered(made, "after", made.reached("after"))]
    return found


def killed_twice(survived: Counter[str], server: Server, pair: tuple[str, str]) -> None:
    """An apply that dies, its recovery that dies, and the next one.

    What ran side by side at the first kill had come further or less far than when the steps were counted: where the
    second step does not come this time, the recovery ends as if nobody wanted to kill it.
    """
    first, second = pair
    with ground(server, "after") as made:
        assert made.live("after", end=first, window=WINDOW_SECONDS) is None, "it was not killed"
        reached = made.reached("after")
        if made.live("after", end=second, window=WINDOW_SECONDS) is not None:
            survived[first] += 1
        now = made.reached("after")
        assert {name: now.get(name) for name in reached} == reached, "the recovery touched a file that was as declared"
        recovered(made, "after", now)


def coarse(steps: list[str]) -> list[str]:
    """The steps around the journal's writes and the effects, without the single calls inside of them."""
    return [step for step in steps if step.startswith(("journal", "effect"))]


@pytest.mark.req("PLAN-5", "PLAN-13")
def test_killed_again_in_the_recovery_the_third_process_finishes(spawned: Spawned) -> None:
    server = Server(spawned)
    firsts = spread(coarse(steps_of(server, "after")), SAMPLE // 3)
    cases = spread(pairs(server, firsts), SAMPLE)
    survived: Counter[str] = Counter()
    campaign(spawned, cases, partial(killed_twice, survived))
    print(f"{len(cases) - survived.total()} of {len(cases)} pairs of kills, after {len(firsts)} first steps")
    assert survived.total() <= len(cases) // 3


@pytest.mark.soak
@pytest.mark.req("PLAN-5", "PLAN-13")
def test_killed_again_at_every_step_of_every_recovery_the_third_process_finishes(spawned: Spawned) -> None:
    server = Server(spawned)
    cases = [
        pair for pair in pairs(server, coarse(steps_of(server, "after"))) if pair[1].startswith(("journal", "effect"))
    ]
    survived: Counter[str] = Counter()
    campaign(spawned, cases, partial(killed_twice, survived))
    print(f"{len(cases) - survived.total()} of {len(cases)} pairs of kills")
    assert survived.total() <= len(cases) // 3


def killed_while_watched(server: Server, part: float) -> None:
    """An apply that dies when `part` of its window is over, and the next one, which holds the rest."""
    with ground(server, "after") as made:
        assert made.live("after", window=LONG_WINDOW_SECONDS, watched=part) is None, "it was not killed"
        reached = made.reached("after")
        answer = made.live("after", window=LONG_WINDOW_SECONDS)
        assert answer is not None
        assert answer["actions"] == [], "all of them were done already"
        assert not [step for step in answer["steps"] if step.startswith("effect")]
        made.check("after", reached)


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_killed_inside_the_window_the_next_process_watches_the_rest_and_confirms(spawned: Spawned) -> None:
    parts = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
    campaign(spawned, parts, killed_while_watched)
    print(f"{len(parts)} of {len(parts)} kills inside of a window of {LONG_WINDOW_SECONDS:g} s")
