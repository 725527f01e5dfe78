"""What a resource kind fulfils. Pure: the engine knows kinds only as this Protocol, and is handed a tuple of them.

The tuple's order is the order of planning: a kind sees what those before it planned. The order of execution comes from
`Resource.needs` and `Action.needs`. tests/resources/contract.py is the executable form of the promises below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from reconciler.desired import Desired, SecretRef
from reconciler.host import Host
from reconciler.model import (
    ABSENT,
    Action,
    Blocked,
    Condition,
    Consequence,
    Difference,
    DocumentPath,
    Fields,
    Key,
    Note,
    Secret,
    Value,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One thing that the document declares.

    `fields` are the owned fields with their desired values, `origins` the document path of each (absent where a
    default of ours rules: then the path is in `defaulted`). `needs` names resources whose actions run before this
    one's. `spec` is a frozen value of the kind's own, for its `plan` and `apply`.
    """

    key: Key
    fields: Fields
    origins: Mapping[str, DocumentPath] = field(default_factory=dict)
    defaulted: frozenset[str] = frozenset()
    needs: frozenset[Key] = frozenset()
    spec: Any = None


@dataclass(frozen=True, slots=True)
class AppliedField:
    """What we last wrote to one field, what was there before us, and whether it was a default of ours."""

    value: Value
    former: Value = ABSENT
    defaulted: bool = False


Applied = Mapping[str, AppliedField]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One resource to observe: its declaration (None: only the journal knows it) and what we applied to it."""

    key: Key
    resource: Resource | None
    applied: Applied = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Something that a resource runs ended, and nobody had asked for it: when (seconds since the epoch), and in words how, and
    what follows by itself.
    """

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a kind saw at one moment.

    `fields` holds a value for every field of the declaration and of what was applied (ABSENT where there is none).
    `detail` is the kind's own frozen value for `plan`; `shown` is plain JSON data for `status`. `unknown` is the reason
    where the world could not be read: then nothing is planned. `conditions` are facts seen beside the fields. `retried`:
    something on the host is about to try again by itself, so that only a person, or another document, acts before. `ends` are the
    newest that are known, oldest first.
    """

    key: Key
    fields: Fields = field(default_factory=dict)
    detail: Any = None
    shown: Mapping[str, Any] = field(default_factory=dict)
    unknown: str | None = None
    conditions: tuple[Condition, ...] = ()
    retried: bool = False
    ends: tuple[End, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """All that a kind may look at when it plans one key.

    `planned` holds the actions that kinds earlier in the tuple planned in this same plan, by key; `others` every
    other resource's observation and differences. `resource` None: the declaration was withdrawn, and `differences`
    lead back to what was there before us.
    """

    key: Key
    resource: Resource | None
    observation: Observation
    differences: tuple[Difference, ...]
    applied: Applied = field(default_factory=dict)
    planned: Mapping[Key, tuple[Action, ...]] = field(default_factory=dict)
    others: Mapping[Key, tuple[Observation, tuple[Difference, ...]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KindPlan:
    """What a kind plans for one key. Every difference of the step is in one of `actions`, or explained in `blocked`
    or `notes`. `exposed` is what is open to others because the document has lost what protects the resource, compared with
    what we last applied: also where nothing on the host differs.
    """

    actions: tuple[Action, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    notes: tuple[Note, ...] = ()
    exposed: tuple[Consequence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether a resource serves: `ready`, else `reason` (CamelCase) and `message`. `final` means that waiting longer
    cannot help, so that a verify window may end at once. `lagging`: it serves, but not as declared (yet); whoever
    did nothing to it, because its action failed, has not made it sick. `moved`: it is lagging because somebody else
    changed it after it was applied. `excused`: by a person's word it does not serve.
    `life` tells what runs now, well or not, from what ran before an end that nobody asked for: empty where nothing runs, None
    where that is not known or there is no such thing. `began`: when what runs now began, seconds since the epoch, also where
    somebody asked for that; `fell`: when the last end came that nobody asked for, where the kind knows of one; `since`: when what
    this tells of began, where the kind knows it; `due_seconds`: how long until it is started again by itself, where it is down,
    or until it is ready, where it is being started.
    """

    ready: bool
    reason: str = "Ready"
    message: str = ""
    final: bool = False
    lagging: bool = False
    moved: bool = False
    excused: bool = False
    life: str | None = None
    began: float | None = None
    fell: float | None = None
    since: float | None = None
    due_seconds: float = 0.0


class Secrets(Protocol):
    """The resolved secrets of one load."""

    def digest(self, reference: SecretRef) -> Secret:
        """The salted digest of the secret behind `reference`."""

    def digest_text(self, value: str) -> Secret:
        """The salted digest of a secret that was found on the host, equal to that of a reference to the same value."""

    def reveal(self, reference: SecretRef) -> str:
        """Its value; only for writing it into a 0600 file, never for a text that people see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the shells of a kind act in: host, secrets, the run they act for, the wall clock (seconds since the epoch)."""

    host: Host
    secrets: Secrets
    document: Path
    run: str = ""
    now: Callable[[], float]


class Kind(Protocol):
    """One sort of resource, in two halves: pure planning and a thin adapter.

    Attributes:
        name: the first half of its keys.
        sections: the document sections that it manages.
        external: True where others decide about its health (a provider, a peer): unhealthy is Degraded, never a rollback.
        backoff_cap_seconds: the longest wait between two tries.
    """

    name: ClassVar[str]
    sections: ClassVar[frozenset[str]]
    external: ClassVar[bool]
    backoff_cap_seconds: ClassVar[float]

    def declare(self, desired: Desired, host: Host, secrets: Secrets) -> tuple[Resource, ...]:
        """The resources that the document declares. Pure and deterministic; touches nothing."""

    async def observe(self, wanted: tuple[Wanted, ...], world: World) -> tuple[Observation, ...]:
        """Reads the world for all of `wanted` at once, in that order; changes nothing, not even an access of its own.

        What cannot be read becomes `Observation.unknown`. Cancellation leaves nothing behind.
        """

    def plan(self, step: Step) -> KindPlan:
        """The actions that end the differences of one key. Pure, deterministic; no differences and nothing owed, no action."""

    async def apply(self, action: Action, resource: Resource | None, world: World) -> str | None:
        """Does one action, whole: idempotent, reaches the state in one call or raises. Returns what it left as it is because that
        moved since the plan, for people; None for nothing.

        Also carries out an `Undo` (an action with its verb and arguments). Raises `StaleError` when what it acts on has
        moved since the plan (`Action.precondition`; nobody looks between this and the effect), `TemporaryError` when a later
        try may work, `TerminalError` when none will. On cancellation the step is left so that the next observation tells the
        truth.
        """

    async def probe(self, key: Key, resource: Resource, world: World) -> Health:
        """Whether the resource serves right now; never raises for what a sick resource does.

        Raises:
            OSError: this process lacks descriptors or memory to look with (`reconciler.errors.lacking`).
        """

    async def watch(self, world: World, report: Callable[[Key], None]) -> None:
        """Calls `report` whenever a key may have moved, until cancelled. Spurious calls are fine, missed ones cost only time:
        a resync finds them. A kind that cannot watch returns at once.
        """
