"""The way back: when a run is not healthy, the last confirmed generation is applied by the same path, once.

Where there is none yet, every action that can be taken back is taken back, the last one first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import trio

from reconciler.engine import account
from reconciler.engine.aftermath import UNDO
from reconciler.engine.execute import StepResult, execute
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Outcome, Progress
from reconciler.engine.standing import of_one_hold
from reconciler.engine.steps import begin_run, steps_of
from reconciler.engine.upkeep import Upkeep, is_done_by_now
from reconciler.engine.verify import verify
from reconciler.engine.window import Window, end_run, paid
from reconciler.errors import OpenClawError
from reconciler.journal import Intent, Journal, JournalError, Run
from reconciler.model import Condition, Generation, Key, Note, Result, Status

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine

T = TypeVar("T")

# Makes the goal that leads back to a generation, with notes for what cannot be restored. It resolves the secrets of
# today; where one gives nothing now it has the value of then, or OpenClawError is raised because that cannot be had any more.
GoalOf: TypeAlias = "Callable[[Generation], tuple[Goal, tuple[Note, ...]]]"


async def roll_back(engine: Engine, window: Window, reason: str) -> Outcome:
    """Takes a run back. The caller holds the writer lock. The operator's file is left as it is.

    The rejected document is quarantined by its digest before anything is taken back: whoever dies here leaves a
    journal that says where to go.
    """
    journal, now = engine.journal(), engine.now
    target = await _thread(journal.last_confirmed)
    number = target.number if target is not None else 0
    where = f"generation {number}" if number else "what was there before"
    engine.report(Progress(what="rolling_back", text=f"{reason}; going back to {where}"))
    await _thread(engine.make_room)
    await _thread(partial(_record_way_back, journal, window, reason, now(), number))
    try:
        failure = await (
            _undo_document(engine, window.run, window.steps)
            if target is None
            else _restore(engine, window.run, window.gates, target, reason)
        )
    except JournalError:
        # An effect may be without its result. The run stays open, so that the next writer looks, and goes on from there.
        raise
    except OpenClawError as err:
        failure = err.message
    result, told = _verdict(reason, failure)
    await paid(engine, partial(_record, engine, window.run, tuple(window.gates), result, told, number))
    await end_run(engine, window, result, told)
    engine.report(Progress(what=result.value, text=told))
    return window.outcome(result, told, rolled_back_to=number if failure is None else None)


def _record_way_back(journal: Journal, window: Window, reason: str, at: float, number: int) -> None:
    # In one commit: held back and not taken back would be neither.
    with journal.transaction():
        journal.quarantine(window.goal.digest, reason, window.run, at)
        journal.set_generation_result(window.generation, Result.ROLLING_BACK, reason)
        journal.set_run(window.run, Result.ROLLING_BACK, at, reason=reason, target_generation=number)


def way_back_from(run: str) -> str:
    """The cause of the run that leads back from the run with this id."""
    return f"rollback of {run}"


async def resume_roll_back(engine: Engine, run: Run, way_back: Run | None, wanted: Goal) -> Outcome:
    """Goes on with a rollback whose writer died in it, and with its `way_back` where that was begun. The caller holds the writer
    lock, and wants to lead to `wanted`.
    """
    journal = engine.journal()
    number = run.target_generation or 0
    target = await _thread(partial(journal.generation, number))
    intents = await _thread(partial(journal.actions_of, run.id))
    touched = tuple(dict.fromkeys(intent.action.key for intent in intents))
    where = f"generation {number}" if target is not None else "what was there before"
    engine.report(Progress(what="rolling_back", text=f"{run.reason}; going on with the way back to {where}"))
    await _thread(engine.make_room)
    try:
        if target is not None:
            failure = await _restore(engine, run.id, touched, target, run.reason, begun=way_back)
        else:
            failure = await _undo_document(engine, run.id, left_of(intents))
    except JournalError:
        # An effect may be without its result. The run stays open, so that the next writer looks, and goes on from there.
        raise
    except OpenClawError as err:
        failure = err.message
    result, told = _verdict(run.reason, failure)
    await paid(engine, partial(_record, engine, run.id, touched, result, told, number))
    if run.generation is not None:
        await paid(engine, partial(journal.set_generation_result, run.generation, result, told))
    await paid(engine, partial(journal.set_run, run.id, result, engine.now(), reason=told))
    engine.report(Progress(what=result.value, text=told))
    return Outcome(
        run=run.id,
        cause=run.cause,
        result=result,
        plan=(await engine.plan(wanted, journal)).plan,
        generation=run.generation or 0,
        rolled_back_to=number if failure is None else None,
        reason=told,
    )


def _verdict(reason: str, failure: str | None) -> tuple[Result, str]:
    if failure is None:
        return Result.ROLLED_BACK, reason
    return Result.ROLLBACK_FAILED, f"{reason}; going back failed too: {failure}"


async def _restore(
    engine: Engine,
    rejected: str,
    gate_keys: Iterable[Key],
    target: Generation,
    reason: str,
    begun: Run | None = None,
) -> str | None:
    """Applies `target`; returns why that did not work, or None. `begun`: the run that another process did that by, and that died
    before its end.
    """
    journal, now = engine.journal(), engine.now
    goal, notes = await _thread(partial(engine.goal_of, target))
    planned = await engine.plan(goal, journal, notes)
    for note in notes:
        engine.report(Progress(what="note", text=note.message))
    if not planned.plan.actions:
        if planned.plan.unknown:
            return planned.plan.unseen
        # Nothing of the rejected generation is left to take back; what is sick is sick for another reason. What another process
        # put back has its window here: that it is well at this moment shows as little as for anything else that was done.
        keys, seconds = [*gate_keys], 0.0
        if begun is not None:
            keys += [intent.action.key for intent in await _thread(partial(journal.actions_of, begun.id))]
            seconds = goal.desired.policy.verify_seconds
        gates = {key: goal.resources[key] for key in keys if key in goal.resources}
        upkeep = Upkeep(engine, goal, begun.id) if begun is not None else None
        verdict = await verify(gates, engine.kinds, engine.world(goal), seconds, undone=gates, keep_up=upkeep)
        await paid(engine, partial(account.record_health, journal, (), verdict, target.number, now()))
        if verdict.healthy:
            await paid(engine, partial(journal.set_given, target.number, goal.given))
        if begun is not None:
            ended = Result.CONFIRMED if verdict.healthy else Result.FAILED
            await paid(engine, partial(journal.set_run, begun.id, ended, now(), reason=verdict.reason or reason))
        return None if verdict.healthy else verdict.reason
    steps = await begin_run(engine, planned, cause=way_back_from(rejected), target=target.number)
    results = await execute(planned.plan.actions, steps.perform)
    # What could not be seen is not back, whatever became of the rest.
    failed = next((step.error for step in results if step.result != "done"), planned.plan.unseen or None)
    record = partial(account.record_applied, journal, goal, planned.wanted, planned.observations, results)
    await paid(engine, record)
    touched = [step for step in results if step.result != "skipped"]
    gates = await _thread(partial(account.gates, journal, goal, touched))
    # What the rejected generation made sick must be well again, whatever this way back had to do for it.
    gates |= {key: goal.resources[key] for key in gate_keys if key in goal.resources}
    # What somebody else moves meanwhile is drift, and no reason to call it not back.
    seconds = goal.desired.policy.verify_seconds
    upkeep = Upkeep(engine, goal, steps.run, results)
    verdict = await verify(gates, engine.kinds, steps.world, seconds, undone=gates, keep_up=upkeep)
    if failed and verdict.healthy and not planned.plan.unknown and await is_done_by_now(engine, goal, results):
        failed, results = None, ()
    failure = failed if failed is not None else (None if verdict.healthy else verdict.reason)
    await paid(engine, partial(account.record_health, journal, results, verdict, target.number, now()))
    ended = Result.CONFIRMED if failure is None else Result.FAILED
    if failure is None:
        await paid(engine, partial(journal.set_given, target.number, goal.given))
    await paid(engine, partial(journal.set_run, steps.run, ended, now(), reason=failure or reason))
    return failure


def left_of(intents: Sequence[Intent]) -> tuple[StepResult, ...]:
    """What a run did, as far as is known, and that was not taken back yet, as steps to be taken back."""
    # What was taken back already is not ours any more: somebody else may have written there since.
    over = {intent.action.id for intent in intents if intent.result == "done"}
    return tuple(
        StepResult(action=intent.action, result="failed")
        for intent in intents
        if not intent.action.id.endswith(UNDO) and intent.action.id + UNDO not in over
    )


async def _undo_document(engine: Engine, run: str, done: Sequence[StepResult]) -> str | None:
    """Takes back this run, then those right before it that led to the same document; returns why one was not, or None."""
    journal = engine.journal()
    mine = await _thread(partial(journal.run, run))
    rejected = await _thread(partial(_generation_of, journal, run))
    assert rejected is not None
    failures = await _undo_all(engine, run, done, rejected)
    for earlier in await _thread(journal.runs):
        if earlier.id == run:
            continue
        if mine is None or earlier.document_digest != mine.document_digest:
            break
        steps = left_of(await _thread(partial(journal.actions_of, earlier.id)))
        # One that died before it recorded a generation led to none; what it did is taken back with the secrets of the last.
        generation = await _thread(partial(_generation_of, journal, earlier.id)) or rejected
        failed = await _undo_all(engine, earlier.id, steps, generation, earlier=True)
        # What led to the state before us is as it was, whatever hindered a way back in between.
        failures = {key: text for key, text in failures.items() if key not in {step.action.key for step in steps}}
        failures |= failed
    return next(iter(failures.values()), None)


def _generation_of(journal: Journal, run_id: str) -> Generation | None:
    run = journal.run(run_id)
    return journal.generation(run.generation) if run is not None and run.generation is not None else None


async def _undo_all(
    engine: Engine, run: str, done: Sequence[StepResult], generation: Generation, *, earlier: bool = False
) -> dict[Key, str]:
    """Takes back every action of a run that can be, in reverse, and what takes over what was put back after that, in order;
    returns why those were not that were not.

    Of an `earlier` run only what still stands: since then somebody else may have written there.
    """
    goal, _notes = await _thread(partial(engine.goal_of, generation))
    journal = engine.journal()
    steps = steps_of(engine, run, goal, await _thread(journal.applied), spends=True)
    failures: dict[Key, str] = {}
    # A step that failed may have had half of its effect: its undo is idempotent, so it is taken back as well.
    back_to = [step for step in done if not step.stale and step.result in ("done", "failed")]
    first = [step for step in reversed(back_to) if step.action.undo is not None and not step.action.undo.follows]
    for step in (*first, *(step for step in back_to if step.action.undo is not None and step.action.undo.follows)):
        if earlier and not (await steps.left(step.action)).happened:
            continue
        with trio.CancelScope(shield=True):
            back = await steps.undo(step.action)
        if back.result != "done":
            failures[step.action.key] = back.error or ""
    return failures


def _record(engine: Engine, run: str, keys: Iterable[Key], result: Result, reason: str, number: int) -> None:
    journal = engine.journal()
    # In one commit, and so one flush, and as few pages of a disk that may be full.
    with journal.transaction():
        target = journal.generation(number) if result is Result.ROLLED_BACK else None
        # What a person went back from, and is in force again, is held back no longer: they may not be there to say so.
        if target is not None and (again := of_one_hold(journal.superseded(), target)):
            journal.release(*(held.digest for held in again))
        for key in keys:
            journal.record_event(engine.now(), key, result.value, reason, run_id=run)
            kept = [item for item in journal.conditions().get(key, ()) if item.type not in ("RolledBack", "Degraded")]
            back = result is Result.ROLLED_BACK
            outcome = Condition(
                type="RolledBack" if back else "Degraded",
                status=Status.TRUE,
                reason="NotHealthy" if back else "RollbackFailed",
                message=reason,
                observed_generation=number,
            )
            journal.set_conditions(key, (*kept, outcome), engine.now())


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
