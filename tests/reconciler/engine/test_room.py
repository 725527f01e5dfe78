"""A disk that fills up under a run: it is refused whole, or ended and taken back at the price of the ballast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from reconciler.engine import ballast
from reconciler.engine.loop import EVERYTHING
from reconciler.errors import RollbackFailedError
from reconciler.journal import Journal, JournalFullError
from reconciler.kinds import Health
from reconciler.model import Action, Result
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
