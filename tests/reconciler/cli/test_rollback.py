"""What `rollback` goes back to, and what it holds back."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.commands.apply import last_good, replaced_names
from reconciler.cli.commands.status import goal_in_force
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent
from reconciler.engine.goal import document_name
from reconciler.journal import Journal
from reconciler.model import Generation, Result
from tests.reconciler.cli.generations import confirmed

GOOD = "version: 1\nservice: {environment: {Q: {file: good}}}\n"
LATER = "version: 1\nservice: {environment: {Q: {file: later}}}\n"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "good").write_text("secret-0123456789abcdef")
    (tmp_path / "good").chmod(0o600)
    (tmp_path / "openclaw.yaml").write_text(GOOD)
    environ = {"OPENCLAW_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
    return Session(environ=environ, directory=str(tmp_path), console=Silent(), kinds=lambda: ())


def record(session: Session) -> Generation:
    """A confirmed generation of the document as it is."""
    return confirmed(session.runtime(), session.load())


@pytest.mark.req("PLAN-8", "PLAN-13")
@pytest.mark.parametrize(
    ("results", "goal"),
    [
        ([Result.CONFIRMED, Result.CONFIRMED], 1),
        ([Result.CONFIRMED, Result.CONFIRMED, Result.ROLLED_BACK], 1),
        # What is newest is neither confirmed nor taken back: the last that was.
        ([Result.CONFIRMED, Result.CONFIRMED, Result.ROLLBACK_FAILED], 2),
        ([Result.CONFIRMED, Result.CONFIRMED, Result.VERIFYING], 2),
        ([Result.CONFIRMED, Result.CONFIRMED, Result.FAILED], 2),
        ([Result.CONFIRMED, Result.ROLLBACK_FAILED], 1),
        ([Result.CONFIRMED], None),
        ([Result.ROLLBACK_FAILED], None),
        ([], None),
    ],
)
def test_without_a_number_the_goal_is_the_last_that_was_confirmed_before_what_is_there(
    session: Session, results: list[Result], goal: int | None
) -> None:
    with Journal.open_writer(session.host().state.journal, now=1.0) as journal:
        for number, result in enumerate(results):
            journal.record_generation(digest=f"{number}", at=1.0, cause="apply", result=result)
        found = last_good(journal)
    assert (found.number if found is not None else None) == goal


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize(("digest", "ended", "goal"), [("3", False, 2), ("3", True, 1), ("2", False, 1)])
@pytest.mark.parametrize("is_recorded", [True, False])
def test_without_a_number_what_an_open_run_left_of_another_document_is_gone_back_from(
    session: Session, digest: str, ended: bool, goal: int, is_recorded: bool
) -> None:
    """Held back already, as in its way back, or not recorded yet."""
    with Journal.open_writer(session.host().state.journal, now=1.0) as journal:
        for each in "12":
            journal.record_generation(digest=each, at=1.0, cause="apply", result=Result.CONFIRMED)
        journal.begin_run("run", cause="apply", plan_digest="p", document_digest=digest, at=2.0)
        if digest == "3" and is_recorded:
            result = Result.ROLLED_BACK if ended else Result.VERIFYING
            journal.record_generation(digest=digest, at=2.0, cause="apply", result=result)
            journal.quarantine(digest, "not ready", "run", 3.0)
        if ended:
            journal.end_run("run", Result.ROLLED_BACK, at=4.0)
        found = last_good(journal)
    assert found is not None
    assert found.number == goal


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize(
    ("digests", "results", "goal"),
    [
        # The second was gone back to after the third could not be taken back: the next way back is that to the first.
        ("ABCB", [Result.CONFIRMED, Result.CONFIRMED, Result.ROLLBACK_FAILED, Result.CONFIRMED], 1),
        ("ABCB", [Result.CONFIRMED, Result.CONFIRMED, Result.ROLLBACK_FAILED, Result.FAILED], 1),
        ("ABA", [Result.CONFIRMED] * 3, 2),
        ("BCB", [Result.CONFIRMED, Result.SUPERSEDED, Result.ROLLBACK_FAILED], 1),
        ("AA", [Result.CONFIRMED] * 2, None),
    ],
)
def test_without_a_number_the_goal_is_another_document_than_what_is_there(
    session: Session, digests: str, results: list[Result], goal: int | None
) -> None:
    with Journal.open_writer(session.host().state.journal, now=1.0) as journal:
        for digest, result in zip(digests, results, strict=True):
            journal.record_generation(digest=digest, at=1.0, cause="apply", result=result)
        found = last_good(journal)
    assert (found.number if found is not None else None) == goal


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_the_document_is_held_back_as_far_as_it_is_known(session: Session, tmp_path: Path) -> None:
    document = tmp_path / "openclaw.yaml"
    document.write_text("version: 1\n")
    first = record(session)
    document.write_text(GOOD)
    second = record(session)
    runtime = session.runtime()
    name = document_name(session.load().digest)
    assert replaced_names(session, runtime, first) == (second.digest, name)
    assert replaced_names(session, runtime, second) == ()
    # A secret of it is missing: what it would be with it cannot be told, and whoever watches keeps the generation in force.
    (tmp_path / "good").unlink()
    assert replaced_names(session, runtime, first) == (name, second.digest)
    assert replaced_names(session, runtime, second) == ()
    document.write_text(LATER)
    later = document_name(session.load().digest)
    assert replaced_names(session, runtime, second) == (later,)
    assert replaced_names(session, runtime, first) == (later, second.digest)
    document.write_text("version: many\n")
    assert replaced_names(session, runtime, second) == ()
    assert replaced_names(session, runtime, first) == (second.digest,)


@pytest.mark.req("PLAN-8", "PLAN-15")
def test_that_a_document_is_held_back_is_told_while_its_secret_is_missing(session: Session, tmp_path: Path) -> None:
    document = tmp_path / "openclaw.yaml"
    document.write_text("version: 1\n")
    record(session)
    document.write_text(GOOD)
    with Journal.open_writer(session.host().state.journal, now=1.0) as journal:
        journal.quarantine(document_name(session.load().digest), "superseded by a person", "", 1.0)

        def told() -> list[str]:
            return [note.code for note in goal_in_force(session, journal)[1]]

        assert told() == ["quarantined"]
        (tmp_path / "good").unlink()
        assert told() == ["document_invalid", "quarantined"]
        document.write_text(LATER)
        assert told() == ["document_invalid"]
        document.write_text("version: many\n")
        assert told() == ["document_invalid"]
