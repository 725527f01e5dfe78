"""The kind `file`: content and mode of one file each, for tests and benchmarks.

    x-files:
      NAME: {path: /somewhere/file, content: "text", mode: "0644", needs: [OTHER]}

A path that is not absolute counts from the state directory. Withdrawn, a file gets its earlier content and mode back,
or goes when it was not there before. Content is text of at most `MAX_BYTES` in UTF-8.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import trio

from reconciler.desired import Desired
from reconciler.errors import OpenClawError, StaleError, TemporaryError, TerminalError
from reconciler.files import open_regular, remove_file, replace_file, sync_directory
from reconciler.host import Host
from reconciler.kinds import Applied, Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import ABSENT, Action, Fields, Key, Undo, Value
from reconciler.values import same
from resources.steps import action_id, because_of, cause_of, precondition_of
from resources.testing.fakes import needed

# Content travels through plans and the journal: this is a kind for tests, not for images.
MAX_BYTES = 1 << 20
_VERBS = {"create": "removes the file", "write": "puts the earlier content back", "chmod": "puts the earlier mode back"}


class FileKind:
    """See the module. Fields: `path` (where the file is, absent where it is not), `content`, `mode`."""

    name: ClassVar[str] = "file"
    sections: ClassVar[frozenset[str]] = frozenset({"x-files"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = 300.0

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        root = str(host.state.root)
        return tuple(_resource(name, entry, root) for name, entry in desired.extra.get("x-files", {}).items())

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        # One thread for the whole batch: a thousand small files cost less than a thousand hops.
        return await trio.to_thread.run_sync(lambda: tuple([_observe(one) for one in wanted]))

    def plan(self, step: Step) -> KindPlan:
        return KindPlan(actions=(_action(step),)) if step.differences else KindPlan()

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        await trio.to_thread.run_sync(_apply, action)

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        observation = await trio.to_thread.run_sync(_observe, Wanted(key=key, resource=resource))
        if observation.unknown is not None:
            return Health(ready=False, reason="Unreadable", message=observation.unknown)
        wrong = [path for path, value in resource.fields.items() if not same(observation.fields[path], value)]
        if wrong:
            message = f"not as declared: {', '.join(wrong)}"
            return Health(ready=False, reason="Differs", message=message, lagging=True)
        return Health(ready=True)

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        await trio.lowlevel.checkpoint()


def _resource(name: str, entry: Mapping[str, Any], root: str) -> Resource:
    fields: Fields = {
        "path": os.path.join(root, entry["path"]),
        "content": entry.get("content", ""),
        "mode": entry.get("mode", "0644"),
    }
    return Resource(
        key=Key("file", name),
        fields=fields,
        origins={path: ("x-files", name, path) for path in fields if path in entry},
        defaulted=frozenset(path for path in fields if path not in entry),
        needs=needed("file", entry["needs"]) if "needs" in entry else frozenset(),
    )


@dataclass(frozen=True, slots=True)
class _State:
    """One file as it may stand: `content` None is no file."""

    path: str
    content: str | None
    mode: str | None

    def arguments(self) -> dict[str, Any]:
        return {"path": self.path, "content": self.content, "mode": self.mode}


def _observe(wanted: Wanted) -> Observation:
    key, resource = wanted.key, wanted.resource
    declared = str(resource.fields["path"]) if resource is not None else None
    applied = str(wanted.applied["path"].value) if "path" in wanted.applied else None
    path = declared or applied
    if path is None:
        return Observation(key=key, fields=dict.fromkeys((*wanted.applied,), ABSENT))
    try:
        state = _read(path)
        left = _read(applied) if applied is not None and applied != path else None
    except OpenClawError as err:
        return Observation(key=key, unknown=err.message)
    # Both are what `plan` needs to put things back, and to leave a path that the document gave up.
    return Observation(key=key, fields=_fields(state), detail=(state, left))


def _fields(state: _State) -> dict[str, Value]:
    if state.content is None:
        return {"path": ABSENT, "content": ABSENT, "mode": ABSENT}
    return {"path": state.path, "content": state.content, "mode": state.mode}


def _read(path: str) -> _State:
    try:
        with open_regular(path, follow=False) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return _State(path, None, None)
    except OSError as err:
        raise TerminalError(f"cannot read {path!r}: {err.strerror}") from err
    if len(content) > MAX_BYTES:
        raise TerminalError(f"cannot read {path!r}: it has more than {MAX_BYTES} bytes")
    try:
        return _State(path, content.decode(), f"{mode:04o}")
    except UnicodeDecodeError as err:
        raise TerminalError(f"cannot read {path!r}: it is not UTF-8 text") from err


def _action(step: Step) -> Action:
    present: _State = step.observation.detail[0]
    left: _State | None = step.observation.detail[1]
    target = _target(step, present)
    states, befores = [target], [present]
    if left is not None and left.content is not None:
        states.append(_given_back(left.path, step.applied))
        befores.append(left)
    verb = _verb(step, present, target)
    return Action(
        id=action_id(step, verb),
        key=step.key,
        verb=verb,
        cause=cause_of(step.differences),
        because=because_of(step.resource, step.differences),
        differences=step.differences,
        precondition=precondition_of(step.differences),
        arguments={"seen": present.arguments(), "files": [state.arguments() for state in states]},
        undo=Undo(
            verb="restore",
            arguments={"files": [state.arguments() for state in befores]},
            text=_VERBS.get(verb, "puts the file back"),
        ),
    )


def _verb(step: Step, present: _State, target: _State) -> str:
    if step.resource is None:
        return "remove" if target.content is None else "restore"
    if present.content is None:
        return "create"
    return "chmod" if target.content == present.content else "write"


def _target(step: Step, present: _State) -> _State:
    if step.resource is None:
        return _given_back(present.path, step.applied)
    fields = step.resource.fields
    return _State(str(fields["path"]), str(fields["content"]), str(fields["mode"]))


def _given_back(path: str, applied: Applied) -> _State:
    """The file as it was before us: an absent former path says that there was none."""
    former = {name: applied[name].former if name in applied else ABSENT for name in ("path", "content", "mode")}
    if former["path"] != path or former["content"] is ABSENT:
        return _State(path, None, None)
    return _State(path, str(former["content"]), str(former["mode"]))


def _apply(action: Action) -> None:
    states = [_State(**file) for file in action.arguments["files"]]
    if action.precondition is not None:
        _check(action, states[0])
    for state in states:
        try:
            _put(state)
        except OSError as err:
            raise TemporaryError(f"cannot {action.verb} {state.path!r}: {err.strerror}") from err


def _check(action: Action, target: _State) -> None:
    """The whole file counts, not only what differs: a chmod must not bring an old content back either."""
    present = _read(target.path)
    if present not in (_State(**action.arguments["seen"]), target):
        raise StaleError(f"cannot {action.verb} {target.path!r}: it changed since the plan")


def _put(state: _State) -> None:
    path = Path(state.path)
    if state.content is None or state.mode is None:
        remove_file(path)
        return
    present = _read(state.path)
    mode = int(state.mode, 8)
    if present.content != state.content:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, state.content.encode(), mode)
    elif present.mode != state.mode:
        os.chmod(path, mode)
        sync_directory(path.parent)
