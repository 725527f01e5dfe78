"""Properties of planning, over documents, hosts and histories made up by Hypothesis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kinds import Applied, AppliedField, Observation, Resource, Wanted
from reconciler.model import ABSENT, Action, Blocked, Cause, Exposure, Impact, Key, Plan, Value
from reconciler.planning.graph import order
from reconciler.planning.plan import make_plan
from reconciler.planning.policy import Approvals, check, hint_of, not_applied, waits_for_person, window_seconds
from reconciler.serial import plan_from_json, plan_to_json
from reconciler.values import decode
from resources.testing import FakeKind, make_desired

NAMES = "abcdef"
values = st.one_of(st.integers(0, 3), st.sampled_from(["x", "y", True, None]))
fields = st.dictionaries(st.sampled_from(["p", "q", "r"]), values, min_size=1, max_size=3)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A host with a history and a document: names need only earlier names, so that there is no circle."""
    declared = draw(st.dictionaries(st.sampled_from(NAMES), fields))
    needs = {name: draw(st.sets(st.sampled_from([*NAMES[: NAMES.index(name)], name]))) - {name} for name in declared}
    present = draw(st.dictionaries(st.sampled_from(NAMES), fields))
    applied = draw(
        st.dictionaries(
            st.sampled_from(NAMES), st.dictionaries(st.sampled_from(["p", "q", "r"]), st.tuples(values, values))
        )
    )
    return World(
        declared=declared,
        needs={name: needs[name] & declared.keys() for name in declared},
        present=present,
        applied={
            Key("fake", name): {path: AppliedField(value, former) for path, (value, former) in item.items()}
            for name, item in applied.items()
        },
    )


class World:
    """What planning looks at, and what performing an action does to it."""

    def __init__(
        self,
        *,
        declared: Mapping[str, Mapping[str, Any]],
        needs: Mapping[str, set[str]],
        present: Mapping[str, Mapping[str, Any]],
        applied: Mapping[Key, Applied],
    ) -> None:
        self.declared, self.needs = declared, needs
        self.present: dict[str, dict[str, Value]] = {name: dict(item) for name, item in present.items()}
        self.applied = {key: dict(item) for key, item in applied.items()}

    def resources(self) -> dict[Key, Resource]:
        kind = FakeKind()
        extra = {
            "x-fakes": {
                name: {"fields": item, "needs": sorted(self.needs[name])} for name, item in self.declared.items()
            }
        }
        declared = kind.declare(make_desired(extra=extra), None, None)  # type: ignore[arg-type]
        return {item.key: item for item in declared}

    def wanted(self) -> dict[Key, Wanted]:
        resources = self.resources()
        keys = resources.keys() | self.applied.keys()
        return {
            key: Wanted(key=key, resource=resources.get(key), applied=self.applied.get(key, {})) for key in sorted(keys)
        }

    def plan(self, *, turned: bool = False) -> Plan:
        wanted = self.wanted()
        observations = {key: self.observe(key, item) for key, item in wanted.items()}
        if turned:
            wanted = dict(reversed(wanted.items()))
            observations = dict(reversed(observations.items()))
        return make_plan(
            kinds=(FakeKind(),), wanted=wanted, observations=observations, generation=1, document_digest="d"
        )

    def observe(self, key: Key, wanted: Wanted) -> Observation:
        paths = {*(wanted.resource.fields if wanted.resource else ()), *wanted.applied}
        present = self.present.get(key.name, {})
        return Observation(key=key, fields={path: present.get(path, ABSENT) for path in sorted(paths)})

    def perform(self, action: Action) -> None:
        """The effect of an action, and the account of it."""
        resources, key = self.resources(), action.key
        target = self.present.setdefault(key.name, {})
        account = self.applied.setdefault(key, {})
        for item in action.differences:
            target[item.path] = decode(action.arguments["fields"][item.path])
            if target[item.path] is ABSENT:
                del target[item.path]
            if key not in resources or item.path not in resources[key].fields:
                account.pop(item.path, None)
            else:
                before = account.get(item.path)
                account[item.path] = AppliedField(item.desired, before.former if before else item.observed)


@given(worlds())
def test_applying_a_plan_and_planning_again_is_empty(world: World) -> None:
    for action in world.plan().actions:
        world.perform(action)
    assert world.plan().actions == ()


@given(worlds(), st.data())
def test_every_prefix_of_a_plan_leaves_a_state_that_still_converges(world: World, data: st.DataObject) -> None:
    actions = world.plan().actions
    for action in actions[: data.draw(st.integers(0, len(actions)))]:
        world.perform(action)
    for action in world.plan().actions:
        world.perform(action)
    assert world.plan().actions == ()
    for name, declared in world.declared.items():
        for path, value in declared.items():
            assert world.present[name][path] == value


@given(worlds())
def test_the_order_of_the_input_does_not_matter(world: World) -> None:
    assert world.plan() == world.plan(turned=True)


@given(worlds())
def test_an_action_comes_after_all_that_it_needs(world: World) -> None:
    seen: set[str] = set()
    for action in world.plan().actions:
        assert set(action.needs) <= seen
        seen.add(action.id)


@given(worlds())
def test_a_plan_survives_its_file(world: World) -> None:
    plan = world.plan()
    assert plan_from_json(plan_to_json(plan)) == plan


@given(worlds())
def test_what_nobody_declares_and_nobody_applied_is_left_alone(world: World) -> None:
    untouched = {
        name: dict(item)
        for name, item in world.present.items()
        if name not in world.declared and Key("fake", name) not in world.applied
    }
    for action in world.plan().actions:
        world.perform(action)
    assert {name: world.present[name] for name in untouched} == untouched


def action(name: str, *, needs: tuple[str, ...] = (), verb: str = "set", impact: Impact = Impact.NONE) -> Action:
    from reconciler.model import Because

    return Action(
        id=name,
        key=Key("fake", name),
        verb=verb,
        cause=Cause.CHANGE,
        because=Because(text=""),
        impact=impact,
        needs=needs,
    )


def test_independent_actions_stay_in_the_order_given() -> None:
    given_order = (action("c"), action("a", needs=("b",)), action("b"))
    assert [item.id for item in order(given_order)] == ["c", "b", "a"]


def test_a_need_of_something_that_is_not_planned_is_met() -> None:
    assert [item.id for item in order((action("a", needs=("elsewhere",)),))] == ["a"]


PLAN = Plan(generation=1, document_digest="d", state_digest="s")
POLICY = make_desired().policy


def codes(found: tuple[Blocked, ...]) -> list[str]:
    return [item.code for item in found]


@pytest.mark.req("PLAN-16")
def test_destruction_and_take_over_need_their_own_words() -> None:
    plan = replace(PLAN, actions=(action("a", impact=Impact.DESTROY), replace(action("b"), consents=("take-over",))))
    policy = replace(POLICY, approve=("destroy",))
    assert codes(check(plan, policy, Approvals(), restarts_last_hour=0)) == ["approval_missing", "take_over_missing"]
    granted = Approvals(keys=frozenset({Key("fake", "a")}), take_over=True)
    assert check(plan, policy, granted, restarts_last_hour=0) == ()


@pytest.mark.req("PLAN-11", "PLAN-16")
@pytest.mark.parametrize("impact", [Impact.RESTART, Impact.HOT_RELOAD])
def test_any_impact_that_the_policy_names_needs_an_approval(impact: Impact) -> None:
    plan = replace(PLAN, actions=(action("a", impact=impact),))
    policy = replace(POLICY, approve=("destroy", impact.value))
    for asking in (Approvals(), Approvals(person=False), Approvals(way_back=True)):
        (found,) = check(plan, policy, asking, restarts_last_hour=0)
        assert (found.code, found.hint) == ("approval_missing", "say --approve fake/a")
    granted = Approvals(keys=frozenset({Key("fake", "a")}))
    assert check(plan, policy, granted, restarts_last_hour=0) == ()
    assert check(plan, replace(POLICY, approve=("destroy",)), Approvals(), restarts_last_hour=0) == ()


@pytest.mark.req("PLAN-11")
def test_the_restart_budget_counts_what_was_and_what_would_be() -> None:
    plan = replace(PLAN, actions=(action("a", verb="restart", impact=Impact.RESTART),))
    policy = replace(POLICY, restarts_per_hour=2)
    assert codes(check(plan, policy, Approvals(), restarts_last_hour=1)) == []
    assert codes(check(plan, policy, Approvals(), restarts_last_hour=2)) == ["budget"]
    assert codes(check(plan, replace(policy, restarts_per_hour=None), Approvals(), restarts_last_hour=99)) == []
    # A person may say more, and who goes back waits for nothing.
    key = plan.actions[0].key
    assert codes(check(plan, policy, Approvals(keys=frozenset({key})), restarts_last_hour=99)) == []
    assert codes(check(plan, policy, Approvals(way_back=True), restarts_last_hour=99)) == []


@pytest.mark.req("PLAN-12")
def test_what_forbids_a_plan_is_told_with_what_helps_where_that_is_known() -> None:
    found = (
        Blocked(key=None, code="a", message="cannot a", hint="do b"),
        Blocked(key=None, code="c", message="cannot c"),
    )
    assert [note.message for note in not_applied(found)] == ["not applied: cannot a; do b", "not applied: cannot c"]


@pytest.mark.req("PLAN-3", "PLAN-10")
def test_nobody_but_a_person_withdraws_a_section() -> None:
    plan = replace(PLAN, withdrawals=(Key("fake", "a"),))
    assert codes(check(plan, POLICY, Approvals(person=False), restarts_last_hour=0)) == ["withdrawal"]
    assert codes(check(plan, POLICY, Approvals(), restarts_last_hour=0)) == []


@pytest.mark.req("PLAN-3", "PLAN-10")
@pytest.mark.parametrize("present", [1, 7])
def test_a_section_that_is_gone_is_a_withdrawal_whether_or_not_anything_differs(present: int) -> None:
    key = Key("fake", "a")
    wanted = {key: Wanted(key=key, resource=None, applied={"p": AppliedField(1, present)})}
    observations = {key: Observation(key=key, fields={"p": present})}

    def withdrawals(*gone: str) -> tuple[Key, ...]:
        plan = make_plan(
            kinds=(FakeKind(),),
            wanted=wanted,
            observations=observations,
            generation=1,
            document_digest="d",
            gone=frozenset(gone),
        )
        assert not plan.actions
        return plan.withdrawals

    assert withdrawals("x-fakes") == (key,)
    assert withdrawals("x-files") == withdrawals() == ()


@pytest.mark.req("PLAN-3", "PLAN-10", "PLAN-16")
def test_what_waits_for_a_person_names_the_command_that_grants_all_it_takes() -> None:
    """A withdrawal that destroys waits for the same words, whether it is told as what forbids or as who waits."""
    destroys = replace(PLAN, actions=(action("a", impact=Impact.DESTROY),), withdrawals=(Key("fake", "a"),))
    policy = replace(POLICY, approve=("destroy",))
    (note,) = waits_for_person(destroys, policy)
    assert note.message.endswith("; say `openclaw apply --approve fake/a`, or put the section back")
    (note,) = waits_for_person(replace(destroys, actions=()), policy)
    assert note.message.endswith("; say `openclaw apply`, or put the section back")
    opens = replace(
        PLAN,
        actions=(action("a", impact=Impact.RESTART), action("b")),
        exposures=(Exposure(key=Key("fake", "a"), text="everybody is let in"),),
    )
    (note,) = waits_for_person(opens, replace(policy, approve=("restart", "none")))
    assert "; say `openclaw apply --approve fake/a --approve fake/b`, put it back" in note.message


@pytest.mark.req("PLAN-12", "PLAN-16")
def test_the_hint_grants_all_that_is_missing() -> None:
    first, second = (action(name, impact=Impact.DESTROY) for name in "ab")
    restart = action("c", verb="restart", impact=Impact.RESTART)
    taken = replace(action("d"), consents=("take-over",))
    policy = replace(POLICY, approve=("destroy",), restarts_per_hour=1)

    def hint(*actions: Action, blocked: tuple[Blocked, ...] = ()) -> str:
        plan = replace(PLAN, actions=actions, blocked=blocked)
        return hint_of(check(plan, policy, Approvals(), restarts_last_hour=1))

    assert hint(first) == "say --approve fake/a, or put the section back into the document"
    assert hint(first, first) == hint(first)
    assert hint(first, second) == "say --approve fake/a --approve fake/b"
    assert hint(first, taken, restart) == "say --approve fake/a --take-over --approve fake/c"
    # No approval helps against what planning itself found: that comes first.
    collision = Blocked(key=first.key, code="port_held", message="cannot", hint="stop it")
    assert hint(first, second, blocked=(collision,)) == "stop it"


@pytest.mark.req("PLAN-3", "PLAN-10")
def test_nobody_but_a_person_opens_what_was_protected() -> None:
    plan = replace(PLAN, exposures=(Exposure(key=Key("fake", "a"), text="everybody is let in"),))
    (found,) = check(plan, POLICY, Approvals(person=False), restarts_last_hour=0)
    assert found.code == "exposure"
    assert "everybody is let in" in found.message
    assert check(plan, POLICY, Approvals(), restarts_last_hour=0) == ()
    granted = Approvals(keys=frozenset({Key("fake", "a")}), person=False)
    assert check(plan, POLICY, granted, restarts_last_hour=0) == ()


@pytest.mark.req("PLAN-7")
def test_a_window_is_there_for_what_disturbs_or_starts() -> None:
    assert window_seconds([action("a")], POLICY) == 0
    assert window_seconds([action("a", impact=Impact.HOT_RELOAD)], POLICY) == POLICY.verify_seconds
    assert window_seconds([action("a", verb="start")], POLICY) == POLICY.verify_seconds
