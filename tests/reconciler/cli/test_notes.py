"""What `plan` and `status` tell beside the plan, from the journal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.cli.commands.plan import notes_of
from reconciler.cli.commands.status import runs_by_key
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent
from reconciler.engine import ballast
from reconciler.engine.lock import WriterLock
from reconciler.journal import Journal
from reconciler.model import Result
from tests.reconciler.journal.conftest import action

pytestmark = pytest.mark.req("PLAN-12")


@pytest.fixture
def session(tmp_path: Path) -> Session:
    environ = {"OPENCLAW_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    return Session(environ=environ, directory=str(tmp_path), console=Silent(), kinds=lambda: ())


def journal_of(session: Session, *results: tuple[Result, str]) -> Journal:
    journal = Journal.open_writer(session.host().state.journal, now=1.0)
    for number, (result, reason) in enumerate(results):
        journal.record_generation(digest=f"{number}", at=1.0, cause="apply", result=result, reason=reason)
    return journal


@pytest.mark.parametrize(
    ("newest", "told"),
    [
        ((Result.CONFIRMED, ""), ""),
        ((Result.ROLLED_BACK, "it did not serve"), ""),
        ((Result.PARTIAL, "cannot write a: no space left on device"), "no space left on device"),
        ((Result.UNCONFIRMED, "service/gateway is not running"), "generation 2 is applied and was never seen to serve"),
    ],
)
def test_the_newest_generation_is_told_where_it_is_in_force_and_not_confirmed(
    session: Session, newest: tuple[Result, str], told: str
) -> None:
    with journal_of(session, (Result.CONFIRMED, ""), newest) as journal:
        notes = notes_of(session, journal)
    assert [told in note.message for note in notes] == ([True] if told else [])


def test_a_full_disk_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal_of(session, (Result.CONFIRMED, "")) as journal:
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 4096)
        (note,) = notes_of(session, journal)
        assert (note.code, "is full (4 KiB free)" in note.message) == ("disk_full", True)
        # An apply takes the ballast before anything else.
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 2 * ballast.SIZE_BYTES - 1)
        assert [note.code for note in notes_of(session, journal)] == ["disk_full"]
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: 2 * ballast.SIZE_BYTES)
        assert notes_of(session, journal) == ()
        (session.host().state.ours / "ballast").write_bytes(b"x" * ballast.SIZE_BYTES)
        monkeypatch.setattr(ballast, "free_bytes", lambda _directory: ballast.SIZE_BYTES)
        assert notes_of(session, journal) == ()


def test_a_state_directory_that_cannot_be_written_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    root = session.host().state.root
    with journal_of(session, (Result.CONFIRMED, "")) as journal:
        # Root may write anywhere: only what the system answers to another user is put in its mouth.
        monkeypatch.setattr("os.access", lambda path, mode, **_how: Path(path) != root or not mode & os.W_OK)
        (note,) = notes_of(session, journal)
        assert note.code == "state_not_writable"
        assert f'this user cannot write to "{root}": nothing can be applied; it is yours' in note.message


def test_one_that_is_held_back_is_not_in_force(session: Session) -> None:
    with journal_of(session, (Result.CONFIRMED, ""), (Result.PARTIAL, "half")) as journal:
        journal.quarantine("1", "by a person", "", 1.0)
        assert notes_of(session, journal) == ()


@pytest.mark.parametrize(
    ("second", "third", "told"),
    [
        (Result.VERIFYING, None, True),
        (Result.CONFIRMED, None, True),  # the run is a cure of drift
        (Result.SUPERSEDED, Result.CONFIRMED, False),
        (Result.SUPERSEDED, Result.ROLLED_BACK, False),
        (Result.CONFIRMED, Result.VERIFYING, False),
        (Result.ROLLED_BACK, None, False),
    ],
)
def test_a_run_is_in_its_window_as_long_as_its_generation_is_not_decided(
    session: Session, second: Result, third: Result | None, told: bool
) -> None:
    """Whoever watched it may be frozen, and ends it once he goes on."""
    results = [(result, "") for result in (Result.CONFIRMED, second, third) if result is not None]
    with journal_of(session, *results) as journal:
        step = action()
        journal.begin_run("r2", cause="save", plan_digest="p", document_digest="1", at=1.0, first_intent=step)
        journal.set_run("r2", Result.VERIFYING, 1.0, verify_since=1.0, verify_window=10.0, generation=2)
        assert [note.code for note in notes_of(session, journal)] == (["open_run"] if told else [])
        assert runs_by_key(journal) == ({step.key: (Result.VERIFYING, "r2")} if told else {})


@pytest.mark.parametrize("supervised", [False, True])
def test_of_a_window_that_nobody_watches_it_is_told_who_goes_on_with_it(session: Session, supervised: bool) -> None:
    state = session.host().state
    lock = WriterLock(state.ours / "supervisor.lock", command="openclaw run", now=lambda: 1.0)
    with journal_of(session, (Result.CONFIRMED, ""), (Result.VERIFYING, "")) as journal:
        journal.begin_run("r2", cause="save", plan_digest="p", document_digest="1", at=1.0, first_intent=action())
        journal.set_run("r2", Result.VERIFYING, 1.0, verify_since=1.0, verify_window=10.0, generation=2)
        if supervised:
            assert lock.acquire_nowait()
        try:
            (note,) = notes_of(session, journal)
        finally:
            lock.release()
    expected = (
        f"supervisor pid {os.getpid()} goes on with that in a moment" if supervised else "or a supervisor, goes on"
    )
    assert expected in note.message


def test_a_generation_that_two_open_runs_led_to_is_told_once(session: Session) -> None:
    """As where the cure of drift inside its window died as well."""
    with journal_of(session, (Result.CONFIRMED, ""), (Result.VERIFYING, "")) as journal:
        for number, run in enumerate(("r2", "r1")):
            at = 1.0 + number
            journal.begin_run(run, cause="save", plan_digest="p", document_digest="1", at=at, first_intent=action())
            journal.set_run(run, Result.VERIFYING, at, verify_since=at, verify_window=10.0, generation=2)
        (note,) = notes_of(session, journal)
    assert note.message.startswith("generation 2 is applied and not confirmed yet (run r1)")


def test_a_run_at_work_is_told_whatever_its_generation_is(session: Session) -> None:
    with journal_of(session, (Result.CONFIRMED, ""), (Result.CONFIRMED, "")) as journal:
        step = action()
        journal.begin_run("r3", cause="save", plan_digest="p", document_digest="1", at=1.0, first_intent=step)
        journal.set_run("r3", Result.ROLLING_BACK, 1.0, generation=1)
        assert runs_by_key(journal) == {step.key: (Result.ROLLING_BACK, "r3")}
