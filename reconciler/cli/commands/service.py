"""`openclaw service`: the service by hand. What it does holds until a start, or a change of the `service` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import file_option, json_option
from reconciler.cli.session import Session

if TYPE_CHECKING:
    from reconciler.kinds import World

LOCK_SECONDS = 30.0


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
@click.option("--why", default="", help="The reason, for those who look at it later.")
@click.pass_obj
def stop_command(session: Session, as_json: bool, why: str) -> int:
    """Stop the service until a start, or a change of the `service` section."""
    return session.run(act, verb="stop", why=why, as_json=as_json)


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

    world = await _world(session)
    _print(session, {**await service_status(world), "drift": await _drift(session)}, as_json)
    return 0


async def _drift(session: Session) -> list[str]:
    """What moved on the host of what the service was applied with, in words."""
    from reconciler.cli.commands.status import gather

    _generation, resources, _notes = await gather(session)
    mine = next((item for item in resources if item.key.kind == "service"), None)
    conditions = mine.conditions if mine is not None else ()
    return [condition.message for condition in conditions if condition.type == "Drifted"]


async def act(session: Session, *, verb: str, why: str, as_json: bool) -> int:
    """Starts, stops or restarts the service, under the writer lock and with an entry in the journal."""
    from reconciler.cli.commands.apply import who
    from reconciler.engine.lock import WriterLock
    from reconciler.model import Key
    from resources.service import control

    host = session.host()
    world = await _world(session)
    person = who(session) or "somebody"
    engine = session.engine(lambda _progress: None, f"openclaw service {verb}")
    lock = WriterLock(host.state.lock, command=f"openclaw service {verb}", now=engine.now)
    try:
        async with lock.hold(LOCK_SECONDS):
            if verb == "stop":
                found = await control.stop(world, person, why)
            elif verb == "start":
                found = await control.start(world)
            else:
                found = await control.restart(world)
            reason = f": {why}" if why else ""
            engine.journal().record_event(
                engine.now(),
                Key("service", "gateway"),
                f"service_{verb}",
                f"`openclaw service {verb}` by {person}{reason}",
            )
    finally:
        session.leave(engine)
    _print(session, {**found, "drift": await _drift(session)}, as_json)
    return 0


async def _world(session: Session) -> World:
    """What the service's functions act in: the document's goal, or the last confirmed one while it is not valid."""
    from reconciler.cli.commands.status import goal_in_force

    journal = session.reader()
    try:
        goal, _notes = goal_in_force(session, journal)
    finally:
        if journal is not None:
            journal.close()
    return session.runtime().engine().world(goal)


def _print(session: Session, found: Mapping[str, Any], as_json: bool) -> None:
    from reconciler.cli.render.text import json_text, plural

    if as_json:
        session.console.out(json_text({"schema": "openclaw.service-status/1", **found}))
        return
    pid = f", pid {found['pid']}" if found.get("pid") else ""
    lines = [f"{found.get('runtime')} gateway: {found['state']} under the {found['manager']} manager{pid}"]
    if found.get("since"):
        lines.append(f"  since {found['since']}, {plural(found.get('restarts') or 0, 'restart')}")
    if found.get("last_exit"):
        lines.append(f"  last exit: {_exit(found['last_exit'])}")
    lines += [f"  drift: {text}" for text in found.get("drift", ())]
    session.console.out("\n".join(lines) + "\n")


def _exit(last: Mapping[str, Any] | str) -> str:
    """When a process ended and why; of an adopted one no more is known than that it is gone."""
    if isinstance(last, str):
        return last
    return f"{last['reason']} (pid {last['pid']}, {last['at']})"
