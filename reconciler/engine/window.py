"""The verify window of a run: what must be healthy for how long, and how the journal has its beginning and its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from reconciler.engine import account
from reconciler.engine.execute import StepResult
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Outcome, Request
from reconciler.engine.verify import KeepUp, Prolong, Verdict, probe_all, verify
from reconciler.journal import Journal, JournalFullError, Run
from reconciler.kinds import Health, Kind, Resource, World
from reconciler.model import Key, Plan, Result, Status

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Planned

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A run whose effects are done: what was done, what must be healthy, and for how much longer that is watched.

    `recorded` says that `generation` is this run's own, and not the one that was in force before and still is. `inherited`: a
    process that died did its steps, and this one none of them. `spends`: its steps had the ballast. `whole_seconds`: how long it
    is when it begins anew, where that is more than what is left of it; `since`: when it was begun by another process.
    """

    run: str
    cause: str
    goal: Goal
    plan: Plan
    steps: tuple[StepResult, ...]
    generation: int
    recorded: bool = True
    inherited: bool = False
    spends: bool = False
    gates: Mapping[Key, Resource]
    left_seconds: float
    whole_seconds: float = 0.0
    since: float | None = None

    async def verdict(
        self, kinds: Sequence[Kind], world: World, prolong: Prolong, keep_up: KeepUp | None = None
    ) -> Verdict:
        """Watches it to its end, which `prolong` is told where it is put off; `keep_up` as in `verify`."""
        # What this run did not touch may still be behind by one before it.
        undone = self.gates.keys() - {step.action.key for step in self.steps if step.result == "done"}
        whole = max(self.left_seconds, self.whole_seconds)
        # What nobody disturbed has a window of one look, which may come while it is down for a reason of its own.
        is_quiet = bool(self.steps) and not account.disturbed(self.steps) and whole <= 0
        return await verify(
            self.gates,
            kinds,
            world,
            self.left_seconds,
            undone=undone,
            undisturbed=self.gates if is_quiet else (),
            whole_seconds=whole,
            since=self.since,
            prolong=prolong,
            keep_up=keep_up,
        )

    def outcome(self, result: Result, reason: str, rolled_back_to: int | None = None) -> Outcome:
        """How this run ended, as its caller is told."""
        return Outcome(
            run=self.run,
            cause=self.cause,
            result=result,
            plan=self.plan,
            steps=() if self.inherited else self.steps,
            generation=self.generation,
            rolled_back_to=rolled_back_to,
            reason=reason,
        )


async def see_again(engine: Engine, planned: Planned, journal: Journal) -> None:
    """Looks once more, before anything is done, at what was not ready when somebody last looked: it may be well since, and must
    stay so through the window that comes.
    """
    stored = await _thread(journal.conditions)
    resources = planned.goal.resources
    doubtful = {
        key: resources[key]
        for key, items in stored.items()
        if key in resources and any(item.type == "Ready" and item.status is not Status.TRUE for item in items)
    }
    if not doubtful:
        return
    health: dict[Key, Health] = {}
    try:
        health = await probe_all(doubtful, engine.kinds, engine.world(planned.goal))
    except* OSError:
        # What this process lacks to look with is said by what it is about to do.
        pass
    ready = Verdict(health={key: found for key, found in health.items() if found.ready}, sick=())
    # A disk that is full keeps nobody from making room.
    with suppress(JournalFullError):
        await _thread(partial(account.record_health, journal, (), ready, planned.plan.generation, engine.now()))


def begin_window(window: Window, request: Request, journal: Journal, now: float) -> Window:
    """Records in one commit that a run is applied and is being watched; returns it with its generation."""
    number = window.generation
    with journal.transaction():
        if window.recorded:
            number = account.record_generation(journal, window.goal, request, Result.VERIFYING, at=now)
        journal.set_run(
            window.run,
            Result.VERIFYING,
            now,
            verify_since=now,
            verify_window=window.left_seconds,
            verify_boot=boot_id(),
            target_generation=window.plan.generation,
            generation=number,
        )
    return replace(window, generation=number)


async def begin_anew(engine: Engine, run: str, seconds: float) -> None:
    """Writes down that the window of a run begins now, and is so long. The caller holds the writer lock."""
    write = partial(engine.journal().set_run, run, Result.VERIFYING, engine.now())
    anew = partial(write, verify_since=engine.now(), verify_window=seconds, verify_boot=boot_id())
    await paid(engine, anew)


async def end_run(engine: Engine, window: Window, result: Result, reason: str) -> None:
    """Writes the end of a run and of its generation into the journal, in one commit; where the disk is full the ballast pays."""
    journal, at = engine.journal(), engine.now()

    def write() -> None:
        with journal.transaction():
            if window.recorded:
                journal.set_generation_result(window.generation, result, reason)
            journal.set_run(window.run, result, at, reason=reason)
            if result is Result.CONFIRMED:
                account.end_loss(journal, window.gates, window.generation, window.run, at)

    await paid(engine, write)


def boot_id() -> str:
    """What tells this boot of the machine from any other (proc(5), random/boot_id); empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def seconds_left(run: Run, now: float, boot: str) -> float:
    """What is left of a window. After a reboot it is the whole of it: nothing that ran then runs now. Pure."""
    whole = run.verify_window or 0.0
    if run.verify_since is None or (run.verify_boot and run.verify_boot != boot):
        return whole
    # A wall clock that was set back must not make the window longer than it is.
    return min(whole, max(0.0, whole - (now - run.verify_since)))


async def paid(engine: Engine, call: Callable[[], T]) -> T:
    """What `call` returns, which writes how a run went: on a full disk at the price of the ballast."""
    return await _thread(partial(engine.ballast.spend_on, call))


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
