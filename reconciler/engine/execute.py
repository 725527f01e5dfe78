"""Walks a graph of actions: independent ones side by side, a failed one stops only what needs it.

Knows neither kinds nor the journal: what one step does is handed in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from reconciler.model import Action

T = TypeVar("T")

# More at once would only wait for the same disk and the same two flushes each.
MAX_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """How one action ended: `result` is done, failed, skipped (something it needs failed) or stopped (by a person).

    `short`: it failed only because there were no more descriptors, memory or room to do it with. `note`: what one that is done
    left as it is because that moved since the plan.
    """

    action: Action
    result: str
    seconds: float = 0.0
    error: str | None = None
    hint: str | None = None
    note: str | None = None
    stale: bool = False
    short: bool = False


Perform = Callable[[Action], Awaitable[StepResult]]


async def execute(
    actions: Sequence[Action],
    perform: Perform,
    *,
    stopping: trio.Event | None = None,
    before: Sequence[StepResult] = (),
) -> tuple[StepResult, ...]:
    """Performs `actions` (in dependency order) and returns their results in the same order. They may need what ended `before`.

    `perform` never raises for a step that fails. Once `stopping` is set no further step begins and those that run are
    finished. Cancellation cancels the running steps.
    """
    ended = {step.action.id: step for step in before}
    over = {action.id: trio.Event() for action in actions}
    limiter = trio.CapacityLimiter(MAX_AT_ONCE)

    async def one(action: Action) -> None:
        for need in action.needs:
            if need in over:
                await over[need].wait()
        failed = next((need for need in action.needs if need in ended and ended[need].result != "done"), None)
        async with limiter:
            if failed is not None:
                result = StepResult(action=action, result="skipped", error=f"needs {failed}, which was not done")
            elif stopping is not None and stopping.is_set():
                result = StepResult(action=action, result="stopped", error="stopped before it began")
            else:
                result = await perform(action)
        ended[action.id] = result
        over[action.id].set()

    async with trio.open_nursery() as nursery:
        for action in actions:
            nursery.start_soon(one, action)
    return tuple(ended[action.id] for action in actions)


async def unless_stopping(stopping: trio.Event, call: Callable[[], Awaitable[T]]) -> T | None:
    """What `call` returns; None where somebody wished to stop before it was over: then it is cancelled, or never begun."""

    async def give_up(scope: trio.CancelScope) -> None:
        await stopping.wait()
        scope.cancel()

    result: T | None = None
    if not stopping.is_set():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up, nursery.cancel_scope)
            result = await call()
            nursery.cancel_scope.cancel()
    return result
