"""What a person does to the service directly: `openclaw service start|stop|restart|status`, and the end of a supervisor.

A stop is recorded with who and when, and suspends the resource until a start or a change of the `service` section.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from reconciler.errors import TerminalError
from reconciler.host import Host
from reconciler.kinds import Resource, World
from reconciler.model import Condition, Key
from resources.service import operate
from resources.service.keeper.process import output_obstacle
from resources.service.keeper_client import connect, ensure_keeper, look
from resources.service.observe import Child, child_of, conditions_of, shown, unheld_text
from resources.service.plan import OUTPUT_HINT, output_text
from resources.service.spec import KEY, START_SECONDS


class NothingAppliedError(TerminalError):
    """The keeper knows of no service. Whoever knows the history knows whether there was one before."""


_HINT: Final = "run `openclaw apply` first"


async def stop(world: World, who: str, why: str = "") -> dict[str, Any]:
    """Stops the gateway until somebody starts it; returns its status. Stopped already: the hold is recorded all the same.

    Raises:
        TerminalError: there is nothing that could be stopped.
        TemporaryError: the keeper ended meanwhile.
    """
    told = _told(await child_of(world.host), "stop")
    await operate.bring_down(world.host, operate.hold_of("operator", who, why, told["section"], world.now()))
    return await service_status(world)


async def start(world: World) -> dict[str, Any]:
    """Starts the gateway as it was last applied, lifts a hold, forgets a crash loop; returns its status once it is Ready.

    Raises:
        TerminalError: nothing was applied yet, or it ended and is held down.
        TemporaryError: it ended, or was not Ready in time.
    """
    told = _told(await child_of(world.host), "start")
    await operate.bring_up(world.host, told, seconds=_seconds(told))
    return await service_status(world)


async def keep(host: Host) -> tuple[str, Mapping[Key, tuple[Condition, ...]]]:
    """Keeps up what was applied last while nobody can say what is wanted (a secret that cannot be read, a disk that is full):
    what runs is held again, and what is down although nobody stopped it is started as it was. What ended for good is tried once
    more: what it ended of may be mended.

    Returns what it did, in words (empty for nothing), and the conditions that it is in then, where there is anything to keep up.

    Raises:
        TerminalError: it ended and is held down.
        TemporaryError: it ended, or was not Ready in time; or the keeper cannot be understood.
    """
    child = await child_of(host)
    if done := await _keep(host, child):
        child = await child_of(host)
    there = child.record is not None or child.unrecorded
    return done, {KEY: await trio.to_thread.run_sync(conditions_of, child)} if there else {}


async def _keep(host: Host, child: Child) -> str:
    if child.unrecorded or child.record is None or (child.held and child.state != "failed"):
        return ""
    if child.pid is not None:
        await ensure_keeper(host)
        return "the gateway is held again, by a new keeper"
    if child.state not in ("crashed", "failed"):
        return ""
    told = child.record["spec"]
    await operate.bring_up(host, told, seconds=_seconds(told), fresh=False)
    return "the gateway is started as it was last applied"


async def release(host: Host, *, end: bool = False) -> Callable[[], Awaitable[None]]:
    """Lifts a hold and starts nothing: whoever plans next finds the service down and leads it to where it is declared.

    One that runs is ended only where `end`. Returns what puts the hold back.

    Raises:
        TemporaryError: the keeper ended meanwhile, or cannot be understood.
    """
    child = await child_of(host)
    hold = child.record["hold"] if child.record is not None else None

    async def put_back() -> None:
        if hold is not None:
            await operate.bring_down(host, hold)

    if end or child.pid is None:
        await operate.bring_down(host, None)
    return put_back


async def restart(world: World) -> dict[str, Any]:
    """Ends the gateway with its drain and starts it; returns its status once it is Ready.

    Raises:
        TerminalError, TemporaryError: as `start`; also where what it prints could not be written: then one that runs goes on.
    """
    told = _told(await child_of(world.host), "restart")
    if (obstacle := await trio.to_thread.run_sync(output_obstacle, told["output"] or os.devnull)) is not None:
        raise TerminalError(output_text("restart", *obstacle), hint=OUTPUT_HINT)
    await operate.bring_up(world.host, told, seconds=_seconds(told), again=True)
    return await service_status(world)


async def service_status(world: World, resource: Resource | None = None) -> dict[str, Any]:
    """What the schema `service-status` names, but for the drift, as plain JSON data; changes nothing.

    Raises:
        TemporaryError: the keeper cannot be understood.
    """
    child = await child_of(world.host)
    spec = resource.spec if resource is not None else None
    return await trio.to_thread.run_sync(shown, child, spec)


async def going_on(host: Host) -> str:
    """What goes on running when nobody watches any more, and how to end it; empty where nothing does.

    Raises:
        TemporaryError, NotPermittedError: it cannot be told.
    """
    child = await child_of(host)
    if child.pid is None and child.state not in ("running", "broken"):
        return ""
    if child.held and child.record is not None and child.record["goal"] == "down":
        return "the service is being ended by its keeper; `openclaw service status` tells how far that is"
    return "the service goes on; `openclaw service stop` ends it"


async def stop_all(host: Host) -> None:
    """Ends every child of this state directory and its keeper: the end of a supervisor that takes all with it.

    A child whose keeper died is found and ended as well, also where its record was lost. What was running is started again
    by the next apply.

    Raises:
        TemporaryError: the keeper ended in the middle.
    """
    if (await child_of(host)).unrecorded:
        await operate.hold_unrecorded(host)
    seen = await look(host)
    if seen.keeper_pid is None:
        if not any(child["pid"] is not None or child["goal"] == "up" for child in seen.children.values()):
            return
        await ensure_keeper(host)
    async with connect(host) as keeper:
        await operate.shut_down(keeper)


def _told(child: Child, verb: str) -> Mapping[str, Any]:
    if child.record is None and child.unrecorded:
        raise TerminalError(f"cannot {verb} the service: {unheld_text(child)}")
    if child.record is None:
        text = f"cannot {verb} the service: it was never applied in this state directory"
        raise NothingAppliedError(text, hint=_HINT)
    told: Mapping[str, Any] = child.record["spec"]
    return told


def _seconds(told: Mapping[str, Any]) -> float:
    return float(told["stop"]["drain"] + told["stop"]["grace"]) + START_SECONDS
