"""What every kind says alike about the differences of a step: why, on what precondition, and whether they are met. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.kinds import Resource, Step
from reconciler.model import MASK, Because, Cause, Difference, Fields
from reconciler.values import digest_fields, dump, public, same

# Which cause speaks for an action with several: what a person asked for first, what the system did last.
_ORDER = (Cause.CHANGE, Cause.OPERATOR, Cause.UPGRADE, Cause.DRIFT, Cause.OWED)


def cause_of(differences: Iterable[Difference]) -> Cause:
    """The cause that speaks for all of `differences`; `owed` where there are none."""
    return min((difference.cause for difference in differences), key=_ORDER.index, default=Cause.OWED)


def because_of(resource: Resource | None, differences: tuple[Difference, ...]) -> Because:
    """The document path, or the evidence of drift, for the first difference of the cause that speaks for all."""
    cause = cause_of(differences)
    first = next(difference for difference in differences if difference.cause is cause)
    origin = resource.origins.get(first.path) if resource is not None else None
    if cause is Cause.DRIFT:
        return Because(text=f"{first.path} was {shown(first.last_applied)} and is {shown(first.observed)}", path=origin)
    if resource is None or first.path not in resource.fields:
        return Because(text=f"{first.path} is no longer declared")
    return Because(text=f"{first.path} is {shown(first.observed)}, declared {shown(first.desired)}", path=origin)


def shown(value: object) -> str:
    """A field's value as a sentence shows it: JSON, secrets masked, cut at 60 characters."""
    data = public(value)  # type: ignore[arg-type]
    if data == MASK:
        return MASK
    text = "absent" if data is None else dump(data)
    return text if len(text) <= 60 else text[:57] + "..."


def precondition_of(differences: Iterable[Difference]) -> str:
    """The digest of what was observed at the paths of `differences`."""
    return digest_fields({difference.path: difference.observed for difference in differences})


def still_holds(precondition: str, differences: Iterable[Difference], fields: Fields) -> bool:
    """True when `fields`, observed just now, are those that the plan was made from."""
    return digest_fields({difference.path: fields[difference.path] for difference in differences}) == precondition


def reached(differences: Iterable[Difference], fields: Fields) -> bool:
    """True when every difference is gone from `fields`, observed just now: the action was done already."""
    return all(same(fields[difference.path], difference.desired) for difference in differences)


def action_id(step: Step, verb: str) -> str:
    """The id of the one action of this verb for the step's key."""
    return f"{step.key}:{verb}"
