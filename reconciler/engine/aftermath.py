"""What came of an action whose end is uncertain, because it failed or its writer died: found by looking, never assumed.

It may have had its effect all the same, or half of it. What was there before us must be in the account then: lost now, it could
never be given back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.engine.observe import observe_kind
from reconciler.kinds import Applied, AppliedField, Kind, Resource, Wanted, World
from reconciler.model import ABSENT, Action, Difference
from reconciler.values import same

# What the id of an action that takes another one back ends in.
UNDO = "!undo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """`happened`: the whole effect is there. `fields` are ours by it, the paths in `forgotten` no longer."""

    happened: bool
    fields: Mapping[str, AppliedField]
    forgotten: tuple[str, ...] = ()


# An action that was refused before its effect leaves nothing behind.
NOTHING = Aftermath(happened=False, fields={})


async def aftermath(action: Action, kind: Kind, resource: Resource | None, applied: Applied, world: World) -> Aftermath:
    """What `action` has left behind. `applied` is the account of its key before it."""
    asked = {item.path: AppliedField(item.desired, item.observed) for item in action.differences}
    wanted = Wanted(key=action.key, resource=resource, applied={**asked, **applied})
    (observation,) = await observe_kind(kind, (wanted,), world)
    if observation.unknown is not None:
        # At worst a value is kept that nobody will ask for; what the account has already is not made worse.
        fields, _ = settled(action, [item for item in action.differences if item.path not in applied], applied)
        return Aftermath(happened=False, fields=fields)
    came = [item for item in action.differences if same(observation.fields.get(item.path, ABSENT), item.desired)]
    fields, forgotten = settled(action, came, applied)
    happened = bool(came) and len(came) == len(action.differences)
    return Aftermath(happened=happened, fields=fields, forgotten=forgotten)


def settled(
    action: Action, differences: Sequence[Difference], applied: Applied
) -> tuple[dict[str, AppliedField], tuple[str, ...]]:
    """What an effect means for the account, by its values alone: the document that asked for it need not be at hand any more.

    `differences` are those of `action` that came about. Returns the fields that are ours by it, and those that no longer are:
    a field that went back to what was there before us is ours no longer.
    """
    undoing = action.id.endswith(UNDO)
    fields: dict[str, AppliedField] = {}
    forgotten: list[str] = []
    for item in differences:
        found = (_again if undoing else _since)(item, applied.get(item.path))
        if found is None:
            forgotten.append(item.path)
        else:
            fields[item.path] = found
    return fields, tuple(forgotten)


def _since(item: Difference, before: AppliedField | None) -> AppliedField | None:
    given_back = before is not None and same(before.former, item.desired) and not same(before.value, item.desired)
    # What was ours when this was intended and is so no longer was given back by another run meanwhile.
    gone = before is None and item.last_applied is not ABSENT
    if given_back or gone:
        return None
    return AppliedField(item.desired, before.former if before is not None else item.observed)


def _again(item: Difference, now: AppliedField | None) -> AppliedField | None:
    """What was ours before the run that is undone is so again, also what that run had given back to others."""
    if item.last_applied is ABSENT:
        return None
    return AppliedField(item.last_applied, now.former if now is not None else item.observed)
