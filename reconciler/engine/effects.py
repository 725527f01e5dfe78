"""The effects of a plan: its steps, what they mean for the account, and the window that they are to be watched in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from reconciler.engine import account
from reconciler.engine.execute import StepResult, execute
from reconciler.engine.requests import Outcome, Progress, Request
from reconciler.engine.settle import settle
from reconciler.engine.standing import is_new, is_spoilt, is_unproven
from reconciler.engine.steps import Steps, begin_run, makers_of_room
from reconciler.engine.verify import Verdict
from reconciler.engine.window import Window, begin_window, see_again
from reconciler.errors import RollbackFailedError, innermost
from reconciler.journal import Journal, JournalFullError
from reconciler.model import Action, Result

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Planned

T = TypeVar("T")


async def perform(
    engine: Engine, planned: Planned, request: Request, journal: Journal
) -> tuple[Outcome, Window | None]:
    """The effects of a plan with actions, and the window in which they are to be watched. The caller holds the writer lock.

    Raises:
        JournalFullError: there was no room for its head; nothing was done.
        RollbackFailedError: the disk ran full, and what was done cannot be taken back.
    """
    await see_again(engine, planned, journal)
    steps = await begin_run(
        engine,
        planned,
        cause=request.cause,
        author=request.author,
        commit=request.commit,
        digest=request.expected_digest,
    )
    try:
        if request.expected_digest is not None:
            await steps.record(partial(journal.mark_plan_used, request.expected_digest, engine.now()))
        results = await _performed(engine, planned.plan.actions, steps)
        return await _applied(engine, planned, request, journal, steps, results)
    except (JournalFullError, ExceptionGroup) as err:
        if not isinstance(innermost(err), JournalFullError):
            raise
        raise RollbackFailedError(
            "cannot go on, nor back: the disk is full, and what was done of this run so far is on the host",
            hint="free some space: the next run goes on from there",
        ) from err


async def _performed(engine: Engine, actions: Sequence[Action], steps: Steps) -> tuple[StepResult, ...]:
    """Performs the steps of a run. One that spends the ballast makes room first, then goes on as any other, or not at all."""
    room, rest = makers_of_room(actions) if steps.spends else (actions, ())
    made = await execute(room, steps.perform, stopping=engine.stopping)
    if not rest:
        return made
    try:
        await engine.keep_room()
    except JournalFullError as err:
        # Without any effect before it there is nothing to record, or to watch.
        ended = "failed" if any(step.result == "done" for step in made) else "skipped"
        short = partial(StepResult, result=ended, error=err.message, hint=err.hint, short=True)
        left = tuple(short(action=each) for each in rest)
        for step in left:
            engine.report(Progress(what="step_ended", text=step.action.id, step=step))
        return *made, *left
    steps.spends, steps.ran_full = False, False
    return *made, *await execute(rest, steps.perform, stopping=engine.stopping, before=made)


async def _applied(
    engine: Engine,
    planned: Planned,
    request: Request,
    journal: Journal,
    steps: Steps,
    results: tuple[StepResult, ...],
) -> tuple[Outcome, Window | None]:
    goal = planned.goal
    touched = [step for step in results if step.result in ("done", "failed") and not step.stale]
    if (first := results[0]).result == "stopped":
        # Its intent went to disk with the head of the run.
        stopped = partial(journal.done, steps.run, first.action.id, "stopped", engine.now(), error=first.error)
        await steps.record(stopped)
    if not touched:
        reason = next((step.error for step in results if step.error), "") or "stopped"
        ended = Result.INTERRUPTED if any(step.result == "stopped" for step in results) else Result.FAILED
        await steps.record(partial(journal.set_run, steps.run, ended, engine.now(), reason=reason))
        return Outcome(
            run=steps.run, cause=request.cause, result=ended, plan=planned.plan, steps=results, reason=reason,
            generation=planned.plan.generation,
        ), None  # fmt: skip
    # A cure of drift is no new desired state: the generation in force stays the one that it is. A person who leads there
    # after a rollback that failed wants it to be what is in force, and to be told that it is.
    again = request.approvals.person and await _thread(partial(is_spoilt, journal))
    recorded = again or await _thread(partial(is_new, journal, goal.digest))
    record = partial(account.record_applied, journal, goal, planned.wanted, planned.observations, results)
    await steps.record(record)
    whole = recorded and await _thread(partial(is_unproven, journal, steps.run))
    gates, left = await _thread(partial(account.window_of, journal, goal, touched, whole=whole))
    # Whoever lacked descriptors or memory to do it can say nothing of the document by what it was not done to.
    short = {step.action.key for step in touched if step.short}
    gates = {key: resource for key, resource in gates.items() if key not in short}
    window = Window(
        run=steps.run,
        cause=request.cause,
        goal=goal,
        plan=planned.plan,
        steps=results,
        generation=planned.plan.generation,
        recorded=recorded,
        spends=steps.spends,
        gates=gates,
        left_seconds=left,
    )
    window = await steps.record(partial(begin_window, window, request, journal, engine.now()))
    if steps.ran_full and not steps.spends:
        # There is nothing to wait for, and nobody may be waiting.
        return await settle(engine, window, Verdict(health={}, sick=()), ran_full=True), None
    return window.outcome(Result.VERIFYING, ""), window


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
