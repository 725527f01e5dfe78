"""The journal: what was accepted, what was begun, what was done, and what is known of each resource.

Synchronous: an async caller goes through `trio.to_thread.run_sync`; any thread may call any method. Every writing method is
one commit and so one flush, and what happens inside `transaction()` is one together. It knows of no document and no kind,
asks no clock, and holds no secret: texts of documents hold references, values are stored with `Secret` as a salted digest.

A reader has the same class; its writing methods raise.
"""

# ruff: noqa: S608 - what is put into statements are constants of this file, values always travel as parameters

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from reconciler.journal import store as stores
from reconciler.journal.rows import OPEN_STATES, UNDECIDED, Event, Intent, OpenRun, Quarantined, Run
from reconciler.journal.store import Store
from reconciler.journal.witness import NAME, Witness, read_witness, write_witness
from reconciler.kinds import AppliedField
from reconciler.model import Action, Condition, Generation, Key, Result, Status
from reconciler.serial import action_from_json, action_to_json
from reconciler.values import decode, encode, rfc3339

# The salt of plans that are made before there is a journal with one of its own: the same world, the same plan.
PROVISIONAL_SALT: Final = b"no journal yet"
# The directory beside it in which runs keep what they overwrite (`reconciler.host`).
BACKUPS: Final = "backups"
_ALL_GONE: Final = f"the journal is gone, and so is {NAME} beside it"
KEEP_GENERATIONS: Final = 100
# Runs that changed nothing have no generation: a crash loop of a week at the slowest rate is about this many.
KEEP_RUNS: Final = 500
KEEP_EVENTS: Final = 10_000
KEEP_USED_PLANS: Final = 10_000
# Of one field; damping counts to a handful.

T = TypeVar("T")

_GENERATION = "number, digest, at, cause, author, commit_id, result, reason, texts, canonical, secrets"
_RUN = (
    "id, cause, author, commit_id, plan_digest, document_digest, state, reason, begun_at, changed_at, ended_at,"
    " verify_since, verify_window, verify_boot, target_generation, generation"
)
_INTENT = "run_id, action, intended_at, result, ended_at, error"


def _of_the_lost(path: Path, witness: Witness | None, *, salt: bytes | None = None) -> dict[str, Any]:
    """What a journal that is gone is made anew with, or read as; with `salt` where nobody knows its own."""
    if witness is None:
        return {"lost": _ALL_GONE, "salt": salt} if _was_used(path) else {}
    last = f": run {witness.run} of {witness.when} was recorded in it" if witness.run else ""
    return {"lost": f"the journal is gone{last}", "salt": witness.salt}


def _was_used(path: Path) -> bool:
    """Whether beside the place of the journal lies what only a run leaves behind, which has a journal before it does anything."""
    with suppress(OSError), os.scandir(path.with_name(BACKUPS)) as entries:
        return next(entries, None) is not None
    return False


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _put_back(witness: Witness) -> str:
    return f"an older journal was put back: it does not know run {witness.run} of {witness.when}"


class Journal:
    """One journal, for writing or for reading. Close it when done; it is a context manager."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._path = path
        self._file = _file_at(path)
        self._log: tuple[int, int] | None = None
        self._put_back: str | None = None

    @staticmethod
    def is_known(path: Path) -> bool:
        """Whether there is a journal at `path`, or one that was lost and whose salt is known.

        Raises: as `is_there`.
        """
        return stores.is_there(path) or read_witness(path) is not None

    @staticmethod
    def is_there(path: Path) -> bool:
        """Whether there is a journal at `path`.

        Raises:
            NotPermittedError: the system does not let us look.
        """
        return stores.is_there(path)

    @classmethod
    def open_writer(cls, path: Path, *, now: float) -> Journal:
        """The journal at `path` for the holder of the writer lock; created where there is none.

        A damaged one is moved aside as `<name>.corrupt-<utc>` and a new one begun, with `history_lost` set; it is set as
        well where the journal is gone, or an older one was put back. `now` is the wall clock in seconds since the epoch.

        Raises:
            JournalNewerError: a newer version wrote it; `open_reader` still works.
            JournalFullError: the disk is full.
            JournalError: it cannot be opened.
        """
        witness = read_witness(path)
        journal = cls(stores.open_writer(path, now=now, **_of_the_lost(path, witness)), path)
        if witness is not None and (journal.history_lost is not None or not journal._knows(witness)):
            lost, floor = journal.history_lost, journal._generation_floor()
            if lost is None or floor < witness.generation:
                with journal.transaction():
                    journal.set_history_lost(lost or _put_back(witness))
                    journal._set_meta("generation_floor", str(witness.generation))
        return journal

    @classmethod
    def open_reader(cls, path: Path) -> Journal | None:
        """The journal at `path` for reading, or None where there is none. Creates at most SQLite's `-wal` and `-shm`.

        A damaged one, and one that is gone, reads as empty with `history_lost` set.

        Raises:
            JournalError: it is there and cannot be opened.
        """
        witness = read_witness(path)
        store = stores.open_reader(path, **_of_the_lost(path, witness, salt=PROVISIONAL_SALT))
        if store is None:
            return None
        journal = cls(store, path)
        if witness is not None and not journal._knows(witness):
            journal._put_back = _put_back(witness)
        return journal

    @property
    def in_place(self) -> bool:
        """Whether file and write-ahead log are still those at their paths, and not removed or replaced since they were opened."""
        return self._has_file and self._has_log

    @property
    def _has_file(self) -> bool:
        return self._file == _file_at(self._path)

    @property
    def _has_log(self) -> bool:
        # SQLite makes it with the first write, and removes it with its last connection only: not while this one is open.
        found = _file_at(self._path.with_name(f"{self._path.name}-wal"))
        self._log = self._log or found
        return self._log == found

    def save(self) -> bool:
        """Puts what only a deleted or exchanged log holds into the file, and closes it. False where the file itself is gone.

        As long as it is open every other process fails on it: what the log was to hold they look for in another one.
        """
        if not self._has_file:
            return False
        self._store.fold()
        self._store.close()
        return True

    def close(self) -> None:
        """Closes it; any later call fails."""
        self._store.close()

    def fold(self) -> None:
        """Makes the room that its log takes on the disk usable again, as far as that is possible: for a disk that is full."""
        self._store.fold()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Makes all writes of this thread inside it one commit; none is kept when the block raises.

        Other threads wait, so nothing slow belongs inside.
        """
        with self._store.transaction():
            yield

    # What is known of the journal itself

    @property
    def salt(self) -> bytes:
        """32 random bytes, made with the journal: the salt of every digest of a secret that is stored."""
        value = self._meta("salt")
        assert isinstance(value, bytes)
        return value

    @property
    def document(self) -> str | None:
        """The absolute path of the one document that this state belongs to; None until `set_document`."""
        value = self._meta("document")
        return None if value is None else str(value)

    def set_document(self, path: str) -> None:
        """Binds this state to a document. Whether another one may take over is the caller's decision."""
        if self.document != path:
            self._set_meta("document", path)

    @property
    def history_lost(self) -> str | None:
        """Why earlier history is missing, or None: as long as it is set, nothing may be withdrawn or deleted."""
        value = self._meta("history_lost")
        return self._put_back if value is None else str(value)

    def set_history_lost(self, reason: str | None) -> None:
        """Sets or (None) clears `history_lost`: when an older journal was put back, and after a run that dealt with the loss."""
        if reason is not None:
            self._set_meta("history_lost", reason)
        elif self.history_lost is not None:
            with self._store.transaction() as write:
                write.execute("DELETE FROM meta WHERE name = 'history_lost'")
            newest = _first(self.runs(1))
            self._bear_witness(*((newest.id, newest.begun_at) if newest is not None else ("", 0.0)))

    @property
    def is_owner_known(self) -> bool:
        """Whether what is on the host is known to be ours; not where all that is left of a lost history are backups."""
        return self.history_lost != _ALL_GONE

    def given(self, number: int) -> Mapping[str, str]:
        """The digests of the secrets with which a generation was led to once more, where they are not those that it was recorded
        with: a reference gives another value after a rotation.
        """
        kept = json.loads(self._meta("given") or "{}")
        return kept.get("secrets", {}) if kept.get("generation") == number else {}

    def set_given(self, number: int, secrets: Mapping[str, str]) -> None:
        """Says with which digests the generation in force was led to; of any other one nothing is kept."""
        if dict(self.given(number)) != dict(secrets):
            self._set_meta("given", _dump({"generation": number, "secrets": dict(secrets)}))

    def _knows(self, witness: Witness) -> bool:
        """Whether the run of the witness is in here."""
        return not witness.run or bool(self._store.rows("SELECT 1 FROM runs WHERE id = ?", (witness.run,)))

    def _bear_witness(self, run: str, at: float) -> None:
        newest = self._store.rows("SELECT max(number) FROM generations", ())[0][0] or 0
        # The run may lead to one more.
        write_witness(self._path, Witness(run, at, max(self._generation_floor(), newest) + 1, self.salt))

    def _generation_floor(self) -> int:
        return int(self._meta("generation_floor") or 0)

    def _meta(self, name: str) -> bytes | str | None:
        found = self._store.rows("SELECT value FROM meta WHERE name = ?", (name,))
        return found[0][0] if found else None

    def _set_meta(self, name: str, value: str) -> None:
        with self._store.transaction() as write:
            write.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    # Generations

    def generations(self, limit: int | None = None) -> tuple[Generation, ...]:
        """The kept generations, newest first, at most `limit`."""
        return self._generations("ORDER BY number DESC LIMIT ?", -1 if limit is None else limit)

    def generation(self, number: int) -> Generation | None:
        """The generation with this number, None when there is none or it was pruned."""
        return _first(self._generations("WHERE number = ?", number))

    def last_generation(self) -> Generation | None:
        """The newest generation, whatever became of it."""
        return _first(self.generations(1))

    def last_confirmed(self) -> Generation | None:
        """The newest generation whose verify window ended well: what a rollback goes back to."""
        return _first(self._generations("WHERE result = ? ORDER BY number DESC LIMIT 1", Result.CONFIRMED.value))

    def in_force(self) -> Generation | None:
        """The generation that the host is kept at by whoever watches; None where none was ever confirmed."""
        newest = self.last_generation()
        if newest is None or newest.result is Result.CONFIRMED:
            return newest
        # One that is to be watched, or still tried, took the place of the one before it, unless it is held back already.
        if newest.result in UNDECIDED and self.quarantined(newest.digest) is None:
            return newest
        return self.last_confirmed()

    def record_generation(
        self,
        *,
        digest: str,
        at: float,
        cause: str,
        result: Result,
        reason: str = "",
        author: str | None = None,
        commit: str | None = None,
        texts: Mapping[str, str] | None = None,
        canonical: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> int:
        """Records an accepted desired state and returns its number; prunes what is old, with the runs that led there.

        `secrets` maps names to salted digests, never to values.
        """
        with self._store.transaction() as write:
            number = write.execute(
                "INSERT INTO generations"
                f" SELECT max(coalesce(max(number), 0), ?) + 1, {', '.join('?' * 10)} FROM generations RETURNING number",
                (
                    self._generation_floor(),
                    digest,
                    at,
                    cause,
                    author,
                    commit,
                    result.value,
                    reason,
                    _dump(texts or {}),
                    _dump(canonical or {}),
                    _dump(secrets or {}),
                ),
            ).fetchone()[0]
            self.set_going_back(0)
            self._prune()
        return int(number)

    def set_generation_result(self, number: int, result: Result, reason: str = "") -> None:
        """Says what became of a generation."""
        with self._store.transaction() as write:
            write.execute(
                "UPDATE generations SET result = ?, reason = ? WHERE number = ?", (result.value, reason, number)
            )

    def attribute(self, number: int, author: str | None, commit: str) -> None:
        """Says by whom and by which commit a generation came that was recorded on nobody's word; any other stays as it is."""
        with self._store.transaction() as write:
            write.execute(
                "UPDATE generations SET author = ?, commit_id = ? WHERE number = ? AND author IS NULL AND commit_id IS NULL",
                (author, commit, number),
            )

    def _generations(self, rest: str, *values: object) -> tuple[Generation, ...]:
        return tuple(
            _generation(row) for row in self._store.rows(f"SELECT {_GENERATION} FROM generations {rest}", values)
        )

    def _prune(self) -> None:
        """Keeps the newest generations and the last confirmed one, and of the runs what is open, kept or new."""
        with self._store.transaction() as write:
            write.execute(
                "DELETE FROM generations WHERE number <= (SELECT max(number) FROM generations) - ?"
                " AND number IS NOT (SELECT max(number) FROM generations WHERE result = ?)",
                (KEEP_GENERATIONS, Result.CONFIRMED.value),
            )
            write.execute(
                "DELETE FROM runs WHERE ended_at IS NOT NULL AND number <= (SELECT max(number) FROM runs) - ?"
                " AND (generation IS NULL OR generation NOT IN (SELECT number FROM generations))",
                (KEEP_RUNS,),
            )
            write.execute("DELETE FROM actions WHERE run_id NOT IN (SELECT id FROM runs)")

    # Runs and their intents

    def begin_run(
        self,
        run_id: str,
        *,
        cause: str,
        plan_digest: str,
        document_digest: str,
        at: float,
        author: str | None = None,
        commit: str | None = None,
        first_intent: Action | None = None,
        target_generation: int | None = None,
    ) -> None:
        """Records that a run begins, in state APPLYING, and with it the intent of its first action: one flush for both."""
        with self._store.transaction() as write:
            write.execute(
                "INSERT INTO runs (id, cause, author, commit_id, plan_digest, document_digest, state, reason,"
                " begun_at, changed_at, target_generation) VALUES (?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?)",
                (
                    run_id,
                    cause,
                    author,
                    commit,
                    plan_digest,
                    document_digest,
                    Result.APPLYING.value,
                    at,
                    at,
                    target_generation,
                ),
            )
            if first_intent is not None:
                self.intend(run_id, first_intent, at)
        self._bear_witness(run_id, at)

    def intend(self, run_id: str, action: Action, at: float) -> None:
        """Puts the intent of an action on disk; its effect may begin when this returns. A second try opens it anew."""
        with self._store.transaction() as write:
            write.execute(
                "INSERT OR REPLACE INTO actions (run_id, action_id, action, intended_at) VALUES (?, ?, ?, ?)",
                (run_id, action.id, _dump(action_to_json(action)), at),
            )

    def done(
        self,
        run_id: str,
        action_id: str,
        result: str,
        at: float,
        *,
        error: str | None = None,
        note: str | None = None,
        key: Key | None = None,
        applied: Mapping[str, AppliedField] | None = None,
        forgotten: Iterable[str] = (),
    ) -> None:
        """Records how an action ended and, in the same commit, which fields of `key` are ours now and which no longer.

        `key` may be left out: then it is that of the intent. `error` is of one that failed, `note` of one that is done.
        """
        with self._store.transaction() as write:
            row = write.execute(
                "UPDATE actions SET result = ?, ended_at = ?, error = ? WHERE run_id = ? AND action_id = ? RETURNING action",
                (result, at, error or note, run_id, action_id),
            ).fetchone()
            if row is None:
                raise KeyError(f"no intent of {action_id!r} in run {run_id!r}")
            dropped = tuple(forgotten)
            if applied or dropped:
                owner = key if key is not None else Key.parse(json.loads(row[0])["key"])
                self.set_applied(owner, applied or {}, forgotten=dropped)

    def set_run(
        self,
        run_id: str,
        state: Result,
        at: float,
        *,
        reason: str | None = None,
        verify_since: float | None = None,
        verify_window: float | None = None,
        verify_boot: str | None = None,
        target_generation: int | None = None,
        generation: int | None = None,
    ) -> None:
        """Moves a run to another state; what is None keeps its value. A state that is not open ends the run."""
        ended = None if state in OPEN_STATES else at
        with self._store.transaction() as write:
            write.execute(
                "UPDATE runs SET state = ?, changed_at = ?, ended_at = ?, reason = coalesce(?, reason),"
                " verify_since = coalesce(?, verify_since), verify_window = coalesce(?, verify_window),"
                " verify_boot = coalesce(?, verify_boot), target_generation = coalesce(?, target_generation),"
                " generation = coalesce(?, generation) WHERE id = ?",
                (
                    state.value,
                    at,
                    ended,
                    reason,
                    verify_since,
                    verify_window,
                    verify_boot,
                    target_generation,
                    generation,
                    run_id,
                ),
            )

    def end_run(
        self, run_id: str, result: Result, at: float, *, reason: str | None = None, generation: int | None = None
    ) -> None:
        """Ends a run: `result` is none of the open states."""
        assert result not in OPEN_STATES
        self.set_run(run_id, result, at, reason=reason, generation=generation)

    def open_runs(self) -> tuple[OpenRun, ...]:
        """The runs without an end, oldest first, each with its intents that have no result."""
        rows = self._store.rows(f"SELECT {_RUN} FROM runs WHERE ended_at IS NULL ORDER BY number")
        return tuple(
            OpenRun(run=run, intents=self._intents("WHERE run_id = ? AND result IS NULL", run.id))
            for run in map(_run, rows)
        )

    def runs(self, limit: int | None = None) -> tuple[Run, ...]:
        """The kept runs, newest first, at most `limit`."""
        found = self._store.rows(
            f"SELECT {_RUN} FROM runs ORDER BY number DESC LIMIT ?", (-1 if limit is None else limit,)
        )
        return tuple(map(_run, found))

    def run(self, run_id: str) -> Run | None:
        """The run with this id, None when there is none or it was pruned."""
        return _first(tuple(map(_run, self._store.rows(f"SELECT {_RUN} FROM runs WHERE id = ?", (run_id,)))))

    def actions_of(self, run_id: str) -> tuple[Intent, ...]:
        """All intents of a run in the order in which they were written, with their results."""
        return self._intents("WHERE run_id = ?", run_id)

    def _intents(self, where: str, *values: object) -> tuple[Intent, ...]:
        rows = self._store.rows(f"SELECT {_INTENT} FROM actions {where} ORDER BY number", values)
        return tuple(
            Intent(
                run_id=run_id,
                action=action_from_json(json.loads(action)),
                at=at,
                result=result,
                ended_at=ended_at,
                error=text if result != "done" else None,
                note=text if result == "done" else None,
            )
            for run_id, action, at, result, ended_at, text in rows
        )

    # What we last wrote

    def applied(self) -> dict[Key, dict[str, AppliedField]]:
        """Every field that is ours, by key and path; a new mapping for each call."""
        found: dict[Key, dict[str, AppliedField]] = {}
        kind = name = None
        fields: dict[str, AppliedField] = {}
        rows = self._store.rows(
            "SELECT kind, name, path, value, former, defaulted FROM applied ORDER BY kind, name, path"
        )
        for row in rows:
            if row[0] != kind or row[1] != name:
                kind, name = row[0], row[1]
                fields = found[Key(kind, name)] = {}
            fields[row[2]] = AppliedField(_load(row[3]), _load(row[4]), bool(row[5]))
        return found

    def set_applied(self, key: Key, fields: Mapping[str, AppliedField], *, forgotten: Iterable[str] = ()) -> None:
        """Records fields of `key` as ours; other fields of it stay as they are, `forgotten` ones are ours no longer."""
        self.set_all_applied({key: fields}, forgotten={key: tuple(forgotten)})

    def set_all_applied(
        self,
        fields: Mapping[Key, Mapping[str, AppliedField]],
        *,
        forgotten: Mapping[Key, Iterable[str]] | None = None,
    ) -> None:
        """`set_applied` for many keys in one commit."""
        with self._store.transaction() as write:
            write.executemany(
                "INSERT OR REPLACE INTO applied VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (key.kind, key.name, path, _dump(encode(item.value)), _dump(encode(item.former)), item.defaulted)
                    for key, of_key in fields.items()
                    for path, item in of_key.items()
                ),
            )
            write.executemany(
                "DELETE FROM applied WHERE kind = ? AND name = ? AND path = ?",
                ((key.kind, key.name, path) for key, paths in (forgotten or {}).items() for path in paths),
            )

    def forget(self, key: Key) -> None:
        """Drops all that is known of `key`: fields and conditions. Its events stay as evidence."""
        with self._store.transaction() as write:
            for table in ("applied", "conditions"):
                write.execute(f"DELETE FROM {table} WHERE kind = ? AND name = ?", (key.kind, key.name))

    # Conditions

    def conditions(self) -> dict[Key, tuple[Condition, ...]]:
        """The conditions of every key, in the order in which they were set; `since` is filled in."""
        found: dict[Key, list[Condition]] = {}
        for kind, name, *rest in self._store.rows(
            "SELECT kind, name, type, status, reason, message, since, observed_generation"
            " FROM conditions ORDER BY kind, name, place"
        ):
            found.setdefault(Key(kind, name), []).append(_condition(*rest))
        return {key: tuple(conditions) for key, conditions in found.items()}

    def set_conditions(self, key: Key, conditions: Iterable[Condition], at: float) -> tuple[Condition, ...]:
        """Makes `conditions` the conditions of `key` and returns them with `since`.

        `since` moves to `at` only where status or reason changed. Nothing is written when nothing changed.
        """
        wanted = {condition.type: condition for condition in conditions}
        with self._store.transaction() as write:
            before = {
                row[0]: row
                for row in write.execute(
                    "SELECT type, status, reason, message, since, observed_generation, place"
                    " FROM conditions WHERE kind = ? AND name = ?",
                    (key.kind, key.name),
                )
            }
            rows = []
            for place, (type_, item) in enumerate(wanted.items()):
                old = before.get(type_)
                kept = old is not None and old[1:3] == (item.status.value, item.reason)
                since = old[4] if kept and old is not None else at
                rows.append(
                    (type_, item.status.value, item.reason, item.message, since, item.observed_generation, place)
                )
            if sorted(rows) != sorted(before.values()):
                write.execute("DELETE FROM conditions WHERE kind = ? AND name = ?", (key.kind, key.name))
                write.executemany(
                    "INSERT INTO conditions (kind, name, type, status, reason, message, since, observed_generation, place)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    ((key.kind, key.name, *row) for row in rows),
                )
        return tuple(_condition(*row[:6]) for row in rows)

    # Quarantine

    def quarantine(self, digest: str, reason: str, run_id: str, at: float) -> None:
        """Marks a document digest as rejected."""
        with self._store.transaction() as write:
            write.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)", (digest, reason, run_id, at))

    def quarantined(self, *digests: str) -> Quarantined | None:
        """Why the document that these are digests of is quarantined (the newest reason), None when by none of them it is."""
        among = f"WHERE digest IN ({', '.join('?' * len(digests))}) ORDER BY at DESC, digest"
        return _first(self._quarantines(among, *digests))

    def quarantines(self) -> tuple[Quarantined, ...]:
        """All quarantined documents, newest first."""
        return self._quarantines("ORDER BY at DESC, digest")

    def release(self, *digests: str) -> bool:
        """Ends the quarantine of these digests; False when none was in quarantine."""
        with self._store.transaction() as write:
            found = write.execute(f"DELETE FROM quarantine WHERE digest IN ({', '.join('?' * len(digests))})", digests)
            return found.rowcount > 0

    def superseded(self) -> tuple[Quarantined, ...]:
        """What is in quarantine by the word of a person who went back, and by no run that failed, newest first."""
        return self._quarantines("WHERE run_id = '' ORDER BY at DESC, digest")

    def _quarantines(self, rest: str, *values: object) -> tuple[Quarantined, ...]:
        rows = self._store.rows(f"SELECT digest, reason, run_id, at FROM quarantine {rest}", values)
        return tuple(Quarantined(digest=row[0], reason=row[1], run_id=row[2], at=row[3]) for row in rows)

    @property
    def going_back(self) -> int:
        """The generation that a person goes back to, from their word on until one is recorded for that; 0 where nobody does."""
        return int(self._meta("going_back") or 0)

    def set_going_back(self, number: int) -> None:
        """Says where a person goes back to: whoever comes after one who died on the way finishes it."""
        if number != self.going_back:
            self._set_meta("going_back", str(number))

    # Evidence

    def record_event(
        self,
        at: float,
        key: Key | None,
        what: str,
        text: str,
        *,
        run_id: str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds evidence for `openclaw why`; the newest 10,000 are kept. `data` is plain JSON data without secrets."""
        with self._store.transaction() as write:
            number = write.execute(
                "INSERT INTO events (at, kind, name, what, text, run_id, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    at,
                    key.kind if key is not None else None,
                    key.name if key is not None else None,
                    what,
                    text,
                    run_id,
                    _dump(data) if data else None,
                ),
            ).lastrowid
            write.execute("DELETE FROM events WHERE number <= ?", ((number or 0) - KEEP_EVENTS,))

    def events(self, key: Key | None = None, limit: int | None = None) -> tuple[Event, ...]:
        """The events, newest first, of `key` or of all, at most `limit`."""
        where, values = ("", ()) if key is None else ("WHERE kind = ? AND name = ?", (key.kind, key.name))
        rows = self._store.rows(
            f"SELECT number, at, kind, name, what, text, run_id, data FROM events {where} ORDER BY number DESC LIMIT ?",
            (*values, -1 if limit is None else limit),
        )
        return tuple(
            Event(
                number=number,
                at=at,
                key=Key(kind, name) if kind is not None else None,
                what=what,
                text=text,
                run_id=run_id,
                data=json.loads(data) if data else {},
            )
            for number, at, kind, name, what, text, run_id, data in rows
        )

    # Plans that were used

    def plan_used(self, plan_digest: str) -> bool:
        """Whether the plan with this digest was applied from a plan file before."""
        return bool(self._store.rows("SELECT 1 FROM used_plans WHERE digest = ?", (plan_digest,)))

    def mark_plan_used(self, plan_digest: str, at: float) -> bool:
        """Marks a plan as used; False when it was already, so that exactly one of two callers goes on."""
        with self._store.transaction() as write:
            fresh = write.execute("INSERT OR IGNORE INTO used_plans VALUES (?, ?)", (plan_digest, at)).rowcount > 0
            write.execute(
                "DELETE FROM used_plans WHERE digest IN"
                " (SELECT digest FROM used_plans ORDER BY at DESC LIMIT -1 OFFSET ?)",
                (KEEP_USED_PLANS,),
            )
            return fresh


def _first(items: tuple[T, ...]) -> T | None:
    return items[0] if items else None


def _dump(data: Any) -> str:
    # Order is kept: a mapping of the document shows in `diff` as it was written. ASCII, because the lone surrogates of a file
    # name have no UTF-8.
    return json.dumps(data, separators=(",", ":"))


def _load(text: str) -> Any:
    return decode(json.loads(text))


def _generation(row: tuple[Any, ...]) -> Generation:
    number, digest, at, cause, author, commit, result, reason, texts, canonical, secrets = row
    return Generation(
        number=number,
        digest=digest,
        at=rfc3339(at),
        cause=cause,
        author=author,
        commit=commit,
        result=Result(result),
        reason=reason,
        texts=json.loads(texts),
        canonical=json.loads(canonical),
        secrets=json.loads(secrets),
    )


def _run(row: tuple[Any, ...]) -> Run:
    return Run(
        id=row[0],
        cause=row[1],
        author=row[2],
        commit=row[3],
        plan_digest=row[4],
        document_digest=row[5],
        state=Result(row[6]),
        reason=row[7],
        begun_at=row[8],
        changed_at=row[9],
        ended_at=row[10],
        verify_since=row[11],
        verify_window=row[12],
        verify_boot=row[13],
        target_generation=row[14],
        generation=row[15],
    )


def _condition(type_: str, status: str, reason: str, message: str, since: float, observed_generation: int) -> Condition:
    return Condition(
        type=type_,
        status=Status(status),
        reason=reason,
        message=message,
        since=rfc3339(since),
        observed_generation=observed_generation,
    )
