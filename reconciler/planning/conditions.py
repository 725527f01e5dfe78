"""The conditions of a resource, from what was seen just now and what the journal keeps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from reconciler.kinds import Health, Observation
from reconciler.model import ABSENT, Action, Cause, Condition, Difference, Result, Status, Value
from reconciler.values import dump, public, rfc3339

# What only a run can know; everything else is seen afresh. Degraded is both: a rollback that failed is kept.
_KEPT = frozenset({"RolledBack", "Contested", "Degraded"})


def conditions(
    *,
    observation: Observation,
    differences: Sequence[Difference],
    actions: Sequence[Action],
    health: Health | None,
    kept: Iterable[Condition],
    external: bool,
    generation: int,
    history_lost: str | None = None,
    run: tuple[Result, str] | None = None,
) -> tuple[Condition, ...]:
    """Ready, Synced, Drifted, Degraded where it applies, what the kind saw, and what the journal keeps of earlier runs.

    `run` is the open run that works on it, by its state and id.

    `since` is taken over from `kept` where type, status and reason are the same, unless its kind knows that what is now began
    later; else it is what the kind knows, or empty: not known.
    """
    before = {item.type: item for item in kept}
    found = [_synced(observation, differences, actions)]
    if health is not None:
        found.insert(0, _ready(health))
        if external and not health.ready and "Degraded" not in before:
            found.append(Condition(type="Degraded", status=Status.TRUE, reason=health.reason, message=health.message))
    if (drifted := _drifted(differences, actions)) is not None:
        found.append(drifted)
    if run is not None:
        found.append(_progressing(*run))
    if history_lost is not None:
        found.append(Condition(type="HistoryLost", status=Status.TRUE, reason="JournalLost", message=history_lost))
    found += observation.conditions
    found += [item for item in before.values() if item.type in _KEPT]
    began = health.began if health is not None else None
    return tuple(
        _since(item, before.get(item.type), generation, began=began if item.type == "Ready" else None) for item in found
    )


def _drifted(differences: Sequence[Difference], actions: Sequence[Action]) -> Condition | None:
    """Whether it moved away from what was applied: by a field, or, where none says so, by what has to be done all the same."""
    causes = (Cause.DRIFT, Cause.OWED)
    if moved := [item for item in differences if item.cause in causes]:
        reason, message = "FieldsMoved", ", ".join(_moved(item) for item in moved)
    elif owed := [action for action in actions if action.cause in causes and not action.differences]:
        reason, message = "Owed", ", ".join(f"{action.verb}: {action.because.text}" for action in owed)
    else:
        return None
    return Condition(type="Drifted", status=Status.TRUE, reason=reason, message=message)


def _progressing(state: Result, run: str) -> Condition:
    """What an open run is doing to it."""
    match state:
        case Result.VERIFYING:
            reason, message = "Verifying", f"run {run} is applied and not confirmed yet"
        case Result.ROLLING_BACK:
            reason, message = "RollingBack", f"run {run} is being taken back"
        case _:
            reason, message = "Applying", f"run {run} has not come to its end"
    return Condition(type="Progressing", status=Status.TRUE, reason=reason, message=message)


def _ready(health: Health) -> Condition:
    return Condition(
        type="Ready",
        status=Status.TRUE if health.ready else Status.FALSE,
        reason=health.reason,
        message=health.message,
        since=rfc3339(health.since) if health.since is not None else "",
    )


def _synced(observation: Observation, differences: Sequence[Difference], actions: Sequence[Action]) -> Condition:
    if observation.unknown is not None:
        return Condition(type="Synced", status=Status.UNKNOWN, reason="NotObserved", message=observation.unknown)
    if differences or actions:
        paths = ", ".join(item.path for item in differences) or ", ".join(action.verb for action in actions)
        return Condition(type="Synced", status=Status.FALSE, reason="Differs", message=paths)
    return Condition(type="Synced", status=Status.TRUE, reason="Applied", message="")


def _moved(item: Difference) -> str:
    return f"{item.path} is {_shown(item.observed)}, not {_shown(item.desired)}"


def _shown(value: Value) -> str:
    return "absent" if value is ABSENT else dump(public(value))


def _since(item: Condition, before: Condition | None, generation: int, *, began: float | None) -> Condition:
    """`item` with the time since when it is so, and the generation that it speaks of; `began` is when the life that runs now did.

    Times are RFC 3339 texts of one form, so that the later one is the greater.
    """
    own = replace(item, observed_generation=item.observed_generation or generation)
    if before is None:
        return own
    if (before.status, before.reason) != (item.status, item.reason):
        # What was seen in between ended at a moment that nobody saw.
        return own if item.since >= before.since else replace(own, since="")
    seen = replace(item, since=before.since, observed_generation=before.observed_generation or generation)
    if item.since > before.since:
        return replace(seen, since=item.since)
    # It may have been so in an earlier life, and since when it is in this one is not known.
    return replace(seen, since="") if began is not None and before.since < rfc3339(began) else seen
