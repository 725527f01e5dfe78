"""Performs the actions of one run, journalled around their effects, and keeps the account of what was applied.

An action's intent is on disk before its effect and its result after it. Who dies in between leaves an open intent, which the
next writer compares with the world (`engine.recovery`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import trio

from reconciler.engine.aftermath import NOTHING, UNDO, Aftermath, aftermath, settled
from reconciler.engine.ballast import Ballast
from reconciler.engine.execute import StepResult
from reconciler.engine.requests import Progress, Report
from reconciler.errors import OpenClawError, StaleError, lacking
from reconciler.journal import Intent, Journal, JournalFullError
from reconciler.kinds import Applied, AppliedField, Kind, Resource, World
from reconciler.model import Action, Difference, Key
from reconciler.serial import plan_digest

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Planned
    from reconciler.engine.goal import Goal

T = TypeVar("T")


@dataclass(kw_only=True)
class Steps:
    """The steps of one run. `applied` is what the journal says we applied before it; `begun` names intents that are already
    on disk with the head of the run.

    Attributes:
        spends: its intents are worth the ballast, because it makes room on a full disk or goes back. Any other run begins no step
            more once the disk is full.
        ran_full: the disk did, while it was at work.
    """

    run: str
    journal: Journal
    kinds: Mapping[str, Kind]
    resources: Mapping[Key, Resource]
    applied: Mapping[Key, Applied]
    world: World
    report: Report
    begun: set[str] = field(default_factory=set)
    ballast: Ballast | None = None
    spends: bool = False
    ran_full: bool = False

    async def perform(self, action: Action) -> StepResult:
        """Does one action and tells how it ended; never raises for an action that fails.

        Once its intent is written the action is finished, whatever the caller cancels, within its deadline.
        """
        self.report(Progress(what="step_started", text=action.id))
        started = trio.current_time()
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):
            fields, forgotten = account(
                action.differences, self.resources.get(action.key), self.applied.get(action.key, {})
            )
            result = await self._effect(action, fields, forgotten)
        result = replace(result, seconds=trio.current_time() - started)
        self.report(Progress(what="step_ended", text=action.id, step=result))
        return result

    async def undo(self, action: Action) -> StepResult:
        """Takes back an action that was done, as an action of its own (its id ends in `UNDO`)."""
        assert action.undo is not None
        back = Action(
            id=action.id + UNDO,
            key=action.key,
            verb=action.undo.verb,
            cause=action.cause,
            because=replace(action.because, text=f"undo: {action.undo.text}"),
            differences=tuple(_turned(item) for item in action.differences),
            arguments=action.undo.arguments,
            deadline_seconds=action.deadline_seconds,
        )
        self.report(Progress(what="step_started", text=back.id))
        fields, forgotten = settled(back, back.differences, self.applied.get(back.key, {}))
        with trio.CancelScope(shield=True):
            result = await self._effect(back, fields, forgotten)
        self.report(Progress(what="step_ended", text=back.id, step=result))
        return result

    async def _effect(
        self, action: Action, fields: Mapping[str, AppliedField], forgotten: tuple[str, ...]
    ) -> StepResult:
        now = self.world.now
        try:
            await self._intend(action)
        except OpenClawError as err:
            # Without an intent on disk nothing may be done.
            return StepResult(action=action, result="failed", error=err.message, hint=err.hint)
        try:
            # The step is shielded from the caller: its own deadline is the bound.
            with trio.fail_after(action.deadline_seconds):
                note = await self.kinds[action.key.kind].apply(action, self.resources.get(action.key), self.world)
        except Exception as err:  # the one crash boundary of a resource: whatever its kind raises becomes its condition
            message, hint = described(err, action)
            stale = isinstance(err, StaleError)
            left = NOTHING if stale else await self.left(action)
            failed = partial(self.journal.done, self.run, action.id, "failed", now(), error=message)
            await self.record(partial(failed, applied=left.fields, forgotten=left.forgotten))
            short = lacking(err) is not None
            return StepResult(action=action, result="failed", error=message, hint=hint, stale=stale, short=short)
        done = partial(self.journal.done, self.run, action.id, "done", now(), note=note)
        await self.record(partial(done, applied=fields, forgotten=forgotten))
        return StepResult(action=action, result="done", note=note)

    async def left(self, action: Action) -> Aftermath:
        """What is there of an action, found by looking."""
        key = action.key
        return await aftermath(
            action, self.kinds[key.kind], self.resources.get(key), self.applied.get(key, {}), self.world
        )

    async def _intend(self, action: Action) -> None:
        if action.id in self.begun:
            return
        call = partial(self.journal.intend, self.run, action, self.world.now())
        if self.spends:
            await self.record(call)
            return
        if self.ran_full:
            raise JournalFullError(f"cannot {action.verb} {action.key}: the disk ran full")
        try:
            await trio.to_thread.run_sync(call)
        except JournalFullError:
            self.ran_full = True
            raise

    async def record(self, call: Callable[[], T]) -> T:
        """What `call` returns, which writes down what is so already: on a full disk at the price of the ballast.

        Raises:
            JournalFullError: there is no ballast, or its room was not enough.
        """
        try:
            return await trio.to_thread.run_sync(call)
        except JournalFullError:
            if self.ballast is None:
                raise
        self.ran_full = True
        return await trio.to_thread.run_sync(partial(self.ballast.spend_on, call))


async def begin_run(
    engine: Engine,
    planned: Planned,
    *,
    cause: str,
    author: str | None = None,
    commit: str | None = None,
    digest: str | None = None,
    target: int | None = None,
) -> Steps:
    """Writes the head of a run with its first intent, and returns what performs its steps. The caller holds the lock.

    `digest` is that of the plan file it comes from, `target` the generation that it leads back to.
    """
    plan, goal, journal = planned.plan, planned.goal, engine.journal()
    run = uuid4().hex[:12]
    begin = partial(
        journal.begin_run,
        run,
        cause=cause,
        author=author,
        commit=commit,
        plan_digest=digest or plan_digest(plan),
        document_digest=goal.digest,
        at=engine.now(),
        first_intent=plan.actions[0],
        target_generation=target,
    )
    spends = planned.spends or target is not None
    await trio.to_thread.run_sync(partial(engine.ballast.spend_on, begin) if spends else begin)
    applied = {key: item.applied for key, item in planned.wanted.items()}
    return steps_of(engine, run, goal, applied, begun=(plan.actions[0].id,), spends=spends)


def steps_of(
    engine: Engine,
    run: str,
    goal: Goal,
    applied: Mapping[Key, Applied],
    *,
    begun: Iterable[str] = (),
    spends: bool,
) -> Steps:
    """The steps of `run`, which leads to `goal`."""
    return Steps(
        run=run,
        journal=engine.journal(),
        kinds={kind.name: kind for kind in engine.kinds},
        resources=goal.resources,
        applied=applied,
        world=engine.world(goal, run),
        report=engine.report,
        begun=set(begun),
        ballast=engine.ballast,
        spends=spends,
    )


def step_of(intent: Intent) -> StepResult:
    """How the step of a run ended that another one leads, by the journal."""
    seconds = max(0.0, intent.ended_at - intent.at) if intent.ended_at is not None else 0.0
    result = intent.result or "interrupted"
    return StepResult(action=intent.action, result=result, seconds=seconds, error=intent.error, note=intent.note)


def frees(action: Action) -> bool:
    """Whether the action makes room on the disk."""
    return any(consequence.what == "bytes_freed" for consequence in action.consequences)


def makers_of_room(actions: Sequence[Action]) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
    """Those of `actions` (in dependency order) that make room, with what they need; and the others."""
    first: set[str] = set()
    for action in reversed(actions):
        if frees(action) or action.id in first:
            first |= {action.id, *action.needs}
    room = tuple(action for action in actions if action.id in first)
    return room, tuple(action for action in actions if action.id not in first)


def account(
    differences: Sequence[Difference], resource: Resource | None, applied: Applied
) -> tuple[dict[str, AppliedField], tuple[str, ...]]:
    """What an action that was done means for the account: fields that are ours now, and paths that are no longer."""
    fields: dict[str, AppliedField] = {}
    forgotten: list[str] = []
    for item in differences:
        if resource is None or item.path not in resource.fields:
            forgotten.append(item.path)
            continue
        before = applied.get(item.path)
        fields[item.path] = AppliedField(
            value=item.desired,
            former=before.former if before is not None else item.observed,
            defaulted=item.path in resource.defaulted,
        )
    return fields, tuple(forgotten)


def described(err: Exception, action: Action) -> tuple[str, str | None]:
    """What a failure means for people: the text and a hint. Unexpected errors are named by their class, never by values."""
    if isinstance(err, OpenClawError):
        return err.message, err.hint
    if isinstance(err, trio.TooSlowError):
        return f"cannot {action.verb} {action.key}: not done within {action.deadline_seconds:g} s", None
    if isinstance(err, OSError) and err.strerror:
        where = f" {err.filename!r}" if err.filename else ""
        return f"cannot {action.verb} {action.key}: {err.strerror.lower()}{where}", None
    return f"cannot {action.verb} {action.key}: a bug of ours ({type(err).__name__})", None


def _turned(item: Difference) -> Difference:
    # What was last applied stays what it was before the action: the account goes back to it.
    return replace(item, desired=item.observed, observed=item.desired)
