"""Killed before and after every journal write and every effect, the next process brings a run to its end: nothing twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.journal import Journal
from reconciler.kinds import Health
from reconciler.model import Action, Result
from tests.reconciler.engine.harness import APPLY, Harness, fake
from tests.reconciler.engine.mortal import Died, Fate, make_mortal
from tests.reconciler.engine.test_loop import Document, Record, running, until

# Twelve actions: three chains that meet, and what stands alone.
DOCUMENT = {
    **{f"a{number}": fake(1, needs=(f"a{number - 1}",) if number else ()) for number in range(4)},
    **{f"b{number}": fake(1, needs=("a1",), impact="restart") for number in range(3)},
    "c": fake(1, needs=("a3", "b0", "b2")),
    **{f"d{number}": fake("x") for number in range(4)},
}


class Life:
    """A host on which processes live and die; counts how often each effect really happened."""

    def __init__(self, directory: Path) -> None:
        self.host = Harness(directory)
        self.effects: list[str] = []
        self.sick: Callable[[], bool] = lambda: False

    async def live(self, document: dict[str, Any], end: int | None, back_to: int = 0) -> Fate:
        """One process that applies `document`, or goes back from it to a generation, and dies at step `end`."""
        fate = Fate(end)
        close = make_mortal(self.host.fresh(), fate)
        self._bind(fate)
        try:
            if back_to:
                await self._roll_back(document, back_to)
            else:
                await self.host.apply(document)
        except* Died:
            assert fate.dead
        close()
        return fate

    def _bind(self, fate: Fate) -> None:
        async def before(_action: Action) -> None:
            fate.step()

        async def after(action: Action) -> None:
            self.effects.append(action.id)
            for name in self.host.kind.state:
                self.host.kind.health[name] = Health(ready=not self.sick(), reason="Sick", message="no answer")
            fate.step()

        self.host.kind.before_apply, self.host.kind.after_apply = before, after

    async def _roll_back(self, document: dict[str, Any], number: int) -> None:
        with self.reader() as journal:
            target = journal.generation(number)
        assert target is not None
        goal = self.host.engine.goal_of(target)[0]
        held = (self.host.source(document)(b"").names, "superseded by an operator")
        back = replace(APPLY, cause=f"rollback to {number}", holds_back=held, goes_back_to=number)
        await self.host.engine.apply(lambda _salt: goal, back)

    async def watch(self, document: dict[str, Any]) -> None:
        """A supervisor of `document`, until it has nothing to do any more."""
        self.host.fresh()
        self._bind(Fate())
        async with running(Document(self.host, document), Record()):
            await until(lambda: not self.host.engine.journal().open_runs(), "the end of all runs")
        self.host.engine.close()

    def reader(self) -> Journal:
        journal = Journal.open_reader(self.host.world.host.state.journal)
        assert journal is not None
        return journal


async def points(directory: Path, prepare: Callable[[Life], Any], document: dict[str, Any]) -> int:
    """How many steps the life has that applies `document` after `prepare`."""
    life = Life(directory)
    await prepare(life)
    return (await life.live(document, None)).steps


async def nothing(_life: Life) -> None:
    """The host is fresh."""


@pytest.mark.req("PLAN-5", "PLAN-13")
async def test_an_apply_killed_at_every_step_converges_and_repeats_nothing(memory: Path) -> None:
    count = await points(memory / make(memory, "whole"), nothing, DOCUMENT)
    for end in range(1, count + 1):
        life = Life(memory / make(memory, f"killed-{end}"))
        await life.live(DOCUMENT, end)
        await life.live(DOCUMENT, None)
        assert life.host.kind.state == {name: entry["fields"] for name, entry in DOCUMENT.items()}, end
        assert len(life.effects) == len(set(life.effects)), (end, life.effects)
        journal = life.reader()
        assert journal.open_runs() == (), end
        assert journal.generations()[0].result is Result.CONFIRMED, end
        assert {key.name for key in journal.applied()} == set(DOCUMENT), end
        assert (await life.live(DOCUMENT, None)).steps == 0, end
        journal.close()
    print(f"{count} of {count} kill points")


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_rollback_killed_at_every_step_is_finished_by_the_next_process(memory: Path) -> None:
    good = {"a": fake("good", impact="restart"), "b": fake(1)}
    bad = {"a": fake("bad", impact="restart"), "b": fake(2, needs=("a",)), "c": fake(3)}

    async def prepare(life: Life) -> None:
        await life.live(good, None)
        life.effects.clear()
        life.sick = lambda: life.host.kind.state.get("a") == {"v": "bad"}

    count = await points(memory / make(memory, "whole"), prepare, bad)
    for end in range(1, count + 1):
        life = Life(memory / make(memory, f"killed-{end}"))
        await prepare(life)
        await life.live(bad, end)
        # The next process is asked for the good document, as an operator would who reverted the bad one.
        await life.live(good, None)
        await life.live(good, None)
        assert life.host.kind.state == {"a": {"v": "good"}, "b": {"v": 1}}, end
        journal = life.reader()
        assert journal.open_runs() == (), end
        confirmed = journal.last_confirmed()
        assert confirmed is not None
        assert confirmed.canonical["canonical"] == {"x-fakes": good}, end
        journal.close()
    print(f"{count} of {count} kill points")


OLD = {"a": fake("old", impact="restart"), "b": fake(1, needs=("a",))}
NEW = {"a": fake("new", impact="restart"), "b": fake(2, needs=("a",))}


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_change_killed_at_every_step_over_the_window_of_another_leaves_that_one_to_go_back_to(
    memory: Path,
) -> None:
    """Its window is ended with its generation, or not at all: else a look would find it well and confirm nothing."""
    first, second = {"a": fake(1, impact="restart")}, {"a": fake(2, impact="restart")}

    async def watched(life: Life) -> None:
        outcome, window = await life.host.engine.begin(life.host.source(first), APPLY)
        assert (outcome.result, window is not None) == (Result.VERIFYING, True)
        life.host.engine.close()

    for end in range(1, await points(memory / make(memory, "window"), watched, second) + 1):
        life = Life(memory / make(memory, f"window-{end}"))
        await watched(life)
        await life.live(second, end)
        await life.live(first, None)
        with life.reader() as journal:
            confirmed = journal.last_confirmed()
            assert (confirmed is not None, journal.open_runs()) == (True, ()), end
            assert confirmed is not None
            assert confirmed.digest == life.host.source(first)(b"").digest, end
        assert life.host.kind.state == state_of(first), end


async def two(life: Life) -> None:
    await life.live(OLD, None)
    await life.live(NEW, None)
    life.effects.clear()


async def old_again(life: Life) -> None:
    await two(life)
    await life.live(NEW, None, back_to=1)
    life.effects.clear()


def state_of(document: dict[str, Any]) -> dict[str, Any]:
    return {name: entry["fields"] for name, entry in document.items()}


@pytest.mark.req("PLAN-5", "PLAN-8", "PLAN-15")
@pytest.mark.parametrize("then", ["watch", "apply", "rollback"])
async def test_a_rollback_by_a_person_killed_at_every_step_is_finished_or_was_never_begun(
    memory: Path, then: str
) -> None:
    life = Life(memory / make(memory, "whole"))
    await two(life)
    count = (await life.live(NEW, None, back_to=1)).steps
    for end in range(1, count + 1):
        life = Life(memory / make(memory, f"killed-{end}"))
        await two(life)
        await life.live(NEW, end, back_to=1)
        with life.reader() as journal:
            begun = bool(journal.quarantines())
        if then == "watch":
            await life.watch(NEW)
            await life.watch(NEW)
        else:
            await life.live(NEW, None, back_to=1 if then == "rollback" else 0)
        back = then == "rollback" or (then == "watch" and begun)
        assert life.host.kind.state == state_of(OLD if back else NEW), end
        if back:
            assert len(life.effects) == len(set(life.effects)), (end, life.effects)
        with life.reader() as journal:
            assert journal.open_runs() == (), end
            assert journal.going_back == 0, end
            in_force = journal.in_force()
            assert in_force is not None
            assert in_force.canonical["canonical"] == {"x-fakes": OLD if back else NEW}, end
            assert in_force.result is Result.CONFIRMED, end
            assert in_force.cause == ("rollback to 1" if back else "apply"), end
            # Nothing is held back that is in force.
            assert bool(journal.quarantines()) == back, end
    assert begun


@pytest.mark.req("PLAN-5", "PLAN-8", "PLAN-15")
async def test_an_apply_by_a_person_of_what_is_held_back_killed_at_every_step_is_finished_or_was_never_begun(
    memory: Path,
) -> None:
    life = Life(memory / make(memory, "whole"))
    await old_again(life)
    count = (await life.live(NEW, None)).steps
    for end in range(1, count + 1):
        life = Life(memory / make(memory, f"killed-{end}"))
        await old_again(life)
        await life.live(NEW, end)
        with life.reader() as journal:
            begun = not journal.quarantines()
        await life.watch(NEW)
        await life.watch(NEW)
        assert life.host.kind.state == state_of(NEW if begun else OLD), end
        with life.reader() as journal:
            assert journal.open_runs() == (), end
            in_force = journal.in_force()
            assert in_force is not None
            assert in_force.canonical["canonical"] == {"x-fakes": NEW if begun else OLD}, end
            assert bool(journal.quarantines()) == (not begun), end
    assert begun


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-8", "PLAN-15")
async def test_a_rollback_by_a_person_that_is_taken_back_after_its_death_holds_nothing_back(memory: Path) -> None:
    life = Life(memory)
    await two(life)
    life.host.verify_seconds = 30.0
    with life.reader() as journal:
        target = journal.generation(1)
    assert target is not None
    goal = life.host.engine.goal_of(target)[0]
    held = (life.host.source(NEW)(b"").names, "superseded by an operator")
    back = replace(APPLY, cause="rollback to 1", holds_back=held, goes_back_to=1)
    _outcome, window = await life.host.fresh().begin(lambda _salt: goal, back)
    assert window is not None
    life.host.engine.close()
    life.host.verify_seconds = 0.02
    life.host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer")
    life.host.now = lambda: time.time() + 60
    life.sick = lambda: life.host.kind.state["a"] == {"v": "old"}
    await life.watch(NEW)
    assert life.host.kind.state == state_of(NEW)
    with life.reader() as journal:
        assert journal.generations()[0].result is Result.ROLLED_BACK
        assert journal.superseded() == ()


def make(directory: Path, name: str) -> str:
    (directory / name).mkdir()
    return name
