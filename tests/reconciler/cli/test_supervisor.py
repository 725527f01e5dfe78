"""A supervisor looks around: whether it still is the one here, and can be reached."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from reconciler.cli import supervisor as supervisors
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent, Supervisor
from reconciler.engine.lock import WriterLock
from reconciler.errors import UsageError
from reconciler.model import Key

pytestmark = [pytest.mark.real, pytest.mark.req("PLAN-6")]


class Record:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Mapping[str, Any]]] = []

    def info(self, event: str, **values: Any) -> None:
        self.lines.append((event, values))

    warning = info

    @property
    def events(self) -> list[str]:
        return [event for event, _values in self.lines]


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory with a short path: addresses of Unix sockets hold 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="oc-", dir="/tmp") as directory:
        yield Path(directory)


@asynccontextmanager
async def serving(state: Path, log: Record) -> AsyncIterator[Supervisor]:
    """A supervisor that holds its place, without a loop."""
    environ = {"OPENCLAW_STATE_DIR": str(state), "HOME": str(state)}
    session = Session(environ=environ, directory=str(state), console=Silent(), kinds=lambda: ())
    supervisor = Supervisor(session, session.runtime(), log)
    assert supervisor.lock.acquire_nowait()
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.server.serve)
        yield supervisor
        nursery.cancel_scope.cancel()
    supervisor.lock.release()


async def test_what_cannot_be_made_anew_is_said_once_and_made_as_soon_as_it_can(state: Path) -> None:
    log = Record()
    async with serving(state, log) as supervisor:
        await supervisor.look_around()
        assert log.events == []
        os.unlink(supervisor.lock.path)
        os.mkdir(supervisor.lock.path)
        for _ in range(2):
            await supervisor.look_around()
        assert (log.events, supervisor.ousted) == (["not_reachable"], None)
        os.rmdir(supervisor.lock.path)
        await supervisor.look_around()
        assert log.events[1:] == ["lock_taken_anew"]
        assert supervisor.lock.in_place


async def test_a_newcomer_who_ends_by_himself_ousts_nobody_and_one_who_stays_does(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Record()
    async with serving(state, log) as supervisor, trio.open_nursery() as nursery:
        os.unlink(supervisor.lock.path)
        newcomer = WriterLock(supervisor.lock.path, command="openclaw run", now=lambda: 1.0)
        assert newcomer.acquire_nowait()
        nursery.start_soon(supervisor.look_around)
        await trio.testing.wait_all_tasks_blocked(0.1)
        newcomer.release()
        with trio.fail_after(5):
            while not log.events:  # noqa: ASYNC110 - it asks for the lock again and again, and says nothing in between
                await trio.sleep(0.01)
        assert (log.events, supervisor.ousted) == (["lock_taken_anew"], None)
        os.unlink(supervisor.lock.path)
        assert newcomer.acquire_nowait()
        monkeypatch.setattr(supervisors, "NEWCOMER_SECONDS", 0.0)
        await supervisor.look_around()
        assert log.events[1:] == ["ousted"]
        assert supervisor.ousted is not None
        assert (supervisor.ousted.exit_code, supervisor.stopped.is_set()) == (75, True)
        newcomer.release()


async def test_a_look_at_a_key_that_there_is_none_of_is_refused_once_it_is_known_what_there_is(state: Path) -> None:
    gateway, nope = Key("service", "gateway"), Key("service", "nope")
    async with serving(state, Record()) as supervisor:
        assert await supervisor.reconcile(nope) == {"queued": "service/nope"}
        await supervisor.engine.open_journal(1.0)
        with contextlib.closing(supervisor.engine):
            supervisor.loop.kept = lambda _salt: SimpleNamespace(resources={gateway: None})  # type: ignore[assignment,return-value]
            with pytest.raises(UsageError, match="cannot look at service/nope: there is none") as caught:
                await supervisor.reconcile(nope)
            assert caught.value.hint == "there is service/gateway"
            assert await supervisor.reconcile(gateway) == {"queued": "service/gateway"}
            assert await supervisor.reconcile(None) == {"queued": "everything"}


@pytest.mark.req("SVC-9")
@pytest.mark.parametrize(
    ("again", "pause", "cut_short"),
    [
        (signal.SIGINT, 0.0, False),
        (signal.SIGINT, 0.3, True),
        (signal.SIGTERM, 0.0, True),
    ],
)
async def test_the_same_signal_within_a_moment_is_one_wish_and_another_or_a_later_one_a_second(
    state: Path, monkeypatch: pytest.MonkeyPatch, again: signal.Signals, pause: float, cut_short: bool
) -> None:
    monkeypatch.setattr(supervisors, "ONE_WISH_SECONDS", 0.2)
    async with serving(state, Record()) as supervisor, trio.open_nursery() as nursery:
        await nursery.start(supervisor.listen_to_signals)
        os.kill(os.getpid(), signal.SIGINT)
        with trio.fail_after(5):
            await supervisor.stopped.wait()
        await trio.sleep(pause)
        os.kill(os.getpid(), again)
        await trio.sleep(0.05)
        await trio.testing.wait_all_tasks_blocked()
        assert supervisor.patience.cancel_called == cut_short
        assert supervisor.cut_short_by == (again if cut_short else None)
        assert supervisor.engine.stopping.is_set()
        nursery.cancel_scope.cancel()
