"""The witness beside the journal: what it says, what it cannot say, and that it never stops anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.journal import PROVISIONAL_SALT, Journal
from reconciler.journal.witness import NAME, Witness, read_witness, write_witness
from reconciler.model import Result

pytestmark = pytest.mark.req("PLAN-5", "PLAN-13")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def begin(journal: Journal, run: str) -> None:
    journal.begin_run(run, cause="apply", plan_digest="", document_digest="", at=1.0)


def record(journal: Journal) -> int:
    return journal.record_generation(digest="d", at=1.0, cause="apply", result=Result.CONFIRMED)


def lose(path: Path) -> None:
    for name in ("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"):
        path.with_name(name).unlink(missing_ok=True)


def test_it_names_the_last_run_and_the_salt(path: Path) -> None:
    with Journal.open_writer(path, now=0) as journal:
        assert read_witness(path) is None
        for run in ("one", "two"):
            begin(journal, run)
        found = read_witness(path)
        assert found is not None
        assert (found.run, found.salt, found.generation) == ("two", journal.salt, 1)
    with Journal.open_writer(path, now=0) as journal:
        assert journal.history_lost is None


SALT = "00" * 32


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "[" * 3000,
        '{"run": "x", "at": 1, "generation": 1, "salt": "00"}',
        f'{{"run": "x", "at": 1e400, "generation": 1, "salt": "{SALT}"}}',
        f'{{"run": "x", "at": "NaN", "generation": 1, "salt": "{SALT}"}}',
    ],
)
def test_one_that_cannot_be_read_says_nothing(path: Path, text: str) -> None:
    path.with_name(NAME).write_text(text)
    assert read_witness(path) is None
    assert not Journal.is_known(path)
    assert Journal.open_reader(path) is None
    with Journal.open_writer(path, now=0) as journal:
        assert journal.history_lost is None


def test_a_lost_journal_is_begun_anew_with_its_salt_and_no_number_twice(path: Path) -> None:
    with Journal.open_writer(path, now=0) as journal:
        begin(journal, "one")
        last, salt = max(record(journal) for _ in range(3)), journal.salt
        begin(journal, "two")
    lose(path)
    assert Journal.is_known(path)
    reader = Journal.open_reader(path)
    assert reader is not None
    assert "the journal is gone: run two of 1970-01-01T00:00:01Z" in (reader.history_lost or "")
    assert reader.salt == salt
    assert reader.generations() == ()
    assert not path.exists()
    for _ in range(2):
        with Journal.open_writer(path, now=0) as journal:
            assert "run two" in (journal.history_lost or "")
            assert journal.salt == salt
    with Journal.open_writer(path, now=0) as journal:
        assert record(journal) > last
        journal.set_history_lost(None)
    with Journal.open_writer(path, now=0) as journal:
        assert journal.history_lost is None
        number = record(journal)
    # Lost once more before another run began: it is still noticed.
    lose(path)
    with Journal.open_writer(path, now=0) as journal:
        assert journal.history_lost == "the journal is gone"
        assert record(journal) > number


def test_where_both_are_gone_what_runs_left_beside_them_tells(path: Path) -> None:
    backups = path.with_name("backups")
    backups.mkdir()
    assert (Journal.open_reader(path), Journal.is_known(path)) == (None, False)
    (backups / "gateway.json.run-1").touch()
    lost = "the journal is gone, and so is last-run.json beside it"
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        # Of its salt nobody knows: what is planned is compared under the one of plans without a journal.
        assert (reader.history_lost, reader.salt) == (lost, PROVISIONAL_SALT)
        assert not reader.is_owner_known
    assert not Journal.is_known(path)
    with Journal.open_writer(path, now=0) as journal:
        assert journal.history_lost == lost
        assert len(journal.salt) == 32


def test_an_older_journal_is_noticed_by_readers_and_writers_until_it_is_dealt_with(path: Path, tmp_path: Path) -> None:
    with Journal.open_writer(path, now=0) as journal:
        begin(journal, "old")
    yesterday = path.read_bytes()
    with Journal.open_writer(path, now=0) as journal:
        begin(journal, "new")
        last = record(journal)
    lose(path)
    path.write_bytes(yesterday)
    reader = Journal.open_reader(path)
    assert reader is not None
    assert "an older journal was put back: it does not know run new" in (reader.history_lost or "")
    with Journal.open_writer(path, now=0) as journal:
        begin(journal, "newer")
    with Journal.open_writer(path, now=0) as journal:
        assert "run new" in (journal.history_lost or "")
        assert record(journal) > last
        journal.set_history_lost(None)
    assert Journal.open_writer(path, now=0).history_lost is None


def test_what_cannot_be_written_stops_no_run(path: Path) -> None:
    with Journal.open_writer(path, now=0) as journal:
        # Neither a file nor its temporary one can be made.
        path.with_name(f".{NAME}.openclaw.tmp").mkdir()
        begin(journal, "one")
        assert [found.run.id for found in journal.open_runs()] == ["one"]
    write_witness(path, Witness("", 0.0, 1, b"\0" * 32))
    assert read_witness(path) is None
