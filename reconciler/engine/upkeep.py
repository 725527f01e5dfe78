"""Keeps up what falls in a window beside which no look may come that would: one that is watched under the writer lock, and that
of a command, for which no supervisor needs to be there.

It is the plan of a look, for what is down and nothing else, and its actions are further steps of the run whose window it is.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio

from reconciler.engine import account
from reconciler.engine.backoff import Backoff, failed
from reconciler.engine.execute import StepResult, execute
from reconciler.engine.goal import Goal
from reconciler.engine.steps import steps_of
from reconciler.engine.window import paid
from reconciler.model import Key
from reconciler.planning.agreed import only, without

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine


class Upkeep:
    """Keeps up `goal`, which `run` leads to. `tried` are that run's own steps: what failed in them is not tried again at once."""

    def __init__(self, engine: Engine, goal: Goal, run: str, tried: Iterable[StepResult] = ()) -> None:
        self._engine = engine
        self._goal = goal
        self._run = run
        self._tries: dict[Key, Backoff] = {}
        self._wait(step.action.key for step in tried if step.result == "failed")

    async def __call__(self, down: Collection[Key]) -> None:
        """Has what is `down` started again where a look would, unless that was tried a moment ago. The caller holds the writer
        lock. A step that was begun is finished.
        """
        now = trio.current_time()
        waiting = frozenset(key for key, state in self._tries.items() if state.until > now)
        if waiting.issuperset(down):
            return
        engine = self._engine
        planned = await engine.plan(self._goal, engine.journal())
        plan = without(only(planned.plan, frozenset(down)), waiting | planned.retried)
        applied = {key: item.applied for key, item in planned.wanted.items()}
        steps = steps_of(engine, self._run, self._goal, applied, spends=True)
        await execute(plan.actions, steps.perform)
        # Also what went well: where it is down again it does not stay up, and is not started at full speed.
        self._wait({action.key for action in plan.actions})

    def _wait(self, keys: Iterable[Key]) -> None:
        caps = {kind.name: kind.backoff_cap_seconds for kind in self._engine.kinds}
        for key in keys:
            before = self._tries.get(key, Backoff())
            now = trio.current_time()
            self._tries[key] = failed(before, now=now, cap_seconds=caps[key.kind], random=random.random())


async def is_done_by_now(engine: Engine, goal: Goal, steps: Sequence[StepResult]) -> bool:
    """Whether all is as `goal` declares although one of `steps` failed, as where that was tried again meanwhile, by whoever. What
    was watched to the end of the window was that, and is ours then.
    """
    # What was stale or stopped was not led to by anybody's word, and what lacked descriptors was no gate.
    if any(step.result != "done" and (step.result != "failed" or step.stale or step.short) for step in steps):
        return False
    journal = engine.journal()
    planned = await engine.plan(goal, journal)
    if planned.plan.actions or planned.plan.unknown or planned.plan.blocked:
        return False
    await paid(engine, partial(account.record_applied, journal, goal, planned.wanted, planned.observations, ()))
    return True
