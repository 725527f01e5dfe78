"""The engine leads a host to a goal, journals every step, verifies, and goes back by itself."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import trio

from reconciler.cli.render.outcome import outcome_text
from reconciler.engine.goal import Goal
from reconciler.engine.lock import WriterLock, holder
from reconciler.engine.recovery import end_ways_back
from reconciler.engine.requests import Outcome
from reconciler.engine.settle import JOIN_SECONDS, OVERDUE_SECONDS, joined
from reconciler.errors import (
    BlockedError,
    LockedError,
    OpenClawError,
    RollbackFailedError,
    StaleError,
    TemporaryError,
    TerminalError,
)
from reconciler.journal import Journal, JournalError
from reconciler.kinds import Health, Wanted
from reconciler.model import Action, Condition, Generation, Key, Result, Status
from reconciler.planning.policy import Approvals
from reconciler.serial import plan_digest, plan_from_json, plan_to_json
from tests.reconciler.engine.harness import APPLY, Harness, fake
from tests.reconciler.engine.mortal import Died


@pytest.fixture
def host(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def reader(host: Harness) -> Journal:
    journal = Journal.open_reader(host.world.host.state.journal)
    assert journal is not None
    return journal


@pytest.mark.req("PLAN-2", "PLAN-8")
async def test_an_apply_reaches_the_goal_and_leaves_a_confirmed_generation(host: Harness) -> None:
    outcome = await host.apply({"a": fake(1), "b": fake(2)})
    assert outcome.result is Result.CONFIRMED
    assert outcome.exit_code == 0
    assert host.kind.state == {"a": {"v": 1}, "b": {"v": 2}}
    last = reader(host).last_confirmed()
    assert last is not None
    assert (last.number, last.cause, last.author) == (1, "apply", "a test")


@pytest.mark.req("PLAN-12")
async def test_what_was_confirmed_is_known_since_then_though_it_was_no_gate(host: Harness) -> None:
    await host.apply({"a": fake(1, impact="restart"), "b": fake(2)})
    kept = reader(host).conditions()
    for key in (Key("fake", "a"), Key("fake", "b")):
        assert {item.type: (item.status, bool(item.since)) for item in kept[key]} == {
            "Ready": (Status.TRUE, True),
            "Synced": (Status.TRUE, True),
        }


@pytest.mark.req("PLAN-2")
async def test_a_second_apply_does_nothing_and_writes_nothing(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    before = host.world.host.state.journal.with_name("journal.sqlite-wal").stat().st_mtime_ns
    host.fresh()
    outcome = await host.apply({"a": fake(1)})
    assert outcome.run == ""
    assert outcome.steps == ()
    assert len(reader(host).generations()) == 1
    assert host.world.host.state.journal.with_name("journal.sqlite-wal").stat().st_mtime_ns == before


@pytest.mark.req("PLAN-10")
async def test_a_withdrawn_resource_gives_back_what_was_there(host: Harness) -> None:
    host.kind.state["a"] = {"v": "theirs"}
    await host.apply({"a": fake("ours"), "b": fake(1)})
    await host.apply({"b": fake(1)})
    assert host.kind.state == {"a": {"v": "theirs"}, "b": {"v": 1}}
    await host.apply({"b": fake(1)})
    assert Key("fake", "a") not in reader(host).applied()


@pytest.mark.req("PLAN-10")
async def test_a_field_that_somebody_else_changed_after_us_is_not_given_back(host: Harness) -> None:
    await host.apply({"a": fake("ours"), "b": fake(1)})
    host.kind.state["a"] = {"v": "mine now"}
    outcome = await host.apply({"b": fake(1)})
    assert outcome.steps == ()
    assert host.kind.state["a"] == {"v": "mine now"}


@pytest.mark.req("PLAN-4")
async def test_a_failed_action_blocks_only_what_needs_it(host: Harness) -> None:
    async def fail(action: Action) -> None:
        if action.key.name == "a":
            raise TerminalError("cannot set a: no")

    host.kind.before_apply = fail
    outcome = await host.apply({"a": fake(1), "b": fake(2, needs=("a",)), "c": fake(3)})
    assert outcome.result is Result.PARTIAL
    assert outcome.exit_code == 1
    assert {step.action.key.name: step.result for step in outcome.steps} == {
        "a": "failed",
        "b": "skipped",
        "c": "done",
    }
    assert host.kind.state == {"c": {"v": 3}}
    host.kind.before_apply = None
    assert (await host.apply({"a": fake(1), "b": fake(2, needs=("a",)), "c": fake(3)})).result is Result.CONFIRMED


@pytest.mark.req("PLAN-7", "PLAN-15")
async def test_an_unhealthy_result_goes_back_to_the_last_confirmed_generation(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})

    async def sicken(action: Action) -> None:
        value = host.kind.state["a"]["v"]
        host.kind.health["a"] = Health(ready=value == "good", reason="Sick", message="it does not answer")

    host.kind.after_apply = sicken
    outcome = await host.apply({"a": fake("bad", impact="restart")})
    assert (outcome.result, outcome.exit_code, outcome.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert host.kind.state == {"a": {"v": "good"}}
    journal = reader(host)
    assert [item.result for item in journal.generations()] == [Result.ROLLED_BACK, Result.CONFIRMED]
    assert "it does not answer" in journal.generations()[0].reason
    rejected = journal.quarantined(outcome.plan.document_digest)
    assert rejected is not None
    assert "it does not answer" in rejected.reason


@pytest.mark.req("PLAN-7")
async def test_a_first_apply_that_is_not_healthy_is_undone_in_reverse(host: Harness) -> None:
    undone: list[str] = []

    async def sicken(action: Action) -> None:
        host.kind.health["b"] = Health(ready=False, reason="Sick", message="no")
        if action.id.endswith("!undo"):
            undone.append(action.key.name)

    host.kind.after_apply = sicken
    outcome = await host.apply({"a": fake(1), "b": fake(2, needs=("a",), impact="restart")})
    assert (outcome.result, outcome.exit_code, outcome.rolled_back_to) == (Result.ROLLED_BACK, 5, 0)
    assert undone == ["b", "a"]
    assert host.kind.state == {}
    assert reader(host).applied() == {}


@pytest.mark.req("PLAN-7")
async def test_a_rollback_that_is_not_healthy_either_is_tried_once_and_said(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="never again")
    outcome = await host.apply({"a": fake("bad", impact="restart")})
    assert (outcome.result, outcome.exit_code, outcome.rolled_back_to) == (Result.ROLLBACK_FAILED, 6, None)
    assert host.kind.state == {"a": {"v": "good"}}


@pytest.mark.req("PLAN-7", "PLAN-8")
@pytest.mark.parametrize("well", [True, False])
async def test_what_a_person_leads_to_after_a_rollback_that_failed_is_a_generation(host: Harness, well: bool) -> None:
    good = {"a": fake("good", impact="restart"), "b": fake(1, impact="restart")}
    await host.apply(good)
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="never again")
    assert (await host.apply({**good, "a": fake("bad", impact="restart")})).exit_code == 6
    # Something of it is still to be done: a look alone does not tell that it serves.
    host.kind.state["b"] = {"v": "moved"}
    if well:
        host.kind.health.clear()
    drift = replace(APPLY, cause="drift", approvals=Approvals(person=False))
    assert (await host.apply(good, drift)).generation == 1
    host.kind.state["b"] = {"v": "moved"}
    outcome = await host.apply(good)
    assert (outcome.generation, outcome.result) == (3, Result.CONFIRMED if well else Result.FAILED)
    assert well or outcome.reason.endswith("; there is nothing else to go back to")
    assert [each.result for each in reader(host).generations()] == [
        outcome.result,
        Result.ROLLBACK_FAILED,
        Result.CONFIRMED,
    ]
    assert not any(held.digest == reader(host).generations()[0].digest for held in reader(host).quarantines())
    host.kind.health.clear()
    assert (await host.apply(good)).result is Result.CONFIRMED
    assert (reader(host).generations()[0].number, reader(host).generations()[0].result) == (3, Result.CONFIRMED)


@pytest.mark.req("PLAN-8", "PLAN-15")
@pytest.mark.parametrize("moved", [True, False])
async def test_who_goes_back_to_what_they_went_back_from_holds_nothing_back_any_more(
    host: Harness, moved: bool
) -> None:
    await host.apply({"a": fake(1)})
    await host.apply({"a": fake(2)})
    first, second = (reader(host).generation(number) for number in (1, 2))
    assert first is not None
    assert second is not None
    held = host.source({"a": fake(2)})(b"").names
    back = replace(APPLY, holds_back=(held, "superseded by a person"))
    await host.engine.apply(lambda _salt: host.engine.goal_of(first)[0], back)
    assert reader(host).quarantined(*held) is not None
    if not moved:
        host.kind.state["a"] = {"v": 2}
    await host.engine.apply(lambda _salt: host.engine.goal_of(second)[0], APPLY)
    assert reader(host).quarantines() == ()
    assert host.kind.state == {"a": {"v": 2}}


@pytest.mark.req("PLAN-8", "PLAN-15")
@pytest.mark.parametrize("stopped", [True, False])
async def test_a_way_back_that_ends_before_its_first_effect_is_nobodys_wish_any_more(
    host: Harness, stopped: bool
) -> None:
    await host.apply({"a": fake(1)})
    await host.apply({"a": fake(2)})
    first = reader(host).generation(1)
    assert first is not None
    held = (host.source({"a": fake(2)})(b"").names, "superseded by a person")
    back = replace(APPLY, cause="rollback to 1", holds_back=held, goes_back_to=1)
    wished: list[int] = []

    async def outrun(_action: Action) -> None:
        wished.append(reader(host).going_back)
        raise StaleError("cannot set: moved since")

    host.kind.before_apply = outrun
    if stopped:
        host.engine.stopping.set()
    outcome, window = await host.engine.begin(lambda _salt: host.engine.goal_of(first)[0], back)
    assert (outcome.result, window) == (Result.INTERRUPTED if stopped else Result.FAILED, None)
    assert set(wished) == (set() if stopped else {1})
    assert (reader(host).quarantines(), reader(host).going_back) == ((), 0)


@pytest.mark.req("PLAN-5", "PLAN-8")
async def test_a_second_rollback_that_is_taken_back_brings_back_no_wish_of_the_first(host: Harness) -> None:
    """The first one's command was killed after its hold."""
    await host.apply({"a": fake(1, impact="restart")})
    await host.apply({"a": fake(2, impact="restart")})
    names = (host.source({"a": fake(2, impact="restart")})(b"").digest, "what it is called with another secret")
    journal = host.engine.journal()
    for name in names:
        journal.quarantine(name, "superseded by a person", "", 1.0)
    journal.set_going_back(1)
    before = journal.superseded()

    async def judge(_action: Action) -> None:
        bad = host.kind.state["a"] == {"v": 1}
        host.kind.health["a"] = Health(ready=not bad, reason="Sick", message="no answer", final=bad)

    host.kind.after_apply = judge
    first = journal.generation(1)
    assert first is not None
    back = replace(APPLY, cause="rollback to 1", holds_back=(names, "superseded again"), goes_back_to=1)
    outcome = await host.engine.apply(lambda _salt: host.engine.goal_of(first)[0], back)
    assert outcome.result is Result.ROLLED_BACK
    assert (reader(host).quarantined(*names), reader(host).going_back) == (None, 0)
    await host.engine.let_go(names, before)
    assert (reader(host).quarantined(*names), reader(host).going_back) == (None, 0)


@pytest.mark.req("PLAN-5")
async def test_a_run_that_died_after_its_effect_is_not_repeated_and_keeps_the_former_value(host: Harness) -> None:
    host.kind.state["a"] = {"v": "theirs"}

    async def die(action: Action) -> None:
        raise KeyboardInterrupt

    host.kind.after_apply = die
    with pytest.raises(BaseException) as died:
        await host.apply({"a": fake("ours")})
    assert died.group_contains(KeyboardInterrupt) or died.type is KeyboardInterrupt
    assert host.kind.state["a"] == {"v": "ours"}
    host.engine.close()
    host.kind.after_apply = None
    host.fresh()
    outcome = await host.apply({"a": fake("ours")})
    assert outcome.steps == ()
    journal = reader(host)
    assert journal.open_runs() == ()
    assert journal.runs()[0].state is Result.CONFIRMED
    assert journal.applied()[Key("fake", "a")]["v"].former == "theirs"


@pytest.mark.req("PLAN-7")
async def test_a_window_that_nobody_watches_is_finished_by_the_next_writer(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})
    _outcome, window = await host.engine.begin(host.source({"a": fake("bad", impact="restart")}), APPLY)
    assert window is not None
    host.engine.close()
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="died in the window")

    async def heal(action: Action) -> None:
        host.kind.health["a"] = Health(ready=True)

    host.kind.after_apply = heal
    host.fresh()
    # The window is waited out and ends badly: whoever wanted just that is told so, and no second outage follows by itself.
    ended = await host.apply({"a": fake("bad", impact="restart")})
    assert (ended.result, ended.exit_code, ended.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert "died in the window" in ended.reason
    assert host.kind.state == {"a": {"v": "good"}}
    # A person's next word is another one.
    assert (await host.apply({"a": fake("bad", impact="restart")})).result is Result.CONFIRMED
    results = [item.result for item in reader(host).generations()]
    assert results == [Result.CONFIRMED, Result.ROLLED_BACK, Result.CONFIRMED]


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_window_that_another_process_left_keeps_nobody_from_the_lock(host: Harness) -> None:
    host.verify_seconds = 30.0
    await host.engine.begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    host.fresh()
    outcome, window = await host.engine.begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    assert window is not None
    assert (outcome.result, outcome.run, outcome.steps) == (Result.VERIFYING, window.run, ())
    assert 0 < window.left_seconds <= 30.0
    host.verify_seconds = 0.02
    assert (await host.apply({"a": fake(2, impact="restart")})).result is Result.CONFIRMED
    assert [item.result for item in reader(host).generations()] == [Result.CONFIRMED, Result.SUPERSEDED]


@pytest.mark.req("PLAN-2", "PLAN-5", "PLAN-7", "PLAN-15")
async def test_a_window_that_another_process_left_is_handed_over_to_a_kept_plan_and_to_a_way_back_too(
    host: Harness,
) -> None:
    """Each leads to what is watched: a plan that was kept is compared first, what is to be held back is so from now on."""
    host.verify_seconds = 30.0
    source = host.source({"a": fake(1, impact="restart")})
    journal = Journal.open_reader(host.world.host.state.journal)
    before = (await host.engine.plan(source(b""), journal)).plan
    await host.engine.begin(source, APPLY)
    empty = (await host.engine.plan(source(b""), host.engine.journal())).plan
    kept = replace(APPLY, expected=empty, expected_digest=plan_digest(empty))
    stale = replace(APPLY, expected=before, expected_digest=plan_digest(before))
    back = replace(APPLY, cause="rollback to 1", holds_back=(("another document",), "a person went back"))
    with trio.fail_after(10):
        with pytest.raises(StaleError):
            await host.fresh().begin(source, stale)
        for request in (kept, back):
            outcome, window = await host.fresh().begin(source, request)
            assert window is not None
            assert (outcome.result, outcome.generation) == (Result.VERIFYING, 1)
            assert 0 < window.left_seconds <= 30.0
            assert holder(host.world.host.state.lock) is None
    assert [held.reason for held in reader(host).quarantines()] == ["a person went back"]


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_window_with_a_failed_step_that_the_host_mended_is_left_to_be_watched_too(host: Harness) -> None:
    host.verify_seconds = 30.0

    async def tried_again_by_itself(action: Action) -> None:
        host.kind.state["a"] = {"v": 1}
        raise TemporaryError("cannot start a: it ended at once")

    host.kind.before_apply = tried_again_by_itself
    await host.engine.begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    host.kind.before_apply = None
    with trio.fail_after(10):
        _outcome, window = await host.fresh().begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    assert window is not None
    ended = await host.engine.finish(replace(window, left_seconds=0.0, whole_seconds=0.0))
    assert (ended.result, ended.exit_code) == (Result.CONFIRMED, 0)


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_of_two_windows_of_one_document_that_a_process_left_the_newer_one_goes_on(host: Harness) -> None:
    host.verify_seconds = 30.0
    document = {"a": fake(1, impact="restart"), "b": fake(1)}
    _outcome, older = await host.engine.begin(host.source(document), APPLY)
    host.kind.state["b"] = {"v": "moved"}
    async with host.engine.watching():
        _outcome, newer = await host.engine.begin(host.source(document), APPLY)
    assert older is not None
    assert newer is not None
    with trio.fail_after(10):
        outcome, window = await host.fresh().begin(host.source(document), APPLY)
    assert window is not None
    assert (outcome.result, window.run, window.generation) == (Result.VERIFYING, newer.run, 1)
    assert [found.run.id for found in reader(host).open_runs()] == [newer.run]
    superseded = reader(host).run(older.run)
    assert superseded is not None
    assert (superseded.state, superseded.reason) == (Result.SUPERSEDED, "another run took its place")
    assert reader(host).generations()[0].result is Result.VERIFYING
    ended = await host.engine.finish(replace(window, left_seconds=0.0, whole_seconds=0.0))
    assert (ended.result, reader(host).generations()[0].result) == (Result.CONFIRMED, Result.CONFIRMED)


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_of_the_windows_of_three_saves_that_a_process_left_the_last_one_goes_on(host: Harness) -> None:
    host.verify_seconds = 30.0
    async with host.engine.watching():
        for value in (1, 2, 1):
            await host.engine.begin(host.source({"a": fake(value, impact="restart")}), APPLY)
    with trio.fail_after(10):
        _outcome, window = await host.fresh().begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    assert window is not None
    assert window.generation == 3
    await host.engine.finish(replace(window, left_seconds=0.0, whole_seconds=0.0))
    assert [(item.number, item.result) for item in reader(host).generations()] == [
        (3, Result.CONFIRMED),
        (2, Result.SUPERSEDED),
        (1, Result.SUPERSEDED),
    ]
    # What is told of a run and of its generation is the same.
    told = {run.generation: run.state for run in reader(host).runs()}
    assert told == {3: Result.CONFIRMED, 2: Result.SUPERSEDED, 1: Result.SUPERSEDED}


async def die_on_the_way_back(host: Harness) -> None:
    """Applies a good document, then a bad one, by a process that dies right after it has put the good one back."""
    await host.apply({"a": fake("good", impact="restart")})

    async def die(action: Action) -> None:
        if host.kind.state["a"]["v"] == "good":
            host.kind.health["a"] = Health(ready=True)
            raise KeyboardInterrupt
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)

    host.kind.after_apply = die
    with pytest.raises(BaseException) as died:
        await host.apply({"a": fake("bad", impact="restart")})
    assert died.group_contains(KeyboardInterrupt) or died.type is KeyboardInterrupt
    host.engine.close()
    host.kind.after_apply = None
    host.fresh()


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-15")
async def test_a_way_back_that_another_process_finishes_is_told_and_its_document_not_tried_again(host: Harness) -> None:
    await die_on_the_way_back(host)
    host.told.clear()
    ended = await host.apply({"a": fake("bad", impact="restart")})
    assert (ended.result, ended.exit_code, ended.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert ("rolling_back", "fake/a is not ready: no answer; going on with the way back to generation 1") in [
        (progress.what, progress.text) for progress in host.told
    ]
    journal = reader(host)
    assert journal.open_runs() == ()
    assert [item.result for item in journal.generations()] == [Result.ROLLED_BACK, Result.CONFIRMED]
    assert [run.state for run in journal.runs()] == [Result.CONFIRMED, Result.ROLLED_BACK, Result.CONFIRMED]
    conditions = {item.type: item.reason for item in journal.conditions()[Key("fake", "a")]}
    assert conditions["RolledBack"] == "NotHealthy"
    assert [event.what for event in journal.events(Key("fake", "a"), 10)] == ["rolled-back"]
    # A person's next word is another one.
    assert (await host.apply({"a": fake("bad", impact="restart")})).result is Result.CONFIRMED


@pytest.mark.req("PLAN-5", "PLAN-8", "SVC-9")
@pytest.mark.parametrize("well", [True, False])
async def test_who_acts_on_what_was_applied_last_finishes_the_way_back_first(host: Harness, well: bool) -> None:
    await die_on_the_way_back(host)
    with reader(host) as journal:
        # What stands is told of the generation as of its run.
        told = [(item.result, item.reason) for item in journal.generations()]
        assert told[0] == (Result.ROLLING_BACK, "fake/a is not ready: no answer")
        assert journal.in_force() == journal.generation(1)
    if not well:
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)
    with (
        nullcontext()
        if well
        else pytest.raises(RollbackFailedError, match="going back failed too: fake/a is not ready")
    ):
        await host.engine.do(partial(end_ways_back, host.engine), 1.0)
    assert host.kind.state == {"a": {"v": "good"}}
    with reader(host) as journal:
        ends = (Result.ROLLED_BACK, Result.CONFIRMED) if well else (Result.ROLLBACK_FAILED, Result.FAILED)
        assert journal.open_runs() == ()
        assert [item.result for item in journal.generations()] == [ends[0], Result.CONFIRMED]
        assert [run.state for run in journal.runs()] == [ends[1], ends[0], Result.CONFIRMED]


@pytest.mark.req("PLAN-5", "PLAN-8")
async def test_a_way_back_to_what_cannot_be_had_here_stays_open(host: Harness) -> None:
    await die_on_the_way_back(host)

    def no_secret(_generation: Generation) -> NoReturn:
        raise TerminalError("cannot read the secret")

    host.engine.goal_of = no_secret
    with pytest.raises(TerminalError, match="cannot read the secret"):
        await host.engine.do(partial(end_ways_back, host.engine), 1.0)
    with reader(host) as journal:
        assert [found.run.state for found in journal.open_runs()] == [Result.ROLLING_BACK, Result.APPLYING]


@pytest.mark.req("PLAN-5")
async def test_what_else_is_open_is_none_of_the_business_of_who_finishes_a_way_back(host: Harness) -> None:
    host.verify_seconds = 30.0
    await host.engine.begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    host.fresh()
    await host.engine.do(partial(end_ways_back, host.engine), 1.0)
    assert not host.engine.is_open
    with reader(host) as journal:
        assert [found.run.state for found in journal.open_runs()] == [Result.VERIFYING]


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_who_waits_for_the_window_of_another_waits_for_its_way_back_as_well(host: Harness) -> None:
    await die_on_the_way_back(host)
    bad = host.source({"a": fake("bad", impact="restart")})
    with reader(host) as journal:
        plan = (await host.engine.plan(bad(b""), journal)).plan
    found = Outcome(run="", result=Result.VERIFYING, plan=plan, generation=2)
    async with WriterLock(host.world.host.state.lock, command="another", now=time.time).hold(0.0):
        with trio.move_on_after(3 * JOIN_SECONDS) as waits:
            await joined(host.engine, found)
    assert waits.cancelled_caught
    with trio.fail_after(10):
        # It has died: how that ends is for the next one.
        assert await joined(host.engine, found) is None


@pytest.mark.req("PLAN-7", "PLAN-15")
async def test_what_was_not_ready_once_and_is_well_again_must_stay_so_in_the_next_window(host: Harness) -> None:
    """Also where nobody wrote down that it was mended."""
    documents = [{"a": fake("a"), "b": fake(number, impact="hot-reload")} for number in (1, 2, 3)]
    await host.apply(documents[0])
    sick = Health(ready=False, reason="Down", message="it is down")
    condition = Condition(type="Ready", status=Status.FALSE, reason="Down", message="it was down")
    host.engine.journal().set_conditions(Key("fake", "a"), (condition,), 1.0)
    host.kind.health["a"] = sick
    # What is sick still has not been made so by what touches another.
    assert (await host.apply(documents[1])).result is Result.CONFIRMED
    host.kind.health.clear()

    async def fall(_action: Action) -> None:
        host.kind.health["a"] = sick

    host.kind.after_apply = fall
    ended = await host.apply(documents[2])
    # It is still down on the way back.
    assert (ended.result, ended.reason.split(";")[0]) == (Result.ROLLBACK_FAILED, "fake/a is not ready: it is down")


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-15")
async def test_a_way_back_that_another_process_finishes_is_watched_to_the_end_of_its_window(host: Harness) -> None:
    host.verify_seconds = 0.5
    await die_on_the_way_back(host)

    async def fall() -> None:
        await trio.sleep(0.1)
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="it ended again", final=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fall)
        ended = await host.apply({"a": fake("bad", impact="restart")})
    assert (ended.result, ended.exit_code) == (Result.ROLLBACK_FAILED, 6)
    assert ended.reason.endswith("going back failed too: fake/a is not ready: it ended again")
    assert [run.state for run in reader(host).runs()] == [Result.FAILED, Result.ROLLBACK_FAILED, Result.CONFIRMED]
    conditions = {item.type: item.reason for item in reader(host).conditions()[Key("fake", "a")]}
    assert conditions["Degraded"] == "RollbackFailed"


@pytest.mark.req("PLAN-5", "PLAN-13")
async def test_a_run_that_died_stays_open_where_what_comes_next_is_refused(host: Harness) -> None:
    async def die(action: Action) -> None:
        raise KeyboardInterrupt

    host.kind.after_apply = die
    with pytest.raises(BaseException) as died:
        await host.apply({"a": fake(1)})
    assert died.group_contains(KeyboardInterrupt) or died.type is KeyboardInterrupt
    host.engine.close()
    host.kind.after_apply = None
    host.fresh()
    watches = replace(APPLY, approvals=Approvals(person=False))
    for _ in range(2):
        with pytest.raises(BlockedError):
            await host.engine.begin(host.source({}), watches)
        assert [found.run.state for found in reader(host).open_runs()] == [Result.APPLYING]
    assert (await host.apply({"a": fake(1)})).result is Result.CONFIRMED
    assert reader(host).open_runs() == ()


@pytest.mark.req("PLAN-7")
async def test_a_new_document_supersedes_an_open_window(host: Harness) -> None:
    await host.apply({"a": fake(1, impact="restart")})
    _outcome, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    # Somebody watches, however slow this machine is: else its end would be found first.
    async with host.engine.watching():
        second = await host.apply({"a": fake(3, impact="restart")})
    assert second.result is Result.CONFIRMED
    first = await host.engine.finish(window)
    assert (first.result, first.exit_code) == (Result.SUPERSEDED, 1)
    assert first.reason == "another document took its place"
    assert host.kind.state == {"a": {"v": 3}}


@pytest.mark.req("PLAN-7", "PLAN-9")
@pytest.mark.parametrize("how", ["watched", "unwatched", "too late"])
async def test_what_another_document_superseded_is_told_in_the_same_words_whoever_finds_it(
    host: Harness, how: str
) -> None:
    await host.apply({"a": fake(1)})
    host.verify_seconds = 60.0
    _outcome, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    third = host.source({"a": fake(3, impact="restart")})
    if how == "watched":
        async with host.engine.watching():
            await host.engine.begin(third, APPLY)
    else:
        if how == "too late":
            host.now = lambda: time.time() + 100.0
            host.kind.health["a"] = Health(ready=False, reason="Sick", message="no")
        host.engine.close()
        await host.fresh().begin(third, APPLY)
        assert reader(host).runs()[1].reason.startswith("another document took its place")
    second = reader(host).generation(2)
    assert second is not None
    assert second.result is Result.SUPERSEDED
    assert second.reason.startswith("another document took its place")


@pytest.mark.req("PLAN-7", "PLAN-13")
async def test_what_another_run_to_the_same_document_took_back_stays_taken_back(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})
    _outcome, window = await host.engine.begin(host.source({"a": fake("bad", impact="restart")}), APPLY)
    assert window is not None
    host.kind.state["a"] = {"v": "moved"}

    async def sick(action: Action) -> None:
        bad = host.kind.state.get("a") == {"v": "bad"}
        host.kind.health["a"] = Health(ready=not bad, reason="Sick", message="never with this", final=bad)

    host.kind.after_apply = sick
    async with host.engine.watching():
        second = await host.apply({"a": fake("bad", impact="restart")})
    assert (second.result, second.generation) == (Result.ROLLED_BACK, 2)
    first = await host.engine.finish(window)
    assert (first.result, first.exit_code, first.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert "never with this" in first.reason
    newest = reader(host).generations()[0]
    assert (newest.number, newest.result) == (2, Result.ROLLED_BACK)
    assert "never with this" in newest.reason
    assert reader(host).open_runs() == ()


@pytest.mark.req("PLAN-7")
async def test_a_cure_of_drift_in_an_open_window_takes_nothing_away_from_its_run(host: Harness) -> None:
    _outcome, window = await host.engine.begin(host.source({"a": fake(1, impact="restart")}), APPLY)
    assert window is not None
    host.kind.state["a"] = {"v": "moved"}
    assert (await host.apply({"a": fake(1, impact="restart")})).result is Result.CONFIRMED
    first = await host.engine.finish(window)
    assert (first.result, first.exit_code) == (Result.SUPERSEDED, 0)


@pytest.mark.req("PLAN-6")
async def test_a_second_writer_is_told_who_holds_the_lock(host: Harness, tmp_path: Path) -> None:
    locked: list[str] = []

    async def second(action: Action) -> None:
        other = Harness(tmp_path, kind=host.kind)
        with pytest.raises(LockedError) as refused:
            await other.engine.apply(other.source({"a": fake(2)}), APPLY)
        locked.append(refused.value.message)

    host.kind.before_apply = second
    await host.apply({"a": fake(1)})
    assert len(locked) == 1
    assert "openclaw test" in locked[0]
    assert "since" in locked[0]


@pytest.mark.req("PLAN-2")
async def test_a_plan_made_earlier_is_applied_exactly_once_or_refused_with_what_moved(host: Harness) -> None:
    await host.apply({"b": fake(0)})
    source = host.source({"a": fake(1), "b": fake(0)})
    planned = await host.engine.plan(source(b""), reader(host))
    kept = plan_from_json(plan_to_json(planned.plan))
    request = replace(APPLY, expected=kept, expected_digest=plan_digest(kept))
    host.kind.state["b"] = {"v": "moved"}
    with pytest.raises(StaleError, match="fake/b"):
        await host.engine.apply(source, request)
    assert "a" not in host.kind.state
    host.kind.state["b"] = {"v": 0}
    outcome = await host.engine.apply(source, request)
    assert [step.action.id for step in outcome.steps] == ["fake/a:set"]
    with pytest.raises(StaleError, match="used already"):
        await host.engine.apply(source, request)


@pytest.mark.req("PLAN-2")
async def test_what_moves_between_plan_and_step_stops_that_step_with_exit_4(host: Harness) -> None:
    async def move(action: Action) -> None:
        if action.key.name == "a":
            host.kind.state["b"] = {"v": "somebody was here"}

    host.kind.after_apply = move
    outcome = await host.apply({"a": fake(1), "b": fake(2, needs=("a",))})
    assert outcome.exit_code == 4
    assert host.kind.state["b"] == {"v": "somebody was here"}


@pytest.mark.req("PLAN-2")
async def test_a_plan_made_earlier_that_was_refused_at_its_first_effect_was_used(host: Harness) -> None:
    await host.apply({"a": fake(1)})

    async def move(action: Action) -> None:
        host.kind.state["a"] = {"v": "somebody was here"}

    source = host.source({"a": fake(2)})
    kept = (await host.engine.plan(source(b""), reader(host))).plan
    request = replace(APPLY, expected=kept, expected_digest=plan_digest(kept))
    host.kind.before_apply = move
    outcome = await host.engine.apply(source, request)
    assert (outcome.exit_code, [step.result for step in outcome.steps]) == (4, ["failed"])
    assert host.kind.state["a"] == {"v": "somebody was here"}
    # Nothing of it was applied, and it is no good any more.
    with pytest.raises(StaleError, match="cannot apply this plan: it was used already"):
        await host.engine.apply(source, request)


@pytest.mark.req("PLAN-2")
@pytest.mark.parametrize(("times", "code"), [(3, 0), (4, 4)])
async def test_what_moves_by_itself_before_the_first_effect_is_planned_anew_a_few_times(
    host: Harness, times: int, code: int
) -> None:
    await host.apply({"a": fake(1)})
    moves = iter(range(times))

    async def move(action: Action) -> None:
        if (number := next(moves, None)) is not None:
            host.kind.state["a"] = {"v": f"another life, {number}"}

    host.kind.before_apply = move
    outcome = await host.apply({"a": fake(2)})
    assert outcome.exit_code == code
    assert host.kind.state["a"] == {"v": 2 if code == 0 else "another life, 3"}
    assert next(moves, None) is None
    assert [run.state for run in reader(host).runs()][1:4] == [Result.FAILED] * 3


@pytest.mark.req("PLAN-2")
async def test_a_plan_that_was_agreed_to_is_not_planned_anew(host: Harness) -> None:
    source = host.source({"a": fake(1)})
    kept = plan_from_json(plan_to_json((await host.engine.plan(source(b""), None)).plan))

    async def move(action: Action) -> None:
        host.kind.state["a"] = {"v": "somebody was here"}

    host.kind.before_apply = move
    outcome = await host.engine.apply(source, replace(APPLY, expected=kept, expected_digest=plan_digest(kept)))
    assert outcome.exit_code == 4
    assert host.kind.state["a"] == {"v": "somebody was here"}


@pytest.mark.req("PLAN-17")
async def test_a_state_directory_of_another_document_is_refused(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    host.engine.close()
    host.world = replace(host.world, document=Path("/elsewhere/openclaw.yaml"))
    host.fresh()
    with pytest.raises(BlockedError, match=r"belongs to the document .*openclaw\.yaml"):
        await host.apply({"a": fake(2)})


@pytest.mark.req("PLAN-16")
async def test_destruction_waits_for_its_own_approval(host: Harness) -> None:
    host.kind.state["a"] = {"v": 0}
    host.kind.state["b"] = {"v": 0}
    fakes = {name: fake(1, impact="destroy") for name in "ab"}
    desired = host.goal(host._desired({"x-fakes": fakes}))
    policy = replace(desired.desired.policy, approve=("destroy",))
    goal = replace(desired, desired=replace(desired.desired, policy=policy))
    with pytest.raises(BlockedError) as refused:
        await host.engine.apply(lambda _salt: goal, APPLY)
    assert refused.value.hint == "say --approve fake/a --approve fake/b"
    assert not host.world.host.state.ours.exists()
    approvals = replace(APPLY.approvals, keys=frozenset({Key("fake", "a"), Key("fake", "b")}))
    outcome = await host.engine.apply(lambda _salt: goal, replace(APPLY, approvals=approvals))
    assert outcome.result is Result.CONFIRMED


@pytest.mark.req("PLAN-4")
async def test_independent_actions_run_side_by_side(host: Harness) -> None:
    running: set[str] = set()
    all_there = trio.Event()

    async def meet(action: Action) -> None:
        running.add(action.key.name)
        if len(running) == 4:
            all_there.set()
        # Nobody leaves before all have come: one after the other this would end at the deadline of the step.
        await all_there.wait()

    host.kind.before_apply = meet
    outcome = await host.apply({name: fake(1) for name in "abcd"})
    assert outcome.result is Result.CONFIRMED


@pytest.mark.req("PLAN-5")
async def test_stopping_finishes_the_step_and_begins_no_other(host: Harness) -> None:
    async def stop(action: Action) -> None:
        host.engine.stopping.set()

    host.kind.before_apply = stop
    outcome = await host.apply({"a": fake(1), "b": fake(2, needs=("a",))})
    assert outcome.exit_code == 130
    assert host.kind.state == {"a": {"v": 1}}


@pytest.mark.req("PLAN-5", "PLAN-8")
async def test_what_is_stopped_before_its_first_step_did_not_fail(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    host.engine.stopping.set()
    outcome = await host.apply({"a": fake(2), "b": fake(2)})
    assert (outcome.result, outcome.exit_code, outcome.generation) == (Result.INTERRUPTED, 130, 1)
    assert outcome_text(outcome, colour=False) == (
        "Stopped before the first step: nothing was done; generation 1 stays in force.\n"
    )
    journal = reader(host)
    run = journal.runs()[0]
    assert (run.state, run.reason, journal.open_runs()) == (Result.INTERRUPTED, "stopped before it began", ())
    assert [intent.result for intent in journal.actions_of(run.id)] == ["stopped"]
    assert [item.number for item in journal.generations()] == [1]
    assert host.kind.state == {"a": {"v": 1}}


@pytest.mark.req("PLAN-4", "PLAN-7", "PLAN-15")
async def test_an_action_that_fails_is_no_sickness_and_is_tried_again_as_the_same_generation(host: Harness) -> None:
    await host.apply({"a": fake("old", impact="restart"), "b": fake(1)})

    async def full(action: Action) -> None:
        raise TemporaryError("cannot write a: no space left on device")

    host.kind.before_apply = full
    host.kind.health["a"] = Health(ready=False, reason="Differs", message="not as declared: v", lagging=True)
    wanted = {"a": fake("new", impact="restart"), "b": fake(1)}
    for _ in range(3):
        outcome = await host.apply(wanted)
        assert (outcome.result, outcome.exit_code, outcome.generation) == (Result.PARTIAL, 1, 2)
        assert "no space left" in outcome.reason
    journal = reader(host)
    assert [item.result for item in journal.generations()] == [Result.PARTIAL, Result.CONFIRMED]
    assert journal.quarantines() == ()
    host.kind.before_apply = None
    host.kind.health.clear()
    assert (await host.apply(wanted)).result is Result.CONFIRMED
    assert [(item.number, item.result) for item in journal.generations()] == [
        (2, Result.CONFIRMED),
        (1, Result.CONFIRMED),
    ]


@pytest.mark.req("PLAN-4", "PLAN-7", "PLAN-15")
async def test_what_failed_at_first_and_is_as_declared_at_the_end_of_the_window_is_confirmed(host: Harness) -> None:
    await host.apply({"a": fake("old", impact="restart"), "b": fake(1)})

    async def tried_again_by_itself(action: Action) -> None:
        host.kind.state["a"] = {"v": "new"}
        raise TemporaryError("cannot start a: it ended at once")

    host.kind.before_apply = tried_again_by_itself
    outcome = await host.apply({"a": fake("new", impact="restart"), "b": fake(1)})
    assert (outcome.result, outcome.exit_code, outcome.reason) == (Result.CONFIRMED, 0, "")
    assert [(step.result, step.error) for step in outcome.steps] == [("failed", "cannot start a: it ended at once")]
    assert outcome_text(outcome, colour=False) == (
        "Generation 2: confirmed; 0 of 1 action done, and what failed at first is as declared by now.\n"
    )
    journal = reader(host)
    assert [(item.number, item.result) for item in journal.generations()] == [
        (2, Result.CONFIRMED),
        (1, Result.CONFIRMED),
    ]
    assert journal.applied()[Key("fake", "a")]["v"].value == "new"
    synced = {item.type: item.status for item in journal.conditions()[Key("fake", "a")]}
    assert synced == {"Ready": Status.TRUE, "Synced": Status.TRUE}


@pytest.mark.req("PLAN-4", "PLAN-7", "PLAN-15")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
async def test_what_could_not_be_started_for_want_of_descriptors_is_no_verdict_on_the_document(
    host: Harness, number: int
) -> None:
    await host.apply({"a": fake("old", impact="restart")})

    async def short(action: Action) -> None:
        raise TerminalError("cannot start a") from OSError(number, os.strerror(number))

    host.kind.before_apply = short
    host.kind.health["a"] = Health(ready=False, reason="NotRunning", message="it is not running")
    wanted = {"a": fake("new", impact="restart")}
    for _ in range(2):
        outcome = await host.apply(wanted)
        assert (outcome.result, outcome.generation, outcome.reason) == (Result.PARTIAL, 2, "cannot start a")
    assert reader(host).quarantines() == ()

    async def old_is_well(action: Action) -> None:
        if host.kind.state["a"]["v"] == "old":
            host.kind.health.clear()

    host.kind.before_apply, host.kind.after_apply = None, old_is_well
    # That it is sick counts as soon as it was done.
    assert (await host.apply(wanted)).result is Result.ROLLED_BACK


@pytest.mark.req("PLAN-7")
async def test_what_was_done_and_is_not_as_declared_afterwards_is_sick(host: Harness) -> None:
    await host.apply({"a": fake("old", impact="restart")})

    async def lag(action: Action) -> None:
        lagging = host.kind.state["a"]["v"] == "new"
        host.kind.health["a"] = Health(ready=not lagging, reason="Differs", message="not as declared", lagging=lagging)

    host.kind.after_apply = lag
    assert (await host.apply({"a": fake("new", impact="restart")})).result is Result.ROLLED_BACK


@pytest.mark.req("PLAN-7", "PLAN-15")
async def test_what_somebody_else_changes_in_the_window_condemns_no_document(host: Harness) -> None:
    assert (await host.apply({"a": fake(1)})).result is Result.CONFIRMED
    host.kind.health["a"] = Health(ready=False, reason="Differs", message="moved", lagging=True, moved=True)
    outcome = await host.apply({"a": fake(2)})
    assert (outcome.result, outcome.exit_code, outcome.reason) == (
        Result.PARTIAL,
        1,
        "fake/a is not ready: moved (somebody else changed it meanwhile)",
    )
    assert host.kind.state == {"a": {"v": 2}}
    assert reader(host).quarantined(outcome.plan.document_digest) is None
    host.kind.health["a"] = Health(ready=True)
    again = await host.apply({"a": fake(2)})
    assert (again.result, again.generation) == (Result.CONFIRMED, outcome.generation)
    # Beside what is sick it is no excuse.
    host.kind.health["a"] = Health(ready=False, reason="Differs", message="moved", lagging=True, moved=True)
    host.kind.health["b"] = Health(ready=False, reason="Down", message="down")
    assert (await host.apply({"a": fake(3), "b": fake(1)})).result is Result.ROLLED_BACK


async def test_an_unexpected_error_of_a_kind_is_its_own_failure_and_shows_no_value(host: Harness) -> None:
    async def bug(action: Action) -> None:
        raise RuntimeError("hunter2")

    host.kind.before_apply = bug
    outcome = await host.apply({"a": fake(1)})
    assert outcome.result is Result.PARTIAL
    assert outcome.steps[0].error is not None
    assert "hunter2" not in outcome.steps[0].error


async def test_a_kind_that_cannot_be_observed_is_unknown_and_nothing_is_planned_for_it(host: Harness) -> None:
    host.kind.unknown["a"] = "the door is locked"
    outcome = await host.apply({"a": fake(1), "b": fake(1)})
    assert [item.reason for item in outcome.plan.unknown] == ["the door is locked"]
    assert host.kind.state == {"b": {"v": 1}}
    assert (outcome.result, outcome.exit_code) == (Result.PARTIAL, 1)
    assert outcome.reason == "cannot observe fake/a: the door is locked"
    assert reader(host).last_confirmed() is None
    host.kind.unknown.clear()
    assert (await host.apply({"a": fake(1), "b": fake(1)})).result is Result.CONFIRMED


@pytest.mark.req("PLAN-2")
async def test_an_apply_that_sees_nothing_of_what_it_leads_says_so_and_does_not_claim_success(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    host.kind.unknown["a"] = "the door is locked"
    for process in (host.engine, host.fresh()):
        outcome = await process.apply(host.source({"a": fake(2)}), APPLY)
        assert (outcome.run, outcome.result, outcome.exit_code) == ("", Result.FAILED, 1)
        assert outcome.reason == "cannot observe fake/a: the door is locked"
    assert [item.number for item in reader(host).generations()] == [1]
    host.kind.unknown.clear()
    assert (await host.apply({"a": fake(2)})).result is Result.CONFIRMED


@pytest.mark.req("PLAN-7")
@pytest.mark.parametrize("seen", ["nothing", "a part"])
async def test_a_way_back_that_sees_not_everything_has_not_led_back(host: Harness, seen: str) -> None:
    await host.apply({"a": fake("good", impact="restart"), "b": fake(1)})

    async def sick(action: Action) -> None:
        if action.key.name == "a":
            host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)
            host.kind.unknown["a"] = "the door is locked"

    async def well_again(wanted: Wanted) -> None:
        if wanted.key.name in host.kind.unknown:
            host.kind.health.clear()

    host.kind.after_apply, host.kind.before_observe = sick, well_again
    bad = {"a": fake("bad", impact="restart"), "b": fake(1 if seen == "nothing" else 2)}
    outcome = await host.apply(bad)
    assert (outcome.result, outcome.exit_code) == (Result.ROLLBACK_FAILED, 6)
    assert "cannot observe fake/a: the door is locked" in outcome.reason
    assert host.kind.state == {"a": {"v": "bad"}, "b": {"v": 1}}


async def test_needs_in_a_circle_are_refused_by_name(host: Harness) -> None:
    with pytest.raises(OpenClawError, match="fake/a:set -> fake/b:set -> fake/a:set"):
        await host.apply({"a": fake(1, needs=("b",)), "b": fake(1, needs=("a",))})


@pytest.mark.req("PLAN-5", "PLAN-16")
async def test_a_corrupt_journal_is_moved_aside_and_nothing_is_deleted_in_that_run(host: Harness) -> None:
    await host.apply({"a": fake(1), "b": fake(2)})
    host.engine.close()
    path = host.world.host.state.journal
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    path.write_bytes(b"not a database at all" * 1000)
    host.fresh()
    # `b` is gone from the document, but who knows whether we ever made it.
    outcome = await host.apply({"a": fake(1)})
    assert outcome.result is Result.CONFIRMED
    assert host.kind.state == {"a": {"v": 1}, "b": {"v": 2}}
    assert list(path.parent.glob("journal.sqlite.corrupt-*"))
    assert reader(host).history_lost is None


@pytest.mark.req("PLAN-7")
async def test_a_document_that_changes_nothing_is_confirmed_only_while_everything_serves(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    host.kind.state["b"] = {"v": 2}
    host.kind.health["b"] = Health(ready=False, reason="Sick", message="it coughs")
    outcome = await host.apply({"a": fake(1), "b": fake(2)})
    assert (outcome.result, outcome.exit_code, outcome.run) == (Result.FAILED, 1, "")
    assert "it coughs" in outcome.reason
    assert len(reader(host).generations()) == 1
    host.kind.health.clear()
    assert (await host.apply({"a": fake(1), "b": fake(2)})).exit_code == 0
    assert len(reader(host).generations()) == 2


@pytest.mark.req("PLAN-7", "PLAN-9", "PLAN-15")
async def test_a_cure_of_drift_that_does_not_help_is_a_failure_and_no_rollback(host: Harness) -> None:
    await host.apply({"a": fake(1, impact="restart")})
    host.kind.state["a"] = {"v": "moved"}
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="the disk is gone")
    outcome = await host.apply({"a": fake(1, impact="restart")})
    assert (outcome.result, outcome.exit_code, outcome.generation) == (Result.FAILED, 1, 1)
    journal = reader(host)
    assert [item.result for item in journal.generations()] == [Result.CONFIRMED]
    assert journal.quarantines() == ()
    host.kind.health.clear()
    host.kind.state["a"] = {"v": "moved"}
    assert (await host.apply({"a": fake(1, impact="restart")})).result is Result.CONFIRMED
    assert [item.number for item in reader(host).generations()] == [1]


@pytest.mark.req("PLAN-7")
async def test_a_journal_that_fails_on_the_way_back_leaves_a_failed_rollback_that_the_next_run_ends(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply({"a": fake("good", impact="restart")})
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)

    def broken(*_arguments: object) -> None:
        raise JournalError("cannot use the journal: disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "quarantine", broken)
        with pytest.raises(RollbackFailedError, match=r"cannot go back: .*no answer; cannot use the journal") as caught:
            await host.apply({"a": fake("bad", impact="restart")})
    assert caught.value.exit_code == 6
    assert caught.value.hint == "the next run goes on from there"
    host.kind.health.clear()
    host.fresh()
    assert (await host.apply({"a": fake("good", impact="restart")})).result is Result.CONFIRMED
    assert host.kind.state == {"a": {"v": "good"}}
    assert reader(host).open_runs() == ()


def stopped_by_hand(host: Harness, name: str) -> None:
    """A person keeps `name` from serving."""
    host.kind.health[name] = Health(ready=False, reason="Suspended", message="stopped by hand", excused=True)
    host.kind.conditions[name] = (
        Condition(type="Suspended", status=Status.TRUE, reason="StoppedByOperator", message="stopped by hand"),
    )


@pytest.mark.req("PLAN-7", "SVC-9")
async def test_what_a_person_keeps_from_serving_confirms_nothing_though_the_run_did_not_touch_it(host: Harness) -> None:
    await host.apply({"a": fake(1), "b": fake(1)})
    stopped_by_hand(host, "a")
    outcome = await host.apply({"a": fake(1), "b": fake(2)})
    assert (outcome.result, outcome.exit_code, outcome.generation) == (Result.UNCONFIRMED, 0, 2)
    assert outcome.reason == "fake/a is not running: stopped by hand"
    journal = reader(host)
    assert [item.result for item in journal.generations()] == [Result.UNCONFIRMED, Result.CONFIRMED]
    again = await host.apply({"a": fake(1), "b": fake(2)})
    assert (again.run, again.result, again.reason) == ("", Result.UNCONFIRMED, outcome.reason)
    # What was in force before is another document now, and no way around it.
    back = await host.apply({"a": fake(1), "b": fake(1)})
    assert (back.result, back.generation) == (Result.UNCONFIRMED, 3)
    host.kind.health.clear()
    host.kind.conditions.clear()
    assert (await host.apply({"a": fake(1), "b": fake(1)})).result is Result.CONFIRMED
    assert [item.result for item in journal.generations()] == [
        Result.CONFIRMED,
        Result.UNCONFIRMED,
        Result.CONFIRMED,
    ]


@pytest.mark.req("PLAN-7", "SVC-9")
async def test_a_document_that_is_true_already_is_not_confirmed_while_it_cannot_be_seen_to_serve(host: Harness) -> None:
    await host.apply({"a": fake(1)})
    stopped_by_hand(host, "a")
    host.kind.state["b"] = {"v": 1}
    outcome = await host.apply({"a": fake(1), "b": fake(1)})
    assert (outcome.run, outcome.result, outcome.generation) == ("", Result.UNCONFIRMED, 2)
    in_force = reader(host).in_force()
    assert in_force is not None
    assert in_force.number == 2


@pytest.mark.req("PLAN-7", "SVC-9")
async def test_what_a_person_wants_first_is_done_under_the_lock_and_before_the_plan(host: Harness) -> None:
    await host.apply({"a": fake(1)})

    async def back() -> None:
        host.kind.state["a"] = {"v": "as before"}
        await trio.lowlevel.checkpoint()

    async def first() -> Callable[[], Awaitable[None]]:
        assert holder(host.world.host.state.lock) is not None
        host.kind.state["a"] = {"v": 0}
        await trio.lowlevel.checkpoint()
        return back

    outcome, window = await host.engine.begin(host.source({"a": fake(1)}), APPLY, first=first)
    assert [step.action.key.name for step in outcome.steps] == ["a"]
    assert window is not None
    assert (await host.engine.finish(window)).result is Result.CONFIRMED

    async def nothing() -> Callable[[], Awaitable[None]]:
        await trio.lowlevel.checkpoint()
        return back

    forbidden = replace(APPLY, approvals=Approvals(person=False))
    with pytest.raises(BlockedError):
        await host.engine.begin(host.source({}), forbidden, first=nothing)
    assert host.kind.state["a"] == {"v": "as before"}


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-13")
async def test_a_new_document_whose_writer_died_before_its_window_has_one_all_the_same(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})

    async def die(action: Action) -> None:
        raise Died

    host.kind.after_apply = die
    with pytest.RaisesGroup(Died, flatten_subgroups=True):
        await host.apply({"a": fake("bad", impact="restart")})
    host.kind.after_apply = None
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer")
    host.kind.retried.add("a")

    async def heal(action: Action) -> None:
        host.kind.health.clear()

    host.kind.before_apply = heal
    host.fresh()
    outcome = await host.apply({"a": fake("bad", impact="restart")}, replace(APPLY, approvals=Approvals(person=False)))
    assert (outcome.result, outcome.rolled_back_to) == (Result.ROLLED_BACK, 1)
    assert host.kind.state == {"a": {"v": "good"}}


@pytest.mark.req("PLAN-7", "PLAN-15")
async def test_what_a_recovery_took_back_is_not_tried_again_by_itself(host: Harness) -> None:
    await host.apply({"a": fake("good", impact="restart")})
    wanted = {"a": fake("bad", impact="restart")}
    _outcome, window = await host.engine.begin(host.source(wanted), APPLY)
    assert window is not None
    host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer")

    async def heal(action: Action) -> None:
        host.kind.health.clear()

    host.kind.before_apply = heal
    host.fresh()
    asked = 0

    def source(salt: bytes) -> Goal:
        nonlocal asked
        asked += 1
        rejected = reader(host).quarantined(host.source(wanted)(salt).digest)
        if rejected is not None:
            raise TemporaryError("it is held back now")
        return host.source(wanted)(salt)

    watches = replace(APPLY, approvals=Approvals(person=False))
    # It is watched on without the lock: meanwhile a person may lead elsewhere.
    _outcome, left = await host.engine.begin(source, watches)
    assert left is not None
    assert left.run == window.run
    assert (await host.engine.finish(left)).result is Result.ROLLED_BACK
    with pytest.raises(TemporaryError, match="held back now"):
        await host.engine.begin(source, watches)
    assert host.kind.state == {"a": {"v": "good"}}
    assert [item.result for item in reader(host).generations()] == [Result.ROLLED_BACK, Result.CONFIRMED]


@pytest.mark.req("PLAN-5")
@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_journal_that_is_taken_away_while_it_is_open_is_begun_anew(host: Harness, how: str) -> None:
    await host.apply({"a": fake(1)})
    path = host.world.host.state.journal
    for name in (path, *(path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))):
        if how == "removed":
            name.unlink(missing_ok=True)
        elif name.exists():
            name.rename(name.with_name("old-" + name.name))
    outcome = await host.apply({"a": fake(2)})
    assert outcome.result is Result.CONFIRMED
    journal = reader(host)
    assert [item.number for item in journal.generations()] == [outcome.generation]
    assert outcome.generation > 1
    host.engine.close()
    assert (await host.apply({"a": fake(2)})).run == ""


@pytest.mark.req("PLAN-7", "PLAN-8")
@pytest.mark.parametrize("watched", [True, False])
async def test_a_way_back_inside_a_window_is_what_is_in_force(host: Harness, watched: bool) -> None:
    await host.apply({"a": fake(1, impact="restart")})
    first, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    async with host.engine.watching() if watched else nullcontext():
        back = await host.apply({"a": fake(1, impact="restart")})
    # Whether somebody watched it or has died: the host was led elsewhere in between.
    assert (back.result, back.generation) == (Result.CONFIRMED, 3)
    over = await host.engine.finish(window)
    assert (over.result, over.in_force, over.exit_code) == (Result.SUPERSEDED, False, 1)
    journal = reader(host)
    second = journal.generation(2)
    assert second is not None
    assert second.result is Result.SUPERSEDED
    in_force = journal.in_force()
    assert in_force is not None
    assert in_force.number == back.generation
    assert first.generation == 2


@pytest.mark.req("PLAN-8")
async def test_a_commit_is_named_though_who_watches_was_quicker(host: Harness) -> None:
    await host.apply({"a": fake(1)}, replace(APPLY, cause="save", author=None))
    request = replace(APPLY, cause="commit", author="Ada", commit="c0ffee")
    outcome = await host.apply({"a": fake(1)}, request)
    assert outcome.run == ""
    (generation,) = reader(host).generations()
    assert (generation.cause, generation.author, generation.commit) == ("save", "Ada", "c0ffee")
    await host.apply({"a": fake(1)}, replace(request, commit="later", author="Bob"))
    (generation,) = reader(host).generations()
    assert (generation.author, generation.commit) == ("Ada", "c0ffee")


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize("cause", ["apply", "rollback to 1", "service start"])
async def test_what_a_person_applied_stays_theirs_whoever_names_a_commit_later(host: Harness, cause: str) -> None:
    await host.apply({"a": fake(1)}, replace(APPLY, cause=cause, author="root"))
    before = host.world.host.state.journal.stat().st_mtime_ns
    outcome = await host.apply({"a": fake(1)}, replace(APPLY, cause="commit", author="Mallory", commit="999"))
    assert (outcome.run, outcome.result) == ("", Result.CONFIRMED)
    (generation,) = reader(host).generations()
    assert (generation.cause, generation.author, generation.commit) == (cause, "root", None)
    assert host.world.host.state.journal.stat().st_mtime_ns == before


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_an_apply_that_is_refused_leaves_an_open_window_open(tmp_path: Path) -> None:
    # A window whose time is over when the other document comes is ended first.
    host = Harness(tmp_path, now=lambda: 1_000_000_000.0)
    await host.apply({"a": fake(1)})
    _outcome, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    host.fresh()
    with pytest.raises(BlockedError):
        await host.engine.begin(host.source({}), replace(APPLY, approvals=Approvals(person=False)))
    journal = reader(host)
    assert [item.result for item in journal.generations()] == [Result.VERIFYING, Result.CONFIRMED]
    assert [found.run.id for found in journal.open_runs()] == [window.run]
    assert (await host.apply({"a": fake(2, impact="restart")})).result is Result.CONFIRMED
    assert journal.generations()[0].result is Result.CONFIRMED


@pytest.mark.req("PLAN-6", "PLAN-7")
async def test_a_second_watcher_holds_the_watch_when_the_first_one_ends(host: Harness) -> None:
    path = host.world.host.state.ours / "verify.lock"
    path.parent.mkdir(parents=True)
    first = WriterLock(path, command="the first", now=host.now)
    assert first.acquire_nowait()
    async with host.engine.watching():
        found = holder(path)
        assert found is not None
        assert found.command == "the first"
        first.release()
        with trio.fail_after(5):
            while True:
                if (found := holder(path)) is not None and found.command != "the first":
                    break
                await trio.sleep(0.05)
    assert holder(path) is None


@pytest.mark.req("PLAN-7")
async def test_a_run_that_another_watcher_ended_is_not_ended_a_second_time(host: Harness) -> None:
    await host.apply({"a": fake(1, impact="restart")})
    _outcome, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    journal = host.engine.journal()
    journal.set_generation_result(2, Result.ROLLED_BACK, "it did not serve")
    journal.set_run(window.run, Result.ROLLED_BACK, 2.0, reason="it did not serve", target_generation=1)
    over = await host.engine.finish(window)
    assert (over.result, over.exit_code, over.rolled_back_to, over.reason) == (
        Result.ROLLED_BACK,
        5,
        1,
        "it did not serve",
    )
    assert reader(host).generations()[0].result is Result.ROLLED_BACK


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_journal_that_is_lost_inside_a_window_stays_lost(host: Harness) -> None:
    await host.apply({"a": fake(1, impact="restart")})
    _outcome, window = await host.engine.begin(host.source({"a": fake(2, impact="restart")}), APPLY)
    assert window is not None
    for path in host.world.host.state.ours.glob("journal.sqlite*"):
        path.unlink()
    over = await host.engine.finish(window)
    assert (over.result, over.exit_code) == (Result.FAILED, 1)
    assert "the journal was lost" in over.reason
    assert reader(host).history_lost is not None


def lose_the_journal(host: Harness) -> None:
    host.engine.close()
    for path in host.world.host.state.ours.glob("journal.sqlite*"):
        path.unlink()


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-8")
@pytest.mark.parametrize("well", [True, False])
async def test_what_is_in_force_when_the_journal_is_lost_is_confirmed_by_a_window_and_never_by_a_look(
    host: Harness, well: bool
) -> None:
    bad = {"a": fake("bad", impact="restart"), "b": fake(1)}
    await host.apply({"a": fake("good", impact="restart"), "b": fake(1)})
    await host.engine.begin(host.source(bad), APPLY)
    lose_the_journal(host)
    outcome, window = await host.fresh().begin(host.source(bad), APPLY)
    assert window is not None
    assert (outcome.result, window.left_seconds, {*window.gates}) == (
        Result.VERIFYING,
        host.verify_seconds,
        {Key("fake", "a"), Key("fake", "b")},
    )
    assert reader(host).history_lost is not None
    if not well:
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)
    over = await host.engine.finish(window)
    newest = reader(host).generations()[0]
    assert (over.result, newest.result) == ((Result.CONFIRMED if well else Result.FAILED),) * 2
    assert (reader(host).history_lost is None) is well
    if well:
        # There is no more to be said against it, but the generation and what was seen with it go on telling.
        assert over.reason == ""
        assert newest.reason.startswith("the history before it is lost: the journal is gone: run ")
        assert [event.text for event in reader(host).events(Key("fake", "a"), 10)] == [newest.reason]
        return
    # Nothing is known to go back to: it stays in force, and has another window instead of a look.
    assert "there is nothing to go back to" in over.reason
    assert reader(host).quarantines() == ()
    host.kind.health.clear()
    again = await host.fresh().apply(host.source(bad), APPLY)
    assert (again.result, again.generation) == (Result.CONFIRMED, over.generation)


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_a_window_after_a_loss_whose_watcher_died_is_as_wide_for_the_next(host: Harness) -> None:
    host.verify_seconds = 30.0
    document = {"a": fake(1, impact="restart"), "b": fake(1)}
    await host.engine.begin(host.source(document), APPLY)
    lose_the_journal(host)
    _outcome, window = await host.fresh().begin(host.source(document), APPLY)
    assert window is not None
    host.engine.close()
    host.kind.health["b"] = Health(ready=False, reason="Sick", message="no answer", final=True)
    ended = await host.fresh().apply(host.source(document), APPLY)
    assert ended.result is Result.FAILED
    assert "fake/b is not ready" in ended.reason


@pytest.mark.req("PLAN-5", "PLAN-7")
async def test_an_action_that_disturbs_nobody_has_a_whole_window_where_the_history_was_lost(host: Harness) -> None:
    await host.engine.begin(host.source({"a": fake(1, impact="restart"), "b": fake(1)}), APPLY)
    lose_the_journal(host)
    _outcome, window = await host.fresh().begin(host.source({"a": fake(1, impact="restart"), "b": fake(2)}), APPLY)
    assert window is not None
    assert (window.left_seconds, {*window.gates}) == (host.verify_seconds, {Key("fake", "a"), Key("fake", "b")})


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("well", [True, False])
async def test_a_window_whose_watcher_missed_its_end_by_far_is_ended_by_the_next_writer(
    host: Harness, well: bool
) -> None:
    """As by SIGSTOP, or a debugger: it holds its lock, and does nothing."""
    await host.apply({"a": fake("good", impact="restart")})
    frozen = host.engine
    _outcome, window = await frozen.begin(host.source({"a": fake("next", impact="restart")}), APPLY)
    assert window is not None
    if not well:
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)

    async def heal(action: Action) -> None:
        host.kind.health.clear()

    host.kind.after_apply = heal
    async with frozen.watching():
        joins = await host.fresh().apply(host.source({"a": fake("next", impact="restart")}), APPLY)
        assert (joins.result, joins.run) == (Result.VERIFYING, "")
        host.now = lambda: time.time() + window.left_seconds + OVERDUE_SECONDS + 1
        with trio.fail_after(10):
            # Whoever waits for it waits no longer, and goes on with it.
            assert await joined(host.fresh(), joins) is None
        ended = await host.fresh().apply(host.source({"a": fake("next", impact="restart")}), APPLY)
    assert ended.result is (Result.CONFIRMED if well else Result.ROLLED_BACK)
    assert reader(host).generations()[0].result is ended.result
    # It goes on: there is nothing left to end.
    late = await frozen.finish(window)
    assert late.result is ended.result
    assert reader(host).generations()[0].result is ended.result
