"""A disk that fills up under a run: it is refused whole, or ended and taken back at the price of the ballast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.engine import ballast
from reconciler.engine.loop import EVERYTHING
from reconciler.engine.requests import Request
from reconciler.errors import RollbackFailedError, StaleError
from reconciler.journal import Journal, JournalFullError
from reconciler.kinds import Health, KindPlan, Step
from reconciler.model import Action, Consequence, Result
from resources.testing import FakeKind
from tests.reconciler.engine.harness import APPLY, Harness, fake
from tests.reconciler.engine.test_loop import Document, Record, running, until

OLD = {"a": fake("old", impact="restart"), "b": fake("old", needs=("a",), impact="restart")}
NEW = {"a": fake("new", impact="restart"), "b": fake("new", needs=("a",), impact="restart")}

pytestmark = pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-8")


@pytest.fixture
def host(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


class Disk:
    """The disk of `host`. From the first effect on after `fill_up` the journal has no room to do `refuses`, as long as the
    ballast is there; with `for_good` also after that.
    """

    def __init__(self, host: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
        self._host, self._patch = host, monkeypatch
        self.full, self.for_good = False, False

    def fill_up(self, refuses: str, for_good: bool = False) -> None:
        """It is full once the next effect was had."""
        self.for_good = for_good
        write = getattr(Journal, refuses)

        def refused(*arguments: Any, **named: Any) -> Any:
            if self.full and not self.for_good and not self._host.engine.ballast.path.exists():
                self.full = False
            if self.full:
                raise JournalFullError("cannot write the journal: the disk is full")
            return write(*arguments, **named)

        async def filled(_action: Action) -> None:
            await trio.lowlevel.checkpoint()
            self._host.kind.after_apply = None
            self.full = True

        self._patch.setattr(Journal, refuses, refused)
        self._host.kind.after_apply = filled


@pytest.fixture
def disk(host: Harness, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(host, monkeypatch)


@pytest.mark.parametrize("refuses", ["done", "intend", "record_generation", "set_run", "set_conditions"])
async def test_a_disk_that_runs_full_after_the_first_effect_takes_the_run_back(
    host: Harness, disk: Disk, refuses: str
) -> None:
    await host.apply(OLD)
    disk.fill_up(refuses)
    outcome = await host.apply(NEW)
    assert (outcome.result, outcome.exit_code, outcome.rolled_back_to) == (Result.ROLLED_BACK, 5, 1)
    assert "ran full" in outcome.reason
    assert host.kind.state == {"a": {"v": "old"}, "b": {"v": "old"}}
    journal = host.engine.journal()
    assert [item.result for item in journal.generations()] == [Result.ROLLED_BACK, Result.CONFIRMED]
    assert journal.open_runs() == ()
    # What is taken back anyway is not gone on with.
    assert [step.result for step in outcome.steps][1:] == (
        ["done"] if refuses not in ("done", "intend") else ["failed"]
    )


async def test_a_disk_that_runs_full_in_a_window_that_begins_anew_takes_the_run_back(
    host: Harness, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.verify_seconds = 0.3
    host.kind.health["a"] = Health(ready=True, life="1")
    await host.apply({"a": fake("old", impact="restart")})

    async def fall() -> None:
        await until(lambda: host.engine.watching.here, "the window")
        await trio.sleep(0.1)
        disk.full = True
        # What the ballast gave is used up.
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 0)
        host.kind.health["a"] = Health(ready=True, life="2")

    disk.fill_up("set_run")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fall)
        host.kind.after_apply = None
        outcome = await host.apply({"a": fake("new", impact="restart")})
    assert (outcome.result, outcome.rolled_back_to) == (Result.ROLLED_BACK, 1)
    assert "ran full" in outcome.reason


WAYS_BACK = ["done", "set_conditions", "record_event", "set_given", "set_run", "set_generation_result"]


@pytest.mark.parametrize("refuses", WAYS_BACK)
@pytest.mark.parametrize("earlier", [True, False])
async def test_a_disk_that_runs_full_on_the_way_back_does_not_keep_it_from_its_end(
    host: Harness, disk: Disk, refuses: str, earlier: bool
) -> None:
    if earlier:
        await host.apply({"a": fake("old", impact="restart")})

    async def sick(_action: Action) -> None:
        await trio.lowlevel.checkpoint()
        host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)
        disk.fill_up(refuses)
        fill_up = host.kind.after_apply
        assert fill_up is not None

        async def well(action: Action) -> None:
            host.kind.health.clear()
            await fill_up(action)

        host.kind.after_apply = well

    host.kind.after_apply = sick
    outcome = await host.apply({"a": fake("new", impact="restart")})
    assert (outcome.result, outcome.rolled_back_to) == (Result.ROLLED_BACK, 1 if earlier else 0)
    assert host.kind.state == ({"a": {"v": "old"}} if earlier else {})
    journal = host.engine.journal()
    assert journal.open_runs() == ()
    assert journal.generations()[0].result is Result.ROLLED_BACK


@pytest.mark.parametrize("refuses", ["release", "set_given", "set_generation_result"])
async def test_what_was_seen_to_serve_is_confirmed_at_the_price_of_the_ballast(
    host: Harness, disk: Disk, refuses: str
) -> None:
    await host.apply(OLD)
    disk.fill_up(refuses)
    assert (await host.apply(NEW)).result is Result.CONFIRMED
    assert host.engine.journal().open_runs() == ()


async def test_what_came_in_the_way_of_a_run_without_a_window_takes_it_back_too(host: Harness, disk: Disk) -> None:
    await host.apply({"a": fake("old")})
    disk.fill_up("set_conditions")
    assert (await host.apply({"a": fake("new")})).result is Result.ROLLED_BACK
    assert host.kind.state == {"a": {"v": "old"}}


async def test_a_run_that_even_the_ballast_does_not_end_says_what_is_so_and_is_gone_on_with(
    host: Harness, disk: Disk
) -> None:
    await host.apply(OLD)
    disk.fill_up("done", for_good=True)
    with pytest.raises(RollbackFailedError, match="what was done of this run so far is on the host"):
        await host.apply(NEW)
    disk.full = False
    assert (await host.apply(NEW)).result is Result.CONFIRMED
    assert host.kind.state == {"a": {"v": "new"}, "b": {"v": "new"}}


async def test_without_room_for_a_way_back_nothing_begins_and_what_is_being_watched_stays_so(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply(OLD)
    host.verify_seconds = 0.2
    _outcome, window = await host.engine.begin(host.source(NEW), APPLY)
    assert window is not None
    with monkeypatch.context() as patch:
        patch.setattr(ballast, "free_bytes", lambda _directory: ballast.SIZE_BYTES - 1)
        with pytest.raises(JournalFullError, match="the disk is full"):
            await host.engine.begin(host.source(OLD), APPLY)
    journal = host.engine.journal()
    assert [item.result for item in journal.generations()] == [Result.VERIFYING, Result.CONFIRMED]
    assert host.kind.state == {"a": {"v": "new"}, "b": {"v": "new"}}
    assert (await host.engine.finish(window)).result is Result.CONFIRMED


@pytest.mark.parametrize("hinders", ["begin_run", "_refuse"])
async def test_a_way_back_that_is_refused_before_anything_is_done_holds_nothing_back(
    host: Harness, monkeypatch: pytest.MonkeyPatch, hinders: str
) -> None:
    await host.apply(OLD)
    await host.apply(NEW)
    journal = host.engine.journal()
    journal.quarantine("another", "superseded by hand", "", 1.0)
    before = journal.quarantines()
    refused: list[str] = []

    def full(*_arguments: Any, **_named: Any) -> None:
        refused.extend(held.digest for held in journal.quarantines())
        raise JournalFullError("cannot write the journal: the disk is full")

    async def outrun(_action: Action) -> None:
        await trio.lowlevel.checkpoint()
        monkeypatch.setattr(host.engine, "_refuse", full)
        raise StaleError("cannot set: moved since")

    if hinders == "begin_run":
        monkeypatch.setattr(Journal, hinders, full)
    else:
        host.kind.before_apply = outrun
    back = Request(cause="rollback to 1", holds_back=(("the document",), "superseded by a rollback"))
    with pytest.raises(JournalFullError):
        await host.apply(OLD, back)
    assert "the document" in refused
    assert journal.quarantines() == before
    assert host.kind.state["a"] == {"v": "new"}


async def test_whether_there_is_room_is_asked_before_anything_is_held_back(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply(OLD)
    await host.apply(NEW)
    hold = Journal.quarantine

    def last_bytes(*arguments: Any) -> None:
        hold(*arguments)
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: ballast.SIZE_BYTES - 1)

    monkeypatch.setattr(Journal, "quarantine", last_bytes)
    back = Request(cause="rollback to 1", holds_back=(("the document",), "superseded by a rollback"))
    assert (await host.apply(OLD, back)).result is Result.CONFIRMED
    assert [held.digest for held in host.engine.journal().quarantines()] == ["the document"]


async def test_what_only_the_history_would_gain_is_refused_without_room(
    host: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await host.apply(OLD)
    monkeypatch.setattr(ballast, "free_bytes", lambda _directory: ballast.SIZE_BYTES - 1)
    with pytest.raises(JournalFullError, match="the disk is full"):
        await host.apply({**OLD, "b": fake("old", impact="restart")})
    assert (await host.apply(OLD)).result is Result.CONFIRMED
    assert len(host.engine.journal().generations()) == 1


class Pruner(FakeKind):
    """A fake, one of whose resources (`b`) makes room."""

    def plan(self, step: Step) -> KindPlan:
        freed = Consequence(what="bytes_freed", text="frees 9 B", amount=9)
        actions = super().plan(step).actions
        frees = step.key.name == "b"
        return KindPlan(actions=tuple(replace(each, consequences=(freed,)) if frees else each for each in actions))


@pytest.mark.parametrize("freed", [0, 2 * ballast.SIZE_BYTES])
async def test_on_a_full_disk_what_makes_room_is_done_first_and_the_rest_once_there_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, freed: int
) -> None:
    host = Harness(tmp_path, kind=Pruner())
    await host.apply({name: fake("old") for name in "abc"})
    done: list[str] = []
    room = {"free": 0}
    monkeypatch.setattr(ballast, "free_bytes", lambda _directory: room["free"])

    async def had(action: Action) -> None:
        await trio.lowlevel.checkpoint()
        done.append(action.key.name)
        room["free"] = freed

    host.kind.after_apply = had
    new = {name: fake("new") for name in "abc"}
    outcome = await host.apply(new)
    if freed:
        assert (done[0], sorted(done), outcome.result) == ("b", ["a", "b", "c"], Result.CONFIRMED)
        return
    assert (done, outcome.result, outcome.exit_code) == (["b"], Result.PARTIAL, 1)
    assert outcome.reason == "cannot apply: the disk is full"
    # The rest alone is refused, and done with the same generation once there is room.
    with pytest.raises(JournalFullError):
        await host.apply(new)
    room["free"] = 2 * ballast.SIZE_BYTES
    assert (await host.apply(new)).generation == outcome.generation == 2
    assert host.kind.state == {name: {"v": "new"} for name in "abc"}


async def test_what_ran_full_again_after_it_made_room_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Harness(tmp_path, kind=Pruner())
    await host.apply({name: fake("old") for name in "ab"})
    room = {"free": 0}
    monkeypatch.setattr(ballast, "free_bytes", lambda _directory: room["free"])
    disk = Disk(host, monkeypatch)

    async def had(_action: Action) -> None:
        await trio.lowlevel.checkpoint()
        room["free"] = 2 * ballast.SIZE_BYTES
        disk.fill_up("done")

    host.kind.after_apply = had
    outcome = await host.apply({name: fake("new") for name in "ab"})
    assert (outcome.result, outcome.exit_code) == (Result.ROLLED_BACK, 5)
    assert host.kind.state == {name: {"v": "old"} for name in "ab"}


async def test_a_run_begins_only_with_a_ballast(host: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    await host.apply(OLD)
    kept = host.engine.ballast
    assert kept.give_up()
    monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 2 * ballast.SIZE_BYTES - 1)
    with pytest.raises(JournalFullError):
        await host.apply(NEW)
    monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 2 * ballast.SIZE_BYTES)
    seen = []

    async def look(_action: Action) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(kept.path.exists())

    host.kind.before_apply = look
    assert (await host.apply(NEW)).result is Result.CONFIRMED
    assert seen == [True, True]


async def test_a_supervisor_looks_after_what_is_in_force_once_a_save_was_taken_back_in_its_steps(
    host: Harness, disk: Disk
) -> None:
    log, document = Record(), Document(host, OLD)
    async with running(document, log) as loop:
        await until(lambda: host.engine.journal().generations()[0].result is Result.CONFIRMED, "the first one")
        disk.fill_up("done")
        document.fakes = NEW
        loop.queue.add(EVERYTHING)
        await until(lambda: log.said("held_back"), "it is held back")
    assert host.kind.state == {"a": {"v": "old"}, "b": {"v": "old"}}
    assert "rolled-back" in [line["result"] for line in log.said("run")]
