"""What the loop tells, in its log and to whoever listens to events: each thing once, however often it is seen.

It decides nothing, and knows of no journal.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from reconciler.engine.execute import StepResult
from reconciler.engine.requests import Outcome
from reconciler.errors import DocumentError
from reconciler.journal import Run
from reconciler.kinds import End
from reconciler.model import Condition, Key, Result
from reconciler.values import rfc3339

# Of how many of the newest runs it is known how they were told.
TOLD_RUNS = 100


# What ends is told at once, and what does so again within `APART_SECONDS` after that time, together. Where that goes on, within
# `RECURS_SECONDS` or twice the last pause of each other, it is told ever more seldom after the first `EACH` times.
APART_SECONDS = 10.0
MOST_APART_SECONDS = 300.0
RECURS_SECONDS = 60.0
EACH = 4


class Log(Protocol):
    """Where the loop tells what it does: a constant event name and values."""

    def info(self, event: str, **values: Any) -> None:
        """Something happened as it should."""

    def warning(self, event: str, **values: Any) -> None:
        """Something is not as it should be."""


class Teller:
    """See the module.

    Args:
        log: is told what goes on.
        tell: is told the same as plain data; must not block.
        since: what ended before this (seconds since the epoch) is no news.
    """

    def __init__(self, log: Log, tell: Callable[[Mapping[str, Any]], None], *, since: float) -> None:
        self._log = log
        self._tell = tell
        self._since = since
        self._told: dict[str, str] = {}
        # How each of the newest runs stood when it was told last.
        self._runs: dict[str, Result] = {}
        self._failing: dict[Key, str] = {}
        # Why, by how it was seen: no plan sees that something does not answer, and no probe what is in no field of it.
        self._degraded: dict[tuple[str, Key], str] = {}
        self._ends: dict[Key, _Ends] = {}

    def ended(self, ends: Mapping[Key, Sequence[End]], now: float, again: Callable[[Key, float], None]) -> None:
        """Tells of what ended by itself. `again` is told of what more there is to tell, and in how many seconds.

        What is told as degraded meanwhile is told that way, as a crash loop is. `now` is seconds of a clock that never jumps.
        """
        for key, of_key in ends.items():
            state = self._ends.setdefault(key, _Ends(seen=self._since))
            if news := state.news(of_key):
                state.seen, state.untold = news[-1].at, state.untold + len(news)
            if self.is_degraded(key, "observation"):
                state.untold = 0
            if state.untold and now < state.quiet_until:
                again(key, state.quiet_until - now)
            elif state.untold:
                last, times = of_key[-1], state.untold
                state.told(now)
                text = last.text if times == 1 else f"it ended {times} times, the last time: {last.text}"
                values = {"key": str(key), "at": rfc3339(last.at), "reason": text, "times": times}
                self._log.warning("ended", **values)
                self._tell({"event": "ended", **values})

    def say(self, event: str, text: str, **values: Any) -> None:
        """Tells what is wrong, once: not again until it changes."""
        told = f"{text} {values}"
        if told != self._told.get(event):
            self._told[event] = told
            self._log.warning(event, reason=text, **{name: value for name, value in values.items() if value})
            self._tell({"event": event, "reason": text})

    def over(self, *events: str) -> None:
        """Forgets what was told: the next time is news again."""
        for event in events:
            self._told.pop(event, None)

    def valid(self) -> None:
        """Tells that the document can be used again, where it was told that it cannot. It may be as before, and so be no run."""
        if "document_invalid" in self._told:
            self.over("document_invalid")
            self._log.info("document_valid")
            self._tell({"event": "document_valid"})

    def history(self, lost: str | None, place: str) -> None:
        """Tells that the history is lost, as long as it is (None: it is not), and where the journal has its place."""
        if lost is None:
            self.over("history_lost")
            return
        self.say(
            "history_lost",
            f"the earlier history is lost: {lost}; nothing is withdrawn or deleted until a generation is confirmed again",
            journal=place,
            hint="nothing has to be done; where there is a copy of the journal, end the supervisor and put it at its place",
        )

    def step(self, step: StepResult) -> bool:
        """Logs how a step ended; False where it failed as it did the last time: that is no news."""
        key, values = step.action.key, {"key": str(step.action.key), "verb": step.action.verb, "result": step.result}
        if not step.error:
            self._failing.pop(key, None)
            noted = {"note": step.note} if step.note else {}
            self._log.info("step", **values, seconds=round(step.seconds, 3), **noted)
            return True
        told = f"{step.action.verb} {step.error}"
        if self._failing.get(key) == told:
            return False
        self._failing[key] = told
        self._log.warning("step", **values, error=step.error)
        return True

    def degraded(
        self, degraded: Mapping[Key, Condition], looked_at: Collection[Key] | None, *, by: str = "observation"
    ) -> None:
        """Says that something works no longer as it should, and that it does again, of what was `looked_at` (None: at all).

        What was seen in another way than `by` stands as it was.
        """
        for key, item in degraded.items():
            if self._degraded.get((by, key)) != item.reason:
                self._degraded[by, key] = item.reason
                self._log.warning("degraded", key=str(key), reason=item.reason, message=item.message)
                self._tell({"event": "degraded", "key": str(key), "reason": f"{item.reason}: {item.message}"})
        well = {key for how, key in self._degraded if how == by} - degraded.keys()
        for key in well if looked_at is None else well.intersection(looked_at):
            del self._degraded[by, key]
            if not self.is_degraded(key):
                self._log.info("recovered", key=str(key))
                self._tell({"event": "recovered", "key": str(key)})

    def is_degraded(self, key: Key, by: str | None = None) -> bool:
        """Whether that was said of it, and not yet that it has recovered; seen in this way, or in any."""
        return any(other == key and by in (None, how) for how, other in self._degraded)

    def knows(self, run: Run) -> bool:
        """Whether it was told how this run stands, or that is no news."""
        old = run.ended_at is not None and run.ended_at < self._since
        return old or self._runs.get(run.id) is run.state

    def knows_of(self, run: Run) -> bool:
        """Whether this run was told of, however it stood."""
        return run.id in self._runs

    def announce(self, outcome: Outcome) -> None:
        """Tells how a run of its own stands; one that failed like the one before it is no news."""
        told = _told(outcome.result, outcome.generation, outcome.reason)
        if self._runs.get(outcome.run) is outcome.result or self._told.get("run") == told:
            self.mark(outcome.run, outcome.result)
        else:
            self.run(outcome.run, outcome.cause, outcome.result, outcome.generation, outcome.reason)

    def run(self, run: str, cause: str, result: Result, generation: int, reason: str) -> None:
        """Tells how a run stands."""
        values = {"run": run, "cause": cause, "result": result.value, "generation": generation}
        if reason:
            values["reason"] = reason
        good = result in (Result.CONFIRMED, Result.UNCONFIRMED, Result.VERIFYING, Result.SUPERSEDED)
        if not good:
            self._told["run"] = _told(result, generation, reason)
        elif result is Result.CONFIRMED:
            self.over("run")
        self.mark(run, result)
        (self._log.info if good else self._log.warning)("run", **values)
        self._tell({"event": "run", **values})

    def mark(self, run: str, result: Result) -> None:
        """Remembers how a run stood when it was told, or was not worth it."""
        self._runs.pop(run, None)
        self._runs[run] = result
        if len(self._runs) > TOLD_RUNS:
            del self._runs[next(iter(self._runs))]


@dataclass(slots=True)
class _Ends:
    """What was told of the ends of one key. `seen` is when the newest one was; the rest is of a clock that never jumps."""

    seen: float
    untold: int = 0
    told_at: float = -inf
    pause: float = APART_SECONDS
    quiet_until: float = -inf
    row: int = 0

    def news(self, ends: Sequence[End]) -> Sequence[End]:
        """Those that came after the one that was seen last, also where the wall clock was set back since."""
        at = [end.at for end in ends]
        return ends[at.index(self.seen) + 1 :] if self.seen in at else [end for end in ends if end.at > self.seen]

    def told(self, now: float) -> None:
        """All that is untold is told now."""
        recurs = now - self.told_at < max(RECURS_SECONDS, 2 * self.pause)
        self.row = self.row + 1 if recurs else 1
        self.pause = min(APART_SECONDS * 2.0 ** max(self.row - EACH, 0), MOST_APART_SECONDS)
        self.told_at, self.quiet_until, self.untold = now, now + self.pause, 0


def _told(result: Result, generation: int, reason: str) -> str:
    """What makes the failure of a run the same as another one."""
    return f"{result.value} {generation} {reason}"


def problems_of(err: DocumentError) -> list[str]:
    """The first of them, each with its file: of a document with includes a line alone points into the wrong one."""
    found = [(getattr(item, "place", ""), getattr(item, "message", "")) for item in err.problems[:5]]
    return [f"{place}: {message}" if place else message for place, message in found]
