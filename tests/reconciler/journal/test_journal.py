"""What the journal keeps, how long, and what it says of it."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.errors import LockedError
from reconciler.journal import Journal, JournalError, JournalFullError, Quarantined, store
from reconciler.journal.journal import KEEP_EVENTS, KEEP_GENERATIONS, KEEP_RUNS
from reconciler.kinds import AppliedField
from reconciler.model import ABSENT, Condition, Key, Result, Secret, Status
from reconciler.values import rfc3339
from tests.reconciler.journal.conftest import action

KEY = Key("gateway-config", "gateway")


def begin(journal: Journal, run: str, at: float = 1.0) -> None:
    journal.begin_run(run, cause="apply", plan_digest="p", document_digest="d", at=at, first_intent=action())


def generation(journal: Journal, result: Result, digest: str = "d", at: float = 1.0) -> int:
    return journal.record_generation(digest=digest, at=at, cause="apply", result=result)


# Runs and intents


@pytest.mark.req("PLAN-5")
def test_an_intent_is_open_until_its_result_is_recorded(journal: Journal) -> None:
    begin(journal, "r1", at=10.0)
    (open_run,) = journal.open_runs()
    assert (open_run.run.id, open_run.run.state, open_run.run.begun_at) == ("r1", Result.APPLYING, 10.0)
    assert [intent.action for intent in open_run.intents] == [action()]

    journal.done("r1", action().id, "done", 11.0)
    (open_run,) = journal.open_runs()
    assert open_run.intents == ()
    (intent,) = journal.actions_of("r1")
    assert (intent.result, intent.at, intent.ended_at, intent.error) == ("done", 10.0, 11.0, None)


@pytest.mark.req("PLAN-5")
def test_a_result_and_what_became_ours_are_one_record(journal: Journal) -> None:
    begin(journal, "r1")
    journal.set_applied(KEY, {"old": AppliedField(1), "kept": AppliedField(2)})
    field = AppliedField(Secret("abc"), former=("a", {"b": None}), defaulted=True)
    journal.done("r1", action().id, "done", 2.0, applied={"token": field}, forgotten=["old"])
    assert journal.applied() == {KEY: {"kept": AppliedField(2), "token": field}}


def test_a_result_without_an_intent_is_refused_and_records_nothing(journal: Journal) -> None:
    begin(journal, "r1")
    with pytest.raises(KeyError):
        journal.done("r1", "another", "done", 2.0, applied={"x": AppliedField(1)})
    assert journal.applied() == {}


def test_a_second_try_opens_the_intent_anew(journal: Journal) -> None:
    begin(journal, "r1")
    journal.done("r1", action().id, "failed", 2.0, error="cannot write: no space")
    journal.intend("r1", action(), 3.0)
    (intent,) = journal.open_runs()[0].intents
    assert (intent.at, intent.result, intent.error) == (3.0, None, None)


def test_a_run_ends_in_a_state_that_is_not_open(journal: Journal) -> None:
    begin(journal, "r1")
    journal.set_run(
        "r1", Result.VERIFYING, 5.0, verify_since=5.0, verify_window=15.0, verify_boot="b", target_generation=3
    )
    (open_run,) = journal.open_runs()
    assert (open_run.run.verify_since, open_run.run.verify_window, open_run.run.verify_boot) == (5.0, 15.0, "b")
    journal.set_run("r1", Result.ROLLING_BACK, 6.0, reason="port closed")
    assert journal.open_runs()[0].run.target_generation == 3
    journal.end_run("r1", Result.ROLLED_BACK, 7.0, generation=4)
    assert journal.open_runs() == ()
    run = journal.run("r1")
    assert run is not None
    assert (run.state, run.reason, run.ended_at, run.generation) == (Result.ROLLED_BACK, "port closed", 7.0, 4)


def test_runs_are_listed_newest_first(journal: Journal) -> None:
    for name in ("r1", "r2", "r3"):
        begin(journal, name)
    assert [run.id for run in journal.runs(2)] == ["r3", "r2"]
    assert journal.run("none") is None


# Generations


@pytest.mark.req("PLAN-8")
def test_a_generation_says_who_when_why_and_which_commit(journal: Journal) -> None:
    number = journal.record_generation(
        digest="d1",
        at=1_700_000_000.5,
        cause="commit",
        author="ops@example.org",
        commit="abc123",
        result=Result.VERIFYING,
        texts={"openclaw.yaml": "version: 1\n"},
        canonical={"version": 1, "a": {"z": 1, "b": [1]}},
        secrets={"env:TOKEN": "digest"},
    )
    journal.set_generation_result(number, Result.CONFIRMED, "held for 15 s")
    found = journal.generation(number)
    assert found is not None
    assert (found.at, found.author, found.commit, found.cause) == (
        "2023-11-14T22:13:20.500Z",
        "ops@example.org",
        "abc123",
        "commit",
    )
    assert (found.result, found.reason) == (Result.CONFIRMED, "held for 15 s")
    assert found.texts == {"openclaw.yaml": "version: 1\n"}
    assert list(found.canonical["a"]) == ["z", "b"]
    assert found.secrets == {"env:TOKEN": "digest"}


@pytest.mark.req("PLAN-8")
def test_the_last_confirmed_generation_is_not_the_last_one(journal: Journal) -> None:
    good, bad = generation(journal, Result.CONFIRMED), generation(journal, Result.ROLLED_BACK)
    last, confirmed = journal.last_generation(), journal.last_confirmed()
    assert last is not None
    assert confirmed is not None
    assert (confirmed.number, last.number) == (good, bad)


@pytest.mark.req("PLAN-8")
def test_old_generations_and_runs_are_pruned_but_never_the_last_confirmed_or_an_open_run(journal: Journal) -> None:
    confirmed = generation(journal, Result.CONFIRMED)
    begin(journal, "still-open")
    with journal.transaction():
        for number in range(KEEP_RUNS + 20):
            begin(journal, f"r{number}")
            journal.end_run(f"r{number}", Result.FAILED, 2.0)
        for _ in range(KEEP_GENERATIONS + 20):
            generation(journal, Result.FAILED)
    numbers = [item.number for item in journal.generations()]
    assert numbers == [*range(KEEP_GENERATIONS + 21, 21, -1), confirmed]
    assert len(journal.runs()) == KEEP_RUNS + 1
    assert journal.run("r0") is None
    assert journal.actions_of("r0") == ()
    assert [item.run.id for item in journal.open_runs()] == ["still-open"]
    assert len(journal.actions_of("still-open")) == 1


def test_numbers_go_on_after_pruning(journal: Journal) -> None:
    assert [generation(journal, Result.CONFIRMED) for _ in range(3)] == [1, 2, 3]


def test_a_writer_keeps_few_pages_in_memory(journal: Journal) -> None:
    # Below zero it is a size in KiB, above a number of pages (sqlite.org/pragma.html#pragma_cache_size).
    assert journal._store.rows("PRAGMA cache_size") == [(-store.CACHE_KIB,)]
    assert store.CACHE_KIB <= 512


# Conditions


def condition(status: Status, reason: str, message: str = "") -> Condition:
    return Condition(type="Ready", status=status, reason=reason, message=message)


@pytest.mark.req("PLAN-12")
def test_since_moves_only_with_status_or_reason(journal: Journal) -> None:
    def since(item: Condition, at: float) -> str:
        (stored,) = journal.set_conditions(KEY, [item], at)
        assert journal.conditions() == {KEY: (stored,)}
        return stored.since

    assert since(condition(Status.TRUE, "Ready"), 1.0) == rfc3339(1.0)
    assert since(condition(Status.TRUE, "Ready", "another text"), 2.0) == rfc3339(1.0)
    assert since(condition(Status.TRUE, "Slow"), 3.0) == rfc3339(3.0)
    assert since(condition(Status.FALSE, "Slow"), 4.0) == rfc3339(4.0)


def test_conditions_that_are_not_set_again_are_gone_and_keep_their_order(journal: Journal) -> None:
    synced = Condition(type="Synced", status=Status.TRUE, reason="Applied", message="", observed_generation=7)
    journal.set_conditions(KEY, [synced, condition(Status.TRUE, "Ready")], 1.0)
    assert [item.type for item in journal.conditions()[KEY]] == ["Synced", "Ready"]
    journal.set_conditions(KEY, [synced], 2.0)
    (left,) = journal.conditions()[KEY]
    assert (left.type, left.since, left.observed_generation) == ("Synced", rfc3339(1.0), 7)
    journal.set_conditions(KEY, [], 3.0)
    assert journal.conditions() == {}


# Quarantine, plans, events


@pytest.mark.req("PLAN-15")
def test_a_quarantined_digest_stays_until_it_is_released(journal: Journal) -> None:
    journal.quarantine("bad", "the port stayed closed", "r1", 1.0)
    row = Quarantined(digest="bad", reason="the port stayed closed", run_id="r1", at=1.0)
    assert journal.quarantined("bad") == row
    assert journal.quarantined("good") is None
    assert journal.quarantines() == (row,)
    journal.quarantine("document:bad", "superseded by an operator", "", 2.0)
    assert [held.digest for held in journal.superseded()] == ["document:bad"]
    newest = journal.quarantined("bad", "document:bad")
    assert newest is not None
    assert newest.reason == "superseded by an operator"
    assert journal.release("document:bad")
    assert journal.release("bad")
    assert not journal.release("bad")
    assert journal.quarantined("bad") is None


@pytest.mark.req("PLAN-2")
def test_of_two_users_of_one_plan_exactly_one_goes_on(journal: Journal) -> None:
    assert not journal.plan_used("p")
    assert [journal.mark_plan_used("p", 1.0), journal.mark_plan_used("p", 2.0)] == [True, False]
    assert journal.plan_used("p")


def test_events_are_found_by_key_newest_first_and_bounded(journal: Journal) -> None:
    journal.record_event(1.0, None, "journal_lost", "begun anew", data={"n": [1]})
    with journal.transaction():
        for number in range(KEEP_EVENTS + 5):
            journal.record_event(float(number), KEY if number % 2 else None, "restart", f"event {number}", run_id="r")
    assert len(journal.events()) == KEEP_EVENTS
    assert journal.events(limit=1)[0].text == f"event {KEEP_EVENTS + 4}"
    newest = journal.events(KEY, limit=2)
    assert [event.text for event in newest] == [f"event {KEEP_EVENTS + 3}", f"event {KEEP_EVENTS + 1}"]
    assert {event.key for event in newest} == {KEY}


def test_forgetting_a_key_leaves_its_events_as_evidence(journal: Journal) -> None:
    journal.set_applied(KEY, {"a": AppliedField(1)})
    journal.set_conditions(KEY, [condition(Status.TRUE, "Ready")], 1.0)
    journal.record_event(1.0, KEY, "withdrawn", "no longer declared")
    journal.forget(KEY)
    assert (journal.applied(), journal.conditions()) == ({}, {})
    assert [event.what for event in journal.events(KEY)] == ["withdrawn"]


# The journal itself


def test_salt_and_document_stay(path: Path) -> None:
    with Journal.open_writer(path, now=0.0) as journal:
        salt = journal.salt
        assert len(salt) == 32
        assert journal.document is None
        journal.set_document("/etc/openclaw.yaml")
    with Journal.open_writer(path, now=1.0) as journal:
        assert (journal.salt, journal.document, journal.history_lost) == (salt, "/etc/openclaw.yaml", None)


def test_lost_history_can_be_declared_and_cleared(journal: Journal) -> None:
    journal.set_history_lost("an older journal was put back")
    assert journal.history_lost == "an older journal was put back"
    journal.set_history_lost(None)
    assert journal.history_lost is None


def test_what_happens_in_a_failed_transaction_did_not_happen(journal: Journal) -> None:
    def fail() -> None:
        with journal.transaction():
            journal.set_document("/half")
            begin(journal, "r1")
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        fail()
    assert (journal.document, journal.open_runs()) == (None, ())
    journal.set_document("/whole")
    assert journal.document == "/whole"


def test_many_rows_are_written_as_one_and_read_back(journal: Journal) -> None:
    rows = {Key("file", f"f{number}"): {"content": AppliedField(number, former=ABSENT)} for number in range(10_000)}
    journal.set_all_applied(rows)
    assert journal.applied() == rows


def test_threads_take_turns(journal: Journal) -> None:
    def write(name: str) -> None:
        for number in range(20):
            journal.record_event(float(number), None, name, "t")

    threads = [threading.Thread(target=write, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.events()) == 80


def test_a_reader_follows_the_writer_and_cannot_write(journal: Journal, path: Path) -> None:
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        begin(journal, "r1")
        assert [item.run.id for item in reader.open_runs()] == ["r1"]
        with journal.transaction():
            begin(journal, "r2")
            assert [run.id for run in reader.runs()] == ["r1"]
        assert [run.id for run in reader.runs()] == ["r2", "r1"]
        with pytest.raises(JournalError, match="readonly"):
            reader.set_document("/x")


def test_a_full_disk_has_an_error_of_its_own_and_leaves_the_journal_usable(journal: Journal) -> None:
    connection = journal._store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(JournalFullError, match="the disk is full"):
        journal.record_event(1.0, KEY, "big", "x" * 100_000)
    connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    journal.record_event(1.0, KEY, "small", "x")
    assert [event.what for event in journal.events()] == ["small"]


@pytest.mark.req("LOG-3")
def test_without_room_for_its_index_in_small_blocks_it_is_read_as_it_lies_and_not_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite would write to pages that have no block then, and the system would end the process."""
    with Journal.open_writer(path, now=0) as journal:
        begin(journal, "r1")
    full = os.statvfs_result((1024, 1024, 8000, 40, 40, 100, 50, 50, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(JournalFullError, match="the disk is full"):
        Journal.open_writer(path, now=1)
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        assert [run.id for run in reader.runs()] == ["r1"]
        assert not Path(f"{path}-shm").exists()
    monkeypatch.undo()
    with Journal.open_writer(path, now=2) as journal:
        begin(journal, "r2")
        # Whoever has it open has its index: then there is nothing to find room for.
        monkeypatch.setattr(os, "statvfs", lambda _path: full)
        other = Journal.open_reader(path)
        assert other is not None
        with other:
            assert [run.id for run in other.runs()] == ["r2", "r1"]


@pytest.mark.req("PLAN-6")
def test_a_journal_that_somebody_holds_too_long_is_locked_and_not_broken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_SECONDS", 0.05)
    with Journal.open_writer(path, now=0) as journal, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LockedError, match="another process has been writing to it") as refused:
            journal.set_document("/x")
        assert refused.value.exit_code == 75
        other.rollback()
        journal.set_document("/x")


def test_what_a_frozen_process_leaves_sqlite_to_say_is_locked_too(journal: Journal) -> None:
    error = sqlite3.OperationalError("locking protocol")
    error.sqlite_errorcode = sqlite3.SQLITE_PROTOCOL
    with pytest.raises(LockedError, match="another process has been writing to it"), journal.transaction():
        raise error
