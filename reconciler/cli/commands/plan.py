"""`openclaw plan` and `openclaw drift`: what an apply would do, and what moved. Both only read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import file_option, json_option
from reconciler.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Collection, Container
    from pathlib import Path

    from reconciler.cli.render.plan import Moved
    from reconciler.engine.engine import Planned
    from reconciler.engine.goal import Goal
    from reconciler.journal import Journal, Run
    from reconciler.model import Blocked, Cause, Key, Note, Plan

DIFFERENCES, BLOCKED, INCOMPLETE = 2, 3, 1
# A plan that lies about for longer is made again: that costs a second, and its window of restarts has passed.
PLAN_SECONDS = 3600
PLAN_FILE = "openclaw.plan-file/1"
# A plan for the largest document is a few times that document's 4 MiB.
PLAN_FILE_MAX_BYTES = 64 << 20


@click.command("plan")
@file_option
@json_option
@click.option("--out", metavar="FILE", help="Keep the plan in FILE, for `openclaw apply FILE`.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2, and not 0, when there is something to do.")
@click.pass_obj
def plan_command(session: Session, as_json: bool, out: str | None, detailed_exitcode: bool) -> int:
    """Show what an apply would do, with its reasons and consequences. Changes nothing."""
    return session.run(plan, as_json=as_json, out=out, detailed_exitcode=detailed_exitcode)


async def plan(session: Session, *, as_json: bool, out: str | None, detailed_exitcode: bool) -> int:
    """Plans, prints, and returns the exit code."""
    from reconciler.cli.render.plan import diagnostics_text, plan_json, plan_text, unfinished
    from reconciler.cli.render.text import json_text

    planned, blocked = await make(session)
    console, found = session.console, planned.plan
    if out is not None:
        keep(session, planned, out)
    if as_json:
        console.out(json_text(plan_json(found, blocked)))
    else:
        colour = console.terminal.colour
        console.out(plan_text(found, document=session.named, blocked=blocked, colour=colour))
        console.err(diagnostics_text(found, blocked, colour=colour))
    # Whatever would make `openclaw apply` exit 3, with whatever flags this was asked: there is no plan to go on with.
    if blocked:
        return BLOCKED
    if not found.complete:
        return INCOMPLETE
    return DIFFERENCES if detailed_exitcode and (found.actions or unfinished(found)) else 0


@click.command("drift")
@file_option
@json_option
@click.pass_obj
def drift_command(session: Session, as_json: bool) -> int:
    """Show what moved on the host since it was applied. Exits 2 where something did."""
    return session.run(drift, as_json=as_json)


async def drift(session: Session, *, as_json: bool) -> int:
    """Shows what moved by itself, the actions that this asks for, or what forbids them; returns the exit code."""
    from reconciler.cli.commands.status import goal_in_force
    from reconciler.cli.render.plan import DOWN, diagnostics_text, drift_json, drift_text
    from reconciler.cli.render.text import json_text
    from reconciler.model import Cause

    session.settle()
    journal = session.own_reader()
    try:
        # While the document is not valid, what moved is told by the generation that stays in force.
        goal, notes = goal_in_force(session, journal)
        planned = await session.runtime().engine().plan(goal, journal, notes=notes)
    finally:
        if journal is not None:
            journal.close()
    causes = (Cause.DRIFT, Cause.OWED)
    moved = tuple(
        action
        for action in planned.plan.actions
        # What the document wants anew may come with what has moved.
        if action.cause in causes or any(item.cause in causes for item in action.differences)
    )
    fields = _moved(planned, causes, {action.key for action in moved})
    blocked = tuple(item for item in planned.plan.blocked if item.key in dict(fields))
    # Of what is told beside a plan only what it was compared with, and that nobody is served, belong here.
    told = (*DOWN, "document_invalid", "quarantined", "going_back")
    notes = tuple(note for note in planned.plan.notes if note.code in told)
    found = replace(planned.plan, actions=moved, blocked=blocked, notes=notes)
    console = session.console
    if as_json:
        console.out(json_text(drift_json(found, fields)))
    else:
        console.out(drift_text(found, fields, document=session.named, colour=console.terminal.colour))
    console.err(diagnostics_text(found, blocked, colour=console.terminal.colour))
    return DIFFERENCES if moved or fields else 0 if found.complete else INCOMPLETE


def _moved(planned: Planned, causes: Container[Cause], cured: Collection[Key]) -> Moved:
    """The fields that moved of each resource that an action cures (`cured`), or for which what is blocked keeps one from being
    planned. What no action ends otherwise is explained by a note.
    """
    from reconciler.planning.differences import differences

    keys = {*cured, *(item.key for item in planned.plan.blocked)}
    found = (
        (key, tuple(item for item in differences(one.resource, seen, one.applied) if item.cause in causes))
        for key, one in planned.wanted.items()
        if key in keys and (seen := planned.observations[key])
    )
    return tuple((key, moves) for key, moves in found if moves)


async def make(session: Session) -> tuple[Planned, tuple[Blocked, ...]]:
    """The plan for the document as it is now, and all that forbids to apply it without further words."""
    import trio

    from reconciler.journal import PROVISIONAL_SALT
    from reconciler.planning.policy import waits_for_person

    loaded = await trio.to_thread.run_sync(session.load)
    runtime = session.runtime()
    journal = session.own_reader()
    engine = runtime.engine()
    try:
        source = await trio.to_thread.run_sync(runtime.source, loaded)
        goal = source(journal.salt if journal is not None else PROVISIONAL_SALT)
        notes = (*notes_of(session, journal), *(held_back(journal, *goal.names) if journal is not None else ()))
        back = await trio.to_thread.run_sync(_goal_back, session, journal, goal) if journal is not None else None
        planned = await engine.plan(back or goal, journal, notes=notes)
        # No policy keeps a way back from its end.
        blocked = planned.plan.blocked if back is not None else forbidden(planned, journal, engine.now())
        last = journal.in_force() if journal is not None else None
    finally:
        if journal is not None:
            journal.close()
    policy = planned.goal.desired.policy
    found = planned.plan
    if last is not None and not found.actions:
        # What the host is at, also while that is not confirmed yet.
        found = replace(found, generation=last.number)
    planned = replace(planned, plan=replace(found, notes=(*found.notes, *waits_for_person(found, policy))))
    return planned, blocked


def _goal_back(session: Session, journal: Journal, goal: Goal) -> Goal | None:
    """Where an apply of `goal` leads instead: its document is being taken back, and whoever did that has died."""
    from reconciler.engine.lock import holder
    from reconciler.errors import OpenClawError
    from reconciler.model import Result

    runs = [found.run for found in journal.open_runs() if found.run.state is Result.ROLLING_BACK]
    if holder(session.host().state.lock) is not None or not any(run.document_digest == goal.digest for run in runs):
        return None
    target = journal.generation(runs[-1].target_generation or 0)
    # What cannot be had now is said by the run itself.
    with suppress(OpenClawError):
        return session.runtime().goal_back(target)[0] if target is not None else None
    return None


def forbidden(planned: Planned, journal: Journal | None, now: float) -> tuple[Blocked, ...]:
    """All that forbids to apply a plan without further words; the restarts of the hour before `now` stand in the journal."""
    from reconciler.engine.account import restarts_since
    from reconciler.engine.engine import HOUR_SECONDS
    from reconciler.planning.policy import Approvals, check

    policy = planned.goal.desired.policy
    counted = journal is not None and policy.restarts_per_hour is not None and planned.plan.actions
    restarts = restarts_since(journal, now - HOUR_SECONDS) if journal is not None and counted else 0
    return check(planned.plan, policy, Approvals(), restarts_last_hour=restarts)


def held_back(journal: Journal, *names: str) -> tuple[Note, ...]:
    """A note where the document with these names is in quarantine: only an operator's word applies it as it is; and one where
    what is to take its place has not done so yet.
    """
    from reconciler.model import Note

    rejected = journal.quarantined(*names)
    if rejected is None:
        return ()
    text = f"this document is held back: {rejected.reason}; it is applied again once it changes, or by `openclaw apply`"
    return Note(code="quarantined", message=text), *going_back(journal)


def going_back(journal: Journal | None) -> tuple[Note, ...]:
    """A note where a person goes back to a generation, and whoever did that for them died on the way."""
    from reconciler.model import Note

    number = journal.going_back if journal is not None else 0
    if not number:
        return ()
    text = f"generation {number} is not in force yet: a supervisor leads there, or `openclaw rollback {number}`"
    return (Note(code="going_back", message=text),)


def notes_of(session: Session, journal: Journal | None) -> tuple[Note, ...]:
    """What must be told beside any plan: a full disk; what a writer is at, or left when it died; a window; a lost history."""
    from reconciler.engine.goal import desired_of
    from reconciler.engine.lock import holder
    from reconciler.model import Note, Result

    if journal is None:
        return ()
    notes = _no_room(session.host().state.root)
    if (lost := journal.history_lost) is not None:
        notes.append(
            Note(code="history_lost", message=f"the earlier history is lost: {lost}; nothing is withdrawn in this run")
        )
    writer = holder(session.host().state.lock)
    runs = present_runs(journal)
    # The newest run to a generation decides it: what an earlier one left is no second thing to tell.
    deciding = {run.generation: run.id for run in runs if run.state is Result.VERIFYING}
    for run in runs:
        if run.state is Result.VERIFYING:
            if deciding[run.generation] != run.id:
                continue
            watched = holder(session.host().state.ours / "verify.lock") is not None
            nobody = "" if watched else _nobody(session)
            generation = journal.generation(run.generation or 0)
            # A cure of drift is a run to what was confirmed before.
            tried = generation is None or generation.result is not Result.CONFIRMED
            stands = "is applied and not confirmed yet" if tried else "is in force, and was led to again just now"
            text = f"generation {run.generation} {stands} (run {run.id}){nobody}"
        elif writer is not None:
            doing = (
                f"taken back to generation {run.target_generation}" if run.state is Result.ROLLING_BACK else "applied"
            )
            text = f"run {run.id} is being {doing} now, by {writer}"
        elif run.state is Result.ROLLING_BACK:
            to = f"to generation {run.target_generation}" if run.target_generation else "to what was there before"
            text = f"the rollback of run {run.id} {to} is not finished: it goes on first"
            notes.append(Note(code="way_back", message=text))
            continue
        else:
            text = f"run {run.id} did not come to its end; what it left is dealt with by the next one"
        notes.append(Note(code="open_run", message=text))
    last = journal.in_force()
    if last is not None and last.result is Result.PARTIAL:
        text = f"generation {last.number} is applied in part: {last.reason}; the rest is still to be done"
        notes.append(Note(code="partial", message=text))
    if last is not None and last.result is Result.FAILED:
        # Where there is none its reason says so.
        unwanted = "" if desired_of(last).policy.rollback else "; the document wants no way back (policy.rollback)"
        text = f"generation {last.number} is in force and failed: {last.reason}{unwanted}"
        notes.append(Note(code="failed", message=text))
    if last is not None and last.result is Result.UNCONFIRMED:
        text = f"generation {last.number} is applied and was never seen to serve: once the service is started it is watched"
        notes.append(Note(code="unconfirmed", message=text))
    return tuple(notes)


def _nobody(session: Session) -> str:
    from reconciler.cli.commands.status import supervisor_of

    if (pid := supervisor_of(session)) is None:
        return "; nobody watches it: the next `openclaw apply`, or a supervisor, goes on with that"
    return (
        f"; nobody watches it now: supervisor pid {pid} goes on with that in a moment, or its log says what hinders it"
    )


def present_runs(journal: Journal) -> tuple[Run, ...]:
    """The open runs that are at work, in their window, or left by a writer that died.

    Not those in a window that decides nothing any more, because another generation has taken the place of theirs: whoever
    watches may be frozen (SIGSTOP), and ends the run once he goes on.
    """
    from reconciler.model import Result

    present = journal.in_force()

    def is_overtaken(run: Run) -> bool:
        number = run.generation
        if run.state is not Result.VERIFYING or number is None:
            return False
        generation = journal.generation(number)
        gone = generation is not None and generation.result in (Result.SUPERSEDED, Result.ROLLED_BACK)
        return gone or (present is not None and present.number > number)

    return tuple(found.run for found in journal.open_runs() if not is_overtaken(found.run))


def _no_room(root: Path) -> list[Note]:
    """That nothing can be applied, where nothing can be written or there is too little room for a run."""
    import os

    from reconciler.engine.ballast import Ballast, free_bytes
    from reconciler.files import remedy_of_refusal
    from reconciler.model import Note

    with suppress(OSError):
        if os.statvfs(root).f_flag & os.ST_RDONLY:
            text = f'the disk of the state directory "{root}" is mounted for reading only: nothing can be applied'
            return [Note(code="disk_read_only", message=text)]
    for each in (root, root / "reconciler"):
        if each.exists() and not os.access(each, os.W_OK | os.X_OK, effective_ids=True):
            text = f'this user cannot write to "{each}": nothing can be applied; {remedy_of_refusal(each)}'
            return [Note(code="state_not_writable", message=text)]
    free = free_bytes(root)
    if free is None or not Ballast(root / "reconciler" / "ballast").is_short:
        return []
    text = f'the disk of the state directory "{root}" is full ({free >> 10} KiB free): only what makes room is applied'
    return [Note(code="disk_full", message=text)]


def keep(session: Session, planned: Planned, path: str) -> None:
    """Writes the plan to a file of its own (0600), with when it was made and until when it holds.

    Raises:
        UsageError: what is there already is neither empty nor such a file; it is untouched.
        OpenClawError: it cannot be written.
    """
    import os
    import time

    from reconciler.engine.files import write_private
    from reconciler.serial import plan_to_json
    from reconciler.values import digest, dump, rfc3339

    file = os.path.join(session.directory, path)
    refuse_other_file(file, path)
    now = time.time()
    data = {
        "schema": PLAN_FILE,
        "made": rfc3339(now),
        "expires": rfc3339(now + PLAN_SECONDS),
        "document": session.document,
        "plan": plan_to_json(planned.plan),
    }
    write_private(file, dump({**data, "digest": digest(data)}) + "\n")


def refuse_other_file(file: str, name: str) -> None:
    """Only a plan is replaced by a plan, or nothing at all: a slip must not cost the document or a token.

    Raises:
        UsageError: there is something else at `file`, called `name`.
    """
    import os

    from reconciler.errors import UsageError
    from reconciler.files import open_regular
    from reconciler.values import parse_json

    if not os.path.lexists(file):
        return
    try:
        with open_regular(file) as there:
            text = there.read(PLAN_FILE_MAX_BYTES)
        found = parse_json(text) if text else {"schema": PLAN_FILE}
        why = "" if isinstance(found, dict) and found.get("schema") == PLAN_FILE else "it is no plan file"
    except ValueError:
        why = "it is no plan file"
    except OSError as err:
        why = (err.strerror or "").lower()
    if why:
        hint = "name another file, or move this one away"
        raise UsageError(f'cannot keep the plan in "{name}", which is there already: {why}', hint=hint)


def read_kept(session: Session, path: str) -> tuple[Plan, str]:
    """The plan that `keep` wrote, and its digest.

    Raises:
        UsageError: it is no plan file, or one that was edited.
        StaleError: it expired, or is a plan for another document.
    """
    import os
    import time

    from reconciler.errors import StaleError, UsageError
    from reconciler.files import open_regular
    from reconciler.serial import plan_from_json
    from reconciler.values import digest, parse_json, rfc3339

    try:
        with open_regular(os.path.join(session.directory, path)) as file:
            text = file.read(PLAN_FILE_MAX_BYTES + 1)
    except OSError as err:
        raise UsageError(f'cannot read the plan "{path}": {(err.strerror or "").lower()}') from err
    if len(text) > PLAN_FILE_MAX_BYTES:
        raise UsageError(f'cannot read the plan "{path}": it is larger than {PLAN_FILE_MAX_BYTES >> 20} MiB')
    try:
        data = parse_json(text)
    except ValueError as err:
        raise UsageError(f'cannot read the plan "{path}": {err}', hint="make it with `openclaw plan --out`") from err
    try:
        plan = plan_from_json(data["plan"])
        kept, expires, document = str(data.pop("digest")), str(data["expires"]), str(data["document"])
    except (ValueError, KeyError, TypeError) as err:
        raise UsageError(
            f'cannot read the plan "{path}": not a plan file', hint="make it with `openclaw plan --out`"
        ) from err
    if digest(data) != kept:
        raise UsageError(f'cannot apply the plan "{path}": it was edited', hint="plan again")
    if document != session.document:
        raise StaleError(f'cannot apply the plan "{path}": it is for another document, {document}')
    if rfc3339(time.time()) > expires:
        raise StaleError(f'cannot apply the plan "{path}": it expired at {expires}', hint="plan again")
    return plan, kept
