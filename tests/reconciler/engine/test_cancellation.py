"""Cancelled at any of its checkpoints, a run leaves nothing held, and the next process brings it to its end: nothing twice."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.engine.lock import WriterLock
from reconciler.engine.loop import EVERYTHING
from reconciler.journal import Journal, OpenRun
from reconciler.kinds import Health
from reconciler.model import Action, Result
from tests.reconciler.engine.harness import Harness, fake
from tests.reconciler.engine.test_kill_points import DOCUMENT
from tests.reconciler.engine.test_loop import Document, Record, make_loop

SMALL = {"a": fake(1), "b": fake(1, needs=("a",), impact="restart"), "c": fake("x")}
Work = Callable[[Harness, Mapping[str, Any]], Awaitable[None]]


class CancelAt(trio.abc.Instrument):
    """Cancels `scope` right before its `number`-th task step: then whoever waits next is told at once."""

    def __init__(self, number: int) -> None:
        self.number, self.steps, self.scope = number, 0, trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        # Trio's own tasks come and go with the threads.
        if task.name.startswith(("trio.", "<")):
            return
        self.steps += 1
        if self.steps == self.number:
            self.scope.cancel()


async def apply(host: Harness, document: Mapping[str, Any]) -> None:
    await host.apply(document)


async def look(host: Harness, document: Mapping[str, Any]) -> None:
    """One look of a supervisor, with the window that follows from it."""
    log = Record()
    loop = make_loop(Document(host, document), log)
    async with trio.open_nursery() as nursery:
        loop._windows = nursery
        await loop._look((EVERYTHING,))
    assert not log.said("look_failed")


def cancelled(host: Harness, work: Work, document: Mapping[str, Any], number: int) -> bool:
    """Lives a process that is cancelled at step `number` and returns whether that came before its end."""
    at = CancelAt(number)

    async def live() -> None:
        with at.scope:
            await work(host, document)
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0

    trio.run(live, instruments=[at])
    host.engine.close()
    for path in (host.world.host.state.lock, host.world.host.state.ours / "verify.lock"):
        lock = WriterLock(path, command="a test", now=host.now)
        assert lock.acquire_nowait(), f"{path.name} is still held"
        lock.release()
    # Whatever is cancelled, an effect has its result, and a way back its end. An intent alone, without its effect, may stay.
    for found in open_runs(host):
        for intent in found.intents:
            present = host.kind.state.get(intent.action.key.name, {})
            assert all(present.get(item.path) != item.desired for item in intent.action.differences)
        assert found.run.state is not Result.ROLLING_BACK
    return at.steps >= number


def open_runs(host: Harness) -> tuple[OpenRun, ...]:
    journal = Journal.open_reader(host.world.host.state.journal)
    if journal is None:
        return ()
    with journal:
        return journal.open_runs()


def next_process(host: Harness, document: Mapping[str, Any]) -> None:
    """One more apply, which finds or makes everything as it should be."""
    host.fresh()
    trio.run(host.apply, document)
    host.engine.close()
    assert host.kind.state == {name: entry["fields"] for name, entry in document.items()}
    journal = Journal.open_reader(host.world.host.state.journal)
    assert journal is not None
    with journal:
        assert journal.open_runs() == ()
        confirmed = journal.last_confirmed()
        assert confirmed is not None
        assert confirmed.canonical["canonical"] == {"x-fakes": document}
        assert all(run.state is not Result.APPLYING for run in journal.runs())


def cancel_everywhere(directory: Path, work: Work, document: Mapping[str, Any]) -> int:
    """Cancels `work` at each of its steps in turn, on a fresh host each time; returns how many there are."""
    for number in itertools.count(1):
        place = directory / str(number)
        place.mkdir()
        host = Harness(place, verify_seconds=0.002)
        effects: list[str] = []

        async def count(action: Action, effects: list[str] = effects) -> None:
            effects.append(action.id)
            await trio.lowlevel.checkpoint()

        host.kind.after_apply = count
        more = cancelled(host, work, document, number)
        next_process(host, document)
        assert len(effects) == len(set(effects)), (number, effects)
        if not more:
            return number - 1
    raise AssertionError("unreachable")


@pytest.mark.req("PLAN-5", "PLAN-6")
@pytest.mark.parametrize("work", [apply, look])
def test_a_run_cancelled_anywhere_is_brought_to_its_end(memory: Path, work: Work) -> None:
    print(f"{cancel_everywhere(memory, work, SMALL)} checkpoints")


@pytest.mark.soak
@pytest.mark.parametrize("work", [apply, look])
def test_a_long_run_cancelled_anywhere_is_brought_to_its_end(memory: Path, work: Work) -> None:
    print(f"{cancel_everywhere(memory, work, DOCUMENT)} checkpoints")


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("work", [apply, look])
def test_a_rollback_cancelled_anywhere_is_brought_to_its_end(memory: Path, work: Work) -> None:
    good = {"a": fake("good", impact="restart"), "b": fake(1)}
    bad = {"a": fake("bad", impact="restart"), "b": fake(2, needs=("a",))}
    for number in itertools.count(1):
        place = memory / str(number)
        place.mkdir()
        host = Harness(place, verify_seconds=0.002)

        async def feel(_action: Action, host: Harness = host) -> None:
            well = host.kind.state["a"]["v"] == "good"
            host.kind.health["a"] = Health(ready=well, reason="Sick", message="no answer")
            await trio.lowlevel.checkpoint()

        host.kind.after_apply = feel
        next_process(host, good)
        host.fresh()
        more = cancelled(host, work, bad, number)
        next_process(host, good)
        if not more:
            break
    print(f"{number - 1} checkpoints")
