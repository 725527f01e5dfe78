"""A state machine over documents, hosts, faults and deaths (hypothesis.stateful), with the real engine and a real journal.

Its steps can be written down as they are: what it prints when it fails is a test.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from reconciler.engine.engine import Engine, Kept
from reconciler.engine.loop import EVERYTHING, Found, Loop
from reconciler.engine.requests import Outcome, Request
from reconciler.errors import OpenClawError
from reconciler.journal import Journal
from reconciler.model import ABSENT, Generation, Impact, Result, Value
from reconciler.values import same
from tests.reconciler.engine.campaigns.inline import live
from tests.reconciler.engine.campaigns.model import BAD, Failure, Witness, as_declared
from tests.reconciler.engine.harness import APPLY, Harness
from tests.reconciler.engine.memory import MEMORY
from tests.reconciler.engine.mortal import Died, Fate, make_mortal

Fakes = Mapping[str, Any]

NAMES = "abcd"


@dataclass(frozen=True)
class Trouble:
    """What befalls one process: death or Ctrl-C at a step, a disk that is full from the write `full` on, `times` times."""

    die: int | None = None
    stop: int | None = None
    full: int | None = None
    times: int = 1

    def fate(self) -> Fate:
        return Fate(self.die, range(self.full, self.full + self.times) if self.full is not None else range(0))


NO_TROUBLE = Trouble()
troubles = st.one_of(
    st.just(NO_TROUBLE),
    st.builds(Trouble, die=st.integers(1, 40)),
    st.builds(Trouble, full=st.integers(1, 24), times=st.sampled_from([1, 2, 5, 100])),
    st.builds(Trouble, stop=st.integers(1, 8)),
)
names = st.sampled_from(NAMES)
values = st.sampled_from([0, 1, 2, BAD])
fields = st.dictionaries(st.sampled_from("pq"), values, min_size=1)


@st.composite
def documents(draw: st.DrawFn) -> Fakes:
    """Needs lead to names that come earlier, so that there is no circle."""
    declared = draw(st.dictionaries(names, fields, min_size=draw(st.integers(0, 2)), max_size=len(NAMES)))
    return {
        name: {
            "fields": declared[name],
            "needs": sorted(draw(st.sets(st.sampled_from(earlier)))) if earlier else [],
            "impact": draw(st.sampled_from(["none", "restart"])),
        }
        for name in sorted(declared)
        for earlier in [sorted(other for other in declared if other < name)]
    }


saves = st.none() | documents()


class Clock:
    """The wall clock of a host: goes on with Trio's while a process lives, and may jump between two."""

    def __init__(self) -> None:
        self.epoch = 1_800_000_000.0

    def now(self) -> float:
        try:
            return self.epoch + trio.current_time()
        except RuntimeError:
            return self.epoch


class Campaign(RuleBasedStateMachine):
    """One host, its document, and one process after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="oc-campaign-", dir=MEMORY))
        self.clock = Clock()
        self.kind = Witness()
        self.host = Harness(self.directory, kind=self.kind, verify_seconds=0.4, now=self.clock.now)
        self.document: Fakes = {}
        self.confirmed = 0
        self.newest = 0

    # What people and other programs do

    @initialize(document=documents())
    def begin(self, document: Fakes) -> None:
        self.document = document

    @rule(name=names, path=st.sampled_from("pqz"), value=st.sampled_from([ABSENT, 0, 1, 2, 3]))
    def interfere(self, name: str, path: str, value: Value) -> None:
        self.kind.interfere((name, path), value)

    @rule(name=names)
    def vanish(self, name: str) -> None:
        for path in tuple(self.kind.state.get(name, ())):
            self.kind.interfere((name, path), ABSENT)

    @rule(name=names, times=st.sampled_from([1, 2, 100]), after=st.booleans(), for_good=st.booleans())
    def fail(self, name: str, times: int, after: bool, for_good: bool) -> None:
        self.kind.failures[name] = Failure(times, after, for_good)

    @rule(name=names)
    def blind(self, name: str) -> None:
        self.kind.unknown[name] = "the test shut its eyes"

    @rule(name=names)
    def sicken(self, name: str) -> None:
        self.kind.sick.add(name)

    @rule(name=names)
    def rest(self, name: str) -> None:
        self.kind.rest(name)

    @rule()
    def wake(self) -> None:
        self.kind.wake()

    @rule()
    def cure(self) -> None:
        self.kind.failures.clear()
        self.kind.unknown.clear()
        self.kind.sick.clear()

    @rule(seconds=st.sampled_from([-1e6, -0.5, 0.5, 100.0, 1e6]))
    def turn_the_clock(self, seconds: float) -> None:
        self.clock.epoch += seconds

    # Processes

    @rule(document=saves, trouble=troubles, wait=st.booleans())
    def apply(self, document: Fakes | None = None, trouble: Trouble = NO_TROUBLE, wait: bool = True) -> None:
        """A save, where there is a `document`, and `openclaw apply`; without `wait` nobody watches its window."""
        self._save(document)
        self._applied(self._process(partial(self._apply, wait=wait), trouble), wait, trouble)

    @rule(document=saves, trouble=troubles)
    def rescue(self, document: Fakes | None = None, trouble: Trouble = NO_TROUBLE) -> None:
        """Two processes, the second of which finishes whatever the first one left."""
        self._save(document)
        self._process(partial(self._apply, wait=False), trouble)
        self._applied(self._process(partial(self._apply, wait=True), NO_TROUBLE), True)

    @rule(document=saves, trouble=troubles, looks=st.integers(1, 3), watch=st.booleans())
    def supervise(
        self, document: Fakes | None = None, trouble: Trouble = NO_TROUBLE, looks: int = 1, watch: bool = True
    ) -> None:
        """A supervisor that looks so many times; what it must not touch by itself it does not."""
        self._save(document)
        self._process(partial(self._supervise, looks=looks, watch=watch), trouble, most=looks)

    def _save(self, document: Fakes | None) -> None:
        self.document = self.document if document is None else document

    @precondition(lambda self: self.newest > 1)
    @rule(trouble=troubles, back=st.integers(0, 3))
    def roll_back(self, trouble: Trouble = NO_TROUBLE, back: int = 1) -> None:
        """`openclaw rollback N`, as the command line does it."""
        with self._reader() as journal:
            generations = journal.generations()
        target = generations[min(back, len(generations) - 1)]
        self._process(partial(self._roll_back, target=target), trouble)

    async def _apply(self, engine: Engine, *, wait: bool) -> Outcome:
        source = self.host.source(self.document)
        return await engine.apply(source, APPLY) if wait else (await engine.begin(source, APPLY))[0]

    async def _roll_back(self, engine: Engine, *, target: Generation) -> Outcome:
        held, goal = self._digest(self.document), self.host._goal_of(target)[0]
        request = Request(
            cause=f"rollback to {target.number}",
            holds_back=((held,), "superseded by an operator") if held != goal.digest else None,
            goes_back_to=target.number,
        )
        with self._reader() as journal:
            quarantined = journal.quarantined(held)
        outcome = await engine.apply(lambda _salt: goal, request)
        if outcome.exit_code != 0 and request.holds_back is not None:
            await engine.let_go((held,), () if quarantined is None else (quarantined,))
        return outcome

    async def _supervise(self, engine: Engine, *, looks: int, watch: bool) -> None:
        bugs: list[Exception] = []
        document = self.document

        async def load() -> Found:
            await trio.lowlevel.checkpoint()
            return Found(source=self.host.source(document), mark="", files=(), remember=lambda: None)

        def crashed(err: Exception) -> str:
            bugs.append(err)
            return "a bug"

        runs, held_back = self._held_back(document)
        loop = Loop(
            engine=engine,
            load=load,
            files=(),
            log=_Silence(),
            tell=lambda _event: None,
            crashed=crashed,
            idle=lambda: None,
            keep=nothing_to_keep,
            look_around=trio.lowlevel.checkpoint,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            loop._windows = nursery if watch else None
            for _ in range(looks):
                await loop._look((EVERYTHING,))
                await trio.sleep(0.15)
        if bugs:
            raise bugs[0]
        if held_back:
            found = engine.journal().runs()
            begun = {run.document_digest for run in found[: len(found) - runs]}
            assert self._digest(document) not in begun, "a document that is held back was applied by itself"

    def _held_back(self, document: Fakes) -> tuple[int, bool]:
        """How many runs there are, and whether something else must stay in force than `document`."""
        if not self.newest:
            return 0, False
        digest = self._digest(document)
        with self._reader() as journal:
            instead = journal.in_force()
            held_back = journal.quarantined(digest) is not None and (instead is None or instead.digest != digest)
            return len(journal.runs()), held_back

    def _digest(self, document: Fakes) -> str:
        return self.host.source(document)(b"").digest

    # What holds after each process

    def _process(self, work: Callable[[Engine], Awaitable[Any]], trouble: Trouble, *, most: int = 1) -> Any:
        """One process with `most` runs; returns what `work` returns, or None where it did not come to its end."""
        fate = self.kind.fate = trouble.fate()
        engine = self.host.fresh()
        close = make_mortal(engine, fate)

        async def lived() -> Any:
            if trouble.stop is not None:
                fate.then[trouble.stop] = engine.stopping.set
            try:
                return await work(engine)
            finally:
                self.clock.epoch += trio.current_time()

        result = None
        try:
            result = live(lived)
        except (OpenClawError, Died, BaseExceptionGroup) as err:
            if not _expected(err, fate):
                raise
        finally:
            close()
            self.kind.fate = Fate()
        self._compare(most)
        return result

    def _compare(self, most: int) -> None:
        if not self.host.world.host.state.journal.exists():
            return
        with self._reader() as journal:
            self.kind.compare(journal)
            generations = journal.generations()
            numbers = [item.number for item in generations]
            assert numbers == sorted(set(numbers), reverse=True)
            newest = max(numbers, default=0)
            assert newest <= self.newest + most, "more than one generation of one run"
            self.newest = newest
            confirmed = journal.last_confirmed()
            number = confirmed.number if confirmed is not None else 0
            assert number >= self.confirmed, f"generation {self.confirmed} was confirmed, and is so no longer"
            # A run that came after it in the same process may have made sick what served until then.
            if number > self.confirmed and most == 1 and all(run.generation == number for run in journal.runs(1)):
                self._deserved(journal, number)
            self.confirmed = number

    def _deserved(self, journal: Journal, number: int) -> None:
        """What was confirmed by the only run of a process has nobody sick whom that run disturbed, or else touched."""
        confirmed = journal.generation(number)
        assert confirmed is not None
        declared = confirmed.canonical["canonical"]["x-fakes"]
        asleep = self.kind.resting & declared.keys()
        assert not asleep, f"generation {number} was confirmed, and nobody saw whether {asleep} serves"
        for run in journal.runs():
            if run.generation == number and run.state is Result.CONFIRMED:
                # All that is confirmed is as declared, so what failed at first was done by somebody after all.
                done = [intent.action for intent in journal.actions_of(run.id) if intent.result in ("done", "failed")]
                disturbed = [action for action in done if action.impact is not Impact.NONE]
                touched = declared.keys() & {action.key.name for action in disturbed or done}
                ailing = {name for name in touched if self.kind.ails(name)}
                assert not ailing, f"generation {number} was confirmed, and {ailing} is not well"

    def _taken_back(self, outcome: Outcome, target: Generation | None) -> None:
        if target is not None:
            assert as_declared(self.kind.state, target.canonical["canonical"]["x-fakes"])
            return
        for step in outcome.steps:
            for item in step.action.differences if step.result == "done" else ():
                assert same(self.kind.value((step.action.key.name, item.path)), item.observed), (
                    f"{step.action.id} stands"
                )

    def _applied(self, outcome: Outcome | None, wait: bool, trouble: Trouble = NO_TROUBLE) -> None:
        """What an apply that came to its end must have led to."""
        if outcome is None:
            return
        if outcome.result in (Result.CONFIRMED, Result.UNCONFIRMED) and not outcome.plan.unknown:
            assert as_declared(self.kind.state, self.document)
        with self._reader() as journal:
            if wait:
                assert journal.open_runs() == ()
            rejected = journal.quarantined(self._digest(self.document))
            if outcome.result in (Result.ROLLED_BACK, Result.ROLLBACK_FAILED):
                assert rejected is not None, "it was rolled back, and is not held back"
            if outcome.result is Result.CONFIRMED and wait and outcome.run:
                assert rejected is None, "it was confirmed, and is held back"
            if outcome.result is Result.ROLLED_BACK and not self.kind.unknown:
                self._taken_back(outcome, journal.generation(outcome.rolled_back_to or 0))
            faults = self.kind.unknown or self.kind.failures or trouble.full is not None
            if outcome.result is Result.ROLLBACK_FAILED and not faults:
                # Whether that made everybody well is another matter: it was in any case done.
                self._taken_back(outcome, journal.last_confirmed())

    def _reader(self) -> Journal:
        journal = Journal.open_reader(self.host.world.host.state.journal)
        assert journal is not None
        return journal

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._end()
        finally:
            shutil.rmtree(self.directory)

    def _end(self) -> None:
        """Without faults one more process reaches the document, the next does nothing, and a last one gives everything back."""
        self.cure()
        self.kind.wake()
        self.kind.well = True
        self._converge(self.document)
        effects = self.kind.effects
        steps = self._process(partial(self._apply, wait=True), NO_TROUBLE).steps
        assert (steps, self.kind.effects) == ((), effects), "a second apply did something"
        self._converge({})
        with self._reader() as journal:
            assert journal.applied() == {}
        for (name, path), value in self.kind.theirs.items():
            assert same(self.kind.value((name, path)), value), f"{name} {path} is not as others left it"
        assert all((name, path) in self.kind.theirs for name, found in self.kind.state.items() for path in found)

    def _converge(self, document: Fakes) -> None:
        with Journal.open_reader(self.host.world.host.state.journal) or nullcontext() as journal:
            left_open = [found.run.state for found in journal.open_runs()] if journal is not None else []
        self.apply(document=document)
        if Result.ROLLING_BACK in left_open:
            # What was seen to fail is not tried again by the very word that finds its way back open.
            self.apply(document=document)
        assert as_declared(self.kind.state, document)
        with self._reader() as journal:
            assert journal.open_runs() == ()
            confirmed = journal.last_confirmed()
            assert confirmed is not None
            assert confirmed.digest == self._digest(document)


async def nothing_to_keep() -> Kept:
    """These kinds have nothing that could fall."""
    await trio.lowlevel.checkpoint()
    return "", {}


class _Silence:
    def info(self, event: str, **values: Any) -> None:
        pass

    warning = info


def _expected(err: BaseException, fate: Fate) -> bool:
    """Whether an error is the death of a process or one that an operator may meet; anything else is a bug."""
    if isinstance(err, BaseExceptionGroup):
        return all(_expected(item, fate) for item in err.exceptions)
    return fate.dead if isinstance(err, Died) else isinstance(err, OpenClawError)
