"""Observes every declared kind and all that the journal says we own, side by side, each with its own deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio

from reconciler.errors import OpenClawError
from reconciler.kinds import Applied, Kind, Observation, Resource, Wanted, World
from reconciler.model import Key

# A kind that has not answered by then is unknown: nothing is planned for it, and the others do not wait.
OBSERVE_SECONDS = 10.0


def wanted_of(
    resources: Mapping[Key, Resource], applied: Mapping[Key, Applied], kinds: Sequence[Kind]
) -> dict[Key, Wanted]:
    """What is to be observed: all that is declared, and what we applied once and is declared no longer.

    What a kind that this program does not have once applied is left alone: nobody here can give it back.
    """
    known = {kind.name for kind in kinds}
    keys = resources.keys() | {key for key in applied if key.kind in known}
    return {key: Wanted(key=key, resource=resources.get(key), applied=applied.get(key, {})) for key in sorted(keys)}


async def observe(wanted: Mapping[Key, Wanted], kinds: Sequence[Kind], world: World) -> dict[Key, Observation]:
    """One observation for each of `wanted`. What fails or takes too long is unknown, with the reason.

    Changes nothing. Cancellation passes at once.
    """
    found: dict[Key, Observation] = {}

    async def one(kind: Kind, mine: tuple[Wanted, ...]) -> None:
        for observation in await observe_kind(kind, mine, world):
            found[observation.key] = observation

    async with trio.open_nursery() as nursery:
        for kind in kinds:
            if mine := tuple(item for key, item in wanted.items() if key.kind == kind.name):
                nursery.start_soon(one, kind, mine)
    return found


async def observe_kind(kind: Kind, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
    """`kind.observe` with its deadline, its failures turned into unknown observations."""
    reason = f"no answer within {OBSERVE_SECONDS:g} s"
    with trio.move_on_after(OBSERVE_SECONDS):
        try:
            return await kind.observe(wanted, world)
        except OpenClawError as err:
            reason = err.message
        except OSError as err:
            reason = str(err)
    return tuple(Observation(key=item.key, unknown=reason) for item in wanted)
