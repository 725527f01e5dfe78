"""Makes a plan from what is wanted and what was seen. Pure.

Kinds decide what to do about their own differences; this module finds the differences, hands each kind what it may look at,
and turns the answers into one ordered graph with preconditions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler.kinds import Kind, KindPlan, Observation, Step, Wanted
from reconciler.model import ABSENT, Action, Blocked, Cause, Difference, Exposure, Key, Note, Plan, Unknown
from reconciler.planning.differences import differences
from reconciler.planning.graph import order
from reconciler.values import digest, digest_fields


def make_plan(
    *,
    kinds: Sequence[Kind],
    wanted: Mapping[Key, Wanted],
    observations: Mapping[Key, Observation],
    generation: int,
    document_digest: str,
    notes: tuple[Note, ...] = (),
    gone: frozenset[str] = frozenset(),
) -> Plan:
    """The plan that leads from `observations` to what is `wanted`.

    `gone` names the sections that the document in force had and this one has not. Then every change of a resource may be a
    withdrawal, and whatever comes of such a section is one, whether or not anything of it differs on the host.

    The same input gives an equal plan, whatever the order of the mappings.

    Raises:
        BlockedError: the declared needs form a circle.
    """
    keys = _planning_order(kinds, wanted)
    found = {key: differences(wanted[key].resource, observations[key], wanted[key].applied) for key in keys}
    states = {str(key): _state(observations[key], wanted[key]) for key in sorted(wanted)}
    others = {key: (observations[key], found[key]) for key in keys}
    planned: dict[Key, tuple[Action, ...]] = {}
    answers: dict[Key, KindPlan] = {}
    by_name = {kind.name: kind for kind in kinds}
    for key in keys:
        if observations[key].unknown is not None:
            continue
        answer = by_name[key.kind].plan(
            Step(
                key=key,
                resource=wanted[key].resource,
                observation=observations[key],
                differences=found[key],
                applied=wanted[key].applied,
                planned=planned,
                others=others,
            )
        )
        planned[key] = tuple(_guarded(action, observations[key]) for action in answer.actions)
        answers[key] = answer
    unknown = tuple(
        Unknown(key=key, reason=reason) for key in keys if (reason := observations[key].unknown) is not None
    )
    return Plan(
        generation=generation,
        document_digest=document_digest,
        state_digest=digest(states),
        states=states,
        actions=order(_connected(wanted, planned)),
        blocked=_blocked(tuple(answers.values()), planned, wanted, unknown),
        notes=(*notes, *(note for answer in answers.values() for note in answer.notes)),
        unknown=unknown,
        withdrawals=tuple(
            key
            for key in keys
            if (wanted[key].resource is None and found[key])
            or (gone and any(item.cause is Cause.CHANGE for item in found[key]))
            or not gone.isdisjoint(by_name[key.kind].sections)
        ),
        exposures=tuple(
            Exposure(key=key, text="; ".join(item.text for item in answer.exposed))
            for key, answer in answers.items()
            if answer.exposed
        ),
    )


def precondition(observation: Observation, compared: tuple[Difference, ...]) -> str:
    """The digest of the observed values that `compared` speaks of; equal as long as none of them moved."""
    return digest_fields({item.path: observation.fields.get(item.path, ABSENT) for item in compared})


def _guarded(action: Action, observation: Observation) -> Action:
    if action.precondition is not None or not action.differences:
        return action
    return replace(action, precondition=precondition(observation, action.differences))


def _planning_order(kinds: Sequence[Kind], wanted: Mapping[Key, Wanted]) -> tuple[Key, ...]:
    rank = {kind.name: at for at, kind in enumerate(kinds)}
    return tuple(sorted(wanted, key=lambda key: (rank[key.kind], key.name)))


def _state(observation: Observation, wanted: Wanted) -> str:
    """What makes a plan stale when it changes: the compared values of one resource, or that they cannot be read."""
    if observation.unknown is not None:
        return "unknown"
    paths = wanted.applied.keys() | (wanted.resource.fields.keys() if wanted.resource is not None else set())
    return digest_fields({path: observation.fields.get(path, ABSENT) for path in paths})


def _connected(wanted: Mapping[Key, Wanted], planned: Mapping[Key, tuple[Action, ...]]) -> list[Action]:
    """The actions with the needs that follow from the needs of their resources."""
    connected = []
    for key, actions in planned.items():
        resource = wanted[key].resource
        before = tuple(
            action.id
            for need in sorted(resource.needs if resource is not None else ())
            for action in planned.get(need, ())
            # What itself waits for this resource (a reload for the restart) cannot come before it.
            if not any(mine.id in action.needs for mine in actions)
        )
        connected += [
            replace(action, needs=tuple(dict.fromkeys((*action.needs, *before)))) if before else action
            for action in actions
        ]
    return connected


def _blocked(
    answers: Sequence[KindPlan],
    planned: Mapping[Key, tuple[Action, ...]],
    wanted: Mapping[Key, Wanted],
    unknown: tuple[Unknown, ...],
) -> tuple[Blocked, ...]:
    """What forbids the plan: all that the kinds found, and actions on something that needs what could not be observed."""
    found = [item for answer in answers for item in answer.blocked]
    blind = {item.key: item.reason for item in unknown}
    for key, actions in planned.items():
        resource = wanted[key].resource
        found += [
            Blocked(
                key=key,
                code="needs_unknown",
                message=f"cannot plan {key}: {need}, which it needs, could not be observed: {blind[need]}",
            )
            for need in sorted(resource.needs & blind.keys() if resource is not None and actions else ())
        ]
    return tuple(found)
