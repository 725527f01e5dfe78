"""The records of the keeper: what a successor in the same boot finds, and what a power cut leaves."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources.service import proc
from resources.service.keeper import protocol
from resources.service.keeper.policy import History
from resources.service.keeper.store import MAX_EXITS, MAX_NOW_BYTES, Record, Store, load_records

pytestmark = pytest.mark.req("SVC-7")

HOLD = {"by": "operator", "who": "ann", "why": "a walk"}
TORN = pytest.mark.parametrize(
    "tear",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(path.read_bytes()[:300] + bytes(path.stat().st_size - 300)),
        lambda path: path.write_bytes(path.read_bytes().replace(b"fourth", b"fifth!")),
        lambda path: path.write_bytes(os.urandom(3000)),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "short", "zeros", "zeros at the end", "mixed", "noise", "lost", "no file"],
)


@pytest.fixture
def flushes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each flush."""
    found: list[int] = []
    monkeypatch.setattr(os, "fsync", found.append)
    return found


def other_boot(monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setattr(proc, "boot_id", lambda: name)


def gateway(**values: Any) -> Record:
    record = Record("gateway", protocol.check_spec({"argv": ["x"]}))
    for name, value in values.items():
        setattr(record, name, value)
    return record


def saved_and_shown(directory: Path) -> tuple[Store, Record]:
    """A record that was stopped by ann at its third start, flushed, and is at its fourth, not flushed."""
    store = Store(str(directory))
    record = gateway(attempt="third", hold=HOLD, restarts=2, exits=[{"code": 1}])
    store.save(record)
    record.attempt, record.hold, record.restarts = "fourth", None, 3
    record.exits = [*record.exits, {"code": 2}]
    assert not store.show(record)
    return store, record


def loaded(directory: Path) -> Record:
    """What the next keeper reads, which is what everybody reads."""
    (record,), problems = Store(str(directory)).load()
    assert problems == []
    assert [found.to_json() for found in load_records(str(directory))[0]] == [record.to_json()]
    return record


def third(directory: Path) -> bool:
    found = loaded(directory)
    return (found.attempt, found.hold, found.restarts, found.exits) == ("third", HOLD, 2, [{"code": 1}])


def test_a_record_comes_back_whole_and_privately(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "children"))
    record = Record("gateway", protocol.check_spec({"argv": ["x"]}))
    record.history = History(early=(1.5, 2.5), doublings=2, waited=10.0, broken=True)
    record.exits = [{"code": number} for number in range(MAX_EXITS)]
    record.hold = {"by": "operator", "who": "ann", "why": "ü\udc80"}
    store.save(record)
    records, problems = store.load()
    assert problems == []
    assert [found.to_json() for found in records] == [record.to_json()]
    path = tmp_path / "children" / "gateway.json"
    assert path.stat().st_mode & 0o777 == 0o600
    store.show(record)
    assert (tmp_path / "children" / "gateway.now").stat().st_mode & 0o777 == 0o600
    store.remove("gateway")
    store.remove("gateway")
    assert store.load() == ([], [])
    assert list((tmp_path / "children").iterdir()) == []


def test_a_record_of_a_newer_version_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    data = {**Record("gateway", {"argv": ["x"]}).to_json(), "restarts": 3, "mood": "good", "format": 9}
    del data["history"]
    (tmp_path / "gateway.json").write_text(json.dumps(data))
    (record,) = store.load()[0]
    assert (record.restarts, record.history) == (3, History())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "other", "spec": {}}', "\0"])
def test_a_record_that_cannot_be_read_is_set_aside_and_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "gateway.json").write_text(text)
    records, problems = Store(str(tmp_path)).load()
    assert records == []
    assert len(problems) == 1
    assert (tmp_path / "gateway.json.broken").exists()


def test_a_successor_in_the_same_boot_sees_the_last_start_though_nothing_flushed_it(
    tmp_path: Path, flushes: list[int]
) -> None:
    _, record = saved_and_shown(tmp_path)
    # The file and the directory, both of them by `save`.
    assert len(flushes) == 2
    assert loaded(tmp_path).to_json() == record.to_json()
    assert record.attempt == "fourth"


def test_of_many_exits_the_last_are_known_whenever_the_record_was_saved(tmp_path: Path) -> None:
    store, record = saved_and_shown(tmp_path)
    for number in range(3, MAX_EXITS + 10):
        record.exits = [*record.exits[1 - MAX_EXITS :], {"code": number}]
        store.show(record)
        assert loaded(tmp_path).exits == record.exits
        if number % 7 == 0:
            store.save(record)


@TORN
def test_what_was_not_flushed_counts_for_nothing_where_it_is_torn(tmp_path: Path, tear: Callable[[Path], Any]) -> None:
    saved_and_shown(tmp_path)
    tear(tmp_path / "gateway.now")
    assert third(tmp_path)


def test_what_was_not_flushed_in_another_boot_counts_for_nothing_and_a_stop_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_and_shown(tmp_path)
    other_boot(monkeypatch)
    assert third(tmp_path)


def test_what_was_saved_is_believed_in_every_boot_and_what_was_shown_before_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = saved_and_shown(tmp_path)
    record.attempt, record.hold = "fifth", {**HOLD, "who": "bob"}
    store.save(record)
    assert loaded(tmp_path).to_json() == record.to_json()
    other_boot(monkeypatch)
    assert loaded(tmp_path).to_json() == record.to_json()


def test_what_a_program_writes_that_knows_the_first_file_alone_counts_from_then_on(
    tmp_path: Path, flushes: list[int]
) -> None:
    store, record = saved_and_shown(tmp_path)
    # An upgrade by exec saves first, so this is what the other program begins with.
    store.save(record)
    path = tmp_path / "gateway.json"
    assert Record.from_json(json.loads(path.read_text())).to_json() == record.to_json()
    store.show(record)
    older = gateway(attempt="fifth", hold={**HOLD, "who": "bob"})
    path.write_text(json.dumps(older.to_json()))
    assert loaded(tmp_path).to_json() == older.to_json()
    flushes.clear()
    # The first of a new program: there is nothing yet that what is not flushed could stand upon.
    assert Store(str(tmp_path)).show(older)
    assert len(flushes) == 2


def test_a_child_that_another_program_removed_does_not_come_back(tmp_path: Path) -> None:
    saved_and_shown(tmp_path)
    (tmp_path / "gateway.json").unlink()
    assert Store(str(tmp_path)).load() == ([], [])
    Store(str(tmp_path)).save(gateway())
    assert loaded(tmp_path).attempt is None


@pytest.mark.parametrize("why", ["no file", "too much", "no boot"])
def test_what_cannot_be_shown_is_saved(
    tmp_path: Path, flushes: list[int], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "no boot":
        other_boot(monkeypatch, "")
    store, record = Store(str(tmp_path)), gateway()
    store.save(record)
    if why == "no file":
        (tmp_path / "gateway.now").mkdir()
    record.last_refusal = "x" * (MAX_NOW_BYTES if why == "too much" else 1)
    flushes.clear()
    assert store.show(record)
    assert len(flushes) == 2
    assert loaded(tmp_path).last_refusal == record.last_refusal


def test_after_a_save_that_failed_nothing_is_shown_upon_the_record_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = saved_and_shown(tmp_path)

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        for attempt in (store.save, store.show):
            with pytest.raises(OSError, match="Input/output error"):
                attempt(record)
    assert store.show(record)
    assert loaded(tmp_path).to_json() == record.to_json()


@pytest.mark.parametrize("name", ["gateway.json", "gateway.now"])
def test_a_reader_without_descriptors_takes_no_record_for_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    saved_and_shown(tmp_path)
    real = open

    def none_left(path: str, mode: str) -> Any:
        if path.endswith(name):
            raise OSError(errno.EMFILE, "Too many open files")
        return real(path, mode)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", none_left)
        with pytest.raises(OSError, match="Too many open files"):
            Store(str(tmp_path)).load()
    assert loaded(tmp_path).attempt == "fourth"
