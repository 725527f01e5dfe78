"""The tables of the journal, as migrations: the statement lists by which version N - 1 becomes version N. Data only.

A migration that has been released is never edited. Times are seconds since the epoch; JSON texts are the forms of
`reconciler.serial` and `reconciler.values`.
"""

from __future__ import annotations

from typing import Final

# "oclw": tells our file from any other SQLite database that somebody puts in its place (sqlite.org/fileformat.html, 1.3.16).
APPLICATION_ID: Final = 0x6F636C77

_V1: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE generations (
        number INTEGER PRIMARY KEY, digest TEXT NOT NULL, at REAL NOT NULL, cause TEXT NOT NULL,
        author TEXT, commit_id TEXT, result TEXT NOT NULL, reason TEXT NOT NULL,
        texts TEXT NOT NULL, canonical TEXT NOT NULL, secrets TEXT NOT NULL)""",
    """CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, cause TEXT NOT NULL,
        author TEXT, commit_id TEXT, plan_digest TEXT NOT NULL, document_digest TEXT NOT NULL,
        state TEXT NOT NULL, reason TEXT NOT NULL, begun_at REAL NOT NULL, changed_at REAL NOT NULL, ended_at REAL,
        verify_since REAL, verify_window REAL, verify_boot TEXT, target_generation INTEGER, generation INTEGER)""",
    # Open runs are asked for at every start; there are one or two among hundreds.
    "CREATE INDEX runs_open ON runs (number) WHERE ended_at IS NULL",
    """CREATE TABLE actions (
        number INTEGER PRIMARY KEY, run_id TEXT NOT NULL, action_id TEXT NOT NULL, action TEXT NOT NULL,
        intended_at REAL NOT NULL, ended_at REAL, result TEXT, error TEXT, UNIQUE (run_id, action_id))""",
    """CREATE TABLE applied (
        kind TEXT NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL, value TEXT NOT NULL, former TEXT NOT NULL,
        defaulted INTEGER NOT NULL, PRIMARY KEY (kind, name, path)) WITHOUT ROWID""",
    """CREATE TABLE conditions (
        kind TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, place INTEGER NOT NULL, status TEXT NOT NULL,
        reason TEXT NOT NULL, message TEXT NOT NULL, since REAL NOT NULL, observed_generation INTEGER NOT NULL,
        PRIMARY KEY (kind, name, type)) WITHOUT ROWID""",
    """CREATE TABLE quarantine (
        digest TEXT PRIMARY KEY, reason TEXT NOT NULL, run_id TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE events (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, kind TEXT, name TEXT, what TEXT NOT NULL,
        text TEXT NOT NULL, run_id TEXT, data TEXT)""",
    "CREATE INDEX events_of_key ON events (kind, name, number)",
    "CREATE TABLE used_plans (digest TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
)

MIGRATIONS: Final = (_V1,)
SCHEMA_VERSION: Final = len(MIGRATIONS)
