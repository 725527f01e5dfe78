"""A plan beside the one that was agreed to: what it is told that moved."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.errors import StaleError
from reconciler.kinds import Observation, Resource, Wanted
from reconciler.model import Key, Plan
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
