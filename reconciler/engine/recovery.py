"""What a writer finds that died before it, and how it is finished. By observing; never by asking the operator.

Called under the writer lock, before a new plan is made: the plan itself does the rest, because it is made from the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from reconciler.engine import account
from reconciler.engine.aftermath import NOTHING, aftermath
from reconciler.engine.execute import StepResult, unless_stopping
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Outcome, Progress
from reconciler.engine.rollback import resume_roll_back, way_back_from
from reconciler.engine.settle import is_watched, settle
from reconciler.engine.window import Window, begin_anew, boot_id, seconds_left
from reconciler.errors import OpenClawError, RollbackFailedError
from reconciler.journal import Intent, Journal, OpenRun, Run
from reconciler.kinds import Applied
from reconciler.model import Generation, Note, Result
from reconciler.planning.agreed import without

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Planned

T = TypeVar("T")

DIED = "its writer died before its end was recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What became of open runs. `stopped`: a person wished to stop while a window was waited out, which is left open again.

    `taken_back`: the very document that is wanted now was seen to fail, and was just taken back. `window`: it is in force, and
    its window is not over, which needs no lock to be watched; `planned` is what was seen of the host. `overtaken` are runs, with
    the reason, that stay open until something takes their place (`give_way`).
    """

    stopped: Outcome | None = None
    taken_back: Outcome | None = None
    window: Window | None = None
    planned: Planned | None = None
    overtaken: tuple[tuple[Run, str], ...] = ()


async def recover(engine: Engine, goal: Goal, left_open: Sequence[OpenRun], *, hands_over: bool) -> Recovered:
    """Ends the runs that their writers left open. The caller holds the writer lock and is about to lead to `goal`.

    A window that nobody watches any more is waited out and confirmed or rolled back, unless another run came after it, the caller
    brings another document, or the host has moved since: then what came, or comes now, takes its place. The rollback target stays
    the last confirmed generation. Who does nothing to the host before it gets the window to watch (`hands_over`):
    nobody else is kept from the lock by it.
    """
    # All accounts first: what is done below changes the world that they are settled by.
    for found in left_open:
        for intent in found.intents:
            await _settle(engine, goal, intent)
    overtaken, back = [], None
    (newest,) = await _thread(partial(engine.journal().runs, 1))
    ways_back = {found.run.cause: found.run for found in left_open if found.run.state is Result.APPLYING}
    for found in left_open:
        if found.run.state is Result.APPLYING:
            overtaken.append((found.run, f"{DIED}; the next run went on from there"))
        elif found.run.state is Result.ROLLING_BACK:
            ended = await resume_roll_back(engine, found.run, ways_back.get(way_back_from(found.run.id)), goal)
            back = ended if found.run.document_digest == goal.digest else back
        elif is_watched(found.run, engine.host.state, engine.now()):
            continue
        elif found.run.id != newest.id:
            # As for whoever watches one beside it: what came after it has, or has had, a window for what it did as well.
            kept = newest.document_digest == found.run.document_digest
            overtaken.append((found.run, account.BY_RUN if kept else account.BY_DOCUMENT))
        else:
            stands = await _left_of(engine, found, goal)
            if isinstance(stands, tuple):
                window, planned = stands
                if hands_over:
                    return Recovered(window=window, planned=planned, overtaken=tuple(overtaken))
                stands = await _go_on_watching(engine, window)
            if isinstance(stands, str):
                overtaken.append((found.run, stands))
            elif stands.stopped:
                return Recovered(stopped=stands)
            elif stands.result in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED):
                back = stands
    return Recovered(taken_back=back, overtaken=tuple(overtaken))


async def end_ways_back(engine: Engine) -> None:
    """Goes on with the ways back that their writers left open, and leaves what else is open as it is. The caller holds the writer
    lock, and is about to act on what was applied last.

    Raises:
        RollbackFailedError: one failed.
        OpenClawError: where one leads cannot be had here; it stays open.
    """
    with await _thread(partial(Journal.open_reader, engine.host.state.journal)) or nullcontext() as reader:
        # Where there is none nothing is written: the disk may be full.
        left_open = await _thread(reader.open_runs) if reader is not None else ()
    for run in [found.run for found in left_open if found.run.state is Result.ROLLING_BACK]:
        mine = [found for found in left_open if found.run.id == run.id or found.run.cause == way_back_from(run.id)]
        goal, _notes = await _thread(partial(_goal_back, engine, run))
        await give_way(engine, await recover(engine, goal, mine, hands_over=False))
        ended = await _thread(partial(engine.journal().run, run.id))
        if ended is not None and ended.state is Result.ROLLBACK_FAILED:
            raise RollbackFailedError(f"cannot go back: {ended.reason}")


def _goal_back(engine: Engine, run: Run) -> tuple[Goal, tuple[Note, ...]]:
    """Where a way back leads; where that is to what was there before any generation, what it takes back."""
    journal = engine.journal()
    generation = journal.generation(run.target_generation or 0) or journal.generation(run.generation or 0)
    assert generation is not None
    return engine.goal_of(generation)


async def give_way(engine: Engine, recovered: Recovered) -> None:
    """Ends what is overtaken, now that nothing forbids what takes its place."""
    journal = engine.journal()
    goes_on = recovered.window.generation if recovered.window is not None else None
    for run, reason in recovered.overtaken:
        current = await _thread(partial(journal.run, run.id))
        if current is None or current.ended_at is not None:
            # A way back that was gone on with.
            continue
        await _thread(partial(_overtake, journal, run, reason, engine.now(), goes_on))


def _overtake(journal: Journal, run: Run, reason: str, at: float, goes_on: int | None) -> None:
    # In one commit: a run that is being watched, and whose generation is not, would be found well and confirm nothing.
    with journal.transaction():
        generation = journal.generation(run.generation or 0)
        if generation is not None and generation.result is Result.VERIFYING and generation.number != goes_on:
            journal.set_generation_result(generation.number, Result.SUPERSEDED, reason)
        ended = Result.INTERRUPTED if run.state is Result.APPLYING else Result.SUPERSEDED
        journal.set_run(run.id, ended, at, reason=reason)


async def _settle(engine: Engine, goal: Goal, intent: Intent) -> None:
    """Decides from the world whether an open intent had its effect, and keeps the account right."""
    journal, action = engine.journal(), intent.action
    applied: Applied = (await _thread(journal.applied)).get(action.key, {})
    kind = next((kind for kind in engine.kinds if kind.name == action.key.kind), None)
    if kind is None:
        left = NOTHING
    else:
        world = engine.world(goal, intent.run_id)
        left = await aftermath(action, kind, goal.resources.get(action.key), applied, world)
    result, error = ("done", None) if left.happened else ("interrupted", DIED)
    write = partial(journal.done, intent.run_id, action.id, result, engine.now(), error=error)
    await _thread(partial(write, applied=left.fields, forgotten=left.forgotten))


async def _left_of(engine: Engine, found: OpenRun, goal: Goal) -> Outcome | str | tuple[Window, Planned]:
    """What is left to watch of a window that nobody watches any more, with what was seen of the host; how it ended; or why what
    comes now is to take its place.
    """
    run, journal = found.run, engine.journal()
    generation = await _thread(partial(journal.generation, run.generation or 0))
    recorded = generation is not None and generation.result is Result.VERIFYING
    left = seconds_left(run, engine.now(), boot_id())
    if generation is None or (left > 0 and generation.digest != goal.digest):
        return account.BY_DOCUMENT
    if generation.digest != goal.digest:
        return await _seen_late(engine, run, generation)
    planned = await engine.plan(goal, journal)
    if without(planned.plan, planned.retried).actions:
        # The machine went down, or somebody stopped what this run had started: that says nothing about its document.
        # The run that comes now leads there again, and opens a window of its own.
        return f"{account.BY_RUN}: the host had moved, and nobody watched its window"
    steps = _steps(await _thread(partial(journal.actions_of, run.id)))
    window = Window(
        run=run.id,
        cause=run.cause,
        goal=goal,
        plan=replace(planned.plan, generation=run.target_generation or 0),
        steps=steps,
        generation=generation.number,
        recorded=recorded,
        inherited=True,
        gates=await _thread(partial(account.gates, journal, goal, steps)),
        left_seconds=left,
        whole_seconds=run.verify_window or 0.0,
        since=run.verify_since,
    )
    return window, planned


async def _go_on_watching(engine: Engine, window: Window) -> Outcome:
    """How a window ends that is watched under the lock, or stands where a person wished to stop before its end."""
    engine.report(Progress(what="verifying", text=f"{window.left_seconds:g}"))
    async with engine.watching():
        prolong = partial(begin_anew, engine, window.run)
        look = partial(window.verdict, engine.kinds, engine.world(window.goal, window.run), prolong)
        verdict = await unless_stopping(engine.stopping, look)
    if verdict is None:
        return replace(window.outcome(Result.VERIFYING, ""), stopped=True)
    return await settle(engine, window, verdict)


async def _seen_late(engine: Engine, run: Run, generation: Generation) -> Outcome | str:
    """Confirms a generation whose window was over, unwatched, before another document came, where it is in force and well.

    So many applies that nobody waited for are as many generations to go back to. Nothing is taken back here: what comes now
    takes its place.
    """
    unseen = f"{account.BY_DOCUMENT}, and nobody had watched its window"
    journal = engine.journal()
    try:
        goal, _notes = await _thread(partial(engine.goal_of, generation))
    except OpenClawError:
        return unseen
    planned = await engine.plan(goal, journal)
    steps = _steps(await _thread(partial(journal.actions_of, run.id)))
    if planned.plan.actions or planned.plan.unknown or any(step.result != "done" for step in steps):
        return unseen
    window = Window(
        run=run.id,
        cause=run.cause,
        goal=goal,
        plan=replace(planned.plan, generation=run.target_generation or 0),
        steps=steps,
        generation=generation.number,
        recorded=generation.result is Result.VERIFYING,
        inherited=True,
        gates=await _thread(partial(account.gates, journal, goal, steps)),
        left_seconds=0.0,
    )
    verdict = await window.verdict(engine.kinds, engine.world(goal, run.id), partial(begin_anew, engine, run.id))
    return await settle(engine, window, verdict) if verdict.healthy else unseen


def _steps(intents: Sequence[Intent]) -> tuple[StepResult, ...]:
    return tuple(
        StepResult(action=intent.action, result="done" if intent.result == "done" else "failed", error=intent.error)
        for intent in intents
    )


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
