"""Plans, actions and values survive the way to JSON text and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import serial
from reconciler.model import (
    ABSENT,
    Action,
    Because,
    Blocked,
    Cause,
    Condition,
    Consequence,
    Difference,
    Exposure,
    Impact,
    Key,
    Note,
    Plan,
    Position,
    Secret,
    Status,
    Undo,
    Unknown,
)
from reconciler.values import decode, encode

texts = st.text(max_size=20)
names = st.text(alphabet="abz-.:_0", min_size=1, max_size=10)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.just(ABSENT)
    | st.builds(Secret, names)
)
# Names that our own marks use are the ones that could be mistaken.
members = texts | st.sampled_from(["$secret", "$absent", "$map"])
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(members, inner, max_size=3),
    max_leaves=8,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members, inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(texts, plain, max_size=3)
keys = st.builds(Key, names, names)
paths = st.none() | st.lists(texts | st.integers(0, 9), max_size=3).map(tuple)
positions = st.none() | st.builds(Position, file=texts, line=st.integers(1, 99), column=st.integers(1, 99), text=texts)
actions = st.builds(
    Action,
    id=names,
    key=keys,
    verb=names,
    cause=st.sampled_from(Cause),
    because=st.builds(Because, text=texts, path=paths, position=positions),
    differences=st.lists(
        st.builds(
            Difference,
            path=texts,
            desired=values,
            observed=values,
            last_applied=values,
            cause=st.sampled_from(Cause),
        ),
        max_size=2,
    ).map(tuple),
    impact=st.sampled_from(Impact),
    consequences=st.lists(
        st.builds(Consequence, what=names, text=texts, amount=st.none() | st.floats(0, 9)), max_size=2
    ).map(tuple),
    precondition=st.none() | names,
    undo=st.none() | st.builds(Undo, verb=names, arguments=arguments, text=texts),
    needs=st.lists(names, max_size=2).map(tuple),
    deadline_seconds=st.floats(0, 99),
    arguments=arguments,
    consents=st.lists(names, max_size=2).map(tuple),
)
plans = st.builds(
    Plan,
    generation=st.integers(0, 9),
    document_digest=names,
    state_digest=names,
    actions=st.lists(actions, max_size=2).map(tuple),
    blocked=st.lists(st.builds(Blocked, key=st.none() | keys, code=names, message=texts, hint=texts), max_size=2).map(
        tuple
    ),
    notes=st.lists(st.builds(Note, code=names, message=texts, path=paths, position=positions), max_size=2).map(tuple),
    unknown=st.lists(st.builds(Unknown, key=keys, reason=texts), max_size=2).map(tuple),
    withdrawals=st.lists(keys, max_size=2).map(tuple),
    exposures=st.lists(st.builds(Exposure, key=keys, text=texts), max_size=2).map(tuple),
)
conditions = st.builds(
    Condition,
    type=names,
    status=st.sampled_from(Status),
    reason=names,
    message=texts,
    since=texts,
    observed_generation=st.integers(0, 9),
)


def through_text(data: Any) -> Any:
    return json.loads(json.dumps(data))


@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert decode(through_text(encode(value))) == value


@given(actions)
def test_an_action_comes_back_as_it_was(action: Action) -> None:
    assert serial.action_from_json(through_text(serial.action_to_json(action))) == action


@given(plans)
def test_a_plan_comes_back_as_it_was(plan: Plan) -> None:
    assert serial.plan_from_json(through_text(serial.plan_to_json(plan))) == plan


@given(conditions)
def test_a_condition_comes_back_as_it_was(condition: Condition) -> None:
    assert serial.condition_from_json(through_text(serial.condition_to_json(condition))) == condition


@pytest.mark.req("DOC-4")
def test_a_secret_travels_as_its_digest_only() -> None:
    data = serial.difference_to_json(
        Difference(path="token", desired=Secret("d1"), observed=Secret("d2"), last_applied=ABSENT, cause=Cause.CHANGE)
    )
    assert data["desired"] == {"$secret": "d1"}
    assert data["last_applied"] == {"$absent": True}


@given(plain)
def test_what_is_no_plan_is_refused_with_a_value_error(data: Any) -> None:
    with pytest.raises(ValueError, match="not a plan"):
        serial.plan_from_json(data)


@given(plans.filter(lambda plan: plan.actions), st.data())
def test_a_plan_that_lacks_anything_is_refused(plan: Plan, data: st.DataObject) -> None:
    body = through_text(serial.plan_to_json(plan))
    holder = data.draw(st.sampled_from([body, body["actions"][0]]))
    del holder[data.draw(st.sampled_from(sorted(holder)))]
    with pytest.raises(ValueError, match="not a plan"):
        serial.plan_from_json(body)
