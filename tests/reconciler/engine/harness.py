"""An engine over a world in memory: documents are `x-fakes` sections, the journal is a real one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reconciler.desired import Desired
from reconciler.engine.engine import Engine, Source
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Outcome, Progress, Request
from reconciler.model import Generation, Note
from reconciler.planning.policy import Approvals
from reconciler.values import digest
from resources.testing import FakeKind, FakeSecrets, make_desired, make_world

APPLY = Request(cause="apply", author="a test")


@dataclass
class Harness:
    """One host. `kind` is its world; `fresh()` is the next process on it."""

    directory: Path
    kind: FakeKind = field(default_factory=FakeKind)
    told: list[Progress] = field(default_factory=list)
    # Real time: the journal works in threads, past which a mock clock would leap.
    verify_seconds: float = 0.02
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.world = make_world(self.directory)
        self.engine = self.fresh()

    def fresh(self) -> Engine:
        """The engine of a new process."""
        self.engine = Engine(
            kinds=(self.kind,),
            host=self.world.host,
            document=self.world.document,
            now=self.now,
            goal_of=self._goal_of,
            report=self.told.append,
            command="openclaw test",
        )
        return self.engine

    def source(self, fakes: Mapping[str, Any]) -> Source:
        """The goal that a document with these fakes is."""
        goal = self.goal(self._desired({"x-fakes": fakes}))
        return lambda _salt: replace(goal, document=digest(dict(goal.desired.canonical)))

    async def apply(self, fakes: Mapping[str, Any], request: Request = APPLY) -> Outcome:
        """Applies a document to its end."""
        return await self.engine.apply(self.source(fakes), request)

    def goal(self, desired: Desired) -> Goal:
        """The goal for a desired state."""
        return Goal(
            desired=desired,
            digest=digest({"document": digest(dict(desired.canonical)), "secrets": {}}),
            texts={"openclaw.yaml": repr(desired.canonical)},
            secrets=FakeSecrets(),
            secret_digests={},
            resources={item.key: item for item in self.kind.declare(desired, self.world.host, FakeSecrets())},
            locate=lambda _path: None,
        )

    def _goal_of(self, generation: Generation) -> tuple[Goal, tuple[Note, ...]]:
        return self.goal(self._desired(generation.canonical["canonical"])), ()

    def _desired(self, extra: Mapping[str, Any]) -> Desired:
        desired = make_desired(extra=extra)
        return replace(desired, policy=replace(desired.policy, verify_seconds=self.verify_seconds))


def fake(value: object, *, needs: tuple[str, ...] = (), impact: str = "none") -> dict[str, Any]:
    """One `x-fakes` entry with the field `v`."""
    return {"fields": {"v": value}, "needs": list(needs), "impact": impact}


def approved(**named: Any) -> Request:
    """An apply with approvals."""
    return replace(APPLY, approvals=Approvals(**named))
