"""Processes that die, or meet a full disk, at a chosen step: before or after each journal write and each effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from reconciler.engine.engine import Engine
from reconciler.journal import Journal, JournalFullError

# What the engine writes with; each is one commit.
WRITES = frozenset(
    {
        "set_document",
        "begin_run",
        "intend",
        "done",
        "set_run",
        "record_generation",
        "set_generation_result",
        "set_applied",
        "set_conditions",
        "set_history_lost",
        "quarantine",
        "release",
        "set_going_back",
        "record_event",
        "mark_plan_used",
    }
)


class Died(BaseException):
    """The process is gone: nothing of it runs any more, no cleanup either."""


@dataclass
class Fate:
    """Counts the steps of a life. It ends at step `end`; the disk is full for the writes whose numbers are in `full`; before
    a step in `then` that is called.
    """

    end: int | None = None
    full: range = range(0)
    then: dict[int, Callable[[], None]] = field(default_factory=dict)
    steps: int = field(default=0, init=False)
    writes: int = field(default=0, init=False)
    dead: bool = field(default=False, init=False)

    def step(self) -> None:
        """One step of this life, maybe the last."""
        if self.dead:
            raise Died
        self.steps += 1
        if self.steps in self.then:
            self.then[self.steps]()
        if self.steps == self.end:
            self.dead = True
            raise Died

    def write(self) -> None:
        """The step before a journal write, which the disk may refuse."""
        self.step()
        self.writes += 1
        if self.writes in self.full:
            raise JournalFullError("cannot write the journal: the disk is full")


class MortalJournal:
    """A journal whose process may die right before and right after each write, and whose disk may be full."""

    def __init__(self, journal: Journal, fate: Fate) -> None:
        self._journal, self._fate = journal, fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        if name not in WRITES:
            return found

        def write(*arguments: Any, **named: Any) -> Any:
            self._fate.write()
            result = found(*arguments, **named)
            self._fate.step()
            return result

        return write

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Who dies inside dies before the commit; right after it comes a step of its own."""
        with self._journal.transaction():
            yield
        self._fate.step()


def make_mortal(engine: Engine, fate: Fate) -> Callable[[], None]:
    """Binds the journal of `engine` to `fate`; returns what closes it without any last word, as a death does."""
    open_journal = engine.journal

    def journal() -> Any:
        if not isinstance(engine._journal, MortalJournal):
            engine._journal = None
            engine._journal = MortalJournal(open_journal(), fate)  # type: ignore[assignment]
        return engine._journal

    def close() -> None:
        if engine._journal is not None:
            engine._journal.close()
            engine._journal = None

    engine.journal = journal  # type: ignore[method-assign]
    return close
