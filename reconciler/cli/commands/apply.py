"""`openclaw apply` and `openclaw rollback`: the commands that change the host."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import click

from reconciler.cli.options import Line, Number, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import BlockedError, LockedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from reconciler.cli.runtime import Runtime
    from reconciler.document.load import Loaded
    from reconciler.engine.engine import Engine, First, Source
    from reconciler.engine.execute import StepResult
    from reconciler.engine.requests import Outcome, Progress, Report, Request
    from reconciler.engine.window import Window
    from reconciler.journal import Journal, Quarantined
    from reconciler.model import Generation, Plan
    from reconciler.planning.policy import Approvals

    Begin: TypeAlias = Callable[[], Awaitable[tuple[Outcome, Window | None]]]

# How long an apply waits for another writer before it says who that is.
LOCK_SECONDS = 2.0
# How long it waits for one that applies this very document: a slow stop, a start, and the way back from both.
PATIENCE_SECONDS = 300.0
INTERRUPTED = 130


@click.command("apply")
@file_option
@json_option
@click.argument("plan", required=False, metavar="[PLAN]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--approve", metavar="KEY", multiple=True, help="Grant the destruction of KEY.")
@click.option("--take-over", is_flag=True, help="Manage what was there before us; what is there is kept in backups.")
@click.option(
    "--no-wait", is_flag=True, help="Do not wait until the result is confirmed (where a supervisor watches it)."
)
@click.option("--author", type=Line(), metavar="NAME", help="Who wants it, for the history.")
@click.option("--commit", type=Line(), metavar="ID", help="The commit that it comes from, for the history.")
@click.pass_obj
def apply_command(
    session: Session,
    as_json: bool,
    plan: str | None,
    yes: bool,
    approve: tuple[str, ...],
    take_over: bool,
    no_wait: bool,
    author: str | None,
    commit: str | None,
) -> int:
    """Make the host what the document declares, or do exactly what PLAN says."""
    return session.run(
        apply,
        as_json=as_json,
        plan=plan,
        yes=yes,
        approvals=granted(approve, take_over),
        no_wait=no_wait,
        author=author,
        commit=commit,
    )


async def apply(
    session: Session,
    *,
    as_json: bool,
    plan: str | None,
    yes: bool,
    approvals: Approvals,
    no_wait: bool,
    author: str | None,
    commit: str | None,
) -> int:
    """Plans, asks where needed, applies, waits for the verdict, and returns the exit code."""
    import trio

    from reconciler.cli.commands.plan import BLOCKED, make, read_kept
    from reconciler.engine.requests import Request
    from reconciler.serial import plan_digest

    expected, digest = None, None
    if plan is not None:
        expected, digest = read_kept(session, plan)
    elif not yes:
        planned, _blocked = await make(session)
        found = planned.plan
        hint = "say --yes, or apply a plan made by `plan --out`"
        if not await confirmed(session, found, as_json, document=session.named, hint=hint):
            return BLOCKED
        if found.actions:
            expected, digest = found, plan_digest(found)
    loaded = await trio.to_thread.run_sync(session.load)
    session.check_owner()
    runtime = session.runtime()
    request = Request(
        cause="commit" if commit is not None else "apply",
        author=author or who(session),
        commit=commit,
        approvals=approvals,
        expected=expected,
        expected_digest=digest,
    )
    engine = session.engine(reporter(session, as_json), "openclaw apply")
    try:
        source = await trio.to_thread.run_sync(runtime.source, loaded)
        outcome = await carry_out(session, engine, source, request, no_wait=no_wait)
        remember(session, loaded)
        await session.tell_runs()
    finally:
        session.leave(engine)
    tell_idle(session, outcome.plan, approvals)
    return told(session, outcome, as_json)


@click.command("rollback")
@file_option
@json_option
@click.argument("number", required=False, type=Number(1), metavar="[N]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--approve", metavar="KEY", multiple=True, help="Grant the destruction of KEY.")
@click.option("--take-over", is_flag=True, help="Manage again what was given back to its former owner since.")
@click.option("--author", type=Line(), metavar="NAME", help="Who wants it, for the history.")
@click.pass_obj
def rollback_command(
    session: Session,
    as_json: bool,
    number: int | None,
    yes: bool,
    approve: tuple[str, ...],
    take_over: bool,
    author: str | None,
) -> int:
    """Go back to generation N [default: the one that was confirmed before the present one]."""
    return session.run(
        rollback, as_json=as_json, number=number, yes=yes, approvals=granted(approve, take_over), author=author
    )


async def rollback(
    session: Session, *, as_json: bool, number: int | None, yes: bool, approvals: Approvals, author: str | None
) -> int:
    """Applies an earlier generation as a new one and holds the present document back until it changes."""
    import trio

    from reconciler.cli.commands.plan import BLOCKED
    from reconciler.engine.requests import Request
    from reconciler.model import Result

    session.settle()
    session.check_owner()
    journal = session.journal()
    with journal:
        target = last_good(journal) if number is None else journal.generation(number)
        if target is None and number is None:
            raise UsageError(
                "cannot go back: there is no earlier confirmed generation", hint="`openclaw history` lists them"
            )
        if target is None:
            raise UsageError(
                f"cannot go back to generation {number}: there is none", hint="`openclaw history` lists them"
            )
        runtime = session.runtime()
        goal, notes = runtime.goal_of(target)
        engine = session.engine(reporter(session, as_json), "openclaw rollback")
        planned = await engine.plan(goal, journal, notes)
    back = f"generation {target.number}"
    if not yes and (planned.plan.actions or planned.plan.blocked):
        by, what = f"openclaw rollback {target.number}", f"go back to {back}"
        if not await confirmed(session, planned.plan, as_json, document=back, hint="say --yes", by=by, what=what):
            return BLOCKED
    else:
        # What cannot be brought back must be said, asked or not.
        session.console.err("".join(f"note: {note.message}\n" for note in notes))
    held = await trio.to_thread.run_sync(replaced_names, session, runtime, target)
    before = held_before(session, held)
    reason = f"superseded by `openclaw rollback` to generation {target.number}"
    request = Request(
        cause=f"rollback to {target.number}",
        author=author or who(session),
        commit=target.commit,
        approvals=replace(approvals, way_back=True),
        holds_back=(held, reason) if held else None,
        goes_back_to=target.number,
    )
    try:
        outcome = await carry_out(session, engine, lambda salt: runtime.goal_of(target)[0], request)
        # Who only watches no longer, or could not do all of it yet, has gone back all the same.
        gave_up = outcome.result in (Result.FAILED, Result.ROLLED_BACK, Result.ROLLBACK_FAILED, Result.INTERRUPTED)
        if gave_up and request.holds_back is not None:
            await engine.let_go(request.holds_back[0], before)
        await session.tell_runs()
    finally:
        session.leave(engine)
    tell_idle(session, outcome.plan, approvals)
    return told(session, outcome, as_json)


def last_good(journal: Journal) -> Generation | None:
    """The newest confirmed generation of another document than the host is at; None where there is none. What a person goes back
    to, where that was not finished.
    """
    from reconciler.model import Result

    if (begun := journal.generation(journal.going_back)) is not None:
        return begun
    newest, present = journal.last_generation(), journal.in_force()
    last = next(iter(journal.runs(1)), None)
    is_left = (
        last is not None and last.ended_at is None and present is not None and last.document_digest != present.digest
    )
    if is_left or (newest is not None and newest.result is Result.ROLLBACK_FAILED):
        # What could not be taken back, or is not yet, is what the host is at, whatever ought to be in force.
        return journal.last_confirmed()
    confirmed = (item for item in journal.generations() if item.result is Result.CONFIRMED)
    return next((item for item in confirmed if present is None or item.digest != present.digest), None)


def replaced_names(session: Session, runtime: Runtime, target: Generation) -> tuple[str, ...]:
    """By what is held back what `target` takes the place of: the document, and the generation in force while a supervisor keeps
    that because the document is not valid. `target` itself is not held back.
    """
    from reconciler.engine.goal import document_name, is_of
    from reconciler.errors import DocumentError

    last = session.in_force()
    kept = (last.digest,) if last is not None and last.digest != target.digest else ()
    try:
        loaded = session.load()
    except DocumentError:
        return kept
    try:
        names = runtime.source(loaded)(runtime.salt()).names
    except DocumentError:
        # A secret is missing. Once it is there the document would be applied: it is known without its secrets as well.
        return kept if is_of(target, loaded.digest) else (document_name(loaded.digest), *kept)
    return () if target.digest in names else names


def held_before(session: Session, names: tuple[str, ...]) -> tuple[Quarantined, ...]:
    """By which of these names a document is held back already, and why."""
    with session.journal() as journal:
        return tuple(held for name in names if (held := journal.quarantined(name)) is not None)


async def carry_out(
    session: Session,
    engine: Engine,
    source: Source,
    request: Request,
    *,
    no_wait: bool = False,
    wait_seconds: float = LOCK_SECONDS,
    first: First | None = None,
) -> Outcome:
    """The effects, then the window. The first wish to stop (Ctrl-C, SIGTERM) finishes the step and leaves the window to whoever
    comes next, a second one ends everything. `wait_seconds` for another writer, and longer for one that applies this very
    document: how that ends is how this ends. `first` as in `Engine.begin`.
    """
    from reconciler.engine.execute import unless_stopping
    from reconciler.engine.settle import joined

    patience = 0.0 if no_wait or first is not None else PATIENCE_SECONDS
    begin = partial(engine.begin, source, request, wait_seconds=wait_seconds, first=first)

    async with session.stoppable(engine):
        outcome, window = await _begun(engine, source, begin, patience)
        if window is not None:
            await session.tell_runs()
        elif no_wait and not outcome.stopped:
            return outcome
        mine: tuple[StepResult, ...] = ()
        while not no_wait and not outcome.stopped:
            if window is not None:
                ended = await unless_stopping(engine.stopping, partial(engine.finish, window, keeps_up=True))
                if ended is None:
                    break
                outcome, window = replace(ended, steps=(*mine, *ended.steps)), None
            if not _is_of_another(outcome):
                return outcome
            # How the run ends that goes on with this document is how this ends.
            ended = await unless_stopping(engine.stopping, partial(joined, engine, outcome))
            if ended is not None:
                return ended
            if engine.stopping.is_set():
                break
            # Nobody does: it is ours again, and no longer a matter of what was agreed to.
            mine, anew = outcome.steps, replace(request, expected=None, expected_digest=None)
            outcome, window = await engine.begin(source, anew, wait_seconds=wait_seconds)
            outcome = replace(outcome, steps=(*mine, *outcome.steps))
        if engine.stopping.is_set():
            outcome = replace(outcome, stopped=True)
            session.console.err("no longer watching: what was applied stays, and is not confirmed yet\n")
        if window is not None:
            session.hand_over(window)
    return outcome


async def _begun(engine: Engine, source: Source, begin: Begin, patience: float) -> tuple[Outcome, Window | None]:
    """What `begin` returns. Where another writer does just what is asked here (a supervisor that saw the save first) it is waited
    for, at most `patience` seconds.
    """
    import trio

    from reconciler.engine.execute import unless_stopping
    from reconciler.engine.settle import beside, outwaited

    limit = trio.current_time() + patience
    while True:
        since = engine.now()
        try:
            return await begin()
        except LockedError as err:
            locked = err
        run = await beside(engine, source, since) if trio.current_time() < limit else None
        if run is None:
            raise locked
        ended = None
        with trio.CancelScope(deadline=limit):
            ended = await unless_stopping(engine.stopping, partial(outwaited, engine, source, run))
        if engine.stopping.is_set():
            raise locked
        if ended is not None:
            return ended, None


def _is_of_another(outcome: Outcome) -> bool:
    """Whether another run leads to this document: there was nothing to do beside it, or it came after ours."""
    from reconciler.model import Result

    is_overtaken = outcome.result is Result.SUPERSEDED and outcome.in_force
    return is_overtaken or (outcome.result is Result.VERIFYING and not outcome.run)


def reporter(session: Session, as_json: bool) -> Report:
    """Tells progress on stderr, unless a program reads along."""
    from reconciler.cli.render.outcome import progress_text

    def report(progress: Progress) -> None:
        if not as_json and (text := progress_text(progress, colour=session.console.terminal.colour)):
            session.console.err(text)

    return report


def told(session: Session, outcome: Outcome, as_json: bool) -> int:
    """Prints how it went and returns the exit code."""
    from reconciler.cli.render.outcome import outcome_json, outcome_text
    from reconciler.cli.render.text import json_text

    if as_json:
        session.console.out(json_text(outcome_json(outcome)))
    else:
        session.console.out(outcome_text(outcome, colour=session.console.terminal.colour))
    return exit_code(session, outcome)


def tell_idle(session: Session, plan: Plan, approvals: Approvals) -> None:
    """Notes what was approved and is not touched: mistyped perhaps, and no mistake in a script that always says it."""
    for key in sorted(approvals.keys - {action.key for action in plan.actions}):
        session.console.err(f"note: --approve {key} grants nothing: no action concerns it\n")


def exit_code(session: Session, outcome: Outcome) -> int:
    """What the command ends with."""
    return 128 + session.stopped_by if outcome.exit_code == INTERRUPTED else outcome.exit_code


async def confirmed(
    session: Session,
    plan: Plan,
    as_json: bool,
    *,
    document: str,
    hint: str,
    by: str = "openclaw apply",
    what: str = "apply this plan",
) -> bool:
    """True where the person says yes to the plan, and where there is nothing to ask about. Refuses before printing pages where
    nobody can answer.

    What forbids the plan is looked at again when it is applied, with the approvals that were given; what planning itself
    found no approval helps against. `by` is the command that does it, `what` what it does, `hint` what helps who cannot
    be asked.

    Raises:
        BlockedError: it cannot be asked.
    """
    from reconciler.cli.render.plan import diagnostics_text, plan_text

    console, colour = session.console, session.console.terminal.colour
    if not plan.actions and not plan.blocked:
        return True
    if as_json:
        raise BlockedError(f"cannot ask whether to {what}: --json prints one document and nothing else", hint=hint)
    if not console.terminal.stdin:
        raise BlockedError(f"cannot ask whether to {what}: no terminal", hint=hint)
    console.out(plan_text(plan, document=document, blocked=plan.blocked, colour=colour, by=by))
    console.err(diagnostics_text(plan, plan.blocked, colour=colour))
    if not plan.blocked and await answered(session, f"{what[0].upper()}{what[1:]}? [y/N] "):
        return True
    console.err("nothing was done\n")
    return False


async def answered(session: Session, question: str) -> bool:
    """True when the person says yes."""
    answer = await session.console.ask(question)
    if answer is None:
        # The end of input leaves the question's line open.
        session.console.err("\n")
    return answer is not None and answer.strip().lower() in ("y", "yes")


def granted(approve: tuple[str, ...], take_over: bool) -> Approvals:
    """The approvals of one command line.

    Raises:
        UsageError: one of them is no key.
    """
    from reconciler.model import Key
    from reconciler.planning.policy import Approvals

    try:
        keys = frozenset(Key.parse(text) for text in approve)
    except ValueError as err:
        raise UsageError(f"cannot approve: {err}") from err
    return Approvals(keys=keys, take_over=take_over)


def who(session: Session) -> str:
    """The user in whose name this runs, for the history: as the environment says, else as the system knows its number."""
    from reconciler.values import one_line

    for name in ("SUDO_USER", "USER", "LOGNAME"):
        try:
            return one_line(session.environ.get(name, ""))
        except ValueError:
            continue  # unset, or nothing that could be printed
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def remember(session: Session, loaded: Loaded) -> None:
    """Keeps the validated form of the document, so that the next command need not validate it again."""
    from reconciler.document.load import write_cache

    write_cache(session.host().state.cache, loaded, session.environ)
