"""Killed before and after every journal write and every effect, the next process brings a run to its end: nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.journal import Journal
from reconciler.kinds import Health
from reconciler.model import Action, Result
from tests.reconciler.engine.harness import Harness, fake
from tests.reconciler.engine.mortal import Died, Fate, make_mortal

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

    async def live(self, document: dict[str, Any], end: int | None) -> Fate:
        """One process that applies `document` and dies at step `end`."""
        fate = Fate(end)
        close = make_mortal(self.host.fresh(), fate)

        async def before(_action: Action) -> None:
            fate.step()

        async def after(action: Action) -> None:
            self.effects.append(action.id)
            for name in self.host.kind.state:
                self.host.kind.health[name] = Health(ready=not self.sick(), reason="Sick", message="no answer")
            fate.step()

        self.host.kind.before_apply, self.host.kind.after_apply = before, after
        try:
            await self.host.apply(document)
        except* Died:
            assert fate.dead
        close()
        return fate

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


def make(directory: Path, name: str) -> str:
    (directory / name).mkdir()
    return name
