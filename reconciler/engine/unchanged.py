"""A document for which nothing is to be done: what that confirms, records, or still has watched.

That nothing has to be changed shows nothing of how it serves: what led there may never have been seen to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4

import trio

from reconciler.engine import account
from reconciler.engine.requests import Outcome, Request
from reconciler.engine.rollback import left_of
from reconciler.engine.standing import is_failed, is_spoilt, is_unknown, is_unproven
from reconciler.engine.verify import verify
from reconciler.engine.window import Window, begin_window
from reconciler.journal import UNDECIDED, Journal
from reconciler.model import Result
from reconciler.serial import plan_digest

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Planned

T = TypeVar("T")


async def unfinished(engine: Engine, planned: Planned, request: Request, journal: Journal) -> Window | None:
    """The window of a run to this document that died after its last effect, and before its window was opened; or that was
    sick in its window and never taken back: that it is well at this moment says as little as then.
    """
    goal = planned.goal
    newest = await _thread(partial(journal.runs, 1))
    if planned.plan.actions or planned.plan.unknown:
        return None
    if not newest or newest[0].document_digest != goal.digest:
        return await _unproven(engine, planned, request, journal)
    run = newest[0]
    if run.state is Result.FAILED:
        wanted = await _thread(partial(is_failed, journal, goal.digest))
    else:
        wanted = run.state is Result.INTERRUPTED and await _thread(partial(is_unknown, journal, goal.digest))
    if not wanted:
        return await _unproven(engine, planned, request, journal)
    steps = left_of(await _thread(partial(journal.actions_of, run.id)))
    await _thread(partial(account.record_applied, journal, goal, planned.wanted, planned.observations, ()))
    whole = not steps or await _thread(partial(is_unproven, journal, run.id))
    gates, left = await _thread(partial(account.window_of, journal, goal, steps, whole=whole))
    window = Window(
        run=run.id,
        cause=run.cause,
        goal=goal,
        plan=planned.plan,
        steps=tuple(replace(step, result="done") for step in steps),
        generation=planned.plan.generation,
        inherited=True,
        gates=gates,
        left_seconds=left,
    )
    return await _thread(partial(begin_window, window, request, journal, engine.now()))


async def _unproven(engine: Engine, planned: Planned, request: Request, journal: Journal) -> Window | None:
    """The window of a document for which nothing is to be done, where what the one before it did was not seen to the end, or
    the history is lost: with this one it would be confirmed by a look.
    """
    goal = planned.goal
    if not await _thread(partial(is_unknown, journal, goal.digest)):
        return None
    elsewhere = account.unaccounted(planned.wanted, planned.observations)
    if not elsewhere and not await _thread(partial(is_unproven, journal)):
        return None
    run = uuid4().hex[:12]
    begin = partial(
        journal.begin_run,
        run,
        cause=request.cause,
        author=request.author,
        commit=request.commit,
        plan_digest=plan_digest(planned.plan),
        document_digest=goal.digest,
        at=engine.now(),
    )
    await _thread(begin)
    await _thread(partial(account.record_applied, journal, goal, planned.wanted, planned.observations, ()))
    window = Window(
        run=run,
        cause=request.cause,
        goal=goal,
        plan=planned.plan,
        steps=(),
        generation=planned.plan.generation,
        gates=dict(goal.resources),
        left_seconds=goal.desired.policy.verify_seconds,
    )
    return await _thread(partial(begin_window, window, request, journal, engine.now()))


async def accept(engine: Engine, planned: Planned, request: Request, journal: Journal) -> Outcome:
    """No action: at most there is a generation to record, because the document says something new that is true already."""
    done = Outcome(run="", result=Result.CONFIRMED, plan=planned.plan, generation=planned.plan.generation)
    if planned.plan.unknown:
        return replace(done, result=Result.FAILED, reason=planned.plan.unseen)
    stands = await known(planned, journal)
    if not planned.plan.actions and account.outdated(planned.wanted, planned.observations):
        record = partial(account.record_applied, journal, planned.goal, planned.wanted, planned.observations, ())
        await _thread(record)
    if stands is not None and request.commit is not None:
        # Who watches may have been quicker than the hook that says where it comes from.
        await _thread(partial(journal.attribute, stands.generation, request.author, request.commit))
    # A person who leads there once more after a rollback that failed wants to be told that it is well now.
    again = request.approvals.person and await _thread(partial(is_spoilt, journal))
    if planned.plan.actions or (stands is not None and not again):
        return stands or done
    # Nothing is to be done, but a generation that does not serve is none to go back to.
    verdict = await verify(planned.goal.resources, engine.kinds, engine.world(planned.goal), 0.0)
    if not verdict.healthy:
        return replace(done, result=Result.FAILED, reason=verdict.reason)
    result = Result.UNCONFIRMED if verdict.unseen else Result.CONFIRMED
    number = await _thread(partial(_record, planned, request, journal, result, verdict.unseen, engine.now()))
    await _thread(partial(account.record_health, journal, (), verdict, number, engine.now()))
    return replace(done, result=result, generation=number, reason=verdict.unseen)


async def records(planned: Planned, request: Request, journal: Journal) -> bool:
    """Whether `unfinished` or `accept` has a generation to write down."""
    if planned.plan.actions or planned.plan.unknown:
        return False
    again = request.approvals.person and await _thread(partial(is_spoilt, journal))
    return again or await known(planned, journal) is None


async def known(planned: Planned, journal: Journal) -> Outcome | None:
    """The outcome where this very document is in force already, or (VERIFYING) applied and being watched; else None."""
    plan, digest = planned.plan, planned.goal.digest
    stands = Outcome(run="", result=Result.CONFIRMED, plan=plan, generation=plan.generation)
    last = await _thread(journal.last_generation)
    if last is not None and last.result in UNDECIDED and last.digest == digest:
        if last.result is Result.UNCONFIRMED and planned.suspended:
            return replace(stands, result=last.result, generation=last.number, reason=last.reason)
        left_open = await _thread(journal.open_runs)
        watched = any(found.run.generation == last.number for found in left_open)
        return replace(stands, result=Result.VERIFYING, generation=last.number) if watched else None
    confirmed = await _thread(journal.last_confirmed)
    # What came after it and never was confirmed is still the one in force.
    replaced = last is not None and last.result in UNDECIDED
    return stands if confirmed is not None and confirmed.digest == digest and not replaced else None


def _record(planned: Planned, request: Request, journal: Journal, result: Result, reason: str, now: float) -> int:
    """Records in one commit a generation that is in force without any action; returns its number."""
    goal = planned.goal
    with journal.transaction():
        account.record_applied(journal, goal, planned.wanted, planned.observations, ())
        journal.release(*goal.names)
        number = account.record_generation(journal, goal, request, result, reason, at=now)
        if result is Result.CONFIRMED:
            account.end_loss(journal, goal.resources, number, "", now)
        return number


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
