"""A plan beside the one that was agreed to: what it is told that moved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.errors import StaleError
from reconciler.kinds import Observation, Resource, Wanted
from reconciler.model import Blocked, Key, Note, Plan, Unknown
from reconciler.planning.agreed import compare
from reconciler.planning.plan import make_plan
from resources.testing import FakeKind

pytestmark = pytest.mark.req("PLAN-2")


def planned(**seen: dict[str, Any]) -> Plan:
    """The plan for two resources that shall have 1 in `p`, `q` and `r`, where they have what `seen` says beside that."""
    declared = {"p": 1, "q": 1, "r": 1}
    keys = {name: Key("fake", name) for name in "ab"}
    return make_plan(
        kinds=(FakeKind(),),
        wanted={key: Wanted(key=key, resource=Resource(key=key, fields=declared)) for key in keys.values()},
        observations={key: Observation(key=key, fields=declared | seen.get(name, {})) for name, key in keys.items()},
        generation=1,
        document_digest="d",
    )


@pytest.mark.parametrize(
    ("now", "moved"),
    [
        ({"a": {"p": 2, "q": 3}}, "fake/a (q)"),  # came to differ
        ({}, "fake/a (p)"),  # was led there by somebody else
        ({"a": {"p": 5}}, "fake/a (p)"),  # is otherwise than it was
        ({"a": {"p": 0, "r": [2]}, "b": {"q": 0}}, "fake/a (p, r), fake/b (q)"),
    ],
)
def test_a_stale_plan_names_the_fields_that_moved(now: dict[str, dict[str, Any]], moved: str) -> None:
    expected = planned(a={"p": 2})
    compare(expected, planned(a={"p": 2}))
    with pytest.raises(StaleError) as caught:
        compare(expected, planned(**now))
    assert caught.value.message == f"cannot apply this plan: it is stale: {moved} moved since it was made"


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        # What a kind plans also depends on what is not compared: a hold by a person, whether a file can be written.
        ("a", "", "no longer fake/a set (p, q)"),
        ("a", "ab", "now also fake/b set (r)"),
        ("a", "b", "no longer fake/a set (p, q); but fake/b set (r)"),
        ("ab", "ba", "the same ones in another order"),
    ],
)
def test_a_plan_whose_actions_came_or_went_names_them_with_their_fields(before: str, now: str, told: str) -> None:
    whole = planned(a={"p": 2, "q": 2}, b={"r": 2})
    actions = {action.key.name: action for action in whole.actions}
    expected, found = (replace(whole, actions=tuple(actions[name] for name in names)) for names in (before, now))
    with pytest.raises(StaleError) as caught:
        compare(expected, found)
    assert caught.value.message == f"cannot apply this plan: other actions are needed now: {told}"


def test_what_forbids_the_plan_or_is_noted_since_is_told_with_the_actions_that_went() -> None:
    key, expected = Key("fake", "a"), planned(a={"p": 2})
    old = Blocked(key=key, code="x", message="cannot do this")
    new = Blocked(key=key, code="y", message="cannot read it")
    with pytest.raises(StaleError) as caught:
        compare(
            replace(expected, blocked=(old,)),
            replace(expected, actions=(), blocked=(old, new), notes=(Note(code="z", message="it is stopped"),)),
        )
    assert caught.value.message.endswith(
        "needed now: no longer fake/a set (p); blocked: cannot read it; note: it is stopped"
    )


def test_of_what_can_be_seen_no_more_the_reason_is_told() -> None:
    expected = planned(a={"p": 2})
    blind = Unknown(key=Key("fake", "a"), reason="permission denied")
    now = replace(expected, actions=(), states={**expected.states, "fake/a": "unknown"}, unknown=(blind,))
    with pytest.raises(StaleError) as caught:
        compare(expected, now)
    assert "stale: fake/a (cannot be observed: permission denied) moved" in caught.value.message
