"""`openclaw status` and `openclaw why`: how things are, and why. Both only read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.commands.completion import resource_keys
from reconciler.cli.options import file_option, json_option
from reconciler.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.cli.render.status import ResourceStatus
    from reconciler.cli.runtime import Runtime
    from reconciler.engine.engine import Engine
    from reconciler.engine.goal import Goal
    from reconciler.journal import Journal
    from reconciler.kinds import End
    from reconciler.model import Condition, Generation, Key, Note, Result

# How much of the evidence `why` looks through and shows.
RUNS, EVENTS = 50, 20
# The kept conditions that tell what became of one document.
OF_A_DOCUMENT = frozenset({"RolledBack", "Degraded"})


@click.command("status")
@file_option
@json_option
@click.pass_obj
def status_command(session: Session, as_json: bool) -> int:
    """Show every resource and its conditions."""
    return session.run(status, as_json=as_json)


async def status(session: Session, *, as_json: bool) -> int:
    """Observes, probes, prints, and returns the exit code."""
    from reconciler.cli.render.status import status_json, status_text
    from reconciler.cli.render.text import json_text

    generation, resources, notes = await gather(session)
    supervisor = supervisor_of(session)
    if supervisor is None:
        notes = (*notes, *supervisor_died(session))
    if as_json:
        session.console.out(json_text(status_json(generation, resources, notes, supervisor)))
    else:
        colour = session.console.terminal.colour
        session.console.out(status_text(generation, resources, notes, supervisor, colour=colour))
    return 0


async def gather(session: Session) -> tuple[int, tuple[ResourceStatus, ...], tuple[Note, ...]]:
    """The generation in force, the state of every resource, and what else must be told."""
    from functools import partial

    import trio

    from reconciler.cli.commands.plan import forbidden, notes_of
    from reconciler.cli.render.status import ResourceStatus
    from reconciler.engine.verify import probe_all
    from reconciler.planning.conditions import conditions
    from reconciler.planning.differences import differences
    from reconciler.planning.policy import not_applied, waits_for_person

    session.settle()
    runtime = session.runtime()
    journal = session.own_reader()
    try:
        # In threads: a program that gives a secret may take its time, and a supervisor has more to do.
        goal, notes = await trio.to_thread.run_sync(partial(goal_in_force, session, journal, tried=True))
        serving = await trio.to_thread.run_sync(serving_goal, runtime, journal, goal)
        engine = runtime.engine()
        planned = await engine.plan(goal, journal)
        kept: Mapping[Key, tuple[Condition, ...]] = journal.conditions() if journal is not None else {}
        lost = journal.history_lost if journal is not None else None
        runs = runs_by_key(journal)
        waits = waits_for_person(planned.plan, goal.desired.policy)
        blocked = not_applied(forbidden(planned, journal, engine.now()))
        # A document that was changed since is another one: that the former was taken back, or not even that, is history.
        held = any(note.code == "quarantined" for note in notes)
        spoilt = spoilt_generation(journal) if held or any(note.code == "document_invalid" for note in notes) else None
        if spoilt is not None and journal is not None:
            notes = (*notes, await not_taken_back(runtime, engine, journal, spoilt))
        notes = (*notes, *notes_of(session, journal), *planned.plan.notes, *blocked, *waits)
        last = journal.in_force() if journal is not None else None
    finally:
        if journal is not None:
            journal.close()
    health = await probe_all(serving.resources, runtime.kinds, engine.world(serving))
    told = OF_A_DOCUMENT if held else frozenset({"Degraded"} if spoilt is not None else ())
    external = {kind.name: kind.external for kind in runtime.kinds}
    resources = tuple(
        ResourceStatus(
            key=key,
            conditions=conditions(
                observation=planned.observations[key],
                differences=differences(wanted.resource, planned.observations[key], wanted.applied),
                actions=[action for action in planned.plan.actions if action.key == key],
                health=health.get(key),
                kept=[item for item in kept.get(key, ()) if item.type in told or item.type not in OF_A_DOCUMENT],
                external=external[key.kind],
                generation=planned.plan.generation,
                history_lost=lost,
                run=runs.get(key),
            ),
            detail=planned.observations[key].shown,
            ends=planned.observations[key].ends,
        )
        for key, wanted in planned.wanted.items()
    )
    return last.number if last is not None else 0, resources, notes


def runs_by_key(journal: Journal | None) -> dict[Key, tuple[Result, str]]:
    """The open run that works on each key, by its state and id."""
    from reconciler.cli.commands.plan import present_runs

    if journal is None:
        return {}
    return {
        intent.action.key: (run.state, run.id) for run in present_runs(journal) for intent in journal.actions_of(run.id)
    }


def spoilt_generation(journal: Journal | None) -> Generation | None:
    """The newest generation, where it could not be taken back."""
    from reconciler.model import Result

    newest = journal.last_generation() if journal is not None else None
    return newest if newest is not None and newest.result is Result.ROLLBACK_FAILED else None


async def not_taken_back(runtime: Runtime, engine: Engine, journal: Journal, spoilt: Generation) -> Note:
    """A note on whose settings are on the host after a rollback that failed: by what each of the two differs from it."""
    import trio

    from reconciler.model import Note

    async def differing(generation: Generation) -> set[tuple[Key, str]]:
        goal = await trio.to_thread.run_sync(lenient_goal, runtime, generation)
        plan = (await engine.plan(goal, journal)).plan
        return {(action.key, item.path) for action in plan.actions for item in action.differences}

    mine, last = await differing(spoilt), journal.last_confirmed()
    if last is None:
        stands = "some of its settings are still there" if mine else "its settings are still there"
    elif not mine or mine < (before := await differing(last)):
        stands = f"its settings are there, and not those of generation {last.number}"
    elif before < mine:
        stands = f"the settings of generation {last.number} are there all the same"
    else:
        stands = f"some of its settings are there, some are those of generation {last.number}"
    return Note(code="rollback_failed", message=f"generation {spoilt.number} could not be taken back: {stands}")


def goal_in_force(session: Session, journal: Journal | None, *, tried: bool = False) -> tuple[Goal, tuple[Note, ...]]:
    """The goal of the document; where that is not valid or held back, that of the generation in force, or that a person goes back
    to, with a note that says so.

    `tried`: where none was ever confirmed, of the newest one that was.

    Raises:
        DocumentError: it is not valid, and there is no generation to show instead.
    """
    from reconciler.cli.commands.plan import going_back, held_back
    from reconciler.engine.goal import document_name
    from reconciler.engine.standing import led_to
    from reconciler.errors import DocumentError
    from reconciler.journal import PROVISIONAL_SALT
    from reconciler.model import Note

    runtime, loaded = session.runtime(), None
    salt = journal.salt if journal is not None else PROVISIONAL_SALT
    shows_all = "openclaw validate"
    try:
        loaded = session.load()
        # What is wrong from here on no validation shows by itself: that reads no secret.
        shows_all = "openclaw validate --resolve"
        goal = runtime.source(loaded)(salt)
    except DocumentError as err:
        last, present = (led_to(journal), journal.in_force()) if journal is not None else (None, None)
        stands = f"generation {present.number} stays in force" if present is not None else ""
        if last is None and journal is not None and tried and (last := journal.last_generation()) is not None:
            stands = f"none was ever confirmed, and the newest that was tried is generation {last.number}"
        elif last is not None and spoilt_generation(journal) is not None:
            stands = f"the last that was confirmed is generation {last.number}"
        if last is None:
            raise
        first = f", first {_told(err.problems[0])}" if err.problems else ""
        note = Note(
            code="document_invalid",
            message=f"{err.message}{first} (`{shows_all}` shows all); {stands}",
        )
        # Whatever its secrets give once they are there, what a person went back from waits for a person.
        if journal is None or loaded is None:
            return lenient_goal(runtime, last), (note, *going_back(journal))
        return lenient_goal(runtime, last), (
            note,
            *(held_back(journal, document_name(loaded.digest)) or going_back(journal)),
        )
    held = held_back(journal, *goal.names) if journal is not None else ()
    instead = led_to(journal) if journal is not None and held else None
    return lenient_goal(runtime, instead) if instead is not None else goal, held


def _told(problem: object) -> str:
    from reconciler.document.problems import Problem

    assert isinstance(problem, Problem)
    return f"{problem.place}: {problem.message}"


def lenient_goal(runtime: Runtime, generation: Generation) -> Goal:
    """The goal of a generation to look at; where its secrets give nothing now, with what was recorded of them."""
    from reconciler.errors import DocumentError

    try:
        return runtime.goal_of(generation)[0]
    except DocumentError:
        return runtime.recorded_goal(generation)


def serving_goal(runtime: Runtime, journal: Journal | None, goal: Goal) -> Goal:
    """What the host serves by, and is asked by: the generation in force, until `goal` is applied."""
    last = journal.in_force() if journal is not None else None
    return goal if last is None or last.digest == goal.digest else lenient_goal(runtime, last)


def supervisor_of(session: Session) -> int | None:
    """The process that watches this state directory, None where none does."""
    import os

    from reconciler.engine.lock import holder

    if session.supervisor is not None:
        # It answers itself, whatever became of its lock's file.
        return os.getpid()
    found = holder(session.host().state.ours / "supervisor.lock")
    return found.pid if found is not None else None


def supervisor_died(session: Session) -> tuple[Note, ...]:
    """A note that whoever watched last did not end as it should; there is none while somebody watches."""
    from reconciler.engine.lock import died
    from reconciler.model import Note
    from reconciler.values import rfc3339

    last = died(session.host().state.ours / "supervisor.lock")
    if last is None:
        return ()
    text = f"the supervisor (pid {last.pid}, since {rfc3339(last.since)}) ended without a word, and nobody watches"
    return (Note(code="supervisor_died", message=text),)


@click.command("why")
@file_option
@json_option
@click.argument("key", shell_complete=resource_keys)
@click.pass_obj
def why_command(session: Session, as_json: bool, key: str) -> int:
    """Tell why KEY (kind/name) is as it is, with the evidence."""
    return session.run(why, as_json=as_json, text=key)


async def why(session: Session, *, as_json: bool, text: str) -> int:
    """Collects the evidence on one key, prints it, and returns the exit code."""
    from reconciler.cli.render.text import json_text
    from reconciler.cli.render.why import why_json, why_text
    from reconciler.errors import UsageError
    from reconciler.model import Key

    try:
        key = Key.parse(text)
    except ValueError as err:
        raise UsageError(f"cannot tell why: {err}", hint="`openclaw status` lists the keys") from err
    _generation, resources, notes = await gather(session)
    mine = next((item for item in resources if item.key == key), None)
    evidence = evidence_on(session, key, mine.ends if mine is not None else ())
    if mine is None and not evidence["actions"]:
        known = ", ".join(str(item.key) for item in resources)
        raise UsageError(f"cannot tell why: there is no {key}", hint=f"there is {known}" if known else None)
    if as_json:
        session.console.out(json_text(why_json(key, mine, evidence, notes)))
    else:
        session.console.out(why_text(key, mine, evidence, notes, colour=session.console.terminal.colour))
    return 0


def evidence_on(session: Session, key: Key, ends: Sequence[End] = ()) -> dict[str, list[dict[str, Any]]]:
    """What is known of `key`, newest first, as plain JSON data: of the journal the actions with their runs, and the events; among
    these `ends`, what ended by itself.
    """
    from reconciler.cli.render.why import action_evidence, end_evidence, event_evidence

    ended = [end_evidence(end) for end in reversed(ends)]
    journal = session.reader()
    if journal is None:
        return {"actions": [], "events": ended[:EVENTS]}
    with journal:
        actions = [
            action_evidence(run, intent)
            for run in journal.runs(RUNS)
            for intent in reversed(journal.actions_of(run.id))
            if intent.action.key == key
        ]
        events = [event_evidence(event) for event in journal.events(key, EVENTS)]
    # Sorting keeps the order of what is of one moment.
    events = sorted((*ended, *events), key=lambda event: str(event["at"]), reverse=True)
    return {"actions": actions[:EVENTS], "events": events[:EVENTS]}
