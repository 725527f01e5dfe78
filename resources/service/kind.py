"""The kind `service`: the gateway's process under the embedded manager. The adapter: it observes, acts and waits.

What to do is decided in `plan`, what the process is to be in `spec`; the process itself belongs to the keeper.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import trio

from reconciler.desired import Desired, SecretRef
from reconciler.errors import NotPermittedError, OpenClawError, StaleError, TerminalError, lacking
from reconciler.host import Host
from reconciler.kinds import AppliedField, Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import Action, Impact, Key
from resources.service import operate, plan, prepared, proc
from resources.service.keeper import program as keeper_program
from resources.service.keeper_client import SOCKET, KeeperGone, KeeperRefused, connect, ensure_keeper, upgrade_keeper
from resources.service.observe import (
    PROBE_SECONDS,
    Child,
    child_of,
    down_text,
    due_seconds,
    effective_port,
    fell,
    observe,
    unheld_text,
)
from resources.service.spec import CHILD, KEY, Program, ServiceSpec, builtin_program, declare, keeper_spec
from resources.steps import reached, still_holds

# Less than a probe has (`reconciler.engine.verify`), so that the text is ours.
_HEALTH_SECONDS: Final = 4.0
# How often a lost keeper is looked for; only while there is none.
_LOOK_SECONDS: Final = (0.2, 5.0)
# How long a keeper that says nothing is believed to be well: one that is stopped says nothing either.
_ASK_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class ServiceKind:
    """See the module. `program` says how the gateway is started; another one is for tests."""

    name: ClassVar[str] = "service"
    sections: ClassVar[frozenset[str]] = frozenset({"service"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = PROBE_SECONDS

    program: Callable[[Host], Program] = builtin_program

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        resource = declare(desired, host, secrets, self.program(host), keeper_program.digest())
        return () if resource is None else (resource,)

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        return tuple([await observe(one, world) for one in wanted])

    def plan(self, step: Step) -> KindPlan:
        return plan.plan(step)

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        if action.precondition is not None and not await _still_to_do(action, resource, world):
            if action.verb in ("start", "restart") and resource is not None:
                # Somebody else began just that, its keeper for one: done it is when it is Ready.
                await _await_ready(action, resource.spec, world)
            return
        if action.arguments.get("restore"):
            await _take_back(action, world)
            return
        spec: ServiceSpec | None = resource.spec if resource is not None else None
        if action.verb == "adopt":
            await _adopt(spec, world)
        elif action.verb == "upgrade":
            await upgrade_keeper(world.host)
        elif action.verb == "remove":
            if (await child_of(world.host)).unrecorded:
                await operate.hold_unrecorded(world.host)
            await operate.forget(world.host)
            await trio.to_thread.run_sync(prepared.remove, world.host)
        elif spec is not None:
            await _apply(action, spec, world)
        else:
            raise TerminalError(f"cannot {action.verb} {action.key}: the document declares it no longer")

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        try:
            child = await child_of(world.host)
            began = child.record["spawned_at"] if child.record is not None and child.pid is not None else None
            health = await _health(resource.spec, child, world)
            since = _since(child) if health.ready or child.pid is None else None
            due = due_seconds(child) if health.reason != "Starting" else _startup_seconds(child)
            return replace(health, life=_life(child), began=began, fell=fell(child), since=since, due_seconds=due)
        except (OSError, OpenClawError) as err:
            if (short := lacking(err)) is not None:
                raise short from None
            return Health(ready=False, reason="NotObserved", message=str(err))

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        """Follows the keeper's events; reports also when the keeper goes, and when one is there (again)."""
        wait, longest = _LOOK_SECONDS
        socket = world.host.socket_path(SOCKET)
        while True:
            # Never raises: a directory that we may not look into has no keeper for us.
            if await trio.to_thread.run_sync(os.path.exists, socket) and await _follow(world.host, report):
                report(KEY)
                wait = _LOOK_SECONDS[0]
            await trio.sleep(wait)
            wait = min(wait * 2, longest)


async def _follow(host: Host, report: Callable[[Key], None]) -> bool:
    """Reports events until the keeper goes; False where there was none."""
    there = False
    try:
        async with connect(host) as keeper:
            await keeper.call("subscribe")
            there = True
            # What happened before is in nobody's event.
            report(KEY)
            while True:
                event = await keeper.event(_ASK_SECONDS)
                if event is not None and event.get("name") == CHILD:
                    report(KEY)
    except (KeeperGone, KeeperRefused, NotPermittedError):
        pass
    return there


async def _still_to_do(action: Action, resource: Resource | None, world: World) -> bool:
    """False where the action was done already.

    Raises:
        StaleError: what it acts on is neither what was planned for nor what it leads to.
    """
    observation = await observe(_wanted(action, resource), world)
    if observation.unknown is not None:
        raise StaleError(f"cannot {action.verb} {action.key}: {observation.unknown}")
    assert action.precondition is not None
    if still_holds(action.precondition, action.differences, observation.fields):
        return True
    is_gone = action.verb == "adopt" and observation.detail.pid is None
    if reached(action.differences, observation.fields) and not is_gone:
        return False
    raise StaleError(f"cannot {action.verb} {action.key}: it moved since the plan")


def _wanted(action: Action, resource: Resource | None) -> Wanted:
    # Only the paths count here: an observation answers for what is declared and for what was applied.
    return Wanted(
        key=action.key,
        resource=resource,
        applied={item.path: AppliedField(item.last_applied) for item in action.differences},
    )


async def _apply(action: Action, spec: ServiceSpec, world: World) -> None:
    host = world.host
    child = await child_of(host)
    port = await trio.to_thread.run_sync(effective_port, spec, host)
    told = keeper_spec(spec, host, port)
    await trio.to_thread.run_sync(prepared.prepare, spec, world, _told(child))
    match action.verb:
        case "start":
            # A crash loop with the same spec is only probed: its delays are not forgotten.
            fresh = (
                child.record is None or child.record["spec"]["spec_digest"] != spec.digest or child.state != "broken"
            )
            await operate.bring_up(host, told, seconds=_patience(action), fresh=fresh, masked=_secrets(spec, world))
        case "restart":
            await operate.bring_up(host, told, seconds=_patience(action), again=True, masked=_secrets(spec, world))
        case "stop" if child.pid is not None and action.impact is Impact.NONE:
            raise StaleError(f"cannot stop {action.key}: it was started since the plan")
        case "stop":
            if child.unrecorded:
                await operate.tell(host, told, start_keeper=True)
            if child.record is not None or child.unrecorded:
                await operate.bring_down(
                    host, operate.hold_of("document", "openclaw", "state: stopped", spec.section, world.now())
                )
                await operate.tell(host, told, start_keeper=False)
        case "update":
            await operate.tell(host, told, start_keeper=child.pid is not None)
        case _:
            raise TerminalError(f"cannot {action.verb} {action.key}: there is no such action")


async def _await_ready(action: Action, spec: ServiceSpec, world: World) -> None:
    port = await trio.to_thread.run_sync(effective_port, spec, world.host)
    told = keeper_spec(spec, world.host, port)
    await operate.bring_up(world.host, told, seconds=_patience(action), fresh=False, masked=_secrets(spec, world))


async def _adopt(spec: ServiceSpec | None, world: World) -> None:
    """A keeper finds what its predecessor left by itself; of what is in no record it has to be told, and what went with the
    record is what the next start reads.
    """
    await ensure_keeper(world.host)
    if spec is not None and (await child_of(world.host)).unrecorded:
        if await trio.to_thread.run_sync(prepared.prepared_digest, world.host) is None:
            await trio.to_thread.run_sync(prepared.prepare, spec, world, None)
        port = await trio.to_thread.run_sync(effective_port, spec, world.host)
        await operate.tell(world.host, keeper_spec(spec, world.host, port), start_keeper=False)


async def _take_back(action: Action, world: World) -> None:
    """The undo of an action of this same run: its files come back, then the process follows."""
    host = world.host
    before = await trio.to_thread.run_sync(prepared.restore, world)
    child = await child_of(host)
    told = before.told if before is not None else _told(child)
    match action.verb:
        case "stop":
            if told is None:
                await operate.forget(host)
            else:
                await operate.bring_down(
                    host, operate.hold_of("document", "openclaw", "undone", told["section"], world.now())
                )
                await operate.tell(host, told, start_keeper=False)
        case "start" | "restart" if told is not None:
            await operate.bring_up(host, told, seconds=_patience(action), again=action.verb == "restart")
        case "update" if told is not None:
            await operate.tell(host, told, start_keeper=child.pid is not None)


def _told(child: Child) -> Mapping[str, Any] | None:
    return child.record["spec"] if child.record is not None else None


def _patience(action: Action) -> float:
    """A little less than the caller's own deadline, so that the text is ours."""
    return action.deadline_seconds * 0.95


def _secrets(spec: ServiceSpec, world: World) -> tuple[str, ...]:
    return tuple(world.secrets.reveal(value) for value in spec.environment.values() if isinstance(value, SecretRef))


async def _health(spec: ServiceSpec, child: Child, world: World) -> Health:
    if spec.service.state == "stopped":
        if child.pid is None:
            return Health(ready=True, reason="Stopped", message="stopped, as declared")
        return Health(ready=False, reason="Running", message=f"process {child.pid} still runs")
    if child.suspended(spec):
        # By a person's word: no verify window may take that for a fault of the document.
        return Health(ready=False, reason="Suspended", message=down_text(child), excused=True)
    if child.unrecorded:
        return Health(ready=False, reason="NotHeld", message=unheld_text(child))
    if child.pid is None or child.record is None:
        final = child.held and child.state in ("broken", "failed", "stopped")
        return Health(ready=False, reason=_why_down(child), message=down_text(child), final=final)
    if child.held and child.record["state"] != "ready":
        ended = child.last_exit
        before = f"; the one before ended: {ended['reason']}" if ended is not None and not ended["asked"] else ""
        return Health(ready=False, reason="Starting", message=f"process {child.pid} is {child.record['state']}{before}")
    port = child.record["spec"]["port"]
    host = await trio.to_thread.run_sync(proc.group_host, child.pid, port)
    if host is None:
        text = f"process {child.pid} does not listen on port {port}"
        return Health(ready=False, reason="PortNotOwned", message=text)
    return await _answers(spec, host, port, world)


def _startup_seconds(child: Child) -> float:
    measured = child.record["startup_seconds"] if child.record is not None else None
    return measured or plan.DEFAULT_DOWNTIME_SECONDS


def _life(child: Child) -> str:
    """What tells this life of the gateway from one before an end that nobody asked for; empty where none is running."""
    if child.record is None:
        return ""
    ended = child.last_exit
    # Of an end that no keeper saw the last that it wrote down says nothing.
    asked = ended is not None and ended["asked"] and not child.fell_unseen
    return str(child.record["restarts"]) if child.pid is not None or asked else ""


def _since(child: Child) -> float | None:
    """Since when it is Ready, or down; None where nobody knows."""
    if child.record is None or child.unrecorded:
        return None
    if child.pid is None and not child.held:
        # A keeper that is gone left no word of an end that came after its own.
        return None
    since: float | None = child.record["since" if child.pid is None else "ready_at"]
    return since


def _why_down(child: Child) -> str:
    return {"broken": "CrashLooping", "failed": "HeldDown", "crashed": "NotHeld"}.get(child.state, "NotRunning")


async def _answers(spec: ServiceSpec, host: str, port: int, world: World) -> Health:
    """Asks the gateway itself, where its own process listens."""
    # Loaded here: a plan asks nobody.
    from gateway.client import ClientError, get_own_health

    try:
        secret = world.secrets.reveal(spec.auth) if spec.auth is not None else None
    except OpenClawError:
        # How it is it says to anybody; only its parts are for those who know the secret.
        secret = None
    try:
        with trio.fail_after(_HEALTH_SECONDS):
            status, said = await get_own_health(host, port, secret, encrypted=spec.tls)
    except trio.TooSlowError:
        return Health(
            ready=False, reason="NoAnswer", message=f"no answer from port {port} within {_HEALTH_SECONDS:g} s"
        )
    except (OSError, ClientError) as err:
        if (short := lacking(err)) is not None:
            raise short from None
        return Health(ready=False, reason="NoAnswer", message=f"cannot ask port {port}: {err}")
    if status == 200:
        return Health(ready=True)
    return Health(ready=False, reason="NotHealthy", message=f"/health answers {status}: {said.get('status')}")
