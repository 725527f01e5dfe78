"""Fakes with hooks that raise: a kind whose world is a dict, secrets in memory, and makers of worlds and documents."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import trio

from reconciler.desired import Desired, Gateway, Logging, Policy, SecretRef, Service
from reconciler.errors import StaleError, TerminalError
from reconciler.host import Host, StatePaths
from reconciler.kinds import End, Health, KindPlan, Observation, Resource, Secrets, Step, Wanted, World
from reconciler.model import ABSENT, Action, Condition, DocumentPath, Fields, Impact, Key, Secret, Undo, Value
from reconciler.values import decode, encode
from resources.steps import action_id, because_of, cause_of, precondition_of, reached, still_holds

Hook = Callable[[Action], Awaitable[None]]


class FakeSecrets:
    """Secrets in memory: `values` maps the text of a reference (`env:NAME`) to its value."""

    def __init__(self, values: Mapping[str, str] | None = None, *, salt: bytes = b"salt of tests") -> None:
        self._values = dict(values or {})
        self._salt = salt

    def __repr__(self) -> str:
        return f"FakeSecrets({sorted(self._values)})"

    def digest(self, reference: SecretRef) -> Secret:
        return self.digest_text(self.reveal(reference))

    def digest_text(self, value: str) -> Secret:
        return Secret(sha256(self._salt + value.encode()).hexdigest())

    def reveal(self, reference: SecretRef) -> str:
        if str(reference) not in self._values:
            raise TerminalError(f"cannot read secret {reference}: it is not set")
        return self._values[str(reference)]


def make_world(
    directory: Path,
    *,
    environ: Mapping[str, str] | None = None,
    secrets: Secrets | None = None,
    run: str = "run-1",
    now: Callable[[], float] = time.time,
) -> World:
    """A world whose state directory is `directory`/state (made, 0700), home is `directory`, and document lies there."""
    root = directory / "state"
    root.mkdir(mode=0o700, exist_ok=True)
    host = Host(
        state=StatePaths(root),
        environ={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(directory), **(environ or {})},
        home=directory,
        runtime_directory=directory / "run",
    )
    return World(host=host, secrets=secrets or FakeSecrets(), document=directory / "openclaw.yaml", run=run, now=now)


def make_desired(
    *,
    service: Service | None = None,
    gateway: Gateway | None = None,
    logging: Logging | None = None,
    declared: frozenset[DocumentPath] = frozenset(),
    extra: Mapping[str, Any] | None = None,
) -> Desired:
    """A validated document with these sections and the default policy; `extra` holds the `x-` sections."""
    return Desired(
        service=service,
        gateway=gateway,
        logging=logging,
        policy=Policy(verify_seconds=15.0, rollback=True, restarts_per_hour=None, approve=()),
        declared=declared,
        unmanaged=(),
        extra=dict(extra or {}),
        canonical=dict(extra or {}),
    )


def needed(kind: str, names: list[str]) -> frozenset[Key]:
    """The keys that `needs: [name, other-kind/name]` means in an `x-` section of `kind`."""
    return frozenset(Key.parse(name) if "/" in name else Key(kind, name) for name in names)


@dataclass(slots=True)
class FakeKind:
    """A kind whose world is `state`, a dict of resource name to fields. Declared by
    `x-fakes: {NAME: {fields: {PATH: VALUE}, needs: [NAME], impact: restart}}`.

    The hooks are awaited around the one change that an apply makes; what they raise, the engine sees. `health` and
    `unknown` are answers by resource name; a resource without one is ready, and can be observed. `conditions` and
    `ends` are what is seen beside its fields; a resource in `retried` is tried again by somebody else.
    """

    name: ClassVar[str] = "fake"
    sections: ClassVar[frozenset[str]] = frozenset({"x-fakes"})
    external: ClassVar[bool] = False
    backoff_cap_seconds: ClassVar[float] = 300.0

    state: dict[str, dict[str, Value]] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    conditions: dict[str, tuple[Condition, ...]] = field(default_factory=dict)
    ends: dict[str, tuple[End, ...]] = field(default_factory=dict)
    retried: set[str] = field(default_factory=set)
    before_apply: Hook | None = None
    after_apply: Hook | None = None
    before_observe: Callable[[Wanted], Awaitable[None]] | None = None

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        return tuple(
            Resource(
                key=Key(self.name, name),
                fields=dict(entry.get("fields", {})),
                origins={path: ("x-fakes", name, "fields", path) for path in entry.get("fields", {})},
                needs=needed(self.name, entry.get("needs", [])),
                spec=Impact(entry.get("impact", "none")),
            )
            for name, entry in desired.extra.get("x-fakes", {}).items()
        )

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        await trio.lowlevel.checkpoint()
        return tuple([await self._observe_one(one) for one in wanted])

    async def _observe_one(self, wanted: Wanted) -> Observation:
        if self.before_observe is not None:
            await self.before_observe(wanted)
        key = wanted.key
        if key.name in self.unknown:
            return Observation(key=key, unknown=self.unknown[key.name])
        paths = [*(wanted.resource.fields if wanted.resource else ()), *wanted.applied]
        return Observation(
            key=key,
            fields=self._read(key, paths),
            conditions=self.conditions.get(key.name, ()),
            retried=key.name in self.retried,
            ends=self.ends.get(key.name, ()),
        )

    def _read(self, key: Key, paths: list[str]) -> Fields:
        present = self.state.get(key.name, {})
        return {path: present.get(path, ABSENT) for path in paths}

    def plan(self, step: Step) -> KindPlan:
        if not step.differences:
            return KindPlan()
        verb = "set" if step.resource is not None else "restore"
        return KindPlan(
            actions=(
                Action(
                    id=action_id(step, verb),
                    key=step.key,
                    verb=verb,
                    cause=cause_of(step.differences),
                    because=because_of(step.resource, step.differences),
                    differences=step.differences,
                    impact=step.resource.spec if step.resource is not None else Impact.NONE,
                    precondition=precondition_of(step.differences),
                    arguments={"fields": {one.path: encode(one.desired) for one in step.differences}},
                    undo=Undo(
                        verb="set",
                        arguments={"fields": {one.path: encode(one.observed) for one in step.differences}},
                        text="puts the earlier values back",
                    ),
                ),
            )
        )

    async def apply(self, action: Action, resource: Resource | None, world: World) -> None:
        await trio.lowlevel.checkpoint()
        if self.before_apply is not None:
            await self.before_apply(action)
        self._check(action)
        target = self.state.setdefault(action.key.name, {})
        for path, data in action.arguments["fields"].items():
            target[path] = decode(data)
            if target[path] is ABSENT:
                del target[path]
        if not target:
            del self.state[action.key.name]
        if self.after_apply is not None:
            await self.after_apply(action)

    def _check(self, action: Action) -> None:
        present = self._read(action.key, [one.path for one in action.differences])
        moved = action.precondition is not None and not still_holds(action.precondition, action.differences, present)
        if moved and not reached(action.differences, present):
            raise StaleError(f"cannot {action.verb} {action.key}: its fields moved since the plan")

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        await trio.lowlevel.checkpoint()
        return self.health.get(key.name, Health(ready=True))

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        await trio.lowlevel.checkpoint()
