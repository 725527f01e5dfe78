"""Watches whether what was applied serves: gates are probed until the window is over, or until waiting cannot help."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import trio

from reconciler.errors import shortage
from reconciler.kinds import Health, Kind, Resource, World
from reconciler.model import Key

# Until everything is ready a person waits; after that the window only looks for what breaks again.
EAGER_SECONDS = 0.2
CALM_SECONDS = 1.0
PROBE_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a window showed: the health of each gate at its end; `healthy` counts only what we decide ourselves."""

    health: Mapping[Key, Health]
    sick: tuple[Key, ...]

    @property
    def healthy(self) -> bool:
        """True when no gate is sick."""
        return not self.sick

    @property
    def reason(self) -> str:
        """Why it is not healthy, in one line; empty when it is."""
        return "; ".join(
            f"{key} is not ready: {self.health[key].message or self.health[key].reason}" for key in self.sick
        )

    @property
    def unseen(self) -> str:
        """What could not show whether it serves, because a person keeps it from serving, in one line; empty for nothing."""
        return "; ".join(
            f"{key} is not running: {found.message or found.reason}"
            for key, found in sorted(self.health.items())
            if found.excused
        )


async def verify(
    gates: Mapping[Key, Resource],
    kinds: Sequence[Kind],
    world: World,
    window_seconds: float,
    *,
    undone: Collection[Key] = frozenset(),
) -> Verdict:
    """Probes `gates` for `window_seconds` and tells how they were at its end.

    `undone` are keys of which an action was not done: that these are not as declared is known, and makes nobody sick. Ends
    early when a gate says that waiting cannot help. A window of 0 is one look. Cancellation passes at once.

    Raises:
        OSError: as `probe`; in a group.
    """
    external = {kind.name for kind in kinds if kind.external}
    end = trio.current_time() + window_seconds
    while True:
        health = await probe_all(gates, kinds, world)
        sick = tuple(
            key
            for key, found in sorted(health.items())
            if not (found.ready or found.excused or key.kind in external or (found.lagging and key in undone))
        )
        verdict = Verdict(health=health, sick=sick)
        left = end - trio.current_time()
        if left <= 0 or any(health[key].final for key in sick):
            return verdict
        await trio.sleep(min(left, CALM_SECONDS if verdict.healthy else EAGER_SECONDS))


async def probe(kind: Kind, key: Key, resource: Resource, world: World) -> Health:
    """`kind.probe` with its deadline: no answer is not ready.

    Raises:
        OSError: this process lacks what it takes to look (`reconciler.errors.shortage`).
    """
    with trio.move_on_after(PROBE_SECONDS):
        health = await kind.probe(key, resource, world)
        if not health.ready:
            _check_sight()
        return health
    return Health(ready=False, reason="ProbeTimeout", message=f"no answer within {PROBE_SECONDS:g} s")


def _check_sight() -> None:
    """Raises what the system refuses us descriptors by: a kind may have seen nothing for that reason alone, without a word."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as err:
        if shortage(err):
            raise


async def probe_all(resources: Mapping[Key, Resource], kinds: Sequence[Kind], world: World) -> dict[Key, Health]:
    """`probe` of every resource, side by side."""
    by_name = {kind.name: kind for kind in kinds}
    health: dict[Key, Health] = {}

    async def one(key: Key, resource: Resource) -> None:
        health[key] = await probe(by_name[key.kind], key, resource, world)

    async with trio.open_nursery() as nursery:
        for key, resource in resources.items():
            nursery.start_soon(one, key, resource)
    return health
