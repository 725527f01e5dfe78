"""What the journal remembers beside the values of `reconciler.model`: runs, intents, events, quarantined documents. Pure.

Times are seconds since the epoch; `reconciler.values.rfc3339` makes them texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model import Action, Key, Result

# A run in one of these states has no end yet: whoever writes next finishes or undoes it.
OPEN_STATES = frozenset({Result.APPLYING, Result.VERIFYING, Result.ROLLING_BACK})

# A generation that is neither confirmed nor taken back: its window goes on, a person keeps it from serving, a step of it is
# still to be done, or it is sick: on its way back, or in force without one (`policy.rollback`).
UNDECIDED = frozenset({Result.VERIFYING, Result.UNCONFIRMED, Result.PARTIAL, Result.FAILED, Result.ROLLING_BACK})


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One apply, from its first intent to its end.

    `state` is APPLYING, VERIFYING or ROLLING_BACK while it is open, else how it ended. `verify_since` and
    `verify_window` (seconds) describe the verify window and `verify_boot` the boot in which it began;
    `target_generation` is what it goes back to when it is not healthy, `generation` the one it recorded.
    """

    id: str
    cause: str
    author: str | None
    commit: str | None
    plan_digest: str
    document_digest: str
    state: Result
    reason: str
    begun_at: float
    changed_at: float
    ended_at: float | None = None
    verify_since: float | None = None
    verify_window: float | None = None
    verify_boot: str | None = None
    target_generation: int | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One action of a run: on disk before its effect. `result` None: its end was never recorded, its effect is unknown.

    `error` says why one failed, `note` what one that is done left as it was.
    """

    run_id: str
    action: Action
    at: float
    result: str | None = None
    ended_at: float | None = None
    error: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run without an end, with its intents that have no result."""

    run: Run
    intents: tuple[Intent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A document that was rejected: it is not applied again by itself, only by the word of an operator."""

    digest: str
    reason: str
    run_id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One piece of evidence for `openclaw why`: `what` is a constant word, `text` the sentence for people."""

    number: int
    at: float
    key: Key | None
    what: str
    text: str
    run_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
