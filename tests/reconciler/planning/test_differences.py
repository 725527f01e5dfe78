"""The three-way comparison, as a table: desired, observed, last applied in; differences out."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from reconciler.kinds import AppliedField, Observation, Resource
from reconciler.model import ABSENT, Cause, Key, Value
from reconciler.planning.differences import differences

KEY = Key("fake", "a")


def compare(
    desired: Mapping[str, Value] | None,
    observed: Mapping[str, Value],
    applied: Mapping[str, AppliedField] | None = None,
    *,
    defaulted: frozenset[str] = frozenset(),
    unknown: str | None = None,
) -> list[tuple[str, Value, Value, Cause]]:
    resource = None if desired is None else Resource(key=KEY, fields=desired, defaulted=defaulted)
    observation = Observation(key=KEY, fields=observed, unknown=unknown)
    return [
        (item.path, item.observed, item.desired, item.cause)
        for item in differences(resource, observation, applied or {})
    ]


@pytest.mark.req("PLAN-9")
@pytest.mark.parametrize(
    ("desired", "observed", "last", "expected"),
    [
        (1, 1, None, None),
        (1, 1, 1, None),
        (1, 2, None, Cause.CHANGE),
        (1, 2, 2, Cause.CHANGE),
        (1, 2, 1, Cause.DRIFT),
        (1, ABSENT, 1, Cause.DRIFT),
        (1, 3, 2, Cause.CHANGE),
        (1, 1.0, None, None),
        (True, 1, None, Cause.CHANGE),
        ([1, 2], (1, 2), None, None),
        ({"a": [1]}, {"a": (1,)}, None, None),
        (None, ABSENT, None, Cause.CHANGE),
    ],
)
def test_change_and_drift_are_told_apart(desired: Value, observed: Value, last: Value, expected: Cause | None) -> None:
    applied = {} if last is None else {"v": AppliedField(last)}
    found = compare({"v": desired}, {"v": observed}, applied)
    assert found == ([] if expected is None else [("v", observed, desired, expected)])


@pytest.mark.req("PLAN-9")
def test_a_default_of_ours_that_moved_is_an_upgrade_and_a_withdrawn_word_a_change() -> None:
    was_default = {"v": AppliedField(1, defaulted=True)}
    assert compare({"v": 2}, {"v": 1}, was_default, defaulted=frozenset({"v"})) == [("v", 1, 2, Cause.UPGRADE)]
    was_said = {"v": AppliedField(1, defaulted=False)}
    assert compare({"v": 2}, {"v": 1}, was_said, defaulted=frozenset({"v"})) == [("v", 1, 2, Cause.CHANGE)]
    assert compare({"v": 2}, {"v": 1}, was_default) == [("v", 1, 2, Cause.CHANGE)]


@pytest.mark.req("PLAN-10")
@pytest.mark.parametrize(
    ("value", "former", "observed", "back"),
    [
        ("ours", "theirs", "ours", True),
        ("ours", ABSENT, "ours", True),
        ("ours", "theirs", "somebody else's", False),
        ("ours", "theirs", "theirs", False),
        ("same", "same", "same", False),
    ],
)
def test_a_withdrawn_field_goes_back_unless_somebody_changed_it(
    value: Value, former: Value, observed: Value, back: bool
) -> None:
    applied = {"v": AppliedField(value, former)}
    expected = [("v", observed, former, Cause.CHANGE)] if back else []
    assert compare({}, {"v": observed}, applied) == expected
    assert compare(None, {"v": observed}, applied) == expected


@pytest.mark.req("PLAN-10")
def test_a_field_that_is_not_declared_is_never_compared() -> None:
    assert compare({"v": 1}, {"v": 1, "foreign": 9}) == []


def test_nothing_is_planned_from_a_guess() -> None:
    assert compare({"v": 1}, {}, unknown="no permission") == []
