"""The three-way comparison: desired, observed, last applied, field by field. Pure.

Only declared fields are compared, and those that we once wrote and that are declared no longer: they go back to what was
there before us, as long as nobody else has changed them since.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.kinds import Applied, AppliedField, Observation, Resource
from reconciler.model import ABSENT, Cause, Difference, Value
from reconciler.values import same


def differences(resource: Resource | None, observation: Observation, applied: Applied) -> tuple[Difference, ...]:
    """The differences of one resource, in the order of its fields, withdrawn fields after them by name.

    An unknown observation has none: nothing is planned from a guess.
    """
    if observation.unknown is not None:
        return ()
    declared: Mapping[str, Value] = resource.fields if resource is not None else {}
    observed = observation.fields
    defaulted = resource.defaulted if resource is not None else frozenset()
    found = [
        _declared(path, desired, observed.get(path, ABSENT), applied.get(path), path in defaulted)
        for path, desired in declared.items()
        if not same(desired, observed.get(path, ABSENT))
    ]
    found += [
        Difference(
            path=path,
            desired=applied[path].former,
            observed=observed.get(path, ABSENT),
            last_applied=applied[path].value,
            cause=Cause.CHANGE,
        )
        for path in sorted(applied.keys() - declared.keys())
        if _gives_back(applied[path], observed.get(path, ABSENT))
    ]
    return tuple(found)


def _declared(path: str, desired: Value, observed: Value, last: AppliedField | None, defaulted: bool) -> Difference:
    if last is None:
        cause = Cause.CHANGE
    elif same(last.value, desired):
        cause = Cause.DRIFT
    elif last.defaulted and defaulted:
        # Nobody said a word about this field, then or now: our own default is another one in this version.
        cause = Cause.UPGRADE
    else:
        cause = Cause.CHANGE
    return Difference(
        path=path,
        desired=desired,
        observed=observed,
        last_applied=ABSENT if last is None else last.value,
        cause=cause,
    )


def _gives_back(last: AppliedField, observed: Value) -> bool:
    return same(observed, last.value) and not same(observed, last.former)
