"""A journal that is missing, damaged, foreign, newer or not ours to read."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from reconciler.errors import NotPermittedError
from reconciler.journal import Journal, JournalError, JournalNewerError
from reconciler.journal.schema import SCHEMA_VERSION
from reconciler.kinds import AppliedField
from reconciler.model import Key, Result
from tests.beds.users import NOBODY, directory_of_nobody, nobody

KEY = Key("file", "a")


def fill(path: Path, rows: int = 200) -> bytes:
    """A journal with `rows` fields, closed, so that everything is in its file; its salt."""
    with Journal.open_writer(path, now=0.0) as journal:
        journal.set_all_applied(
            {Key("file", f"f{number}"): {"text": AppliedField("x" * 100)} for number in range(rows)}
        )
        journal.record_generation(digest="d", at=1.0, cause="apply", result=Result.CONFIRMED)
        return journal.salt


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def damage_leaf_pages(path: Path) -> None:
    """Overwrites the second half of the file; the first pages, with the salt, stay."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size - size // 2))


def test_it_is_created_for_its_owner_only(path: Path) -> None:
    before = os.umask(0)
    try:
        with Journal.open_writer(path, now=0.0) as journal:
            journal.set_document("/d")
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in path.parent.iterdir()}
            directories = [directory.stat().st_mode & 0o777 for directory in (path.parent, path.parent.parent)]
    finally:
        os.umask(before)
    assert modes == {"journal.sqlite": 0o600, "journal.sqlite-wal": 0o600, "journal.sqlite-shm": 0o600}
    assert directories == [0o700, 0o700]


def test_a_reader_of_nothing_gets_none_and_makes_nothing(path: Path) -> None:
    assert Journal.open_reader(path) is None
    assert not path.parent.exists()


def test_a_reader_leaves_the_file_alone(path: Path) -> None:
    fill(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    reader = Journal.open_reader(path)
    assert reader is not None
    assert reader.last_confirmed() is not None
    reader.close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert set(names(path)) <= {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"}


def test_opening_for_writing_changes_nothing_by_itself(path: Path) -> None:
    fill(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    Journal.open_writer(path, now=1.0).close()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("how", ["leaf pages", "header", "truncated", "empty", "text"])
def test_a_damaged_journal_is_moved_aside_and_a_new_one_begun(path: Path, how: str) -> None:
    fill(path)
    match how:
        case "leaf pages":
            damage_leaf_pages(path)
        case "header":
            with path.open("r+b") as file:
                file.write(b"\0" * 100)
        case "truncated":
            os.truncate(path, path.stat().st_size // 2 + 100)
        case "empty":
            os.truncate(path, 0)
        case "text":
            path.write_text("version: 1\n")
    damaged = path.read_bytes()

    with Journal.open_writer(path, now=1_700_000_000.0) as journal:
        assert journal.history_lost is not None
        assert "kept as journal.sqlite.corrupt-20231114T221320Z" in journal.history_lost
        assert (journal.applied(), journal.generations()) == ({}, ())
        journal.set_applied(KEY, {"a": AppliedField(1)})
    aside = path.with_name("journal.sqlite.corrupt-20231114T221320Z")
    assert aside.read_bytes() == damaged
    with Journal.open_writer(path, now=1_700_000_001.0) as journal:
        assert journal.applied() == {KEY: {"a": AppliedField(1)}}
        assert journal.history_lost is not None


def test_the_salt_of_a_damaged_journal_is_kept_where_it_can_be_read(path: Path) -> None:
    salt = fill(path)
    damage_leaf_pages(path)
    with Journal.open_writer(path, now=0.0) as journal:
        assert journal.salt == salt


def test_two_damaged_journals_of_one_second_are_both_kept(path: Path) -> None:
    for text in ("one", "two"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        Journal.open_writer(path, now=0.0).close()
    assert path.with_name("journal.sqlite.corrupt-19700101T000000Z").read_text() == "one"
    assert path.with_name("journal.sqlite.corrupt-19700101T000000Z-2").read_text() == "two"


@pytest.mark.parametrize("how", ["text", "empty", "leaf pages"])
def test_a_reader_of_a_damaged_journal_sees_an_empty_one_and_moves_nothing(path: Path, how: str) -> None:
    fill(path)
    match how:
        case "text":
            path.write_text("no database at all, but long enough to be read as the header of one" * 20)
        case "empty":
            os.truncate(path, 0)
        case "leaf pages":
            damage_leaf_pages(path)
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        assert (reader.applied(), reader.open_runs(), reader.last_confirmed()) == ({}, (), None)
        assert reader.history_lost is not None
        assert len(reader.salt) == 32
        with pytest.raises(JournalError, match="readonly"):
            reader.set_document("/x")
    assert set(names(path)) <= {"journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm"}


def test_damage_is_seen_whatever_is_asked_for(path: Path) -> None:
    fill(path)
    size = path.stat().st_size
    whole = path.read_bytes()
    for start in range(4096, size, 4096):
        path.write_bytes(whole[:start] + b"\xa5" * 4096 + whole[start + 4096 :])
        reader = Journal.open_reader(path)
        assert reader is not None
        with reader:
            assert (reader.history_lost or "").startswith("the journal is damaged: "), start
            assert reader.generations() == ()


def test_a_newer_journal_is_read_and_not_written(path: Path) -> None:
    fill(path, rows=1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        connection.execute("ALTER TABLE runs ADD COLUMN later TEXT")
        connection.commit()
    before = path.read_bytes()
    with pytest.raises(JournalNewerError, match="a newer version wrote it") as caught:
        Journal.open_writer(path, now=0.0)
    assert caught.value.exit_code == 1
    assert path.read_bytes() == before
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        assert reader.last_confirmed() is not None
        assert reader.runs() == ()
    assert [name for name in names(path) if "corrupt" in name] == []


def test_a_leftover_log_of_a_removed_journal_is_not_replayed_into_a_new_one(path: Path) -> None:
    with Journal.open_writer(path, now=0.0) as journal:
        journal.set_document("/old")
        log = path.with_name("journal.sqlite-wal").read_bytes()
    path.unlink()
    path.with_name("journal.sqlite-wal").write_bytes(log)
    with Journal.open_writer(path, now=1.0) as journal:
        assert journal.document is None
        assert journal.history_lost is None


def test_a_file_that_may_not_be_opened_is_an_error_and_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.mkdir()
    with pytest.raises(JournalError, match="cannot use the journal"):
        Journal.open_writer(path, now=0.0)
    with pytest.raises(JournalError, match="cannot use the journal"):
        Journal.open_reader(path)
    assert path.is_dir()


def test_a_path_with_marks_of_an_address_is_only_a_path(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#b %20" / "journal.sqlite"
    with Journal.open_writer(path, now=0.0) as journal:
        journal.set_document("/d")
    assert path.exists()
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        assert reader.document == "/d"


@pytest.mark.parametrize("look", [Journal.is_there, Journal.open_reader, partial(Journal.open_writer, now=0.0)])
def test_where_the_system_forbids_to_look_a_person_is_told_that_it_may_not(
    path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[Path], object]
) -> None:
    def forbidden(_path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", forbidden)
    with pytest.raises(NotPermittedError, match=r"cannot use the journal .*: permission denied") as caught:
        look(path)
    assert caught.value.exit_code == 77


@pytest.fixture
def strange() -> Iterator[Path]:
    with directory_of_nobody() as made:
        yield made


def unfolded(directory: Path) -> Path:
    """The journal of a writer that was killed, with the files beside it."""
    source = directory / "source" / "journal.sqlite"
    left = directory / "left"
    with Journal.open_writer(source, now=0.0) as journal:
        journal.set_document("/d")
        shutil.copytree(source.parent, left)
    for each in (left, *left.iterdir()):
        os.chown(each, NOBODY if os.geteuid() == 0 else -1, -1)
    return left / "journal.sqlite"


def use(path: Path) -> None:
    with Journal.open_writer(path, now=1.0) as journal:
        journal.set_document("/e")


@pytest.mark.req("PLAN-6")
@pytest.mark.parametrize(("look", "mode"), [(Journal.open_reader, 0), (use, 0), (use, 0o400), (use, 0o200)])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_a_file_of_it_whose_mode_is_in_the_way_is_named_with_what_to_do(
    strange: Path, look: Callable[[Path], object], mode: int, suffix: str
) -> None:
    path = unfolded(strange)
    culprit = path.with_name(path.name + suffix)
    culprit.chmod(mode)
    with nobody(), pytest.raises(NotPermittedError) as caught:
        look(path)
    assert (caught.value.message, caught.value.exit_code) == (f'cannot use the journal "{path}": permission denied', 77)
    assert caught.value.hint == f'it is yours, and its mode is in the way: chmod u+rwX "{culprit}"'


@pytest.mark.req("PLAN-6")
@pytest.mark.skipif(os.geteuid() != 0, reason="files of other users are made by root")
def test_a_file_of_it_that_is_anothers_is_named_with_its_owner(strange: Path) -> None:
    path = unfolded(strange)
    os.chown(path, 0, 0)
    with nobody(), pytest.raises(NotPermittedError) as caught:
        Journal.open_reader(path)
    assert caught.value.hint == f'run as root, who owns "{path}"'


LACKING = """
import os, resource, sys
from pathlib import Path
from reconciler.errors import lacking
from reconciler.journal import Journal
path = Path(sys.argv[1])
Journal.open_writer(path, now=1.0).close()
next_one = os.open("/", os.O_RDONLY)
os.close(next_one)
for more in range(4):
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        Journal.open_reader(path).generations()
        print("read")
    except Exception as err:
        print(lacking(err).strerror)
"""


@pytest.mark.real
@pytest.mark.req("PLAN-5", "PLAN-13")
def test_whoever_has_no_descriptor_for_the_journal_says_that(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LACKING, tmp_path / "journal.sqlite"], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said[0] == os.strerror(errno.EMFILE)
    assert set(said) <= {os.strerror(errno.EMFILE), "read"}
