"""The order of actions: a topological one that is the same for the same plan. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from reconciler.errors import BlockedError
from reconciler.model import Action


def order(actions: Sequence[Action]) -> tuple[Action, ...]:
    """`actions` with each one after all that it needs, and otherwise in the order given.

    Raises:
        BlockedError: they need each other in a circle; the text names it.
    """
    place = {action.id: at for at, action in enumerate(actions)}
    missing = {action.id: sum(need in place for need in action.needs) for action in actions}
    dependents = dependents_of(actions)
    ready = [place[name] for name, count in missing.items() if count == 0]
    heapify(ready)
    ordered: list[Action] = []
    while ready:
        action = actions[heappop(ready)]
        ordered.append(action)
        for name in dependents.get(action.id, ()):
            missing[name] -= 1
            if missing[name] == 0:
                heappush(ready, place[name])
    if len(ordered) < len(actions):
        circle = _circle({action.id: action.needs for action in actions if missing[action.id]})
        raise BlockedError(
            f"cannot order the actions: they need each other: {' -> '.join(circle)}",
            hint="take one of these needs out of the document",
        )
    return tuple(ordered)


def dependents_of(actions: Iterable[Action]) -> dict[str, list[str]]:
    """For each action id, the ids of the actions that need it directly."""
    dependents: dict[str, list[str]] = {}
    for action in actions:
        for need in action.needs:
            dependents.setdefault(need, []).append(action.id)
    return dependents


def _circle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """One circle among `needs`, each name of which leads to another one in it."""
    path = [next(iter(needs))]
    while True:
        name = next(need for need in needs[path[-1]] if need in needs)
        if name in path:
            return [*path[path.index(name) :], name]
        path.append(name)
