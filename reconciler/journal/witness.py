"""A small file beside the journal by which one notices that the journal was lost, or that an older one was put back.

It names the last run that was recorded, and is written right after that run's first commit. It is not flushed: after a power
cut it may be older than the journal, or unreadable, which says nothing; it is never ahead of a journal that is the right one.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from reconciler.files import open_regular, replace_file
from reconciler.values import parse_json

NAME: Final = "last-run.json"
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Witness:
    """What the journal must know, if it is the right one.

    Attributes:
        run: the last run's id; empty where it is only known that there was a journal.
        at: when that was, seconds since the epoch.
        generation: no generation up to this number may be given out again.
        salt: that of the journal: with another one every stored digest of a secret would look changed.
    """

    run: str
    at: float
    generation: int
    salt: bytes

    @property
    def when(self) -> str:
        """`at` in words."""
        return datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_witness(journal: Path) -> Witness | None:
    """What stands beside the journal at this path; None where that is nothing to go by. Never raises."""
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        with open_regular(journal.with_name(NAME), follow=False) as file:
            data = parse_json(file.read(_MAX_BYTES))
        found = Witness(str(data["run"]), float(data["at"]), int(data["generation"]), bytes.fromhex(data["salt"]))
        # What cannot be said cannot be used.
        return found if found.when and len(found.salt) == 32 else None
    return None


def write_witness(journal: Path, witness: Witness) -> None:
    """Writes it, 0600. That it cannot be written must not stop a run: then a loss is only not noticed."""
    data = {"run": witness.run, "at": witness.at, "generation": witness.generation, "salt": witness.salt.hex()}
    with suppress(OSError):
        replace_file(journal.with_name(NAME), json.dumps(data).encode() + b"\n", 0o600, durable=False)
