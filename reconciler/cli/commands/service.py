"""`openclaw service`: the service by hand. What it does holds until a start, or a change of the `service` section."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import Line, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import DocumentError, OpenClawError, TerminalError

if TYPE_CHECKING:
    from reconciler.desired import SecretRef
    from reconciler.engine.engine import Engine, Source
    from reconciler.kinds import World
    from reconciler.model import Secret

LOCK_SECONDS = 30.0


class NoSecrets:
    """The secrets of a command that needs none (`reconciler.kinds.Secrets`)."""

    def digest(self, reference: SecretRef) -> Secret:
        """There is none."""
        raise TerminalError(f"cannot use the secret {reference}: this command reads none")

    def digest_text(self, value: str) -> Secret:
        """There is none."""
        raise TerminalError("cannot digest a secret: this command reads none")

    def reveal(self, reference: SecretRef) -> str:
        """There is none."""
        raise TerminalError(f"cannot use the secret {reference}: this command reads none")


@click.group("service")
def service_command() -> None:
    """Start, stop, restart the service, or show it."""


@service_command.command("status", short_help="Show its state, process and restarts.")
@file_option
@json_option
@click.pass_obj
def status_command(session: Session, as_json: bool) -> int:
    """Show the service: manager, state, process, restarts, last exit."""
    return session.run(status, as_json=as_json)


@service_command.command("start", short_help="Start it, and lift a stop.")
@file_option
@json_option
@click.pass_obj
def start_command(session: Session, as_json: bool) -> int:
    """Start the service as it was last applied, and lift a stop."""
    return session.run(act, verb="start", why="", as_json=as_json)


@service_command.command("stop", short_help="Stop it until a start.")
@file_option
@json_option
@click.option("--why", type=Line(), metavar="TEXT", help="The reason, for those who look at it later.")
@click.pass_obj
def stop_command(session: Session, as_json: bool, why: str | None) -> int:
    """Stop the service until a start, or a change of the `service` section."""
    return session.run(act, verb="stop", why=why or "", as_json=as_json)


@service_command.command("restart", short_help="Restart it, with its drain.")
@file_option
@json_option
@click.pass_obj
def restart_command(session: Session, as_json: bool) -> int:
    """Restart the service, with its drain."""
    return session.run(act, verb="restart", why="", as_json=as_json)


async def status(session: Session, *, as_json: bool) -> int:
    """Observes the service and prints it."""
    from resources.service.control import service_status

    session.settle()
    world = world_without_secrets(session)
    _print(session, {**await service_status(world), "drift": await _drift(session)}, as_json)
    return 0


async def _drift(session: Session) -> list[str] | None:
    """What moved on the host of what the service was applied with, in words; None where the document or its secrets cannot
    be read, so that nobody knows.
    """
    from reconciler.cli.commands.status import gather

    try:
        _generation, resources, _notes = await gather(session)
    except DocumentError as err:
        session.console.err(f"note: whether it drifted is not known: {err.message}\n")
        return None
    mine = next((item for item in resources if item.key.kind == "service"), None)
    conditions = mine.conditions if mine is not None else ()
    return [condition.message for condition in conditions if condition.type == "Drifted"]


async def act(session: Session, *, verb: str, why: str, as_json: bool) -> int:
    """Starts, stops or restarts the service, under the writer lock and with an entry in the journal."""
    from reconciler.cli.commands.apply import carry_out, exit_code, reporter, who
    from reconciler.cli.render.outcome import outcome_text
    from reconciler.engine.requests import Request
    from reconciler.model import Key
    from resources.service import control

    session.settle()
    session.check_owner()
    host = session.host()
    world = world_without_secrets(session)
    person = who(session)
    engine = session.engine(reporter(session, as_json), f"openclaw service {verb}")
    outcome = None
    try:
        untried = never_seen(session) if verb != "stop" else None
        if untried is not None:
            request = Request(cause=f"service {verb}", author=person)
            first = partial(control.release, host, end=verb == "restart")
            outcome = await carry_out(session, engine, untried, request, wait_seconds=LOCK_SECONDS, first=first)
        else:
            await engine.do(partial(by_hand, session, engine, world, verb, person, why), LOCK_SECONDS)
        reason = f": {why}" if why else ""
        try:
            engine.journal().record_event(
                engine.now(),
                Key("service", "gateway"),
                f"service_{verb}",
                f"`openclaw service {verb}` by {person}{reason}",
            )
        except OpenClawError as err:
            # It is done, and said so: whoever is told that it failed would do it again.
            session.console.err(f"note: this is done, and not in the history: {err.message}\n")
    finally:
        session.leave(engine)
    if verb != "stop" and declared_stopped(session):
        session.console.err(
            "note: the document says `service.state: stopped`: the next apply, or a supervisor, stops it again; "
            "`openclaw config set service.state running` keeps it\n"
        )
    if outcome is not None and not as_json:
        session.console.err(outcome_text(outcome, colour=session.console.terminal.colour))
    _print(session, {**await control.service_status(world), "drift": await _drift(session)}, as_json)
    return exit_code(session, outcome) if outcome is not None else 0


async def by_hand(session: Session, engine: Engine, world: World, verb: str, person: str, why: str) -> None:
    """Does it to the service as it was last applied: before a start, what is being taken back is.

    Raises:
        TerminalError: there is none, or it cannot be done.
        RollbackFailedError: what was being taken back could not be.
        TemporaryError: it ended, was not Ready in time, or the keeper ended meanwhile.
    """
    from reconciler.engine.recovery import end_ways_back
    from resources.service import control

    if verb != "stop":
        await end_ways_back(engine)
    try:
        if verb == "stop":
            await control.stop(world, person, why)
        elif verb == "start":
            await control.start(world)
        else:
            await control.restart(world)
    except control.NothingAppliedError as err:
        last = session.in_force()
        if last is None or any(path[0] == "service" for path in last.canonical["declared"]):
            raise
        raise TerminalError(
            f"cannot {verb} the service: the document that is in force (generation {last.number}) declares none",
            hint=f"write a `service` section into {session.named}, then run `openclaw apply`",
        ) from err


def declared_stopped(session: Session) -> bool:
    """Whether the document wants the service stopped, as far as it can be read."""
    runtime = session.runtime()
    with suppress(OpenClawError):
        service = runtime.source(session.load())(runtime.salt()).desired.service
        return service is not None and service.state == "stopped"
    return False


def never_seen(session: Session) -> Source | None:
    """The generation in force, where it was applied while the service was held stopped: to be watched once it runs.

    None as well, with a note, where this shell's environment gives another document, or none: then it is started as it was
    last applied.
    """
    from reconciler.model import Result

    journal = session.reader()
    if journal is None:
        return None
    with journal:
        last = journal.in_force()
    if last is None or last.result is not Result.UNCONFIRMED:
        return None
    runtime = session.runtime()
    try:
        found = runtime.goal_of(last)[0]
        reason = "" if found.digest == last.digest else "its references give something else in this environment"
    except OpenClawError as err:
        reason = err.message
    if reason:
        session.console.err(f"note: generation {last.number} is not watched from here: {reason}\n")
        return None
    return lambda _salt: found


def world_without_secrets(session: Session) -> World:
    """What the service's functions act in: they start what was last applied, whose secrets lie where it was applied to.

    So the service can be stopped and started from any shell, whatever is wrong with the document.
    """
    import time
    from pathlib import Path

    from reconciler.kinds import World

    return World(
        host=session.host(),
        secrets=NoSecrets(),
        document=Path(session.document),
        now=time.time,
    )


def _print(session: Session, found: Mapping[str, Any], as_json: bool) -> None:
    from reconciler.cli.render.status import exit_text, keeper_text
    from reconciler.cli.render.text import json_text, plural
    from resources.service.observe import hold_text

    if as_json:
        session.console.out(json_text({"schema": "openclaw.service-status/1", **found}))
        return
    pid = f", pid {found['pid']}" if found.get("pid") else ""
    lines = [f"{found.get('runtime')} gateway: {found['state']} under the {found['manager']} manager{pid}"]
    if found.get("since"):
        lines.append(f"  since {found['since']}, {plural(found.get('restarts') or 0, 'restart')}")
    if found.get("last_exit"):
        lines.append(f"  last exit: {exit_text(found['last_exit'])}")
    if found.get("last_keeper"):
        lines.append(f"  last keeper: {keeper_text(found['last_keeper'])}")
    if found.get("hold"):
        lines.append(f"  held down: {hold_text(found['hold'])}")
    lines += [f"  drift: {text}" for text in found.get("drift") or ()]
    session.console.out("\n".join(lines) + "\n")
