"""A plan beside the one that was agreed to, and what of a plan is left out. Pure."""

from __future__ import annotations

from dataclasses import replace

from reconciler.errors import StaleError
from reconciler.model import Action, Key, Plan

# Of a field that a plan says nothing of; ABSENT is a value.
_UNSEEN = object()


def harmless(plan: Plan, *, ours: bool) -> Plan:
    """`plan` without what cannot be undone: while the history is lost nothing is deleted on the word of what is left of it.

    Where it is known that what is there is `ours`, nothing is taken over from a stranger.
    """
    kept = tuple(
        replace(action, consents=() if ours else action.consents) for action in plan.actions if action.undo is not None
    )
    return replace(plan, actions=kept, withdrawals=())


def without(plan: Plan, waiting: frozenset[Key]) -> Plan:
    """`plan` without the actions of keys that wait out their backoff, and without what needs them."""
    if not waiting:
        return plan
    left: set[str] = set()
    kept: list[Action] = []
    for action in plan.actions:
        if action.key in waiting or any(need in left for need in action.needs):
            left.add(action.id)
        else:
            kept.append(action)
    return replace(plan, actions=tuple(kept))


def only(plan: Plan, keys: frozenset[Key]) -> Plan:
    """`plan` with the actions of `keys` and those that they need, and no others."""
    needed: set[str] = set()
    for action in reversed(plan.actions):
        if action.key in keys or action.id in needed:
            needed |= {action.id, *action.needs}
    return replace(plan, actions=tuple(action for action in plan.actions if action.id in needed))


def as_agreed(plan: Plan, expected: Plan | None) -> Plan:
    """`plan` with every irreversible action as it stood in the plan that was agreed to: what came since was agreed by nobody."""
    if expected is None:
        return plan
    agreed = {action.id: action for action in expected.actions if action.undo is None}
    return replace(plan, actions=tuple(agreed.get(action.id, action) for action in plan.actions))


def compare(expected: Plan, found: Plan) -> None:
    """Raises StaleError, naming what moved, unless `found` is to the letter what `expected` was."""
    moved = [
        _with_fields(key, expected, found)
        for key in sorted({*expected.states, *found.states})
        if expected.states.get(key) != found.states.get(key)
    ]
    if expected.document_digest != found.document_digest:
        moved.insert(0, "the document (or what its references give)")
    if moved:
        raise StaleError(
            f"cannot apply this plan: it is stale: {', '.join(moved)} moved since it was made", hint="plan again"
        )
    if [action.id for action in expected.actions] != [action.id for action in found.actions]:
        raise StaleError(
            f"cannot apply this plan: other actions are needed now: {_exchanged(expected, found)}", hint="plan again"
        )


def _exchanged(expected: Plan, found: Plan) -> str:
    """Which actions came or went though nothing that is compared moved, with what forbids the plan and is noted since."""
    went, came = _only_in(expected, found), _only_in(found, expected)
    blocked, noted = ({item.message for item in each} for each in (expected.blocked, expected.notes))
    parts = (
        ("no longer", went),
        ("but" if went else "now also", came),
        ("blocked:", [item.message for item in found.blocked if item.message not in blocked]),
        ("note:", [item.message for item in found.notes if item.message not in noted]),
    )
    said = [f"{what} {', '.join(names)}" for what, names in parts if names]
    return "; ".join(said) or "the same ones in another order"


def _only_in(plan: Plan, other: Plan) -> list[str]:
    """The actions of `plan` that `other` has not, each with the fields that it is for."""
    ids = {action.id for action in other.actions}
    return [_named(action) for action in plan.actions if action.id not in ids]


def _named(action: Action) -> str:
    paths = ", ".join(item.path for item in action.differences)
    return f"{action.key} {action.verb}" + (f" ({paths})" if paths else "")


def _with_fields(key: str, expected: Plan, found: Plan) -> str:
    """The key with the fields of it that were seen otherwise, where the two plans tell: what neither of them changes stands in
    none of them. Of one that can be seen no more it tells why.
    """
    blind = {str(item.key): item.reason for item in found.unknown}
    if key in blind:
        return f"{key} (cannot be observed: {blind[key]})"
    before, now = _seen(key, expected), _seen(key, found)
    paths = sorted(path for path in before | now if before.get(path, _UNSEEN) != now.get(path, _UNSEEN))
    return f"{key} ({', '.join(paths)})" if paths else key


def _seen(key: str, plan: Plan) -> dict[str, object]:
    return {
        item.path: item.observed for action in plan.actions if str(action.key) == key for item in action.differences
    }
