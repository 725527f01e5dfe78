"""The journal of a state directory, in SQLite: generations, runs with their intents, conditions, history."""

from reconciler.journal.journal import PROVISIONAL_SALT, Journal
from reconciler.journal.rows import OPEN_STATES, UNDECIDED, Event, Intent, OpenRun, Quarantined, Run
from reconciler.journal.store import JournalError, JournalFullError, JournalNewerError

__all__ = [
    "OPEN_STATES",
    "PROVISIONAL_SALT",
    "UNDECIDED",
    "Event",
    "Intent",
    "Journal",
    "JournalError",
    "JournalFullError",
    "JournalNewerError",
    "OpenRun",
    "Quarantined",
    "Run",
]
