"""The kind `gateway-config`: plans and makes the declared part of openclaw.json, and tells a running gateway.

Two actions: `write` changes the fields that differ and no other byte; `reload` makes the gateway take the file over,
and is owed whenever the gateway reports another file than the one on disk, whoever wrote that. A path that needs a
new process is the service's affair: it is planned before this kind (`Step.planned`), and restarts by the digest of what
it started with. Then nothing is reloaded. The real product reads the file by itself; it is told nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import trio

from gateway.wire.json5 import Object, parse
from reconciler.desired import Desired
from reconciler.errors import OpenClawError, StaleError, lacking
from reconciler.host import Host
from reconciler.kinds import Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import (
    ABSENT,
    Action,
    Because,
    Blocked,
    Cause,
    Condition,
    Consequence,
    Difference,
    Fields,
    Impact,
    Key,
    Note,
    Status,
    Undo,
    Value,
)
from reconciler.values import decode, encode, join_path, same
from reconciler.watching import watch_directories
from resources.gateway_config.certificate import outdated
from resources.gateway_config.edit import scalar_at
from resources.gateway_config.exposure import exposure
from resources.gateway_config.fields import (
    KEY,
    ConfigSpec,
    blamed,
    declared,
    impact,
    nested,
    observed,
    obstacles,
    runtime_of,
    unheeded,
)
from resources.gateway_config.outlived import is_put_back
from resources.gateway_config.running import Loaded, address, ask, reload
from resources.gateway_config.store import (
    File,
    Kept,
    NoObjectError,
    apart,
    edited,
    keep_whole,
    read_config,
    read_in_force,
    read_kept,
    read_last_good,
    remove_config,
    to_do,
    write_config,
)
from resources.steps import action_id, because_of, cause_of, precondition_of, reached, still_holds

if TYPE_CHECKING:
    from gateway.config import Issue

SERVICE = Key("service", "gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What `plan` needs of one look. `loaded` None: no gateway of ours answers; `silent` says so of one that is there;
    `outdated` of its certificate. `obstacles`: see `fields.obstacles`. `running` is what stands at the fields in the file that a
    gateway runs by which has not taken over the one on disk, as far as a copy of it is there.
    """

    file: File
    obstacles: Fields = field(default_factory=dict)
    kept: Kept = field(default_factory=dict, repr=False)
    loaded: Loaded | None = None
    running: Fields = field(default_factory=dict)
    silent: str | None = None
    outdated: Condition | None = None


class GatewayConfigKind:
    """See the module."""

    name: ClassVar[str] = "gateway-config"
    sections: ClassVar[frozenset[str]] = frozenset({"gateway", "logging"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = 300.0

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        fields, origins = declared(desired)
        if desired.gateway is None and not fields:
            return ()
        gateway = desired.gateway
        spec = ConfigSpec(
            runtime=runtime_of(desired),
            managed=desired.service is not None,
            token=gateway.token if gateway is not None else None,
            password=gateway.password if gateway is not None else None,
            variables=frozenset(desired.service.environment if desired.service is not None else ()),
        )
        return (Resource(key=KEY, fields=fields, origins=origins, spec=spec),)

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        return tuple([await _observe(one, world) for one in wanted])

    def plan(self, step: Step) -> KindPlan:
        seen: Seen | None = step.observation.detail
        if seen is None:
            return KindPlan()
        declared_fields = step.resource.fields if step.resource is not None else {}
        opened, exposed = exposure(seen.file.root, _changes(step), declared_fields, step.applied)
        if not step.differences:
            notes = (*_unused(step, seen), *_outdated(step, seen), *unheeded(step.resource))
            return KindPlan(actions=_reload(step, seen, None), notes=notes, exposed=exposed)
        if blocked := _blocked(step, seen):
            return KindPlan(blocked=(blocked,))
        write = _write(step, seen, opened)
        actions = (write, *_reload(step, seen, write))
        notes = (*_outdated(step, seen), *unheeded(step.resource))
        return KindPlan(actions=actions, blocked=_mute(step, seen), notes=notes, exposed=exposed)

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        """See `Kind.apply`. Cancelled, a write is done whole or not at all; a reload may or may not have come through."""
        if action.verb == "reload":
            file = await trio.to_thread.run_sync(read_config, world.host.state.config)
            await reload(address(file.root, resource.spec if resource is not None else None, world))
        else:
            await trio.to_thread.run_sync(_apply_write, action, world)

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        try:
            observation = await _look(Wanted(key=key, resource=resource), world)
        except OpenClawError as err:
            if (short := lacking(err)) is not None:
                raise short from None
            return Health(ready=False, reason="Unreadable", message=err.message)
        wrong = [path for path, value in resource.fields.items() if not same(observation.fields[path], value)]
        if wrong:
            # A write is whole or not at all: what differs after it was written by somebody else.
            message = f"not as declared: {', '.join(wrong)}"
            return Health(ready=False, reason="Differs", message=message, lagging=True, moved=True)
        if await trio.to_thread.run_sync(_serves_as_declared, observation.detail, resource, world):
            return Health(ready=True)
        return _loaded_health(observation.detail)

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        """Reports once when it watches, then after each change of the file; at once over where there is no directory yet."""
        path = str(world.host.state.config)

        def changed(paths: set[str]) -> None:
            if path in paths:
                report(KEY)

        report(KEY)
        # No directory, or no inotify left: a resync finds what moved.
        with suppress(OSError):
            await watch_directories([str(world.host.state.root)], changed)


async def _observe(wanted: Wanted, world: World) -> Observation:
    try:
        return await _look(wanted, world)
    except OpenClawError as err:
        return Observation(key=wanted.key, unknown=f"{err.message}; {err.hint}" if err.hint else err.message)


async def _look(wanted: Wanted, world: World) -> Observation:
    """Raises OpenClawError where openclaw.json cannot be read."""
    spec: ConfigSpec | None = wanted.resource.spec if wanted.resource is not None else None
    read = read_in_force if spec is not None and spec.runtime == "builtin" else read_config
    file = await trio.to_thread.run_sync(read, world.host.state.config)
    kept = await trio.to_thread.run_sync(read_kept, world.host)
    known = _known(wanted)
    fields = observed(file.root, known, world.secrets)
    former = {path: item.former for path, item in wanted.applied.items() if _stands(fields[path], item.value)}
    fields = {**fields, **_seen(apart(file, known, former, kept), known, world.secrets)}
    loaded, silent = None, None
    if spec is not None and spec.runtime == "builtin":
        try:
            loaded = _foreseen(await ask(address(file.root, spec, world)), file, spec)
        except OpenClawError as err:
            silent = err.message
    stale = await trio.to_thread.run_sync(outdated, file.root, loaded.tls if loaded is not None else None, world.host)
    shown = {"path": str(file.path), "hash": file.digest, "loaded": loaded.digest if loaded is not None else None}
    return Observation(
        key=wanted.key,
        fields=fields,
        detail=Seen(
            file=file,
            obstacles=obstacles(file.root, known, world.secrets),
            kept=kept,
            loaded=loaded,
            running=await trio.to_thread.run_sync(_running, file, loaded, known, world.secrets),
            silent=silent,
            outdated=stale,
        ),
        shown=shown,
        conditions=tuple(one for one in (_degraded(file, loaded), stale) if one is not None),
    )


def _foreseen(loaded: Loaded | None, file: File, spec: ConfigSpec | None) -> Loaded | None:
    """What a gateway says, and in place of one that is shut to us what it would say of the file."""
    if loaded is None or not loaded.shut:
        return loaded
    wrong = tuple(issue for issue in _objections(file.text or "{}", spec) if not issue.guessed)
    if not wrong:
        return loaded
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.config import in_one_line

    return replace(loaded, error=in_one_line(wrong), refused=file.digest)


def _objections(text: str, spec: ConfigSpec | None) -> tuple[Issue, ...]:
    """What the gateway would have against an openclaw.json with this text."""
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.config import SECRET_VARIABLES, objections

    # Of the environment of a gateway that somebody else starts nothing is known.
    return objections(text, spec.variables if spec is not None and spec.managed else SECRET_VARIABLES)


def _running(file: File, loaded: Loaded | None, known: Mapping[str, Collection[Value]], secrets: Secrets) -> Fields:
    """See `Seen.running`."""
    if loaded is None or loaded.digest in (None, file.digest):
        return {}
    copy = read_last_good(file.path)
    return observed(copy.root, known, secrets) if copy is not None and copy.digest == loaded.digest else {}


def _stands(found: Value, value: Value) -> bool:
    """Whether a value of ours is what was found."""
    return found is not ABSENT and same(found, value)


def _seen(views: Mapping[str, File], known: Mapping[str, Collection[Value]], secrets: Secrets) -> Fields:
    """What is seen of each path in a file of its own (`apart`)."""
    return {path: observed(file.root, known, secrets)[path] for path, file in views.items()}


def _known(wanted: Wanted) -> dict[str, tuple[Value, ...]]:
    """Every path to look at, with the values of ours for it."""
    declared = wanted.resource.fields if wanted.resource is not None else {}
    return {
        path: (
            *((declared[path],) if path in declared else ()),
            *((wanted.applied[path].value, wanted.applied[path].former) if path in wanted.applied else ()),
        )
        for path in (*declared, *(path for path in wanted.applied if path not in declared))
    }


def _degraded(file: File, loaded: Loaded | None) -> Condition | None:
    """What is wrong with the file, while the gateway goes on without it."""
    if file.damage is not None:
        reason, message = "Damaged", f"the gateway goes on by the last good one: {file.damage}"
    elif loaded is not None and loaded.refuses(file.digest):
        reason = "Rejected"
        message = f"the gateway refuses openclaw.json and runs by the last good one: {loaded.error}"
    else:
        return None
    return Condition(type="Degraded", status=Status.TRUE, reason=reason, message=message)


def _blocked(step: Step, seen: Seen) -> Blocked | None:
    """What forbids a write, found before anything is written."""
    if seen.file.damage is not None:
        return Blocked(
            key=step.key,
            code="config_damaged",
            message=seen.file.damage,
            hint="until then the gateway goes on by the last good one",
        )
    if seen.file.link is not None:
        return Blocked(
            key=step.key,
            code="config_is_a_link",
            message=f"cannot write {seen.file.path}: it is a link to {seen.file.link!r}, which may be shared",
            hint="replace the link by the file itself, or point OPENCLAW_STATE_DIR at the directory where it lies",
        )
    if seen.file.root is not None and not isinstance(seen.file.root, Object):
        return _no_object(step, seen, "the whole file")
    try:
        text = edited(seen.file, _changes(step), seen.kept)
    except NoObjectError as err:
        given_back = join_path(err.path) in _changes(step)
        return _no_object(step, seen, f"what was at {err} before us" if given_back else f"{err}", given_back=given_back)
    except OpenClawError as err:
        return Blocked(key=step.key, code="config_not_restorable", message=err.message, hint=err.hint or "")
    return _open_door(step, seen, text) or _refused(step, seen, text)


def _refused(step: Step, seen: Seen, text: str) -> Blocked | None:
    """The gateway would refuse the file as it is to become, and go on by the last good one: nothing of it would be in force."""
    spec: ConfigSpec | None = step.resource.spec if step.resource is not None else None
    if step.resource is not None and (spec is None or spec.runtime != "builtin"):
        return None
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.config import in_one_line

    after = _objections(text, spec)
    if not after:
        return None
    loaded, error = seen.loaded, in_one_line(after)
    if loaded is not None and loaded.refuses(seen.file.digest) and error == loaded.error:
        return Blocked(
            key=step.key,
            code="config_refused",
            message=f"cannot write {seen.file.path}: the gateway refuses it for what is not declared: {loaded.error}",
            hint="repair that in the file; until then the gateway goes on by the last good one",
        )
    # Of what is in the file already a gateway that runs has said what it thinks; one that is started says it when it is late.
    before = () if _planned(step, "start") else _objections(seen.file.text or "{}", spec)
    if not (wrong := [issue for issue in after if issue not in before and not issue.guessed]):
        return None
    path, hint = blamed(step.resource, wrong)
    return Blocked(
        key=step.key,
        code="config_unusable",
        message=f"cannot write {seen.file.path}: the gateway would refuse it: {in_one_line(wrong)}",
        hint=hint or "declare it, or repair it in the file; what is withdrawn goes, or has its former value again",
        path=path,
    )


def _open_door(step: Step, seen: Seen, text: str) -> Blocked | None:
    """A gateway that is to ask for a secret and has none does not start."""
    spec: ConfigSpec | None = step.resource.spec if step.resource is not None else None
    if spec is None or not spec.managed or spec.runtime != "builtin":
        return None
    root = parse(text)
    mode = scalar_at(root, "gateway.auth.mode")
    if mode not in ("token", "password") or scalar_at(root, f"gateway.auth.{mode}"):
        return None
    variable = f"OPENCLAW_GATEWAY_{mode.upper()}"
    if variable in spec.variables:
        return None
    return Blocked(
        key=step.key,
        code="auth_without_secret",
        message=f"cannot use gateway.auth.mode {mode!r}: no gateway.auth.{mode} is declared, and {seen.file.path} has none",
        hint=f"declare it: gateway.auth.{mode}: {{env: {variable}}}, or {{file: PATH}}",
    )


def _mute(step: Step, seen: Seen) -> tuple[Blocked, ...]:
    """A gateway that hangs or is not understood could not be told of the file: nobody begins that. Whoever goes back writes
    it all the same, and a restart that is planned anyway ends the hanging.
    """
    if seen.silent is None or _planned(step, "start", "restart", "stop", "remove"):
        return ()
    return (
        Blocked(
            key=step.key,
            code="gateway_silent",
            message=f"cannot change openclaw.json: {seen.silent}",
            hint="`openclaw service restart` ends it and starts it again",
        ),
    )


def _unused(step: Step, seen: Seen) -> tuple[Note, ...]:
    """A file that the gateway goes on without is no difference: what is declared is in force. It wants a person all the same."""
    found = _degraded(seen.file, seen.loaded)
    return () if found is None else (Note(code="config_not_used", message=f"{step.key}: {found.message}"),)


def _outdated(step: Step, seen: Seen) -> tuple[Note, ...]:
    """Another certificate is no difference, and nobody restarts the gateway for it unasked; a restart that is planned anyway
    takes it over.
    """
    if seen.outdated is None or _planned(step, "start", "restart", "stop", "remove"):
        return ()
    return (Note(code="certificate_outdated", message=f"{step.key}: {seen.outdated.message}"),)


def _no_object(step: Step, seen: Seen, where: str, *, given_back: bool = False) -> Blocked:
    first = "apply a document without both, so that it is given back; then " if given_back else ""
    return Blocked(
        key=step.key,
        code="config_no_object",
        message=f"cannot write {seen.file.path}: {where} is no object, and a declared key lies below it",
        hint=f"{first}make it an object, or take the key out of the document",
    )


def _changes(step: Step) -> dict[str, Value]:
    """What is to be written. Below a declared value nothing is given back; an obstacle on the way to what we had written goes."""
    changes = {difference.path: difference.desired for difference in step.differences}
    declared_fields = step.resource.fields if step.resource is not None else {}
    for above, below in nested(changes):
        if above in declared_fields:
            changes.pop(below, None)
    return changes | dict.fromkeys(_replaced(step), ABSENT)


def _replaced(step: Step) -> Fields:
    """The obstacles that are drift: what we had written lay there. Where we never wrote an obstacle is not ours to take away."""
    seen: Seen = step.observation.detail
    ways = nested((*seen.obstacles, *(item.path for item in step.differences if item.path in step.applied)))
    return {above: seen.obstacles[above] for above, _ in ways if above in seen.obstacles and above not in step.applied}


def _earlier(step: Step) -> dict[str, Value]:
    """What was there before, so that it can be put back."""
    earlier = {difference.path: difference.observed for difference in step.differences} | dict(_replaced(step))
    for above, below in nested(earlier):
        if not isinstance(earlier[above], Mapping) and earlier[above] is not ABSENT:
            # Below what is no object was nothing.
            earlier[below] = ABSENT
    return earlier


def _write(step: Step, seen: Seen, opened: tuple[Consequence, ...]) -> Action:
    differences = step.differences
    runtime = step.resource.spec.runtime if step.resource is not None else "builtin"
    managed = step.resource is not None and step.resource.spec.managed
    restarts = _planned(step, "restart")
    taken_over = [
        difference.path for difference in differences if restarts or not is_put_back(seen, difference, managed=managed)
    ]
    gravest = impact(taken_over, runtime)
    # Nobody is disturbed by a file that no process runs by; one that is being started reads it anyway.
    felt = (
        gravest
        if (seen.loaded is not None or restarts) and not _planned(step, "start", "stop", "remove")
        else Impact.NONE
    )
    # Ours from now on, and not ours before: an empty object is nobody's.
    foreign = seen.file.text is not None and not seen.file.empty and not step.applied
    return Action(
        id=action_id(step, "write"),
        key=step.key,
        verb="write",
        cause=cause_of(differences),
        because=because_of(step.resource, differences),
        differences=differences,
        impact=felt,
        consequences=(*opened, *_consequences(felt, restarts=restarts, foreign=foreign, replaced=_replaced(step))),
        precondition=precondition_of(differences),
        arguments={"paths": _encoded(_changes(step)), "keep": foreign},
        undo=Undo(
            verb="restore",
            arguments={
                "paths": _encoded(_earlier(step)),
                "created": seen.file.text is None,
            },
            text="puts the earlier values back into openclaw.json",
        ),
        consents=("take-over",) if foreign else (),
    )


def _consequences(felt: Impact, *, restarts: bool, foreign: bool, replaced: Fields) -> tuple[Consequence, ...]:
    found = [
        Consequence(
            what="note", text=f"{path}, which is no object any more, is one again; what it is now is kept in backups"
        )
        for path in replaced
    ]
    if foreign:
        found.append(
            Consequence(what="note", text="openclaw.json was there before us; the whole of it is kept in backups")
        )
    if felt is Impact.RESTART:
        text = (
            "the gateway is restarted to take it over"
            if restarts
            else "takes effect with the next start of the gateway"
        )
        found.append(Consequence(what="note", text=text))
    return tuple(found)


def _reload(step: Step, seen: Seen, write: Action | None) -> tuple[Action, ...]:
    """The reload that follows a write, or that is owed because the gateway runs by another file than the one on disk."""
    if seen.loaded is None or step.resource is None or seen.file.damage is not None:
        return ()
    if _planned(step, "start", "restart", "stop", "remove"):
        return ()
    # What it has refused already it would refuse again: a person is to look at that.
    owed = seen.loaded.digest is not None and seen.file.digest not in (seen.loaded.digest, seen.loaded.refused)
    if write is None and not owed:
        return ()
    cause = write.cause if write is not None else Cause.OWED
    text = (
        "the running gateway is told of the new file"
        if write is not None
        else f"the gateway runs by openclaw.json {_short(seen.loaded.digest)}, on disk is {_short(seen.file.digest)}"
    )
    return (
        Action(
            id=action_id(step, "reload"),
            key=step.key,
            verb="reload",
            cause=cause,
            because=Because(text=text, path=write.because.path if write is not None else None),
            impact=Impact.HOT_RELOAD,
            needs=(write.id,) if write is not None else (),
            undo=Undo(verb="reload", text="the gateway is told again", follows=True),
        ),
    )


def _short(digest: str | None) -> str:
    return (digest or "")[:12]


def _planned(step: Step, *verbs: str) -> bool:
    """Whether the service kind, which plans before this one, does one of these in the same plan."""
    return any(action.verb in verbs for action in step.planned.get(SERVICE, ()))


def _encoded(changes: Mapping[str, Value]) -> dict[str, object]:
    return {path: encode(value) for path, value in changes.items()}


def _apply_write(action: Action, world: World) -> None:
    """`write` and `restore`: the same edit. Foreign changes since the plan stay, changes of our own fields are refused."""
    host = world.host
    file, kept = read_config(host.state.config), read_kept(host)
    changes = {path: decode(value) for path, value in action.arguments["paths"].items()}
    known = _known_of(action, changes)
    present = observed(file.root, known, world.secrets)
    former = {each.path: each.desired for each in action.differences if _stands(present[each.path], each.last_applied)}
    views = apart(file, known, former, kept)
    seen = {**present, **_seen(views, known, world.secrets)}
    wanted = {path: value for path, value in to_do(file, changes).items() if not same(present[path], value)}
    if action.precondition is not None and wanted:
        _check(action, action.differences, seen)
    if wanted:
        if file.link is not None:
            raise StaleError(f"cannot write {file.path}: it has become a link")
        if action.arguments.get("keep"):
            keep_whole(host, file)
        try:
            text = edited(file, wanted, kept)
        except NoObjectError as err:
            raise StaleError(f"cannot write {file.path}: {err} is no object any more") from err
        replaced = {path: (views.get(path, file), seen[path]) for path in wanted}
        write_config(host, file, text, replaced, world.secrets.digest_text)
    if action.arguments.get("created"):
        _remove_if_empty(host)


def _known_of(action: Action, changes: Mapping[str, Value]) -> dict[str, tuple[Value, ...]]:
    known: dict[str, tuple[Value, ...]] = {path: (value,) for path, value in changes.items()}
    for item in action.differences:
        known[item.path] = (*known.get(item.path, ()), item.desired, item.observed, item.last_applied)
    return known


def _check(action: Action, differences: tuple[Difference, ...], present: Mapping[str, Value]) -> None:
    if not still_holds(str(action.precondition), differences, present) and not reached(differences, present):
        moved = [item.path for item in differences if not same(present[item.path], item.observed)]
        raise StaleError(
            f"cannot {action.verb} openclaw.json: {', '.join(moved)} moved since the plan", hint="plan again"
        )


def _remove_if_empty(host: Host) -> None:
    file = read_config(host.state.config)
    if file.text is not None and file.empty:
        remove_config(file)


def _serves_as_declared(seen: Seen, resource: Resource, world: World) -> bool:
    """Whether a gateway that refuses the file runs by a last good one with all that is declared: then it was something of
    somebody else's that is wrong in the file, and nothing that was applied.
    """
    if seen.loaded is None or seen.loaded.error is None:
        return False
    copy = read_last_good(seen.file.path)
    if copy is None or copy.digest != seen.loaded.digest:
        return False
    # What was withdrawn was applied as well: each path that we ever wrote is to be as the file has it.
    known = _known(Wanted(key=KEY, resource=resource)) | {path: () for path in seen.kept if path not in resource.fields}
    written, found = (observed(root, known, world.secrets) for root in (seen.file.root, copy.root))
    # An object was never ours: what we wrote inside of it is looked at by itself, the rest is others'.
    objects = {
        above for above, _ in nested(known) if isinstance(written[above], Mapping) and isinstance(found[above], Mapping)
    }
    return all(same(found[path], resource.fields.get(path, written[path])) for path in known if path not in objects)


def _loaded_health(seen: Seen) -> Health:
    """Whether the gateway, where one answers, runs by the very file on disk."""
    loaded = seen.loaded
    if seen.silent is not None:
        return Health(ready=False, reason="NoAnswer", message=seen.silent)
    if loaded is None:
        return Health(ready=True)
    if loaded.refuses(seen.file.digest):
        return Health(
            ready=False,
            reason="Rejected",
            message=f"the gateway refuses openclaw.json: {loaded.error}",
            final=True,
        )
    if loaded.digest is not None and loaded.digest != seen.file.digest:
        message = f"the gateway still runs by another openclaw.json ({_short(loaded.digest)})"
        return Health(ready=False, reason="NotLoaded", message=message, lagging=True)
    return Health(ready=True)
