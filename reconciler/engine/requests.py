"""What a run is asked to do and what it says at its end. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from reconciler.engine.execute import StepResult
from reconciler.kinds import End
from reconciler.model import Condition, Key, Plan, Result
from reconciler.planning.policy import Approvals


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One wish to apply: why (`cause`: apply, save, drift, timer, commit, rollback), by whom, and what was granted.

    `expected` is a plan made earlier that must still hold to the letter; `waiting` names keys that are left out because they
    wait out their backoff. `holds_back` has the names of a document that this wish takes the place of, with the reason: it is
    in quarantine before the first effect, so that nobody who watches sees drift in what an operator wants. `goes_back_to` is
    the generation that it leads back to by a person's word, 0 where it leads to a document.
    """

    cause: str
    author: str | None = None
    commit: str | None = None
    approvals: Approvals = field(default_factory=Approvals)
    expected: Plan | None = None
    expected_digest: str | None = None
    waiting: frozenset[Key] = frozenset()
    holds_back: tuple[tuple[str, ...], str] | None = None
    goes_back_to: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended. `run` is empty where there was nothing to do; `generation` the one that is in force now.

    `cause` is why the run was begun. `stopped` says that a person ended the watching: the window is left to whoever comes next.
    `conditions` and `ends` are what kinds saw beside the fields before it. `in_force` is False where another document came before
    its end.
    """

    run: str
    cause: str = ""
    result: Result
    plan: Plan
    steps: tuple[StepResult, ...] = ()
    generation: int = 0
    rolled_back_to: int | None = None
    reason: str = ""
    stopped: bool = False
    conditions: tuple[tuple[Key, Condition], ...] = ()
    ends: Mapping[Key, tuple[End, ...]] = field(default_factory=dict)
    in_force: bool = True

    @property
    def outrun(self) -> bool:
        """Whether something moved between the plan and its first effect, so that nothing at all was done."""
        return bool(self.steps) and all(step.stale or step.result == "skipped" for step in self.steps)

    @property
    def exit_code(self) -> int:
        """What the command line ends with (docs/reference/exit-codes.md)."""
        if self.result is Result.ROLLED_BACK:
            return 5
        if self.result is Result.ROLLBACK_FAILED:
            return 6
        if any(step.stale for step in self.steps):
            return 4
        if self.stopped or any(step.result == "stopped" for step in self.steps):
            return 130
        good = self.result in (Result.CONFIRMED, Result.UNCONFIRMED, Result.VERIFYING, Result.SUPERSEDED)
        # What is confirmed is as declared, whoever did it after a step had failed.
        whole = self.result is Result.CONFIRMED or all(step.result == "done" for step in self.steps)
        return 0 if good and self.in_force and whole else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Something that whoever waits may be told: `what` is step_started, step_ended, verifying, confirmed, rolling_back."""

    what: str
    text: str
    step: StepResult | None = None


Report: TypeAlias = Callable[[Progress], None]
