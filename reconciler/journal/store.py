"""The SQLite file under the journal: opening, checking, moving aside, migrating, and one transaction at a time.

Knows nothing of what the tables mean. Write-ahead log with full sync: a commit has reached the disk when it returns, at the
price of one flush (sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous). The first commit into a fresh log costs
two more, for the log's header and its directory entry; that is SQLite's own rule.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from reconciler.errors import LockedError, NotPermittedError, OpenClawError
from reconciler.files import private_directory, remedy_of_refusal, sync_directory
from reconciler.journal.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION

# How long a statement waits for another process inside its transaction; ours are over in milliseconds.
BUSY_SECONDS: Final = 5.0
# What a journal has open at most: itself, its companions, its directory.
_FILES: Final = 4
_COMPANIONS: Final = ("-wal", "-shm")
# A file that nobody writes needs no companions.
_IMMUTABLE: Final = "immutable=1"
# What SQLite makes of the index beside the log at once, and the piece of it in which it writes a byte to have room for it.
_INDEX_BYTES: Final = 32 << 10
_INDEX_PIECE_BYTES: Final = 4 << 10
# What SQLite says where it may not open or write one of them, among other reasons.
_REFUSALS: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
# Of pages that a writer keeps in memory. By itself SQLite keeps 2 MB, which a supervisor fills within a thousand saves for
# nothing: the pages that it needs again and again are few, and the kernel has the others.
CACHE_KIB: Final = 256


class JournalError(OpenClawError):
    """The journal cannot be read or written, for a reason that is not in its contents (rights, input/output, a lock)."""


class JournalRefusedError(JournalError, NotPermittedError):
    """The system does not let this user read or write the journal."""

    def __init__(self, path: Path, remedy: str) -> None:
        super().__init__(f'cannot use the journal "{path}": permission denied', hint=remedy)


class JournalFullError(JournalError):
    """The disk is full: nothing was recorded, and it may work once something was deleted."""


class JournalNewerError(OpenClawError):
    """A newer version of the program wrote this journal: reading works, writing is refused."""


class Store:
    """One connection with its lock. Every method may be called from any thread; threads wait for each other."""

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, reading: bool = False, salt: bytes | None = None
    ) -> None:
        self.path = path
        self._salt = salt
        self._reading = reading
        self._connection = connection
        # Reentrant, so that a transaction may call what opens one itself and still be one commit.
        self._lock = threading.RLock()
        self._depth = 0

    def close(self) -> None:
        """Closes the connection; the last writer folds the log into the file."""
        with self._lock:
            self._connection.close()

    def fold(self) -> None:
        """Folds the log into the file, so that its room on the disk is used anew. What prevents that is no harm."""
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def rows(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows that a question is answered with.

        When a reader comes upon damage that was not there when it opened the file, this and every later question has the answer
        of an empty journal.

        Raises:
            JournalError: the file cannot be read.
        """
        with self._lock, _translated(self.path):
            try:
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.DatabaseError as err:
                if not (self._reading and _is_damage(err)):
                    raise
                self._connection.close()
                salt = _salvage_salt(self.path) or self._salt
                self._connection = _empty(f"the journal is damaged: {err}", salt)
                return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One commit, and so one flush, for all that happens inside; rolled back when it raises. May be nested.

        Raises:
            JournalFullError: the disk is full; nothing inside was recorded.
            JournalError: the file cannot be written.
        """
        with self._lock, _translated(self.path):
            if self._depth:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            self._depth = 1
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls back by itself after some errors: then there is nothing to roll back.
                if self._connection.in_transaction:
                    with suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth = 0


def is_there(path: Path) -> bool:
    """Whether there is a journal at `path`, sound or not.

    Raises:
        NotPermittedError: the system does not let us look.
        JournalError: it cannot tell.
    """
    with _translated_system(path):
        return path.exists()


def open_writer(path: Path, *, now: float, lost: str | None = None, salt: bytes | None = None) -> Store:
    """The store at `path`, created, checked and migrated; `now` (seconds since the epoch) names what is moved aside.

    Where there is none, `lost` says why there should be one, if so; `salt` is for a new one, where none can be salvaged.

    The caller holds the writer lock: two openers at once could move aside each other's work.

    Raises:
        JournalNewerError: a newer version wrote it.
        JournalError: it cannot be opened.
    """
    with _translated_system(path), _translated(path):
        private_directory(path.parent)
        found: sqlite3.Connection | str | None = _checked(path) if path.exists() else None
        if isinstance(found, str):
            salt = _salvage_salt(path) or salt
            aside = _move_aside(path, now)
            _create(path, f"{found}; kept as {aside.name}", salt)
        elif found is None:
            _create(path, lost, salt if lost is not None else None)
        connection = found if isinstance(found, sqlite3.Connection) else _open(path, "rw")
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
        return Store(connection, path)


def open_reader(path: Path, *, lost: str | None = None, salt: bytes | None = None) -> Store | None:
    """The store at `path` for reading only, or None where there is no file; the file itself is never written.

    SQLite may create `-wal` and `-shm` beside it. A damaged file gives an empty store that says so in `history_lost`, and so
    does a missing one where `lost` is given; both with `salt`, where none can be salvaged.

    Raises:
        JournalError: it is there and cannot be opened.
    """
    if not is_there(path):
        return None if lost is None else Store(_empty(lost, salt), path, reading=True)
    with _translated_system(path), _translated(path):
        try:
            try:
                connection = _looked_at(path, "ro")
            except (sqlite3.OperationalError, JournalFullError) as err:
                if not (_lacks_side_files(err) and _is_closed(path)):
                    raise
                connection = _looked_at(path, f"ro&{_IMMUTABLE}")
            return Store(connection, path, reading=True, salt=salt)
        except sqlite3.DatabaseError as err:
            if not _is_damage(err):
                raise
            salt = _salvage_salt(path) or salt
            return Store(_empty(f"the journal is damaged: {err}", salt), path, reading=True)


def _looked_at(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to a journal that was checked as a writer does it: whether damage is met depends on the question, and all
    commands have to say the same. Some 3 ms for 3 MB.
    """
    connection = _open(path, mode)
    try:
        if _pragma(connection, "application_id") != APPLICATION_ID:
            raise sqlite3.DatabaseError("it holds no journal")
        connection.execute("SELECT count(*) FROM meta").fetchone()
        if (verdict := _quick_check(connection)) != "ok":
            raise sqlite3.DatabaseError(verdict)
    except BaseException:
        connection.close()
        raise
    return connection


def _lacks_side_files(err: sqlite3.Error | JournalFullError) -> bool:
    """Whether SQLite could not make what even a reader needs beside the file: the disk is full, or mounted for reading."""
    if isinstance(err, JournalFullError):
        return True
    code = getattr(err, "sqlite_errorcode", 0)
    return code == sqlite3.SQLITE_IOERR_SHMSIZE or code & 0xFF in (
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_READONLY,
    )


def _is_closed(path: Path) -> bool:
    """Whether all that was written is in the file itself: the last who closes it folds the log in and removes it."""
    try:
        return os.stat(f"{path}-wal").st_size == 0
    except FileNotFoundError:
        return True


def _empty(reason: str, salt: bytes | None) -> sqlite3.Connection:
    """A journal in memory, so that every question has its ordinary empty answer; nothing can be written to it."""
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _fill(connection, reason, salt)
    connection.execute("PRAGMA query_only = 1")
    return connection


def _open(path: Path, mode: str) -> sqlite3.Connection:
    if _IMMUTABLE not in mode:
        _refuse_holes(path)
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS,
    )


def _refuse_holes(path: Path) -> None:
    """SQLite has room for the index beside the log when it could write one byte in each piece of it, and fills it in memory: on
    a full file system of smaller blocks the system ends the process that does so (SIGBUS).

    Raises:
        JournalFullError: the index is not there in full, and may have no room.
    """
    system = os.statvfs(path.parent)
    free = system.f_bavail * system.f_frsize
    if system.f_frsize >= _INDEX_PIECE_BYTES or free >= 2 * _INDEX_BYTES:
        return
    try:
        held = os.stat(f"{path}-shm").st_blocks * 512
    except FileNotFoundError:
        held = 0
    if held < _INDEX_BYTES:
        raise _full(path)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _checked(path: Path) -> sqlite3.Connection | str:
    """A connection to the sound journal at `path`, or what is wrong with it. A newer one is not ours to judge."""
    connection = _open(path, "rw")
    try:
        found = _verdict(connection, path)
    except sqlite3.DatabaseError as err:
        connection.close()
        if not _is_damage(err):
            raise
        return f"the journal was damaged: {err}"
    except JournalNewerError:
        connection.close()
        raise
    if found is None:
        return connection
    connection.close()
    return found


def _verdict(connection: sqlite3.Connection, path: Path) -> str | None:
    # Also the fate of an empty file: ours come into being whole, by a rename.
    if _pragma(connection, "application_id") != APPLICATION_ID:
        return "the file held no journal"
    if (version := _pragma(connection, "user_version")) > SCHEMA_VERSION:
        raise JournalNewerError(
            f'cannot write the journal "{path}": a newer version wrote it (format {version}, ours is {SCHEMA_VERSION})',
            hint="use that version, or give this one a state directory of its own",
        )
    verdict = _quick_check(connection)
    return None if verdict == "ok" else f"the journal was damaged: {verdict}"


def _quick_check(connection: sqlite3.Connection) -> str:
    """`ok`, or the first thing that is wrong, in one line."""
    return " ".join(str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]).split())


def _is_damage(err: sqlite3.Error) -> bool:
    """Whether an error speaks of the contents, not of rights, locks or the disk. Without a code it is our own verdict."""
    if "no such table" in str(err):
        return True
    code = getattr(err, "sqlite_errorcode", None)
    return code is None or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _salvage_salt(path: Path) -> bytes | None:
    """The salt of a damaged journal if it can still be read: with another one every stored digest would look changed."""
    try:
        with closing(_open(path, "ro")) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()
    except sqlite3.Error:
        return None
    return row[0] if row and isinstance(row[0], bytes) and len(row[0]) == 32 else None


def _move_aside(path: Path, now: float) -> Path:
    """Renames the file and its companions; the file first, because SQLite discards a log without one."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.corrupt-{stamp}-{number}")
    path.rename(aside)
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            Path(f"{path}{companion}").rename(f"{aside}{companion}")
    sync_directory(path.parent)
    return aside


def _create(path: Path, lost: str | None, salt: bytes | None) -> None:
    """Makes the file whole under another name and renames it, so that no one ever meets an empty journal."""
    fresh = path.with_name(f"{path.name}.new")
    for leftover in (fresh, *(Path(f"{fresh}{companion}") for companion in _COMPANIONS)):
        leftover.unlink(missing_ok=True)
    # SQLite gives its companions the mode of the file.
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(_open(fresh, "rw")) as connection:
        # Kept in the file: every later connection finds it in this mode.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _fill(connection, lost, salt)
    for companion in _COMPANIONS:
        # Left by someone who removed the file alone; as a log of another file it would only confuse.
        Path(f"{path}{companion}").unlink(missing_ok=True)
    fresh.rename(path)
    sync_directory(path.parent)


def _fill(connection: sqlite3.Connection, lost: str | None, salt: bytes | None) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _run_migrations(connection, 0)
    connection.execute("INSERT INTO meta VALUES ('salt', ?)", (salt or os.urandom(32),))
    if lost is not None:
        connection.execute("INSERT INTO meta VALUES ('history_lost', ?)", (lost,))
    connection.execute("COMMIT")


def _migrate(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "user_version") == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    _run_migrations(connection, _pragma(connection, "user_version"))
    connection.execute("COMMIT")


def _run_migrations(connection: sqlite3.Connection, version: int) -> None:
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Makes SQLite's errors ours."""
    try:
        yield
    except sqlite3.Error as err:
        code = getattr(err, "sqlite_errorcode", 0)
        if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise _full(path) from err
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
            raise LockedError(
                f'cannot use the journal "{path}": another process has been writing to it for {BUSY_SECONDS:g} s',
                hint="wait until it is done, then try again; one that is stopped (SIGSTOP) has to go on or to be ended",
            ) from err
        if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
            _ask_for_descriptors()
        if code & 0xFF in _REFUSALS and (remedy := _remedy(path)) is not None:
            raise JournalRefusedError(path, remedy) from err
        raise JournalError(f'cannot use the journal "{path}": {err}') from err


def _ask_for_descriptors() -> None:
    """SQLite does not say why it cannot open a file.

    Raises:
        OSError: no more than a few can be opened.
    """
    opened: list[int] = []
    try:
        while len(opened) < _FILES:
            opened.append(os.open("/", os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _remedy(path: Path) -> str | None:
    """What a person does where owner or mode of the journal, or of a file beside it, is in the way; None where neither is.

    SQLite does not say it either. Nothing is opened: to close a file of its is to give up this process's locks on it
    (sqlite.org/howtocorrupt.html, section 2.2).
    """
    files = [
        each for each in (path, *(Path(f"{path}{companion}") for companion in _COMPANIONS)) if os.path.lexists(each)
    ]
    if not files:
        return None
    for each in files:
        if not os.access(each, os.R_OK, effective_ids=True):
            return remedy_of_refusal(each, reading=True)
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        return None
    for each in (*files, path.parent):
        if not os.access(each, os.W_OK, effective_ids=True):
            return remedy_of_refusal(path if each == path.parent else each)
    return None


@contextmanager
def _translated_system(path: Path) -> Iterator[None]:
    """Makes the system's errors ours; around the opening only, where no code of others runs."""
    try:
        yield
    except PermissionError as err:
        raise JournalRefusedError(path, remedy_of_refusal(path)) from err
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from err
        raise JournalError(f'cannot use the journal "{path}": {err.strerror or err}') from err


def _full(path: Path) -> JournalFullError:
    return JournalFullError(
        f'cannot write the journal "{path}": the disk is full', hint="free some space, then try again"
    )
