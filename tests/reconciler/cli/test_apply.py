"""How `apply` leaves a window that it does not watch to its end."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import trio

from reconciler.cli.commands.apply import carry_out, granted, tell_idle, told
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent
from reconciler.engine.goal import Goal
from reconciler.engine.requests import Progress
from reconciler.engine.window import Window
from reconciler.kinds import Health
from reconciler.model import Action, Result
from tests.reconciler.engine.harness import APPLY, Harness, fake


class Keeper:
    """Takes windows over."""

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def watch_window(self, window: Window) -> None:
        self.windows.append(window)

    async def tell_runs(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize("when", ["verifying", "step_ended"])
async def test_a_client_that_stops_leaves_the_window_to_the_supervisor(tmp_path: Path, when: str) -> None:
    host, keeper, interrupted = Harness(tmp_path, verify_seconds=30), Keeper(), trio.Event()

    def report(progress: Progress) -> None:
        if progress.what == when:
            interrupted.set()

    host.engine.report = report
    session = Session(
        environ={}, directory="/", console=Silent(), kinds=tuple, supervisor=keeper, interrupted=interrupted
    )
    with trio.fail_after(10):
        source = host.source({"a": fake(1, impact="restart")})
        outcome = await carry_out(session, host.engine, source, APPLY, no_wait=False)
    host.engine.close()
    assert (outcome.result, outcome.exit_code) == (Result.VERIFYING, 130)
    assert [window.run for window in keeper.windows] == [outcome.run]


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize(("well", "code"), [(True, 0), (False, 5)])
async def test_a_run_that_came_after_ours_and_is_left_by_its_writer_is_ours_to_see_through(
    tmp_path: Path, well: bool, code: int
) -> None:
    """As by a supervisor that started again what fell in our window: how that ends is how the command ends."""
    host = Harness(tmp_path, verify_seconds=0.5)
    await host.apply({"a": fake(1, impact="restart")})
    first, source = host.engine, host.source({"a": fake(2, impact="restart")})
    session = Session(environ={}, directory="/", console=Silent(), kinds=tuple)

    async def overtake() -> None:
        other = host.fresh()
        host.kind.state["a"] = {}
        _outcome, window = await other.begin(source, APPLY, wait_seconds=5)
        assert window is not None
        other.close()
        if not well:
            host.kind.health["a"] = Health(ready=False, reason="Sick", message="no answer", final=True)

            async def heal(_action: Action) -> None:
                host.kind.health.clear()

            host.kind.after_apply = heal

    async with trio.open_nursery() as nursery:

        def report(progress: Progress) -> None:
            if progress.what == "verifying" and host.engine is first:
                nursery.start_soon(overtake)

        first.report = report
        with trio.fail_after(20):
            outcome = await carry_out(session, first, source, APPLY, no_wait=False)
    first.close()
    assert outcome.result is (Result.CONFIRMED if well else Result.ROLLED_BACK)
    assert outcome.exit_code == code
    assert [step.result for step in outcome.steps] == ["done"]


@pytest.mark.req("PLAN-5", "PLAN-8")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_what_is_stopped_before_its_first_step_did_not_fail(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    host, console = Harness(tmp_path), Silent()
    asked: list[bytes] = []
    await host.apply({"a": fake(1)})
    session = Session(environ={}, directory="/", console=console, kinds=tuple)

    def source(salt: bytes) -> Goal:
        # The first time that it is asked for, before anything is planned.
        if not asked:
            signal.raise_signal(number)
        asked.append(salt)
        return host.source({"a": fake(2)})(salt)

    outcome = await carry_out(session, host.engine, source, APPLY, no_wait=False)
    host.engine.close()
    assert told(session, outcome, True) == code
    said = json.loads(console.text)
    assert (said["result"], said["generation"], said["reason"]) == ("interrupted", 1, "stopped before it began")
    assert {action["result"] for action in said["actions"]} == {"stopped"}


async def test_an_approval_that_no_action_concerns_is_told(tmp_path: Path) -> None:
    host, console = Harness(tmp_path), Silent()
    session = Session(environ={}, directory="/", console=console, kinds=tuple)
    outcome = await host.apply({"a": fake(1)})
    host.engine.close()
    tell_idle(session, outcome.plan, granted(("fake/a", "fake/typo", "x/y"), False))
    assert console.wrong.splitlines() == [
        "note: --approve fake/typo grants nothing: no action concerns it",
        "note: --approve x/y grants nothing: no action concerns it",
    ]
    assert console.text == ""
