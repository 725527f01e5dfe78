"""What to do about the differences of `service/gateway`. Pure.

Verbs: `start`, `stop` (also of what a person stopped already), `restart` (a difference in what a running process cannot take
up), `update` (only what the keeper keeps, or what a stopped service will be started with), `adopt` (the process runs, and no
keeper holds it), `upgrade` (its keeper is another version than the installed one), `remove` (withdrawn).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from reconciler.kinds import KindPlan, Resource, Step
from reconciler.model import Action, Because, Blocked, Cause, Consequence, Difference, DocumentPath, Impact, Note, Undo
from resources.gateway_config.fields import DEFAULT_PORT
from resources.gateway_config.fields import KEY as CONFIG
from resources.gateway_config.outlived import outlived
from resources.service.spec import (
    KEEPER_PROGRAM,
    KEY,
    MANAGERS,
    POLICY_FIELDS,
    RUNTIMES,
    START_SECONDS,
    ServiceSpec,
    is_spec_field,
)
from resources.steps import action_id, because_of, cause_of, precondition_of, shown

# Where no start was measured yet.
DEFAULT_DOWNTIME_SECONDS: Final = 1.0
_SLACK_SECONDS: Final = 10.0
OUTPUT_HINT: Final = (
    "move that away, or make it writable (the log directory is made anew), or name another `logging.directory`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who listens on the port that the gateway wants, in words for people."""

    port: int
    who: str
    free_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detail:
    """What planning needs beyond the fields.

    `pid` is the running process, None where none runs; `meant_up` that its keeper was told to have it run; `port` the one that
    it is to listen on. `startup_seconds` was measured at its last start. `silent_keeper` is a keeper that is there and does not
    answer. `unreadable` holds TLS files: field of openclaw.json and why. `program_missing` is why the program cannot be started,
    `output` the place that keeps it from writing what it prints, and why that does. `suspended` says that a person stopped it,
    and that this still holds; `prepared` that its next start would be by what runs, or is declared; `waits` is why it is down
    while its keeper waits before the next start, and for how long, empty at any other time; `taken` are the ports that others
    listen on, known only where the document declares none; `outlived` that a person stopped it before the document wanted it
    stopped itself; `least_port` is the lowest port that its keeper may give it.
    """

    pid: int | None
    port: int
    meant_up: bool = False
    suspended: bool = False
    prepared: bool = True
    waits: str = ""
    outlived: bool = False
    silent_keeper: int | None = None
    startup_seconds: float | None = None
    holder: Holder | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    program_missing: str | None = None
    output: tuple[str, str] | None = None
    taken: frozenset[int] = frozenset()
    least_port: int = 1


def plan(step: Step) -> KindPlan:
    """The actions for one step, and what forbids them."""
    if step.resource is None:
        return KindPlan(actions=(_remove(step),)) if step.differences else KindPlan()
    spec: ServiceSpec = step.resource.spec
    if not_driven := _not_driven(spec):
        return KindPlan(blocked=not_driven)
    detail: Detail = step.observation.detail
    actions = _actions(step, step.resource, spec, detail)
    if not any(action.verb in ("start", "stop", "restart") for action in actions):
        owed = _started_by_another(step, spec, detail) or _prepared_for_another(step, step.resource, detail, actions)
        actions = (*actions, *(_after(action, actions) for action in owed))
    starts = any(action.verb in ("start", "restart") for action in actions)
    return KindPlan(
        actions=actions,
        blocked=_collisions(detail, _next_port(step), step.resource.origins.get("config.gateway.port"))
        if starts
        else (),
        notes=(*_suspended(step, detail), *_waits(step, detail), *_not_held(spec)),
    )


def _started_by_another(step: Step, spec: ServiceSpec, detail: Detail) -> tuple[Action, ...]:
    """The restart of a process that began by another openclaw.json than the declared one: somebody wrote to the file, and it was
    started before that was cured. What it was to be started with says nothing of that; the gateway itself does.
    """
    running = detail.pid is not None and not detail.suspended and spec.service.state == "running"
    if not running or spec.service.runtime != "builtin" or step.resource is None:
        return ()
    text = outlived(*step.others.get(CONFIG, (None, ())))
    if text is None:
        return ()
    action = _restart(step, step.resource, spec, (), detail)
    return (replace(action, cause=Cause.OWED, because=Because(text=text)),)


def _prepared_for_another(
    step: Step, resource: Resource, detail: Detail, actions: tuple[Action, ...]
) -> tuple[Action, ...]:
    """Nothing is wrong with what runs, but its next start would be by what a run prepared that died before its restart."""
    if detail.prepared or any(action.verb == "update" for action in actions):
        return ()
    text = "what its next start would be by is not what is declared: it was prepared by a run that did not get further"
    return (replace(_update(step, resource, ()), cause=Cause.OWED, because=Because(text=text)),)


def _next_port(step: Step) -> int:
    """Where the gateway listens after its next start: a port that is no longer declared goes back to what it was before."""
    _observation, differences = step.others.get(CONFIG, (None, ()))
    moved = next((item.desired for item in differences if item.path == "gateway.port"), None)
    if moved is None:
        port: int = step.observation.detail.port
        return port
    return moved if isinstance(moved, int) else DEFAULT_PORT


def _suspended(step: Step, detail: Detail) -> tuple[Note, ...]:
    """That nothing is wrong with a service that a person stopped does not mean that anybody is served."""
    if not detail.suspended:
        return ()
    said = next(
        (item.message for item in step.observation.conditions if item.type == "Suspended"), "it was stopped by hand"
    )
    return (Note(code="suspended", message=f"{step.key} is not running: {said}; `openclaw service start` starts it"),)


def _waits(step: Step, detail: Detail) -> tuple[Note, ...]:
    """The next start is its keeper's to do, so there is no difference and no action; but nobody is served until then."""
    if not detail.waits:
        return ()
    return (Note(code="waiting", message=f"{step.key} is not running at this moment: {detail.waits}"),)


def _not_held(spec: ServiceSpec) -> tuple[Note, ...]:
    """What of the limits nobody holds: said beside every plan, and in the condition LimitNotHeld."""
    limits = spec.service.limits
    declared = {"memory": limits.memory_bytes, "cpu": limits.cpu_percent}
    return tuple(
        Note(
            code="limit_not_held",
            message=f"service.limits.{name} is not held: the embedded manager has no means for it in this version",
            path=("service", "limits", name),
        )
        for name, value in declared.items()
        if value is not None
    )


def _actions(step: Step, resource: Resource, spec: ServiceSpec, detail: Detail) -> tuple[Action, ...]:
    upgrade = tuple(
        _upgrade(step, resource, replace(item, cause=Cause.UPGRADE))
        for item in step.differences
        if item.path == KEEPER_PROGRAM
    )
    differences = tuple(_owed(item, detail) for item in step.differences if item.path != KEEPER_PROGRAM)
    rest: tuple[Action, ...] = ()
    if detail.outlived:
        rest = (_hold(step, resource, differences),)
    elif differences:
        rest = _actions_of(step, resource, spec, differences, detail)
    return (*upgrade, *(_after(action, upgrade) for action in rest))


def _actions_of(
    step: Step, resource: Resource, spec: ServiceSpec, differences: tuple[Difference, ...], detail: Detail
) -> tuple[Action, ...]:
    by_path = {item.path: item for item in differences}
    if "state" in by_path:
        running = spec.service.state == "running"
        return ((_start if running else _stop)(step, resource, spec, differences, detail),)
    policy = tuple(item for item in differences if item.path in POLICY_FIELDS)
    keeper = tuple(item for item in differences if item.path == "keeper")
    if len(policy) + len(keeper) < len(differences):
        if detail.pid is None:
            # Between two starts of a crash loop the new spec is tried at once; a stop by hand goes on holding.
            if spec.service.state == "running" and not detail.suspended:
                return (_start(step, resource, spec, differences, detail),)
            return (_update(step, resource, differences),)
        return (_restart(step, resource, spec, differences, detail),)
    adopt = (_adopt(step, resource, keeper),) if keeper else ()
    update = (_update(step, resource, policy),) if policy else ()
    return (*adopt, *(_after(action, adopt) for action in update))


def _after(action: Action, others: tuple[Action, ...]) -> Action:
    return replace(action, needs=(*action.needs, *(one.id for one in others)))


def _owed(item: Difference, detail: Detail) -> Difference:
    """A running process that carries an older spec did not drift: an earlier run did not get to its restart."""
    if item.cause is Cause.DRIFT and detail.pid is not None and is_spec_field(item.path):
        return replace(item, cause=Cause.OWED)
    return item


def _start(
    step: Step, resource: Resource, spec: ServiceSpec, differences: tuple[Difference, ...], detail: Detail
) -> Action:
    text = f"the gateway is started on port {detail.port}"
    undo = Undo(verb="stop", arguments={"restore": True}, text="stops it again and puts its earlier files back")
    if _was_another(step, differences, detail):
        undo = Undo(verb="restart", arguments={"restore": True}, text="starts it with its earlier files", follows=True)
    return _action(
        step,
        resource,
        "start",
        differences,
        consequences=(Consequence(what="note", text=text),),
        undo=undo,
        deadline=spec.service.stop.drain_seconds + spec.service.stop.grace_seconds + START_SECONDS,
    )


def _was_another(step: Step, differences: tuple[Difference, ...], detail: Detail) -> bool:
    """Whether what is down was up before us in another way, as after a boot without the journal: that is what there is to go back
    to. What a run of this journal began and never saw serve is not.
    """
    _observation, config = step.others.get(CONFIG, (None, ()))
    moves = bool(config) or any(is_spec_field(item.path) for item in differences)
    return detail.meant_up and not step.applied and moves


def _stop(
    step: Step, resource: Resource, spec: ServiceSpec, differences: tuple[Difference, ...], detail: Detail
) -> Action:
    process = f" (process {detail.pid})" if detail.pid is not None else ""
    return _action(
        step,
        resource,
        "stop",
        differences,
        impact=Impact.RESTART,
        consequences=(Consequence(what="note", text=f"the gateway{process} is stopped and serves nobody"),),
        undo=Undo(
            verb="start", arguments={"restore": True}, text="starts it again with its earlier files", follows=True
        ),
        deadline=_end_seconds(spec) + START_SECONDS,
    )


def _hold(step: Step, resource: Resource, differences: tuple[Difference, ...]) -> Action:
    """The stop of what is stopped already: by the document from now on, whose next `state: running` then starts it. The hold of
    a person would hold again as soon as the section is what it was when he stopped it.
    """
    action = _action(
        step,
        resource,
        "stop",
        differences,
        consequences=(Consequence(what="note", text="it stays stopped, until the document says otherwise"),),
        undo=Undo(verb="update", arguments={"restore": True}, text="puts its earlier files back; it stays stopped"),
    )
    text = "the document takes over the stop by hand"
    return replace(action, cause=Cause.CHANGE, because=Because(text=text, path=resource.origins.get("state")))


def _restart(
    step: Step, resource: Resource, spec: ServiceSpec, differences: tuple[Difference, ...], detail: Detail
) -> Action:
    downtime = detail.startup_seconds if detail.startup_seconds is not None else DEFAULT_DOWNTIME_SECONDS
    consequences = [
        Consequence(what="process_restart", text=f"the gateway (process {detail.pid}) is restarted"),
        Consequence(what="downtime", text=f"nobody is served for about {downtime:.1f} s", amount=round(downtime, 3)),
    ]
    moved = next((item for item in differences if item.path == "config.gateway.port"), None)
    if moved is not None and isinstance(moved.observed, int):
        text = f"port {moved.observed} is closed, clients must use port {_next_port(step)}"
        consequences.append(Consequence(what="note", text=text))
    return _action(
        step,
        resource,
        "restart",
        differences,
        impact=Impact.RESTART,
        consequences=tuple(consequences),
        undo=Undo(verb="restart", arguments={"restore": True}, text="restarts it with its earlier files", follows=True),
        deadline=_end_seconds(spec) + START_SECONDS,
    )


def _update(step: Step, resource: Resource, differences: tuple[Difference, ...]) -> Action:
    # What runs has this limit at once, and one that is too low starves it.
    files = next((item for item in differences if item.path == "limits.files"), None)
    felt = _limited(step.observation.detail.pid, files) if files is not None else ()
    return _action(
        step,
        resource,
        "update",
        differences,
        impact=Impact.HOT_RELOAD if felt else Impact.NONE,
        consequences=felt,
        undo=Undo(verb="update", arguments={"restore": True}, text="puts the earlier values back"),
    )


def _limited(pid: int | None, files: Difference) -> tuple[Consequence, ...]:
    """What another limit of open files is to the process `pid`."""
    if pid is None:
        return ()
    many = f"{files.desired} files" if isinstance(files.desired, int) else "as many files as the system allows"
    text = f"the gateway (process {pid}) may have {many} open from this moment on"
    return (Consequence(what="note", text=text),)


def _adopt(step: Step, resource: Resource, differences: tuple[Difference, ...]) -> Action:
    text = "a keeper is started and takes over the process that runs"
    silent = step.observation.detail.silent_keeper
    if silent is not None:
        text = f"the keeper (process {silent}), which does not answer, is continued where it is stopped, else replaced"
    return _action(
        step,
        resource,
        "adopt",
        differences,
        consequences=(Consequence(what="note", text=text),),
        # There is no way back to a process that nobody holds, and nobody wants one.
        undo=Undo(verb="adopt", text="nothing to take back: the process stays the same"),
    )


def _upgrade(step: Step, resource: Resource, difference: Difference) -> Action:
    action = _action(
        step,
        resource,
        "upgrade",
        (difference,),
        consequences=(Consequence(what="note", text="the keeper becomes the installed program; the gateway runs on"),),
        # The program that was is no longer there to go back to.
        undo=Undo(verb="upgrade", text="nothing to take back: the keeper stays the installed program"),
        # A trial run, and the start.
        deadline=60.0,
    )
    text = f"the keeper is program {shown(difference.observed)}, and {shown(difference.desired)} is installed"
    return replace(action, because=Because(text=text))


def _remove(step: Step) -> Action:
    pid = step.observation.detail.pid if isinstance(step.observation.detail, Detail) else None
    text = f"the gateway (process {pid}) is stopped for good" if pid is not None else "the service is forgotten"
    return _action(
        step,
        None,
        "remove",
        step.differences,
        impact=Impact.DESTROY,
        consequences=(Consequence(what="note", text=text),),
        # How long the keeper waits for it is the keeper's; this is the longest that the schema allows a person to wait.
        deadline=600.0,
    )


def _action(
    step: Step,
    resource: Resource | None,
    verb: str,
    differences: tuple[Difference, ...],
    *,
    impact: Impact = Impact.NONE,
    consequences: tuple[Consequence, ...] = (),
    undo: Undo | None = None,
    deadline: float = 30.0,
) -> Action:
    return Action(
        id=action_id(step, verb),
        key=step.key,
        verb=verb,
        cause=cause_of(differences),
        because=because_of(resource, _told_first(differences)) if differences else Because(text=""),
        differences=differences,
        impact=impact,
        consequences=consequences,
        precondition=precondition_of(differences),
        undo=undo,
        deadline_seconds=deadline,
    )


def _told_first(differences: tuple[Difference, ...]) -> tuple[Difference, ...]:
    """The digest last: any other field says more about why."""
    return tuple(sorted(differences, key=lambda item: item.path == "spec"))


def _end_seconds(spec: ServiceSpec) -> float:
    return spec.service.stop.drain_seconds + spec.service.stop.grace_seconds + _SLACK_SECONDS


def _not_driven(spec: ServiceSpec) -> tuple[Blocked, ...]:
    service = spec.service
    found = []
    if service.manager not in MANAGERS:
        found.append(
            Blocked(
                key=KEY,
                code="manager_unavailable",
                message=f"cannot use manager {service.manager!r}: this version drives the embedded manager only",
                hint="write `manager: auto` or `manager: embedded`",
            )
        )
    if service.runtime not in RUNTIMES:
        found.append(
            Blocked(
                key=KEY,
                code="runtime_unavailable",
                message=f"cannot use runtime {service.runtime!r}: this version runs the built-in gateway only",
                hint="write `runtime: builtin`",
            )
        )
    return tuple(found)


def _collisions(detail: Detail, port: int, origin: DocumentPath | None) -> tuple[Blocked, ...]:
    """What keeps the gateway from its start on `port`, which the document declares at `origin`, where it does."""
    found = []
    if port != detail.port:
        if port in detail.taken:
            text = f"cannot listen on port {port}, to which the gateway goes back: another process holds it"
            found.append(Blocked(key=KEY, code="port_held", message=text, hint="stop that process, or declare a port"))
    elif (holder := detail.holder) is not None:
        found.append(Blocked(key=KEY, code="port_held", message=_held(holder), hint=_offer(holder), setting=origin))
    if port < detail.least_port:
        text = f"cannot listen on port {port}: without CAP_NET_BIND_SERVICE only ports from {detail.least_port} on are allowed"
        hint = f"declare a port from {detail.least_port} on, or give that right to whoever runs this (and its keeper)"
        found.append(Blocked(key=KEY, code="port_forbidden", message=text, hint=hint, setting=origin))
    for path, why in detail.unreadable:
        found.append(
            Blocked(
                key=KEY,
                code="tls_unreadable",
                message=f"cannot use {path}: {why}",
                hint="name a file under `gateway.tls` that the gateway's user may read, or make this one readable; "
                "a relative path there is taken from the state directory",
            )
        )
    if detail.program_missing is not None:
        found.append(Blocked(key=KEY, code="program_missing", message=detail.program_missing))
    if detail.output is not None:
        found.append(
            Blocked(key=KEY, code="output_unusable", message=output_text("start", *detail.output), hint=OUTPUT_HINT)
        )
    return tuple(found)


def output_text(verb: str, place: str, why: str) -> str:
    """Why a gateway that could not write what it prints is not started, or restarted."""
    return f"cannot {verb} the gateway: what it prints cannot be written, because of {place}: {why}"


def _held(holder: Holder) -> str:
    return f"cannot listen on port {holder.port}: {holder.who} holds it"


def _offer(holder: Holder) -> str:
    if holder.free_port is None:
        return "stop that process, or declare another gateway.port"
    return f"stop that process, or declare another port, for example `gateway: {{port: {holder.free_port}}}`"
