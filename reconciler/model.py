"""The values that cross borders: keys, fields, differences, actions, plans, conditions, generations.

Pure: no clock, no file, no Trio, no library. All are frozen; mappings in them are copied at the door and never changed.
A field's value is plain data (`Value`); a secret travels only as `Secret`, a salted digest whose every text is a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

MASK: Final = "********"


class Absent(Enum):
    """The one value that says "there is none"; it is no None, because None (null) is a value."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as it may be compared and stored: its salted digest (hex). The value itself is never in here."""

    digest: str

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    __str__ = __repr__


Value: TypeAlias = (
    "bool | int | float | str | Secret | Absent | tuple[Value, ...] | list[Value] | Mapping[str, Value] | None"
)
Fields: TypeAlias = "Mapping[str, Value]"
DocumentPath: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one resource: `service/gateway`, `logs/gateway`. All that a queue may carry."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Key:
        """The key that `text` prints; ValueError when it has no slash or an empty half."""
        kind, slash, name = text.partition("/")
        if not (kind and slash and name):
            raise ValueError(f"not a key: {text!r} (expected kind/name)")
        return cls(kind, name)


class Cause(Enum):
    """Why a field differs: the document moved, the system moved, an earlier run owes it, our defaults moved, a person."""

    CHANGE = "change"
    DRIFT = "drift"
    OWED = "owed"
    UPGRADE = "upgrade"
    OPERATOR = "operator"


class Impact(Enum):
    """What an action does to those who use the service, from nothing to loss. Ordered by `severity`."""

    NONE = "none"
    HOT_RELOAD = "hot-reload"
    RESTART = "restart"
    DESTROY = "destroy"

    @property
    def severity(self) -> int:
        return list(Impact).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a document: file as the operator named it, line and column from 1, and the text of that line."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        # A variable of the environment has no lines.
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Because:
    """Why an action is there: the document path that asks for it, or the evidence of drift, in words.

    `position` is filled in by the loader after planning (`engine.locate`): the core knows paths only.
    """

    text: str
    path: DocumentPath | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One declared field where observed and desired disagree. `last_applied` is ABSENT where we never wrote it."""

    path: str
    desired: Value
    observed: Value
    last_applied: Value
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Consequence:
    """What follows from an action for people: `what` is a constant word (`process_restart`, `downtime`, `bytes_freed`,
    `turns_in_flight`, `files_deleted`, `authentication_off`, `encryption_off`, `note`), `text` the sentence, `amount` the
    number in the unit that `what` implies.
    """

    what: str
    text: str
    amount: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Undo:
    """How an action is taken back: another verb of the same kind with its arguments, and a sentence for people. `follows`: it
    takes over what others put back (a file that a process reads when it starts), and so comes after them.
    """

    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One step of a plan.

    `id` is `kind/name:verb`, unique in a plan and the same for the same world. `arguments` is what the kind needs to
    carry it out, plain JSON data without secrets. `precondition` is the digest of the observed values of
    `differences`, which the kind compares again just before the effect. `undo` None means irreversible. `needs` holds ids of
    actions that must have succeeded before. `consents` names what a person must have granted, beside what `impact`
    demands: `take-over` for something that was there before us.
    """

    id: str
    key: Key
    verb: str
    cause: Cause
    because: Because
    differences: tuple[Difference, ...] = ()
    impact: Impact = Impact.NONE
    consequences: tuple[Consequence, ...] = ()
    precondition: str | None = None
    undo: Undo | None = None
    needs: tuple[str, ...] = ()
    deadline_seconds: float = 30.0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    consents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Something found in planning that forbids the apply: a held port, a missing program, a missing approval.

    `path` is what of the document is to blame, where it is that; the message begins with its place once that is known. `setting`
    is what the hint says to declare otherwise: where the environment sets it, the hint names the variable.
    """

    key: Key | None
    code: str
    message: str
    hint: str = ""
    path: DocumentPath | None = None
    setting: DocumentPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something the operator must be told that is no action: a section that this version does not manage."""

    code: str
    message: str
    path: DocumentPath | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A resource that could not be observed, with the reason; nothing is planned for it."""

    key: Key
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What is open to others once the document is in force, because it has lost what protects the resource."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Actions in dependency order, with what they were computed from.

    `generation` is the last generation in force when it was made (0: none). `document_digest` is the digest of the
    validated desired state with its overrides and secret digests; `state_digest` that of the compared observed values,
    `states` the same by key, so that a stale plan can name what moved. `withdrawals` and `exposures` are what the document says
    no more and only a person takes away, with or without an action: a half document loses its last lines first.
    """

    generation: int
    document_digest: str
    state_digest: str
    states: Mapping[str, str] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    blocked: tuple[Blocked, ...] = ()
    notes: tuple[Note, ...] = ()
    unknown: tuple[Unknown, ...] = ()
    withdrawals: tuple[Key, ...] = ()
    exposures: tuple[Exposure, ...] = ()

    @property
    def complete(self) -> bool:
        """True when everything declared could be observed."""
        return not self.unknown

    @property
    def unseen(self) -> str:
        """What could not be observed and why, in one line; empty when the plan is complete."""
        return "; ".join(f"cannot observe {item.key}: {item.reason}" for item in self.unknown)

    @property
    def applyable(self) -> bool:
        """True when nothing forbids to apply it."""
        return not self.blocked

    @property
    def impact(self) -> Impact:
        """The gravest impact of its actions."""
        return max((action.impact for action in self.actions), key=lambda impact: impact.severity, default=Impact.NONE)


class Status(Enum):
    """Status of a condition."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What is known of a resource in one respect (`type`: Ready, Synced, Drifted, Progressing, Degraded, Contested,
    Suspended, RolledBack, LimitNotHeld, HistoryLost, Outdated). `reason` is CamelCase; `since` is RFC 3339 in UTC, empty where
    not stored yet; `observed_generation` the generation that it speaks of.
    """

    type: str
    status: Status
    reason: str
    message: str
    since: str = ""
    observed_generation: int = 0


class Result(Enum):
    """How a run or a generation ended."""

    APPLYING = "applying"
    VERIFYING = "verifying"
    ROLLING_BACK = "rolling-back"
    CONFIRMED = "confirmed"
    UNCONFIRMED = "unconfirmed"
    PARTIAL = "partial"
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"
    ROLLBACK_FAILED = "rollback-failed"
    INTERRUPTED = "interrupted"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One accepted desired state. `texts` maps each file of the document to its text; `secrets` names to digests."""

    number: int
    digest: str
    at: str
    cause: str
    author: str | None
    commit: str | None
    result: Result
    reason: str
    texts: Mapping[str, str] = field(default_factory=dict)
    canonical: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
