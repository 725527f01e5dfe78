"""What no window of this journal saw to serve is not confirmed by a look, whatever little is left to be done for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.model import Key, Result
from tests.reconciler.engine.harness import APPLY, Harness, fake

pytestmark = pytest.mark.req("PLAN-7", "PLAN-13")


@pytest.fixture
def host(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


async def died(host: Harness, value: int) -> None:
    """A run to a document with this `a` that died between its last effect and its window."""
    goal = host.source({"a": fake(value, impact="restart"), "b": fake(1)})(b"")
    journal = host.engine.journal()
    journal.begin_run("dead", cause="apply", plan_digest="x", document_digest=goal.digest, at=1.0)
    journal.set_run("dead", Result.INTERRUPTED, 2.0, reason="it died")
    host.kind.state["a"] = {"v": value}


async def test_what_a_run_did_that_died_is_watched_with_the_little_of_the_next_one(host: Harness) -> None:
    async with host.engine.watching():
        await host.apply({"a": fake(1, impact="restart"), "b": fake(1)})
        await host.engine.open_journal(1.0)
        await died(host, 2)
        source = host.source({"a": fake(2, impact="restart"), "b": fake(2)})
        outcome, window = await host.engine.begin(source, APPLY)
    assert [step.action.id for step in outcome.steps] == ["fake/b:set"]
    assert window is not None
    assert window.left_seconds == window.goal.desired.policy.verify_seconds
    assert set(window.gates) == {Key("fake", "a"), Key("fake", "b")}


async def test_the_window_of_a_run_that_did_nothing_and_was_sick_is_a_whole_one_again(host: Harness) -> None:
    async with host.engine.watching():
        await host.apply({"a": fake(1, impact="restart"), "b": fake(1)})
        await host.engine.open_journal(1.0)
        source = host.source({"a": fake(2, impact="restart"), "b": fake(1)})
        await died(host, 2)
        _outcome, window = await host.engine.begin(source, APPLY)
        assert window is not None
        journal = host.engine.journal()
        journal.set_run(window.run, Result.FAILED, 3.0, reason="sick")
        journal.set_generation_result(window.generation, Result.FAILED, "sick")
        _outcome, again = await host.engine.begin(source, APPLY)
    assert again is not None
    assert again.left_seconds == again.goal.desired.policy.verify_seconds
    assert set(again.gates) == {Key("fake", "a"), Key("fake", "b")}


async def test_what_another_journal_brought_about_is_watched_by_one_that_was_put_back(host: Harness) -> None:
    async with host.engine.watching():
        await host.apply({"a": fake(1, impact="restart"), "b": fake(1)})
        # Runs of which this journal knows nothing: it is that of an earlier day.
        host.kind.state["a"] = {"v": 3}
        outcome, window = await host.engine.begin(host.source({"a": fake(3, impact="restart"), "b": fake(1)}), APPLY)
    assert (outcome.result, outcome.steps) == (Result.VERIFYING, ())
    assert window is not None
    assert set(window.gates) == {Key("fake", "a"), Key("fake", "b")}


async def test_what_was_there_before_anybody_declared_it_needs_no_window(host: Harness) -> None:
    await host.apply({"b": fake(1)})
    host.kind.state["a"] = {"v": 3}
    outcome, window = await host.engine.begin(host.source({"a": fake(3, impact="restart"), "b": fake(1)}), APPLY)
    assert (outcome.result, window) == (Result.CONFIRMED, None)
