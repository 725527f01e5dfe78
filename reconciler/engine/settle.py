"""The end of a window: what it showed confirms a run, leaves it unconfirmed or partial, or takes it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from reconciler.engine import account
from reconciler.engine.lock import holder
from reconciler.engine.requests import Outcome, Progress
from reconciler.engine.rollback import roll_back
from reconciler.engine.upkeep import is_done_by_now
from reconciler.engine.verify import Verdict, probe_all
from reconciler.engine.window import Window, end_run, paid
from reconciler.errors import RollbackFailedError
from reconciler.host import StatePaths
from reconciler.journal import UNDECIDED, Journal, JournalError, JournalFullError, Run
from reconciler.kinds import Health
from reconciler.model import Generation, Key, Result

if TYPE_CHECKING:
    from reconciler.engine.engine import Engine, Source

T = TypeVar("T")

# How often it is looked how the window of another stands.
JOIN_SECONDS = 0.1
# Beyond its end: whoever watches a window and has not ended it by then is frozen (SIGSTOP), or the machine slept.
OVERDUE_SECONDS = 30.0
# Why a sick generation stays in force although its document wants a way back.
LOST = "the history is lost: there is nothing to go back to"
NOTHING_ELSE = "there is nothing else to go back to"


async def conclude(engine: Engine, window: Window, verdict: Verdict) -> Outcome:
    """Ends the run of a window that was watched: as one that another took the place of, or by what its window showed. The caller
    holds the writer lock.

    Raises: as `settle`.
    """
    journal = engine.journal()
    mine = await _thread(partial(journal.run, window.run))
    if mine is None or mine.state not in (Result.VERIFYING, Result.SUPERSEDED):
        return _ended_elsewhere(window, mine)
    newest = await _thread(partial(journal.runs, 1))
    last = await _thread(journal.last_generation)
    later = newest[0].document_digest if newest and newest[0].id != window.run else None
    if later is None and window.recorded and last is not None and last.number != window.generation:
        later = last.digest
    if later is None:
        return await settle(engine, window, verdict)
    kept = later == window.goal.digest
    reason = account.BY_RUN if kept else account.BY_DOCUMENT
    decided = await _thread(partial(_decided, journal, window))
    # Another try of the same generation goes on with it, or has decided it.
    its = decided is not None or (kept and last is not None and last.number == window.generation)
    await end_run(engine, replace(window, recorded=False) if its else window, Result.SUPERSEDED, reason)
    outcome = replace(window.outcome(Result.SUPERSEDED, reason), in_force=kept)
    return outcome if decided is None else ended_as(outcome, decided, await _thread(journal.last_confirmed))


def _decided(journal: Journal, window: Window) -> Generation | None:
    """The generation of a window, where another run to the same document has been confirmed or taken back meanwhile."""
    generation = journal.generation(window.generation) if window.recorded else None
    return None if generation is None or generation.result in (*UNDECIDED, Result.SUPERSEDED) else generation


def _ended_elsewhere(window: Window, run: Run | None) -> Outcome:
    """How a run stands that another watcher ended, or whose journal is gone (None): it is not ended a second time."""
    if run is None:
        reason = "the journal was lost before its window was over"
        return replace(window.outcome(Result.FAILED, reason), in_force=False)
    back = run.target_generation if run.state is Result.ROLLED_BACK else None
    return window.outcome(run.state, run.reason, back)


async def settle(engine: Engine, window: Window, verdict: Verdict, *, ran_full: bool = False) -> Outcome:
    """Confirms a run or goes back, by what its window showed, or because the disk `ran_full` in its steps. The caller holds the
    writer lock.

    Raises:
        RollbackFailedError: it has to go back, and the journal cannot be written; the run stays open.
        JournalError: its end cannot be written; the run stays open.
    """
    journal, reason, moved = engine.journal(), verdict.reason, verdict.moved
    # Such a run had the ballast when it began: where that is spent, the disk has run full since.
    ours = not (window.inherited or window.spends)
    try:
        await _thread(partial(account.record_health, journal, window.steps, verdict, window.generation, engine.now()))
    except JournalFullError:
        if not ((ours or window.left_seconds > 0) and engine.ballast.give_up()):
            raise
        ran_full = True
    if ran_full or (ours and engine.ballast.spent):
        # Whatever filled the disk came with this run or during its window: as good as sick.
        await _thread(journal.fold)
        moved = False
        reason = "; ".join(filter(None, (reason, "the disk of the state directory ran full meanwhile")))
    failed = [step for step in window.steps if step.result != "done"]
    if moved:
        # It can say nothing of the document, which is led to again: by the next run, or by whoever watches.
        return await _end(engine, window, Result.PARTIAL, f"{reason} (somebody else changed it meanwhile)")
    # Without another document there is nowhere to go back to: what is sick now was well with this one.
    if reason and window.recorded and window.goal.desired.policy.rollback:
        nowhere = await _thread(partial(_leads_nowhere, journal, window))
        if not nowhere:
            return await _back(engine, window, reason)
        reason = f"{reason}; {nowhere}"
    if reason:
        return await _end(engine, window, Result.FAILED, reason)
    if window.plan.unknown or (failed and not await _is_led_to(engine, window, verdict)):
        # What was not seen was not led anywhere: that is no generation to go back to.
        return await _end(engine, window, Result.PARTIAL, (failed[0].error or "") if failed else window.plan.unseen)
    # What cannot be seen to serve may be as sick as any that was never tried: nothing to go back to before it was.
    if window.recorded and verdict.unseen:
        return await _end(engine, window, Result.UNCONFIRMED, verdict.unseen)
    rest = await _rest(engine, window, verdict)
    if window.recorded and rest.unseen:
        return await _end(engine, window, Result.UNCONFIRMED, rest.unseen)
    # Since when it is so nobody could tell later. On a full disk what room is left is for the end of the run.
    with suppress(JournalFullError):
        await _thread(partial(account.record_health, journal, (), rest, window.generation, engine.now()))
    # It is seen to serve: what is missing is only the word for it.
    await paid(engine, partial(journal.release, *window.goal.names))
    await paid(engine, partial(journal.set_given, window.generation, window.goal.given))
    return await _end(engine, window, Result.CONFIRMED, "")


async def _is_led_to(engine: Engine, window: Window, verdict: Verdict) -> bool:
    if not await is_done_by_now(engine, window.goal, window.steps):
        return False
    await paid(engine, partial(account.record_health, engine.journal(), (), verdict, window.generation, engine.now()))
    return True


def _leads_nowhere(journal: Journal, window: Window) -> str:
    """Why there is nowhere to go back to; empty where there is. Either a person has gone back to the last confirmed one after a
    rollback that failed; or the history of what a window found in force is lost: this run did nothing of it, or did no more than
    start what was down, as after a boot, and no generation is known. A start whose undo starts it as it was leads back there.
    """
    last = journal.last_confirmed()
    if last is not None:
        return NOTHING_ELSE if last.digest == window.goal.digest else ""
    actions = [step.action for step in window.steps]
    started = all(each.verb == "start" and not (each.undo is not None and each.undo.follows) for each in actions)
    return LOST if started and journal.history_lost is not None else ""


def is_watched(run: Run, state: StatePaths, now: float) -> bool:
    """Whether somebody watches windows, and has not missed the end of this one by far."""
    if holder(state.ours / "verify.lock") is None:
        return False
    return run.verify_since is None or now - run.verify_since < (run.verify_window or 0.0) + OVERDUE_SECONDS


async def joined(engine: Engine, found: Outcome) -> Outcome | None:
    """How the window ended that `found` (VERIFYING, without a run of its own) met, which somebody else watches.

    None where nobody watches it any more: the next `Engine.begin` goes on with it. The caller holds no lock.
    """
    engine.report(Progress(what="note", text=f"generation {found.generation} is applied already, and being watched"))
    state = engine.host.state
    with await _thread(partial(Journal.open_reader, state.journal)) or nullcontext() as reader:
        while reader is not None:
            # Looked at first: who has let go of both has written the end before.
            left = holder(state.lock) is None and not await _thread(
                partial(_is_watched, engine, reader, found.generation)
            )
            generation = await _thread(partial(reader.generation, found.generation))
            if generation is None or generation.result not in (Result.VERIFYING, Result.ROLLING_BACK):
                return ended_as(found, generation, await _thread(reader.last_confirmed))
            if left:
                break
            await trio.sleep(JOIN_SECONDS)
    return None


async def beside(engine: Engine, source: Source, since: float) -> Run | None:
    """The run of another writer to this very document that goes on, or has ended after `since`; None where there is none."""
    reader = await _thread(partial(Journal.open_reader, engine.host.state.journal))
    if reader is None:
        return None
    with reader:
        digest = source(reader.salt).digest
        runs = await _thread(reader.runs)
    found = (run for run in runs if run.document_digest == digest and not run.cause.startswith("rollback of "))
    return next((run for run in found if run.ended_at is None or run.ended_at >= since), None)


async def outwaited(engine: Engine, source: Source, run: Run) -> Outcome | None:
    """How a run ended that is `beside` us, where it was taken back; its writer holds the lock.

    None where the document is to be tried again: it went another way, has come to its window, or its writer has died.
    """
    state = engine.host.state
    engine.report(Progress(what="note", text="this document is being applied already, by another writer"))
    with await _thread(partial(Journal.open_reader, state.journal)) or nullcontext() as reader:
        now: Run | None = run
        while reader is not None and now is not None and now.state in (Result.APPLYING, Result.ROLLING_BACK):
            # Looked at first: who has let go has written the end before.
            left = holder(state.lock) is None
            now = await _thread(partial(reader.run, run.id))
            if left:
                break
            await trio.sleep(JOIN_SECONDS)
        if reader is None or now is None or now.state not in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED):
            return None
        back = await _thread(reader.last_confirmed)
        return Outcome(
            run="",
            result=now.state,
            plan=(await engine.plan(source(reader.salt), reader)).plan,
            generation=now.generation or 0,
            rolled_back_to=(back.number if back is not None else 0) if now.state is Result.ROLLED_BACK else None,
            reason=now.reason,
        )


def _is_watched(engine: Engine, reader: Journal, generation: int) -> bool:
    runs = [found.run for found in reader.open_runs() if found.run.generation == generation]
    return any(is_watched(run, engine.host.state, engine.now()) for run in runs)


def ended_as(found: Outcome, generation: Generation | None, back: Generation | None) -> Outcome:
    """How a run ended whose generation somebody else has decided; `back` is the generation that is confirmed since."""
    result = generation.result if generation is not None else Result.SUPERSEDED
    return replace(
        found,
        # What was told beside it was so when it was met, and may be so no longer.
        plan=replace(found.plan, notes=()),
        result=result,
        # Of one that is confirmed it says what is known of the time before it.
        reason=generation.reason if generation is not None and result is not Result.CONFIRMED else "",
        in_force=result is not Result.SUPERSEDED,
        rolled_back_to=(back.number if back is not None else 0) if result is Result.ROLLED_BACK else None,
    )


async def _rest(engine: Engine, window: Window, verdict: Verdict) -> Verdict:
    """How that is which is in force and was no gate, by one look: a person may keep it from serving, though the run did not
    touch it.

    Raises:
        OSError: this process lacks what it takes to look, and a generation would be confirmed by it; in a group.
    """
    others = {key: item for key, item in window.goal.resources.items() if key not in verdict.health}
    health: Mapping[Key, Health] = {}
    try:
        health = await probe_all(others, engine.kinds, engine.world(window.goal, window.run))
    except* OSError:
        if window.recorded:
            raise
    return Verdict(health=health, sick=())


async def _back(engine: Engine, window: Window, reason: str) -> Outcome:
    try:
        return await roll_back(engine, window, reason)
    except JournalError as err:
        more = "free some space: " if isinstance(err, JournalFullError) else ""
        raise RollbackFailedError(
            f"cannot go back: {reason}; {err.message}", hint=f"{more}the next run goes on from there"
        ) from err


async def _end(engine: Engine, window: Window, result: Result, reason: str) -> Outcome:
    await end_run(engine, window, result, reason)
    engine.report(Progress(what=result.value, text=reason))
    return window.outcome(result, reason)


async def _thread(call: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(call)
