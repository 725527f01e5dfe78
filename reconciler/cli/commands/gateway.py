"""`openclaw gateway`: run the built-in gateway in the foreground, or talk to one that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.options import PORT, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import OpenClawError, UnreachableError, UsageError

if TYPE_CHECKING:
    from resources.gateway_config.running import Address

# A gateway under load answers within this; a person waits no longer.
CALL_SECONDS = 10.0


@click.group("gateway")
def gateway_command() -> None:
    """Run the built-in gateway, or talk to a running one."""


@gateway_command.command("run", short_help="Run the built-in gateway in the foreground.")
@click.option("--config", metavar="PATH", help="Its file [default: openclaw.json in the state directory].")
@click.option("--port", type=PORT, metavar="N", help="Listen there, whatever the file says.")
@click.pass_obj
def run_command(session: Session, config: str | None, port: int | None) -> int:
    """Run the built-in gateway in the foreground, by itself: nobody restarts it."""
    import os

    from gateway.app import main

    # Where `openclaw logs` looks, and not the real product's shared directory.
    os.environ.setdefault("OPENCLAW_LOG_DIR", str(session.host().state.root / "logs"))

    arguments = [] if config is None else ["--config", config]
    return main(["run", *arguments, *([] if port is None else ["--port", str(port)])])


@gateway_command.command("health", short_help="Show its health.")
@file_option
@json_option
@click.pass_obj
def health_command(session: Session, as_json: bool) -> int:
    """Show the gateway's health; exits 0 when it serves, degraded or not, 1 when it takes no work, 69 when it does not answer."""
    return session.run(health, as_json=as_json)


@gateway_command.command("call", short_help="Call METHOD and print its answer.")
@file_option
@click.argument("method")
@click.option("--params", default="{}", metavar="JSON", help="The parameters.")
@click.pass_obj
def call_command(session: Session, method: str, params: str) -> int:
    """Call METHOD of the running gateway and print its answer."""
    from gateway.wire.frames import Request, render
    from reconciler.values import parse_json

    try:
        data = parse_json(params)
    except ValueError as err:
        raise UsageError(f"cannot read --params: {err}", hint="write JSON: '{\"probe\": false}'") from err
    try:
        render(Request(id="", method=method, params=data))
    except TypeError as err:
        raise UsageError(f"cannot send --params: {str(err)[:1].lower()}{str(err)[1:]}") from err
    return session.run(call, method=method, params=data)


async def health(session: Session, *, as_json: bool) -> int:
    """Asks for the health and prints it."""
    import trio

    from gateway.client import ClientError, get_own_health
    from reconciler.cli.render.text import json_text, seconds

    place = await _found(session)
    try:
        with trio.fail_after(CALL_SECONDS):
            status, data = await get_own_health(place.host, place.port, place.secret, encrypted=place.encrypted)
    except (ClientError, trio.TooSlowError) as err:
        raise _unreachable(place, err) from err
    if as_json:
        session.console.out(json_text({"schema": "openclaw.gateway-health/1", **data}))
    else:
        uptime = f", up {seconds(data['uptime'])}" if "uptime" in data else ""
        session.console.out(f"{place.host}:{place.port} is {data['status']}{uptime}\n")
        for name, part in data.get("parts", {}).items():
            if not part.get("ok", True):
                session.console.out(f"  {name}: {part.get('error') or 'not ok'}\n")
    return 0 if status == 200 else 1


async def call(session: Session, *, method: str, params: Any) -> int:
    """Calls one method and prints its payload."""
    import trio

    from gateway.client import CallError, ClientError, open_client, unverified_context
    from reconciler.cli.render.text import json_text

    place = await _found(session)
    try:
        with trio.fail_after(CALL_SECONDS):
            async with open_client(
                place.url,
                token=place.token,
                password=place.password,
                mode="cli",
                client_id="cli",
                tls=unverified_context() if place.encrypted else None,
            ) as client:
                answer = await client.call(method, params)
    except CallError as err:
        raise OpenClawError(f"cannot call {method}: {err.message}") from err
    except (ClientError, trio.TooSlowError) as err:
        raise _unreachable(place, err) from err
    session.console.out(json_text(answer))
    return 0


def _unreachable(place: Address, err: Exception) -> UnreachableError:
    where = f"cannot reach the gateway at {place.host}:{place.port}"
    # The client's own words begin with its address already, as far as it got.
    reason = str(err).removeprefix(f"{where}: ") or f"no answer within {CALL_SECONDS:g} s"
    return UnreachableError(f"{where}: {reason}", hint="`openclaw status` tells more")


async def _found(session: Session) -> Address:
    """Where the gateway of this state directory really listens, and with what secret.

    Whoever else listens there is a stranger: nothing is asked of him, and no secret shown to him.

    Raises:
        UnreachableError: it listens nowhere.
    """
    import trio

    from resources.gateway_config.running import serving

    place = _place(session)
    found = await trio.to_thread.run_sync(serving, place)
    if found is None:
        raise UnreachableError(
            f"cannot reach the gateway: none of this state directory ({place.state}) listens on port {place.port}",
            hint="`openclaw status` tells more",
        )
    return found


def _place(session: Session) -> Address:
    """Where the gateway of this document should listen, and with what secret."""
    from reconciler.cli.commands.status import goal_in_force
    from reconciler.model import Key
    from resources.gateway_config.running import address
    from resources.gateway_config.store import read_in_force

    session.settle()
    root = read_in_force(session.host().state.config).root
    journal = session.own_reader()
    if journal is None and root is None:
        # Whoever listens on the default port is a stranger.
        raise UnreachableError(
            "cannot reach the gateway: nothing was applied here yet", hint="`openclaw apply` starts it"
        )
    try:
        goal, _notes = goal_in_force(session, journal)
    finally:
        if journal is not None:
            journal.close()
    resource = goal.resources.get(Key("gateway-config", "gateway"))
    engine = session.runtime().engine()
    return address(
        root,
        resource.spec if resource is not None else None,
        engine.world(goal),
    )
